"""The fleet's part of a snapshot: tokens, labels, rollouts, roots.  It came with feature version 3.

It stands at the end of the body, and only when there is something in it: a cell below version 3 cannot have any, so
its snapshots are what older programs write and read, and one state still has one encoding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgeswarm.core.cell import commands_fleet as cf
from edgeswarm.core.cell import shapes as s
from edgeswarm.core.cell.book import Book
from edgeswarm.core.cell.records import rollout_bytes
from edgeswarm.core.cell.types import RolloutState, TokenState
from edgeswarm.errors import CodecError
from edgeswarm.limits import (
    CAPABILITY_BYTES_MAX,
    CAPABILITY_NAMES_MAX,
    CELL_DEVICES_MAX,
    CELL_ROLLOUTS_BYTES_MAX,
    CELL_ROLLOUTS_MAX,
    CELL_ROOTS_MAX,
    CELL_TOKEN_USES_MAX,
    CELL_TOKENS_MAX,
    TOKEN_USES_MAX,
)
from edgeswarm.wire.codec import dumps, loads

FLEET_SINCE = 3
"""Feature version."""


@dataclass(frozen=True, slots=True)
class FleetPart:
    """Tokens and rollouts in the order of the state, labels by device."""

    tokens: tuple[TokenState, ...] = ()
    token_time_s: int = 0
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    rollouts: tuple[RolloutState, ...] = ()
    roots: tuple[bytes, ...] = ()

    def encode(self) -> list[Any]:
        """Each record is a byte string of its own, as in the rest of the body."""
        tokens, labels, rollouts = (
            [dumps(s.plain(one)) for one in part] for part in (self.tokens, self.labels, self.rollouts)
        )
        return [tokens, self.token_time_s, labels, rollouts, list(self.roots)]


def freeze_fleet(book: Book) -> FleetPart | None:
    """None: there is nothing in it."""
    part = FleetPart(
        tuple(book.tokens.values()),
        book.token_time_s,
        tuple(sorted(book.labels.items())),
        tuple(book.rollouts.values()),
        book.roots,
    )
    return part if part != FleetPart() else None


def inner(reader: s.Reader[Any]) -> s.Reader[Any]:
    """A record inside a byte string of its own."""

    def read(value: Any) -> Any:
        if type(value) is not bytes:
            raise CodecError("expected the bytes of a record")
        return reader(loads(value))

    return read


def _pair(*items: Any) -> tuple[Any, ...]:
    return items


def _labels(value: Any) -> tuple[str, ...]:
    """In the one order that a state has."""
    found = cf.labels(value)
    if list(found) != value:
        raise CodecError("labels: expected a rising order, each once")
    return found


_token = s.record(
    TokenState,
    cf.token_id,
    cf.public_key,
    cf.token_role,
    cf.uses,
    s.uint(least=1),
    s.flag,
    _labels,
    s.ascending(s.text(CAPABILITY_BYTES_MAX), CAPABILITY_NAMES_MAX),
    s.who,
    s.many(s.record(_pair, s.device_id, cf.public_key), TOKEN_USES_MAX),
    s.flag,
)
_rollout = s.record(
    RolloutState,
    cf.rollout_id,
    s.agent_id,
    s.digest,
    cf.plan,
    s.who,
    s.uint(),
    cf.rollout_state,
    cf.wave,
    s.ascending(s.device_id, CELL_DEVICES_MAX),
    cf.order,
    s.why,
)
read_fleet = s.record(
    FleetPart,
    s.many(inner(_token), CELL_TOKENS_MAX),
    s.uint(),
    s.many(inner(s.record(_pair, s.device_id, _labels)), CELL_DEVICES_MAX),
    s.many(inner(_rollout), CELL_ROLLOUTS_MAX),
    s.many(cf.root, CELL_ROOTS_MAX),
)


def fill_fleet(part: FleetPart, book: Book) -> None:
    """Raises CodecError where it is not what `freeze_fleet` writes for a state that commands have made."""
    if book.version < FLEET_SINCE:
        raise CodecError(f"a fleet came with feature version {FLEET_SINCE}, the cell is at {book.version}")
    if part == FleetPart():
        raise CodecError("an empty fleet is not written")
    book.tokens = {token.id: token for token in part.tokens}
    book.token_time_s = part.token_time_s
    book.labels = dict(part.labels)
    book.rollouts = {rollout.id: rollout for rollout in part.rollouts}
    book.roots = part.roots
    if part != freeze_fleet(book):
        raise CodecError("a token, a rollout or a device is listed twice, or out of order")
    fault = next(iter(_faults(book)), None)
    if fault is not None:
        raise CodecError(fault)


def _faults(book: Book) -> Iterable[str]:
    for token in book.tokens.values():
        if len(token.used) > token.uses or len({device for device, _ in token.used}) < len(token.used):
            yield f"token {token.id}: used more often than it may be, or twice by one device"
    if sum(len(token.used) for token in book.tokens.values()) > CELL_TOKEN_USES_MAX:
        yield f"tokens: more than {CELL_TOKEN_USES_MAX} joins"
    newest: dict[str, RolloutState] = {}
    index = 0
    for device, labels in book.labels.items():
        if not labels:
            yield f"labels of {device}: there are none"
    for rollout in book.rollouts.values():
        before = newest.get(rollout.agent)
        if before is not None and before.open:
            yield f"rollout {before.id} is {before.state}, and agent {rollout.agent} has a newer one"
        if not index <= rollout.index <= book.index:
            yield f"rollout {rollout.id}: of entry {rollout.index}, after one of entry {index}"
        if rollout.devices and not rollout.wave:
            yield f"rollout {rollout.id}: devices in wave 0"
        newest[rollout.agent], index = rollout, rollout.index
    if sum(rollout_bytes(rollout) for rollout in book.rollouts.values()) > CELL_ROLLOUTS_BYTES_MAX:
        yield f"rollouts: more than {CELL_ROLLOUTS_BYTES_MAX} bytes"
    if len(set(book.roots)) < len(book.roots):
        yield "roots: one is listed twice"
