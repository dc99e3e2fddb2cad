"""Devices and agents: who is there, what runs where, and which of two stories is the later one."""

from __future__ import annotations

import hashlib

import pytest
from cell_commands import WHO, Cell

from edgeswarm.core.cell import book, members
from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell.types import AgentSpec, AuditRecord, Capabilities, Move, Want

ONE, TWO = b"\x01" * 32, b"\x02" * 32


@pytest.fixture
def cell() -> Cell:
    return Cell()


# --- the cell itself --------------------------------------------------------------------------------------------------


def test_a_roster_must_follow_from_the_one_before(cell: Cell) -> None:
    assert cell(c.SetRoster(7, b"", b"first")) == [ch.RosterChanged(7)]
    link = hashlib.sha256(b"first").digest()
    assert isinstance(cell(c.SetRoster(9, link, b"later"))[0], ch.Rejected)
    assert isinstance(cell(c.SetRoster(8, bytes(32), b"forged"))[0], ch.Rejected)
    assert cell.state.roster.data == b"first"
    assert cell(c.SetRoster(8, link, b"second")) == [ch.RosterChanged(8)]
    assert isinstance(cell(c.SetRoster(8, link, b"second"))[0], ch.Rejected)


def test_the_safety_stop_says_who_and_why_until_it_is_lifted(cell: Cell) -> None:
    assert isinstance(cell(c.Resume(WHO, "nothing"))[0], ch.Rejected)
    assert cell(c.Stop(WHO, "smoke")) == [ch.Stopped(WHO, "smoke")]
    assert cell.state.stop is not None
    assert (cell.state.stop.who, cell.state.stop.why) == (WHO, "smoke")
    assert cell(c.Resume(WHO, "aired")) == [ch.Resumed(WHO, "aired")]
    assert cell.state.stop is None


def test_the_audit_keeps_the_last_deeds(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "AUDIT_RECORDS_MAX", 2)
    for what in ("one", "two", "three"):
        cell(c.Note(WHO, what))
    assert cell.state.audit == [AuditRecord(3, 1, WHO, "two"), AuditRecord(4, 1, WHO, "three")]


def test_entries_that_were_applied_change_nothing(cell: Cell) -> None:
    cell(c.Stop(WHO, "once"))
    before = cell.state.to_snapshot()
    assert cell.state.apply(2, 1, c.encode(c.Resume(WHO, "again"))) == []
    assert cell.state.apply(3, 1, b"") == []  # Raft's own entry
    assert cell.state.index == 3
    cell.state.index = 2
    assert cell.state.to_snapshot() == before


# --- devices ----------------------------------------------------------------------------------------------------------


def test_a_device_registers_and_says_what_changed(cell: Cell) -> None:
    offer = Capabilities(memory_bytes=1)
    assert cell(c.RegisterDevice("d", 1, offer)) == [ch.DeviceUp("d", 1)]
    assert cell(c.RegisterDevice("d", 1, offer)) == []
    assert cell(c.RegisterDevice("d", 1, Capabilities(memory_bytes=2))) == [ch.DeviceChanged("d")]
    assert cell(c.RegisterDevice("d", 2, Capabilities(memory_bytes=2))) == [ch.DeviceUp("d", 2)]
    assert isinstance(cell(c.RegisterDevice("d", 1, offer))[0], ch.Rejected)
    assert cell.state.devices["d"].boot == 2


def test_losses_and_returns_name_the_epoch_that_they_mean(cell: Cell) -> None:
    epoch = cell.device("d")
    assert isinstance(cell(c.DeviceBack("d", epoch))[0], ch.Rejected)
    assert cell(c.DeviceLost("d", epoch)) == [ch.DeviceDown("d", epoch + 1)]
    assert isinstance(cell(c.DeviceLost("d", epoch))[0], ch.Rejected)
    assert cell(c.DeviceBack("d", epoch + 1)) == [ch.DeviceUp("d", epoch + 2)]
    assert isinstance(cell(c.DeviceLost("d", epoch))[0], ch.Rejected), "of an old leader"
    assert isinstance(cell(c.DeviceLost("z", 1))[0], ch.Rejected)


def test_a_lost_device_that_registers_is_alive(cell: Cell) -> None:
    cell(c.DeviceLost("d", cell.device("d")))
    assert [type(change) for change in cell(c.RegisterDevice("d", 1, Capabilities()))] == [ch.DeviceUp]
    assert cell.state.devices["d"].alive


def test_a_forgotten_device_leaves_nothing_behind(cell: Cell) -> None:
    cell.device("d")
    cell.agent("a", on="d")
    assert cell(c.ForgetDevice("d", WHO)) == [ch.Unplaced("a", "d", 3), ch.DeviceForgotten("d")]
    assert cell.state.devices == {}
    assert cell.state.agents["a"].device is None
    assert cell.state.agents_on("d") == ()


def test_a_drained_device_keeps_what_it_has_and_gets_nothing(cell: Cell) -> None:
    cell.device("d")
    cell.agent("a", on="d")
    cell.agent("b")
    assert cell(c.Drain("d", True, WHO)) == [ch.DeviceChanged("d")]
    assert cell(c.Drain("d", True, WHO)) == []
    assert isinstance(cell.move("b", "d")[0], ch.Rejected)
    cell(c.RegisterDevice("d", 2, Capabilities()))
    assert cell.state.devices["d"].drained, "a restart does not end it"
    cell(c.Drain("d", False, WHO))
    assert isinstance(cell.move("b", "d")[0], ch.Placed)


def test_devices_and_agents_are_bounded(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "CELL_DEVICES_MAX", 1)
    monkeypatch.setattr(members, "CELL_AGENTS_MAX", 1)
    cell.device("d")
    cell.agent("a")
    assert isinstance(cell(c.RegisterDevice("e", 1, Capabilities()))[0], ch.Rejected)
    assert isinstance(cell(c.Deploy(AgentSpec("b", ONE), 0, WHO))[0], ch.Rejected)


# --- agents -----------------------------------------------------------------------------------------------------------


def test_a_deployment_names_the_version_that_it_replaces(cell: Cell) -> None:
    spec = AgentSpec("a", ONE)
    assert cell(c.Deploy(spec, 0, WHO)) == [ch.Deployed("a", 1)]
    assert isinstance(cell(c.Deploy(spec, 0, WHO))[0], ch.Rejected)
    assert cell(c.Deploy(AgentSpec("a", TWO), 1, WHO)) == [ch.Deployed("a", 2), ch.Desired("a", TWO, 2)]
    assert cell(c.Deploy(AgentSpec("a", TWO, stateful=True), 2, WHO)) == [ch.Deployed("a", 3)]
    assert cell.state.agents["a"].desired_at == 4, "the artefact was chosen by the entry before"


def test_every_placement_has_a_higher_epoch_than_any_before(cell: Cell) -> None:
    cell.device("d1")
    cell.device("d2")
    cell.agent("a")
    assert cell.move("a", "d1") == [ch.Placed("a", "d1", 3)]
    assert cell.move("a", "d2") == [ch.Moved("a", "d1", "d2", 4)]
    assert cell.move("a", None) == [ch.Unplaced("a", "d2", 5)]
    cell(c.Remove("a", WHO))
    cell.agent("a")
    assert cell.move("a", "d1") == [ch.Placed("a", "d1", 6)], "also after it was removed and deployed again"
    assert cell.state.agents_on("d1") == ("a",)


def test_a_move_planned_before_another_one_is_refused(cell: Cell) -> None:
    """Two leaders plan at a time: the second plan to be committed knows nothing of the first."""
    cell.device("d1")
    cell.device("d2")
    epoch = cell.agent("a")
    assert cell(c.Place((Move("a", "d1", epoch),))) == [ch.Placed("a", "d1", 3)]
    assert cell(c.Place((Move("a", "d2", epoch),))) == [ch.Rejected("agent a: epoch 0 is over, it is at 3")]
    assert cell(c.Place((Move("a", None, epoch),))) == [ch.Rejected("agent a: epoch 0 is over, it is at 3")]


def test_a_plan_that_came_too_late_does_nothing(cell: Cell) -> None:
    lost = cell.device("d1")
    cell.device("d2")
    epoch = cell.agent("a", on="d1")
    cell.agent("b")
    cell.move("a", "d2")
    cell(c.DeviceLost("d1", lost))
    changes = cell(c.Place((Move("a", "d1", epoch), Move("b", "d1", 0), Move("b", "d2", 0), Move("z", "d2", 0))))
    assert [type(change) for change in changes] == [ch.Rejected, ch.Rejected, ch.Placed, ch.Rejected]
    assert cell.state.agents["a"].device == "d2"


def test_the_agents_of_a_lost_device_stay_placed_until_they_move(cell: Cell) -> None:
    lost = cell.device("d1")
    epoch = cell.agent("a", on="d1")
    cell(c.DeviceLost("d1", lost))
    assert cell.state.agents["a"].device == "d1"
    assert cell.state.agents["a"].epoch == epoch


def test_a_group_switches_at_one_entry_or_not_at_all(cell: Cell) -> None:
    cell.agent("a")
    cell.agent("b")
    assert isinstance(cell(c.Desire((Want("a", ONE), Want("z", ONE)), WHO))[0], ch.Rejected)
    assert cell.state.agents["a"].spec.artefact == bytes(32)
    assert cell(c.Desire((Want("a", ONE), Want("b", ONE)), WHO)) == [ch.Desired("a", ONE, 2), ch.Desired("b", ONE, 2)]
    assert {agent.desired_at for agent in cell.state.agents.values()} == {5}
    assert cell(c.Desire((Want("a", ONE),), WHO)) == []


def test_a_checkpoint_counts_only_from_the_placement_that_holds(cell: Cell) -> None:
    cell.device("d1")
    cell.device("d2")
    old = cell.agent("a", on="d1", stateful=True)
    assert cell(c.Checkpoint("a", old, ONE)) == [ch.Checkpointed("a", ONE)]
    assert cell(c.Checkpoint("a", old, ONE)) == []
    cell.move("a", "d2")
    assert isinstance(cell(c.Checkpoint("a", old, TWO))[0], ch.Rejected), "the copy that was left behind"
    assert cell.state.agents["a"].checkpoint == ONE, "it travels with the agent"
    cell.agent("b", on="d1")
    assert isinstance(cell(c.Checkpoint("b", cell.state.agents["b"].epoch, ONE))[0], ch.Rejected), "stateless"


def test_a_batch_is_judged_command_by_command(cell: Cell) -> None:
    orders = [c.Remove("z", WHO), c.Note(WHO, "x"), c.Deploy(AgentSpec("a", ONE), 0, WHO), c.Remove("a", WHO)]
    assert [type(change) for change in cell(c.batch(orders))] == [ch.Rejected, ch.Deployed, ch.Removed]
    nested = c.encode(c.Batch((c.batch([c.Noop(), c.Noop()]),)))
    assert cell(nested) == [ch.Rejected("a batch stands alone")]
