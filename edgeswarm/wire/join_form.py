"""The parts of what is asked and answered when a device joins: their types, and how they read.

Decides whether decoded CBOR has the shape of a request or an answer, every field within its bounds; who signed it is
join.py's.  Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from edgeswarm.errors import LimitError, LocalError, RemoteError
from edgeswarm.limits import (
    JOIN_DELEGATES_MAX,
    JOIN_LABEL_CHARS_MAX,
    JOIN_LABELS_MAX,
    JOIN_PUBLISHERS_MAX,
    JOIN_REASON_CHARS_MAX,
    JOIN_TEXT_CHARS_MAX,
    MQTT_BROKERS_MAX,
    PEM_BYTES_MAX,
    RAFT_NUMBER_MAX,
    ROSTER_BYTES_MAX,
)
from edgeswarm.wire import topics
from edgeswarm.wire.certificate import ROLES, SECONDS_MAX, Role
from edgeswarm.wire.token import is_token_id

NONCE_BYTES: Final = 16
KEY_BYTES: Final = 32
Status = Literal["joined", "pending", "refused"]
STATUSES: Final[tuple[Status, ...]] = ("joined", "pending", "refused")
Code = Literal[
    "",
    "waiting",
    "unknown",
    "expired",
    "used",
    "revoked",
    "forged",
    "wrong-fleet",
    "name-taken",
    "key-taken",
    "denied",
    "full",
    "not-allowed",
]
"""Why: a stable word.  Empty when joined."""
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}=[^\x00-\x1f\x7f]{0,63}")  # as core/cell reads them


class JoinError(RemoteError):
    """A request or an answer is malformed, not signed by whom it must be, or made for another question."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a device is.  labels: sorted "key=value" that it asks for; memory_bytes: of the machine."""

    profile: str
    tier: str
    architecture: str
    software: str
    memory_bytes: int
    delegates: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """name: the device id that is wanted.  public: its Ed25519 key.  reply: X25519 key that the answer is sealed to.

    nonce: 16 bytes, of this question.  floor_s: what the device knows to be the past, seconds since 1970.
    """

    token: str
    fleet: str
    name: str
    public: bytes
    reply: bytes
    nonce: bytes
    floor_s: int
    inventory: Inventory


@dataclass(frozen=True, slots=True)
class Membership:
    """All that a device must know to be in its cell.

    first, roster: the cell's first roster, which every copy of its state begins with, and the one that has this device.
    chain, ca: PEM, the device's certificate with the issuer's, and the roots.  content_keys: (epoch, key), where the
    cell encrypts.  publishers: keys whose agents it may run.  now_s: the issuer's clock.
    """

    device: str
    number: int
    role: Role
    cell: str
    controller: str
    first: bytes = field(repr=False)
    roster: bytes = field(repr=False)
    root: bytes
    chain: bytes = field(repr=False)
    ca: bytes = field(repr=False)
    brokers: tuple[str, ...]
    timing: str
    encrypt: bool
    content_keys: tuple[tuple[int, bytes], ...] = field(repr=False)
    publishers: tuple[bytes, ...]
    version: int
    now_s: int


@dataclass(frozen=True, slots=True)
class Answer:
    """code, reason: why, for programs and for people; membership: there if, and only if, it is joined."""

    status: Status
    code: Code = ""
    reason: str = ""
    membership: Membership | None = None


def is_label(text: str) -> bool:
    """Whether it is "key=value": a key of [a-z0-9._-], a value of at most 64 characters."""
    return len(text) <= JOIN_LABEL_CHARS_MAX and _LABEL.fullmatch(text) is not None


# --- request ----------------------------------------------------------------------------------------------------------


def request_tree(request: Request) -> list[object]:
    found = request.inventory
    return [
        "join",
        1,
        request.token,
        request.fleet,
        request.name,
        request.public,
        request.reply,
        request.nonce,
        request.floor_s,
        inventory_tree(found),
    ]


def inventory_tree(found: Inventory) -> list[object]:
    return [
        found.profile,
        found.tier,
        found.architecture,
        found.software,
        found.memory_bytes,
        list(found.delegates),
        list(found.labels),
    ]


def request_of(tree: object, who: str) -> Request:
    match tree:
        case ["join", 1, str(token), str(fleet), str(name), bytes(public), bytes(reply), bytes(nonce), *rest]:
            pass
        case _:
            raise _wrong("[join, 1, token, fleet, name, public key, reply key, nonce, floor, inventory]", who)
    if not is_token_id(token) or not topics.is_fleet(fleet) or not topics.is_device(name):
        raise _wrong("a token's id, a fleet's name and a device id", who)
    if (len(public), len(reply), len(nonce)) != (KEY_BYTES, KEY_BYTES, NONCE_BYTES):
        raise _wrong(f"keys of {KEY_BYTES} bytes and a nonce of {NONCE_BYTES}", who)
    match rest:
        case [int(floor_s), found] if 0 <= floor_s <= SECONDS_MAX:
            return Request(token, fleet, name, public, reply, nonce, floor_s, inventory_of(found, who))
    raise _wrong("a time floor and an inventory", who)


def inventory_of(tree: object, who: str) -> Inventory:
    """Raises JoinError (LocalError when who is empty)."""
    match tree:
        case [str(profile), str(tier), str(architecture), str(software), int(memory), list(delegates), list(labels)]:
            for text in (profile, tier, architecture, software, *delegates):
                if not isinstance(text, str) or len(text) > JOIN_TEXT_CHARS_MAX or not text.isprintable():
                    raise _wrong(f"inventory: printable texts of at most {JOIN_TEXT_CHARS_MAX} characters", who)
            if len(delegates) > JOIN_DELEGATES_MAX or not 0 <= memory < 1 << 63:
                raise _wrong(f"inventory: at most {JOIN_DELEGATES_MAX} delegates, and bytes of memory", who)
            return Inventory(
                profile, tier, architecture, software, memory, tuple(map(str, delegates)), labels_of(labels, who)
            )
    raise _wrong("inventory: [profile, tier, architecture, software, memory, delegates, labels]", who)


def labels_of(items: list[Any], who: str) -> tuple[str, ...]:
    """Sorted labels, each key once.  Raises JoinError (LocalError when who is empty)."""
    found = tuple(item for item in items if isinstance(item, str) and is_label(item))
    keys = [item.partition("=")[0] for item in found]
    if len(found) != len(items) or len(found) > JOIN_LABELS_MAX or keys != sorted(set(keys)):
        raise _wrong(f"at most {JOIN_LABELS_MAX} labels as key=value, sorted, each key once", who)
    return found


# --- answer -----------------------------------------------------------------------------------------------------------


def answer_tree(answer: Answer) -> list[object]:
    found = answer.membership
    rest: list[object] | None = None
    if found is not None:
        rest = [
            found.device,
            found.number,
            found.role,
            found.cell,
            found.controller,
            found.first,
            found.roster,
            found.root,
            found.chain,
            found.ca,
            list(found.brokers),
            found.timing,
            found.encrypt,
            [[epoch, key] for epoch, key in found.content_keys],
            list(found.publishers),
            found.version,
            found.now_s,
        ]
    return ["joining", 1, answer.status, answer.code, answer.reason[:JOIN_REASON_CHARS_MAX], rest]


def answer_of(tree: object, who: str) -> Answer:
    match tree:
        case ["joining", 1, ("joined" | "pending" | "refused") as status, str(code), str(reason), rest]:
            pass
        case _:
            raise _wrong("[joining, 1, status, code, reason, membership]", who)
    if len(code) > 32 or len(reason) > JOIN_REASON_CHARS_MAX or (status == "joined") != (rest is not None):
        raise _wrong("a membership if joined, and a reason if not", who)
    # a code that this program does not know stays what it is: newer controllers may have more
    return Answer(status, cast(Code, code), reason, None if rest is None else _membership(rest, who))


def _membership(tree: object, who: str) -> Membership:
    match tree:
        case [str(device), int(number), str(role), str(cell), str(controller), *rest]:
            pass
        case _:
            raise _wrong("membership: [device, number, role, cell, controller, ...]", who)
    match rest:
        case [bytes(first), bytes(roster), bytes(root), bytes(chain), bytes(ca), list(brokers), str(timing), *more]:
            pass
        case _:
            raise _wrong("membership: [..., first roster, roster, root, chain, ca, brokers, timing, ...]", who)
    match more:
        case [bool(encrypt), list(content), list(publishers), int(version), int(now_s)]:
            pass
        case _:
            raise _wrong("membership: [..., encrypt, content keys, publishers, version, now]", who)
    if not topics.is_device(device) or not topics.is_device(controller) or not topics.is_cell(cell):
        raise _wrong("membership: device ids and the name of a cell", who)
    if not 0 < number <= RAFT_NUMBER_MAX or role not in ROLES or timing not in ("lan", "default"):
        raise _wrong("membership: a raft number, a role and a timing", who)
    if len(root) != KEY_BYTES or not 0 < len(brokers) <= MQTT_BROKERS_MAX or len(publishers) > JOIN_PUBLISHERS_MAX:
        raise _wrong("membership: a root key, brokers and publishers", who)
    urls = tuple(url for url in brokers if isinstance(url, str) and len(url) <= 2 * JOIN_TEXT_CHARS_MAX)
    pubs = tuple(key for key in publishers if isinstance(key, bytes) and len(key) == KEY_BYTES)
    if len(urls) != len(brokers) or len(pubs) != len(publishers):
        raise _wrong("membership: URLs of brokers and keys of publishers", who)
    if max(len(first), len(roster)) > ROSTER_BYTES_MAX or max(len(chain), len(ca)) > PEM_BYTES_MAX:
        raise LimitError(f"{who or 'join'}: rosters or certificates are past their bounds")
    if not 0 < version < 1 << 16 or not 0 <= now_s <= SECONDS_MAX:
        raise _wrong("membership: a feature version and a time", who)
    return Membership(
        device=device,
        number=number,
        role=role,
        cell=cell,
        controller=controller,
        first=first,
        roster=roster,
        root=root,
        chain=chain,
        ca=ca,
        brokers=urls,
        timing=timing,
        encrypt=encrypt,
        content_keys=_content_keys(content, who),
        publishers=pubs,
        version=version,
        now_s=now_s,
    )


def _content_keys(items: list[Any], who: str) -> tuple[tuple[int, bytes], ...]:
    found: list[tuple[int, bytes]] = []
    for item in items:
        match item:
            case [int(epoch), bytes(key)] if 0 <= epoch < 1 << 24 and len(key) == KEY_BYTES and len(found) < 8:
                found.append((epoch, key))
            case _:
                raise _wrong("membership: at most 8 content keys as [epoch, key]", who)
    return tuple(found)


def _wrong(expected: str, who: str) -> RemoteError | LocalError:
    """who: empty when it is we who made it."""
    return JoinError(f"expected {expected}", who=who) if who else LocalError(f"join: expected {expected}")
