"""The file behind drivers/offline.py: rows in, rows out; which ones is decided there.

synchronous=NORMAL: a commit costs no fsync, a power cut may cost the last seconds but never the file; transactions that
hold a CRITICAL message are written with FULL.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from edgeswarm.drivers.store import StoreError
from edgeswarm.errors import LocalError, RemoteError

VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE messages (
  id INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL, priority INTEGER NOT NULL, qos INTEGER NOT NULL,
  retain INTEGER NOT NULL, size INTEGER NOT NULL, created REAL NOT NULL, expires REAL );
CREATE TABLE counters ( priority INTEGER, reason TEXT, count INTEGER NOT NULL, PRIMARY KEY (priority, reason) )
  WITHOUT ROWID;
"""
_LAST_ID: Final = (-1, "last_id")  # its row in counters
_IDS_MAX: Final = 500  # of one statement


class Row(NamedTuple):
    """A message without its payload.  size: bytes it weighs; created, expires: Unix seconds, None never."""

    id: int
    topic: str
    priority: int
    qos: int
    retain: int
    size: int
    created: float
    expires: float | None


Opened = tuple["Database", list[Row], dict[tuple[int, str], int], int]


class Database:
    """Used by one thread, but for payloads_here(), which has a connection of its own."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self._path, self._lock_fd = path, lock_fd
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._reader: sqlite3.Connection | None = None

    @classmethod
    def open(cls, path: Path) -> Opened:
        """(database, rows oldest first, counters, the last id ever used)."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock_fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalError(f"offline queue {path}: another process has it open") from None
            try:
                return cls._open(path, lock_fd)
            except sqlite3.OperationalError as error:  # no permission, no room
                raise StoreError(f"{path}: {error}") from error
            except (sqlite3.DatabaseError, ValueError, TypeError):
                _move_away(path)
                return cls._open(path, lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise

    @classmethod
    def _open(cls, path: Path, lock_fd: int) -> Opened:
        self = cls(path, lock_fd)
        try:
            rows, counters = self._load()
        except BaseException:
            self._database.close()
            raise
        os.chmod(path, 0o600)
        last_id = max([counters.pop(_LAST_ID, 0), *[row.id for row in rows]])
        return self, rows, counters, last_id

    def _load(self) -> tuple[list[Row], dict[tuple[int, str], int]]:
        execute = self._database.execute
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=NORMAL")
        version = execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
        elif version > VERSION:
            raise RemoteError(f"layout {version}, this version reads up to {VERSION}", who=str(self._path))
        if execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("quick_check")
        sql = "SELECT id, topic, priority, qos, retain, size, created, expires FROM messages ORDER BY id"
        rows = [Row(*row) for row in execute(sql)]
        if any(row.priority not in (0, 1, 2, 3) or row.qos not in (0, 1, 2) for row in rows):
            raise ValueError("a row is not of our making")
        return rows, {(priority, reason): count for priority, reason, count in execute("SELECT * FROM counters")}

    def write(
        self,
        rows: Sequence[tuple[Row, bytes]],
        gone: Sequence[int],
        counters: Mapping[tuple[int, str], int],
        *,
        synced: bool,
    ) -> None:
        """One transaction.  Raises sqlite3.Error, and then nothing has changed."""
        execute = self._database.execute
        execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
        execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany("DELETE FROM messages WHERE id = ?", [(id_,) for id_ in gone])
            insert = (
                "INSERT OR REPLACE INTO messages (id, topic, priority, qos, retain, size, created, expires, payload)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            )
            self._database.executemany(insert, [(*row, payload) for row, payload in rows])
            counts = [(int(priority), reason, count) for (priority, reason), count in counters.items() if count]
            if rows:
                counts.append((*_LAST_ID, max(row.id for row, _ in rows)))
            self._database.executemany("INSERT OR REPLACE INTO counters VALUES (?, ?, ?)", counts)
            execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                execute("ROLLBACK")
            raise

    def payloads(self, ids: Collection[int]) -> dict[int, bytes]:
        return _payloads(self._database, ids)

    def payloads_here(self, ids: Collection[int]) -> dict[int, bytes]:
        """The same, in another thread, without waiting for the writer."""
        if self._reader is None:
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            self._reader = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        return _payloads(self._reader, ids)

    def sync(self) -> None:
        self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        for database in (self._reader, self._database):
            if database is not None:
                database.close()
        os.close(self._lock_fd)


def _payloads(database: sqlite3.Connection, ids: Collection[int]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    wanted = sorted(ids)
    for at in range(0, len(wanted), _IDS_MAX):
        some = wanted[at : at + _IDS_MAX]
        sql = f"SELECT id, payload FROM messages WHERE id IN ({','.join('?' * len(some))})"
        found.update(database.execute(sql, some))
    return found


def _move_away(path: Path) -> None:
    os.replace(path, path.with_name(path.name + ".damaged"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
