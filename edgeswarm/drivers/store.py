"""What the supervisor must find again after a restart: deployed agents and frames set aside.  SQLite, one thread.

Every call runs in the one thread that owns the connection; `close` waits for what was asked.  WAL with
synchronous=FULL: what `put_agent` has answered survives a power cut.
Invariant: one store at a time is open in a directory (flock on it, which ends with the process, however that ends).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgeswarm.errors import LocalError, RemoteError
from edgeswarm.limits import SET_ASIDE_FRAMES_MAX

T = TypeVar("T")
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE agents (
  name TEXT PRIMARY KEY, artefact TEXT NOT NULL, wanted TEXT NOT NULL CHECK (wanted IN ('running', 'stopped')), place
  INTEGER NOT NULL );
CREATE TABLE set_aside (
  id INTEGER PRIMARY KEY, agent TEXT NOT NULL, artefact TEXT NOT NULL, seq INTEGER NOT NULL, why TEXT NOT NULL,
  at_wall TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, frame BLOB NOT NULL
);
"""


class StoreError(LocalError):
    """The database cannot be opened, read or written: a full disk, no permission."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """One row of `agents`; wanted: "running" or "stopped"."""

    name: str
    artefact: str
    wanted: str


class Store:
    """Open with `await Store.open(path)`."""

    def __init__(self, path: Path, *, lock: int = -1) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._database: sqlite3.Connection | None = None
        self._directory = lock

    @classmethod
    async def open(cls, path: Path, *, lock: int = -1) -> Store:
        """lock: a copy of `lock_fd` of the store that an earlier program of this process had open, else -1.

        Raises LocalError where another supervisor has it open, RemoteError if the file is no database of ours or of
        a newer version, StoreError, OSError."""
        store = cls(path, lock=lock)
        try:
            await store.run(store._connect)
        except BaseException:
            await store.close()
            raise
        return store

    @property
    def lock_fd(self) -> int:
        """The descriptor that keeps other supervisors off the directory, as long as any copy of it is open."""
        return self._directory

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in the store's thread.  Raises StoreError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error

    def _connect(self) -> None:
        folder = self._path.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._directory < 0:
            self._directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError(f"state directory {folder}: another supervisor uses it") from None
        database = sqlite3.connect(self._path, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                database.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            elif version != SCHEMA_VERSION:
                raise RemoteError(f"schema {version}, this version reads {SCHEMA_VERSION}", who=str(self._path))
        except sqlite3.OperationalError:
            database.close()
            raise
        except sqlite3.DatabaseError as error:
            database.close()
            raise RemoteError(
                f"not a database of ours: {error}; move it away to start afresh", who=str(self._path)
            ) from error
        self._database = database

    @property
    def _db(self) -> sqlite3.Connection:
        assert self._database is not None, "store used before open"
        return self._database

    async def put_agent(self, deployed: Deployed) -> None:
        sql = (
            "INSERT INTO agents (name, artefact, wanted, place)"
            " VALUES (?, ?, ?, (SELECT IFNULL(MAX(place), 0) + 1 FROM agents))"
            " ON CONFLICT (name) DO UPDATE SET artefact = excluded.artefact, wanted = excluded.wanted"
        )
        await self.run(lambda: self._db.execute(sql, (deployed.name, deployed.artefact, deployed.wanted)))

    async def remove_agent(self, name: str) -> None:
        await self.run(lambda: self._db.execute("DELETE FROM agents WHERE name = ?", (name,)))

    async def agents(self) -> list[Deployed]:
        """In the order of their first deployment."""
        sql = "SELECT name, artefact, wanted FROM agents ORDER BY place"
        return [Deployed(*row) for row in await self.run(lambda: self._db.execute(sql).fetchall())]

    async def set_aside(self, agent: str, artefact: str, seq: int, why: str, frame: bytes) -> None:
        """Keep a frame that no jail could answer; beyond SET_ASIDE_FRAMES_MAX the oldest goes."""

        def work() -> None:
            self._db.execute(
                "INSERT INTO set_aside (agent, artefact, seq, why, frame) VALUES (?, ?, ?, ?, ?)",
                (agent, artefact, seq, why, frame),
            )
            self._db.execute(
                "DELETE FROM set_aside WHERE id <= (SELECT MAX(id) FROM set_aside) - ?", (SET_ASIDE_FRAMES_MAX,)
            )

        await self.run(work)

    async def frames_set_aside(self, agent: str) -> list[tuple[int, str, bytes]]:
        """(seq, why, frame bytes), oldest first."""
        sql = "SELECT seq, why, frame FROM set_aside WHERE agent = ? ORDER BY id"
        return await self.run(lambda: self._db.execute(sql, (agent,)).fetchall())

    async def bytes_set_aside(self, agent: str) -> int:
        """What the frames of this agent that are kept take."""
        sql = "SELECT COALESCE(SUM(LENGTH(frame)), 0) FROM set_aside WHERE agent = ?"
        return int(await self.run(lambda: self._db.execute(sql, (agent,)).fetchone()[0]))

    async def close(self, *, unlock: bool = True) -> None:
        """unlock: False keeps `lock_fd` open, for who takes over."""
        if self._database is not None:
            await self.run(self._database.close)
            self._database = None
        if not unlock:
            self._thread.shutdown()
            return
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1
        self._thread.shutdown()
