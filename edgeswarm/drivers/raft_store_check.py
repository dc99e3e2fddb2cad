"""Reading a voter's database back, with every check that can be made: what is wrong is said, never repaired.

`load` is part of every opening; `verify` looks at a copy, for `edgeswarm swarm check`.
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from edgeswarm.core.raft.storage import MemoryStorage
from edgeswarm.drivers.raft_store_schema import (
    SCHEMA,
    StoreCorruptError,
    conf_from_bytes,
    connect,
    entry_crc,
    explain_read,
    hard_data,
    lock,
    meta_crc,
    snapshot_hash,
    unlock,
    wal_of,
)
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError
from edgeswarm.limits import RAFT_LOG_ENTRIES_MAX, RAFT_SNAPSHOT_BYTES_MAX
from edgeswarm.wire.raft import ConfState, Entry, EntryType, HardState, Snapshot

_TYPES = {int(kind): kind for kind in EntryType}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a database holds.  last_crc: of the last entry, 0 where there is none.  audits: one line a recovery."""

    storage: MemoryStorage
    hard_state: HardState
    meta: dict[str, bytes]
    last_crc: int
    audits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found.  fault: empty if the database is sound; then the other fields hold."""

    path: str
    fault: str
    term: int = 0
    vote: int = 0
    commit: int = 0
    first_index: int = 0
    last_index: int = 0
    snapshot_index: int = 0
    snapshot_term: int = 0
    conf: ConfState = field(default_factory=ConfState)
    meta_keys: tuple[str, ...] = ()
    audits: tuple[str, ...] = ()


def verify(path: Path) -> Report:
    """Check the database at `path` without changing it; nobody may have it open.

    Raises LocalError if it is not there or in use, OSError.
    """
    if not path.exists():
        raise LocalError(f"raft database {path}: there is none")
    held = lock(path)
    try:
        with tempfile.TemporaryDirectory(prefix="edgeswarm-check-") as folder:
            copy = Path(folder) / path.name
            for file in (path, wal_of(path)):
                if file.exists():
                    shutil.copyfile(file, copy.with_name(file.name))
            return _verify(copy, path)
    finally:
        unlock(held)


def _verify(copy: Path, path: Path) -> Report:
    try:
        database = connect(copy)
        try:
            found = load(database, copy)
        finally:
            database.close()
    except StoreCorruptError as error:
        return Report(str(path), error.found)
    except EdgeSwarmError as error:
        return Report(str(path), str(error).replace(str(copy), str(path)))
    storage, hard, snapshot = found.storage, found.hard_state, found.storage.snapshot()
    return Report(
        path=str(path),
        fault="",
        term=hard.term,
        vote=hard.vote,
        commit=hard.commit,
        first_index=storage.first_index(),
        last_index=storage.last_index(),
        snapshot_index=snapshot.index,
        snapshot_term=snapshot.term,
        conf=snapshot.conf,
        meta_keys=tuple(sorted(found.meta)),
        audits=found.audits,
    )


# --- load -----------------------------------------------------------------------------------------------------------


def load(database: sqlite3.Connection, path: Path) -> Loaded:
    """Everything in the database.  Raises StoreCorruptError, LimitError past RAFT_LOG_ENTRIES_MAX, StoreError."""
    try:
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StoreCorruptError(path, f"quick_check: {str(found).strip():.300}")
        if _tables(database) != _expected_tables():
            raise StoreCorruptError(path, "its tables are not those of its layout")
        return _load(database, path)
    except sqlite3.DatabaseError as error:
        raise explain_read(error, path) from error
    except (TypeError, ValueError, struct.error) as error:  # a column of a kind that we do not write
        raise StoreCorruptError(path, f"a row is not of our making: {error}") from error


def _tables(database: sqlite3.Connection) -> list[tuple[str, str]]:
    return database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()


def _expected_tables() -> list[tuple[str, str]]:
    database = sqlite3.connect(":memory:", isolation_level=None)
    try:
        database.executescript(SCHEMA)
        return _tables(database)
    finally:
        database.close()


def _load(database: sqlite3.Connection, path: Path) -> Loaded:
    snapshot, base_index, base_term = _load_snapshot(database, path)
    entries, last_crc = _load_entries(database, path, base_index, base_term)
    last_index = base_index + len(entries)
    hard = _load_hard_state(database, path, (last_index, last_crc), anything=bool(entries or snapshot.index))
    last_term = entries[-1].term if entries else base_term
    if hard.commit > last_index:
        raise StoreCorruptError(path, f"commit index {hard.commit}, but the log ends at {last_index}")
    if hard.term < last_term:
        raise StoreCorruptError(path, f"term {hard.term}, but the last entry has term {last_term}")
    if snapshot.index > last_index:
        raise StoreCorruptError(path, f"the log ends at {last_index}, before its snapshot at {snapshot.index}")
    if snapshot.index > base_index and entries[snapshot.index - base_index - 1].term != snapshot.term:
        raise StoreCorruptError(path, f"entry {snapshot.index} has another term than the snapshot there")
    hard = hard._replace(commit=max(hard.commit, snapshot.index))
    storage = MemoryStorage()
    storage.snapshot_, storage.conf = snapshot, snapshot.conf
    storage.start, storage.start_term = base_index, base_term
    storage.log = entries
    storage.set_hard_state(hard)
    sql = "SELECT at_wall, operator, reason, what FROM audit ORDER BY id"
    audits = tuple(f"{at} {who}: {what} ({why})" for at, who, why, what in database.execute(sql))
    return Loaded(storage, hard, _load_meta(database, path), last_crc, audits)


def _load_snapshot(database: sqlite3.Connection, path: Path) -> tuple[Snapshot, int, int]:
    """The snapshot, and the index and term after which the log starts."""
    sql = "SELECT idx, term, base_idx, base_term, conf, data, sha256 FROM snapshot"
    row = database.execute(sql).fetchone()
    if row is None:
        return Snapshot(), 0, 0
    index, term, base_index, base_term, conf, data, digest = row
    if snapshot_hash(index, term, base_index, base_term, conf, data) != digest:
        raise StoreCorruptError(path, f"snapshot {index}: its SHA-256 does not match")
    if not 0 <= base_index <= index or not 0 <= base_term <= term:
        raise StoreCorruptError(path, f"snapshot {index} of term {term}: the log cannot start after {base_index}")
    if len(data) > RAFT_SNAPSHOT_BYTES_MAX:
        raise LimitError(f"raft snapshot: at most {RAFT_SNAPSHOT_BYTES_MAX} bytes, found {len(data)}")
    return Snapshot(index, term, conf_from_bytes(conf), data), base_index, base_term


def _load_entries(database: sqlite3.Connection, path: Path, base_index: int, base_term: int) -> tuple[list[Entry], int]:
    """The entries after base_index, and the last one's CRC.  Rows up to base_index are compacted ones not yet gone."""
    entries: list[Entry] = []
    expected, term_before, crc = base_index + 1, base_term, 0
    sql = "SELECT idx, term, type, data, crc FROM log WHERE idx > ? ORDER BY idx"
    for index, term, kind, data, crc in database.execute(sql, (base_index,)):
        if index != expected:
            raise StoreCorruptError(path, f"entry {expected} is missing, the next one is {index}")
        if entry_crc(index, term, kind, data) != crc:
            raise StoreCorruptError(path, f"entry {index}: its checksum does not match")
        if term < term_before:
            raise StoreCorruptError(path, f"entry {index} has term {term}, the one before it {term_before}")
        entries.append(Entry(term, index, _TYPES.get(kind, kind), data))
        if len(entries) > RAFT_LOG_ENTRIES_MAX:
            raise LimitError(f"raft log {path}: at most {RAFT_LOG_ENTRIES_MAX} entries; it was never compacted")
        expected, term_before = index + 1, term
    return entries, crc


def _load_hard_state(database: sqlite3.Connection, path: Path, last: tuple[int, int], *, anything: bool) -> HardState:
    """last: index and CRC of the last entry, as the rows have it; anything: whether there is an entry or a snapshot."""
    row = database.execute("SELECT term, type, data, crc FROM log WHERE idx = 0").fetchone()
    if row is None:
        if anything:
            raise StoreCorruptError(path, "the hard state is missing")
        return HardState()
    term, kind, data, crc = row
    if entry_crc(0, term, kind, data) != crc:
        raise StoreCorruptError(path, "hard state: its checksum does not match")
    vote, commit, last_index, last_crc = hard_data(data)
    if last_index != last[0] or (last[1] and last_crc != last[1]):
        raise StoreCorruptError(path, f"the log ends at {last[0]}, but {last_index} was the last entry saved")
    return HardState(term, vote, commit)


def _load_meta(database: sqlite3.Connection, path: Path) -> dict[str, bytes]:
    meta = {}
    for key, value, crc in database.execute("SELECT key, value, crc FROM meta"):
        if meta_crc(key, value) != crc:
            raise StoreCorruptError(path, f"meta {key}: its checksum does not match")
        meta[key] = value
    return meta
