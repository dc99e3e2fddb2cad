"""The agents that the cell has placed on this device: what it wants is compared with what runs, until both are equal.

Level-triggered: every change of the cell, of the lease or of the stop flag wakes one loop that looks at the whole and
does what is missing.  What fails is tried again with a growing wait, and told.
Fencing: an agent of the cell runs here only while the replicated table names this device, its epoch is the one we
started it with, and the lease holds (a word of the leader within `lease_s`) or the agent may run alone.  The
supervisor keeps such agents as stopped, so that after a restart nothing runs before the cell has spoken.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeswarm.core.cell.types import AgentState
from edgeswarm.drivers.store import Deployed
from edgeswarm.errors import EdgeSwarmError, RemoteError
from edgeswarm.ids import AgentName

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor
    from edgeswarm.app.swarm.replica import Replica

RETRY_S, RETRY_S_MAX = 0.5, 30.0


@dataclass(slots=True)
class _Try:
    """When an agent that could not be brought up is tried again."""

    at: float = 0.0
    wait_s: float = RETRY_S
    why: str = ""


@dataclass(slots=True)
class Hosted:
    """fetch: digest (32 bytes) -> the artefact's bytes, from whichever peer has them.

    running: agent -> (artefact, epoch) as this device has started it in the name of the cell.
    """

    device: str
    supervisor: Supervisor
    replica: Replica
    fetch: Callable[[bytes, str], Awaitable[bytes]]
    leased: Callable[[], bool]
    halted: Callable[[], bool]
    told: Callable[[str, str, str], None] = lambda agent, status, why: None
    running: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    _tries: dict[str, _Try] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        self._wake.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- what should run ----------------------------------------------------------------------------------------------

    def wanted(self) -> dict[str, AgentState]:
        """Agents that this device must run now."""
        if self.halted():
            return {}
        agents = self.replica.state.agents
        here = {name: agents[name] for name in self.replica.state.agents_on(self.device)}
        return here if self.leased() else {name: agent for name, agent in here.items() if agent.spec.runs_alone}

    def may_run(self, name: str) -> bool:
        """For what leaves this device in the agent's name: does the fencing rule hold now?"""
        agent = self.wanted().get(name)
        return agent is not None and self.running.get(name, (b"", -1))[1] == agent.epoch

    # --- making it so -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            wanted = self.wanted()
            for name in [name for name in self.running if name not in wanted]:
                await self._take_down(name)
            due = [n for n, agent in wanted.items() if self.running.get(n) != (agent.spec.artefact, agent.epoch)]
            now = loop.time()
            ready = [name for name in due if self._tries.get(name, _Try()).at <= now]
            await asyncio.gather(*(self._bring_up(name, wanted[name]) for name in ready))
            waits = [self._tries[name].at - loop.time() for name in due if name in self._tries]
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.01, min(waits)) if waits else None)
            except TimeoutError:
                pass

    async def _bring_up(self, name: str, agent: AgentState) -> None:
        """Fetch, check, and deploy, swap or start: whatever is missing."""
        sup, digest = self.supervisor, agent.spec.artefact
        try:
            here = sup.node.table.agents.get(AgentName(name))
            if here is None or here.plan.artefact != digest.hex():
                data = await self.fetch(digest, name)
                if hashlib.sha256(data).digest() != digest:
                    raise RemoteError(f"agent {name}: expected artefact {digest.hex()[:12]}, found another")
                if here is not None:
                    await sup.swap(name, f"artefact {digest.hex()[:12]}", data)
                else:
                    await sup.deploy([(f"artefact {digest.hex()[:12]}", data)])
                await self._keep_stopped(name, digest)
            if sup.status.get(AgentName(name), ("", ""))[0] in ("stopped", "failed", "replaced"):
                await sup.start_agent(name)
                await self._keep_stopped(name, digest)
        except (EdgeSwarmError, OSError) as error:
            self._failed(name, str(error))
            return
        self._tries.pop(name, None)
        if not self._still_wanted(name, agent):
            await self._take_down(name)
            return
        self.running[name] = (digest, agent.epoch)
        sup.log.info("cell_agent_runs", agent=name, epoch=agent.epoch, artefact=digest.hex()[:12])
        self.told(name, "running", f"epoch {agent.epoch}")

    def _still_wanted(self, name: str, agent: AgentState) -> bool:
        now = self.wanted().get(name)
        return now is not None and now.epoch == agent.epoch

    async def _take_down(self, name: str) -> None:
        """Stop it; remove it when the cell has given it to another device or to nobody."""
        self.running.pop(name, None)
        sup = self.supervisor
        try:
            if sup.status.get(AgentName(name), ("removed", ""))[0] not in ("stopped", "removed", "failed"):
                await sup.stop(name)
            agent = self.replica.state.agents.get(name)
            gone = self.leased() and (agent is None or agent.device != self.device)
            if gone and AgentName(name) in sup.node.table.agents:
                await sup.remove(name)
        except EdgeSwarmError as error:
            sup.log.error("cell_agent_not_stopped", agent=name, error=str(error))
            return
        sup.log.info("cell_agent_stopped", agent=name)
        self.told(name, "stopped", "")

    async def _keep_stopped(self, name: str, digest: bytes) -> None:
        if self.supervisor.store is not None:
            await self.supervisor.store.put_agent(Deployed(name, digest.hex(), "stopped"))

    def _failed(self, name: str, why: str) -> None:
        again = self._tries.setdefault(name, _Try())
        if why != again.why:
            self.supervisor.log.error("cell_agent_not_started", agent=name, error=why, again_s=again.wait_s)
            self.told(name, "failed", why)
        again.at = asyncio.get_running_loop().time() + again.wait_s
        again.wait_s, again.why = min(RETRY_S_MAX, again.wait_s * 2), why
