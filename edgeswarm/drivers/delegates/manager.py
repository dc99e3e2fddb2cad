"""Who gets how much of one accelerator.  Pure: no clock, no device; `now_s` is an argument.

Memory is given out by weight: each agent's share of it is its weight's share of all weights, a class's priority being
the weight; an agent that wants less than its share leaves the rest to the others.  Time is given out by turns: of those
that wait the one goes next that has used least for its weight, so that over any while everybody gets its share.
Invariants: budgets never add up to more than there is; one turn at a time; who is refused is told so once, with the
reason, and may ask again after GPU_RETRY_S, or as soon as something was given back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edgeswarm.errors import LocalError
from edgeswarm.limits import GPU_BUDGET_BYTES_MIN, GPU_RETRY_S


@dataclass(frozen=True, slots=True)
class Allocation:
    """budget_bytes: of the accelerator's memory; 0: compute on the CPU, and `reason` says why.

    retry_s: when to ask again (the clock of `now_s`); 0 where there is a budget.
    """

    budget_bytes: int
    reason: str = ""
    retry_s: float = 0.0

    @property
    def cpu_only(self) -> bool:
        return not self.budget_bytes


@dataclass(slots=True)
class _Agent:
    weight: float
    budget_bytes: int
    used: float = 0.0
    """Time it has used, by its weight."""
    waits: bool = False


@dataclass(slots=True)
class GpuManager:
    """memory_bytes: of the accelerator, for all agents; 0: there is none.  warn(reason): once for each reason."""

    memory_bytes: int
    warn: Callable[[str], None]
    _agents: dict[str, _Agent] = field(default_factory=dict)
    _turn: str = ""
    _warned: set[str] = field(default_factory=set)

    # --- memory -----------------------------------------------------------------------------------------------------

    def allocate(self, swarm_size: int, *, now_s: float = 0.0) -> Allocation:
        """What each of `swarm_size` agents of one weight could have, beside those that have something.

        Raises LocalError below 1.
        """
        if swarm_size < 1:
            raise LocalError(f"agents that share the accelerator: at least 1 expected, found {swarm_size}")
        return self._judge(self._free() // swarm_size, f"{swarm_size} agents", GPU_BUDGET_BYTES_MIN, now_s)

    def join(self, name: str, *, weight: float, wants_bytes: int, now_s: float = 0.0) -> Allocation:
        """One agent's budget: what it wants, if its share and what is free have that much; else cpu_only.

        Raises LocalError when it has one, or for a weight that is not positive.
        """
        if name in self._agents:
            raise LocalError(f"agent {name}: it has {self._agents[name].budget_bytes} bytes of the accelerator already")
        if not weight > 0:
            raise LocalError(f"agent {name}: a weight above 0 expected, found {weight}")
        weights = weight + sum(agent.weight for agent in self._agents.values())
        share = max(int(self.memory_bytes * weight / weights), self._free() if not self._agents else 0)
        found = self._judge(min(share, self._free()), f"agent {name}", max(wants_bytes, 1), now_s)
        if found.cpu_only:
            return found
        least = min((agent.used for agent in self._agents.values()), default=0.0)
        budget = max(wants_bytes, 1)
        self._agents[name] = _Agent(weight, budget, used=least)  # who comes late has not earned what it did not use
        return Allocation(budget)

    def leave(self, name: str) -> None:
        """It needs nothing any more."""
        if self._agents.pop(name, None) is not None:
            self._warned.clear()  # what is free now may do for those who were refused
        if self._turn == name:
            self._turn = ""

    def _free(self) -> int:
        return self.memory_bytes - sum(agent.budget_bytes for agent in self._agents.values())

    def _judge(self, budget: int, who: str, least: int, now_s: float) -> Allocation:
        if not self.memory_bytes:
            why = "cpu_only: no memory of an accelerator is given to agents (delegates.gpu_memory_mb)"
        elif budget < least:
            why = f"cpu_only: {who} would get {budget} bytes of the accelerator's {self.memory_bytes}, {least} needed"
        else:
            return Allocation(budget)
        if why not in self._warned:
            self._warned.add(why)
            self.warn(why)
        return Allocation(0, why, now_s + GPU_RETRY_S)

    # --- turns ------------------------------------------------------------------------------------------------------

    def begin(self, name: str) -> bool:
        """May this agent compute now?  If not it waits, and `end` says when its turn has come."""
        agent = self._agents[name]
        if self._turn and self._turn != name:
            agent.waits = True
            return False
        ahead = self._next()
        if ahead and ahead != name and self._agents[ahead].used < agent.used:
            agent.waits = True
            return False
        self._turn, agent.waits = name, False
        return True

    def end(self, name: str, used_us: float) -> str:
        """Its turn is over, it has used so much.  Who is next; nothing when nobody waits."""
        agent = self._agents.get(name)
        if agent is not None:
            agent.used += max(used_us, 0.0) / agent.weight
        if self._turn == name:
            self._turn = ""
        return self._next()

    def call(self) -> str:
        """Whose turn it may be now: who is called waits no more, and begins or has nothing to do; nothing: nobody."""
        name = "" if self._turn else self._next()
        if name:
            self._agents[name].waits = False
        return name

    def _next(self) -> str:
        """Of those that wait, the one that has used least for its weight; of equals the first that came."""
        waiting = [name for name, agent in self._agents.items() if agent.waits]
        return min(waiting, key=lambda name: self._agents[name].used, default="")
