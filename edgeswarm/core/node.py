"""The control plane of one device: event -> effects, nothing else.

Decides who is admitted, who shares a jail, what follows a death, a fault, a swap, a stop.  Does no I/O, reads no clock.
Keeps the invariants of `table`.
Leaves to the data plane: frames, their order, their resending.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgeswarm.core import effects as do
from edgeswarm.core import events as ev
from edgeswarm.core.breaker import Breaker
from edgeswarm.core.breaker import State as BreakerState
from edgeswarm.core.resources import Capacity, refusal
from edgeswarm.core.supervision import Intensity, restart_set
from edgeswarm.core.table import ALIVE, IN_JAIL, Agent, Status, Table
from edgeswarm.ids import AgentName, Cause, JailId


class Node:
    """One device's control plane.  agents_per_jail: 1 .. limits.JAIL_AGENTS_MAX."""

    def __init__(self, capacity: Capacity, *, agents_per_jail: int = 16) -> None:
        self.table = Table(capacity, agents_per_jail=agents_per_jail)
        self.networks: dict[str, Intensity] = {}
        self._waiting: dict[str, tuple[AgentName, ...]] = {}  # restart timer's key -> the agents it starts
        self._handlers: dict[type, Callable[[Any, float], list[do.Effect]]] = {
            ev.AgentDeployed: self._deployed,
            ev.AgentSwapAsked: self._swap_asked,
            ev.AgentStartAsked: self._start_asked,
            ev.AgentStopAsked: self._stop_asked,
            ev.AgentRemoveAsked: self._remove_asked,
            ev.KernelPrepared: self._kernel_prepared,
            ev.KernelRefused: self._kernel_refused,
            ev.AgentNotOpened: self._not_opened,
            ev.JailReady: self._jail_ready,
            ev.JailExited: self._jail_exited,
            ev.AgentFaulted: self._agent_faulted,
            ev.AgentProbed: self._agent_probed,
            ev.CutOver: self._cut_over,
            ev.TimerFired: self._timer_fired,
            ev.ShutdownAsked: self._shutdown_asked,
        }

    def handle(self, event: ev.Event, now: float) -> list[do.Effect]:
        """The effects of one event, to be performed in list order.  now: ms of the monotonic clock."""
        return self._handlers[type(event)](event, now)

    # --- asked by the operator ----------------------------------------------------------------------------------------

    def _deployed(self, event: ev.AgentDeployed, now: float) -> list[do.Effect]:
        plan, cause = event.plan, event.cause
        if plan.name in self.table.agents:
            return [do.Refuse(plan.name, f"agent {plan.name}: a second agent of that name; swap or remove it", cause)]
        why = refusal(self.table.capacity, self.table.needs(), plan.need)
        if why:
            return [do.Refuse(plan.name, f"agent {plan.name}: {why}", cause)]
        self.table.agents[plan.name] = Agent(plan)
        if not event.start:
            self.table.agents[plan.name].status = Status.STOPPED
            return [do.Announce(plan.name, "stopped", "deployed, not started", cause)]
        return [
            do.Announce(plan.name, "preparing", f"artefact {plan.artefact[:12]}", cause),
            do.PrepareKernel(plan.name, plan.artefact, cause),
        ]

    def _swap_asked(self, event: ev.AgentSwapAsked, now: float) -> list[do.Effect]:
        plan, cause = event.plan, event.cause
        agent = self.table.agents.get(plan.name)
        why = None
        if agent is None:
            why = "no agent of that name is deployed"
        elif agent.pending is not None:
            why = "a swap is under way"
        elif plan.artefact == agent.plan.artefact:
            why = f"artefact {plan.artefact[:12]} is what runs already"
        else:
            why = refusal(self.table.capacity, self.table.needs(without=plan.name), plan.need)
        if agent is None or why:
            return [do.Refuse(plan.name, f"agent {plan.name}: {why}", cause)]
        if agent.status in (Status.RUNNING, Status.PAUSED):
            agent.pending = plan
            return [do.PrepareKernel(plan.name, plan.artefact, cause)]
        if agent.status in (Status.STARTING, Status.PREPARING, Status.BACKING_OFF):
            return [do.Refuse(plan.name, f"agent {plan.name}: it is {agent.status.value}; swap it when it runs", cause)]
        agent.plan, agent.prepared = plan, False
        return [do.Announce(plan.name, "replaced", f"artefact {plan.artefact[:12]} from the next start on", cause)]

    def _start_asked(self, event: ev.AgentStartAsked, now: float) -> list[do.Effect]:
        agent = self.table.agents.get(event.name)
        if agent is None or agent.status in ALIVE:
            why = "no agent of that name is deployed" if agent is None else f"it is {agent.status.value} already"
            return [do.Refuse(event.name, f"agent {event.name}: {why}", event.cause)]
        agent.status, agent.prepared = Status.PREPARING, False
        agent.breaker, agent.restarts = Breaker(), Intensity()
        return [
            do.Announce(event.name, "preparing", "start asked", event.cause),
            do.PrepareKernel(event.name, agent.plan.artefact, event.cause),
        ]

    def _stop_asked(self, event: ev.AgentStopAsked, now: float) -> list[do.Effect]:
        agent = self.table.agents.get(event.name)
        if agent is None or agent.status not in ALIVE:
            why = "no agent of that name is deployed" if agent is None else f"it is {agent.status.value} already"
            return [do.Refuse(event.name, f"agent {event.name}: {why}", event.cause)]
        effects = self.table.end(event.name, Status.STOPPED, "stop asked", event.cause)
        return effects + self._start_prepared(agent, event.cause)

    def _remove_asked(self, event: ev.AgentRemoveAsked, now: float) -> list[do.Effect]:
        agent = self.table.agents.get(event.name)
        if agent is None:
            return [do.Refuse(event.name, f"agent {event.name}: no agent of that name is deployed", event.cause)]
        effects: list[do.Effect] = []
        if agent.status in ALIVE or agent.opened:
            effects = self.table.end(event.name, Status.STOPPED, "remove asked", event.cause)[:-1]  # not "stopped"
        del self.table.agents[event.name]
        effects += [do.ForgetAgent(event.name, event.cause), do.Announce(event.name, "removed", "", event.cause)]
        return effects + self._start_prepared(agent, event.cause)

    def _shutdown_asked(self, event: ev.ShutdownAsked, now: float) -> list[do.Effect]:
        effects: list[do.Effect] = []
        for name, agent in self.table.agents.items():
            if agent.status in ALIVE:
                effects += self.table.end(name, Status.STOPPED, "shutdown", event.cause)
        return effects

    # --- kernels and jails --------------------------------------------------------------------------------------------

    def _kernel_prepared(self, event: ev.KernelPrepared, now: float) -> list[do.Effect]:
        agent = self.table.agents.get(event.name)
        if agent is None:
            return []
        if agent.pending is not None and event.artefact == agent.pending.artefact:
            jail, effects = self.table.spawn(agent.pending.policy, [(event.name, event.artefact)], event.cause)
            if jail is None:
                agent.pending = None
                return [do.Announce(event.name, "swap_failed", self.table.jails_full(), event.cause)]
            agent.pending_jail = jail
            return effects
        if agent.status is not Status.PREPARING or event.artefact != agent.plan.artefact:
            return []
        agent.prepared = True
        return self._start_prepared(agent, event.cause)

    def _start_prepared(self, agent: Agent, cause: Cause) -> list[do.Effect]:
        """Agents of one network and domain start together: wait until none of them is being prepared any more.

        Also when `agent` is not among them any more: the others may have waited for it.
        """
        peers = [
            n for n, a in self.table.agents.items() if a.status is Status.PREPARING and self.table.may_share(a, agent)
        ]
        if any(not self.table.agents[name].prepared for name in peers):
            return []
        return self._start(peers, cause)

    def _kernel_refused(self, event: ev.KernelRefused, now: float) -> list[do.Effect]:
        agent = self.table.agents.get(event.name)
        if agent is None:
            return []
        if agent.pending is not None and event.artefact == agent.pending.artefact:
            agent.pending = None
            return [do.Announce(event.name, "swap_failed", event.why, event.cause)]
        if agent.status is not Status.PREPARING:
            return []
        effects = self.table.end(event.name, Status.FAILED, event.why, event.cause)
        return effects + self._start_prepared(agent, event.cause)

    def _not_opened(self, event: ev.AgentNotOpened, now: float) -> list[do.Effect]:
        agent = self.table.agents.get(event.name)
        if agent is None or agent.status not in ALIVE:
            return []
        return self.table.end(event.name, Status.FAILED, event.why, event.cause)

    def _start(self, names: Sequence[AgentName], cause: Cause) -> list[do.Effect]:
        """Spawn jails for these agents: one jail for up to agents_per_jail that may share, alone where they must."""
        effects: list[do.Effect] = []
        for group in self.table.groups(names):
            members = [(name, self.table.agents[name].plan.artefact) for name in group]
            jail, spawn = self.table.spawn(self.table.agents[group[0]].plan.policy, members, cause)
            for name in group:
                if jail is None:
                    effects += self.table.end(name, Status.FAILED, self.table.jails_full(), cause)
                else:
                    self.table.agents[name].status, self.table.agents[name].jail = Status.STARTING, jail
            effects += spawn
        return effects

    def _jail_ready(self, event: ev.JailReady, now: float) -> list[do.Effect]:
        jail = self.table.jails.get(event.jail)
        if jail is None or jail.dying:
            return []
        jail.ready = True
        effects: list[do.Effect] = []
        for slot, name in enumerate(jail.agents):
            agent = self.table.agents.get(name)
            if agent is None:
                continue
            if agent.pending is not None and agent.pending_jail == event.jail:
                effects.append(do.SwitchAgent(name, agent.pending.artefact, event.jail, slot, event.cause))
            elif agent.jail == event.jail:
                effects += self._attach(name, agent, event.jail, slot, now, event.cause)
        return effects

    def _attach(
        self, name: AgentName, agent: Agent, jail: JailId, slot: int, now: float, cause: Cause
    ) -> list[do.Effect]:
        effects: list[do.Effect] = []
        if not agent.opened:
            agent.opened = True
            effects.append(do.OpenAgent(name, cause))
            effects.append(do.ArmTimer(("checkpoint", name), now + agent.plan.checkpoint_ms, cause))
        paused = agent.breaker.state is not BreakerState.CLOSED
        agent.status = Status.PAUSED if paused else Status.RUNNING
        effects.append(do.AttachAgent(name, jail, slot, cause))
        effects.append(do.Announce(name, agent.status.value, f"jail {jail} slot {slot}", cause))
        return effects

    def _jail_exited(self, event: ev.JailExited, now: float) -> list[do.Effect]:
        jail = self.table.jails.pop(event.jail, None)
        if jail is None or jail.dying:
            return []
        effects: list[do.Effect] = []
        victims: list[AgentName] = []
        for slot_name in jail.agents:
            agent = self.table.agents.get(slot_name)
            if agent is None:
                continue
            if agent.pending_jail == event.jail:
                agent.pending = agent.pending_jail = None
                effects.append(do.Announce(slot_name, "swap_failed", event.why, event.cause))
                if agent.jail is not None and self.table.jails[agent.jail].ready:
                    slot = self.table.jails[agent.jail].agents.index(slot_name)
                    effects.append(do.AttachAgent(slot_name, agent.jail, slot, event.cause))
            elif agent.jail == event.jail:
                agent.jail = None
                victims.append(slot_name)
                effects.append(do.DetachAgent(slot_name, event.cause))
        suspects = [name for name in event.suspects if name in victims] or (victims if len(victims) == 1 else [])
        if event.sigsys and suspects:
            bad = suspects[0]
            victims.remove(bad)
            effects += self.table.end(bad, Status.QUARANTINED, f"forbidden system call: {event.why}", event.cause)
        if len(victims) > 1:
            for name in event.suspects:
                if name in victims:
                    self.table.agents[name].alone = True
        return effects + self._restart(victims, event.why, now, event.cause)

    def _restart(self, victims: Sequence[AgentName], why: str, now: float, cause: Cause) -> list[do.Effect]:
        if not victims:
            return []
        supervision = self.table.agents[victims[0]].plan.supervision
        order = [
            name
            for name, a in self.table.agents.items()
            if a.plan.supervision.network == supervision.network and (a.status in IN_JAIL or name in victims)
        ]
        chosen = restart_set(supervision.strategy, order, victims)
        effects: list[do.Effect] = []
        effects += self._take_down(chosen, order, cause)
        delay_ms, lasting = self._count_restart(chosen, supervision, now)
        for name in chosen:
            if name in lasting:
                self.table.agents[name].status = Status.BACKING_OFF
                effects.append(do.Announce(name, "backing_off", f"{why}; again in {delay_ms:g} ms", cause))
            else:
                limit = f"more than {supervision.restarts_max} restarts in {supervision.within_ms / 1000:g} s"
                effects += self.table.end(name, Status.FAILED, f"{why}; {limit}", cause)
        if lasting:
            key = str(self.table.jail_last) + ":" + lasting[0]
            self._waiting[key] = tuple(lasting)
            effects.append(do.ArmTimer(("restart", key), now + delay_ms, cause))
        return effects

    def _take_down(self, chosen: list[AgentName], order: Sequence[AgentName], cause: Cause) -> list[do.Effect]:
        """Kill the jails that agents of `chosen` still live in; whoever shares one of them joins `chosen`."""
        effects: list[do.Effect] = []
        jails = {self.table.agents[name].jail for name in chosen} - {None}
        for name in order:
            agent = self.table.agents[name]
            if agent.jail in jails:
                if name not in chosen:
                    chosen.append(name)
                agent.jail = None
                effects.append(do.DetachAgent(name, cause))
                if agent.pending is not None:
                    effects += self.table.drop_swap(agent, cause)
                    effects.append(do.Announce(name, "swap_failed", "it was taken down for a restart", cause))
        for jail in sorted(j for j in jails if j is not None):
            effects += self.table.kill(jail, cause)
        return effects

    def _count_restart(
        self, chosen: Sequence[AgentName], supervision: ev.Supervision, now: float
    ) -> tuple[float, list[AgentName]]:
        """Delay before the restart, and which of `chosen` may be restarted once more."""
        for name in chosen:
            agent = self.table.agents[name]
            agent.restarts_total += 1
            agent.restarts = agent.restarts.restarted(now, supervision)
        if supervision.strategy == "one_for_one":
            lasting = [name for name in chosen if not self.table.agents[name].restarts.exceeded(supervision)]
            delays = [self.table.agents[name].restarts.delay_ms(supervision) for name in lasting]
            return max(delays, default=0.0), lasting
        intensity = self.networks.get(supervision.network, Intensity()).restarted(now, supervision)
        self.networks[supervision.network] = intensity
        return intensity.delay_ms(supervision), [] if intensity.exceeded(supervision) else list(chosen)

    # --- faults, swaps, timers ----------------------------------------------------------------------------------------

    def _agent_faulted(self, event: ev.AgentFaulted, now: float) -> list[do.Effect]:
        agent = self.table.agents.get(event.name)
        if agent is None or agent.status not in (Status.RUNNING, Status.PAUSED):
            return []
        before = agent.breaker.state
        agent.breaker = agent.breaker.faulted(now)
        if agent.breaker.state is not BreakerState.OPEN or before is BreakerState.OPEN:
            return []
        agent.status = Status.PAUSED
        return [
            do.PauseAgent(event.name, event.cause),
            do.ArmTimer(("probe", event.name), now + agent.breaker.pause_ms, event.cause),
            do.Announce(event.name, "paused", f"{event.why}; probe in {agent.breaker.pause_ms:g} ms", event.cause),
        ]

    def _agent_probed(self, event: ev.AgentProbed, now: float) -> list[do.Effect]:
        agent = self.table.agents.get(event.name)
        if agent is None or agent.breaker.state is not BreakerState.HALF_OPEN:
            return []
        agent.breaker = agent.breaker.probed()
        if agent.status is Status.PAUSED:
            agent.status = Status.RUNNING
        return [
            do.ResumeAgent(event.name, event.cause),
            do.Announce(event.name, agent.status.value, "probe answered", event.cause),
        ]

    def _cut_over(self, event: ev.CutOver, now: float) -> list[do.Effect]:
        agent = self.table.agents.get(event.name)
        if agent is None or agent.pending is None or agent.pending_jail != event.jail:
            return []
        old = agent.jail
        agent.plan, agent.jail = agent.pending, event.jail
        agent.pending = agent.pending_jail = None
        agent.breaker = Breaker()
        agent.status = Status.RUNNING
        effects: list[do.Effect] = [do.CancelTimer(("probe", event.name), event.cause)]
        if old is not None:
            effects += self.table.leave(old, event.cause)
        else:  # it died meanwhile: the agent was detached, and nobody knows whether before or after it was switched
            slot = self.table.jails[event.jail].agents.index(event.name)
            effects.append(do.AttachAgent(event.name, event.jail, slot, event.cause))
        effects.append(do.ResumeAgent(event.name, event.cause))
        effects.append(do.Announce(event.name, "swapped", f"artefact {agent.plan.artefact[:12]}", event.cause))
        return effects

    def _timer_fired(self, event: ev.TimerFired, now: float) -> list[do.Effect]:
        kind, key = event.key
        if kind == "restart":
            names = [n for n in self._waiting.pop(key, ()) if n in self.table.agents]
            return self._start([n for n in names if self.table.agents[n].status is Status.BACKING_OFF], event.cause)
        name = AgentName(key)
        agent = self.table.agents.get(name)
        if agent is None or agent.status not in ALIVE:
            return []
        if kind == "checkpoint":
            again = do.ArmTimer(event.key, now + agent.plan.checkpoint_ms, event.cause)
            return [do.WriteCheckpoint(name, event.cause), again]
        if agent.status is not Status.PAUSED:
            return [do.ArmTimer(event.key, now + agent.breaker.pause_ms, event.cause)] if kind == "probe" else []
        agent.breaker = agent.breaker.probe_due()
        return [do.ProbeAgent(name, event.cause)]

    def check(self) -> None:
        """Assert the invariants; tests call it after every event."""
        self.table.check()
