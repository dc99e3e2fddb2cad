"""The log as the core sees it: what the storage has, and after it what is still on its way there.

    first_index                offset                    last_index
    | ------- storage -------- | --------- entries ------- |
    applied <= applying <= committed <= last_index (of a node that keeps its promises)

Invariants: `entries` have indexes offset, offset + 1, ...; committed never falls and nothing at or below it is ever
replaced; an entry is handed out to be applied once, in order; what is handed out to be stored again has changed.
`offset_in_progress` and `snapshot_in_progress` tell what a Ready handed out to be stored but nobody confirmed yet.
Source: Raft paper 5.3 (log matching), 5.4 (up to date), 7 (snapshots); the split follows etcd's raft.
"""

from __future__ import annotations

from typing import Final

from edgeswarm.core.raft.storage import CompactedError, Storage, UnavailableError, limit_bytes
from edgeswarm.errors import RemoteError
from edgeswarm.wire.raft import Entry, EntryType, Snapshot

UNKNOWN_TERM: Final = -1  # of an index that the log does not know: no message can carry it, so it matches nothing
NO_LIMIT: Final = 1 << 62  # bytes
SCAN_BYTES: Final = 1 << 20  # of committed entries looked through at a time


class RaftLog:
    """See the module.  max_applying_bytes: entries handed out to be applied and not yet applied, at most."""

    __slots__ = (
        "applied",
        "applying",
        "applying_bytes",
        "applying_paused",
        "committed",
        "entries",
        "max_applying_bytes",
        "offset",
        "offset_in_progress",
        "snapshot",
        "snapshot_in_progress",
        "storage",
    )

    def __init__(self, storage: Storage, max_applying_bytes: int = NO_LIMIT) -> None:
        self.storage = storage
        self.max_applying_bytes = max_applying_bytes
        self.entries: list[Entry] = []  # not yet known to be stored
        self.offset = storage.last_index() + 1
        self.offset_in_progress = self.offset  # entries below it were handed out to be stored
        self.snapshot: Snapshot | None = None  # received and not yet known to be stored
        self.snapshot_in_progress = False
        before = storage.first_index() - 1
        self.committed = before
        self.applying = before  # handed out to be applied
        self.applied = before  # confirmed to be applied
        self.applying_bytes = 0
        self.applying_paused = False

    def __str__(self) -> str:
        return (
            f"committed={self.committed}, applied={self.applied}, applying={self.applying}, "
            f"unstable.offset={self.offset}, unstable.offsetInProgress={self.offset_in_progress}, "
            f"len(unstable.Entries)={len(self.entries)}"
        )

    # --- reads ------------------------------------------------------------------------------------------------------

    def first_index(self) -> int:
        """Index of the first entry that can be read."""
        return self.snapshot.index + 1 if self.snapshot is not None else self.storage.first_index()

    def last_index(self) -> int:
        """Index of the last entry, stored or not."""
        return self.offset + len(self.entries) - 1

    def last_term(self) -> int:
        """Term of the last entry."""
        return self.entries[-1].term if self.entries else self.term(self.offset - 1)

    def term(self, index: int) -> int:
        """Term of the entry, known for first_index() - 1 too; UNKNOWN_TERM outside."""
        at = index - self.offset
        if at >= 0:
            return self.entries[at].term if at < len(self.entries) else UNKNOWN_TERM
        if self.snapshot is not None and index <= self.snapshot.index:
            return self.snapshot.term if index == self.snapshot.index else UNKNOWN_TERM
        try:
            return self.storage.term(index)
        except (CompactedError, UnavailableError):
            return UNKNOWN_TERM

    def matches(self, index: int, term: int) -> bool:
        """Whether the log has an entry of that term there.  Log matching: then all before it agree too (5.3)."""
        return self.term(index) == term

    def slice(self, lo: int, hi: int, max_bytes: int = NO_LIMIT) -> list[Entry]:
        """Entries lo <= index < hi, at most max_bytes but always the first.  Raises CompactedError before the log."""
        if lo >= hi:
            return []
        offset = self.offset
        if lo >= offset:
            return limit_bytes(self.entries[lo - offset : hi - offset], max_bytes)
        if lo < self.first_index():
            raise CompactedError(f"raft: the log starts at {self.first_index()}, asked for {lo}")
        stored = self.storage.entries(lo, min(hi, offset), max_bytes)
        if hi <= offset or len(stored) < offset - lo:
            return stored
        return limit_bytes(stored + self.entries[: hi - offset], max_bytes)

    def entries_from(self, index: int, max_bytes: int = NO_LIMIT) -> list[Entry]:
        """Entries from `index` to the end, at most max_bytes but always the first."""
        return self.slice(index, self.last_index() + 1, max_bytes)

    def newest_snapshot(self) -> Snapshot:
        """The snapshot to send.  Raises SnapshotUnavailableError."""
        return self.snapshot if self.snapshot is not None else self.storage.snapshot()

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as up to date as this one (5.4.1)."""
        term = self.last_term()
        return last_term > term or (last_term == term and last_index >= self.last_index())

    def find_conflict(self, entries: tuple[Entry, ...] | list[Entry]) -> int:
        """Position of the first of `entries` that the log lacks or has with another term; len(entries) if none."""
        for at, entry in enumerate(entries):
            if self.term(entry.index) != entry.term:
                return at
        return len(entries)

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """(index, term) of the last entry at or before `index` whose term is at most `term`.

        No entry after it can match a log that has `term` at `index`.  Term 0 where it is not known here; (0, 0) for
        none.  Source: 5.3, "to reduce the number of rejected AppendEntries RPCs".
        """
        while index > 0:
            ours = self.term(index)
            if ours == UNKNOWN_TERM:
                return index, 0
            if ours <= term:
                return index, ours
            index -= 1
        return 0, 0

    # --- writes -----------------------------------------------------------------------------------------------------

    def append(self, entries: tuple[Entry, ...] | list[Entry]) -> int:
        """Puts entries (one or more, gapless) at their indexes, replacing what was there and after.

        The first is at most last_index() + 1 and above committed: the caller has checked it.  Returns last_index().
        """
        first = entries[0].index
        assert first > self.committed, f"entry {first} would replace what is committed up to {self.committed}"
        at = first - self.offset
        if at == len(self.entries):
            self.entries.extend(entries)
        elif at <= 0:
            self.entries = list(entries)
            self.offset = self.offset_in_progress = first
        else:
            del self.entries[at:]
            self.entries.extend(entries)
            if self.offset_in_progress > first:
                self.offset_in_progress = first
        return self.last_index()

    def maybe_append(
        self, index: int, term: int, entries: tuple[Entry, ...], commit: int, *, who: str = ""
    ) -> int | None:
        """An append's entries after (index, term), and how far the leader says they are committed.

        Returns the index up to which the log now agrees with the leader's, or None where it has no such entry.  Raises
        RemoteError where the entries contradict what is committed: no leader that keeps to Raft sends that.
        """
        if self.term(index) != term:
            return None
        last = index + len(entries)
        if entries:
            at = self.find_conflict(entries)
            if at < len(entries):
                if entries[at].index <= self.committed:
                    raise RemoteError(
                        f"raft: entry {entries[at].index} of term {entries[at].term} contradicts what is committed "
                        f"up to {self.committed}",
                        who=who,
                    )
                self.append(entries[at:] if at else entries)
        if commit > self.committed:
            self.commit_to(min(commit, last))
        return last

    def commit_to(self, index: int) -> None:
        """Raises committed to `index`, which is at most last_index(); lower is no change."""
        if index > self.committed:
            assert index <= self.last_index(), f"commit {index} beyond the last index {self.last_index()}"
            self.committed = index

    def maybe_commit(self, index: int, term: int) -> bool:
        """Commits up to `index` if its entry is of `term`: a leader counts copies of its own term only (5.4.2)."""
        if index > self.committed and term and self.term(index) == term:
            self.commit_to(index)
            return True
        return False

    def restore(self, snapshot: Snapshot) -> None:
        """Starts anew after `snapshot`."""
        self.committed = snapshot.index
        self.entries = []
        self.offset = self.offset_in_progress = snapshot.index + 1
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    # --- to the storage ---------------------------------------------------------------------------------------------

    def next_unstable(self) -> list[Entry]:
        """Entries that were not handed out to be stored yet."""
        return self.entries[self.offset_in_progress - self.offset :]

    def has_next_unstable(self) -> bool:
        """Whether next_unstable() has any."""
        return self.offset_in_progress - self.offset < len(self.entries)

    def next_snapshot(self) -> Snapshot | None:
        """The snapshot, if it was not handed out to be stored yet."""
        return None if self.snapshot_in_progress else self.snapshot

    def accept_unstable(self) -> None:
        """A Ready has handed out everything there is to store."""
        self.offset_in_progress = self.last_index() + 1
        self.snapshot_in_progress = self.snapshot is not None

    def stable_to(self, index: int, term: int) -> None:
        """Entries up to (index, term) are stored; ignored if they were replaced since."""
        at = index - self.offset
        if not 0 <= at < len(self.entries) or self.entries[at].term != term:
            return
        del self.entries[: at + 1]
        self.offset = index + 1
        if self.offset_in_progress < self.offset:
            self.offset_in_progress = self.offset

    def stable_snapshot_to(self, index: int) -> None:
        """The snapshot at `index` is stored; ignored if it was replaced since."""
        if self.snapshot is not None and self.snapshot.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    # --- to the state machine ---------------------------------------------------------------------------------------

    def max_appliable(self, allow_unstable: bool) -> int:
        """The highest index that may be applied: committed, and stored unless allow_unstable."""
        return self.committed if allow_unstable else min(self.committed, self.offset - 1)

    def next_committed(self, allow_unstable: bool) -> list[Entry]:
        """Entries to apply that were not handed out yet, within max_applying_bytes."""
        if not self.has_next_committed(allow_unstable):
            return []
        return self.slice(
            self.applying + 1, self.max_appliable(allow_unstable) + 1, self.max_applying_bytes - self.applying_bytes
        )

    def has_next_committed(self, allow_unstable: bool) -> bool:
        """Whether next_committed() has any; none while a snapshot waits: it is applied first."""
        if self.applying_paused or self.snapshot is not None:
            return False
        return self.applying < self.max_appliable(allow_unstable)

    def accept_applying(self, index: int, bytes_: int, allow_unstable: bool) -> None:
        """A Ready has handed out entries up to `index`; pauses once max_applying_bytes are out or held more back."""
        self.applying = index
        self.applying_bytes += bytes_
        self.applying_paused = self.applying_bytes >= self.max_applying_bytes or index < self.max_appliable(
            allow_unstable
        )

    def has_unapplied_change(self) -> bool:
        """Whether a change of members is committed but not applied: the configuration in force is not yet the log's."""
        at, committed = self.applied + 1, self.committed
        while at <= committed:
            entries = self.slice(max(at, self.first_index()), committed + 1, SCAN_BYTES)
            if not entries:
                return False
            if any(entry.type != EntryType.NORMAL for entry in entries):
                return True
            at = entries[-1].index + 1
        return False

    def applied_to(self, index: int, bytes_: int) -> None:
        """Entries up to `index` (bytes_ of them) were applied."""
        assert self.applied <= index <= self.committed, f"applied {index}, was {self.applied}, commit {self.committed}"
        self.applied = index
        if self.applying < index:
            self.applying = index
        self.applying_bytes = max(self.applying_bytes - bytes_, 0)
        self.applying_paused = self.applying_bytes >= self.max_applying_bytes
