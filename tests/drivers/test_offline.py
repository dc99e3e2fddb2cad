"""Store and forward: the right message goes first, the right one is dropped, and what was dropped is counted."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.drivers import offline
from edgeswarm.drivers.mqtt.queue import OfflineQueue as Protocol
from edgeswarm.drivers.mqtt.queue import Priority
from edgeswarm.drivers.offline import WALL_FLOOR, OfflineQueue
from edgeswarm.errors import LocalError, RemoteError
from edgeswarm.limits import OFFLINE_OVERHEAD_BYTES

CRITICAL, HIGH, MEDIUM, LOW = Priority


class Clock:
    """Both clocks; `wall` may be set back to 1970, as at the start of a device without a battery."""

    def __init__(self) -> None:
        self.wall_s = WALL_FLOOR + 1_000_000.0
        self.mono_s = 100.0

    def pass_(self, seconds: float) -> None:
        self.wall_s += seconds
        self.mono_s += seconds

    async def open(self, path: Path, **bounds: Any) -> OfflineQueue:
        return await OfflineQueue.open(path, wall=lambda: self.wall_s, mono=lambda: self.mono_s, **bounds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[OfflineQueue]:
    store = await clock.open(tmp_path / "offline.db")
    yield store
    await store.close()


def put(
    store: OfflineQueue, text: str, priority: int = MEDIUM, *, retain: bool = False, until: float | None = None
) -> None:
    store.put("t/" + text.split(maxsplit=1)[0], text.encode(), priority, 1, retain, until)


def texts(store: OfflineQueue, max_bytes: int = 1_000_000) -> list[str]:
    return [message.payload.decode() for message in store.take(max_bytes)]


def of(store: OfflineQueue) -> dict[str, dict[str, int]]:
    return {name: counts for name, counts in store.stats().dropped.items() if counts}


async def test_it_is_what_the_transport_wants(store: OfflineQueue) -> None:
    fits: Protocol = store
    fits.put("a", b"b", 2, 1, False, None)
    assert [tuple(message) for message in fits.take(100)] == [(1, "a", b"b", 2, 1, False, None)]


async def test_highest_class_is_taken_first_and_the_oldest_in_it(store: OfflineQueue) -> None:
    for text, priority in (("a", LOW), ("b", MEDIUM), ("c", CRITICAL), ("d", MEDIUM), ("e", HIGH)):
        put(store, text, priority)
    assert texts(store) == ["c", "e", "b", "d", "a"]


async def test_taken_messages_stay_until_they_are_acknowledged(store: OfflineQueue) -> None:
    for text in "abc":
        put(store, text)
    assert texts(store, max_bytes=2) == ["a", "b"] == texts(store, max_bytes=2)
    store.ack([1, 99])
    assert texts(store) == ["b", "c"]
    store.ack([2, 3])
    assert texts(store) == [] and len(store) == 0


async def test_one_message_is_given_even_if_it_is_larger_than_asked_for(store: OfflineQueue) -> None:
    put(store, "x" * 100)
    assert texts(store, max_bytes=1) == ["x" * 100]


async def test_everything_is_there_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    store = await clock.open(tmp_path / "offline.db")
    for text, priority in (("a", LOW), ("b", MEDIUM), ("c", CRITICAL)):
        put(store, text, priority)
    put(store, "late", until=clock.wall_s - 1)
    await store.close()
    again = await clock.open(tmp_path / "offline.db")
    assert texts(again) == ["c", "b", "a"] and of(again) == {"medium": {"expired": 1}}
    again.ack([1, 2, 3])
    await again.close()
    empty = await clock.open(tmp_path / "offline.db")
    assert len(empty) == 0
    put(empty, "d")
    assert empty.take(100)[0].id == 4
    await empty.close()


async def test_when_full_the_oldest_low_goes_first_and_critical_last(tmp_path: Path, clock: Clock) -> None:
    size = OFFLINE_OVERHEAD_BYTES + len("t/a") + 1
    store = await clock.open(tmp_path / "offline.db", bytes_max=4 * size)
    put(store, "a", CRITICAL)
    put(store, "b", LOW)
    put(store, "c", LOW)
    put(store, "d", HIGH)
    put(store, "e", MEDIUM)
    assert texts(store) == ["a", "d", "e", "c"]
    put(store, "f", HIGH)
    put(store, "g", HIGH)
    assert texts(store) == ["a", "d", "f", "g"]
    put(store, "h", MEDIUM)
    assert texts(store) == ["a", "d", "f", "g"], "what is lower does not push out what is higher"
    for text in "ijkl":
        put(store, text, CRITICAL)
    assert texts(store) == ["i", "j", "k", "l"]
    assert of(store) == {"critical": {"full": 1}, "high": {"full": 3}, "medium": {"full": 2}, "low": {"full": 2}}
    await store.close()


async def test_number_of_messages_is_bounded_too(tmp_path: Path, clock: Clock) -> None:
    store = await clock.open(tmp_path / "offline.db", messages_max=3)
    for text in "abcde":
        put(store, text)
    assert texts(store) == ["c", "d", "e"] and of(store) == {"medium": {"full": 2}}
    await store.close()
    again = await clock.open(tmp_path / "offline.db", messages_max=2)
    assert len(again) <= 2
    await again.close()


async def test_message_larger_than_the_queue_is_dropped(tmp_path: Path, clock: Clock) -> None:
    store = await clock.open(tmp_path / "offline.db", bytes_max=200)
    put(store, "a")
    put(store, "x" * 200, CRITICAL)
    assert texts(store) == ["a"] and of(store) == {"critical": {"too_large": 1}}
    await store.close()


async def test_expired_and_old_messages_are_not_sent(tmp_path: Path, clock: Clock) -> None:
    store = await clock.open(tmp_path / "offline.db", age_s_max=100.0)
    put(store, "a", until=clock.wall_s + 10)
    put(store, "b", until=clock.wall_s + 1_000)
    clock.pass_(50)
    put(store, "c")
    assert texts(store) == ["b", "c"]
    assert store.take(100)[0].expires_at == clock.wall_s + 950
    clock.pass_(50)
    assert texts(store) == ["c"] and of(store) == {"medium": {"expired": 1, "age": 1}}
    await store.close()


async def test_time_goes_on_while_the_device_is_off(tmp_path: Path, clock: Clock) -> None:
    store = await clock.open(tmp_path / "offline.db", age_s_max=100.0)
    put(store, "a", until=clock.wall_s + 10)
    put(store, "b", until=clock.wall_s + 1_000)
    await store.close()
    clock.wall_s, clock.mono_s = clock.wall_s + 60, 3.0
    again = await clock.open(tmp_path / "offline.db", age_s_max=100.0)
    assert texts(again) == ["b"]
    clock.pass_(41)
    assert texts(again) == []
    await again.close()


async def test_clock_that_was_never_set_costs_no_message(tmp_path: Path, clock: Clock) -> None:
    """Stored while the device believes it is 1970; then NTP comes, and 56 years seem to have passed."""
    now, clock.wall_s = clock.wall_s, 50.0
    store = await clock.open(tmp_path / "offline.db")
    put(store, "a", until=clock.wall_s + 10)
    clock.wall_s = now
    assert texts(store) == ["a"]
    clock.wall_s = 52.0
    await store.close()
    clock.wall_s = now
    again = await clock.open(tmp_path / "offline.db")
    assert texts(again) == ["a"]
    clock.pass_(11)
    assert texts(again) == []
    await again.close()


async def test_last_retained_message_of_a_topic_takes_the_place_of_the_one_before(tmp_path: Path, clock: Clock) -> None:
    store = await clock.open(tmp_path / "offline.db")
    put(store, "state 1", retain=True)
    put(store, "other 1", retain=True)
    put(store, "state plain")
    await store.flush()
    put(store, "state 2", retain=True)
    assert texts(store) == ["other 1", "state plain", "state 2"] and of(store) == {"medium": {"superseded": 1}}
    await store.close()
    again = await clock.open(tmp_path / "offline.db")
    put(again, "state 3", retain=True)
    assert texts(again) == ["other 1", "state plain", "state 3"]
    await again.close()


# --- disk ------------------------------------------------------------------------------------------------------------


async def test_writes_are_batched_and_what_is_sent_at_once_never_touches_the_disk(store: OfflineQueue) -> None:
    for index in range(100):
        put(store, f"{index}")
    assert store.stats().writes == 0 and store.stats().unwritten > 0
    store.ack(range(1, 101))
    await store.flush()
    assert store.stats().writes == 0
    for index in range(100):
        put(store, f"{index}")
    await store.flush()
    assert store.stats().writes == 1 and store.stats().unwritten == 0


async def test_critical_message_is_written_at_once(store: OfflineQueue, tmp_path: Path) -> None:
    put(store, "low", LOW)
    put(store, "stop", CRITICAL)
    async with asyncio.timeout(20):
        while store.stats().writes == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    reader = sqlite3.connect(tmp_path / "offline.db")
    assert reader.execute("SELECT COUNT(*) FROM messages").fetchone() == (2,)
    reader.close()


async def test_time_alone_writes_too(store: OfflineQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "OFFLINE_FLUSH_S", 0.01)
    put(store, "a", LOW)
    async with asyncio.timeout(20):
        while store.stats().writes == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_many_messages_are_read_back_in_order_with_little_in_memory(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "OFFLINE_AHEAD_BYTES", 2_000)
    store = await clock.open(tmp_path / "offline.db")
    for index in range(500):
        put(store, f"{index} " + "x" * 50, LOW if index % 2 else HIGH)
    await store.flush()
    assert sum(item.payload is not None for item in store._index) < 100
    expected = [*range(0, 500, 2), *range(1, 500, 2)]
    found: list[int] = []
    for turn in range(1_000):
        messages = store.take(600)
        if not messages:
            break
        found += [int(message.payload.split()[0]) for message in messages]
        store.ack([message.id for message in messages])
        if turn % 3 == 0:
            await asyncio.sleep(0.001)  # the thread reads ahead, or does not get to it
    assert found == expected
    await store.close()


async def test_disk_that_refuses_costs_nothing_until_memory_is_full(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "OFFLINE_UNWRITTEN_BYTES_MAX", 100_000)
    store = await clock.open(tmp_path / "offline.db")
    database = store._database._database
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count={pages}")
    put(store, "a " + "x" * 40_000, LOW)
    put(store, "b " + "x" * 40_000, CRITICAL)
    await store.flush()
    assert "full" in store.stats().error and store.stats().unwritten > 80_000
    put(store, "c " + "x" * 40_000)
    assert [text[0] for text in texts(store)] == ["b", "a"] and of(store) == {"medium": {"disk": 1}}
    database.execute("PRAGMA max_page_count=1000000")
    await store.flush()
    assert store.stats().error == "" and store.stats().unwritten == 0
    put(store, "d")
    assert [text[0] for text in texts(store)] == ["b", "d", "a"]
    await store.close()


async def test_slow_disk_does_not_hold_up_the_loop(store: OfflineQueue) -> None:
    """The thread is stuck in a write; put, take and ack go on, and nothing is lost."""
    go = threading.Event()
    write = store._database.write

    def stuck(*args: Any, **named: Any) -> None:
        assert go.wait(20)
        write(*args, **named)

    store._database.write = stuck  # type: ignore[method-assign]
    put(store, "a", CRITICAL)
    put(store, "b", CRITICAL)
    put(store, "c")
    assert texts(store) == ["a", "b", "c"]
    store.ack([1])
    assert texts(store) == ["b", "c"]
    go.set()
    await store.flush()
    await store.flush()
    assert store.stats().unwritten == 0 and texts(store) == ["b", "c"]


async def test_damaged_file_is_moved_away_and_work_goes_on(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "offline.db").write_bytes(b"no database" * 1_000)
    store = await clock.open(tmp_path / "offline.db")
    put(store, "a")
    await store.close()
    assert (tmp_path / "offline.db.damaged").read_bytes().startswith(b"no database")
    again = await clock.open(tmp_path / "offline.db")
    assert texts(again) == ["a"]
    await again.close()


async def test_second_opening_newer_layout_and_use_after_close_are_refused(tmp_path: Path, clock: Clock) -> None:
    store = await clock.open(tmp_path / "offline.db")
    with pytest.raises(LocalError, match="another process"):
        await clock.open(tmp_path / "offline.db")
    await store.close()
    await store.close()
    with pytest.raises(LocalError, match="after close"):
        put(store, "a")
    database = sqlite3.connect(tmp_path / "offline.db")
    database.execute("PRAGMA user_version=2")
    database.close()
    with pytest.raises(RemoteError, match="layout 2"):
        await clock.open(tmp_path / "offline.db")


# --- law -------------------------------------------------------------------------------------------------------------

ACTS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(list(Priority)), st.integers(0, 60), st.booleans()),
    st.tuples(st.just("ack"), st.integers(1, 4), st.just(0), st.just(False)),
    st.tuples(st.just("restart"), st.just(0), st.just(0), st.just(False)),
    st.tuples(st.just("flush"), st.just(0), st.just(0), st.just(False)),
)


class Model:
    """The same in ten plain lines: a list, walked again for each question."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.stored: list[tuple[int, int, str, bool, int]] = []  # priority, number, text, retain, size

    def put(self, number: int, priority: int, text: str, retain: bool, size: int) -> None:
        while sum(each[4] for each in self.stored) + size > self.bytes_max:
            lower = [each for each in self.stored if each[0] >= priority]
            if not lower:
                return
            worst = max(each[0] for each in lower)
            self.stored.remove(min(each for each in lower if each[0] == worst))
        topic = text.split(maxsplit=1)[0]
        if retain:
            self.stored = [each for each in self.stored if not (each[3] and each[2].split()[0] == topic)]
        self.stored.append((priority, number, text, retain, size))

    def texts(self) -> list[str]:
        return [each[2] for each in sorted(self.stored)]


@settings(max_examples=40, deadline=None)
@given(acts=st.lists(ACTS, max_size=40))
async def test_any_use_agrees_with_a_plain_list(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int, int, bool]]
) -> None:
    path = tmp_path_factory.mktemp("law") / "offline.db"
    clock, model = Clock(), Model(600)
    store = await clock.open(path, bytes_max=600)
    for number, (kind, value, length, retain) in enumerate(acts):
        if kind == "put":
            text = f"{length % 3} {number} " + "x" * length
            put(store, text, value, retain=retain)
            model.put(number, value, text, retain, len(text) + 3 + OFFLINE_OVERHEAD_BYTES)
        elif kind == "ack":
            taken = store.take(1_000)[:value]
            store.ack([message.id for message in taken])
            gone = [message.payload.decode() for message in taken]
            model.stored = [each for each in model.stored if each[2] not in gone]
        elif kind == "flush":
            await store.flush()
        else:
            await store.close()
            store = await clock.open(path, bytes_max=600)
        assert texts(store) == model.texts()
        assert store.stats().bytes == sum(each[4] for each in model.stored) <= 600
    await store.close()
