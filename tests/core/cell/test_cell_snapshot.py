"""Snapshots: one state, one sequence of bytes; and no bytes make a state that commands could not have made."""

from __future__ import annotations

import hashlib

import pytest
from cell_commands import WHO, Cell, commands, replayed
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgeswarm import limits
from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell import state as state_module
from edgeswarm.core.cell import tasks as tasks_module
from edgeswarm.core.cell.records import job_bytes
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.cell.types import Assignment, MapSpec, Needs, TaskSpec
from edgeswarm.errors import CodecError, LimitError
from edgeswarm.wire.codec import dumps, loads


def filled() -> Cell:
    cell = Cell(version=3)
    cell(c.SetRoster(1, b"", b"roster"))
    cell.device("d1", sensors=("temp",))
    cell.device("d2")
    cell.agent("fuse", on="d1", stateful=True)
    cell(c.Stop(WHO, "why"))
    tasks = (TaskSpec("a", agent="fuse"), TaskSpec("b", map=MapSpec(("fuse",), "mean"), after=(0,)))
    cell(c.SubmitJob("j", WHO, tasks))
    cell(c.SubmitJob("k", WHO, (TaskSpec("a", agent="fuse"),)))
    cell(c.AssignTasks((Assignment("j", 0, 1, "d2"),)))
    cell(c.CancelJob("k", WHO, "enough"))
    session = cell(c.OpenSession("ann"))[0]
    cell(c.WithSession(session.session, 1, 0, c.encode(c.Noop())))  # type: ignore[union-attr]
    cell(c.AddToken("a" * 13, bytes(32), "worker", 2, 9, True, ("room=a",), ("neural.compute",), WHO))
    cell(c.AddToken("b" * 13, bytes(32), "reader", 1, 9, False, (), (), WHO))
    cell(c.UseToken("a" * 13, "d2", b"k" * 32, 7))
    cell(c.RevokeToken("b" * 13, WHO))
    cell(c.SetLabels("d1", ("room=a", "zone=1"), WHO))
    cell(c.StartRollout("f" * 16, "fuse", bytes(32), b"plan", WHO))
    cell(c.AdvanceRollout("f" * 16, 1, ("d1", "d2"), WHO))
    cell(c.SteerRollout("f" * 16, "done", b"", "all healthy", WHO))
    cell(c.StartRollout("0" * 16, "fuse", b"\x01" * 32, b"plan", WHO))
    cell(c.AdvanceRollout("0" * 16, 1, ("d1",), WHO))
    cell(c.RotateRoot(b"root", WHO))
    return cell


@given(st.lists(commands, max_size=30), st.integers(0, 30))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_snapshot_in_the_middle_changes_nothing(orders: list[c.Command], at: int) -> None:
    """apply(all) == restore(snapshot(apply(first part))) and apply(the rest), byte for byte, changes included."""
    whole, first = CellState(), CellState()
    log = list(enumerate((c.encode(order) for order in orders), 1))
    changes = [whole.apply(index, 1, data) for index, data in log]
    early = [first.apply(index, 1, data) for index, data in log[:at]]
    assume(not first.halted)  # it needs a newer program, and its snapshot says so: the test of versions holds that
    second = CellState.from_snapshot(first.to_snapshot())
    late = [second.apply(index, 1, data) for index, data in log[at:]]
    assert early + late == changes
    assert second.to_snapshot() == whole.to_snapshot()
    for name in ("ready", "assigned"):
        assert set(getattr(second, name)) == set(getattr(whole, name))
    assert second.bytes_held == whole.bytes_held
    for device in whole.devices:
        assert second.agents_on(device) == whole.agents_on(device)
        assert second.tasks_on(device) == whole.tasks_on(device)
    assert list(whole.faults()) == []


def test_a_filled_state_comes_back_whole() -> None:
    cell = filled()
    data = cell.state.to_snapshot()
    assert dumps(loads(data)) == data
    back = CellState.from_snapshot(data)
    assert back.to_snapshot() == data
    for name in ("roster", "devices", "agents", "jobs", "stop", "audit", "sessions", "ended", "epoch_last"):
        assert getattr(back, name) == getattr(cell.state, name)
    for name in ("tokens", "token_time_s", "labels", "rollouts", "roots"):
        assert getattr(back, name) == getattr(cell.state, name) != type(getattr(back, name))()
    assert list(back.rollouts) == ["f" * 16, "0" * 16], "the oldest first, not by id"


def test_what_is_forgotten_next_survives_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended jobs go in the order in which they ended, sessions in that of their last use; not by name or number."""
    monkeypatch.setattr(tasks_module, "CELL_JOBS_MAX", 3)
    monkeypatch.setattr(state_module, "CELL_SESSIONS_MAX", 2)
    cell = Cell()
    for job in ("a", "b", "c"):
        cell(c.SubmitJob(job, WHO, (TaskSpec("t", agent="fuse"),)))
    for job in ("c", "a", "b"):
        cell(c.CancelJob(job, WHO, ""))
    ann, bob = (cell(c.OpenSession(client))[0].session for client in ("ann", "bob"))  # type: ignore[union-attr]
    cell(c.WithSession(ann, 1, 0, c.encode(c.Noop())))
    cell.state = CellState.from_snapshot(cell.state.to_snapshot())
    assert cell(c.SubmitJob("d", WHO, (TaskSpec("t", agent="fuse"),)))[0] == ch.JobForgotten("c")
    assert cell(c.OpenSession("eve"))[0] == ch.SessionClosed(bob)


def test_a_frozen_state_is_not_touched_by_what_comes_after() -> None:
    cell = filled()
    before, frozen = cell.state.to_snapshot(), cell.state.freeze()
    cell(c.ForgetDevice("d2", WHO))
    cell(c.Resume(WHO, "on"))
    cell(c.Note(WHO, "and on"))
    assert frozen.encode() == before
    assert replayed(cell.log).to_snapshot() == cell.state.to_snapshot() != before


@given(st.data())
def test_a_changed_byte_is_refused(data: st.DataObject) -> None:
    whole = bytearray(SNAPSHOT)
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((CodecError, LimitError)):
        CellState.from_snapshot(bytes(whole), who="d2")


@given(st.integers(0, 4_000))
def test_a_truncated_snapshot_is_refused(size: int) -> None:
    with pytest.raises((CodecError, LimitError)):
        CellState.from_snapshot(SNAPSHOT[: min(size, len(SNAPSHOT) - 1)])


def sealed(body: object) -> bytes:
    encoded = dumps(body)
    return dumps([1, hashlib.sha256(encoded).digest(), encoded])


@given(st.data())
@settings(max_examples=300)
def test_a_forged_body_with_a_right_hash_is_refused_or_is_a_sound_state(data: st.DataObject) -> None:
    """Somebody who can hash changes one value anywhere; what is taken can be applied to without raising."""
    body = loads(loads(SNAPSHOT)[2])  # type: ignore[index,arg-type]
    path = data.draw(st.sampled_from(PATHS))
    junk = data.draw(st.sampled_from([None, True, -1, 0, 1, 2, 9, 1 << 40, "", "d1", "zz", b"", bytes(32), [], [0]]))
    forged = sealed(_changed(body, path, junk))
    try:
        state = CellState.from_snapshot(forged)
    except CodecError:
        return
    assert list(state.faults()) == []
    for index, order in enumerate(data.draw(st.lists(commands, max_size=5)), state.index + 1):
        state.apply(index, 1, c.encode(order))
    CellState.from_snapshot(state.to_snapshot(), supported=max(3, state.version))


def _paths(value: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Where values are; inside byte strings that hold records, too ("*" stands for opening one)."""
    found = [at] if at else []
    if isinstance(value, bytes) and at and at[0] in (5, 6, 7, 9, 12):
        try:
            return found + _paths(loads(value), (*at, "*"))
        except CodecError:
            return found
    if isinstance(value, list):
        for index, item in enumerate(value):
            found += _paths(item, (*at, index))
    return found


def _changed(value: object, path: tuple[object, ...], junk: object) -> object:
    if not path:
        return junk
    if path[0] == "*":
        return dumps(_changed(loads(value), path[1:], junk))  # type: ignore[arg-type]
    copy = list(value)  # type: ignore[call-overload]
    copy[path[0]] = _changed(copy[path[0]], path[1:], junk)  # type: ignore[call-overload]
    return copy


SNAPSHOT = filled().state.to_snapshot()
PATHS = _paths(loads(loads(SNAPSHOT)[2]))  # type: ignore[index,arg-type]


def test_a_snapshot_of_a_later_format_is_refused() -> None:
    outer = loads(SNAPSHOT)
    with pytest.raises(CodecError, match="d9: expected format 1, found 2"):
        CellState.from_snapshot(dumps([2, *outer[1:]]), who="d9")  # type: ignore[index,misc]


def test_the_largest_state_fits_into_a_snapshot() -> None:
    """Adds up what the bounds allow; 64 bytes a record for heads and numbers."""
    name, head = 64, 64
    device = 63 + 3 * limits.CAPABILITY_BYTES_MAX + limits.CAPABILITIES_BYTES_MAX + head
    agent = name + 32 + limits.NEEDS_BYTES_MAX + limits.CAPABILITY_BYTES_MAX + 2 * 63 + 32 + 2 * head
    session = limits.WHO_BYTES_MAX + head + limits.SESSION_ANSWERS_MAX * (limits.SESSION_REASON_BYTES_MAX + 24)
    audit = limits.WHO_BYTES_MAX + 1024 + head
    job = 63 + limits.WHO_BYTES_MAX + limits.WHY_BYTES_MAX + head
    total = (
        limits.CELL_DEVICES_MAX * device
        + limits.CELL_AGENTS_MAX * agent
        + limits.CELL_SESSIONS_MAX * session
        + limits.AUDIT_RECORDS_MAX * audit
        + limits.CELL_JOBS_MAX * job
        + limits.CELL_JOBS_BYTES_MAX
        + limits.ROSTER_BYTES_MAX
        + limits.CELL_TOKENS_MAX * (13 + 32 + 11 + limits.TOKEN_NAMES_BYTES_MAX + limits.WHO_BYTES_MAX + head)
        + limits.CELL_TOKEN_USES_MAX * (63 + 32 + 6)
        + limits.CELL_DEVICES_MAX * (63 + limits.LABELS_BYTES_MAX + 16)
        + limits.CELL_ROLLOUTS_MAX * (name + 64 + limits.WHO_BYTES_MAX + limits.WHY_BYTES_MAX + head)
        + limits.CELL_ROLLOUTS_BYTES_MAX
        + limits.CELL_ROOTS_MAX * (limits.ROOT_ROTATION_BYTES_MAX + 3)
    )
    assert total <= limits.CELL_SNAPSHOT_BYTES_MAX


def test_a_task_takes_no_more_than_is_reserved_for_it() -> None:
    cell = Cell()
    cell.device("d" * 63)
    names = tuple(f"{i:02}" + "x" * 98 for i in range(10))
    tasks = tuple(
        TaskSpec(
            f"t{index:04}" + "x" * 59,
            artefact=bytes(32),
            needs=Needs(profile="x" * 128, labels=names),
            after=tuple(range(max(0, index - 16), index)),
            input=bytes(200),
            result_bytes_max=300,
        )
        for index in range(40)
    )
    cell(c.SubmitJob("j", WHO, tasks))
    for index in range(40):
        cell(c.AssignTasks((Assignment("j", index, 1, "d" * 63),)))
        cell(c.FailTask("j", index, 1, "y" * 256))
        cell(c.AssignTasks((Assignment("j", index, 2, "d" * 63),)))
        cell(c.FinishTask("j", index, 2, "d" * 63, bytes(300)))
    assert len(cell.state.ended) == 1
    assert len(cell.state.to_snapshot()) - len(Cell().state.to_snapshot()) <= job_bytes(tasks)
