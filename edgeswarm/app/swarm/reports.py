"""What a device says of itself: a sign of life every status_ms, its status when that changes, its agents' lives.

The sign of life is small and goes to the leader only (it alone subscribes); the status is retained, for people and for
whoever comes later.  What a device offers is registered through the log, at each start and when it changes.
"""

from __future__ import annotations

import asyncio
import platform
from typing import TYPE_CHECKING, Any

import edgeswarm
from edgeswarm.app.swarm.post import Letter
from edgeswarm.app.swarm.replica import OutcomeUnknownError, RejectedError
from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import Capabilities
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import messages as msg

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

STATUS_S_MAX = 60.0
REGISTER_RETRY_S = 0.5
SOON_S = 0.05  # changes that come together are said together


class Reports:
    """Made with its node, started when the post works."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._status_ms = node.config.times.health.status_ms
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._said_at = 0.0
        self._registering: asyncio.Task[None] | None = None
        self._closed = False
        self.busy_permille = 0
        self.speaks: dict[str, int] = {}  # device -> newest feature version of the replicated state that it can apply

    def start(self) -> None:
        node = self._node
        self.speaks[node.config.device] = node.replica.state.supported
        self._tick()
        self.register()

    async def close(self, *, leaving: bool = False) -> None:
        """leaving: as `SwarmNode.close`."""
        self._closed = True
        for timer in (self._timer, self._soon):
            if timer is not None:
                timer.cancel()
        if self._registering is not None:
            self._registering.cancel()
            await asyncio.gather(self._registering, return_exceptions=True)
        if self._node.transport.is_connected:
            self._say_status("draining" if leaving else "offline")

    def heard(self, letter: Letter) -> None:
        """The retained status of another device: the leader wants to know what the voters can."""
        status = msg.decode(letter.payload, who=letter.sender, kinds=(msg.DeviceStatus,))
        if isinstance(status, msg.DeviceStatus) and self._node.rosters.current.is_voter(letter.sender):
            self.speaks[letter.sender] = status.capabilities.speaks

    # --- signs of life ------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        node, loop = self._node, asyncio.get_running_loop()
        self._timer = loop.call_later(self._status_ms / 1000, self._tick)
        health = msg.Health(
            load=self._load(),
            agents=len(node.supervisor.flows.flows),
            roster_version=node.rosters.current.version,
            term=node.peer.term_seen,
            applied=node.replica.index,
            stop_number=node.orders.number,
        )
        # not LOW, as metrics are: a device must not be given up because somebody floods the broker
        topic, expiry_s = node.topics.event("low", "health"), max(1, round(self._status_ms / 1000))
        node.post.send(topic, msg.encode(health), priority=Priority.MEDIUM, expiry_s=expiry_s)
        if loop.time() - self._said_at > STATUS_S_MAX:
            self.soon()

    def soon(self) -> None:
        """Say the status, with whatever else changes in the next moment."""
        if self._soon is None and not self._closed:
            self._soon = asyncio.get_running_loop().call_later(SOON_S, self._say)

    def _say(self) -> None:
        self._soon = None
        self._said_at = asyncio.get_running_loop().time()
        self._say_status("offline" if self._closed else "online")

    def _say_status(self, state: Any) -> None:
        node, agents = self._node, self.agents()
        offer = self.capabilities()
        status = msg.DeviceStatus(
            state=state,
            uptime_s=node.uptime_s,
            capabilities=msg.Capabilities(
                profile=offer.profile,
                tier=offer.tier,  # type: ignore[arg-type]
                architecture=offer.architecture,
                memory_bytes=offer.memory_bytes,
                cpu_milli=offer.cpu_milli,
                agents_max=offer.agents_max,
                delegates=offer.delegates,
                sensors=offer.sensors,
                labels=offer.labels,
                software=f"edgeswarm {edgeswarm.__version__}",
                speaks=node.replica.state.supported,
            ),
            load=self._load(),
            agents=agents,
            roster_version=node.rosters.current.version,
            term=node.peer.term_seen,
            applied=node.replica.index,
            stop_number=node.orders.number,
        )
        topic = node.topics.status(node.config.device)
        node.post.send(topic, msg.encode(status), priority=Priority.MEDIUM, qos=1, retain=True)

    def agents(self) -> tuple[msg.RunningAgent, ...]:
        """Every agent that this device has, in whatever state."""
        node, sup = self._node, self._node.supervisor
        states = {"running": "ready", "paused": "ready", "stopped": "stopped"}
        return tuple(
            msg.RunningAgent(
                agent=name,
                artefact=bytes.fromhex(agent.plan.artefact),
                state=states.get(agent.status.value, "failed" if agent.status.value == "failed" else "starting"),  # type: ignore[arg-type]
                epoch=node.hosted.epoch_of(name) or 0,
                restarts=agent.restarts_total,
            )
            for name, agent in sup.node.table.agents.items()
        )

    def _load(self) -> msg.Load:
        import psutil

        memory = psutil.virtual_memory()
        self.busy_permille = min(1000, int(psutil.cpu_percent() * 10))
        cores = psutil.cpu_count() or 1
        return msg.Load(cpu_milli=self.busy_permille * cores, memory_free_bytes=memory.available)

    def agent(self, agent: str, status: str, why: str) -> None:
        """Something happened to an agent that the cell has placed here."""
        node = self._node
        known = node.replica.state.agents.get(agent)
        artefact = bytes(32) if known is None else known.spec.artefact
        event = msg.AgentLifecycle(
            device=node.config.device,
            agent=agent,
            event=status,  # type: ignore[arg-type]
            artefact=artefact,
            epoch=node.hosted.epoch_of(agent) or 0,
            term=node.peer.term_seen,
            text=why[:1000],
        )
        topic = node.topics.event(msg.event_priority("agent.lifecycle"), "agent.lifecycle")
        node.post.send(topic, msg.encode(event), priority=Priority.MEDIUM, qos=1)

    # --- what it offers -----------------------------------------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        sup = self._node.supervisor
        limits = sup.settings.profile.limits
        member = self._node.rosters.current.member(self._node.config.device)
        return Capabilities(
            profile=sup.settings.profile_name,
            tier=sup.host.tier if sup.host is not None else "C",
            architecture=platform.machine(),
            memory_bytes=limits.memory_mb << 20,
            cpu_milli=int(limits.cpu_cores * 1000),
            agents_max=limits.agents_max,
            delegates=sup.delegation.offers(),
            sensors=("vitals",),
            grants=tuple(sorted(member.entry.capabilities)) if member is not None else (),
        )

    def register(self) -> None:
        """See to it that the cell knows this device as it is now."""
        if self._registering is None or self._registering.done():
            self._registering = asyncio.create_task(self._register())

    async def _register(self) -> None:
        node = self._node
        while not self._closed:
            known = node.replica.state.devices.get(node.config.device)
            offer = self.capabilities()
            if known is not None and (known.boot, known.capabilities) == (node.boot, offer):
                return
            command = cmd.encode(cmd.RegisterDevice(node.config.device, node.boot, offer))
            try:
                await node.propose(command)
            except RejectedError as error:
                node.log.error("device_not_registered", error=str(error))
                return
            except OutcomeUnknownError:
                pass
            except EdgeSwarmError as error:
                node.log.info("device_not_registered", error=str(error))
            await asyncio.sleep(REGISTER_RETRY_S)

    def changed(self, changes: Any) -> None:
        """The roster may have granted this device something else."""
        if any(isinstance(change, (ch.RosterChanged, ch.DeviceForgotten)) for change in changes):
            self.register()
