"""Power cuts and damage: a database gives back what was acknowledged, or is refused with what, where and what to do."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeswarm.core.raft.storage import MemoryStorage
from edgeswarm.drivers.raft_store import RaftStore, StoreCorruptError
from edgeswarm.drivers.raft_store_check import verify
from edgeswarm.drivers.raft_store_wal import check_wal
from edgeswarm.errors import RemoteError
from edgeswarm.wire.raft import ConfState, Entry, EntryType, HardState, Snapshot

ROOT = Path(__file__).resolve().parents[2]
CUTS = 10
CUTS_SOAK = 200
FRAME_BYTES = 24 + 4_096
CONF = ConfState(voters=(1, 2, 3))


def entry(index: int) -> Entry:
    """Entries of different sizes, some of several pages."""
    return Entry(1 + index // 50, index, EntryType.NORMAL, random.Random(index).randbytes(index * 37 % 6_000))


def terms(index: int) -> HardState:
    return HardState(1 + index // 50, 2, max(0, index - 3))


async def fill(store: RaftStore, first: int, last: int) -> None:
    """One transaction an entry."""
    for index in range(first, last + 1):
        await store.save(terms(index), [entry(index)])


def copy(path: Path, folder: Path) -> Path:
    """The database as a power cut now would leave it."""
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(path.with_name(path.name + suffix), folder / (path.name + suffix))
    return folder / path.name


def log_of(storage: MemoryStorage) -> list[Entry]:
    return list(storage.log)


async def read(path: Path) -> list[Entry]:
    store = await RaftStore.open(path, make=False)
    await store.close()
    return log_of(store.storage)


# --- kill -9 ---------------------------------------------------------------------------------------------------------

WRITER = """
import asyncio, random, sys
from pathlib import Path
from edgeswarm.drivers.raft_store import RaftStore
from edgeswarm.wire.raft import Entry, HardState, Snapshot, ConfState

async def main():
    store = await RaftStore.open(Path(sys.argv[1]))
    last = store.storage.last_index()
    while True:
        def done(error, last=last):
            assert error is None
            sys.stdout.write(f"{store_last[last]}\\n"); sys.stdout.flush()
        count = random.randint(1, 20)
        store_last[last] = last + count
        entries = [Entry(1, last + 1 + n, 0, b"%d" % (last + 1 + n)) for n in range(count)]
        store.save_soon(HardState(1, 1, last), entries, None, done)
        last += count
        if random.random() < 0.3:
            await store.save(None)
        if random.random() < 0.02 and last > 50:
            await store.compact(Snapshot(last - 20, 1, ConfState(voters=(1,)), b"s" * 5000), keep=10)

store_last = {}
asyncio.run(main())
"""


def kill_one(path: Path, after_s: float) -> int:
    """Run the writer, kill it, and return the last index that it said was saved."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]  # it has started
        time.sleep(after_s)
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines(keepends=True)
    whole = [int(line) for line in lines if line.endswith("\n")]
    return whole[-1] if whole else 0


async def kills(path: Path, count: int) -> None:
    rng = random.Random(count)
    for _ in range(count):
        acknowledged = kill_one(path, rng.random() * 0.2)
        store = await RaftStore.open(path)
        await store.close()
        storage = store.storage
        assert storage.last_index() >= acknowledged > 0
        assert all(e.data == b"%d" % e.index for e in storage.log)


async def test_writer_killed_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    await kills(tmp_path / "raft.db", CUTS)


@pytest.mark.soak
async def test_writer_killed_at_any_moment_loses_nothing_acknowledged_soak(tmp_path: Path) -> None:
    await kills(tmp_path / "raft.db", CUTS_SOAK)


# --- torn writes -----------------------------------------------------------------------------------------------------


async def cut_at_random(folder: Path, seed: int) -> None:
    """Everything up to `synced` was acknowledged; the next transaction is cut, garbled or written out of order.

    Three stories: cut behind the last fsync; cut anywhere; blocks of the last transaction lost, later ones not.
    """
    rng = random.Random(seed)
    store = await RaftStore.open(folder / "raft.db")
    acknowledged = rng.randint(1, 40)
    await fill(store, 1, acknowledged)
    synced = copy(store.path, folder / "synced").with_name("raft.db-wal").stat().st_size
    await store.save(terms(acknowledged + 9), [entry(acknowledged + n) for n in range(1, 10)])
    torn = copy(store.path, folder / "torn")
    await store.close()
    wal = torn.with_name("raft.db-wal")
    whole = wal.stat().st_size
    assert whole > synced
    story = rng.choice(["cut behind", "cut anywhere", "blocks lost"])
    if story == "cut behind":
        os.truncate(wal, rng.randint(synced, whole))
    elif story == "cut anywhere":
        os.truncate(wal, rng.randint(0, whole))
    else:
        data = bytearray(wal.read_bytes())
        for at in range(synced, whole, 512):
            if rng.random() < 0.3:
                data[at : at + 512] = bytes(len(data[at : at + 512]))
        wal.write_bytes(data)
    try:
        found = await read(torn)
    except StoreCorruptError:
        assert story == "cut anywhere"
        return
    assert found == [entry(n) for n in range(1, len(found) + 1)]
    if story != "cut anywhere":
        assert len(found) in (acknowledged, acknowledged + 9)
    store = await RaftStore.open(torn)  # and it works on
    await store.save(terms(len(found) + 1), [entry(len(found) + 1)])
    await store.close()
    assert len(await read(torn)) == len(found) + 1


async def test_torn_last_write_costs_nothing_acknowledged(tmp_path: Path) -> None:
    for seed in range(CUTS):
        (tmp_path / str(seed)).mkdir()
        await cut_at_random(tmp_path / str(seed), seed)


@pytest.mark.soak
async def test_torn_last_write_costs_nothing_acknowledged_soak(tmp_path: Path) -> None:
    for seed in range(CUTS_SOAK):
        (tmp_path / str(seed)).mkdir()
        await cut_at_random(tmp_path / str(seed), 1_000 + seed)
        shutil.rmtree(tmp_path / str(seed))


async def test_checkpoint_cut_in_the_middle_costs_nothing(tmp_path: Path) -> None:
    """A checkpoint copies pages into the database; the write-ahead log stays until all of them are synced."""
    store = await RaftStore.open(tmp_path / "raft.db")
    await fill(store, 1, 40)
    before = copy(store.path, tmp_path / "before")
    await store.close()
    after = store.path.read_bytes()
    for seed in range(CUTS):
        rng = random.Random(seed)
        mixed = copy(before, tmp_path / str(seed))
        data = bytearray(before.read_bytes().ljust(len(after), b"\0"))
        for at in range(0, len(after), 4_096):
            if rng.random() < 0.5:
                data[at : at + 4_096] = after[at : at + 4_096]
        mixed.write_bytes(data)
        assert await read(mixed) == [entry(n) for n in range(1, 41)]


# --- rot -------------------------------------------------------------------------------------------------------------


async def test_write_ahead_log_damaged_where_it_was_synced_is_refused_and_left_alone(tmp_path: Path) -> None:
    """SQLite itself would drop everything behind the damage, and say nothing."""
    store = await RaftStore.open(tmp_path / "raft.db")
    await fill(store, 1, 20)
    sound = copy(store.path, tmp_path / "sound")
    safe = (check_wal(sound.with_name("raft.db-wal")) - 10) * FRAME_BYTES  # the last two transactions look torn
    await store.close()
    for seed in range(40):
        rng = random.Random(seed)
        damaged = copy(sound, tmp_path / str(seed))
        wal = damaged.with_name("raft.db-wal")
        at = rng.randrange(0, safe)
        data = bytearray(wal.read_bytes())
        data[at] ^= 1 << rng.randrange(8)
        wal.write_bytes(data)
        for _ in range(2):
            with pytest.raises(StoreCorruptError, match="raft.db-wal: (frame|its header).*rejoin"):
                await RaftStore.open(damaged)
        assert wal.read_bytes() == data


async def test_database_with_any_flipped_bit_is_refused_or_reads_the_same(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(1, 1, 9), (), Snapshot(9, 1, CONF, b"state" * 1_000))
    await store.save(HardState(1, 1, 9), [Entry(1, n, 0, b"entry" * n) for n in range(10, 60)])
    await store.set_meta("boot", b"12")
    await store.close()
    sound = store.path.read_bytes()
    expected = (log_of(store.storage), store.storage.snapshot(), store.storage.hard_state, b"12")
    refused = 0
    for seed in range(200):
        rng = random.Random(seed)
        path = tmp_path / f"{seed}.db"
        data = bytearray(sound)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            store = await RaftStore.open(path)
        except RemoteError:
            refused += 1
            continue
        await store.close()
        storage = store.storage
        assert (log_of(storage), storage.snapshot(), storage.hard_state, store.meta("boot")) == expected
        path.unlink()
    assert refused > 50


DAMAGES = {
    "DELETE FROM log WHERE idx = 12": "entry 12 is missing",
    "UPDATE log SET data = x'00' WHERE idx = 12": "entry 12: its checksum",
    "UPDATE log SET term = 9 WHERE idx = 12": "entry 12: its checksum",
    "DELETE FROM log WHERE idx = 20": "the log ends at 19, but 20 was the last entry saved",
    "DELETE FROM log WHERE idx >= 1": "the log ends at 10, but 20",
    "DELETE FROM log WHERE idx = 0": "hard state is missing",
    "DELETE FROM log": "hard state is missing",
    "UPDATE log SET term = 1 WHERE idx = 0": "hard state: its checksum",
    "UPDATE snapshot SET data = x'00'": "snapshot 10: its SHA-256",
    "DELETE FROM snapshot": "entry 1 is missing",
    "UPDATE meta SET value = x'00'": "meta boot: its checksum",
    "UPDATE log SET data = 'text' WHERE idx = 12": "not of our making",
}


@pytest.mark.parametrize("sql", DAMAGES)
async def test_database_that_contradicts_itself_is_refused(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "raft.db"
    store = await RaftStore.open(path)
    await store.save(HardState(2, 1, 10), [Entry(2, n, 0, b"x") for n in range(11, 21)], Snapshot(10, 2, CONF, b"s"))
    await store.set_meta("boot", b"1")
    await store.close()
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(sql)
    database.close()
    with pytest.raises(StoreCorruptError, match=DAMAGES[sql]) as caught:
        await RaftStore.open(path)
    assert str(path) in str(caught.value) and "docs/recovery.md" in str(caught.value)
    assert DAMAGES[sql] in verify(path).fault


async def test_hard_state_that_contradicts_the_log_is_refused(tmp_path: Path) -> None:
    """Checksums hold, but no run of ours leaves such a state: somebody wrote it."""
    for hard, text in ((HardState(2, 1, 30), "commit index 30"), (HardState(1, 1, 3), "term 1, but the last entry")):
        path = tmp_path / f"{hard.commit}.db"
        store = await RaftStore.open(path)
        await store.save(hard, [Entry(2, n, 0, b"x") for n in range(1, 21)])
        await store.close()
        with pytest.raises(StoreCorruptError, match=text):
            await RaftStore.open(path)


async def test_files_that_are_no_database_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    for data, text in ((b"", "empty"), (b"hello" * 1_000, "not a database"), (bytes(8_192), "not a database")):
        path.write_bytes(data)
        with pytest.raises(StoreCorruptError, match=text):
            await RaftStore.open(path)
        assert path.read_bytes() == data
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE x (y)")
    other.close()
    with pytest.raises(RemoteError, match="not a raft database of ours"):
        await RaftStore.open(path)


async def test_database_that_vanished_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    """An empty one would vote a second time in a term in which this device has voted."""
    store = await RaftStore.open(tmp_path / "raft.db")
    await fill(store, 1, 3)
    left = copy(store.path, tmp_path / "left")
    await store.close()
    left.unlink()
    store.path.unlink()
    for path in (left, store.path):  # beside its write-ahead log, and beside its lock file
        with pytest.raises(StoreCorruptError, match="it is gone, although"):
            await RaftStore.open(path)
    store.path.with_name("raft.db.lock").unlink()  # on purpose: docs/recovery.md
    await (await RaftStore.open(store.path)).close()


async def test_half_made_database_is_made_afresh(tmp_path: Path) -> None:
    (tmp_path / "raft.db.new").write_bytes(b"half")
    store = await RaftStore.open(tmp_path / "raft.db")
    assert store.storage.last_index() == 0
    await store.close()
