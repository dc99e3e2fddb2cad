"""The supervisor: events into `core.node`, its effects performed, once, in order, and logged.

Decides nothing that `core` or `stream` could decide.  One asyncio loop; SQLite in a thread of its own; no other
threads. What an operator asks (deploy, swap, stop, ...) is an event like any other; the call returns when the node
has announced what became of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from edgeswarm.app.config import Settings
from edgeswarm.app.control_loop import BAD, SETTLED, ControlLoop, Refused
from edgeswarm.app.flows import Flows, upstreams
from edgeswarm.app.log import Log
from edgeswarm.app.shelf import Artefact, Shelf
from edgeswarm.assets import asset
from edgeswarm.core import effects as do
from edgeswarm.core import events as ev
from edgeswarm.core.node import Node
from edgeswarm.core.resources import Capacity
from edgeswarm.core.table import ALIVE
from edgeswarm.drivers.jails import Jail, JailExit, JailHost
from edgeswarm.drivers.store import Deployed, Store
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError, RemoteError, TierError
from edgeswarm.ids import AgentName, JailId
from edgeswarm.limits import FOLLOW_LINES_MAX
from edgeswarm.stream.flight import SetAside
from edgeswarm.stream.pipeline import Outcome


class Supervisor(ControlLoop):
    """One device's supervisor.  Use as an async context manager, or start() and close()."""

    def __init__(self, settings: Settings, *, log: Log) -> None:
        node = Node(self._capacity(settings), agents_per_jail=settings.profile.limits.agents_per_jail)
        super().__init__(node, log)
        self.settings = settings
        self.started_at = time.time()
        self.flows = Flows(self)
        self.shelf = Shelf(settings, log=log)
        self.host: JailHost | None = None
        self.store: Store | None = None
        self.jails: dict[JailId, Jail] = {}
        self.status: dict[AgentName, tuple[str, str]] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self._closing = False
        self._guilty: set[AgentName] = set()  # agents whose call was running when their jail died, until they detach

    @staticmethod
    def _capacity(settings: Settings) -> Capacity:
        limits = settings.profile.limits
        return Capacity(limits.memory_mb << 20, limits.cpu_cores, limits.agents_max, limits.jails_max)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open state, start the zygote, and bring back what ran before.  Raises TierError where no jail can be made."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        self.store = await Store.open(self.settings.state_dir / "edgeswarm.db")
        self.host = JailHost(
            policy_dir=asset("sandbox"),
            cache_dir=self.settings.state_dir / "cache",
            mac_key=self.shelf.device_key.derive("es-cwasm"),
        )
        await self.host.start()
        least = self.settings.profile.jails.min_tier
        if self.host.tier > least:  # "A" < "B" < "C": a later letter is less isolation
            raise TierError(f"isolation tier: the profile wants {least} or better, this machine has {self.host.tier}")
        self._loop_task = asyncio.create_task(self._run())
        self.log.info("supervisor_started", device=self.settings.device, tier=self.host.tier, pid=os.getpid())
        wanted = await self.store.agents()
        artefacts = []
        for row in wanted:
            try:
                artefacts.append((self.shelf.load_kept(row.name, row.artefact), row.wanted == "running"))
            except (EdgeSwarmError, OSError) as error:
                self.log.error("agent_not_resumed", agent=row.name, error=str(error))
        for artefact, result in zip(artefacts, await self._deploy(artefacts), strict=True):
            if isinstance(result, BaseException):
                self.log.error("agent_not_resumed", agent=artefact[0].plan.name, error=str(result))

    async def close(self) -> None:
        """Stop every agent (drain, checkpoint), end the jails, close the state."""
        if self._closing:
            return
        self._closing = True
        if self._loop_task is not None:
            self.post(ev.ShutdownAsked(self.cause("shutdown")))
            await self._ended.wait()
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        for timer in self._timers.values():
            timer.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.host is not None:
            await self.host.close()
        if self.store is not None:
            await self.store.close()
        self.log.info("supervisor_stopped", device=self.settings.device)

    async def __aenter__(self) -> Supervisor:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # --- events and effects -------------------------------------------------------------------------------------------

    async def _perform(self, effect: do.Effect) -> None:
        """One effect.  What takes long becomes a task and answers with an event."""
        match effect:
            case do.Refuse():
                self._settle(effect.name, effect.cause, "refused", effect.why)
            case do.Announce():
                self._announce(effect)
            case do.PrepareKernel():
                self._task(self._prepare(effect))
            case do.SpawnJail():
                self._task(self._spawn(effect))
            case do.KillJail():
                jail = self.jails.pop(effect.jail, None)
                if jail is not None:
                    self._task(jail.close())
            case do.OpenAgent():
                try:
                    await self.flows.open(effect.name, self.shelf.current(effect.name))
                except (EdgeSwarmError, OSError) as error:
                    self.post(ev.AgentNotOpened(effect.name, str(error), effect.cause))
            case do.AttachAgent():
                self.flows.attach(effect.name, effect.jail, self.jails.get(effect.jail), effect.slot)
            case do.DetachAgent():
                self.flows.detach(effect.name, suspected=effect.name in self._guilty)
                self._guilty.discard(effect.name)
            case do.SwitchAgent():
                self._task(self._switch(effect))
            case do.PauseAgent():
                self.flows.pause(effect.name)
            case do.ProbeAgent():
                self.flows.probe(effect.name)
            case do.ResumeAgent():
                self.flows.resume(effect.name)
            case do.CloseAgent():
                await self.flows.close(effect.name)
            case do.ForgetAgent():
                await self._forget(effect.name)
            case do.WriteCheckpoint():
                await self.flows.checkpoint(effect.name)
            case do.ArmTimer():
                self._arm(effect)
            case do.CancelTimer():
                self._disarm(effect.key)

    def _announce(self, effect: do.Announce) -> None:
        write = self.log.warning if effect.status in BAD | {"paused", "backing_off"} else self.log.info
        write("agent_" + effect.status, agent=effect.name, detail=effect.detail, cause=effect.cause)
        if effect.status == "removed":
            self.status.pop(effect.name, None)
        elif effect.status in ("swapped", "swap_failed"):
            self.status[effect.name] = ("running", effect.detail)
        else:
            self.status[effect.name] = (effect.status, effect.detail)
        if effect.status == "swap_failed":
            self.shelf.drop_pending(effect.name)
        if effect.status in SETTLED:
            self._settle(effect.name, None, effect.status, effect.detail)

    # --- long effects -------------------------------------------------------------------------------------------------

    async def _prepare(self, effect: do.PrepareKernel) -> None:
        assert self.host is not None
        try:
            artefact = self.shelf.find(effect.name, effect.artefact)
            await self.shelf.prepare(artefact, self.host)
        except EdgeSwarmError as error:
            self.post(ev.KernelRefused(effect.name, effect.artefact, str(error), effect.cause))
        else:
            self.post(ev.KernelPrepared(effect.name, effect.artefact, effect.cause))

    async def _spawn(self, effect: do.SpawnJail) -> None:
        assert self.host is not None
        began = time.monotonic()
        try:
            specs = [
                self.shelf.find(name, artefact).kernel_spec(slot) for slot, (name, artefact) in enumerate(effect.agents)
            ]
            jail = await self.host.spawn(
                specs,
                policy=effect.policy,
                ring_bytes=self.settings.profile.jails.ring_kb << 10,
                on_reply=lambda reply: self.flows.reply(effect.jail, reply),
                on_exit=lambda exit_: self._jail_exited(effect.jail, exit_),
            )
            for slot, (name, _) in enumerate(effect.agents):
                await self.flows.restore_memory(name, jail, slot)
        except EdgeSwarmError as error:
            self.post(ev.JailExited(effect.jail, f"no jail: {error}", False, effect.cause))
            return
        known = self.node.table.jails.get(effect.jail)
        if known is None or known.dying or not jail.alive:
            await jail.close()  # nobody wants it any more; its exit tells the node
            return
        self.jails[effect.jail] = jail
        ready_ms = round((time.monotonic() - began) * 1000, 1)
        names = [name for name, _ in effect.agents]
        self.log.info("jail_ready", jail=effect.jail, pid=jail.pid, agents=names, ready_ms=ready_ms, cause=effect.cause)
        self.post(ev.JailReady(effect.jail, effect.cause))

    def _jail_exited(self, number: JailId, exit_: JailExit) -> None:
        cause = self.cause(f"jail{number}-exit")
        wanted = self.jails.pop(number, None) is None
        suspects = () if wanted else self.flows.suspects(number, exit_)
        self._guilty.update(suspects[:1])
        if not wanted:
            self.log.warning(
                "jail_exited",
                jail=number,
                why=exit_.text,
                quarantine=exit_.quarantine,
                suspects=list(suspects),
                cause=cause,
            )
        self.post(ev.JailExited(number, exit_.text, exit_.quarantine, cause, suspects))

    async def _switch(self, effect: do.SwitchAgent) -> None:
        jail = self.jails.get(effect.jail)
        if jail is None:
            return  # its exit is in the inbox already
        artefact = self.shelf.find(effect.name, effect.artefact)
        try:
            await self.flows.switch(effect.name, artefact, effect.jail, jail, effect.slot)
        except EdgeSwarmError as error:
            self.post(ev.JailExited(effect.jail, f"swap: {error}", False, effect.cause))
            self.jails.pop(effect.jail, None)
            await jail.close()
            return
        self.shelf.promote(effect.name, artefact)
        if self.store is not None:
            await self.store.put_agent(Deployed(effect.name, artefact.plan.artefact, "running"))
        self.post(ev.CutOver(effect.name, effect.jail, effect.cause))

    async def _forget(self, name: AgentName) -> None:
        self.flows.forget(name)
        self.shelf.forget(name)
        if self.store is not None:
            await self.store.remove_agent(name)

    # --- what an operator asks ----------------------------------------------------------------------------------------

    async def deploy(self, files: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
        """Deploy agents together; [(where it came from, agent file bytes)].

        All are checked before the first one is deployed.  Raises AgentFileError, SignatureError, ConfigError (a
        cycle, with its path), Refused.
        """
        artefacts = [self.shelf.admit(data, who=who) for who, data in files]
        names = [artefact.plan.name for artefact in artefacts]
        for artefact, (who, _) in zip(artefacts, files, strict=True):
            if artefact.plan.name in self.node.table.agents or names.count(artefact.plan.name) > 1:
                raise Refused(f"{who}: agent {artefact.plan.name}: a second agent of that name; swap or remove it")
        self.flows.check_graph([artefact.header for artefact in artefacts])
        results = await self._deploy([(artefact, True) for artefact in artefacts])
        assert self.store is not None
        rows = []
        for artefact, result in zip(artefacts, results, strict=True):
            plan = artefact.plan
            if plan.name in self.node.table.agents:
                self.shelf.keep(artefact)
                await self.store.put_agent(Deployed(plan.name, plan.artefact, "running"))
            rows.append({"name": plan.name, "artefact": plan.artefact, "status": str(result)})
        for artefact, result in zip(artefacts, results, strict=True):
            if isinstance(result, BaseException) and artefact.plan.name in self.node.table.agents:
                await self.remove(artefact.plan.name)  # so that it can be deployed again once it is mended
        faults = [result for result in results if isinstance(result, BaseException)]
        if faults:
            raise faults[0]
        return rows

    async def _deploy(self, artefacts: Sequence[tuple[Artefact, bool]]) -> list[str | BaseException]:
        """All at once, so that those of one network start together; [(artefact, start it)]."""
        asked = []
        for artefact, start in artefacts:
            name = artefact.plan.name
            self.shelf.put(artefact)
            event = ev.AgentDeployed(artefact.plan, self.cause(f"deploy-{name}"), start)
            asked.append(self._ask(event, name))
        return await asyncio.gather(*asked, return_exceptions=True)

    async def swap(self, name: str, who: str, data: bytes) -> dict[str, Any]:
        """Another version of a running agent, with no sample lost.  Raises as deploy."""
        artefact = self.shelf.admit(data, who=who)
        if artefact.plan.name != name:
            raise RemoteError(f"expected a version of agent {name}, found agent {artefact.plan.name}", who=who)
        self.flows.check_graph([artefact.header])
        self.shelf.put_pending(artefact)
        self.shelf.keep(artefact)
        status = await self._ask(ev.AgentSwapAsked(artefact.plan, self.cause(f"swap-{name}")), AgentName(name))
        if status != "swapped":  # it does not run now: the new version is what its next start starts
            self.shelf.promote(artefact.plan.name, artefact)
            await self._remember(name, "stopped")
        return {"name": name, "artefact": artefact.plan.artefact, "status": status}

    async def stop(self, name: str) -> str:
        status = await self._ask(ev.AgentStopAsked(AgentName(name), self.cause(f"stop-{name}")), AgentName(name))
        await self._remember(name, "stopped")
        return status

    async def start_agent(self, name: str) -> str:
        status = await self._ask(ev.AgentStartAsked(AgentName(name), self.cause(f"start-{name}")), AgentName(name))
        await self._remember(name, "running")
        return status

    async def remove(self, name: str) -> str:
        """Raises LocalError while another agent reads its stream."""
        readers = [header.name for header in self.shelf.known() if name in upstreams(header) and header.name != name]
        if readers:
            raise LocalError(f"agent {name}: {', '.join(readers)} reads its stream; remove that first")
        return await self._ask(ev.AgentRemoveAsked(AgentName(name), self.cause(f"remove-{name}")), AgentName(name))

    async def _remember(self, name: str, wanted: str) -> None:
        agent = self.node.table.agents.get(AgentName(name))
        if agent is not None and self.store is not None:
            await self.store.put_agent(Deployed(name, agent.plan.artefact, wanted))

    async def ask(self, name: str, row: Sequence[float], timeout_s: float) -> Outcome | None:
        """One row for source 0 of an agent with an `api` source, and its answer.

        Raises LocalError where there is no such agent or source, InputError, TrapError, JailGoneError.
        """
        flow = self.flows.flows.get(AgentName(name))
        if flow is None:
            raise LocalError(f"agent {name}: no agent of that name runs")
        agent = self.node.table.agents.get(flow.name)
        if agent is None or agent.status not in ALIVE:
            raise LocalError(f"agent {name}: it is {self.status.get(flow.name, ('removed', ''))[0]}; start it first")
        sources = self.shelf.current(flow.name).header.wiring.sources
        if not sources or sources[0].type != "api":
            raise LocalError(f"agent {name}: expected an `api` source, found {sources[0].type if sources else 'none'}")
        try:
            return await flow.ask(row, timeout_s)
        except TimeoutError:
            status = self.status.get(flow.name, ("unknown", ""))[0]
            raise LimitError(f"agent {name}: no answer within {timeout_s:g} s; it is {status}") from None

    async def stream(self, name: str) -> AsyncIterator[dict[str, Any]]:
        """The agent's answers from now on; a reader too slow for FOLLOW_LINES_MAX of them loses the oldest."""
        flow = self.flows.flows.get(AgentName(name))
        if flow is None:
            raise LocalError(f"agent {name}: no agent of that name runs")
        waiting: deque[dict[str, Any]] = deque(maxlen=FOLLOW_LINES_MAX)
        news = asyncio.Event()

        def follow(record: dict[str, Any]) -> None:
            waiting.append(record)
            news.set()

        flow.followers.append(follow)
        try:
            while True:
                await news.wait()
                news.clear()
                while waiting:
                    yield waiting.popleft()
        finally:
            flow.followers.remove(follow)

    def is_deployed(self, data: bytes) -> bool:
        """True when exactly this agent file is deployed already."""
        artefact = hashlib.sha256(data).hexdigest()
        return any(agent.plan.artefact == artefact for agent in self.node.table.agents.values())

    async def in_disk_thread(self, work: Callable[[], None]) -> None:
        """Run `work` in the store's thread: disk waits never hold the loop."""
        assert self.store is not None
        await self.store.run(work)

    def set_aside(self, name: AgentName, aside: SetAside) -> None:
        """Keep a frame that nobody could answer, with its bytes."""
        self.log.warning("frame_set_aside", agent=name, seq=aside.frame.seq, reason=aside.reason, text=aside.text)
        if self.store is not None:
            artefact = self.shelf.current(name).plan.artefact
            why = f"{aside.reason}: {aside.text}"
            self._task(self.store.set_aside(name, artefact, aside.frame.seq, why, aside.frame.payload))

    async def swap_weights(self, name: str, weights: bytes) -> None:
        """Other weights for a running agent, without a compile and without a lost sample."""
        await self.flows.swap_weights(AgentName(name), weights)
