"""A device's copy of the cell: entries in, changes out, and an answer to whoever of this device asked.

The data of a log entry is a tag of 16 bytes and a command.  The tag (8 random bytes of the life that proposed it, and a
count) is how a proposer finds its own entry when it is applied, on whichever voter that is, and on no other.
Invariant: entries are applied once, in order, without a gap; every copy that applied the same entries has equal bytes.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell.state import CellState
from edgeswarm.errors import LimitError, LocalError, RemoteError
from edgeswarm.limits import PROPOSALS_WAITING_MAX
from edgeswarm.wire.raft import Entry, EntryType

TAG_BYTES = 16
TERMS_KEPT = 4_096


class RejectedError(RemoteError):
    """The cell has judged a command and changed nothing."""


class OutcomeUnknownError(RemoteError):
    """It is not known whether a command was or will be applied: ask again, or look."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a command."""

    index: int
    changes: Sequence[ch.Change]

    @property
    def reason(self) -> str:
        """Why nothing was changed; empty when something was."""
        return next((change.reason for change in self.changes if isinstance(change, ch.Rejected)), "")


Listener = Callable[[Sequence[ch.Change]], None]


class Replica:
    """state: where to start from.  index, term: of the last entry in it."""

    def __init__(self, state: CellState, *, index: int, term: int) -> None:
        self.state, self.index, self.term = state, index, term
        self.listeners: list[Listener] = []
        self.restored: list[Callable[[], None]] = []
        self.on_fault: Callable[[Exception], None] = lambda error: None
        self._terms: deque[tuple[int, int]] = deque([(index, term)], TERMS_KEPT)  # of the last entries, rising
        self._life = os.urandom(8)
        self._count = 0
        self._waiting: dict[bytes, asyncio.Future[Applied]] = {}

    # --- proposing ----------------------------------------------------------------------------------------------------

    def ask(self, command: bytes) -> tuple[bytes, asyncio.Future[Applied]]:
        """The data of an entry that holds `command`, and a future of what becomes of it.  Raises LimitError."""
        if len(self._waiting) >= PROPOSALS_WAITING_MAX:
            raise LimitError(f"swarm: at most {PROPOSALS_WAITING_MAX} proposals wait at one time")
        self._count += 1
        tag = self._life + self._count.to_bytes(8, "big")
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._waiting[tag] = future
        future.add_done_callback(lambda _: self._waiting.pop(tag, None))
        return tag + command, future

    def give_up(self, why: str) -> None:
        """Nobody can tell any more what became of what waits."""
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(OutcomeUnknownError(why))

    # --- applying -----------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """The next entry.  Raises LocalError for any other."""
        if entry.index != self.index + 1:
            raise LocalError(f"replica: expected entry {self.index + 1}, found {entry.index}")
        self.index, self.term = entry.index, entry.term
        self._terms.append((entry.index, entry.term))
        if entry.type != EntryType.NORMAL or len(entry.data) <= TAG_BYTES:
            return  # a change of members, or the entry with which a leader opens its term
        changes = self.state.apply(entry.index, entry.term, entry.data[TAG_BYTES:])
        for listener in self.listeners:
            try:
                listener(changes)
            except Exception as error:  # a fault of ours in what follows from an entry: the log goes on
                self.on_fault(error)
        if entry.data[:8] == self._life:
            future = self._waiting.get(entry.data[:TAG_BYTES])
            if future is not None and not future.done():
                future.set_result(Applied(entry.index, changes))

    def differs(self, index: int, term: int) -> bool:
        """True when another entry than that of `term` was applied at `index`: this copy is of another history."""
        last = self._terms[-1][0]
        if not self._terms[0][0] <= index <= last:
            return False  # not applied yet, or too long ago to tell
        return self._terms[index - last - 1][1] != term

    def restore(self, data: bytes, *, index: int, term: int) -> None:
        """A snapshot in the place of everything.  Raises CodecError and leaves all as it was."""
        state = CellState.from_snapshot(data)
        self.state, self.index, self.term = state, index, term
        self._terms.clear()
        self._terms.append((index, term))
        self.give_up("the log was replaced by a snapshot")
        for listener in self.restored:
            listener()
