"""Rollouts: one at a time for an agent, forward only, and no device loses what it runs because others need room."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cell_commands import WHO, Cell, replayed
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell import rollouts
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.cell.types import ROLLOUT_STATES
from edgeswarm.errors import LocalError

R = [f"{number:016x}" for number in range(20)]
ART = [bytes([number]) * 32 for number in range(20)]


@pytest.fixture
def cell() -> Cell:
    return Cell(version=3)


def start(number: int, agent: str = "fuse") -> c.StartRollout:
    return c.StartRollout(R[number], agent, ART[number], b"plan", WHO)


def steer(number: int, state: str, order: bytes = b"order") -> c.SteerRollout:
    return c.SteerRollout(R[number], state, order, "why", WHO)


def roll(cell: Cell, number: int, *devices: str, end: str = "done", agent: str = "fuse") -> None:
    """A rollout from its start to its end."""
    for command in (start(number, agent), c.AdvanceRollout(R[number], 1, devices, WHO), steer(number, end)):
        assert cell(command) == [ch.RolloutChanged(R[number])]


def reason(cell: Cell, command: c.Command) -> str:
    before = cell.state.freeze()
    (change,) = cell(command)
    assert isinstance(change, ch.Rejected)
    after = cell.state.freeze()
    assert replace(before, index=after.index) == after, "what is rejected changes nothing"
    return change.reason


def test_a_rollout_goes_over_its_devices_in_waves(cell: Cell) -> None:
    assert cell(start(1)) == [ch.RolloutChanged(R[1])]
    assert cell(start(1)) == [], "the same again is no second one"
    assert cell.state.desired("d1") == ()
    assert cell(c.AdvanceRollout(R[1], 1, ("d2", "d1"), WHO)) == [ch.RolloutChanged(R[1])]
    assert cell(c.AdvanceRollout(R[1], 1, ("d1",), WHO)) == [], "they have it"
    assert cell(c.AdvanceRollout(R[1], 1, ("d0",), WHO)) == [ch.RolloutChanged(R[1])]
    assert cell(c.AdvanceRollout(R[1], 2, ("d9",), WHO)) == [ch.RolloutChanged(R[1])]
    rollout = cell.state.rollouts[R[1]]
    assert (rollout.wave, rollout.devices) == (2, ("d0", "d1", "d2", "d9"))
    assert (rollout.state, rollout.plan, rollout.who) == ("running", b"plan", WHO)
    assert cell.state.desired("d9") == (("fuse", ART[1], R[1]),)
    for wave in (0, 1, 4):
        assert "expected 2 or 3" in reason(cell, c.AdvanceRollout(R[1], wave, ("d5",), WHO))
    assert "is not known" in reason(cell, c.AdvanceRollout(R[2], 1, ("d5",), WHO))
    assert "is not known" in reason(cell, steer(2, "paused"))
    assert "is there already" in reason(cell, replace(start(1), plan=b"another"))


def test_wave_zero_takes_no_devices(cell: Cell) -> None:
    cell(start(1))
    assert "wave 0 has no devices" in reason(cell, c.AdvanceRollout(R[1], 0, ("d1",), WHO))


def test_an_agent_has_one_rollout_at_a_time(cell: Cell) -> None:
    cell(start(1))
    assert "is running; end it first" in reason(cell, start(2))
    cell(steer(1, "paused"))
    assert "is paused; end it first" in reason(cell, start(2))
    assert cell(start(3, "scorer")) == [ch.RolloutChanged(R[3])], "of another agent"
    cell(steer(1, "aborted"))
    assert cell(start(2)) == [ch.RolloutChanged(R[2])]


@pytest.mark.parametrize("before", ROLLOUT_STATES)
@pytest.mark.parametrize("after", ROLLOUT_STATES)
def test_a_rollout_that_ended_does_not_begin_again(cell: Cell, before: str, after: str) -> None:
    cell(start(1))
    cell(steer(1, before))
    changes = cell(steer(1, after, b"later"))
    if before == after:
        assert changes == []
    elif before in ("running", "paused") or (before, after) == ("done", "rolled_back"):
        assert changes == [ch.RolloutChanged(R[1])]
        assert (cell.state.rollouts[R[1]].state, cell.state.rollouts[R[1]].order) == (after, b"later")
    else:
        assert isinstance(changes[0], ch.Rejected)
    if cell.state.rollouts[R[1]].state != "running":
        assert "does not advance" in reason(cell, c.AdvanceRollout(R[1], 1, ("d1",), WHO))


def test_a_device_runs_the_newest_that_has_it_and_was_not_rolled_back(cell: Cell) -> None:
    roll(cell, 1, "d1", "d2", "d3")
    roll(cell, 5, "d1", agent="scorer")
    roll(cell, 2, "d1", "d2", end="aborted")
    cell(start(3))
    cell(c.AdvanceRollout(R[3], 1, ("d1",), WHO))
    assert cell.state.desired("d1") == (("fuse", ART[3], R[3]), ("scorer", ART[5], R[5]))
    assert cell.state.desired("d2") == (("fuse", ART[2], R[2]),)
    assert cell.state.desired("d3") == (("fuse", ART[1], R[1]),)
    assert cell.state.desired("d4") == ()
    cell(steer(3, "rolled_back"))
    assert cell.state.desired("d1")[0] == ("fuse", ART[2], R[2])
    cell.state = CellState.from_snapshot(cell.state.to_snapshot())
    assert cell.state.desired("d1")[0] == ("fuse", ART[2], R[2])


# --- room -------------------------------------------------------------------------------------------------------------


def test_what_nobody_needs_goes_first_the_oldest_of_it_before(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "CELL_ROLLOUTS_MAX", 4)
    roll(cell, 1, "d1", "d2", "d3")  # d3 runs it
    roll(cell, 2, "d1", "d2")
    roll(cell, 3, "d1", "d2")  # both fall back to it
    roll(cell, 4, "d1", "d2")
    cell(start(5))
    assert list(cell.state.rollouts) == [R[1], R[3], R[4], R[5]]


def test_what_a_device_falls_back_to_stays_while_something_younger_is_of_no_use(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "CELL_ROLLOUTS_MAX", 3)
    roll(cell, 1, "d1")
    roll(cell, 2, "d1")
    roll(cell, 3, "d1", agent="scorer", end="rolled_back")
    cell(start(4, "vitals"))
    assert list(cell.state.rollouts) == [R[1], R[2], R[4]]
    cell(steer(2, "rolled_back"))
    assert cell.state.desired("d1") == (("fuse", ART[1], R[1]),)


def test_what_devices_run_is_not_forgotten_and_what_they_fall_back_to_only_for_need(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "CELL_ROLLOUTS_MAX", 3)
    roll(cell, 1, "d1", "d2")
    roll(cell, 2, "d2")
    roll(cell, 3, "d2")  # of 1 there is d1, of 2 what d2 falls back to
    roll(cell, 4, "d3", agent="scorer")
    assert list(cell.state.rollouts) == [R[1], R[3], R[4]]
    assert "all are in use" in reason(cell, start(5, "vitals"))
    cell(steer(4, "rolled_back"))
    assert cell(start(5, "vitals")) == [ch.RolloutChanged(R[5])]
    assert R[4] not in cell.state.rollouts


def test_room_is_counted_in_bytes_and_a_rollout_that_runs_can_always_be_stopped(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell(start(1))
    size = rollouts.rollout_bytes(cell.state.rollouts[R[1]])
    monkeypatch.setattr(rollouts, "CELL_ROLLOUTS_BYTES_MAX", size + 8)
    assert cell(c.AdvanceRollout(R[1], 1, ("d1", "d2"), WHO)) == [ch.RolloutChanged(R[1])]
    assert "all are in use" in reason(cell, c.AdvanceRollout(R[1], 1, ("d3",), WHO))
    assert "all are in use" in reason(cell, start(2, "scorer"))
    assert cell(steer(1, "rolled_back", bytes(4096))) == [ch.RolloutChanged(R[1])]
    assert cell(start(2, "scorer")) == [ch.RolloutChanged(R[2])], "nobody needs the first any more"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["fuse", "scorer"]),
            st.sets(st.sampled_from(["d1", "d2", "d3"])),
            st.sampled_from(["done", "aborted"]),
        ),
        max_size=15,
    ),
    st.integers(2, 6),
)
def test_no_device_loses_what_it_runs_for_want_of_room(rolls: list[tuple[str, set[str], str]], most: int) -> None:
    cell, free = Cell(version=3), Cell(version=3)
    with pytest.MonkeyPatch.context() as patch:
        for number, (agent, devices, end) in enumerate(rolls):
            patch.setattr(rollouts, "CELL_ROLLOUTS_MAX", most)
            if isinstance(cell(start(number, agent))[0], ch.Rejected):
                assert len(cell.state.rollouts) == most
                continue
            cell(c.AdvanceRollout(R[number], 1, tuple(devices), WHO))
            cell(steer(number, end))
            patch.setattr(rollouts, "CELL_ROLLOUTS_MAX", 999)
            roll(free, number, *devices, end=end, agent=agent)
            for device in ("d1", "d2", "d3"):
                assert cell.state.desired(device) == free.state.desired(device)
    CellState.from_snapshot(cell.state.to_snapshot())
    assert replayed(free.log).to_snapshot() == free.state.to_snapshot()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (replace(start(1), rollout="F" * 16), "16 lower hex digits"),
        (replace(start(1), agent="Not A Name"), "a name of 1 to 64"),
        (replace(start(1), artefact=b"short"), "the 32 bytes of a SHA-256"),
        (replace(start(1), plan=bytes(16_385)), "at most 16384 bytes"),
        (c.AdvanceRollout(R[1], -1, (), WHO), "an integer from 0"),
        (c.AdvanceRollout(R[1], 1, tuple(f"d{i}" for i in range(4097)), WHO), "0 to 4096 items"),
        (c.AdvanceRollout(R[1], 1, ("D1",), WHO), "an id of 1 to 63"),
        (steer(1, "stopped"), "expected one of running, paused"),
        (steer(1, "paused", bytes(4097)), "at most 4096 bytes"),
        (replace(steer(1, "paused"), why="x" * 257), "at most 256 bytes"),
    ],
)
def test_what_is_out_of_bounds_is_refused_before_anyone_sees_it(command: c.Command, expected: str) -> None:
    with pytest.raises(LocalError, match=expected):
        c.encode(command)
