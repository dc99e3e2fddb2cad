"""Who is where: the agents, the jails, and the moves that keep them consistent.

Decides which agents may share a jail, and that a jail goes when its last agent leaves.
Invariants (checked by `Table.check`):
  an agent is in at most one jail, plus one more while it is being swapped;
  a quarantined, failed or stopped agent is in no jail;
  every jail has at least one agent that wants it, or is dying;
  agents of one jail have the same network, publisher and policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from edgeswarm.core import effects as do
from edgeswarm.core import events as ev
from edgeswarm.core.breaker import Breaker
from edgeswarm.core.resources import Capacity
from edgeswarm.core.supervision import Intensity
from edgeswarm.ids import AgentName, Cause, JailId


class Status(Enum):
    PREPARING = "preparing"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"  # circuit breaker open
    BACKING_OFF = "backing_off"
    STOPPED = "stopped"
    FAILED = "failed"
    QUARANTINED = "quarantined"


ALIVE = frozenset({Status.PREPARING, Status.STARTING, Status.RUNNING, Status.PAUSED, Status.BACKING_OFF})
IN_JAIL = frozenset({Status.STARTING, Status.RUNNING, Status.PAUSED})


@dataclass(slots=True)
class Agent:
    """What the node knows of one agent; `pending` is the version a swap goes to, in jail `pending_jail`."""

    plan: ev.AgentPlan
    status: Status = Status.PREPARING
    prepared: bool = False
    opened: bool = False
    alone: bool = False  # was a suspect of a death: gets a jail of its own from then on
    jail: JailId | None = None
    pending: ev.AgentPlan | None = None
    pending_jail: JailId | None = None
    breaker: Breaker = field(default_factory=Breaker)
    restarts: Intensity = field(default_factory=Intensity)
    restarts_total: int = 0


@dataclass(slots=True)
class Jail:
    """agents: in slot order.  dying: we asked for its end, so its exit is no fault."""

    policy: str
    agents: tuple[AgentName, ...]
    ready: bool = False
    dying: bool = False


class Table:
    """Agents in the order of their deployment, jails in the order of their birth."""

    def __init__(self, capacity: Capacity, *, agents_per_jail: int) -> None:
        self.capacity = capacity
        self.agents_per_jail = agents_per_jail
        self.agents: dict[AgentName, Agent] = {}
        self.jails: dict[JailId, Jail] = {}
        self.jail_last = 0

    def groups(self, names: Sequence[AgentName]) -> list[list[AgentName]]:
        groups: list[list[AgentName]] = []
        for name in names:
            agent = self.agents[name]
            for group in groups:
                if len(group) < self.agents_per_jail and self.may_share(self.agents[group[0]], agent):
                    group.append(name)
                    break
            else:
                groups.append([name])
        return groups

    @staticmethod
    def may_share(one: Agent, other: Agent) -> bool:
        if one is other:
            return True
        if one.alone or other.alone or one.plan.own_jail or other.plan.own_jail:
            return False
        same_network = one.plan.supervision.network == other.plan.supervision.network
        return same_network and one.plan.trust_domain == other.plan.trust_domain

    def spawn(
        self, policy: str, members: Sequence[tuple[AgentName, str]], cause: Cause
    ) -> tuple[JailId | None, list[do.Effect]]:
        if sum(not jail.dying for jail in self.jails.values()) >= self.capacity.jails_max:
            return None, []
        self.jail_last += 1
        jail = JailId(self.jail_last)
        self.jails[jail] = Jail(policy, tuple(name for name, _ in members))
        return jail, [do.SpawnJail(jail, policy, tuple(members), cause)]

    def jails_full(self) -> str:
        return f"the device runs at most {self.capacity.jails_max} jails (profile jails_max)"

    def end(self, name: AgentName, status: Status, why: str, cause: Cause) -> list[do.Effect]:
        """Take the agent out of its jail and close it; the jail goes when nobody is left in it."""
        agent = self.agents[name]
        effects: list[do.Effect] = []
        if agent.opened:
            effects.append(do.CloseAgent(name, cause))
            effects.append(do.CancelTimer(("checkpoint", name), cause))
            effects.append(do.CancelTimer(("probe", name), cause))
            agent.opened = False
        agent.status = status
        jail, agent.jail = agent.jail, None
        effects += self.drop_swap(agent, cause)
        if jail is not None:
            effects += self.leave(jail, cause)
        effects.append(do.Announce(name, status.value, why, cause))
        return effects

    def drop_swap(self, agent: Agent, cause: Cause) -> list[do.Effect]:
        jail, agent.pending, agent.pending_jail = agent.pending_jail, None, None
        return self.kill(jail, cause) if jail is not None else []

    def leave(self, jail: JailId, cause: Cause) -> list[do.Effect]:
        return [] if any(agent.jail == jail for agent in self.agents.values()) else self.kill(jail, cause)

    def kill(self, jail: JailId, cause: Cause) -> list[do.Effect]:
        if jail not in self.jails or self.jails[jail].dying:
            return []
        self.jails[jail] = replace(self.jails[jail], dying=True)
        return [do.KillJail(jail, cause)]

    def needs(self, without: AgentName | None = None) -> Iterable[ev.Need]:
        return [a.plan.need for name, a in self.agents.items() if name != without]

    def check(self) -> None:
        """Assert the invariants of the module's docstring."""
        for name, agent in self.agents.items():
            if agent.status not in IN_JAIL:
                assert agent.jail is None, (name, agent)
            if agent.status not in IN_JAIL | {Status.BACKING_OFF}:  # a swap goes on while the old jail is replaced
                assert agent.pending_jail is None, (name, agent)
            for jail in (agent.jail, agent.pending_jail):
                assert jail is None or (name in self.jails[jail].agents and not self.jails[jail].dying), (name, agent)
        for jail_id, home in self.jails.items():
            members = [a for a in self.agents.values() if jail_id in (a.jail, a.pending_jail)]
            assert home.dying or members, (jail_id, home)
            shared = {(a.plan.supervision.network, a.plan.trust_domain) for a in members if a.jail == jail_id}
            assert len(shared) <= 1, (jail_id, shared)
