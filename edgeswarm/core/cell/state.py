"""The replicated state of a cell: log entries in, changes out.

Decides what each command comes to.  Deterministic: no clock, no randomness, no floats, no order of hashing; two
devices that applied the same entries have the same snapshot, byte for byte.  Total: no bytes make `apply` raise.
Leaves to the app: proposing, reacting to changes, and checking the signatures of a roster before obeying it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell import fleet, members, rollouts, tasks
from edgeswarm.core.cell.book import Answer, Book, Refused, Session, short
from edgeswarm.core.cell.commands import VERSION_LATEST
from edgeswarm.core.cell.records import digest_of
from edgeswarm.core.cell.snapshot import Frozen, freeze, thaw
from edgeswarm.core.cell.types import Roster, StopFlag
from edgeswarm.errors import CodecError, LimitError
from edgeswarm.limits import (
    CELL_SESSIONS_MAX,
    CELL_SESSIONS_PER_CLIENT_MAX,
    SESSION_ANSWERS_MAX,
    SESSION_REASON_BYTES_MAX,
)


class CellState(Book):
    """Everything that the devices of a cell agree on.  Read the fields; only `apply` changes them.

    supported: the highest feature version that this program applies (tests lower it).
    """

    def __init__(self, *, supported: int = VERSION_LATEST) -> None:
        super().__init__()
        self.supported = supported

    @property
    def halted(self) -> bool:
        """True when the cell uses features that this program does not know; `index` is then where it stopped."""
        return self.version > self.supported

    def apply(self, index: int, term: int, data: bytes) -> list[ch.Change]:
        """What the command in `data`, the log entry `index`, comes to.

        Entries must come in order; one at or below `self.index` has been applied and changes nothing.  Raft's own
        entries (empty, configuration) need not come.  A halted state changes nothing and says so.
        """
        if index <= self.index:
            return []
        if self.halted:
            return [ch.Halted(self.version, self.supported)]
        self.index, self.term = index, term
        if not data:
            return []
        return self._apply(data, depth=0)

    def _apply(self, data: bytes, depth: int) -> list[ch.Change]:
        """depth: how many Batch or WithSession hold this command."""
        try:
            command = cmd.decode(data, version=self.version)
        except (CodecError, LimitError) as error:
            return [ch.Rejected(short(str(error)))]
        if isinstance(command, cmd.Batch):
            if depth:
                return [ch.Rejected("a batch stands alone")]
            return [change for one in command.commands for change in self._apply(one, 1)]
        if isinstance(command, cmd.WithSession):
            if depth > 1:
                return [ch.Rejected("a session's command holds no other session's")]
            return self._in_session(command)
        try:
            return _HANDLERS[type(command)](self, command)
        except Refused as refused:
            return [ch.Rejected(short(str(refused)))]

    def _in_session(self, command: cmd.WithSession) -> list[ch.Change]:
        session = self.sessions.pop(command.session, None)
        if session is None:
            return [_answer(command, Answer(command.seq, self.index, "there is no such session (any more)"))]
        self.sessions[session.id] = session  # used last
        for answer in session.answers:
            if answer.seq == command.seq:
                return [_answer(command, answer, repeated=True)]
        if command.seq <= max(session.floor, command.acked):
            return [_answer(command, Answer(command.seq, self.index, "answered before, and the answer is forgotten"))]
        changes = self._apply(command.command, 2)
        reason = next((change.reason for change in changes if isinstance(change, ch.Rejected)), "")
        answer = Answer(command.seq, self.index, short(reason, SESSION_REASON_BYTES_MAX))
        floor = max(session.floor, command.acked, command.seq - SESSION_ANSWERS_MAX)
        kept = [one for one in (*session.answers, answer) if one.seq > floor]
        if session.id in self.sessions:  # the command may have closed its own session
            self.sessions[session.id] = replace(
                session, floor=floor, answers=tuple(sorted(kept, key=lambda one: one.seq))
            )
        return [*changes, _answer(command, answer)]

    def desired(self, device: str) -> tuple[tuple[str, bytes, str], ...]:
        """(agent, artefact, rollout) for each agent that a rollout has brought to `device`, by agent."""
        return rollouts.desired(self, device)

    def freeze(self) -> Frozen:
        """A copy that `snapshot.Frozen.encode` can write in another thread while this state goes on."""
        return freeze(self)

    def to_snapshot(self) -> bytes:
        """CBOR [format, sha256, body]; equal states have equal snapshots."""
        return freeze(self).encode()

    @classmethod
    def from_snapshot(cls, data: bytes, *, supported: int = VERSION_LATEST, who: str = "snapshot") -> CellState:
        """The state that `data` holds.

        Raises CodecError (of `who`) where hash, format, bounds or links do not hold, LimitError past the size, and
        commands.VersionError for a cell of a feature version above `supported`.
        """
        state = cls(supported=supported)
        thaw(data, state, supported=supported, who=who)
        return state


def _answer(command: cmd.WithSession, answer: Answer, *, repeated: bool = False) -> ch.Answered:
    return ch.Answered(command.session, command.seq, answer.index, answer.reason, repeated)


# --- the cell itself ------------------------------------------------------------------------------------------------


def _noop(state: CellState, command: cmd.Noop) -> list[ch.Change]:
    return []


def _set_version(state: CellState, command: cmd.SetVersion) -> list[ch.Change]:
    if command.version != state.version + 1:
        raise Refused(f"version {command.version}: expected {state.version + 1}, one step at a time")
    state.version = command.version
    changes: list[ch.Change] = [ch.VersionChanged(command.version)]
    return [*changes, ch.Halted(state.version, state.supported)] if state.halted else changes


def _set_roster(state: CellState, command: cmd.SetRoster) -> list[ch.Change]:
    """The first roster may have any version: a cell can begin, or begin again, with a fleet that is older than it."""
    old = state.roster
    if old.version:
        if command.version != old.version + 1:
            raise Refused(f"roster {command.version}: expected version {old.version + 1}")
        if command.previous != digest_of(old.data):
            raise Refused(f"roster {command.version}: it does not follow from version {old.version}")
    state.roster = Roster(command.version, command.data)
    return [ch.RosterChanged(command.version)]


def _stop(state: CellState, command: cmd.Stop) -> list[ch.Change]:
    state.stop = StopFlag(command.who, command.why, state.index)
    state.note(command.who, f"stop: {command.why}")
    return [ch.Stopped(command.who, command.why)]


def _resume(state: CellState, command: cmd.Resume) -> list[ch.Change]:
    if state.stop is None:
        raise Refused("nothing is stopped")
    state.stop = None
    state.note(command.who, f"resume: {command.why}")
    return [ch.Resumed(command.who, command.why)]


def _note(state: CellState, command: cmd.Note) -> list[ch.Change]:
    state.note(command.who, command.what)
    return []


def _open_session(state: CellState, command: cmd.OpenSession) -> list[ch.Change]:
    changes: list[ch.Change] = []
    own = [number for number, session in state.sessions.items() if session.client == command.client]
    if state.index in state.sessions:
        raise Refused("one entry opens one session")
    if len(own) >= CELL_SESSIONS_PER_CLIENT_MAX:
        changes.append(_close_session(state, own[0]))
    elif len(state.sessions) >= CELL_SESSIONS_MAX:
        changes.append(_close_session(state, next(iter(state.sessions))))
    state.sessions[state.index] = Session(state.index, command.client)
    return [*changes, ch.SessionOpened(state.index, command.client)]


def _close_session(state: CellState, number: int) -> ch.Change:
    del state.sessions[number]
    return ch.SessionClosed(number)


def _end_session(state: CellState, command: cmd.CloseSession) -> list[ch.Change]:
    return [_close_session(state, command.session)] if command.session in state.sessions else []


_HANDLERS: Final[dict[type, Callable[[CellState, Any], list[ch.Change]]]] = {
    cmd.Noop: _noop,
    cmd.SetVersion: _set_version,
    cmd.SetRoster: _set_roster,
    cmd.Stop: _stop,
    cmd.Resume: _resume,
    cmd.Note: _note,
    cmd.RegisterDevice: members.register,
    cmd.DeviceLost: members.lost,
    cmd.DeviceBack: members.back,
    cmd.ForgetDevice: members.forget,
    cmd.Drain: members.drain,
    cmd.Deploy: members.deploy,
    cmd.Place: members.place,
    cmd.Desire: members.desire,
    cmd.Remove: members.remove,
    cmd.Checkpoint: members.checkpoint,
    cmd.SubmitJob: tasks.submit,
    cmd.AssignTasks: tasks.assign,
    cmd.FinishTask: tasks.finish,
    cmd.FailTask: tasks.fail,
    cmd.CancelJob: tasks.cancel,
    cmd.OpenSession: _open_session,
    cmd.CloseSession: _end_session,
    cmd.AddToken: fleet.add_token,
    cmd.UseToken: fleet.use_token,
    cmd.RevokeToken: fleet.revoke_token,
    cmd.SetLabels: fleet.set_labels,
    cmd.RotateRoot: fleet.rotate_root,
    cmd.StartRollout: rollouts.start,
    cmd.AdvanceRollout: rollouts.advance,
    cmd.SteerRollout: rollouts.steer,
}
