"""One agent, one copy: what a device may run, and when the leader may give it away."""

from __future__ import annotations

import pytest
from cell_commands import Cell
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core.cell.fencing import Lease, lease_fits, may_run, resume_alone, to_start, to_stop
from edgeswarm.core.cell.types import AgentSpec, AgentState

HELD, OVER = Lease(3, 100.0), Lease(3, 10.0)


def placed(name: str = "a", device: str | None = "d", epoch: int = 5, **spec: object) -> AgentState:
    return AgentState(AgentSpec(name, bytes(32), **spec), 1, device, epoch)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("agent", "lease", "stopped", "why"),
    [
        (placed(), HELD, False, ""),
        (placed(), OVER, False, "no leader was heard"),
        (placed(runs_alone=True), OVER, False, ""),
        (placed(pin="d"), OVER, False, ""),
        (placed(device="e", pin="e"), OVER, False, "placed on e"),
        (placed(runs_alone=True), HELD, True, "stopped"),
        (placed(device="e", epoch=6), HELD, False, "placed on e"),
        (placed(device="e", epoch=6, runs_alone=True), HELD, False, "placed on e"),
        (placed(device=None, epoch=6), HELD, False, "placed on no device"),
        (placed(epoch=7), HELD, False, "epoch 5 is over, the agent is at 7"),
        (None, HELD, False, "removed"),
    ],
)
def test_who_may_run(agent: AgentState | None, lease: Lease, stopped: bool, why: str) -> None:
    found = may_run(agent, "d", 5, lease, 50.0, stopped=stopped)
    assert found == "" if not why else why in found


def test_a_lease_is_renewed_by_the_latest_leader_and_only_when_the_log_was_applied() -> None:
    lease = Lease().renewed(term=2, commit=7, applied=7, now=10, lease_ms=100)
    assert lease == Lease(2, 110)
    assert lease.renewed(term=1, commit=7, applied=9, now=50, lease_ms=100) == lease, "an older leader"
    assert lease.renewed(term=2, commit=8, applied=7, now=50, lease_ms=100) == lease, "entry 8 may take agents away"
    newer = lease.renewed(term=3, commit=8, applied=7, now=50, lease_ms=100)
    assert newer == Lease(3, 110)
    assert newer.renewed(term=2, commit=7, applied=8, now=60, lease_ms=100) == newer
    assert newer.held(109)
    assert not newer.held(110)


def test_a_device_that_comes_back_stops_what_moved_and_starts_what_is_its_own() -> None:
    agents = {
        "gone": placed("gone", "e", 9),
        "back": placed("back", "d", 8),
        "same": placed("same", "d", 3),
        "new": placed("new", "d", 7),
    }
    running = {"gone": 4, "back": 2, "same": 3, "removed": 1}
    assert sorted(to_stop(running, agents, "d", HELD, 50.0, stopped=False)) == ["back", "gone", "removed"]
    started = to_start(running, agents.values(), "d", HELD, 50.0, stopped=False)
    assert [agent.spec.id for agent in started] == ["back", "new"]
    assert to_start(running, agents.values(), "d", OVER, 50.0, stopped=False) == []
    assert to_start(running, agents.values(), "d", HELD, 50.0, stopped=True) == []


def test_after_a_power_cut_on_a_site_cut_off_only_what_needs_no_lease_starts() -> None:
    agents = [placed("x"), placed("alone", runs_alone=True), placed("bolted", pin="d"), placed("other", "e", pin="e")]
    assert [agent.spec.id for agent in resume_alone(agents, "d", stopped=False)] == ["alone", "bolted"]
    assert resume_alone(agents, "d", stopped=True) == []


@given(
    cut_at=st.floats(0, 10_000),
    phase=st.floats(0, 1),
    drift=st.floats(-0.01, 0.01),
    commit_ms=st.floats(0, 1_000),
)
def test_a_device_that_is_cut_off_has_stopped_before_another_may_start(
    cut_at: float, phase: float, drift: float, commit_ms: float
) -> None:
    """Times of the leader's clock.  The device's clock runs 1 % fast or slow; both hear each other until cut_at."""
    status_ms, silent_ms = 250.0, 1_500.0
    lease_ms = 1_000.0
    assert lease_fits(lease_ms=lease_ms, silent_ms=silent_ms, status_ms=status_ms)
    last_heard_by_leader = cut_at - phase * status_ms
    last_heard_by_device = cut_at
    stops_at = last_heard_by_device + lease_ms * (1 + drift)
    starts_elsewhere_at = last_heard_by_leader + silent_ms + commit_ms
    assert stops_at <= starts_elsewhere_at


def test_two_copies_never_run_in_a_partition_told_in_steps() -> None:
    """d1 is cut off with its agent; the cell moves it to d2; d1 stops by its lease, and again when it is back."""
    cell = Cell()
    lost = cell.device("d1")
    cell.device("d2")
    epoch = cell.agent("a", on="d1")
    lease = Lease().renewed(term=1, commit=cell.state.index, applied=cell.state.index, now=0, lease_ms=1_000)
    old_view = cell.state.agents["a"]
    assert may_run(old_view, "d1", epoch, lease, 999, stopped=False) == ""
    assert may_run(old_view, "d1", epoch, lease, 1_000, stopped=False) != ""
    from edgeswarm.core.cell.commands import DeviceLost

    cell(DeviceLost("d1", lost))
    cell.move("a", "d2")
    heard = lease.renewed(term=1, commit=cell.state.index, applied=4, now=5_000, lease_ms=1_000)
    assert may_run(old_view, "d1", epoch, heard, 5_001, stopped=False) != "", "heard, but it does not know of the move"
    caught_up = heard.renewed(term=1, commit=cell.state.index, applied=cell.state.index, now=5_100, lease_ms=1_000)
    assert "placed on d2" in may_run(cell.state.agents["a"], "d1", epoch, caught_up, 5_101, stopped=False)
