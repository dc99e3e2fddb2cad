"""Keeps the turns of each jail's agents (`stream/turns.py`): measures what their calls cost, and wakes who was put off.

What a jail used since its last answers is its process's CPU time, which it cannot forge; how long each call took, which
the jail says with its answers, only divides that between agents that answered together.
An agent that is alone in its jail and may use a whole core needs no turns: its calls run one after the other.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from typing import Final

from edgeswarm.app.pump import AgentFlow, Port
from edgeswarm.drivers.cpu_clock import cpu_ns
from edgeswarm.drivers.jails import Jail, Reply
from edgeswarm.ids import JailId
from edgeswarm.jail.frames import FaultCode, Kind
from edgeswarm.limits import TURN_WAIT_NS_MIN
from edgeswarm.stream.turns import Share, Turns

WHOLE_CORE: Final = 1.0
_REPLY: Final = int(Kind.REPLY)


class Keeper:
    """The turns of one jail.  clock: CPU ns that it has used.  deadlines_ms: of its agents' calls, by slot."""

    def __init__(self, clock: Callable[[], int], deadlines_ms: Mapping[int, int]) -> None:
        self.turns = Turns()
        self._clock = clock
        self._deadlines_ms = deadlines_ms
        self._seen_ns = clock()
        self._flows: dict[int, AgentFlow] = {}
        self._answered: list[tuple[int, float]] = []
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None

    def join(self, slot: int, flow: AgentFlow, cores: float) -> None:
        self._flows[slot] = flow
        self.turns.join(slot, cores, time.monotonic_ns())

    def leave(self, slot: int) -> None:
        """Its calls count no more; its neighbours need not wait for it."""
        self._flows.pop(slot, None)
        self.turns.leave(slot)
        self._later()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._flows.clear()

    def __len__(self) -> int:
        return len(self._flows)

    # --- the flow's side ------------------------------------------------------------------------------------------

    def admit(self, slot: int) -> bool:
        """May this flow send one more call now?  If not it is woken when it may."""
        if self.turns.admit(slot, time.monotonic_ns()):
            return True
        self._wait()
        return False

    def unsent(self, slot: int) -> bool:
        """The ring had no room for the call after all.  Always False."""
        self.turns.unsent(slot)
        return False

    def share(self, slot: int) -> Share | None:
        return self.turns.share(slot)

    # --- the jail's side ------------------------------------------------------------------------------------------

    def answered(self, reply: Reply) -> None:
        """One call was answered.  Answers that come together are settled together, by one look at the clock."""
        took_us = reply.aux if reply.kind == _REPLY else reply.rows
        if not took_us and reply.fault is FaultCode.DEADLINE:  # of a worker that an earlier version started
            took_us = self._deadlines_ms.get(reply.slot, 0) * 1000
        self._answered.append((reply.slot, max(took_us, 1)))
        self._later()

    def _later(self) -> None:
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        self._soon = False
        if self._answered:
            answered, self._answered = self._answered, []
            used_ns = self._clock()
            self.turns.settle(answered, max(0, used_ns - self._seen_ns), time.monotonic_ns())
            self._seen_ns = max(used_ns, self._seen_ns)
        for slot in self.turns.waiting():
            flow = self._flows.get(slot)
            self.turns.rests(slot)  # it asks again, if it still has something to send
            if flow is not None:
                flow.put_off = False
                flow.send()

    def _wait(self) -> None:
        """See to it that who was put off is woken: by the next answer, at once, or when it has earned something."""
        if any(share.flying for slot in self._flows if (share := self.turns.share(slot)) is not None):
            return
        now_ns = time.monotonic_ns()
        due_ns = self.turns.due_ns(now_ns)
        if due_ns is None:
            self._later()  # it waits for a neighbour that may have stopped sending meanwhile
        elif self._timer is None:
            wait_s = max(due_ns - now_ns, TURN_WAIT_NS_MIN) / 1e9
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._settle()


class Keepers:
    """The keepers of all jails, by number.  beside: CPU ns that agents of a jail have used elsewhere, for its calls."""

    def __init__(self, beside: Callable[[JailId], int] = lambda _: 0) -> None:
        self._keepers: dict[JailId, Keeper] = {}
        self._beside = beside

    def sit(self, flow: AgentFlow, jail_id: JailId, jail: Port | None, slot: int) -> None:
        """A flow takes its slot."""
        if not isinstance(jail, Jail):
            return
        cores = jail.specs[slot].cpu_cores
        keeper = self._keepers.get(jail_id)
        if keeper is None:
            if len(jail.specs) == 1 and cores >= WHOLE_CORE:
                return
            deadlines_ms = {number: spec.deadline_ms for number, spec in jail.specs.items()}
            keeper = self._keepers[jail_id] = Keeper(functools.partial(self._cpu_ns, jail, jail_id), deadlines_ms)
        keeper.join(slot, flow, cores)
        flow.turns = keeper

    def _cpu_ns(self, jail: Jail, jail_id: JailId) -> int:
        return cpu_ns(jail.pid) + self._beside(jail_id)

    def rise(self, flow: AgentFlow, jail_id: JailId, slot: int) -> None:
        """It leaves it."""
        keeper = self._keepers.get(jail_id)
        if keeper is None:
            return
        keeper.leave(slot)
        if flow.turns is keeper:
            flow.turns = None
        if not len(keeper):
            keeper.close()
            del self._keepers[jail_id]

    def answered(self, jail_id: JailId, reply: Reply) -> None:
        keeper = self._keepers.get(jail_id)
        if keeper is not None:
            keeper.answered(reply)
