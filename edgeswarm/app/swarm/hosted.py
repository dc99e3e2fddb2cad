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
from pathlib import Path
from typing import TYPE_CHECKING

from edgeswarm.core.cell import fencing
from edgeswarm.core.cell.fencing import Lease
from edgeswarm.core.cell.types import AgentState
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.store import Deployed
from edgeswarm.errors import EdgeSwarmError, LocalError, RemoteError
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
    """fetch: (digest of 32 bytes, agent) -> the artefact's bytes, from whichever peer has them.

    lease: what this device last heard of a leader, and the time now in ms.  told: (agent, status, why).
    before: brings what an agent remembers, before it is brought up.
    running: agent -> (artefact, epoch) as this device has started it in the name of the cell.
    """

    device: str
    supervisor: Supervisor
    replica: Replica
    fetch: Callable[[bytes, str], Awaitable[bytes]]
    lease: Callable[[], tuple[Lease, float]]
    halted: Callable[[], bool]
    told: Callable[[str, str, str], None]
    folder: Path
    before: Callable[[AgentState], Awaitable[None]]
    running: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    _tries: dict[str, _Try] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _busy: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # being brought up
    _known: set[str] = field(default_factory=set)  # agents of the cell that this device keeps a file of
    _noting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def start(self) -> None:
        """Agents of an earlier life are kept as stopped, and taken for running under an epoch that is over."""
        path = self.folder / "hosted"
        self._known = set(path.read_text().split()) if path.exists() else set()
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        self._wake.set()

    async def close(self, *, leaving: bool = False) -> None:
        """leaving: another version of the supervisor takes the agents over as they are.  Those that need the leader's
        word wait in it until they have it; the others need not."""
        if self._task is not None:
            tasks = [self._task, *self._busy.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for name, (_, epoch) in self.running.items():  # nobody looks at the lease any more
            agent = self.replica.state.agents.get(name)
            if not leaving or fencing.may_run(agent, self.device, epoch, Lease(), 0.0, stopped=self.halted()):
                self.supervisor.flows.pause(AgentName(name))

    # --- what should run ----------------------------------------------------------------------------------------------

    def to_stop(self) -> dict[str, str]:
        """Agents that must not run here any more, and why."""
        lease, now = self.lease()
        epochs = {name: epoch for name, (_, epoch) in self.running.items()}
        agents = self.replica.state.agents
        return fencing.to_stop(epochs, agents, self.device, lease, now, stopped=self.halted())

    def to_start(self) -> list[AgentState]:
        """Agents that must be brought up here, or to another artefact."""
        lease, now = self.lease()
        agents = self.replica.state.agents
        placed = [agents[name] for name in self.replica.state.agents_on(self.device)]
        epochs = {
            name: epoch
            for name, (artefact, epoch) in self.running.items()
            if name in agents and artefact == agents[name].spec.artefact
        }
        return fencing.to_start(epochs, placed, self.device, lease, now, stopped=self.halted())

    def may_run(self, name: str) -> bool:
        """For what leaves this device in the agent's name: does the fencing rule hold now?"""
        return name in self.running and name not in self.to_stop()

    def epoch_of(self, name: str) -> int | None:
        found = self.running.get(name)
        return None if found is None else found[1]

    def is_of_cell(self, name: str) -> bool:
        """Whether the agent is here by the cell's word, running or not."""
        return name in self._known

    # --- making it so -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """What must stop is stopped first, and never waits for what is being fetched and brought up."""
        while True:
            self._wake.clear()
            try:
                wait_s = await self._turn()
            except Exception as error:  # whatever it is: agents that must stop are looked after again
                self.supervisor.log.crash("swarm_fault", error)
                wait_s = RETRY_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _turn(self) -> float | None:
        """Seconds until the next look, None: when woken."""
        loop = asyncio.get_running_loop()
        ending = self.to_stop()
        for name in ending:  # from here on no row of it goes in, however long its stop may take
            self.supervisor.flows.pause(AgentName(name))
        for name, why in ending.items():
            await self._take_down(name, why)
        await self._clean_up()
        due = [agent for agent in self.to_start() if agent.spec.id not in self._busy]
        for agent in due:
            name = agent.spec.id
            if self._tries.get(name, _Try()).at <= loop.time():
                self._busy[name] = loop.create_task(self._bring_up(name, agent))
                self._busy[name].add_done_callback(lambda _, name=name: self._brought(name))  # type: ignore[misc]
        waits = [self._tries[a.spec.id].at - loop.time() for a in due if a.spec.id in self._tries]
        waits += [RETRY_S] if self.to_stop() else []  # one did not stop
        return max(0.01, min(waits)) if waits else None

    def _brought(self, name: str) -> None:
        task = self._busy.pop(name)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.supervisor.log.crash("swarm_fault", error)
            self._failed(name, "a fault of ours")
        self._wake.set()

    async def _clean_up(self) -> None:
        """Remove what the cell has given away, once its word is fresh: files and checkpoints of an earlier life too."""
        lease, now = self.lease()
        if not lease.held(now):
            return
        agents = self.replica.state.agents
        for name in [n for n in self._known if n not in agents or agents[n].device != self.device]:
            if name in self.running or name in self._busy:
                continue
            try:
                if AgentName(name) in self.supervisor.node.table.agents:
                    await self.supervisor.remove(name)
                await self._note(name, known=False)
            except (EdgeSwarmError, OSError) as error:
                self.supervisor.log.error("cell_agent_not_stopped", agent=name, error=str(error))

    async def _note(self, name: str, *, known: bool) -> None:
        """Which agents of the supervisor are the cell's, over a restart."""
        async with self._noting:
            if (name in self._known) is known:
                return
            (self._known.add if known else self._known.discard)(name)
            data = " ".join(sorted(self._known)).encode()
            await asyncio.to_thread(write_whole, self.folder / "hosted", data)  # an SD card takes its time

    async def _bring_up(self, name: str, agent: AgentState) -> None:
        """Fetch, check, and deploy, swap or start: whatever is missing."""
        sup, digest = self.supervisor, agent.spec.artefact
        try:
            if name not in self._known and AgentName(name) in sup.node.table.agents:
                raise LocalError(f"agent {name}: this device has one of that name of its own; rename or remove that")
            await self._note(name, known=True)
            if name not in self.running:
                await self.before(agent)
            here = sup.node.table.agents.get(AgentName(name))
            if here is None or here.plan.artefact != digest.hex():
                data = await self.fetch(digest, name)
                if hashlib.sha256(data).digest() != digest:
                    raise RemoteError(f"agent {name}: expected artefact {digest.hex()[:12]}, found another")
                self._check_holds(agent)
                if here is not None:
                    await sup.swap(name, f"artefact {digest.hex()[:12]}", data)
                else:
                    await sup.deploy([(f"artefact {digest.hex()[:12]}", data)])
                await self._keep_stopped(name, digest)
            if sup.status.get(AgentName(name), ("", ""))[0] in ("stopped", "failed", "replaced"):
                self._check_holds(agent)
                await sup.start_agent(name)
                await self._keep_stopped(name, digest)
        except (EdgeSwarmError, OSError) as error:
            self._failed(name, str(error))
            return
        self._tries.pop(name, None)
        self.running[name] = (digest, agent.epoch)
        if name in self.to_stop():
            self._wake.set()
            return
        sup.flows.resume_handed(AgentName(name))
        sup.log.info("cell_agent_runs", agent=name, epoch=agent.epoch, artefact=digest.hex()[:12])
        self.told(name, "ready", f"epoch {agent.epoch}")

    def _check_holds(self, agent: AgentState) -> None:
        """Much may have happened while it was fetched.  Raises RemoteError where it may not run here any more."""
        lease, now = self.lease()
        here = self.replica.state.agents.get(agent.spec.id)
        why = fencing.may_run(here, self.device, agent.epoch, lease, now, stopped=self.halted())
        if why or not lease.held(now):
            raise RemoteError(f"agent {agent.spec.id}: not brought up: {why or 'no lease'}")

    async def _take_down(self, name: str, why: str) -> None:
        sup = self.supervisor
        try:
            if sup.status.get(AgentName(name), ("removed", ""))[0] not in ("stopped", "removed", "failed"):
                await sup.stop(name)
        except (EdgeSwarmError, OSError) as error:
            sup.log.error("cell_agent_not_stopped", agent=name, error=str(error))
            return
        self.running.pop(name, None)
        sup.log.info("cell_agent_stopped", agent=name, why=why)
        self.told(name, "stopped", why)

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
