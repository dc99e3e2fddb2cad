"""The laws of turns, on a simulated jail: one call after the other, each as long as its agent likes."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.limits import CPU_CORES_MIN, TURN_BURST_S, TURN_QUANTUM_NS
from edgeswarm.stream.turns import Turns

MS = 1_000_000


class Jail:
    """Agents that always have a call to make, and a jail that makes one after the other."""

    def __init__(self, cores: list[float]) -> None:
        self.turns = Turns()
        self.cores = cores
        self.now = 0
        self.queue: deque[int] = deque()
        self.calls = [0] * len(cores)
        for slot, share in enumerate(cores):
            self.turns.join(slot, share, 0)

    def fill(self, busy: set[int]) -> None:
        """Whoever may send does; in the order of the slots, which is the worst that a greedy agent in slot 0 can do."""
        for slot in sorted(busy):
            while len(self.queue) < 4096 and self.turns.admit(slot, self.now):
                self.queue.append(slot)
                if self.queue.count(slot) >= 256:  # FRAMES_IN_FLIGHT_MAX
                    break

    def step(self, costs: list[int], busy: set[int]) -> None:
        self.fill(busy)
        if not self.queue:
            due = self.turns.due_ns(self.now)
            assert due is not None, "somebody has work, nobody may send, and nothing will change that"
            self.now = max(self.now + 1, due)
            return
        slot = self.queue.popleft()
        self.now += costs[slot]
        self.calls[slot] += 1
        self.turns.settle([(slot, 1.0)], costs[slot], self.now)

    def used(self, slot: int) -> float:
        share = self.turns.share(slot)
        assert share is not None
        return share.used_ns


cost = st.sampled_from([10_000, MS, 20 * MS, 1000 * MS])
cores = st.sampled_from([0.05, 0.25, 1.0, 2.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(cores, cost), min_size=1, max_size=4), st.integers(50, 400))
def test_nobody_uses_more_than_its_cores_and_one_burst(agents: list[tuple[float, int]], steps: int) -> None:
    """used <= burst + cores x time + the call that overdraws it, and the one before it."""
    jail = Jail([share for share, _ in agents])
    for _ in range(steps):
        jail.step([each for _, each in agents], set(range(len(agents))))
    for slot, (share, each) in enumerate(agents):
        slack = 2 * each
        assert jail.used(slot) <= share * TURN_BURST_S * 1e9 + share * jail.now + slack


@settings(max_examples=60, deadline=None)
@given(st.lists(cost, min_size=2, max_size=5), st.integers(100, 400))
def test_agents_that_are_always_busy_get_equal_shares(costs: list[int], steps: int) -> None:
    """Whatever one of their calls costs: nobody is ahead by more than a quantum, and a call each way."""
    jail = Jail([1.0] * len(costs))
    everybody = set(range(len(costs)))
    for _ in range(steps):
        jail.step(costs, everybody)
    share = [jail.used(slot) for slot in everybody]
    ahead = 2 * TURN_QUANTUM_NS + 2 * max(costs)
    assert max(share) - min(share) <= ahead


def test_an_agent_at_its_deadline_again_and_again_does_not_starve_a_quick_one() -> None:
    """Slot 0 takes 1 s a call, slot 1 takes 100 us: both always have work, and each gets half of the time."""
    jail = Jail([1.0, 1.0])
    for _ in range(100_000):
        jail.step([1000 * MS, MS // 10], {0, 1})
    assert jail.calls[1] > 50_000
    assert abs(jail.used(1) - jail.used(0)) <= 2 * TURN_QUANTUM_NS + 2 * 1000 * MS


def test_after_its_first_answers_a_slow_agent_has_one_call_in_the_jail() -> None:
    turns = Turns()
    turns.join(0, 1.0, 0)
    turns.join(1, 1.0, 0)
    assert turns.admit(1, 0)
    assert turns.admit(0, 0)
    turns.settle([(0, 1.0)], 300 * MS, 300 * MS)
    assert not turns.admit(0, 300 * MS), "300 ms ahead of slot 1"
    assert turns.waiting() == [0]
    turns.settle([(1, 1.0)], MS, 301 * MS)
    assert turns.admit(0, 301 * MS), "nobody else has work"
    assert not turns.admit(0, 301 * MS), "its budget covers what is in the jail"


def test_who_was_idle_saved_nothing_up_and_owes_nothing() -> None:
    turns = Turns()
    turns.join(0, 2.0, 0)
    turns.join(1, 2.0, 0)
    now = 0
    for _ in range(1000):  # slot 1 idles for ten seconds while slot 0 works
        now += 10 * MS
        assert turns.admit(0, now)
        turns.settle([(0, 1.0)], 10 * MS, now)
    assert turns.admit(1, now)
    turns.settle([(1, 1.0)], 100 * MS, now)
    assert turns.admit(0, now), "slot 1 is not five seconds behind"
    assert not turns.admit(1, now), "but 40 ms ahead"


def test_a_share_below_one_core_is_kept_without_neighbours() -> None:
    jail = Jail([0.25])
    while jail.now < 10_000 * MS:
        jail.step([10 * MS], {0})
    assert 0.2 <= jail.used(0) / jail.now <= 0.25 + TURN_BURST_S / 10 + 20 * MS / jail.now


def test_no_cores_at_all_is_the_least_that_there_is() -> None:
    turns = Turns()
    turns.join(0, 0.0, 0)
    share = turns.share(0)
    assert share is not None
    assert share.cores == CPU_CORES_MIN


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1e6)), min_size=1, max_size=20), st.floats(0, 1e9))
def test_what_was_measured_is_charged_whole_whatever_the_jail_says(
    answered: list[tuple[int, float]], cpu: float
) -> None:
    turns = Turns()
    for slot in range(4):
        turns.join(slot, 1.0, 0)
    turns.settle(answered, cpu, 0)
    shares = [turns.share(slot) for slot in range(4)]
    assert sum(share.used_ns for share in shares if share) == pytest.approx(cpu)
    assert all(share.flying >= 0 for share in shares if share)


def test_what_is_not_sent_or_has_left_counts_for_nothing() -> None:
    turns = Turns()
    turns.join(0, 1.0, 0)
    turns.join(1, 1.0, 0)
    assert turns.admit(0, 0)
    turns.unsent(0)
    assert turns.admit(1, 0)
    turns.settle([(1, 1.0)], 400 * MS, 0)
    turns.leave(0)
    assert turns.admit(1, 0)
    assert turns.admit(7, 0), "who has no account is not held"
    turns.settle([(7, 1.0)], 5, 0)
    turns.rests(1)
    assert turns.waiting() == []
