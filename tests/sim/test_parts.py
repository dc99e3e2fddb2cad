"""The simulator's own parts: time, disk, broker and state machine do what the rest believes of them."""

from __future__ import annotations

import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linearizability import READ, cas, write
from sim_disk import SECTOR_BYTES, DiskFullError, SimDisk, SimStore, survivors
from sim_machine import Machine
from sim_network import WILL, Broker, Weather
from sim_world import MS, NodeLoop, S, World

from edgeswarm.core.raft.storage import MemoryStorage
from edgeswarm.wire.raft import ConfState, Entry, EntryType, HardState, Snapshot

pytestmark = pytest.mark.sim


# --- time -----------------------------------------------------------------------------------------------------------


def test_events_come_in_the_order_of_time_and_then_of_asking() -> None:
    world, seen = World(1), []
    for at, name in ((30, "c"), (10, "a"), (30, "d"), (20, "b")):
        world.at(at, seen.append, name)
    world.at(15, seen.append, "never").cancel()
    world.run(100)
    assert (seen, world.now_us) == (["a", "b", "c", "d"], 100)


def test_clocks_of_nodes_run_apart() -> None:
    world = World(1)
    fast, slow = NodeLoop(world, rate=2.0), NodeLoop(world, rate=0.5)
    seen: list[tuple[str, int]] = []
    fast.call_later(1.0, lambda: seen.append(("fast", world.now_us)))
    slow.call_later(1.0, lambda: seen.append(("slow", world.now_us)))
    world.run(3 * S)
    assert seen == [("fast", S // 2), ("slow", 2 * S)]
    assert (fast.time(), slow.time()) == (6.0, 1.5)


def test_paused_node_does_everything_late_and_a_stopped_one_nothing() -> None:
    world, seen = World(1), []
    paused, stopped = NodeLoop(world), NodeLoop(world)
    paused.call_soon(lambda: seen.append(world.now_us))
    stopped.call_soon(lambda: seen.append(-1))
    paused.pause(500)
    stopped.stop()
    world.run(1000)
    assert seen == [500]


# --- disk -----------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=4 * SECTOR_BYTES), st.binary(max_size=4 * SECTOR_BYTES), st.integers(0, 1 << 32))
def test_power_loss_keeps_what_was_synced(synced: bytes, written: bytes, seed: int) -> None:
    left = survivors(bytearray(synced + written), len(synced), random.Random(seed))
    assert left[: len(synced)] == synced
    assert len(left) <= len(synced) + len(written)


def test_power_loss_may_keep_a_later_sector_and_lose_an_earlier_one() -> None:
    data = bytearray(b"a" * SECTOR_BYTES + b"b" * SECTOR_BYTES)
    outcomes = {
        (bytes(left[:1]) == b"a", bytes(left[SECTOR_BYTES : SECTOR_BYTES + 1]) == b"b")
        for left in (survivors(data, 0, random.Random(seed)) for seed in range(60))
    }
    assert outcomes == {(True, True), (True, False), (False, True), (False, False)}


def test_fsync_covers_what_was_written_before_it_and_takes_its_time() -> None:
    world = World(1)
    disk, done = SimDisk(world, latency_us=(10 * MS, 10 * MS)), []
    disk.write(b"12345")
    disk.fsync(lambda: done.append(world.now_us))
    disk.write(b"678")
    world.run(5 * MS)
    assert (done, disk.durable_bytes) == ([], 0)
    world.run(20 * MS)
    assert (done, disk.durable_bytes) == ([10 * MS], 5)


def test_fsync_of_a_machine_that_died_never_ends() -> None:
    world, done = World(1), []
    disk = SimDisk(world)
    disk.write(b"12345")
    disk.fsync(lambda: done.append(1))
    disk.crash(power_loss=True)
    world.run(S)
    assert done == []


def entries(first: int, count: int, term: int) -> tuple[Entry, ...]:
    return tuple(Entry(term, first + n, EntryType.NORMAL, b"x" * 300) for n in range(count))


CONF = ConfState(voters=(1, 2, 3))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.lists(st.integers(1, 5), min_size=1, max_size=12), st.booleans())
def test_store_comes_back_with_a_prefix_of_its_saves_that_holds_all_finished_ones(
    seed: int, sizes: list[int], power_loss: bool
) -> None:
    """Saves of random lengths, some of which rewrite the log's end; a crash at a random time."""
    world = World(seed)
    disk = SimDisk(world)
    store = SimStore(disk, conf=CONF)
    states, finished = [tuple(store.storage.log)], [0]
    for number, size in enumerate(sizes, 1):
        first = world.rng.randint(2, store.storage.last_index() + 1)
        hard = HardState(number, 1, 1)
        world.at(
            number * MS,
            store.save_soon,
            hard,
            entries(first, size, number),
            None,
            lambda _, n=number: finished.append(n),
        )
        world.run(number * MS)
        states.append(tuple(store.storage.log))
    world.run(world.now_us + world.rng.randrange(3 * MS))
    disk.crash(power_loss=power_loss)
    again = SimStore(disk)
    assert tuple(again.storage.log) in states[max(finished) :]
    assert again.storage.hard_state.term >= max(finished)
    assert again.storage.initial_state()[1] == CONF
    if not power_loss:
        assert tuple(again.storage.log) == states[-1]


def test_store_keeps_snapshots_and_what_follows_them() -> None:
    world = World(1)
    disk = SimDisk(world)
    store = SimStore(disk, conf=CONF)
    store.save_soon(HardState(1, 1, 1), entries(2, 9, 1), None, lambda _: None)
    grown = ConfState(voters=(1, 2, 3), learners=(4,))
    store.make_snapshot(8, grown, b"state", keep=2)
    world.run(S)
    disk.crash(power_loss=True)
    again: MemoryStorage = SimStore(disk).storage
    assert again.snapshot() == Snapshot(8, 1, grown, b"state")
    assert (again.first_index(), again.last_index(), again.initial_state()[1]) == (7, 10, grown)


def test_commit_index_alone_is_not_waited_for_and_may_be_forgotten() -> None:
    world, done = World(3), []
    disk = SimDisk(world)
    store = SimStore(disk, conf=CONF)
    store.save_soon(HardState(1, 2, 1), entries(2, 1, 1), None, done.append)
    world.run(S)
    store.save_soon(HardState(1, 2, 2), (), None, done.append)
    assert done == [None, None]
    assert store.durable == HardState(1, 2, 1)


def test_full_disk_fails_the_save() -> None:
    disk = SimDisk(World(1))
    store, errors = SimStore(disk, conf=CONF), []
    disk.full = True
    store.save_soon(HardState(1, 1, 1), (), None, errors.append)
    assert isinstance(errors[0], DiskFullError)


# --- broker ---------------------------------------------------------------------------------------------------------


def cell(weather: Weather | None = None, seed: int = 1) -> tuple[World, Broker, list[tuple[int, str, bytes]]]:
    world = World(seed)
    broker, heard = Broker(world, weather), []
    for client in (1, 2, 3):
        hear = partial(lambda who, topic, data: heard.append((who, topic, data)), client)
        broker.connect(client, hear, [f"raft/{client}", WILL, "leader"])
    return world, broker, heard


def test_broker_delivers_to_subscribers_in_order() -> None:
    world, broker, heard = cell()
    for n in range(20):
        broker.publish(1, "raft/2", b"%d" % n)
    world.run(S)
    assert heard == [(2, "raft/2", b"%d" % n) for n in range(20)]


def test_broker_may_reorder_and_repeat_and_lose() -> None:
    world, broker, heard = cell(Weather(drop=0.2, duplicate=0.2, late=0.2, reorder=True))
    for n in range(100):
        broker.publish(1, "raft/2", b"%d" % n)
    world.run(S)
    numbers = [int(data) for _, _, data in heard]
    assert numbers != sorted(numbers)
    assert len(set(numbers)) < len(numbers)
    assert len(set(numbers)) < 100


def test_cuts_have_a_direction() -> None:
    world, broker, heard = cell()
    broker.up_cut.add(1)
    broker.down_cut.add(2)
    broker.pair_cut.add((3, 1))
    for sender, to in ((1, 3), (3, 2), (3, 1), (2, 1)):
        broker.publish(sender, f"raft/{to}", b"")
    world.run(S)
    assert heard == [(1, "raft/1", b"")]


@pytest.mark.parametrize("keeps", [True, False])
def test_restart_loses_what_is_on_its_way_and_perhaps_what_is_retained(keeps: bool) -> None:
    world, broker, heard = cell()
    broker.keeps_retained = keeps
    broker.publish(1, "leader", b"L", retain=True)
    world.run(S)
    broker.publish(1, "raft/2", b"lost")
    heard.clear()
    broker.restart(100 * MS)
    broker.publish(1, "raft/2", b"lost too")
    world.run(3 * S)
    assert sorted(heard) == ([(1, "leader", b"L"), (2, "leader", b"L"), (3, "leader", b"L")] if keeps else [])


@pytest.mark.parametrize(("will", "expected"), [(1.0, [(1, WILL, b"2"), (3, WILL, b"2")]), (0.0, [])])
def test_last_will_comes_late_or_never(will: float, expected: list[tuple[int, str, bytes]]) -> None:
    world, broker, heard = cell(Weather(will=will))
    broker.disconnect(2)
    world.run(5 * S)
    assert sorted(heard) == expected


# --- state machine --------------------------------------------------------------------------------------------------


def test_machine_applies_a_command_once_and_gives_its_answer_again() -> None:
    machine = Machine()
    machine.apply(1, Machine.command(7, 1, "x", write(5)))
    assert machine.apply(2, Machine.command(7, 2, "x", cas(5, 6))) == (7, 2, True)
    assert machine.apply(3, Machine.command(7, 2, "x", cas(5, 6))) == (7, 2, True)
    assert machine.apply(4, Machine.command(7, 1, "x", write(5))) is None
    assert machine.apply(5, Machine.command(8, 1, "x", READ)) == (8, 1, 6)


def test_machine_comes_back_from_its_snapshot() -> None:
    machine = Machine()
    machine.apply(1, Machine.command(7, 1, "x", write(5)))
    again = Machine(machine.snapshot())
    for one in (machine, again):
        one.apply(2, Machine.command(7, 2, "x", cas(5, 6)))
    assert again.snapshot() == machine.snapshot()
    assert again.digest != 0
