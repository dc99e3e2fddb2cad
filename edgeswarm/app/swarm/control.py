"""What the control socket can ask of this device's part in its cell: `swarm` commands and local programs.

Looks at the cell are linearizable where a leader answers in time; else they are of this device's copy, and say so
(`stale`).  Every argument is checked here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from edgeswarm.app.control_ops import argument
from edgeswarm.app.swarm import jobs_control
from edgeswarm.app.swarm.post import Letter
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import AgentSpec, Needs
from edgeswarm.errors import EdgeSwarmError, LocalError, RemoteError
from edgeswarm.limits import FOLLOW_LINES_MAX
from edgeswarm.wire import messages as msg
from edgeswarm.wire.capability import MEMORY

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

LOOK_S = 1.5


class SwarmControl:
    """one: what -> answer; many: what -> answers."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self.one: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "status": self._status,
            "leader": self._leader,
            "members": self._members,
            "agents": self._agents,
            "whereis": self._whereis,
            "place": self._place,
            "remove": self._remove,
            "topology": self._topology,
            "transfer": self._transfer,
            "log": self._log,
            "order": self._order,
            "rotate": self._rotate,
            "note": self._note,
            "roster": self._roster,
        }
        self.many: dict[str, Callable[[dict[str, Any]], AsyncIterator[Any]]] = {"watch": self._watch}
        jobs_control.register(self, node)

    # --- looking ------------------------------------------------------------------------------------------------------

    async def _fresh(self) -> bool:
        """Wait until this copy holds what was committed before this call; False when nobody can say."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._node.barrier()
        except (EdgeSwarmError, TimeoutError):
            return False
        return True

    async def _status(self, args: dict[str, Any]) -> Any:
        node = self._node
        leader, voter = node.peer.leader, node.voter
        row: dict[str, Any] = {
            "fleet": node.config.fleet,
            "cell": node.config.cell,
            "device": node.config.device,
            "role": node.rosters.current.role(node.config.device),
            "boot": node.boot,
            "votes": voter is not None,
            "leads": node.leads,
            "leader": None if leader is None else leader.device,
            "term": node.peer.term_seen,
            "applied": node.replica.index,
            "roster_version": node.rosters.current.version,
            "lease": node.lease.held,
            "stopped": node.orders.halted,
            "revoked": node.rotation.revoked,
            "certificate_until_s": 0 if node.rotation.certificate is None else node.rotation.certificate.not_after_s,
            "certificate_trouble": node.rotation.trouble,
            "stop_number": node.orders.number,
            "agents": sorted(node.hosted.running),
            "refused": dict(node.post.refused),
            "transport": node.transport.stats(),
        }
        if voter is not None:
            status = voter.member.node.basic_status()
            row["raft"] = {
                "number": status.id,
                "state": status.state.name.lower(),
                "term": status.term,
                "commit": status.commit,
                "first_index": status.first_index,
                "last_index": status.last_index,
                "voters": list(voter.member.conf.voters),
                "joint": bool(voter.member.conf.voters_outgoing),
            }
        return row

    async def _leader(self, args: dict[str, Any]) -> Any:
        leader = self._node.peer.leader
        if leader is None:
            return {"leader": None, "term": self._node.peer.term_seen}
        return {
            "leader": leader.device,
            "term": leader.term,
            "roster_version": leader.roster_version,
            "certificate": leader.certificate,
        }

    async def _roster(self, args: dict[str, Any]) -> Any:
        roster = self._node.rosters.current
        return {"version": roster.version, "data": roster.data, "root_public": self._node.rosters.root_public}

    async def _members(self, args: dict[str, Any]) -> Any:
        fresh = await self._fresh()
        node, state, roster = self._node, self._node.replica.state, self._node.rosters.current
        leader = node.peer.leader
        rows = []
        for member in roster.members:
            device = state.devices.get(member.entry.device)
            rows.append(
                {
                    "device": member.entry.device,
                    "number": member.entry.number,
                    "role": member.entry.role,
                    "votes": roster.is_voter(member.entry.device),
                    "leads": leader is not None and leader.device == member.entry.device,
                    "state": "never seen" if device is None else "alive" if device.alive else "lost",
                    "epoch": 0 if device is None else device.epoch,
                    "agents": len(state.agents_on(member.entry.device)),
                    "tier": "" if device is None else device.capabilities.tier,
                    "profile": "" if device is None else device.capabilities.profile,
                }
            )
        return {"members": rows, "stale": not fresh, "index": node.replica.index}

    def _agent_row(self, name: str) -> dict[str, Any]:
        agent = self._node.replica.state.agents[name]
        return {
            "agent": name,
            "device": agent.device,
            "epoch": agent.epoch,
            "artefact": agent.spec.artefact.hex(),
            "version": agent.version,
            "why": "" if agent.device is not None else self._node.duties.unplaced.get(name, ""),
        }

    async def _agents(self, args: dict[str, Any]) -> Any:
        fresh = await self._fresh()
        rows = [self._agent_row(name) for name in sorted(self._node.replica.state.agents)]
        return {"agents": rows, "stale": not fresh, "index": self._node.replica.index}

    async def _whereis(self, args: dict[str, Any]) -> Any:
        name = argument(args, "agent", str)
        fresh = await self._fresh()
        if name not in self._node.replica.state.agents:
            raise LocalError(f"agent {name}: the cell has no agent of that name")
        return {**self._agent_row(name), "stale": not fresh}

    async def _topology(self, args: dict[str, Any]) -> Any:
        fresh = await self._fresh()
        node, state = self._node, self._node.replica.state
        leader = node.peer.leader
        devices = [
            {
                "device": device.id,
                "alive": device.alive,
                "votes": node.rosters.current.is_voter(device.id),
                "leads": leader is not None and leader.device == device.id,
                "agents": list(state.agents_on(device.id)),
            }
            for device in sorted(state.devices.values(), key=lambda one: one.id)
        ]
        return {"broker": node.transport.url, "devices": devices, "stale": not fresh}

    async def _log(self, args: dict[str, Any]) -> Any:
        """The audit of the cell, and the last entries of this device's log if it votes."""
        fresh = await self._fresh()
        count = max(1, min(1_000, argument(args, "count", int, 50)))
        node = self._node
        audit = [
            {"index": record.index, "who": record.who, "what": record.what}
            for record in node.replica.state.audit[-count:]
        ]
        entries: list[dict[str, Any]] = []
        if node.voter is not None:
            storage = node.voter.store.storage
            low = max(storage.first_index(), storage.last_index() + 1 - count)
            if low <= storage.last_index():
                for entry in storage.entries(low, storage.last_index() + 1, 4 << 20):
                    entries.append({"index": entry.index, "term": entry.term, "command": describe(entry)})
        return {"audit": audit, "entries": entries, "stale": not fresh}

    async def _watch(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        """Events of the cell as they come: agents' lives, tasks, alerts, who leads."""
        node = self._node
        queue: asyncio.Queue[Any] = asyncio.Queue(FOLLOW_LINES_MAX)

        def put(row: dict[str, Any]) -> None:
            if not queue.full():
                queue.put_nowait(row)

        def event(letter: Letter) -> None:
            if letter.topic.name in ("health", "metrics"):
                return
            message = msg.decode_at(letter.topic, letter.payload, who=letter.sender)
            put({"event": letter.topic.name, "from": letter.sender, "text": str(message)})

        def changed(changes: Any) -> None:
            for change in changes:
                put({"event": type(change).__name__, "index": node.replica.index, "text": str(change)})

        def led(leader: Any) -> None:
            if leader is not None:
                put({"event": "leader", "from": leader.device, "term": leader.term})

        topic = node.topics.events()
        off = node.post.on(topic, event)
        node.replica.listeners.append(changed)
        node.peer.on_leader.append(led)
        try:
            while True:
                yield await queue.get()
        finally:
            off()
            node.replica.listeners.remove(changed)
            node.peer.on_leader.remove(led)

    # --- changing -----------------------------------------------------------------------------------------------------

    async def _place(self, args: dict[str, Any]) -> Any:
        """An agent file for the cell: a new agent, or the next version of one; the answer says the entry's index."""
        node = self._node
        data, who = argument(args, "data", bytes), argument(args, "who", str, "an agent file")
        header = node.supervisor.shelf.admit(data, who=who).header
        digest = await node.artefacts.put(data)
        await node.artefacts.spread(digest)
        known = node.replica.state.agents.get(header.name)
        wants = header.resources.requirements
        stateful = argument(args, "stateful", bool, header.memory.width > 0)
        spec = AgentSpec(
            id=header.name,
            artefact=digest,
            needs=Needs(
                memory_bytes=wants.minimum_memory_mb << 20,
                cpu_milli=round(wants.minimum_cpu_cores * 1000),
                grants=(MEMORY,) if stateful else (),
            ),
            pin=argument(args, "pin", str, ""),
            near=_names(args, "near"),
            apart=_names(args, "apart"),
            stateful=stateful,
            runs_alone=argument(args, "runs_alone", bool, False),
        )
        command = cmd.Deploy(spec, 0 if known is None else known.version, node.config.device)
        index, _ = await node.propose(cmd.encode(command))
        return {"agent": header.name, "artefact": digest.hex(), "index": index}

    async def _remove(self, args: dict[str, Any]) -> Any:
        name = argument(args, "agent", str)
        index, _ = await self._node.propose(cmd.encode(cmd.Remove(name, self._node.config.device)))
        return {"agent": name, "index": index}

    async def _note(self, args: dict[str, Any]) -> Any:
        """A line for the audit of the cell: answered once it is committed, with the index of its entry."""
        deadline_s = max(0.05, min(30.0, argument(args, "deadline_s", float, 5.0)))
        note = cmd.Note(self._node.config.device, argument(args, "text", str))
        index, _ = await self._node.propose(cmd.encode(note), deadline_s=deadline_s)
        return {"index": index}

    async def _transfer(self, args: dict[str, Any]) -> Any:
        """Ask the leader to hand over to another voter."""
        device = argument(args, "to", str)
        number = self._node.rosters.number_of(device)
        if number is None or number not in self._node.rosters.current.voters():
            raise LocalError(f"device {device}: expected a voter of the cell")
        leader = await self._node.peer.wait_leader(5.0)
        if leader.device == device:
            return {"leader": device, "term": leader.term}
        await self._node.ask_leader("transfer", device.encode())
        loop = asyncio.get_running_loop()
        end = loop.time() + 5.0
        while loop.time() < end:
            now = self._node.peer.leader
            if now is not None and now.device == device:
                return {"leader": device, "term": now.term}
            await asyncio.sleep(0.02)
        raise RemoteError(f"device {device} does not lead after 5 s", who=leader.device)

    async def _rotate(self, args: dict[str, Any]) -> Any:
        """Renew this device's certificate now."""
        self._node.rotation.force()
        return {}

    async def _order(self, args: dict[str, Any]) -> Any:
        """Give a signed order to everybody; without data: the number that the next one must be above."""
        data = argument(args, "data", bytes, b"")
        orders = self._node.orders
        if data:
            orders.publish(data)
        return {
            "number": orders.number,
            "stopped": orders.halted,
            "fleet": self._node.config.fleet,
            "cell": self._node.config.cell,
        }


def _names(args: dict[str, Any], key: str) -> tuple[str, ...]:
    items = argument(args, key, list, [])
    if not all(isinstance(item, str) for item in items):
        raise RemoteError(f"control request: {key}: expected names")
    return tuple(sorted(items))


def describe(entry: Any) -> str:
    """One line about a log entry."""
    from edgeswarm.app.swarm.replica import TAG_BYTES
    from edgeswarm.wire.raft import EntryType

    if entry.type != EntryType.NORMAL:
        return "change of members"
    if len(entry.data) <= TAG_BYTES:
        return "a term begins"
    try:
        return str(cmd.decode(entry.data[TAG_BYTES:]))[:300]
    except EdgeSwarmError as error:
        return f"unreadable: {error}"
