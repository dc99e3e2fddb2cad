"""The voter's store: what was acknowledged comes back, in order, and nothing is acknowledged that is not on disk."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.core.raft.storage import MemoryStorage
from edgeswarm.drivers import raft_store
from edgeswarm.drivers.raft_store import RaftStore, StoreError
from edgeswarm.drivers.raft_store_check import verify
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError, RemoteError
from edgeswarm.limits import RAFT_ENTRY_BYTES_MAX, RAFT_META_BYTES_MAX
from edgeswarm.wire.raft import ConfState, Entry, EntryType, HardState, Snapshot

GOLDEN = Path(__file__).parent / "golden"
CONF = ConfState(voters=(1, 2, 3), learners=(4,))


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [Entry(term, index, EntryType.NORMAL, b"%d of %d" % (index, term)) for index in range(first, last + 1)]


def contents(storage: MemoryStorage) -> tuple[Any, ...]:
    return storage.hard_state, storage.snapshot(), storage.start, storage.start_term, list(storage.log)


async def reopened(store: RaftStore) -> RaftStore:
    await store.close()
    return await RaftStore.open(store.path)


async def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(1, 2, 0), entries(1, 5))
    await store.save(HardState(1, 2, 4), entries(6, 200))
    again = await reopened(store)
    assert contents(again.storage) == (HardState(1, 2, 4), Snapshot(), 0, 0, entries(1, 200))
    await again.close()


async def test_entries_of_a_newer_term_replace_those_from_their_index_on(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(1, 2, 0), entries(1, 5))
    await store.save(HardState(3, 0, 2), entries(3, 4, term=3))
    again = await reopened(store)
    assert again.storage.log == entries(1, 2) + entries(3, 4, term=3)
    await again.close()


async def test_calls_that_wait_go_in_one_transaction_and_answer_in_order(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    answered: list[int] = []
    for index in range(1, 51):
        store.save_soon(HardState(1, 1, 0), entries(index, index), None, lambda _, index=index: answered.append(index))
    await store.save(HardState(1, 1, 7))  # changes the commit index only, and still waits for its turn
    assert answered == list(range(1, 51))
    assert store.stats().commits < 50 == store.stats().saves
    again = await reopened(store)
    assert again.storage.log == entries(1, 50) and again.storage.hard_state.commit == 7
    await again.close()


async def test_snapshot_of_the_leader_replaces_the_log(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(1, 2, 5), entries(1, 5))
    await store.save(HardState(4, 0, 100), entries(99, 102, term=4), Snapshot(100, 4, CONF, b"state"))
    again = await reopened(store)
    snapshot = Snapshot(100, 4, CONF, b"state")
    assert contents(again.storage) == (HardState(4, 0, 100), snapshot, 100, 4, entries(101, 102, term=4))
    assert again.storage.initial_state()[1] == CONF
    await again.close()


async def test_compaction_keeps_the_last_entries_behind_its_snapshot(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(1, 2, 3_000), entries(1, 3_000))
    await store.compact(Snapshot(2_990, 1, CONF, b"state"), keep=40)
    assert (store.storage.first_index(), store.storage.last_index()) == (2_951, 3_000)
    await store.save(None, entries(3_001, 3_001))
    again = await reopened(store)
    assert contents(again.storage) == (
        HardState(1, 2, 3_000),
        Snapshot(2_990, 1, CONF, b"state"),
        2_950,
        1,
        entries(2_951, 3_001),
    )
    await again.save(None, entries(3_002, 3_002))
    for _ in range(500):  # rows go in quiet moments
        if not again._writer.chore_due:
            break
        await asyncio.sleep(0.02)
    await again.close()
    database = sqlite3.connect(tmp_path / "raft.db")
    assert database.execute("SELECT COUNT(*) FROM log WHERE idx BETWEEN 1 AND 2950").fetchone() == (0,)
    database.close()


async def test_log_compacted_to_nothing_goes_on_after_its_snapshot(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(1, 2, 9), entries(1, 9))
    await store.compact(Snapshot(9, 1, CONF, b""), keep=0)
    again = await reopened(store)
    assert (again.storage.first_index(), again.storage.last_index(), again.storage.term(9)) == (10, 9, 1)
    await again.save(None, entries(10, 11))
    once_more = await reopened(again)
    assert once_more.storage.log == entries(10, 11)
    await once_more.close()


async def test_snapshot_that_is_not_newer_changes_nothing_and_its_term_is_the_logs(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(3, 2, 9), entries(1, 5) + entries(6, 9, term=3))
    await store.compact(Snapshot(8, 1, CONF, b"state"))
    await store.compact(Snapshot(8, 3, CONF, b"other"))
    await store.compact(Snapshot(4, 1, CONF, b"older"))
    with pytest.raises(LocalError, match="ends at 9"):
        await store.compact(Snapshot(10, 3, CONF, b"beyond"))
    again = await reopened(store)
    assert again.storage.snapshot() == Snapshot(8, 3, CONF, b"state")
    await again.close()


async def test_commit_index_alone_is_answered_without_a_transaction_and_kept_at_close(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(1, 2, 0), entries(1, 5))
    before = store.stats().commits
    await store.save(HardState(1, 2, 5))
    assert store.stats().commits == before and store.storage.hard_state.commit == 5
    again = await reopened(store)
    assert again.storage.hard_state.commit == 5
    await again.close()


async def test_commit_index_alone_is_written_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_store, "RAFT_COMMIT_LAG_S", 0.01)
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(1, 2, 0), entries(1, 5))
    await store.save(HardState(1, 2, 5))
    assert store.stats() == (1, 1, store.stats().bytes, 0, 1)
    await asyncio.sleep(0.05)
    await store.set_meta("after", b"")  # batches are written in order
    assert store.stats().saves == 3
    await store.close()


async def test_meta_is_read_back_and_can_be_removed(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.set_meta("boot", b"1")
    await store.set_meta("other", b"x")
    store.set_meta_soon("other", None)
    assert store.meta("boot") == b"1" and store.meta("other") is None
    again = await reopened(store)
    assert again.meta("boot") == b"1" and again.meta("other") is None
    with pytest.raises(LimitError, match="meta big"):
        await again.set_meta("big", bytes(RAFT_META_BYTES_MAX + 1))
    await again.close()


async def test_what_is_too_large_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(1, 1, 0), entries(1, 2))
    with pytest.raises(LimitError, match="raft entry 3"):
        await store.save(None, [Entry(1, 3, 0, bytes(RAFT_ENTRY_BYTES_MAX + 1))])
    with pytest.raises(LocalError, match="ends at 2"):
        await store.save(None, entries(4, 4))
    assert store.storage.last_index() == 2 and store.failed is None
    await store.save(None, entries(3, 3))
    await store.close()


async def test_queue_of_a_slow_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_store, "RAFT_STORE_WAITING_BYTES_MAX", 10_000)
    store = await RaftStore.open(tmp_path / "raft.db")
    with pytest.raises(LimitError, match="wait for the disk"):
        for index in range(1, 100):
            store.save_soon(None, [Entry(1, index, 0, bytes(1_000))], None)
    await store.save(HardState(1, 1, 0))
    await store.close()


async def test_full_disk_fails_the_save_and_every_later_one(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(1, 2, 0), entries(1, 5))
    pages = store._writer._database.execute("PRAGMA page_count").fetchone()[0]
    store._writer._database.execute(f"PRAGMA max_page_count={pages}")
    errors: list[EdgeSwarmError | None] = []
    big = [Entry(1, 6, 0, bytes(100_000))]
    store.save_soon(HardState(1, 2, 0), big, None, errors.append)
    store.save_soon(HardState(1, 2, 0), entries(7, 7), None, errors.append)
    with pytest.raises(StoreError, match="make room"):
        await store.save(HardState(2, 2, 0))
    assert [type(error) for error in errors] == [StoreError, StoreError] and store.failed is errors[0]
    with pytest.raises(StoreError):
        await store.save(HardState(3, 2, 0))
    with pytest.raises(StoreError):
        await store.set_meta("boot", b"1")
    again = await reopened(store)
    assert again.storage.log == entries(1, 5) and again.storage.hard_state == HardState(1, 2, 0)
    await again.close()


async def test_each_transaction_is_synced(tmp_path: Path) -> None:
    """What no test without a power cut can see: 2 is FULL, so the write-ahead log is synced at each commit."""
    store = await RaftStore.open(tmp_path / "raft.db")
    database = store._writer._database
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await store.close()


async def test_second_opening_is_refused_while_the_first_lasts(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    with pytest.raises(LocalError, match="another process"):
        await RaftStore.open(tmp_path / "raft.db")
    await store.close()
    await store.close()
    with pytest.raises(LocalError, match="after close"):
        store.save_soon(HardState(1, 1, 1), (), None)
    await (await RaftStore.open(tmp_path / "raft.db")).close()


async def test_member_that_has_voted_before_does_not_start_with_an_empty_database(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="there is none"):
        await RaftStore.open(tmp_path / "raft.db", make=False)
    assert not (tmp_path / "raft.db").exists()


async def test_database_of_layout_1_is_read_after_migration(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    old = sqlite3.connect(path)
    old.executescript((GOLDEN / "raft_store_v1.sql").read_text())
    old.close()
    store = await RaftStore.open(path)
    log = [Entry(2 if index < 15 else 5, index, EntryType.NORMAL, b"entry %d" % index) for index in range(9, 21)]
    expected = HardState(6, 3, 19), Snapshot(10, 2, CONF, b"state of 10"), 8, 2, log
    assert contents(store.storage) == expected and store.meta("boot") == b"7"
    again = await reopened(store)
    assert contents(again.storage) == expected
    await again.close()
    assert verify(path).fault == ""


async def test_database_of_layout_1_with_a_damaged_hard_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript((GOLDEN / "raft_store_v1.sql").read_text())
    old.execute("UPDATE hard_state SET vote = 2")
    old.close()
    for _ in range(2):
        with pytest.raises(raft_store.StoreCorruptError, match="hard state"):
            await RaftStore.open(path)


async def test_newer_layout_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    await (await RaftStore.open(path)).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=3")
    database.close()
    with pytest.raises(RemoteError, match="layout 3, this version reads up to 2"):
        await RaftStore.open(path)


async def test_verify_reports_a_sound_database_and_refuses_one_in_use(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    await store.save(HardState(4, 1, 100), entries(101, 105, term=4), Snapshot(100, 4, CONF, b"state"))
    await store.set_meta("boot", b"3")
    with pytest.raises(LocalError, match="another process"):
        verify(tmp_path / "raft.db")
    await store.close()
    report = verify(tmp_path / "raft.db")
    assert (report.fault, report.term, report.commit, report.first_index, report.last_index) == ("", 4, 100, 101, 105)
    assert report.conf == CONF and report.meta_keys == ("boot",)
    with pytest.raises(LocalError, match="there is none"):
        verify(tmp_path / "absent.db")


async def test_waiter_that_gives_up_does_not_disturb_the_others(tmp_path: Path) -> None:
    store = await RaftStore.open(tmp_path / "raft.db")
    waiter = asyncio.create_task(store.save(HardState(1, 1, 0), entries(1, 1)))
    await asyncio.sleep(0)
    waiter.cancel()
    await store.save(HardState(1, 1, 0), entries(2, 2))
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (await reopened_log(store)) == entries(1, 2)


async def reopened_log(store: RaftStore) -> list[Entry]:
    again = await reopened(store)
    await again.close()
    return again.storage.log


# --- law ------------------------------------------------------------------------------------------------------------

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "cut", "install", "compact", "hard"]), st.integers(1, 9), st.integers(0, 9))
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS, pauses=st.sets(st.integers(0, 20)))
async def test_any_run_of_calls_comes_back_as_the_mirror_has_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step], pauses: set[int]
) -> None:
    """Calls are batched as they fall (`pauses` lets the thread catch up); the disk must hold what the mirror holds."""
    store = await RaftStore.open(tmp_path_factory.mktemp("law") / "raft.db")
    term, commit = 1, 0
    for at, (kind, size, back) in enumerate(steps):
        storage = store.storage
        last, first = storage.last_index(), storage.first_index()
        if kind == "append":
            store.save_soon(HardState(term, 1, commit), entries(last + 1, last + size, term), None)
        elif kind == "cut":
            start = max(first, commit + 1, last - back)
            if start <= last:
                term += 1
                store.save_soon(HardState(term, 0, commit), entries(start, start + size, term), None)
        elif kind == "install":
            term, commit = term + 1, last + size
            snapshot = Snapshot(last + size, term, CONF, b"s" * size)
            store.save_soon(HardState(term, 0, commit), entries(last + size + 1, last + size + back, term), snapshot)
        elif kind == "compact":
            index = max(commit, last - back)
            if index > storage.snapshot().index:
                commit = index
                store.save_soon(HardState(term, 1, commit), (), None)
                store.compact_soon(Snapshot(index, storage.term(index), CONF, b"c"), keep=size)
        else:
            commit = max(commit, last - back)
            store.save_soon(HardState(term, 1, commit), (), None)
        if at in pauses:
            await store.set_meta("at", b"%d" % at)
    await store.close()
    assert store.failed is None
    again = await RaftStore.open(store.path)
    await again.close()
    assert contents(again.storage) == contents(store.storage)
