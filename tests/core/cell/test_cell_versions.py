"""Cells whose programs are one version apart: nothing new until all were told, and nobody falls behind unseen."""

from __future__ import annotations

import hashlib

import pytest
from cell_commands import WHO, Cell, commands
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.cell.types import Capabilities
from edgeswarm.errors import CodecError
from edgeswarm.wire.codec import dumps, loads


def test_a_newer_command_is_rejected_until_the_version_is_set() -> None:
    cell = Cell(version=1)
    cell.device("d")
    assert cell(c.Drain("d", True, WHO)) == [
        ch.Rejected("command: kind 14 needs feature version 2, the cell is at 1"),
    ]
    assert cell(c.SetVersion(2)) == [ch.VersionChanged(2)]
    assert cell(c.Drain("d", True, WHO)) == [ch.DeviceChanged("d")]


@pytest.mark.parametrize("version", [1, 3, 4])
def test_versions_go_up_one_step_at_a_time(version: int) -> None:
    cell = Cell(version=2, supported=9)
    changes = cell(c.SetVersion(version))
    assert (changes == [ch.VersionChanged(3)]) == (version == 3)


def sets_version(command: c.Command) -> bool:
    match command:
        case c.SetVersion():
            return True
        case c.WithSession():
            return sets_version(c.decode(command.command))
        case c.Batch():
            return any(sets_version(c.decode(one)) for one in command.commands)
        case _:
            return False


@given(st.sampled_from([1, 2]), st.lists(commands.filter(lambda command: not sets_version(command)), max_size=20))
def test_old_and_new_programs_agree_byte_for_byte_before_the_upgrade(version: int, orders: list[c.Command]) -> None:
    """The same log, also with newer commands in it, on a program that knows an older version only and on the latest."""
    old, new = CellState(supported=version), CellState()
    orders = [c.SetVersion(step) for step in range(2, version + 1)] + orders
    for index, order in enumerate(orders, 1):
        data = c.encode(order)
        assert old.apply(index, 1, data) == new.apply(index, 1, data)
        assert old.to_snapshot() == new.to_snapshot()


def test_a_program_that_is_too_old_halts_and_says_so() -> None:
    cell = Cell(version=1, supported=1)
    cell.device("d")
    assert cell(c.SetVersion(2)) == [ch.VersionChanged(2), ch.Halted(2, 1)]
    before = cell.state.index
    assert cell.state.halted
    assert cell(c.RegisterDevice("e", 1, Capabilities())) == [ch.Halted(2, 1)]
    assert cell.state.index == before, "an updated program goes on from here"
    assert "e" not in cell.state.devices


def test_a_program_updated_after_it_halted_catches_up() -> None:
    old, new = Cell(version=1, supported=1), Cell(version=1)
    orders = [c.SetVersion(2), c.RegisterDevice("d", 1, Capabilities()), c.Drain("d", True, WHO)]
    log = [c.encode(order) for order in orders]
    for data in log:
        old(data)
        new(data)
    with pytest.raises(c.VersionError, match="feature version 2, this program knows 1"):
        CellState.from_snapshot(old.state.to_snapshot(), supported=1)
    updated = CellState.from_snapshot(old.state.to_snapshot())
    for index, data in enumerate(log, 1):
        updated.apply(index, 1, data)
    assert updated.to_snapshot() == new.state.to_snapshot()


# --- version 3: the fleet ---------------------------------------------------------------------------------------------

VERSION_2 = bytes.fromhex(
    "8301582057d91857801b70a2d319b342c0d5bedae0ded4de27b46029f12c2c746a0df0f4584d8c0203010182004081581c876264318a"
    "6764656661756c74614360000000808080800102f501f580808080f6818403016c6f70657261746f722d616e6e6f647261696e206465"
    "76696365206431"
)
"""A snapshot that the program before version 3 wrote: `cell.device("d1")`, then `Drain("d1", True, WHO)`."""


def fleet_of(cell: Cell) -> object:
    """The 13th field of the snapshot's body, if it is there."""
    body = loads(loads(cell.state.to_snapshot())[2])  # type: ignore[index,arg-type]
    assert isinstance(body, list)
    return body[12:]


def test_a_cell_below_version_3_writes_what_programs_before_it_wrote() -> None:
    cell = Cell(version=2)
    cell.device("d1")
    cell(c.Drain("d1", True, WHO))
    assert cell.state.to_snapshot() == VERSION_2
    assert isinstance(cell(c.SetLabels("d1", ("room=a",), WHO))[0], ch.Rejected)
    assert fleet_of(cell) == []


def test_a_snapshot_of_version_2_opens_and_goes_on() -> None:
    cell = Cell()
    cell.state = CellState.from_snapshot(VERSION_2)
    cell.log = [b""] * cell.state.index
    assert cell.state.devices["d1"].drained
    assert cell(c.SetVersion(3)) == [ch.VersionChanged(3)]
    assert fleet_of(cell) == [], "as a program that halted here has it"
    assert cell(c.SetLabels("d1", ("room=a",), WHO)) == [ch.LabelsChanged("d1")]
    assert len(fleet_of(cell)) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("fleet", [[[], 0, [], [], [b"root"]], [[], 0, [], [], []], [], None])
@pytest.mark.parametrize("version", [2, 3])
def test_a_fleet_where_none_can_be_is_refused(fleet: object, version: int) -> None:
    """In a cell of version 2; or empty, which is not written; or of another shape."""
    body = loads(loads(VERSION_2)[2])  # type: ignore[index,arg-type]
    encoded = dumps([version, *body[1:], fleet])  # type: ignore[index]
    data = dumps([1, hashlib.sha256(encoded).digest(), encoded])
    if version == 3 and fleet == [[], 0, [], [], [b"root"]]:
        assert CellState.from_snapshot(data).roots == (b"root",)
        return
    with pytest.raises(CodecError):
        CellState.from_snapshot(data)
