"""What can be asked of a cell: one log entry holds one command.

Bytes: deterministic CBOR `[since, kind, ...fields]`.  `since` is the feature version that the command came with; a
cell that has not been told SetVersion(since) rejects it, on every device alike, whatever their programs could do.  So
fields are never added to a kind: a new form is a new kind with a higher `since`.
Batch and WithSession carry encoded commands as byte strings: each is judged by itself.  A Batch may hold sessions'
commands; nothing holds a Batch, and a session's command is neither Batch nor WithSession.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from edgeswarm.core.cell import shapes as s
from edgeswarm.core.cell.commands_fleet import (
    FLEET_KINDS,
    AddToken,
    AdvanceRollout,
    FleetCommand,
    RevokeToken,
    RotateRoot,
    SetLabels,
    StartRollout,
    SteerRollout,
    UseToken,
)
from edgeswarm.core.cell.records import agent_spec, capabilities, task_spec
from edgeswarm.core.cell.types import AgentSpec, Assignment, Capabilities, Move, TaskSpec, Want
from edgeswarm.errors import CodecError, LocalError
from edgeswarm.limits import (
    CELL_COMMAND_BYTES_MAX,
    COMMAND_BATCH_MAX,
    JOB_TASKS_MAX,
    ROSTER_BYTES_MAX,
    SESSION_SEQ_MAX,
    TASK_MS_MAX,
    TASK_RESULT_BYTES_MAX,
)
from edgeswarm.wire.codec import dumps, loads

VERSION_LATEST = 3
"""The highest feature version that this program can apply."""
__all__ = ["AddToken", "AdvanceRollout", "RevokeToken", "RotateRoot", "SetLabels", "StartRollout", "SteerRollout"]
__all__ += ["UseToken"]  # of commands_fleet; mypy wants them named


# --- the cell itself ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Noop:
    """Nothing: what a new leader commits first."""


@dataclass(frozen=True, slots=True)
class SetVersion:
    """Turn on everything up to this feature version; to be proposed once every voter says that it can."""

    version: int


@dataclass(frozen=True, slots=True)
class SetRoster:
    """A new roster.  previous: SHA-256 of the bytes of the one before (empty for the first)."""

    version: int
    previous: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Stop:
    """The safety stop: every device stops its agents."""

    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Resume:
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the audit: what an operator did outside the log, such as a recovery from a lost quorum."""

    who: str
    what: str


# --- devices --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegisterDevice:
    """A device says what it offers, at each start and when that changes.  boot: never falls."""

    device: str
    boot: int
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class DeviceLost:
    """The leader has given a device up.  epoch: of the device as the leader knew it."""

    device: str
    epoch: int


@dataclass(frozen=True, slots=True)
class DeviceBack:
    """The leader hears a lost device again."""

    device: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ForgetDevice:
    """A device that is no longer in the roster."""

    device: str
    who: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Nothing new for a device, and what it runs moves away; or the end of that.  Since version 2."""

    device: str
    drained: bool
    who: str


# --- agents ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deploy:
    """A new agent, or another specification of one.  version: the one to replace; 0: there must be none."""

    spec: AgentSpec
    version: int
    who: str


@dataclass(frozen=True, slots=True)
class Place:
    """Moves, each judged by itself: one that came too late does not hold up the rest."""

    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class Desire:
    """Agents that switch together, at this entry, on every device: all of them or, if one is unknown, none."""

    wants: tuple[Want, ...]
    who: str


@dataclass(frozen=True, slots=True)
class Remove:
    agent: str
    who: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a stateful agent.  epoch: of the placement that wrote it; an older copy's is refused."""

    agent: str
    epoch: int
    digest: bytes


# --- jobs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubmitJob:
    """A job under an id that its author chose; the same job again is no second one."""

    job: str
    who: str
    tasks: tuple[TaskSpec, ...]
    deadline_ms: int = 0


@dataclass(frozen=True, slots=True)
class AssignTasks:
    """Assignments, each judged by itself."""

    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class FinishTask:
    """The first result counts, whichever attempt it is of; the others change nothing."""

    job: str
    task: int
    attempt: int
    device: str
    result: bytes


@dataclass(frozen=True, slots=True)
class FailTask:
    """Counts only for the attempt that is under way.  lasting: another attempt would fail as well."""

    job: str
    task: int
    attempt: int
    why: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class CancelJob:
    """failed: for a deadline that passed, so that the job ends as failed."""

    job: str
    who: str
    why: str
    failed: bool = False


# --- sessions and batches -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenSession:
    """The session's number is the index of this entry; the change SessionOpened says it."""

    client: str


@dataclass(frozen=True, slots=True)
class CloseSession:
    session: int


@dataclass(frozen=True, slots=True)
class WithSession:
    """A command that is applied once, however often it arrives.

    seq: from 1, a new one for each command.  acked: answers up to this seq have reached the client and may be
    forgotten.  Up to SESSION_ANSWERS_MAX commands may be under way at a time.
    """

    session: int
    seq: int
    acked: int
    command: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Commands applied in order within one entry, each judged by itself."""

    commands: tuple[bytes, ...]


Command = (
    Noop
    | SetVersion
    | SetRoster
    | Stop
    | Resume
    | Note
    | RegisterDevice
    | DeviceLost
    | DeviceBack
    | ForgetDevice
    | Drain
    | Deploy
    | Place
    | Desire
    | Remove
    | Checkpoint
    | SubmitJob
    | AssignTasks
    | FinishTask
    | FailTask
    | CancelJob
    | OpenSession
    | CloseSession
    | WithSession
    | Batch
    | FleetCommand
)

_task_index = s.uint(JOB_TASKS_MAX - 1)
_attempt = s.uint(1 << 32, 1)
_nested = s.blob(CELL_COMMAND_BYTES_MAX)
_move = s.record(Move, s.agent_id, s.optional(s.device_id), s.uint())
_want = s.record(Want, s.agent_id, s.digest)
_assignment = s.record(Assignment, s.job_id, _task_index, _attempt, s.device_id)

C = TypeVar("C")


def _fields(kind: int, since: int, make: type[C], *readers: s.Reader[Any]) -> tuple[int, int, type[C], s.Reader[C]]:
    return kind, since, make, s.record(make, *readers)


_KINDS: Final = (
    _fields(0, 1, Noop),
    _fields(1, 1, SetVersion, s.uint(1 << 16, 1)),
    _fields(2, 1, SetRoster, s.uint(least=1), s.digest_or_empty, s.blob(ROSTER_BYTES_MAX)),
    _fields(3, 1, Stop, s.who, s.why),
    _fields(4, 1, Resume, s.who, s.why),
    _fields(5, 1, Note, s.who, s.why),
    _fields(10, 1, RegisterDevice, s.device_id, s.uint(), capabilities),
    _fields(11, 1, DeviceLost, s.device_id, s.uint()),
    _fields(12, 1, DeviceBack, s.device_id, s.uint()),
    _fields(13, 1, ForgetDevice, s.device_id, s.who),
    _fields(14, 2, Drain, s.device_id, s.flag, s.who),
    _fields(20, 1, Deploy, agent_spec, s.uint(), s.who),
    _fields(21, 1, Place, s.many(_move, COMMAND_BATCH_MAX, 1)),
    _fields(22, 1, Desire, s.many(_want, COMMAND_BATCH_MAX, 1), s.who),
    _fields(23, 1, Remove, s.agent_id, s.who),
    _fields(24, 1, Checkpoint, s.agent_id, s.uint(), s.digest),
    _fields(30, 1, SubmitJob, s.job_id, s.who, s.many(task_spec, JOB_TASKS_MAX, 1), s.uint(TASK_MS_MAX)),
    _fields(31, 1, AssignTasks, s.many(_assignment, COMMAND_BATCH_MAX, 1)),
    _fields(32, 1, FinishTask, s.job_id, _task_index, _attempt, s.device_id, s.blob(TASK_RESULT_BYTES_MAX)),
    _fields(33, 1, FailTask, s.job_id, _task_index, _attempt, s.why, s.flag),
    _fields(34, 1, CancelJob, s.job_id, s.who, s.why, s.flag),
    _fields(40, 1, OpenSession, s.who),
    _fields(41, 1, CloseSession, s.uint()),
    _fields(42, 1, WithSession, s.uint(), s.uint(SESSION_SEQ_MAX, 1), s.uint(SESSION_SEQ_MAX), _nested),
    _fields(43, 1, Batch, s.many(_nested, COMMAND_BATCH_MAX, 1)),
    *[(kind, 3, make, reader) for kind, make, reader in FLEET_KINDS],
)
_BY_KIND: Final[dict[int, tuple[int, s.Reader[Command]]]] = {
    kind: (since, cast("s.Reader[Command]", reader)) for kind, since, _, reader in _KINDS
}
_BY_TYPE: Final[dict[type, tuple[int, int]]] = {make: (kind, since) for kind, since, make, _ in _KINDS}


class VersionError(CodecError):
    """A command of a feature version that the cell has not been told to use."""


def encode(command: Command) -> bytes:
    """The bytes of `command` for the log.  Raises LocalError where a field is out of bounds, before anyone sees it."""
    kind, since = _BY_TYPE[type(command)]
    fields = s.plain(command)
    try:
        _BY_KIND[kind][1](fields)
    except CodecError as error:
        raise LocalError(f"{type(command).__name__}: {error}") from None
    data = dumps([since, kind, *fields])
    if len(data) > CELL_COMMAND_BYTES_MAX:
        raise LocalError(
            f"{type(command).__name__}: expected at most {CELL_COMMAND_BYTES_MAX} bytes, found {len(data)}"
        )
    return data


def decode(data: bytes, *, version: int = VERSION_LATEST) -> Command:
    """The command in `data`, for a cell at feature version `version`.

    Raises VersionError for a later one, CodecError or LimitError for anything that is no command.
    """
    value = loads(data, who="command", bytes_max=CELL_COMMAND_BYTES_MAX)
    if type(value) is not list or len(value) < 2 or type(value[0]) is not int or type(value[1]) is not int:
        raise CodecError("expected an array of a version, a kind and fields", who="command")
    since, kind = value[0], value[1]
    if since > version:
        raise VersionError(f"kind {kind} needs feature version {since}, the cell is at {version}", who="command")
    known = _BY_KIND.get(kind)
    if known is None or known[0] != since:
        raise CodecError(f"no kind {kind} came with feature version {since}", who="command")
    try:
        return known[1](value[2:])
    except CodecError as error:
        raise CodecError(str(error), who=f"command of kind {kind}") from None


def batch(commands: list[Command]) -> bytes:
    """The bytes of one entry that holds all of `commands`, at least one and at most COMMAND_BATCH_MAX."""
    encoded = tuple([encode(command) for command in commands])
    return encoded[0] if len(encoded) == 1 else encode(Batch(encoded))
