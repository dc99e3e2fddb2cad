"""Messages for a broker that is away: store and forward, bounded by bytes, number and age.  SQLite, one thread.

Everything is called on the event loop and does not wait for the disk: an index of all messages is in memory, the
payloads of the next ones to be taken are read ahead, and writes are handed to the thread in batches, every
OFFLINE_FLUSH_S or OFFLINE_FLUSH_BYTES (kind to SD cards: what is sent before that never touches the disk); CRITICAL is
written and synced at once.
When full, the oldest LOW goes first, then MEDIUM, HIGH, and CRITICAL last; a message never pushes out a higher class.
Of retained messages of one topic only the last is kept.  What was dropped is counted by class and reason, and the
counts outlive a restart.
Invariants: bytes and messages stored are within their bounds after every call; a message that was taken stays until
ack(); ids rise and are never used again.
Clocks: lifetimes run on the monotonic clock; over a restart the wall clock counts, unless it was not set (before
WALL_FLOOR), in which case a message gets its whole lifetime again.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgeswarm.drivers.mqtt.queue import Priority, StoredMessage
from edgeswarm.drivers.offline_db import Database, Row
from edgeswarm.drivers.offline_index import REASONS, Index, Item
from edgeswarm.errors import LocalError
from edgeswarm.limits import (
    OFFLINE_AGE_S_MAX,
    OFFLINE_AHEAD_BYTES,
    OFFLINE_BYTES_MAX,
    OFFLINE_FLUSH_BYTES,
    OFFLINE_FLUSH_S,
    OFFLINE_MESSAGES_MAX,
    OFFLINE_OVERHEAD_BYTES,
    OFFLINE_UNWRITTEN_BYTES_MAX,
)

WALL_FLOOR: Final = 1_767_225_600.0  # 2026-01-01: a wall clock before this was never set
Clock = Callable[[], float]


class OfflineStats(NamedTuple):
    """messages, bytes: stored now; unwritten: bytes of them that are not on disk yet.

    dropped: class name -> reason -> count.  error: what the disk said last, "" if the last write went well.
    """

    messages: int
    bytes: int
    unwritten: int
    writes: int
    dropped: dict[str, dict[str, int]]
    error: str


class _Job(NamedTuple):
    work: Callable[[], Any]
    then: Callable[[Any, Exception | None], None]


class OfflineQueue:
    """Open with `await OfflineQueue.open(path)`; it fits drivers/mqtt's protocol of the same name."""

    def __init__(
        self, database: Database, *, bytes_max: int, messages_max: int, age_s_max: float, wall: Clock, mono: Clock
    ) -> None:
        self._database = database
        self._wall, self._mono = wall, mono
        self._index = Index(bytes_max=bytes_max, messages_max=messages_max, age_s_max=age_s_max, removed=self._removed)
        self._counts = dict(self._index.dropped)  # as handed to the disk
        self._next_id = 1
        self._new: dict[int, Item] = {}  # not handed to the thread yet
        self._new_bytes = 0
        self._gone: list[int] = []  # on disk, or on their way there: to be deleted
        self._writing = 0  # bytes with the thread, one more for each transaction
        self._writes = 0
        self._reading = False
        self._error = ""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="offline", daemon=True)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        bytes_max: int = OFFLINE_BYTES_MAX,
        messages_max: int = OFFLINE_MESSAGES_MAX,
        age_s_max: float = OFFLINE_AGE_S_MAX,
        wall: Clock = time.time,
        mono: Clock = time.monotonic,
    ) -> OfflineQueue:
        """Open or make.  A damaged file is moved to <name>.damaged, since the messages in it are not worth a stop.

        Raises StoreError, LocalError where another process has it open, RemoteError for a newer layout, OSError.
        """
        loop = asyncio.get_running_loop()
        database, rows, counters, last_id = await loop.run_in_executor(None, Database.open, path)
        store = cls(database, bytes_max=bytes_max, messages_max=messages_max, age_s_max=age_s_max, wall=wall, mono=mono)
        store._restore(rows, counters, last_id)
        store._thread.start()
        store._read_ahead()
        await store.flush()  # behind the reading: the first take() finds its payloads
        return store

    # --- the queue --------------------------------------------------------------------------------------------------

    def put(self, topic: str, payload: bytes, priority: int, qos: int, retain: bool, expires_at: float | None) -> None:
        """Keep a message, or drop it and count why.  priority: of Priority; expires_at: Unix seconds, None never."""
        if self._closed:
            raise LocalError("offline queue: used after close")
        now, wall = self._mono(), self._wall()
        size = len(payload) + len(topic.encode()) + OFFLINE_OVERHEAD_BYTES
        refused = ""
        if size > self._index.bytes_max:
            refused = "too_large"
        elif expires_at is not None and expires_at <= wall:
            refused = "expired"
        elif self._new_bytes + self._writing + size > OFFLINE_UNWRITTEN_BYTES_MAX:
            refused = "disk"
        elif not self._index.make_room(size, priority, now):
            refused = "full"
        if refused:
            self._index.count(priority, refused)
            return
        row = Row(self._next_id, topic, priority, qos, int(retain), size, wall, expires_at)
        ends = None if expires_at is None else now + expires_at - wall
        item = Item(row, born=now, ends=ends, payload=payload)
        self._next_id += 1
        self._index.add(item)
        self._new[item.id] = item
        self._new_bytes += size
        self._flush_soon(at_once=priority == Priority.CRITICAL)

    def take(self, max_bytes: int, now: float | None = None) -> list[StoredMessage]:
        """The oldest of the highest class first: at most max_bytes of payload, but one message if there is any.

        What is taken stays stored until ack(), and may be taken again.  now: Unix seconds.
        """
        wall, mono = self._wall() if now is None else now, self._mono()
        taken: list[StoredMessage] = []
        while head := self._index.head(max_bytes):
            if not self._take_head(head, taken, wall, mono) or taken:
                break
        self._read_ahead()
        return taken

    def _take_head(self, head: list[Item], taken: list[StoredMessage], wall: float, mono: float) -> bool:
        """False: the disk does not give what was next."""
        for item in head:
            if self._index.outlived(item, mono):
                continue
            if item.payload is None:
                if taken:
                    return True  # the rest comes with the next call
                if not self._read_now(item):
                    if item in self._index:
                        return False
                    continue
            assert item.payload is not None
            ends = None if item.ends is None else wall + item.ends - mono
            taken.append(StoredMessage(item.id, item.topic, item.payload, item.priority, item.qos, item.retain, ends))
        return True

    def ack(self, ids: Iterable[int]) -> None:
        """They have arrived; unknown ids are passed over (superseded or dropped meanwhile)."""
        for id_ in ids:
            if (item := self._index.find(id_)) is not None:
                self._index.remove(item)
        self._read_ahead()

    def stats(self) -> OfflineStats:
        counts = self._index.dropped
        dropped = {p.name.lower(): {why: counts[p, why] for why in REASONS if counts[p, why]} for p in Priority}
        unwritten = sum(item.size for item in self._index if not item.written)
        return OfflineStats(len(self._index), self._index.bytes, unwritten, self._writes, dropped, self._error)

    def __len__(self) -> int:
        return len(self._index)

    async def flush(self) -> None:
        """Everything so far is on disk, synced; where the disk refuses, stats().error says why."""
        done = asyncio.Event()
        self._flush(counts=True)
        self._jobs.put(_Job(self._database.sync, lambda _, error: done.set()))
        await done.wait()

    async def close(self) -> None:
        """Write what is left; a second call does nothing."""
        if self._closed:
            return
        await self.flush()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _removed(self, item: Item) -> None:
        if self._new.pop(item.id, None) is not None:
            self._new_bytes -= item.size  # it never touches the disk
        else:
            self._gone.append(item.id)
            self._flush_soon()

    def _restore(self, rows: list[Row], counters: dict[tuple[int, str], int], last_id: int) -> None:
        """Take over what an earlier run left; today's bounds hold for it too."""
        now, wall = self._mono(), self._wall()
        self._next_id = last_id + 1
        for key in counters.keys() & self._index.dropped.keys():
            self._index.dropped[key] = counters[key]
        self._counts = dict(self._index.dropped)
        for row in rows:
            known = row.created >= WALL_FLOOR and wall >= WALL_FLOOR
            age = max(0.0, wall - row.created) if known else 0.0
            ends = None if row.expires is None else now + row.expires - row.created - age
            self._index.add(Item(row, born=now - age, ends=ends, payload=None))
        self._index.drop_outlived(now)
        self._index.make_room(0, Priority.CRITICAL, now)

    # --- disk: writing ----------------------------------------------------------------------------------------------

    def _flush_soon(self, *, at_once: bool = False) -> None:
        if (at_once or self._new_bytes >= OFFLINE_FLUSH_BYTES) and not self._writing and not self._error:
            self._flush()
        elif self._timer is None and not self._closed:
            self._timer = self._loop.call_later(OFFLINE_FLUSH_S, self._flush_due)

    def _flush_due(self) -> None:
        self._timer = None
        self._index.drop_outlived(self._mono())
        if not self._writing:
            self._flush()
        if self._new or self._gone:  # the disk is slow
            self._flush_soon()

    def _flush(self, *, counts: bool = False) -> None:
        """Hand over what is new and what is gone, as one transaction; counts: also if only the counters changed."""
        if not (self._new or self._gone or (counts and self._counts != self._index.dropped)):
            return
        items, gone, size = list(self._new.values()), self._gone, self._new_bytes + 1
        now, wall = self._mono(), self._wall()
        rows = [(item.row(now, wall), item.payload or b"") for item in items]
        counters = self._counts = dict(self._index.dropped)
        synced = any(item.priority == Priority.CRITICAL for item in items)
        self._writing += size
        self._new, self._new_bytes, self._gone = {}, 0, []

        def then(_: Any, error: Exception | None) -> None:
            self._writing -= size
            if error is None:
                self._flushed(items)
            else:
                self._not_flushed(items, gone, error)

        self._jobs.put(_Job(lambda: self._database.write(rows, gone, counters, synced=synced), then))

    def _flushed(self, items: list[Item]) -> None:
        self._error = ""
        self._writes += 1
        for item in items:
            item.written = True
        ahead = 0
        for item in self._index:  # what is next stays in memory, and what is not on disk
            if item.payload is not None and item.written and ahead >= OFFLINE_AHEAD_BYTES:
                item.payload = None
            elif item.payload is not None:
                ahead += item.size
        if self._new or self._gone:
            self._flush_soon(at_once=any(item.priority == Priority.CRITICAL for item in self._new.values()))

    def _not_flushed(self, items: list[Item], gone: list[int], error: Exception) -> None:
        """They wait for the next try, OFFLINE_FLUSH_S later."""
        self._error = str(error)
        again = {item.id: item for item in items if item in self._index}
        self._new = again | self._new
        self._new_bytes += sum(item.size for item in again.values())
        self._gone = gone + self._gone
        self._flush_soon()

    # --- disk: reading ----------------------------------------------------------------------------------------------

    def _read_ahead(self) -> None:
        """Ask the thread for the payloads that take() will want next."""
        if self._reading or self._closed:
            return
        wanted = [item for item in self._index.head(OFFLINE_AHEAD_BYTES) if item.payload is None]
        if not wanted:
            return
        self._reading = True
        ids = [item.id for item in wanted]

        def then(found: Any, error: Exception | None) -> None:
            self._reading = False
            if error is None:
                self._read(wanted, found)

        self._jobs.put(_Job(lambda: self._database.payloads(ids), then))

    def _read(self, wanted: list[Item], found: dict[int, bytes]) -> None:
        for item in wanted:
            if item in self._index and item.payload is None:
                item.payload = found.get(item.id)
                if item.payload is None:
                    self._index.drop(item, "disk")

    def _read_now(self, item: Item) -> bool:
        """The one case that reads on the loop, one message: take() has run ahead of the thread."""
        try:
            found = self._database.payloads_here([item.id])
        except sqlite3.Error as error:
            self._error = str(error)
            return False
        self._read([item], found)
        return item.payload is not None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            result: Any = None
            error: Exception | None = None
            try:
                result = job.work()
            except (sqlite3.Error, OSError) as caught:
                error = caught
            try:
                self._loop.call_soon_threadsafe(job.then, result, error)
            except RuntimeError:  # the loop is closed
                break
        self._database.close()
