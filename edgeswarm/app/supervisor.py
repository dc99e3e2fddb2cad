"""The supervisor: events into `core.node`, its effects performed, once, in order, and logged.

Decides nothing that `core` or `stream` could decide.  One asyncio loop; SQLite in a thread of its own; no other
threads. What an operator asks (deploy, swap, stop, ...) is an event like any other; the call returns when the node
has announced what became of it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from edgeswarm import __version__
from edgeswarm.app import isolation
from edgeswarm.app.audit import Audit
from edgeswarm.app.config import Settings
from edgeswarm.app.control_loop import BAD
from edgeswarm.app.delegation import Delegation
from edgeswarm.app.flows import Flows
from edgeswarm.app.log import Log
from edgeswarm.app.operations import Operations
from edgeswarm.app.shelf import Shelf
from edgeswarm.assets import asset
from edgeswarm.core import effects as do
from edgeswarm.core import events as ev
from edgeswarm.core.node import Node
from edgeswarm.core.resources import Capacity
from edgeswarm.drivers.cgroup import Groups
from edgeswarm.drivers.jails import Jail, JailExit, JailHost, Program
from edgeswarm.drivers.store import Store
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.ids import AgentName, Cause, JailId
from edgeswarm.stream.flight import SetAside
from edgeswarm.wire.certificate import Signatory


class Supervisor(Operations):
    """One device's supervisor.  Use as an async context manager, or start() and close().

    own_process: nothing else runs in this process; it may move itself into a cgroup of its own, and adopt orphans.
    """

    def __init__(self, settings: Settings, *, log: Log, own_process: bool = False) -> None:
        node = Node(self._capacity(settings), agents_per_jail=settings.profile.limits.agents_per_jail)
        super().__init__(node, log)
        self.settings = settings
        self._own_process = own_process
        self.started_at = time.time()
        self.flows = Flows(self)
        self.delegation = Delegation(self)
        self.shelf = Shelf(settings, log=log)
        self.audit = Audit(settings.state_dir / "audit", Signatory.from_seed(self.shelf.device_key.seed), log)
        self.host: JailHost | None = None
        self.store: Store | None = None
        self.jails: dict[JailId, Jail] = {}
        self.status: dict[AgentName, tuple[str, str]] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self._closing = False
        self._claimed: set[AgentName] = set()  # a deploy or a swap of these is under way
        self._unopened: set[AgentName] = set()  # their source or sink could not be opened: the node will end them
        self._beyond_repair: dict[JailId, AgentName] = {}  # jails that are being ended because of this agent
        # agents whose call was running when their jail died, until they detach; True: it did what no jail may
        self._guilty: dict[AgentName, bool] = {}

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
        self.audit.record("supervisor.start", who="edgeswarm", target=self.settings.device)
        self.settings.runtime_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.host = self.make_host()
        await self.host.start()
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

    def make_host(self, program: Program | None = None, first_id: int = 1) -> JailHost:
        """The host of its jails; program, first_id: one of delegates' (`drivers.delegates.hosts`)."""
        may_move = self._own_process and program is None
        more: dict[str, Any] = {} if program is None else {"program": program}
        return JailHost(
            policy_dir=asset("sandbox"),
            cache_dir=self.settings.state_dir / "cache",
            mac_key=self.shelf.device_key.derive("es-cwasm"),
            version=__version__,
            groups=Groups.open(str(self.settings.state_dir), may_move=may_move),
            own_process=self._own_process and program is None,
            judge=self._judge_tier
            if program is None
            else lambda tier, layers: isolation.check(tier, layers, self.settings),
            first_id=first_id,
            **more,
        )

    def _judge_tier(self, tier: str, layers: Mapping[str, tuple[bool, str]]) -> None:
        """Of the first zygote and of each that takes its place.  Raises TierError."""
        isolation.check(tier, layers, self.settings)
        if lost := isolation.degraded(tier, layers):
            self.log.warning("isolation_degraded", tier=tier, detail=lost)

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
        self._refuse_all("the supervisor was stopped")
        for timer in self._timers.values():
            timer.cancel()
        await self.delegation.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.flows.end()
        if self.host is not None:
            await self.host.close()
        if self.store is not None:
            self.audit.record("supervisor.stop", who="edgeswarm", target=self.settings.device)
        await asyncio.to_thread(self.audit.close)  # while the store is open: nobody else may write
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
        if isinstance(effect, (do.AttachAgent, do.Announce)) and effect.name in self._unopened:
            return  # it does not run: its AgentNotOpened is in the inbox
        match effect:
            case do.Refuse():
                self._refuse(effect.name, effect.cause, effect.why)
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
                    self._unopened.add(effect.name)
                    self.post(ev.AgentNotOpened(effect.name, str(error), effect.cause))
            case do.AttachAgent():
                self.flows.attach(effect.name, effect.jail, self.jails.get(effect.jail), effect.slot)
            case do.DetachAgent():
                last_try = self._guilty.pop(effect.name, None)
                self.flows.detach(effect.name, suspected=last_try is not None, last_try=bool(last_try))
            case do.SwitchAgent():
                self._task(self._switch(effect))
            case do.PauseAgent():
                self.flows.pause(effect.name)
            case do.ProbeAgent():
                self.flows.probe(effect.name)
            case do.ResumeAgent():
                self.flows.resume(effect.name)
            case do.CloseAgent():
                self._unopened.discard(effect.name)
                await self.flows.close(effect.name)
            case do.ForgetAgent():
                self.delegation.forget(effect.name)
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
        elif effect.status != "replaced":  # that changes the version, not what the agent does
            self.status[effect.name] = (effect.status, effect.detail)
        if effect.status == "swap_failed":
            self.shelf.drop_pending(effect.name)
        if effect.status == "quarantined":  # no restart of the supervisor brings it back, only an operator
            artefact = self.node.table.agents[effect.name].plan.artefact
            self._task(self._note(self._put(effect.name, artefact, "stopped"), effect.name, effect.cause))
        self._settle(effect.name, effect.status, effect.detail)

    # --- long effects -------------------------------------------------------------------------------------------------

    async def _prepare(self, effect: do.PrepareKernel) -> None:
        assert self.host is not None
        try:
            artefact = self.shelf.find(effect.name, effect.artefact)
            await self.shelf.prepare(artefact, self.host)
        except (EdgeSwarmError, OSError) as error:
            self.post(ev.KernelRefused(effect.name, effect.artefact, str(error), effect.cause))
        else:
            self.post(ev.KernelPrepared(effect.name, effect.artefact, effect.cause))

    async def _spawn(self, effect: do.SpawnJail) -> None:
        assert self.host is not None
        began = time.monotonic()
        try:
            artefacts = [self.shelf.find(name, artefact) for name, artefact in effect.agents]
            for one in artefacts:  # of before a hand-over, or before another zygote
                if one.binding != self.host.cache.binding:
                    await self.shelf.prepare(one, self.host)
            specs = [artefact.kernel_spec(slot) for slot, artefact in enumerate(artefacts)]
            jail = await self.host.spawn(
                specs,
                policy=effect.policy,
                ring_bytes=self.settings.profile.jails.ring_kb << 10,
                on_reply=lambda reply: self.flows.reply(effect.jail, reply),
                on_exit=lambda exit_: self._jail_exited(effect.jail, exit_),
            )
        except (EdgeSwarmError, OSError) as error:  # among others: no descriptors left
            self.post(ev.JailExited(effect.jail, f"no jail: {error}", False, effect.cause))
            return
        try:
            for slot, (name, _) in enumerate(effect.agents):
                await self._give_memory(name, effect.jail, jail, slot)
        except EdgeSwarmError as error:
            self.post(ev.JailExited(effect.jail, f"no jail: {error}", False, effect.cause))
            await jail.close()
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

    async def _give_memory(self, name: AgentName, number: JailId, jail: Jail, slot: int) -> None:
        """What the agent remembers, into the jail that it starts or goes on in; a swap does so when it cuts over."""
        agent = self.node.table.agents.get(name)
        if agent is not None and agent.pending_jail != number:
            await self.flows.restore_memory(name, jail, slot, opened=agent.opened)

    def _jail_exited(self, number: JailId, exit_: JailExit) -> None:
        cause = self.cause(f"jail{number}-exit")
        wanted = self.jails.pop(number, None) is None
        suspects = () if wanted else self.flows.suspects(number, exit_)
        self._guilty.update(dict.fromkeys(suspects[:1], exit_.quarantine))
        self.flows.jail_died(number)
        beyond_repair = self._beyond_repair.pop(number, None)
        suspects = suspects if beyond_repair is None else (beyond_repair,)
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

    def renew_jail(self, number: JailId, name: AgentName, why: str) -> bool:
        """An agent is broken in its jail for good (it wrote over its weights, no memory is left): only a new one helps.

        False: that is on its way already.
        """
        jail = self.jails.get(number)
        if jail is None or number in self._beyond_repair:
            return False
        self._beyond_repair[number] = name
        jail.kill(f"agent {name}: {why}")
        return True

    async def _switch(self, effect: do.SwitchAgent) -> None:
        jail = self.jails.get(effect.jail)
        if jail is None:
            return  # its exit is in the inbox already
        try:
            artefact = self.shelf.find(effect.name, effect.artefact)
            await self.flows.switch(effect.name, artefact, effect.jail, jail, effect.slot)
        except EdgeSwarmError as error:
            self.post(ev.JailExited(effect.jail, f"swap: {error}", False, effect.cause))
            self.jails.pop(effect.jail, None)
            await jail.close()
            return
        self.shelf.promote(effect.name, artefact)
        self.flows.rejoin(effect.name)
        self.post(ev.CutOver(effect.name, effect.jail, effect.cause))
        await self._note(self._put(effect.name, artefact.plan.artefact, "running"), effect.name, effect.cause)

    async def _forget(self, name: AgentName) -> None:
        self.flows.forget(name)
        self.shelf.forget(name)
        self._unopened.discard(name)
        if self.store is not None:
            await self._note(self.store.remove_agent(name), name)

    # --- the disk -----------------------------------------------------------------------------------------------------

    async def in_disk_thread(self, work: Callable[[], None]) -> None:
        """Run `work` in the store's thread: disk waits never hold the loop."""
        assert self.store is not None
        await self.store.run(work)

    async def _note(self, writing: Awaitable[None], name: AgentName, cause: Cause | None = None) -> None:
        """Write to the store.  When the disk is full the agents go on: what could not be written is logged."""
        try:
            await writing
        except EdgeSwarmError as error:
            self.log.error("store_failed", agent=name, error=str(error), cause=cause)

    def set_aside(self, name: AgentName, aside: SetAside) -> None:
        """Keep a frame that nobody could answer, with its bytes."""
        self.log.warning("frame_set_aside", agent=name, seq=aside.frame.seq, reason=aside.reason, text=aside.text)
        if self.store is not None:
            artefact = self.shelf.current(name).plan.artefact
            why = f"{aside.reason}: {aside.text}"
            keeping = self.store.set_aside(name, artefact, aside.frame.seq, why, aside.frame.payload)
            self._task(self._note(keeping, name))
