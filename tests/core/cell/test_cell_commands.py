"""Commands as bytes: one encoding each, and nothing else is taken."""

from __future__ import annotations

import pytest
from cell_commands import Cell, commands
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell.changes import Rejected
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.cell.types import AgentSpec, Capabilities, MapSpec, Move, Needs, TaskSpec
from edgeswarm.errors import CodecError, LocalError
from edgeswarm.limits import CELL_COMMAND_BYTES_MAX, COMMAND_BATCH_MAX
from edgeswarm.wire.codec import dumps, loads


@given(commands)
def test_what_is_encoded_is_what_is_decoded(command: c.Command) -> None:
    data = c.encode(command)
    assert c.decode(data) == command
    assert dumps(loads(data)) == data


@given(st.binary(max_size=80))
def test_random_bytes_are_rejected_and_change_nothing(data: bytes) -> None:
    state = CellState()
    before = state.to_snapshot()
    changes = state.apply(1, 1, data)
    assert data == b"" or (len(changes) == 1 and isinstance(changes[0], Rejected))
    state.index = state.term = 0
    assert state.to_snapshot() == before


@given(commands, st.data())
def test_a_changed_byte_is_rejected_or_is_another_command(command: c.Command, data: st.DataObject) -> None:
    encoded = bytearray(c.encode(command))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        other = c.decode(bytes(encoded))
    except (CodecError, c.VersionError):
        other = None
    assert other != command
    CellState().apply(1, 1, bytes(encoded))


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 50), st.text(max_size=3), st.binary(max_size=33)),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=20,
)


@given(st.integers(0, 3), st.integers(0, 45), st.lists(JUNK, max_size=6))
def test_well_formed_values_of_the_wrong_shape_never_raise(since: int, kind: int, fields: list[object]) -> None:
    Cell()(dumps([since, kind, *fields]))


@pytest.mark.parametrize(
    "command",
    [
        c.Remove("Not-A-Name", "ann"),
        c.Remove("ok", "x" * 200),
        c.Stop("ann", "nul\0"),
        c.DeviceLost("d", -1),
        c.Place(()),
        c.Place((Move("a", "b", 0),) * (COMMAND_BATCH_MAX + 1)),
        c.Checkpoint("a", 1, b"short"),
        c.Deploy(AgentSpec("a", bytes(31)), 0, "ann"),
        c.Deploy(AgentSpec("a", bytes(32), Needs(tier_min="D")), 0, "ann"),
        c.Deploy(AgentSpec("a", bytes(32), Needs(sensors=("b", "a"))), 0, "ann"),
        c.Deploy(AgentSpec("a", bytes(32), Needs(sensors=("a", "a"))), 0, "ann"),
        c.Deploy(AgentSpec("a", bytes(32), Needs(sensors=tuple(f"{i:02}" + "x" * 100 for i in range(20)))), 0, "ann"),
        c.RegisterDevice("d", 1, Capabilities(labels=tuple(f"{i:02}" + "x" * 100 for i in range(40)))),
        c.SubmitJob("j", "ann", ()),
        c.SubmitJob("j", "ann", (TaskSpec("t"),)),
        c.SubmitJob("j", "ann", (TaskSpec("t", agent="a", artefact=bytes(32)),)),
        c.SubmitJob("j", "ann", (TaskSpec("t", map=MapSpec((), "mean")),)),
        c.SubmitJob("j", "ann", (TaskSpec("t", map=MapSpec(("a",), "kernel")),)),
        c.SubmitJob("j", "ann", (TaskSpec("t", map=MapSpec(("a",), "median")),)),
        c.FinishTask("j", 0, 0, "d", b""),
        c.RegisterDevice("d", True, Capabilities()),
    ],
    ids=lambda command: type(command).__name__,
)
def test_a_command_out_of_bounds_is_refused_before_anyone_sees_it(command: c.Command) -> None:
    with pytest.raises(LocalError, match=type(command).__name__):
        c.encode(command)


def test_what_is_too_large_is_refused_on_both_sides() -> None:
    task = TaskSpec("t", agent="a", input=bytes(60_000))
    tasks = tuple(TaskSpec(f"t{i}", agent="a", input=task.input) for i in range(20))
    with pytest.raises(LocalError, match="at most"):
        c.encode(c.SubmitJob("j", "ann", tasks))
    changes = CellState().apply(1, 1, bytes(CELL_COMMAND_BYTES_MAX + 1))
    assert isinstance(changes[0], Rejected)


def test_a_batch_of_one_is_the_command_itself() -> None:
    assert c.batch([c.Noop()]) == c.encode(c.Noop())
    assert c.decode(c.batch([c.Noop(), c.Noop()])) == c.Batch((c.encode(c.Noop()),) * 2)
