"""A cell without network or jails, for tasks: one CellState that all devices share, their agents as functions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from edgeswarm.app.log import Log
from edgeswarm.app.swarm.node import SwarmNode
from edgeswarm.app.swarm.replica import RejectedError, Replica
from edgeswarm.app.swarm.tasks import TaskDuty
from edgeswarm.app.swarm.tasks_run import Share, Worker
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.cell.types import AgentSpec, Capabilities, Move
from edgeswarm.errors import RemoteError
from edgeswarm.wire import messages as msg
from edgeswarm.wire.capability import ALL, granted
from edgeswarm.wire.raft import Entry, EntryType
from edgeswarm.wire.topics import Topics

ROOM = Capabilities(memory_bytes=1 << 40, cpu_milli=1 << 20, agents_max=10_000)


class Roles:
    """What of a roster is looked at: role -> of `cell.roles`, grants -> of `cell.grants`, by default all."""

    def __init__(self, cell: TaskCell) -> None:
        self._cell = cell

    def role(self, device: str) -> str:
        return self._cell.roles.get(device, "worker")

    def may(self, device: str, capability: str, agent: str = "") -> bool:
        return granted(self._cell.grants.get(device, ALL), capability, agent)

    def member(self, device: str) -> Any:
        grants = self._cell.grants.get(device, ALL)
        return SimpleNamespace(entry=SimpleNamespace(role=self.role(device), capabilities=grants))


class TaskCell:
    """devices: each with a Worker whose executor is `execute(device, share)`; the first one leads."""

    def __init__(self, count: int, execute: Callable[[str, Share], Awaitable[bytes]]) -> None:
        self.replica = Replica(CellState(), index=0, term=0)
        self.log = Log(stream=None)
        self.devices = [f"d{at}" for at in range(1, count + 1)]
        self.dead: set[str] = set()
        self.nodes: dict[str, Any] = {}
        self.told: list[tuple[str, msg.Message]] = []
        self.published: list[tuple[str, msg.Message]] = []
        self.calls = 0
        self.methods: dict[str, Callable[[str, bytes], Awaitable[bytes]]] = {}
        self.no_leader = False
        self._background: set[asyncio.Future[Any]] = set()
        self.roles: dict[str, str] = {}
        self.grants: dict[str, tuple[str, ...]] = {}
        self.roster = Roles(self)
        for at, device in enumerate(self.devices):
            self.apply(cmd.RegisterDevice(device, 1, ROOM))
            self.nodes[device] = self._node(device, execute, leads=at == 0)
        self.replica.listeners.append(self._changed)

    def _node(self, device: str, execute: Callable[[str, Share], Awaitable[bytes]], *, leads: bool) -> Any:
        async def call(peer: str, method: str, body: bytes, *, deadline_s: float) -> bytes:
            self.calls += 1
            await asyncio.sleep(0)
            if peer in self.dead:
                await asyncio.sleep(deadline_s)
                raise RemoteError("no answer", who=peer)
            return await self.methods[peer](method, body)

        async def propose(command: bytes, *, deadline_s: float = 5.0) -> tuple[int, Any]:
            await asyncio.sleep(0)
            if self.no_leader:
                raise RemoteError("no leader")
            return self.apply(cmd.decode(command)), None

        async def commit(command: bytes) -> int:
            return (await propose(command))[0]

        node: Any = SimpleNamespace(
            config=SimpleNamespace(device=device),
            replica=self.replica,
            log=self.log,
            topics=Topics("fleet", "lab"),
            rosters=SimpleNamespace(current=self.roster),
            may=lambda capability, agent="", *, device=device: self.roster.may(device, capability, agent),
            voter=object(),
            follower=None,
            orders=SimpleNamespace(halted=False),
            propose=propose,
            commit=commit,
            task=self._spawn,
            post=SimpleNamespace(send=lambda topic, payload, **_: None),
            peer=SimpleNamespace(
                letters={},
                leader=SimpleNamespace(device=self.devices[0], term=7),
                term_seen=7,
                call=call,
                tell=lambda to, message: self._tell(device, to, message),
            ),
        )
        node.duties = SimpleNamespace(load={})
        node.duties.jobs = TaskDuty(cast(SwarmNode, node))
        node.worker = Worker(cast(SwarmNode, node), lambda share: execute(device, share))
        node.worker.listeners.append(lambda name, message: self.published.append((name, message)))
        node.worker.start()
        return node

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _tell(self, sender: str, to: str, message: msg.Message) -> None:
        self.told.append((to, message))
        if to in self.dead or sender in self.dead:
            return
        handler = self.nodes[to].peer.letters.get(type(message))
        if handler is not None:
            asyncio.get_running_loop().call_soon(handler, sender, message)

    def _changed(self, changes: Sequence[Any]) -> None:
        for device, node in self.nodes.items():
            if device not in self.dead:
                node.duties.jobs.changed(changes)
                node.worker.look()

    @property
    def leader(self) -> Any:
        return self.nodes[self.devices[0]]

    def apply(self, command: cmd.Command) -> int:
        """Commit it.  Raises RejectedError."""
        reasons: list[str] = []
        watch = lambda changes: reasons.extend(one.reason for one in changes if hasattr(one, "reason"))  # noqa: E731
        self.replica.listeners.append(watch)
        index = self.replica.index + 1
        self.replica.apply(Entry(1, index, EntryType.NORMAL, bytes(16) + cmd.encode(command)))
        self.replica.listeners.remove(watch)
        if reasons:
            raise RejectedError(reasons[0])
        return index

    def place(self, names: Sequence[str]) -> None:
        """Agents, dealt out to the devices."""
        for at, name in enumerate(names):
            self.apply(cmd.Deploy(AgentSpec(name, bytes(32)), 0, "test"))
            agent = self.replica.state.agents[name]
            self.apply(cmd.Place((Move(name, self.devices[at % len(self.devices)], agent.epoch),)))

    def move(self, names: Sequence[str], device: str) -> None:
        agents = self.replica.state.agents
        self.apply(cmd.Place(tuple([Move(name, device, agents[name].epoch) for name in names])))

    def kill(self, device: str) -> None:
        """It falls silent, and the leader gives it up."""
        self.dead.add(device)
        self.apply(cmd.DeviceLost(device, self.replica.state.devices[device].epoch))

    async def close(self) -> None:
        for node in self.nodes.values():
            node.duties.jobs.end()
            await node.worker.close()
        await asyncio.gather(*self._background, return_exceptions=True)
