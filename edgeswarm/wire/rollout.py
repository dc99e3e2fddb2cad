"""The plan of a rollout, and the orders that steer it: what an operator signs, and what every device checks again.

A plan says which agent file goes to which devices, in which waves, and what holds the next wave back; an order pauses,
resumes, aborts or rolls back one rollout.  Both are COSE_Sign1 over deterministic CBOR (a map with text keys), their
external data names the fleet and the cell.  Plans and all orders are an operator's; the issuer (the controller) may
sign `pause` and `rollback` only: it can take something back, and bring nothing.
Decides whether a plan or an order is well formed and signed by somebody who may.  Pure; dates are not judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

from edgeswarm import schema
from edgeswarm.errors import CodecError, CoseError, EdgeSwarmError, LimitError, LocalError, RemoteError
from edgeswarm.limits import (
    AF_FILE_BYTES_MAX,
    PLAN_BYTES_MAX,
    PLAN_HEALTHY_S_MAX,
    PLAN_SECTIONS_MAX,
    PLAN_SELECTOR_CHARS_MAX,
    PLAN_WAVES_MAX,
    ROLLOUT_ORDER_BYTES_MAX,
    ROLLOUT_WHY_CHARS_MAX,
)
from edgeswarm.schema.kinds import Length, Pattern, Range
from edgeswarm.wire import codec, cose
from edgeswarm.wire.certificate import SECONDS_MAX, Signatory
from edgeswarm.wire.roster import Roster

T = TypeVar("T")

ROLLOUT_PATTERN: Final = r"[0-9a-f]{16}"
VERSION_PATTERN: Final = r"[0-9]{1,9}(\.[0-9]{1,9}){2}"
_SHARE: Final = r"[0-9]{1,6}|(100|[1-9]?[0-9])%"
_SHARE_TEXT: Final = "a number of devices, or a percentage: 1, 10%"
_SHA256: Final = r"[0-9a-f]{64}"

ShareText = Annotated[str, Pattern(_SHARE, _SHARE_TEXT)]
Seconds = Annotated[int, Range(0, PLAN_HEALTHY_S_MAX, "s")]
Steering = Literal["paused", "running", "aborted", "rolled_back"]
ISSUER_MAY: Final = frozenset({"paused", "rolled_back"})


class RolloutError(RemoteError):
    """A plan or an order is malformed, of another fleet or cell, or signed by nobody who may."""


@dataclass(frozen=True, slots=True)
class Share:
    """Some devices of many: so many, or so many per cent."""

    number: int
    percent: bool

    @classmethod
    def parse(cls, text: str) -> Share:
        """`3` or `10%`.  Raises LocalError."""
        if not re.fullmatch(_SHARE, text):
            raise LocalError(f"expected {_SHARE_TEXT}, found {text!r:.40}")
        return cls(int(text.removesuffix("%")), text.endswith("%"))

    def of(self, whole: int, *, up: bool) -> int:
        """How many of `whole`; a part of a device counts as one (up) or as none."""
        if not self.percent:
            return self.number
        return -(-whole * self.number // 100) if up else whole * self.number // 100


@dataclass(frozen=True, slots=True)
class Gate:
    """What holds the next wave back.  Shares are of all devices that the rollout has reached."""

    healthy_s: Seconds = 60  # a device counts as healthy once the new version has run so long without a fault
    failed_max: ShareText = "0"  # more devices that failed or refused: the rollout is rolled back
    silent_max: ShareText = "100%"  # more devices of which nothing is heard: the next wave waits
    pause_s: Seconds = 30  # from then, when all is well, to the next wave


@dataclass(frozen=True, slots=True)
class SectionPlace:
    """Where a section's stored bytes lie in the agent file: a device that has them already need not fetch them."""

    offset: Annotated[int, Range(0, AF_FILE_BYTES_MAX)]
    size_bytes: Annotated[int, Range(0, AF_FILE_BYTES_MAX)]
    sha256: Annotated[str, Pattern(_SHA256)]


@dataclass(frozen=True, slots=True)
class Plan:
    """version: the agent's own, as its file says; selector: text, resolved by the controller; waves: of all matched."""

    rollout: Annotated[str, Pattern(ROLLOUT_PATTERN)]
    agent: Annotated[str, Pattern(r"[a-z][a-z0-9-]{0,63}")]
    version: Annotated[str, Pattern(VERSION_PATTERN, "a version like 1.2.3")]
    artefact: Annotated[str, Pattern(_SHA256)]
    size_bytes: Annotated[int, Range(1, AF_FILE_BYTES_MAX)]
    selector: Annotated[str, Length(1, PLAN_SELECTOR_CHARS_MAX)]
    waves: Annotated[tuple[ShareText, ...], Length(1, PLAN_WAVES_MAX)]
    gate: Gate
    allow_downgrade: bool
    created_s: Annotated[int, Range(0, SECONDS_MAX)]
    sections: Annotated[tuple[SectionPlace, ...], Length(0, PLAN_SECTIONS_MAX)] = ()
    publisher: Annotated[str, Pattern(r"([0-9a-f]{64})?", "an Ed25519 public key in hex, or nothing")] = ""
    """Whom the operator trusts to have made the file: devices that do not know this publisher trust it from now on."""

    @property
    def digest(self) -> bytes:
        """Of the agent file, 32 bytes."""
        return bytes.fromhex(self.artefact)


@dataclass(frozen=True, slots=True)
class Order:
    """state: what the rollout becomes."""

    rollout: Annotated[str, Pattern(ROLLOUT_PATTERN)]
    state: Steering
    why: Annotated[str, Length(0, ROLLOUT_WHY_CHARS_MAX)]
    created_s: Annotated[int, Range(0, SECONDS_MAX)]


def is_rollout(text: str) -> bool:
    return re.fullmatch(ROLLOUT_PATTERN, text) is not None


# --- signing --------------------------------------------------------------------------------------------------------


def seal_plan(plan: Plan, *, fleet: str, cell: str, by: Signatory) -> bytes:
    """A signed plan.  Raises LocalError with every fault, LimitError."""
    _checked(plan)
    return _seal(plan, _plan_aad(fleet, cell), PLAN_BYTES_MAX, by)


def seal_order(order: Order, *, fleet: str, cell: str, by: Signatory) -> bytes:
    """A signed order.  Raises LocalError with every fault."""
    _checked(order)
    return _seal(order, _order_aad(fleet, cell), ROLLOUT_ORDER_BYTES_MAX, by)


def open_plan(data: bytes, *, roster: Roster, root_public: bytes, verify: cose.Verify | None = None) -> Plan:
    """The plan in `data`, once it holds that an operator of `roster` signed it.  Raises RolloutError."""
    operators = _operators(roster, root_public)
    _, tree = _open(data, _plan_aad(roster.fleet, roster.cell), PLAN_BYTES_MAX, operators, "plan", verify)
    plan = _typed(tree, Plan, "plan")
    _check_plan(plan)
    return plan


def open_order(data: bytes, *, roster: Roster, root_public: bytes, verify: cose.Verify | None = None) -> Order:
    """The order in `data`, once it holds that somebody signed it who may.  Raises RolloutError."""
    authorities = roster.open_authorities(root_public)

    def lookup(kid: bytes) -> bytes | None:
        return authorities[kid].public if kid in authorities else None

    aad = _order_aad(roster.fleet, roster.cell)
    kid, tree = _open(data, aad, ROLLOUT_ORDER_BYTES_MAX, lookup, "order", verify)
    order = _typed(tree, Order, "order")
    duty = authorities[kid].duty
    if duty != "operator" and order.state not in ISSUER_MAY:
        may = ", ".join(sorted(ISSUER_MAY))
        raise RolloutError(f"the {duty} may sign {may} only, found {order.state}", who="order")
    return order


def read_plan(data: bytes) -> Plan:
    """What a plan says, its signature *not* checked: to show it.  Raises RolloutError."""
    return _typed(_payload(data, PLAN_BYTES_MAX, "plan"), Plan, "plan")


def _operators(roster: Roster, root_public: bytes) -> Callable[[bytes], bytes | None]:
    return lambda kid: roster.operator_key(kid, root_public)


def _seal(value: Plan | Order, aad: bytes, bytes_max: int, by: Signatory) -> bytes:
    data = cose.sign1_by(codec.dumps(schema.encode_whole(value)), sign=by.sign, kid=by.kid, external_aad=aad)
    if len(data) > bytes_max:
        raise LimitError(f"{type(value).__name__.lower()}: at most {bytes_max} bytes, found {len(data)}")
    return data


def _open(
    data: bytes,
    aad: bytes,
    bytes_max: int,
    lookup: Callable[[bytes], bytes | None],
    what: str,
    verify: cose.Verify | None,
) -> tuple[bytes, object]:
    try:
        kid, payload = cose.verify1(data, lookup=lookup, external_aad=aad, who=what, bytes_max=bytes_max, verify=verify)
        return kid, codec.loads(payload, who=what, bytes_max=bytes_max)
    except (CoseError, CodecError, LimitError) as error:
        raise RolloutError(str(error)) from None


def _payload(data: bytes, bytes_max: int, what: str) -> object:
    try:
        parts = cose.parse1(data, who=what, bytes_max=bytes_max)
        return codec.loads(parts.payload or b"", who=what, bytes_max=bytes_max)
    except (CodecError, LimitError) as error:
        raise RolloutError(str(error)) from None


def _typed(tree: object, kind: type[T], what: str) -> T:
    try:
        return schema.decode(tree, kind, where=what)
    except schema.SchemaError as error:
        raise RolloutError(str(error)) from None


def _checked(value: Plan | Order) -> None:
    """Before it is signed: that what is signed will be taken."""
    try:
        schema.decode(schema.encode_whole(value), type(value), where=type(value).__name__.lower())
    except schema.SchemaError as error:
        raise LocalError(str(error)) from None
    if isinstance(value, Plan):
        _check_plan(value)


def _check_plan(plan: Plan) -> None:
    """What its fields do not say one by one.  Raises RolloutError."""
    _check_waves(plan.waves)
    at = 0
    for place in plan.sections:
        if place.offset < at:
            raise RolloutError(f"sections: expected rising ones, found one at {place.offset}", who="plan")
        at = place.offset + place.size_bytes
    if at > plan.size_bytes:
        raise RolloutError(f"sections: expected their end within {plan.size_bytes} bytes, found {at}", who="plan")


def _check_waves(waves: tuple[str, ...]) -> None:
    """None is empty, and numbers rise among themselves, and so do percentages: 1, 10%, 50%, 100%."""
    shares = [Share.parse(text) for text in waves]
    for percent in (False, True):
        numbers = [share.number for share in shares if share.percent is percent]
        if any(number < 1 for number in numbers) or numbers != sorted(set(numbers)):
            raise RolloutError(f"waves: expected rising ones such as 1,10%,100%, found {','.join(waves)}", who="plan")


def _plan_aad(fleet: str, cell: str) -> bytes:
    return f"edgeswarm-rollout-1/{fleet}/{cell}".encode()


def _order_aad(fleet: str, cell: str) -> bytes:
    return f"edgeswarm-rollout-order-1/{fleet}/{cell}".encode()


def parse_gate(text: str) -> Gate:
    """`healthy=60s,failed=0,silent=10%,pause=30s`, each of them where it is not the default.  Raises LocalError."""
    names = {"healthy": "healthy_s", "failed": "failed_max", "silent": "silent_max", "pause": "pause_s"}
    found: dict[str, object] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        key = names.get(name.strip())
        if key is None or key in found:
            raise LocalError(f"gate: expected each of {', '.join(names)} at most once, found {part!r:.60}")
        found[key] = _seconds(value.strip(), name) if key.endswith("_s") else value.strip()
    try:
        return schema.decode(found, Gate, where="gate")
    except EdgeSwarmError as error:
        raise LocalError(str(error)) from None


def _seconds(text: str, name: str) -> int:
    found = re.fullmatch(r"([0-9]{1,7})(s|m|h|)", text)
    if found is None:
        raise LocalError(f"gate: {name}: expected a time such as 60s or 5m, found {text!r:.40}")
    return int(found[1]) * {"s": 1, "": 1, "m": 60, "h": 3600}[found[2]]
