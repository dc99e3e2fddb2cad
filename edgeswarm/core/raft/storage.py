"""What the core reads of its storage, and a storage in memory that keeps it.

The core only reads.  The driver writes what a Ready says, in the order that the package's docstring gives, and keeps
the storage in step: after a Ready was saved, entries() and term() must know its entries.
Invariants of a storage: first_index() <= last_index() + 1; entries have indexes first_index() .. last_index() without a
gap and terms that never fall; term(first_index() - 1) is known (the snapshot's, or 0 for an empty log).
"""

from __future__ import annotations

from typing import Protocol

from edgeswarm.errors import LocalError
from edgeswarm.wire.raft import ConfState, Entry, HardState, Snapshot

ENTRY_OVERHEAD_BYTES = 8  # what an entry takes in a message beside its data: its numbers and their heads


class CompactedError(LocalError):
    """The index is before the log's first entry: a snapshot holds it."""


class UnavailableError(LocalError):
    """The index is beyond the log's last entry."""


class SnapshotUnavailableError(LocalError):
    """The snapshot is being made; ask again later."""


class Storage(Protocol):
    """Reads of what is on disk, answered from memory: each is called many times a message."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """What was saved last; called once, when the node starts."""
        ...

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries lo <= index < hi, at most max_bytes of them but always the first.  Raises CompactedError."""
        ...

    def term(self, index: int) -> int:
        """Term of the entry; known for first_index() - 1 too.  Raises CompactedError, UnavailableError."""
        ...

    def first_index(self) -> int:
        """Index of the first entry that entries() can return."""
        ...

    def last_index(self) -> int:
        """Index of the last entry, or of the snapshot where the log is empty."""
        ...

    def snapshot(self) -> Snapshot:
        """The newest snapshot.  Raises SnapshotUnavailableError."""
        ...


def entries_bytes(entries: list[Entry] | tuple[Entry, ...]) -> int:
    """Bytes that the entries take in a message, about."""
    total = ENTRY_OVERHEAD_BYTES * len(entries)
    for entry in entries:
        total += len(entry.data)
    return total


def payload_bytes(entries: list[Entry] | tuple[Entry, ...]) -> int:
    """Bytes of data in the entries: what proposals are charged with."""
    total = 0
    for entry in entries:
        total += len(entry.data)
    return total


def limit_bytes(entries: list[Entry], max_bytes: int) -> list[Entry]:
    """The longest head of `entries` of at most max_bytes, but at least one entry."""
    total = 0
    for at, entry in enumerate(entries):
        total += ENTRY_OVERHEAD_BYTES + len(entry.data)
        if total > max_bytes and at:
            return entries[:at]
    return entries


class MemoryStorage:
    """A storage in memory: for tests and simulation, and what drivers/raft_store.py answers reads from.

    The log starts after `snapshot_`, which holds everything before it.
    """

    __slots__ = ("conf", "hard_state", "log", "snapshot_", "start", "start_term")

    def __init__(self, conf: ConfState | None = None) -> None:
        self.hard_state = HardState()
        self.conf = conf or ConfState()
        self.snapshot_ = Snapshot()
        self.start = 0  # index before the first entry of `log`, and its term
        self.start_term = 0
        self.log: list[Entry] = []

    # --- reads: Storage ---------------------------------------------------------------------------------------------

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Hard state, and the snapshot's configuration, or the one given at the start.

        A node that restarts has applied what the snapshot holds: Config.applied is its index at least.
        """
        return self.hard_state, self.conf

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """See Storage."""
        start = self.start
        if lo <= start:
            raise CompactedError(f"raft: the log starts after index {start}, asked for {lo}")
        if hi > start + len(self.log) + 1:
            raise UnavailableError(f"raft: the log ends at {start + len(self.log)}, asked for {hi - 1}")
        return limit_bytes(self.log[lo - start - 1 : hi - start - 1], max_bytes)

    def term(self, index: int) -> int:
        """See Storage."""
        at = index - self.start
        if at <= 0:
            if at == 0:
                return self.start_term
            raise CompactedError(f"raft: the log starts after index {self.start}, asked for {index}")
        if at > len(self.log):
            raise UnavailableError(f"raft: the log ends at {self.start + len(self.log)}, asked for {index}")
        return self.log[at - 1].term

    def first_index(self) -> int:
        """See Storage."""
        return self.start + 1

    def last_index(self) -> int:
        """See Storage."""
        return self.start + len(self.log)

    def snapshot(self) -> Snapshot:
        """See Storage."""
        return self.snapshot_

    # --- writes: the driver -----------------------------------------------------------------------------------------

    def set_hard_state(self, hard_state: HardState) -> None:
        """Term, vote and commit of a Ready."""
        self.hard_state = hard_state

    def append(self, entries: list[Entry] | tuple[Entry, ...]) -> None:
        """Entries of a Ready: what was at their indexes and after is replaced.  Raises LocalError for a gap."""
        if not entries:
            return
        at = entries[0].index - self.start - 1
        if at < 0:  # what the snapshot already holds
            entries = entries[-at:]
            at = 0
            if not entries:
                return
        if at > len(self.log):
            raise LocalError(f"raft: the log ends at {self.last_index()}, the next entry is {entries[0].index}")
        if at < len(self.log):
            del self.log[at:]
        self.log.extend(entries)

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """The snapshot of a Ready: it replaces the whole log.  Raises CompactedError if ours is newer."""
        if snapshot.index <= self.snapshot_.index:
            raise CompactedError(f"raft: snapshot {snapshot.index} is older than {self.snapshot_.index}")
        self.snapshot_ = snapshot
        self.conf = snapshot.conf
        self.start, self.start_term = snapshot.index, snapshot.term
        self.log = []

    def create_snapshot(self, index: int, conf: ConfState, data: bytes) -> Snapshot:
        """Keeps the state machine's state after `index`, so that compact(index) may follow."""
        if index <= self.snapshot_.index:
            raise CompactedError(f"raft: snapshot {index} is older than {self.snapshot_.index}")
        self.snapshot_ = Snapshot(index, self.term(index), conf, data)
        self.conf = conf
        return self.snapshot_

    def compact(self, index: int) -> None:
        """Drops entries up to `index`, which must be applied and in a snapshot."""
        if index <= self.start:
            raise CompactedError(f"raft: the log starts after index {self.start}, asked to compact {index}")
        self.start_term = self.term(index)
        del self.log[: index - self.start]
        self.start = index
