"""Writing a voter's database: what waits becomes one transaction; deleting and checkpointing wait for a quiet moment.

Lives in the store's thread.  The usual batch (entries after the last one, and the hard state) is one statement, since
each statement gives the interpreter's lock away and has to win it back from a busy loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from edgeswarm.drivers.raft_store_schema import (
    conf_to_bytes,
    entry_crc,
    explain,
    hard_row,
    meta_crc,
    snapshot_hash,
)
from edgeswarm.errors import LocalError, RemoteError
from edgeswarm.limits import RAFT_CHORE_FACTOR, RAFT_DELETE_ROWS, RAFT_WAL_BYTES
from edgeswarm.wire.raft import Entry, HardState, Snapshot

_ROWS_MAX: Final = 100  # of one statement, which is kept prepared for each number of rows
_PAGE_BYTES: Final = 4_096
_PAGES: Final = 3  # that a transaction writes beside its data: the hard state's, the last leaf, its parent
_INSERT: Final = "INSERT OR REPLACE INTO log VALUES "
_SNAPSHOT: Final = "INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?, ?, ?, ?, ?, ?)"


class Write(NamedTuple):
    """What one call wants on disk.

    installed: replaces the log.  compacted: a snapshot taken here, after which the log starts behind base_index, whose
    entry had base_term.  meta: values, None removes.
    """

    hard_state: HardState | None = None
    entries: Sequence[Entry] = ()
    installed: Snapshot | None = None
    compacted: Snapshot | None = None
    base_index: int = 0
    base_term: int = 0
    meta: Mapping[str, bytes | None] = {}


class _Merged:
    """Several writes as one.  base: (index, term) that changes with a snapshot."""

    __slots__ = ("base", "cut", "entries", "hard_state", "last", "meta", "snapshot", "wipe")

    def __init__(self, last: int) -> None:
        self.last = last  # index of the last row once all before is written
        self.hard_state: HardState | None = None
        self.entries: list[Entry] = []
        self.cut: int | None = None  # rows on disk from here on go
        self.wipe = False
        self.snapshot: Snapshot | None = None
        self.base = (0, 0)
        self.meta: dict[str, bytes | None] = {}

    def add(self, write: Write) -> None:
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        if write.installed is not None:
            snapshot = write.installed
            self.wipe, self.snapshot, self.base = True, snapshot, (snapshot.index, snapshot.term)
            self.entries, self.cut, self.last = [], None, snapshot.index
        if write.entries:
            self.add_entries(write.entries)
        if write.compacted is not None:
            self.snapshot, self.base = write.compacted, (write.base_index, write.base_term)
        if write.meta:
            self.meta.update(write.meta)

    def add_entries(self, entries: Sequence[Entry]) -> None:
        first = entries[0].index
        if first <= self.last:
            pending = self.last - len(self.entries)  # last row on disk that stays
            if first <= pending:
                self.entries = []
                self.cut = first
            else:
                del self.entries[first - pending - 1 :]
        self.entries.extend(entries)
        self.last = entries[-1].index


class Writer:
    """Owns the connection.  After an exception nothing more may be written: what it knows is ahead of the disk."""

    def __init__(
        self, database: sqlite3.Connection, path: Path, *, hard_state: HardState, last: tuple[int, int], base: int
    ) -> None:
        self._database = database
        self._path = path
        self._hard = hard_state
        self._last, self._last_crc = last
        self._base = base
        first = database.execute("SELECT MIN(idx) FROM log WHERE idx > 0").fetchone()[0]
        self._dead: int = base + 1 if first is None else min(first, base + 1)  # rows from here to the base may go
        self._wal_bytes = 0

    def write(self, writes: Sequence[Write]) -> int:
        """One transaction, synced.  Returns the bytes of entries, snapshots and values in it; 0: nothing to do."""
        if not writes:
            return 0
        merged = _Merged(self._last)
        for write in writes:
            merged.add(write)
        rows, size = self._rows(merged)
        plain = not (merged.wipe or merged.cut or merged.snapshot or merged.meta)
        if plain and len(rows) <= _ROWS_MAX:
            self._insert(rows)
        else:
            self._database.execute("BEGIN IMMEDIATE")
            size += self._write_rest(merged)
            for at in range(0, len(rows), _ROWS_MAX):
                self._insert(rows[at : at + _ROWS_MAX])
            self._database.execute("COMMIT")
        self._wal_bytes += size + _PAGES * _PAGE_BYTES
        return max(size, 1)

    def _rows(self, merged: _Merged) -> tuple[list[tuple[int, int, int, bytes, int]], int]:
        """Rows of `log` for the entries, then row 0; and the bytes of the entries."""
        rows = []
        size = 0
        if merged.wipe or merged.cut:
            self._last_crc = 0
        for index, entry in enumerate(merged.entries, merged.last - len(merged.entries) + 1):
            term, claimed, kind, data = entry
            assert claimed == index, f"entry {claimed} where {index} follows"
            crc = entry_crc(index, term, int(kind), data)
            rows.append((index, term, int(kind), data, crc))
            size += len(data)
        if rows:
            self._last_crc = rows[-1][4]
        self._last = merged.last
        if merged.hard_state is not None:
            self._hard = merged.hard_state
        if rows or merged.hard_state is not None or merged.snapshot is not None:
            rows.append(hard_row(self._hard, self._last, self._last_crc))
        return rows, size

    def _insert(self, rows: Sequence[tuple[int, int, int, bytes, int]]) -> None:
        if rows:
            sql = _INSERT + ",".join(("(?,?,?,?,?)",) * len(rows))
            self._database.execute(sql, [value for row in rows for value in row])

    def _write_rest(self, merged: _Merged) -> int:
        """Everything but the rows of `log`, inside the transaction.  Returns its bytes."""
        execute = self._database.execute
        size = 0
        if merged.wipe:
            execute("DELETE FROM log WHERE idx > 0")
        elif merged.cut is not None:
            execute("DELETE FROM log WHERE idx >= ?", (merged.cut,))
        if merged.snapshot is not None:
            index, term, conf, data = merged.snapshot
            base_index, base_term = merged.base
            conf_bytes = conf_to_bytes(conf)
            digest = snapshot_hash(index, term, base_index, base_term, conf_bytes, data)
            execute(_SNAPSHOT, (index, term, base_index, base_term, conf_bytes, data, digest))
            self._base = base_index
            if merged.wipe:
                self._dead = base_index + 1
            size += len(data)
        for key, value in merged.meta.items():
            if value is None:
                execute("DELETE FROM meta WHERE key = ?", (key,))
            else:
                execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, meta_crc(key, value)))
                size += len(value)
        return size

    # --- chores -----------------------------------------------------------------------------------------------------

    @property
    def chore_due(self) -> bool:
        return self._dead <= self._base or self._wal_bytes > RAFT_WAL_BYTES

    def chore(self, *, quiet: bool) -> None:
        """One slice of the work that nobody waits for; quiet: no job waits, else only what is long overdue."""
        factor = 1 if quiet else RAFT_CHORE_FACTOR
        dead = self._base + 1 - self._dead
        if dead > (0 if quiet else factor * RAFT_DELETE_ROWS):
            upto = min(self._base, self._dead + RAFT_DELETE_ROWS - 1)
            self._database.execute("DELETE FROM log WHERE idx BETWEEN ? AND ?", (self._dead, upto))
            self._dead = upto + 1
            self._wal_bytes += RAFT_DELETE_ROWS * 64  # pages that only lose rows, about
        elif self._wal_bytes > factor * RAFT_WAL_BYTES:
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._wal_bytes = 0

    def explain(self, error: sqlite3.Error | OSError) -> LocalError | RemoteError:
        return explain(error, self._path)

    def copy(self, path: Path) -> None:
        """What is committed, into a new database at `path`.  Raises sqlite3.Error."""
        target = sqlite3.connect(path)
        try:
            self._database.backup(target)
        finally:
            target.close()

    def close(self) -> None:
        """Never raises: what was acknowledged is on disk already."""
        try:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._database.close()
        except sqlite3.Error:
            return
