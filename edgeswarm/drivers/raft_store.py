"""What a voter must find again after a power cut: term, vote, log and snapshot.  SQLite, one thread.

`save_soon` is the hot path: it is called on the event loop, updates the mirror in memory (`storage`, what the Raft core
reads), and hands the rest to the store's thread, which takes everything that waits and writes it in one transaction.
WAL with synchronous=FULL: when `done(None)` is called, the data is past an fsync.
Invariants: done callbacks come in the order of the calls, on the loop; after one save has failed every later one fails
(the mirror is ahead of the disk: close, make room, open again); entries on disk are contiguous and follow the snapshot
or lie around it; commit <= last index.
A damaged database is refused with StoreCorruptError: what, where, and what to do (docs/recovery.md).
Left to others: when to take a snapshot, and what a member does when its disk fails (it must not vote or lead).
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from edgeswarm.core.raft.storage import MemoryStorage
from edgeswarm.drivers.raft_store_check import Loaded, load
from edgeswarm.drivers.raft_store_schema import (
    StoreCorruptError,
    connect,
    create,
    explain,
    lock,
    mark_made,
    unlock,
    wal_of,
    was_made,
)
from edgeswarm.drivers.raft_store_write import Write, Writer
from edgeswarm.drivers.store import StoreError
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError
from edgeswarm.limits import (
    RAFT_COMMIT_LAG_S,
    RAFT_ENTRY_BYTES_MAX,
    RAFT_LOG_KEPT,
    RAFT_META_BYTES_MAX,
    RAFT_META_KEYS_MAX,
    RAFT_QUIET_S,
    RAFT_SNAPSHOT_BYTES_MAX,
    RAFT_STORE_WAITING_BYTES_MAX,
)
from edgeswarm.wire.raft import Entry, HardState, Snapshot

__all__ = ["Done", "RaftStore", "RaftStoreStats", "StoreCorruptError", "StoreError"]

Done = Callable[[EdgeSwarmError | None], None]
"""Called on the loop: None when the data is past its fsync, else StoreError (full disk) or StoreCorruptError."""


class RaftStoreStats(NamedTuple):
    """Counters since open.  commits: transactions; saves: calls that were written; bytes: of entries and snapshots."""

    saves: int
    commits: int
    bytes: int
    waiting: int
    batch_max: int


class _Job(NamedTuple):
    write: Write | None
    """None: nothing to write, only its turn to wait for."""
    done: Done | None
    size: int
    copy: Path | None = None


_CLOSE: Final = _Job(None, None, -1)


class RaftStore:
    """Open with `await RaftStore.open(path)`; every method is called on the loop that opened it."""

    def __init__(self, path: Path, loaded: Loaded, writer: Writer, lock_fd: int) -> None:
        self.path = path
        self.storage: MemoryStorage = loaded.storage
        self.failed: EdgeSwarmError | None = None
        self._meta = dict(loaded.meta)
        self._hard = loaded.hard_state
        self._writer = writer
        self._lock_fd = lock_fd
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._in_flight = 0
        self._waiting_bytes = 0
        self._lag: asyncio.TimerHandle | None = None
        self._saves = self._commits = self._bytes = self._batch_max = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="raft-store", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, path: Path, *, make: bool = True) -> RaftStore:
        """Open, or make where there is none; `make=False` for a member that knows it has voted before.

        Raises StoreCorruptError; RemoteError for a newer layout; LocalError where another process has it open, or it is
        not there and must not be made; StoreError, OSError.
        """
        lock_fd, loaded, writer = await asyncio.get_running_loop().run_in_executor(None, _open, path, make)
        return cls(path, loaded, writer, lock_fd)

    # --- saving -----------------------------------------------------------------------------------------------------

    def save_soon(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: Snapshot | None,
        done: Done | None = None,
    ) -> None:
        """Make durable what a Ready of the core holds; never blocks.

        entries: contiguous; those already there from entries[0].index on are replaced.  snapshot: one received from
        the leader, it replaces the whole log before `entries` are added.  A call that changes nothing but the commit
        index is not synced: it goes with the next one, or within RAFT_COMMIT_LAG_S.
        Raises LimitError past the bounds of an entry, a snapshot or the queue, and then nothing has happened.
        """
        if self._refused(done):
            return
        size = self._admit(entries, snapshot)
        if snapshot is not None:
            self.storage.apply_snapshot(snapshot)
        if entries:
            entries = self._new_entries(entries)
            self.storage.append(tuple(entries))
        lazy = not entries and snapshot is None
        if hard_state is not None:
            lazy = lazy and hard_state.term == self._hard.term and hard_state.vote == self._hard.vote
            self._hard = hard_state
            self.storage.set_hard_state(hard_state)
        if not lazy:
            self._lag_off()
            self._put(_Job(Write(hard_state=self._hard, entries=entries, installed=snapshot), done, size))
            return
        if hard_state is not None and self._lag is None:
            self._lag = self._loop.call_later(RAFT_COMMIT_LAG_S, self._lag_over)
        if self._in_flight:
            self._put(_Job(None, done, 0))
        elif done is not None:
            self._loop.call_soon(done, None)

    async def save(
        self, hard_state: HardState | None, entries: Sequence[Entry] = (), snapshot: Snapshot | None = None
    ) -> None:
        """`save_soon` to wait for.  Raises what `done` would be given."""
        await self._wait(lambda done: self.save_soon(hard_state, entries, snapshot, done))

    def compact_soon(self, snapshot: Snapshot, done: Done | None = None, *, keep: int = RAFT_LOG_KEPT) -> None:
        """Keep `snapshot`, taken here at an applied index, and forget the entries up to snapshot.index - keep.

        One that is not newer than the snapshot there is changes nothing.  Raises UnavailableError (LocalError) for an
        index beyond the log, LimitError.
        """
        if self._refused(done):
            return
        if snapshot.index <= self.storage.snapshot().index:
            self._put(_Job(None, done, 0))
            return
        size = self._admit((), snapshot)
        snapshot = self.storage.create_snapshot(snapshot.index, snapshot.conf, snapshot.data)  # with the log's term
        base = max(snapshot.index - keep, self.storage.start)
        base_term = self.storage.term(base)
        if base > self.storage.start:
            self.storage.compact(base)
        self._lag_off()
        write = Write(hard_state=self._hard, compacted=snapshot, base_index=base, base_term=base_term)
        self._put(_Job(write, done, size))

    async def compact(self, snapshot: Snapshot, *, keep: int = RAFT_LOG_KEPT) -> None:
        await self._wait(lambda done: self.compact_soon(snapshot, done, keep=keep))

    # --- facts of the member ----------------------------------------------------------------------------------------

    def meta(self, key: str) -> bytes | None:
        """What was set last under `key`, whether on disk yet or not."""
        return self._meta.get(key)

    def set_meta_soon(self, key: str, value: bytes | None, done: Done | None = None) -> None:
        """value: None removes the key.  Raises LimitError past RAFT_META_BYTES_MAX or RAFT_META_KEYS_MAX."""
        if self._refused(done):
            return
        if value is not None and len(value) > RAFT_META_BYTES_MAX:
            raise LimitError(f"raft store: meta {key}: at most {RAFT_META_BYTES_MAX} bytes, found {len(value)}")
        if value is not None and key not in self._meta and len(self._meta) >= RAFT_META_KEYS_MAX:
            raise LimitError(f"raft store: at most {RAFT_META_KEYS_MAX} meta keys")
        if value is None:
            self._meta.pop(key, None)
        else:
            self._meta[key] = value
        self._put(_Job(Write(meta={key: value}), done, len(value or b"")))

    async def set_meta(self, key: str, value: bytes | None) -> None:
        await self._wait(lambda done: self.set_meta_soon(key, value, done))

    async def copy(self, path: Path) -> None:
        """A database of its own at `path` with what is on disk by then: for a backup.  Raises as `save`."""

        def start(done: Done) -> None:
            if not self._refused(done):
                self._put(_Job(None, done, 0, path))

        await self._wait(start)

    def stats(self) -> RaftStoreStats:
        return RaftStoreStats(self._saves, self._commits, self._bytes, self._in_flight, self._batch_max)

    async def close(self) -> None:
        """Write what waits, then close; a second call does nothing."""
        if self._closed:
            return
        if self._lag is not None and self.failed is None:
            self._lag_over()
        self._closed = True
        self._lag_off()
        self._jobs.put(_CLOSE)
        await self._loop.run_in_executor(None, self._thread.join)
        await asyncio.sleep(0)  # the last done callbacks
        unlock(self._lock_fd)

    # --- on the loop ------------------------------------------------------------------------------------------------

    async def _wait(self, start: Callable[[Done], None]) -> None:
        future: asyncio.Future[None] = self._loop.create_future()

        def done(error: EdgeSwarmError | None) -> None:
            if future.done():  # the waiter was cancelled
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        start(done)
        await future

    def _refused(self, done: Done | None) -> bool:
        """Whether an earlier failure answers this call."""
        if self._closed:
            raise LocalError(f"raft store {self.path}: used after close")
        if self.failed is None:
            return False
        if done is not None:
            self._loop.call_soon(done, self.failed)
        return True

    def _admit(self, entries: Sequence[Entry], snapshot: Snapshot | None) -> int:
        """The bytes that a call holds until it is on disk."""
        size = 0
        for entry in entries:
            length = len(entry.data)
            if length > RAFT_ENTRY_BYTES_MAX:
                raise LimitError(f"raft entry {entry.index}: at most {RAFT_ENTRY_BYTES_MAX} bytes, found {length}")
            size += length
        if snapshot is not None:
            if len(snapshot.data) > RAFT_SNAPSHOT_BYTES_MAX:
                found = len(snapshot.data)
                raise LimitError(f"raft snapshot: at most {RAFT_SNAPSHOT_BYTES_MAX} bytes, found {found}")
            size += len(snapshot.data)
        if self._in_flight and self._waiting_bytes + size > RAFT_STORE_WAITING_BYTES_MAX:
            raise LimitError(f"raft store: at most {RAFT_STORE_WAITING_BYTES_MAX} bytes wait for the disk")
        return size

    def _new_entries(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Those that the snapshot does not hold already."""
        known = self.storage.start + 1 - entries[0].index
        return entries[known:] if known > 0 else entries

    def _put(self, job: _Job) -> None:
        self._in_flight += 1
        self._waiting_bytes += job.size
        self._jobs.put(job)

    def _lag_over(self) -> None:
        self._lag = None
        self._put(_Job(Write(hard_state=self._hard), None, 0))

    def _lag_off(self) -> None:
        if self._lag is not None:
            self._lag.cancel()
            self._lag = None

    def _finished(self, jobs: list[_Job], error: EdgeSwarmError | None, written: int) -> None:
        """One batch is on disk, or failed."""
        self._in_flight -= len(jobs)
        self._batch_max = max(self._batch_max, len(jobs))
        if error is not None and self.failed is None:
            self.failed = error
            self._lag_off()
        for job in jobs:
            self._waiting_bytes -= job.size
            if error is None and job.write is not None:
                self._saves += 1
        if error is None:
            self._commits += written > 0
            self._bytes += written
        for job in jobs:
            if job.done is not None:
                job.done(error)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failed: EdgeSwarmError | None = None
        closing = False
        while not closing:
            jobs = self._take(failed is None and self._writer.chore_due)
            if not jobs:
                failed = self._chore(quiet=True)
                continue
            if jobs[-1] is _CLOSE:  # nothing is put after it
                jobs.pop()
                closing = True
            written = 0
            if failed is None:
                try:
                    written = self._writer.write([job.write for job in jobs if job.write is not None])
                    for job in jobs:
                        if job.copy is not None:
                            self._writer.copy(job.copy)
                except (sqlite3.Error, OSError) as error:
                    failed = self._writer.explain(error)
            if jobs:
                self._tell(jobs, failed, written)
            if failed is None and not closing:
                failed = self._chore(quiet=False)
        self._writer.close()

    def _take(self, chore_due: bool) -> list[_Job]:
        """Everything that waits; nothing if a chore is due and it was quiet for RAFT_QUIET_S."""
        jobs: list[_Job] = []
        try:
            jobs.append(self._jobs.get(timeout=RAFT_QUIET_S if chore_due else None))
            while True:
                jobs.append(self._jobs.get_nowait())
        except queue.Empty:
            return jobs

    def _chore(self, *, quiet: bool) -> EdgeSwarmError | None:
        try:
            self._writer.chore(quiet=quiet)
        except (sqlite3.Error, OSError) as error:
            return self._writer.explain(error)
        return None

    def _tell(self, jobs: list[_Job], error: EdgeSwarmError | None, written: int) -> None:
        try:
            self._loop.call_soon_threadsafe(self._finished, jobs, error, written)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            return


def _open(path: Path, make: bool) -> tuple[int, Loaded, Writer]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = lock(path)
    try:
        if not path.exists():
            if was_made(held) or wal_of(path).exists():
                raise StoreCorruptError(path, "it is gone, although this device has promised things with it")
            if not make:
                raise LocalError(f"raft database {path}: there is none")
            create(path)
        mark_made(held)
        database = connect(path)
        try:
            loaded = load(database, path)
        except BaseException:
            database.close()
            raise
    except sqlite3.Error as error:
        unlock(held)
        raise explain(error, path) from error
    except BaseException:
        unlock(held)
        raise
    storage = loaded.storage
    last = (storage.last_index(), loaded.last_crc)
    return held, loaded, Writer(database, path, hard_state=loaded.hard_state, last=last, base=storage.start)
