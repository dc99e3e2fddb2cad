"""What can still be read of a damaged database, as a new one: for a cell whose only voter it was.

Where other voters live, a damaged database is moved away and its device rejoins as a learner: nothing is lost then.
Where there are none, entries behind the damage are lost for good, acknowledged or not; so this is as deliberate and as
audited as recovery from a lost quorum (raft_store_recover.py), and the damaged file is kept.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgeswarm.drivers.files import sync_directory
from edgeswarm.drivers.raft_store_check import verify
from edgeswarm.drivers.raft_store_schema import (
    SCHEMA_VERSION,
    StoreCorruptError,
    conf_from_bytes,
    connect,
    create,
    entry_crc,
    hard_data,
    lock,
    meta_crc,
    remove,
    snapshot_hash,
    unlock,
    wal_of,
)
from edgeswarm.drivers.raft_store_write import Write, Writer
from edgeswarm.errors import CodecError, LocalError
from edgeswarm.limits import RAFT_RECOVERY_TERMS
from edgeswarm.wire.raft import Entry, HardState, Snapshot

_UNREADABLE = (sqlite3.Error, CodecError, TypeError, ValueError, struct.error)


@dataclass(frozen=True, slots=True)
class Salvage:
    """kept: the damaged file.  last_index_before: of the last entry that was promised, 0 if that cannot be read."""

    at_wall: str
    operator: str
    reason: str
    fault: str
    kept: Path
    snapshot_index: int
    last_index: int
    last_index_before: int
    term: int

    def __str__(self) -> str:
        lost = f"{self.last_index_before - self.last_index} entries lost" if self.last_index_before else "loss unknown"
        read = f"snapshot {self.snapshot_index} and entries to {self.last_index}"
        return f"salvaged {read}, {lost}, term {self.term}, damaged database kept as {self.kept.name}"


def salvage(path: Path, reason: str, operator: str, *, at_wall: str = "") -> Salvage:
    """Replace the damaged database at `path` by what it still says; the member must not run.

    Raises LocalError if it is sound or not there; StoreCorruptError if nothing can be read that a log can start from.
    """
    if not reason.strip() or not operator.strip():
        raise LocalError("salvage: expected a reason and an operator's name, since both are kept")
    fault = verify(path).fault
    if not fault:
        raise LocalError(f"raft database {path}: it is sound, there is nothing to salvage")
    held = lock(path)
    try:
        return _salvage(path, fault, reason, operator, at_wall or datetime.now(UTC).isoformat())
    finally:
        unlock(held)


def _salvage(path: Path, fault: str, reason: str, operator: str, at_wall: str) -> Salvage:
    with tempfile.TemporaryDirectory(prefix="edgeswarm-salvage-") as folder:
        copy = Path(folder) / path.name
        for file in (path, wal_of(path)):
            if file.exists():
                shutil.copyfile(file, copy.with_name(file.name))
        read = _read(copy, path)
    snapshot, base, entries, hard, last_before, meta = read
    last = entries[-1].index if entries else base[0]
    term = max(hard.term, entries[-1].term if entries else base[1]) + RAFT_RECOVERY_TERMS
    done = Salvage(at_wall, operator, reason, fault, _kept(path), snapshot.index, last, last_before, term)
    fresh = path.with_name(path.name + ".salvaged")
    remove(fresh)
    create(fresh)
    database = connect(fresh)
    try:
        writer = Writer(database, fresh, hard_state=HardState(), last=(0, 0), base=0)
        writes = [Write(hard_state=HardState(term, 0, last), meta=meta)]
        if snapshot.index:  # the log may reach behind its snapshot: first the base, then the rest
            writes.append(Write(installed=Snapshot(*base, snapshot.conf, b"")))
        writes.append(Write(entries=entries))
        if snapshot.index:
            writes.append(Write(compacted=snapshot, base_index=base[0], base_term=base[1]))
        writer.write(writes)
        row = (at_wall, operator, reason, str(done))
        database.execute("INSERT INTO audit (at_wall, operator, reason, what) VALUES (?, ?, ?, ?)", row)
    finally:
        database.close()
    os.link(path, done.kept)
    if wal_of(path).exists():
        os.replace(wal_of(path), wal_of(done.kept))
    os.replace(fresh, path)
    sync_directory(path.parent)
    return done


_Read = tuple[Snapshot, tuple[int, int], list[Entry], HardState, int, dict[str, bytes | None]]


def _read(copy: Path, path: Path) -> _Read:
    """(snapshot, base, entries up to the damage, hard state, last index that was promised, meta)."""
    database = sqlite3.connect(copy, isolation_level=None)
    try:
        if database.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
            raise StoreCorruptError(path, "its layout cannot be told")
        snapshot, base = _read_snapshot(database, path)
        entries: list[Entry] = []
        for entry in _read_entries(database, *base):
            entries.append(entry)
        if snapshot.index > base[0] + len(entries):  # the snapshot holds more than the log: start behind it
            base, entries = (snapshot.index, snapshot.term), []
        hard, last_before = _read_hard_state(database)
        return snapshot, base, entries, hard, last_before, _read_meta(database)
    except sqlite3.Error as error:
        raise StoreCorruptError(path, str(error)) from error
    finally:
        database.close()


def _read_snapshot(database: sqlite3.Connection, path: Path) -> tuple[Snapshot, tuple[int, int]]:
    try:
        sql = "SELECT idx, term, base_idx, base_term, conf, data, sha256 FROM snapshot"
        row = database.execute(sql).fetchone()
        if row is None:
            return Snapshot(), (0, 0)
        index, term, base_index, base_term, conf, data, digest = row
        if snapshot_hash(index, term, base_index, base_term, conf, data) == digest:
            return Snapshot(index, term, conf_from_bytes(conf), data), (base_index, base_term)
    except _UNREADABLE as error:
        raise StoreCorruptError(path, f"its snapshot cannot be read: {error}") from error
    raise StoreCorruptError(path, "its snapshot is not what it was: no log can start from it")


def _read_entries(database: sqlite3.Connection, base_index: int, base_term: int) -> Iterator[Entry]:
    expected, term_before = base_index + 1, base_term
    try:
        sql = "SELECT idx, term, type, data, crc FROM log WHERE idx > ? ORDER BY idx"
        for index, term, kind, data, crc in database.execute(sql, (base_index,)):
            if index != expected or entry_crc(index, term, kind, data) != crc or term < term_before:
                return
            yield Entry(term, index, kind, data)
            expected, term_before = index + 1, term
    except _UNREADABLE:
        return


def _read_hard_state(database: sqlite3.Connection) -> tuple[HardState, int]:
    try:
        term, kind, data, crc = database.execute("SELECT term, type, data, crc FROM log WHERE idx = 0").fetchone()
        if entry_crc(0, term, kind, data) == crc:
            vote, commit, last_index, _ = hard_data(data)
            return HardState(term, vote, commit), last_index
    except _UNREADABLE:
        pass
    return HardState(), 0


def _read_meta(database: sqlite3.Connection) -> dict[str, bytes | None]:
    meta: dict[str, bytes | None] = {}
    try:
        for key, value, crc in database.execute("SELECT key, value, crc FROM meta"):
            if meta_crc(key, value) == crc:
                meta[key] = value
    except _UNREADABLE:
        pass
    return meta


def _kept(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return kept
