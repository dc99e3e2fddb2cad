"""Salvage: what a damaged database still says, for a cell whose only voter it was."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from edgeswarm.drivers.raft_store import RaftStore, StoreCorruptError
from edgeswarm.drivers.raft_store_check import verify
from edgeswarm.drivers.raft_store_salvage import salvage
from edgeswarm.errors import LocalError
from edgeswarm.limits import RAFT_RECOVERY_TERMS
from edgeswarm.wire.raft import ConfState, Entry, HardState, Snapshot

CONF = ConfState(voters=(1,))
REASON = "the card is worn out"


async def damaged(path: Path, *sql: str) -> None:
    """Snapshot at 10, entries 8-40 kept, the last committed; then `sql`."""
    store = await RaftStore.open(path)
    await store.save(HardState(3, 1, 10), [Entry(2, n, 0, b"%d" % n) for n in range(1, 11)])
    await store.compact(Snapshot(10, 2, CONF, b"state"), keep=3)
    await store.save(HardState(3, 1, 40), [Entry(3, n, 0, b"%d" % n) for n in range(11, 41)])
    await store.set_meta("boot", b"5")
    await store.close()
    database = sqlite3.connect(path, isolation_level=None)
    for each in sql:
        database.execute(each)
    database.close()


@pytest.mark.parametrize(
    ("sql", "last", "lost"),
    [
        ("UPDATE log SET data = x'00' WHERE idx = 31", 30, "10 entries lost"),
        ("DELETE FROM log WHERE idx = 31", 30, "10 entries lost"),
        ("UPDATE log SET data = x'00' WHERE idx = 9", 10, "30 entries lost"),
        ("DELETE FROM log WHERE idx > 0", 10, "30 entries lost"),
        ("DELETE FROM log WHERE idx = 0", 40, "loss unknown"),
        ("UPDATE meta SET value = x'00'", 40, "0 entries lost"),
    ],
)
async def test_snapshot_and_entries_before_the_damage_are_saved(tmp_path: Path, sql: str, last: int, lost: str) -> None:
    path = tmp_path / "raft.db"
    await damaged(path, sql)
    fault = verify(path).fault
    done = salvage(path, REASON, "ada", at_wall="2026-11-21T01:00:00Z")
    assert (done.fault, done.snapshot_index, done.last_index) == (fault, 10, last) and lost in str(done)
    store = await RaftStore.open(path)
    await store.close()
    assert store.storage.last_index() == last and store.storage.snapshot().data == b"state"
    assert all(entry.data == b"%d" % entry.index for entry in store.storage.log)
    assert store.storage.hard_state == HardState(3 + RAFT_RECOVERY_TERMS, 0, last)
    assert store.meta("boot") == (None if "meta" in sql else b"5")
    assert verify(path).audits[0].startswith("2026-11-21T01:00:00Z ada: salvaged snapshot 10")
    assert verify(done.kept).fault == fault and done.kept.name == "raft.db.damaged-1"


async def test_sound_database_absent_one_and_act_without_a_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    await damaged(path)
    with pytest.raises(LocalError, match="it is sound"):
        salvage(path, REASON, "ada")
    with pytest.raises(LocalError, match="expected a reason"):
        salvage(path, REASON, " ")
    with pytest.raises(LocalError, match="there is none"):
        salvage(tmp_path / "absent.db", REASON, "ada")


async def test_damaged_snapshot_leaves_nothing_to_start_from(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    await damaged(path, "UPDATE snapshot SET data = x'00'")
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError, match="no log can start from it"):
        salvage(path, REASON, "ada")
    assert path.read_bytes() == before


async def test_any_damage_gives_a_sound_database_or_a_refusal(tmp_path: Path) -> None:
    for seed in range(60):
        path = tmp_path / f"{seed}.db"
        await damaged(path)
        rng, data = random.Random(seed), bytearray(path.read_bytes())
        for _ in range(rng.choice([1, 5, 50])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data[: rng.choice([len(data), len(data) // 2])])
        if not verify(path).fault:
            continue
        try:
            salvage(path, REASON, "ada")
        except StoreCorruptError:
            continue
        assert verify(path).fault == ""
        store = await RaftStore.open(path)
        await store.close()
        assert all(entry.data == b"%d" % entry.index for entry in store.storage.log)
