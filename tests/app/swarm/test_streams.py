"""Agents that read each other across devices: real supervisors, a network of lists in the place of a broker."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from supervised import Bench, until

from edgeswarm.app.supervisor import Supervisor
from edgeswarm.app.swarm.node import SwarmNode
from edgeswarm.app.swarm.post import Letter
from edgeswarm.app.swarm.streams import Streams
from edgeswarm.core.cell.types import AgentSpec, AgentState
from edgeswarm.errors import RemoteError
from edgeswarm.ids import AgentName
from edgeswarm.wire.topics import Topics

TOPICS = Topics("fleet", "lab")


def matches(topic_filter: str, topic: str) -> bool:
    levels = zip(topic_filter.split("/"), topic.split("/"), strict=True)
    return all(wanted in ("+", found) for wanted, found in levels)


@dataclass
class Network:
    """Who listens to what.  lose: a message that it says yes to goes no further."""

    listeners: list[tuple[str, str, Callable[[Letter], None]]] = field(default_factory=list)
    lose: Callable[[str], bool] = lambda _topic: False
    sent: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def send(self, sender: str, boot: int, topic: str, payload: bytes) -> None:
        self.sent.append(topic)
        if self.lose(topic):
            return
        for device, topic_filter, handler in list(self.listeners):
            if device != sender and matches(topic_filter, topic):
                try:
                    handler(Letter(TOPICS.parse(topic), sender, boot, len(self.sent), payload, False))
                except RemoteError as error:
                    self.refused.append(str(error))


@dataclass
class FakePost:
    """One device's way to the network; its transport too."""

    device: str
    network: Network
    bulk: dict[str, bool] = field(default_factory=dict)
    topics: Topics = TOPICS

    @property
    def transport(self) -> FakePost:
        return self

    def send(self, topic: str, payload: bytes, **_: Any) -> None:
        self.network.send(self.device, 1, topic, payload)

    def on(self, topic_filter: str, handler: Callable[[Letter], None], *, bulk: bool = False) -> None:
        assert topic_filter not in self.bulk, "a second subscription looks like a replay"
        self.bulk[topic_filter] = bulk
        self.network.listeners.append((self.device, topic_filter, handler))

    def unsubscribe(self, topic_filter: str, *, bulk: bool = False) -> None:
        assert self.bulk.pop(topic_filter) == bulk
        mine = (self.device, topic_filter)
        self.network.listeners = [one for one in self.network.listeners if one[:2] != mine]


@dataclass
class Cell:
    """The table, and the devices that have it."""

    network: Network = field(default_factory=Network)
    agents: dict[str, AgentState] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)

    async def place(self, name: str, device: str) -> None:
        """Commit the placement; the device that had the agent stops it, the new one starts it where it has its file."""
        old = self.agents.get(name) or AgentState(AgentSpec(name, b"\0" * 32), 1)
        new = self.agents[name] = replace(old, device=device, epoch=old.epoch + 1)
        for one in self.devices.values():
            one.streams.wake()
        if old.device is not None and name in self.devices[old.device].running:
            await self.devices[old.device].supervisor.stop(name)
            del self.devices[old.device].running[name]
        here = self.devices[device]
        if here.supervisor.status.get(name, ("", ""))[0] == "stopped":  # type: ignore[call-overload]
            await here.supervisor.start_agent(name)
        here.running[name] = new.epoch

    def may_run(self, device: str, name: str, epoch: int) -> bool:
        agent = self.agents.get(name)
        return agent is not None and (agent.device, agent.epoch) == (device, epoch)


@dataclass
class Device:
    name: str
    bench: Bench
    cell: Cell
    running: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.post = FakePost(self.name, self.cell.network)
        node = SimpleNamespace(
            config=SimpleNamespace(device=self.name, cell="lab"),
            post=self.post,
            topics=TOPICS,
            boot=1,
            supervisor=self.supervisor,
            replica=SimpleNamespace(state=SimpleNamespace(agents=self.cell.agents)),
            hosted=SimpleNamespace(
                epoch_of=self.running.get,
                may_run=lambda name: self.cell.may_run(self.name, name, self.running[name]),
            ),
        )
        self.streams = Streams(cast(SwarmNode, node))

    @property
    def supervisor(self) -> Supervisor:
        return self.bench.supervisor

    async def deploy(self, *files: bytes) -> None:
        await self.supervisor.deploy([(f"file {index}", data) for index, data in enumerate(files)])

    async def ask(self, *values: float) -> None:
        for value in values:
            await self.supervisor.ask("writer", [value], 5.0)

    def taken(self, name: str = "reader") -> int:
        return int(self.bench.tally(name)["rows_in"])

    def heard(self) -> dict[str, int]:
        (counts,) = self.streams.counts()["in"].values()
        return dict(counts)

    def told(self, event: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.bench.events(event)]


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
