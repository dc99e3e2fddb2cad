"""Which agents of one jail may send a call now: no more than their share of CPU, and none at its neighbours' cost.

A jail computes one call after the other, in the order in which they came, and interrupts nobody before its deadline.
So what an agent takes from its neighbours is decided before a call is sent, by the CPU time of its calls before:

  budget   each agent earns `cores` ns of CPU a ns, TURN_BURST_S of it at most; who has used it up waits until it has
           some again.  A call cannot be stopped half-way, so a budget may be overdrawn, and is paid back by waiting.
  room     where it has neighbours, its calls in the jail number at most TURN_FRAMES_MAX, and are not expected to take
           longer than TURN_QUANTUM_NS together; one may always be there, and until its first answer no second one.  So
           long, or once TURN_FRAMES_MAX deadlines for one that was quick and turns slow, waits who comes later.
  turns    each has a virtual time, its CPU time over its cores (start-time fair queueing, Goyal et al. 1996).  While a
           neighbour has calls to make too, nobody is more than TURN_QUANTUM_NS ahead of the one that is furthest
           behind.  Who was idle begins where the others are: it neither saved turns up nor owes any.

Invariants: an agent with a budget that is alone in its jail is never put off; of those that wait for a turn the one
furthest behind may always send, so the jail never idles while one of them waits.
Pure: now and the CPU time are arguments; `app/turns.py` measures and wakes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeswarm.limits import CPU_CORES_MIN, TURN_BURST_S, TURN_COST_FADE, TURN_FRAMES_MAX, TURN_QUANTUM_NS


@dataclass(slots=True)
class Share:
    """One agent's account.  Times in ns."""

    cores: float
    budget_ns: float
    earned_at_ns: int
    virtual_ns: float = 0.0
    cost_ns: float = 0.0
    """What its next call is expected to cost."""
    flying: int = 0
    waits: bool = False
    """For its turn; not for its budget."""
    broke: bool = False
    """Its budget is used up."""
    used_ns: float = 0.0
    put_off: int = 0


class Turns:
    """The accounts of one jail's agents, by slot."""

    def __init__(self) -> None:
        self._shares: dict[int, Share] = {}
        self._floor_ns = 0.0  # how far the one furthest behind had come when somebody last sent

    def join(self, slot: int, cores: float, now_ns: int) -> None:
        """An agent takes this slot."""
        cores = max(cores, CPU_CORES_MIN)
        self._shares[slot] = Share(cores, cores * TURN_BURST_S * 1e9, now_ns, virtual_ns=self._floor_ns)

    def leave(self, slot: int) -> None:
        """It is gone; nobody waits for it."""
        self._shares.pop(slot, None)

    def __len__(self) -> int:
        return len(self._shares)

    def share(self, slot: int) -> Share | None:
        return self._shares.get(slot)

    def admit(self, slot: int, now_ns: int) -> bool:
        """True: one more call of it may be sent now, and counts as sent.  False: see `waiting`."""
        share = self._shares.get(slot)
        if share is None:
            return True
        self._earn(share, now_ns)
        if not share.flying and not share.waits:
            share.virtual_ns = max(share.virtual_ns, self._floor_ns)
        share.broke = share.budget_ns <= share.flying * share.cost_ns and (share.flying > 0 or share.budget_ns <= 0)
        if share.broke:
            share.waits = False
            share.put_off += 1
            return False
        unknown = share.flying > 0 and not share.cost_ns  # what its calls cost
        if unknown or (len(self._shares) > 1 and not self._may_go(share)):
            share.waits = True
            share.put_off += 1
            return False
        share.waits = False
        share.flying += 1
        return True

    def _may_go(self, share: Share) -> bool:
        """Is there room for one more of its calls, and is it its turn?"""
        coming_ns = share.flying * share.cost_ns
        if share.flying >= TURN_FRAMES_MAX or coming_ns > TURN_QUANTUM_NS:
            return False
        busy = [one.virtual_ns for one in self._shares.values() if one is not share and (one.flying or one.waits)]
        least_ns = min(busy, default=share.virtual_ns)
        if share.virtual_ns + coming_ns / share.cores > least_ns + TURN_QUANTUM_NS:
            return False
        self._floor_ns = max(self._floor_ns, min(least_ns, share.virtual_ns))
        return True

    def unsent(self, slot: int) -> None:
        """The call that was just admitted was not sent after all."""
        share = self._shares.get(slot)
        if share is not None and share.flying:
            share.flying -= 1

    def rests(self, slot: int) -> None:
        """It has nothing to send, or may not: it waits for no turn."""
        share = self._shares.get(slot)
        if share is not None:
            share.waits = share.broke = False

    def settle(self, answered: Iterable[tuple[int, float]], cpu_ns: float, now_ns: int) -> None:
        """Calls were answered, and their jail used `cpu_ns` for all of them.

        answered: (slot, how long it took beside the others, in any unit); what the jail says of that only divides what
        was measured.
        """
        calls = [(share, max(took, 0.0)) for slot, took in answered if (share := self._shares.get(slot)) is not None]
        whole = sum(took for _, took in calls)
        for share, took in calls:
            part = cpu_ns * (took / whole if whole > 0 else 1 / len(calls))
            self._earn(share, now_ns)
            share.flying = max(0, share.flying - 1)
            share.used_ns += part
            share.budget_ns -= part
            share.virtual_ns += part / share.cores
            share.cost_ns = max(part, share.cost_ns * TURN_COST_FADE, 1.0)

    def waiting(self) -> list[int]:
        """The slots that were put off, the one furthest behind first."""
        found = [(share.virtual_ns, slot) for slot, share in self._shares.items() if share.waits or share.broke]
        return [slot for _, slot in sorted(found)]

    def due_ns(self, now_ns: int) -> int | None:
        """When somebody without budget and without a call in the jail has earned some; None: nobody waits for that."""
        times = []
        for share in self._shares.values():
            if share.broke and not share.flying:
                self._earn(share, now_ns)
                times.append(now_ns + max(0, int(-share.budget_ns / share.cores) + 1))
        return min(times, default=None)

    def _earn(self, share: Share, now_ns: int) -> None:
        elapsed_ns = now_ns - share.earned_at_ns
        if elapsed_ns > 0:
            share.earned_at_ns = now_ns
            share.budget_ns = min(share.cores * TURN_BURST_S * 1e9, share.budget_ns + elapsed_ns * share.cores)
