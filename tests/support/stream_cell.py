"""Devices of a cell with real supervisors and real `Streams`; the broker is a list, the cell's table a dictionary."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

from supervised import Bench

from edgeswarm.app.supervisor import Supervisor
from edgeswarm.app.swarm.node import SwarmNode
from edgeswarm.app.swarm.post import Letter
from edgeswarm.app.swarm.streams import Streams
from edgeswarm.core.cell.types import AgentSpec, AgentState
from edgeswarm.errors import RemoteError
from edgeswarm.wire.capability import granted
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
    grants: tuple[str, ...] = ("stream.publish:*",)

    def __post_init__(self) -> None:
        self.post = FakePost(self.name, self.cell.network)
        node = SimpleNamespace(
            config=SimpleNamespace(device=self.name, cell="lab"),
            post=self.post,
            topics=TOPICS,
            boot=1,
            may=lambda capability, agent="": granted(self.grants, capability, agent),
            log=self.supervisor.log,
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
