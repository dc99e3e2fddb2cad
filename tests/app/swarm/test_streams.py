"""Agents that read each other across devices: real supervisors, a network of lists in the place of a broker."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stream_cell import TOPICS, Cell, Device
from supervised import Bench, until

from edgeswarm.ids import AgentName


@asynccontextmanager
async def cell_of(tmp_path: Path, *names: str) -> AsyncIterator[tuple[Cell, list[Device]]]:
    cell = Cell()
    async with AsyncExitStack() as stack:
        for name in names:
            bench = Bench(tmp_path / name)
            await bench.supervisor.start()
            stack.push_async_callback(bench.supervisor.close)
            device = cell.devices[name] = Device(name, bench, cell)
            device.streams.start()
            stack.push_async_callback(device.streams.close)
        yield cell, list(cell.devices.values())
        for device in cell.devices.values():
            assert not device.bench.events("control_fault") and not device.bench.events("task_fault")
            assert all(flow.pipeline.lost == 0 for flow in device.supervisor.flows.flows.values())


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Cell, Device, Device]]:
    async with cell_of(tmp_path, "pi-a", "pi-b") as (cell, (a, b)):
        yield cell, a, b


def writer(device: Device, *, publish: dict[str, int] | None = None, name: str = "writer") -> bytes:
    """One value in, one out; publish: None: its file says nothing of it."""
    wiring: dict[str, Any] = {"sources": [{"type": "api", "width": 1}]}
    if publish is not None:
        wiring["publish"] = {"batch_ms": 1, **publish}
    return device.bench.mlp(name, (1, 2, 1), wiring=wiring)


def reader(
    device: Device,
    address: str = "any/writer",
    *,
    name: str = "reader",
    queue: dict[str, Any] | None = None,
    **keys: Any,
) -> bytes:
    source = {"type": "agent", "agent": address, "width": 1, "queue": queue or {"policy": "block"}, **keys}
    return device.bench.mlp(name, (1, 2, 1), wiring={"sources": [source]})


def joined(device: Device, here: bool) -> bool:
    """Does its reader read an agent of the same device?"""
    return bool(device.supervisor.flows.flows[AgentName("reader")].writers) == here


def took(device: Device, rows: int) -> bool:
    return device.taken() == rows


# --- across devices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["any/writer", "pi-a/writer"])
async def test_agent_reads_an_agent_of_another_device(pair: tuple[Cell, Device, Device], address: str) -> None:
    _, a, b = pair
    await a.deploy(writer(a, publish={}))
    await b.deploy(reader(b, address))
    await until(lambda: b.post.bulk)
    await a.ask(*range(20))
    await until(lambda: b.taken() == 20)
    assert b.heard()["missing"] == 0 and a.streams.counts()["out"]["writer"]["sent"] == 20


async def test_stream_leaves_the_device_only_where_the_agents_file_says_so(pair: tuple[Cell, Device, Device]) -> None:
    cell, a, b = pair
    await a.deploy(writer(a))
    await b.deploy(reader(b))
    await until(lambda: b.post.bulk)
    await a.ask(1.0, 2.0)
    assert not cell.network.sent and not a.supervisor.flows.flows["writer"].exports  # type: ignore[index]


async def test_topic_is_subscribed_to_once_however_many_read_it(pair: tuple[Cell, Device, Device]) -> None:
    _, a, b = pair
    await a.deploy(writer(a, publish={}))
    await b.deploy(reader(b, "pi-a/writer"))
    await until(lambda: list(b.post.bulk) == [TOPICS.streams("pi-a", "writer")])
    await b.deploy(reader(b, name="second"))
    await until(lambda: list(b.post.bulk) == [TOPICS.streams("+", "writer")])
    await a.ask(1.0, 2.0, 3.0)
    await until(lambda: b.taken() == b.taken("second") == 3)
    await b.supervisor.stop("second")
    await until(lambda: list(b.post.bulk) == [TOPICS.streams("pi-a", "writer")])
    await b.supervisor.stop("reader")
    await until(lambda: not b.post.bulk)


async def test_message_on_another_devices_topic_is_refused(pair: tuple[Cell, Device, Device]) -> None:
    cell, _, b = pair
    await b.deploy(reader(b))
    await until(lambda: b.post.bulk)
    cell.network.send("pi-x", 1, TOPICS.stream("pi-a", "writer"), b"")
    assert cell.network.refused == ["pi-x: stream pi-a/writer: its messages are signed by pi-a"]
    assert b.heard()["messages"] == 0


async def test_lost_messages_are_a_gap_and_every_row_is_counted(pair: tuple[Cell, Device, Device]) -> None:
    cell, a, b = pair
    await a.deploy(writer(a, publish={"rows": 2, "batch_ms": 5}))
    await b.deploy(reader(b))
    await until(lambda: b.post.bulk)
    cell.network.lose = lambda _topic: len(cell.network.sent) % 3 == 2
    await a.ask(*range(40))
    await until(lambda: a.streams.counts()["out"]["writer"]["waiting"] == 0)
    cell.network.lose = lambda _topic: False
    await a.ask(41.0)
    await until(lambda: a.streams.counts()["out"]["writer"]["waiting"] == 0)
    heard = b.heard()
    assert heard["gaps"] > 1 and heard["rows"] + heard["missing"] == 41 and b.told("stream_gap")
    await until(lambda: b.taken() == heard["rows"])


# --- on this device -------------------------------------------------------------------------------------------------


async def test_agent_that_may_be_anywhere_is_joined_where_it_runs_here(pair: tuple[Cell, Device, Device]) -> None:
    _, a, _ = pair
    await a.deploy(reader(a), writer(a, publish={}))
    await until(lambda: a.supervisor.flows.flows["writer"].readers)  # type: ignore[index]
    await a.ask(*range(5))
    await until(lambda: a.taken() == 5)
    assert a.heard()["rows"] == 0


async def test_reader_follows_an_agent_that_moves_away_and_back_without_a_deploy(
    pair: tuple[Cell, Device, Device],
) -> None:
    cell, a, b = pair
    for device in (a, b):
        await device.deploy(writer(device, publish={}))
        await device.supervisor.stop("writer")
    await a.deploy(reader(a))
    for count, where in enumerate((a, b, a, b)):
        await cell.place("writer", where.name)
        await until(functools.partial(joined, a, where is a))
        await where.ask(*range(7))
        await until(functools.partial(took, a, 7 * (count + 1)))
    assert a.heard()["missing"] == a.heard()["foreign"] == 0
    assert len(a.bench.events("agent_running")) == 4, "the reader was started once, the writer three times"


async def test_rows_that_a_full_reader_held_up_reach_it_after_the_agent_moved_away(
    pair: tuple[Cell, Device, Device],
) -> None:
    cell, a, b = pair
    await a.deploy(writer(a, publish={}))
    await b.deploy(writer(b, publish={}))
    await b.supervisor.stop("writer")
    await cell.place("writer", "pi-a")
    await a.deploy(reader(a, queue={"rows": 1, "policy": "block"}))
    await until(functools.partial(joined, a, True))
    a.supervisor.flows.pause(AgentName("reader"))
    await a.ask(1.0, 2.0)
    held = a.supervisor.flows.flows[AgentName("writer")]._held
    await until(lambda: len(held) == 1)
    await cell.place("writer", "pi-b")
    await until(functools.partial(joined, a, False))
    await b.ask(3.0)
    a.supervisor.flows.resume(AgentName("reader"))
    await until(functools.partial(took, a, 3))
    (counts,) = a.supervisor.flows.life.source_counts(AgentName("reader"))
    assert counts["taken_over"] == 1 and counts["rows"] == 2


async def test_stopped_agent_of_this_device_leaves_its_reader_to_the_others(pair: tuple[Cell, Device, Device]) -> None:
    _, a, b = pair
    await a.deploy(reader(a), writer(a))
    await b.deploy(writer(b, publish={}))
    await until(lambda: a.supervisor.flows.flows["reader"].writers)  # type: ignore[index]
    await b.ask(1.0, 2.0)
    await until(lambda: a.heard()["beside"] == 2)
    assert a.taken() == 0
    await a.supervisor.stop("writer")
    await until(lambda: not a.supervisor.flows.flows["reader"].writers)  # type: ignore[index]
    await b.ask(3.0)
    await until(lambda: a.taken() == 1)
    await a.supervisor.remove("writer")


async def test_agent_whose_epoch_is_over_reaches_nobody(pair: tuple[Cell, Device, Device]) -> None:
    cell, a, b = pair
    await a.deploy(writer(a, publish={}))
    await cell.place("writer", "pi-a")
    await b.deploy(reader(b))
    await a.deploy(reader(a, name="near"))
    await until(lambda: b.post.bulk and a.supervisor.flows.flows["writer"].readers)  # type: ignore[index]
    cell.agents["writer"] = replace(cell.agents["writer"], device="pi-b", epoch=9)  # and pi-a has not stopped it yet
    a.streams.wake()
    await until(lambda: not a.supervisor.flows.flows["writer"].readers)  # type: ignore[index]
    await a.ask(1.0, 2.0, 3.0)
    await until(lambda: a.streams.counts()["out"]["writer"]["fenced"] == 3)
    assert b.taken() == 0 and a.taken("near") == 0


async def test_agents_that_would_wait_for_each_other_are_not_joined(pair: tuple[Cell, Device, Device]) -> None:
    _, a, _ = pair
    await a.deploy(reader(a, "any/pong", name="ping"), reader(a, "any/ping", name="pong"))
    await until(lambda: len(a.told("stream_circle")) == 2)
    assert not any(flow.readers for flow in a.supervisor.flows.flows.values())
    await a.deploy(reader(a, "any/self", name="self"))
    await until(lambda: len(a.told("stream_circle")) == 3)


async def test_another_version_of_an_agent_publishes_as_its_file_says(pair: tuple[Cell, Device, Device]) -> None:
    _, a, b = pair
    await a.deploy(writer(a))
    await b.deploy(reader(b))
    await until(lambda: b.post.bulk)
    await a.supervisor.swap("writer", "next", writer(a, publish={"rows": 1}))
    await a.ask(1.0)
    await until(lambda: b.taken() == 1)
    await a.supervisor.swap("writer", "third", writer(a))
    await a.ask(1.0)
    assert a.streams.counts()["out"]["writer"]["rows"] == 1


# --- in and out of a cell -------------------------------------------------------------------------------------------


async def test_device_in_no_cell_says_once_which_source_gives_nothing_and_reads_its_own(bench: Bench) -> None:
    device = Device("pi-a", bench, Cell())  # its streams are not started: no cell
    await device.deploy(reader(device, "pi-7/writer", name="lone"), reader(device), writer(device))
    await device.ask(1.0, 2.0)
    await until(lambda: device.taken() == 2)
    assert [line["source"] for line in device.told("stream_not_in_swarm")] == ["pi-7/writer"]
    assert device.taken("lone") == 0 and device.supervisor.status["lone"][0] == "running"  # type: ignore[index]


async def test_sources_that_were_opened_before_the_device_came_into_its_cell_begin_then(bench: Bench) -> None:
    cell = Cell()
    device = cell.devices["pi-a"] = Device("pi-a", bench, cell)
    await device.deploy(reader(device, "pi-7/writer"), writer(device, publish={}))
    await device.ask(1.0)
    device.streams.start()
    await until(lambda: device.post.bulk)
    await device.ask(2.0)
    await until(lambda: device.streams.counts()["out"]["writer"]["sent"] == 1)
    await device.streams.close()
    assert not device.post.bulk and device.supervisor.remote is None
    await device.ask(3.0)
    assert device.streams.counts()["out"]["writer"]["rows"] == 1


async def test_steps_of_a_workflow_say_the_cell_and_the_device(pair: tuple[Cell, Device, Device]) -> None:
    _, a, _ = pair
    steps = {"initialization": ["connect_to_swarm"], "shutdown": ["disconnect_from_swarm"]}
    await a.deploy(a.bench.mlp("a", workflows=steps))
    await a.supervisor.stop("a")
    done = {line["step"]: line["done"] for line in a.told("workflow_step")}
    assert done["connect_to_swarm"] == done["disconnect_from_swarm"] == "in cell lab as device pi-a"


async def test_rows_of_an_agent_that_may_not_publish_stay_here_and_it_is_told(
    pair: tuple[Cell, Device, Device],
) -> None:
    """Its own reader on the same device gets them all the same: nothing leaves the device for that."""
    _, a, b = pair
    a.grants = ("neural.compute", "stream.publish:other")
    await a.deploy(reader(a), writer(a, publish={}))
    await b.deploy(reader(b))
    await a.ask(1.0, 2.0)
    await until(lambda: took(a, 2))
    counts = a.streams.counts()["out"]["writer"]
    assert (counts["rows"], counts["fenced"], counts["sent"]) == (2, 2, 0)
    (told,) = a.told("stream_not_granted")
    assert "stream.publish:writer is not granted to pi-a" in told["error"]
    a.grants = ("stream.publish:writer@writer",)
    await a.ask(3.0)
    await until(lambda: took(b, 1))
