"""A disk that forgets what was not fsynced, and the log that a node keeps on it.

SimDisk is one file.  What is written is in the page cache; fsync takes virtual time while the node goes on.  A process
that is killed leaves the page cache; a power loss leaves, of every sector that no finished fsync covers, the new
bytes, zeros or rubbish, each by its own chance (so later writes may survive earlier ones), and cuts the file anywhere.
Invariant: no byte that a finished fsync covers is ever lost.
SimStore keeps one checksummed record per save and takes, after a crash, the records up to the first that is not whole:
what drivers/raft_store.py promises by SQLite's write-ahead log, without SQLite.
"""

from __future__ import annotations

import pickle
import random
import struct
import zlib
from collections.abc import Callable, Sequence

from sim_world import MS, World

from edgeswarm.core.raft.storage import MemoryStorage
from edgeswarm.wire.raft import ConfState, Entry, HardState, Snapshot

SECTOR_BYTES = 512
_HEAD = struct.Struct("<II")


class SimDisk:
    """latency_us: (low, high) of one fsync; the nemesis makes a disk slow by changing it."""

    def __init__(self, world: World, *, latency_us: tuple[int, int] = (100, 2 * MS)) -> None:
        self._world = world
        self.latency_us = latency_us
        self.data = bytearray()
        self.durable_bytes = 0
        self.full = False
        self._free_us = 0  # when the fsync under way is done: one at a time
        self._life = 0

    def write(self, data: bytes) -> None:
        self.data += data

    def fsync(self, done: Callable[[], object]) -> None:
        """Calls `done` when everything written so far is safe; never, if the machine dies before."""
        start = max(self._world.now_us, self._free_us)
        self._free_us = start + self._world.between(*self.latency_us)
        self._world.at(self._free_us, self._finish, self._life, len(self.data), done)

    def _finish(self, life: int, covered: int, done: Callable[[], object]) -> None:
        if life == self._life:
            self.durable_bytes = max(self.durable_bytes, covered)
            done()

    def crash(self, *, power_loss: bool) -> None:
        """The process is gone, and with power_loss the page cache too."""
        self._life += 1
        self._free_us = self._world.now_us
        if power_loss:
            self.data = survivors(self.data, self.durable_bytes, self._world.rng)
        self.durable_bytes = len(self.data)  # what recovery read back is on the platter


def survivors(data: bytearray, durable_bytes: int, rng: random.Random) -> bytearray:
    """What a power loss leaves of a file."""
    kept = bytearray(data[:durable_bytes])
    at = durable_bytes
    while at < len(data):
        end = min(len(data), (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        match rng.randrange(5):
            case 0 | 1:
                kept += data[at:end]
            case 2:
                kept += bytes(end - at)
            case 3:
                kept += rng.randbytes(end - at)
            case _:  # torn within the sector
                cut = rng.randint(at, end)
                kept += data[at:cut] + bytes(end - cut)
        at = end
    if rng.random() < 0.5:
        del kept[rng.randint(durable_bytes, len(kept)) :]
    return kept


class DiskFullError(OSError):
    """No space left on device."""


class SimStore:
    """What a voter keeps: the same calls as drivers.raft_store.RaftStore, on a SimDisk.

    storage: the mirror in memory, which is ahead of the disk while a save is under way.
    durable, durable_last: the hard state and the last index that a finished fsync covers; for checkers.
    """

    def __init__(self, disk: SimDisk, *, conf: ConfState | None = None) -> None:
        self.disk = disk
        self.storage = MemoryStorage()
        self.meta: dict[str, int] = {}
        self.durable = HardState()
        self.call: Callable[..., object] = lambda act, args: act(*args)  # into the node's process
        if not disk.data and conf is not None:  # a founding member: the log begins behind a snapshot that all share
            self._put(None, (), Snapshot(1, 1, conf, b""), None)
            disk.durable_bytes = len(disk.data)
        self._recover()

    def _recover(self) -> None:
        data, at = self.disk.data, 0
        while at + _HEAD.size <= len(data):
            size, crc = _HEAD.unpack_from(data, at)
            body = bytes(data[at + _HEAD.size : at + _HEAD.size + size])
            if size == 0 or len(body) < size or zlib.crc32(body) != crc:
                break
            self._replay(*pickle.loads(body))
            at += _HEAD.size + size
        del data[at:]
        self.disk.durable_bytes = len(data)
        self.durable = self.storage.hard_state
        self.durable_last = self.storage.last_index()
        self._saving = self.durable

    def _replay(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: Snapshot | None,
        made: tuple[Snapshot, int] | None,
    ) -> None:
        storage = self.storage
        if snapshot is not None and snapshot.index > storage.snapshot_.index:
            storage.apply_snapshot(snapshot)
        if entries:
            storage.append(tuple(entries))
        if hard_state is not None:
            storage.set_hard_state(hard_state)
        if made is not None:
            self._keep(*made)

    def _keep(self, snapshot: Snapshot, base: int) -> None:
        if snapshot.index > self.storage.snapshot_.index:
            self.storage.create_snapshot(snapshot.index, snapshot.conf, snapshot.data)
            self.storage.conf = snapshot.conf  # what a restart starts from
            if base > self.storage.start:
                self.storage.compact(base)

    def _put(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: Snapshot | None,
        made: tuple[Snapshot, int] | None,
    ) -> None:
        if self.disk.full:
            raise DiskFullError("no space left on device")
        body = pickle.dumps((hard_state, tuple(entries), snapshot, made), protocol=5)
        self.disk.write(_HEAD.pack(len(body), zlib.crc32(body)) + body)

    def save_soon(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: Snapshot | None,
        done: Callable[[BaseException | None], None],
    ) -> None:
        """See RaftStore.save_soon: the mirror is changed at once, `done` is called when the disk has it."""
        try:
            self._put(hard_state, entries, snapshot, None)
        except DiskFullError as error:
            done(error)
            return
        self._replay(hard_state, entries, snapshot, None)
        only_commit = self._only_commit(hard_state)
        if only_commit and not entries and snapshot is None:
            done(None)  # a commit index is no promise: it goes to the disk with the next save
            return
        saved, last = self.storage.hard_state, self.storage.last_index()
        self.disk.fsync(lambda: self.call(self._saved, (saved, last, done)))

    def _only_commit(self, hard_state: HardState | None) -> bool:
        before, self._saving = self._saving, self.storage.hard_state
        return hard_state is None or hard_state[:2] == before[:2]

    def _saved(self, hard_state: HardState, last: int, done: Callable[[BaseException | None], None]) -> None:
        self.durable, self.durable_last = hard_state, last
        done(None)

    def make_snapshot(
        self, index: int, conf: ConfState, data: bytes, *, keep: int, done: Callable[[], object] = lambda: None
    ) -> None:
        """Keep the state after `index` and drop the log up to `keep` entries before it; `done` when the disk has it."""
        snapshot = Snapshot(index, self.storage.term(index), conf, data)
        base = max(index - keep, self.storage.start)
        self._put(None, (), None, (snapshot, base))
        self._keep(snapshot, base)
        self.disk.fsync(done)
