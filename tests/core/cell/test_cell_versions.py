"""Cells whose programs are one version apart: nothing new until all were told, and nobody falls behind unseen."""

from __future__ import annotations

import pytest
from cell_commands import WHO, Cell, commands
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.cell.types import Capabilities


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


@given(st.lists(commands.filter(lambda command: not sets_version(command)), max_size=20))
def test_old_and_new_programs_agree_byte_for_byte_before_the_upgrade(orders: list[c.Command]) -> None:
    """The same log, also with newer commands in it, on a program that knows version 1 only and on the latest."""
    old, new = CellState(supported=1), CellState()
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
