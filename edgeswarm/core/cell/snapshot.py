"""How a state travels: `[format, sha256 of body, body]`, all of it deterministic CBOR of arrays.

`freeze` takes a shallow copy (records are immutable), so that the bytes can be made in another thread.  `thaw` believes
nothing: hash, format, versions, bounds, order and links are checked before a state comes out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from edgeswarm.core.cell import records as r
from edgeswarm.core.cell import shapes as s
from edgeswarm.core.cell.book import Answer, Book, Session
from edgeswarm.core.cell.commands import VersionError
from edgeswarm.core.cell.snapshot_fleet import FleetPart, fill_fleet, freeze_fleet, inner, read_fleet
from edgeswarm.core.cell.types import AgentState, AuditRecord, DeviceState, JobState, Roster, StopFlag
from edgeswarm.errors import CodecError, LimitError
from edgeswarm.limits import (
    AUDIT_RECORDS_MAX,
    CELL_AGENTS_MAX,
    CELL_DEVICES_MAX,
    CELL_JOBS_MAX,
    CELL_SESSIONS_MAX,
    CELL_SNAPSHOT_BYTES_MAX,
    ROSTER_BYTES_MAX,
    SESSION_ANSWERS_MAX,
    SESSION_SEQ_MAX,
)
from edgeswarm.wire.codec import dumps, loads

FORMAT = 1
_DEVICES, _AGENTS, _JOBS, _SESSIONS, _FLEET = 5, 6, 7, 9, 12  # fields of Frozen


@dataclass(frozen=True, slots=True)
class Frozen:
    """A state at one entry.  Sorted by id, but `ended` and `sessions`, whose order is theirs."""

    version: int
    index: int
    term: int
    epoch_last: int
    roster: Roster
    devices: tuple[DeviceState, ...]
    agents: tuple[AgentState, ...]
    jobs: tuple[JobState, ...]
    ended: tuple[str, ...]
    sessions: tuple[Session, ...]
    stop: StopFlag | None
    audit: tuple[AuditRecord, ...]
    fleet: FleetPart | None = None

    def encode(self) -> bytes:
        """Each record is a byte string of its own: the bounds of CBOR count for one, not for all of them."""
        values = [getattr(self, field.name) for field in fields(self)[:_FLEET]]
        for at in (_DEVICES, _AGENTS, _JOBS, _SESSIONS):
            values[at] = [dumps(s.plain(one)) for one in values[at]]
        if self.fleet is not None:
            values.append(self.fleet.encode())
        body = dumps([value if type(value) is list else s.plain(value) for value in values])
        return dumps([FORMAT, r.digest_of(body), body])


def freeze(book: Book) -> Frozen:
    return Frozen(
        book.version,
        book.index,
        book.term,
        book.epoch_last,
        book.roster,
        tuple([device for _, device in sorted(book.devices.items())]),
        tuple([agent for _, agent in sorted(book.agents.items())]),
        tuple([job for _, job in sorted(book.jobs.items())]),
        tuple(book.ended),
        tuple(book.sessions.values()),
        book.stop,
        tuple(book.audit),
        freeze_fleet(book),
    )


_answer = s.record(Answer, s.uint(SESSION_SEQ_MAX, 1), s.uint(), s.why)
_session = s.record(Session, s.uint(), s.who, s.uint(SESSION_SEQ_MAX), s.many(_answer, SESSION_ANSWERS_MAX))
_roster = s.record(Roster, s.uint(), s.blob(ROSTER_BYTES_MAX))
_fields = (
    s.uint(1 << 16, 1),
    s.uint(),
    s.uint(),
    s.uint(),
    _roster,
    s.many(inner(r.device_state), CELL_DEVICES_MAX),
    s.many(inner(r.agent_state), CELL_AGENTS_MAX),
    s.many(inner(r.job_state), CELL_JOBS_MAX),
    s.many(s.job_id, CELL_JOBS_MAX),
    s.many(inner(_session), CELL_SESSIONS_MAX),
    s.optional(r.stop_flag),
    s.many(r.audit_record, AUDIT_RECORDS_MAX),
)
_without_fleet = s.record(Frozen, *_fields)
_with_fleet = s.record(Frozen, *_fields, read_fleet)


def thaw(data: bytes, book: Book, *, supported: int, who: str) -> None:
    """Fill the empty `book`.  Raises as CellState.from_snapshot says."""
    if len(data) > CELL_SNAPSHOT_BYTES_MAX:
        raise LimitError(f"{who}: expected at most {CELL_SNAPSHOT_BYTES_MAX} bytes, found {len(data)}")
    outer = loads(data, who=who)
    if type(outer) is not list or len(outer) != 3 or type(outer[2]) is not bytes:
        raise CodecError("expected an array of a format, a hash and a body", who=who)
    if outer[0] != FORMAT or type(outer[0]) is not int:
        raise CodecError(f"expected format {FORMAT}, found {outer[0]!r:.20}", who=who)
    if outer[1] != r.digest_of(outer[2]):
        raise CodecError("the body does not have the hash that stands before it", who=who)
    body = loads(outer[2], who=who)
    version = body[0] if type(body) is list and body else None
    if type(version) is int and version > supported:
        raise VersionError(f"the cell is at feature version {version}, this program knows {supported}", who=who)
    whole = type(body) is list and len(body) > _FLEET
    try:
        frozen = (_with_fleet if whole else _without_fleet)(body)
        _fill(frozen, book, who)
        if frozen.fleet is not None:
            fill_fleet(frozen.fleet, book)
    except CodecError as error:
        raise error if error.who else CodecError(str(error), who=who) from None


def _fill(frozen: Frozen, book: Book, who: str) -> None:
    book.version, book.index, book.term = frozen.version, frozen.index, frozen.term
    book.epoch_last, book.roster, book.stop = frozen.epoch_last, frozen.roster, frozen.stop
    book.audit = list(frozen.audit)
    book.devices = {device.id: device for device in _rising(frozen.devices, lambda one: one.id, who)}
    for agent in _rising(frozen.agents, lambda one: one.spec.id, who):
        book.put_agent(agent)
    for job in _rising(frozen.jobs, lambda one: one.id, who):
        book.put_job(job)
    book.ended = dict.fromkeys(frozen.ended)
    book.sessions = {session.id: session for session in frozen.sessions}
    if len(book.ended) != len(frozen.ended) or len(book.sessions) != len(frozen.sessions):
        raise CodecError("a job or a session is listed twice", who=who)
    for session in frozen.sessions:
        _rising(session.answers, lambda one: one.seq, who)
        if session.answers and session.answers[0].seq <= session.floor:
            raise CodecError(f"session {session.id}: an answer below its floor", who=who)
    fault = next(iter(book.faults()), None)
    if fault is not None:
        raise CodecError(fault, who=who)


def _rising(items: tuple[Any, ...], key: Any, who: str) -> tuple[Any, ...]:
    keys = [key(item) for item in items]
    if any(not a < b for a, b in pairwise(keys)):
        raise CodecError("expected records in rising order, each once", who=who)
    return items
