"""The small deciders of the control plane: inbox order, breaker states, admission, back-off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core.breaker import Breaker, State
from edgeswarm.core.events import Need, Supervision
from edgeswarm.core.priority import PASSED_OVER_MAX, Priority, PriorityInbox
from edgeswarm.core.resources import Capacity, refusal
from edgeswarm.core.supervision import Intensity, restart_set
from edgeswarm.errors import LimitError
from edgeswarm.ids import AgentName, NetworkName

NAMES = [AgentName(c) for c in "abcd"]


@given(st.lists(st.sampled_from(list(Priority)), max_size=200))
def test_inbox_gives_back_everything_once_and_in_order_inside_a_class(kinds: list[Priority]) -> None:
    inbox: PriorityInbox[tuple[Priority, int]] = PriorityInbox(1000)
    for i, kind in enumerate(kinds):
        inbox.put((kind, i), kind)
    out = []
    while (item := inbox.take()) is not None:
        out.append(item)
    assert sorted(out, key=lambda x: x[1]) == list(zip(kinds, range(len(kinds)), strict=True))
    for kind in Priority:
        assert [i for k, i in out if k is kind] == sorted(i for k, i in out if k is kind)


def test_a_low_event_is_handled_even_while_high_ones_keep_coming() -> None:
    inbox: PriorityInbox[str] = PriorityInbox(1000)
    inbox.put("low", Priority.LOW)
    taken = 0
    for _ in range(PASSED_OVER_MAX + 1):
        inbox.put("high", Priority.HIGH)
        taken += 1
        if inbox.take() == "low":
            break
    assert taken == PASSED_OVER_MAX + 1


def test_a_full_inbox_refuses_all_but_critical() -> None:
    inbox: PriorityInbox[int] = PriorityInbox(1)
    inbox.put(1, Priority.LOW)
    with pytest.raises(LimitError, match="at most 1"):
        inbox.put(2, Priority.HIGH)
    inbox.put(3, Priority.CRITICAL)
    assert inbox.take() == 3


def test_breaker_forgets_faults_older_than_its_window() -> None:
    breaker = Breaker(faults_max=3, within_ms=100)
    for now in (0, 90, 101):
        breaker = breaker.faulted(now)
    assert breaker.state is State.CLOSED
    assert breaker.faulted(102).state is State.OPEN


@given(st.lists(st.sampled_from(["fault", "due", "probed"]), max_size=60))
def test_breaker_pause_is_bounded_and_a_closed_breaker_has_none(steps: list[str]) -> None:
    breaker = Breaker()
    for now, step in enumerate(steps):
        breaker = {"fault": lambda b, t=now: b.faulted(t), "due": Breaker.probe_due, "probed": Breaker.probed}[step](
            breaker
        )
        assert breaker.pause_ms <= breaker.pause_ms_max
        assert len(breaker.faults) < breaker.faults_max
        assert breaker.state is State.CLOSED or breaker.pause_ms >= breaker.pause_ms_first


@given(st.permutations(NAMES), st.sets(st.sampled_from(NAMES)))
def test_restart_sets_grow_from_one_for_one_to_one_for_all(order: list[AgentName], victims: set[AgentName]) -> None:
    one = restart_set("one_for_one", order, victims)
    rest = restart_set("rest_for_one", order, victims)
    everyone = restart_set("one_for_all", order, victims)
    assert set(one) == victims
    assert set(one) <= set(rest) <= set(everyone)
    assert rest == order[len(order) - len(rest) :]


def test_back_off_doubles_up_to_its_bound() -> None:
    supervision = Supervision(NetworkName("n"), backoff_ms=50, backoff_ms_max=300, restarts_max=3)
    intensity, delays = Intensity(), []
    for now in range(5):
        intensity = intensity.restarted(now, supervision)
        delays.append(intensity.delay_ms(supervision))
    assert delays == [50, 100, 200, 300, 300]
    assert intensity.exceeded(supervision)
    assert not intensity.restarted(1e9, supervision).exceeded(supervision)


MB = 1 << 20


@pytest.mark.parametrize(
    ("need", "text"),
    [
        (Need(64 * MB, 32 * MB, 0.1, 1.0), "limit 32 MB is below the minimum 64 MB"),
        (Need(90 * MB, 90 * MB, 0.1, 1.0), "needs 90 MB, free 84 MB of 100 MB"),
        (Need(1 * MB, 1 * MB, 1.5, 2.0), "needs 1.5 cores, free 0.5 of 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers(need: Need, text: str) -> None:
    capacity = Capacity(100 * MB, 1.0, 8, 8)
    assert text in (refusal(capacity, [Need(16 * MB, 32 * MB, 0.5, 1.0)], need) or "")
