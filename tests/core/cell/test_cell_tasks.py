"""Jobs in the log: tasks get ready, are assigned, end once."""

from __future__ import annotations

import pytest
from cell_commands import WHO, Cell

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell import tasks
from edgeswarm.core.cell.types import Assignment, Capabilities, JobStatus, TaskSpec, TaskStatus
from edgeswarm.limits import TASK_LOSSES_MAX


def task(name: str, *after: int, **other: object) -> TaskSpec:
    return TaskSpec(name, agent="fuse", after=after, **other)  # type: ignore[arg-type]


def submit(cell: Cell, *tasks_of: TaskSpec, job: str = "j") -> list[ch.Change]:
    return cell(c.SubmitJob(job, WHO, tasks_of))


def assign(cell: Cell, index: int, attempt: int = 1, device: str = "d1", job: str = "j") -> list[ch.Change]:
    return cell(c.AssignTasks((Assignment(job, index, attempt, device),)))


def finish(cell: Cell, index: int, attempt: int = 1, device: str = "d1", result: bytes = b"r") -> list[ch.Change]:
    return cell(c.FinishTask("j", index, attempt, device, result))


@pytest.fixture
def cell() -> Cell:
    found = Cell()
    found.device("d1")
    found.device("d2")
    return found


def test_a_diamond_runs_in_order_and_finishes_once(cell: Cell) -> None:
    changes = submit(cell, task("a"), task("b", 0), task("c", 0), task("d", 1, 2))
    assert changes == [ch.JobSubmitted("j"), ch.TaskReady("j", 0)]
    assert isinstance(assign(cell, 1)[0], ch.Rejected), "it waits still"
    assert assign(cell, 0) == [ch.TaskAssigned("j", 0, 1, "d1")]
    assert cell.state.tasks_on("d1") == (("j", 0),)
    assert finish(cell, 0) == [ch.TaskFinished("j", 0, 1, "d1"), ch.TaskReady("j", 1), ch.TaskReady("j", 2)]
    assign(cell, 1)
    assign(cell, 2, device="d2")
    assert finish(cell, 2, device="d2") == [ch.TaskFinished("j", 2, 1, "d2")]
    assert finish(cell, 1) == [ch.TaskFinished("j", 1, 1, "d1"), ch.TaskReady("j", 3)]
    assign(cell, 3)
    assert finish(cell, 3) == [ch.TaskFinished("j", 3, 1, "d1"), ch.JobFinished("j", JobStatus.FINISHED, "")]
    assert cell.state.jobs["j"].runs[3].result == b"r"
    assert not cell.state.ready
    assert not cell.state.assigned


def test_the_same_job_again_is_no_second_one(cell: Cell) -> None:
    submit(cell, task("a"))
    assert submit(cell, task("a")) == []
    assert isinstance(submit(cell, task("b"))[0], ch.Rejected)


@pytest.mark.parametrize("wrong", [(task("a"), task("a")), (task("a", 0),), (task("a"), task("b", 2))])
def test_graphs_that_are_none_are_rejected(cell: Cell, wrong: tuple[TaskSpec, ...]) -> None:
    assert isinstance(submit(cell, *wrong)[0], ch.Rejected)
    assert cell.state.jobs == {}


def test_the_first_result_counts_whichever_attempt_it_is_of(cell: Cell) -> None:
    submit(cell, task("a"), task("b"))
    assign(cell, 0)
    cell(c.FailTask("j", 0, 1, "too slow"))
    assign(cell, 0, attempt=2, device="d2")
    assert finish(cell, 0, attempt=1, result=b"late but first") == [
        ch.TaskReleased("j", 0, 2, "d2", "another attempt finished first"),
        ch.TaskFinished("j", 0, 1, "d1"),
    ]
    assert isinstance(finish(cell, 0, attempt=2, device="d2", result=b"second")[0], ch.Rejected)
    assert cell.state.jobs["j"].runs[0].result == b"late but first"


def test_a_result_of_an_attempt_that_never_was_is_rejected(cell: Cell) -> None:
    submit(cell, task("a"), task("b", 0))
    assert isinstance(finish(cell, 0, attempt=1)[0], ch.Rejected)
    assert isinstance(finish(cell, 1, attempt=1)[0], ch.Rejected)
    assert isinstance(finish(cell, 7, attempt=1)[0], ch.Rejected)
    assert isinstance(cell(c.FinishTask("z", 0, 1, "d1", b""))[0], ch.Rejected)


def test_failures_are_tried_again_until_there_were_enough(cell: Cell) -> None:
    submit(cell, task("a", retries_max=1), task("b"))
    assign(cell, 1)
    assign(cell, 0)
    assert cell(c.FailTask("j", 0, 1, "why")) == [ch.TaskReleased("j", 0, 1, "d1", "why"), ch.TaskReady("j", 0)]
    assert isinstance(cell(c.FailTask("j", 0, 1, "again"))[0], ch.Rejected), "that attempt is over"
    assert isinstance(assign(cell, 0, attempt=1)[0], ch.Rejected)
    assign(cell, 0, attempt=2)
    assert cell(c.FailTask("j", 0, 2, "why")) == [
        ch.TaskReleased("j", 0, 2, "d1", "why"),
        ch.TaskFailed("j", 0, "why"),
        ch.TaskReleased("j", 1, 1, "d1", "task a: why"),
        ch.JobFinished("j", JobStatus.FAILED, "task a: why"),
    ]
    assert [run.status for run in cell.state.jobs["j"].runs] == [TaskStatus.FAILED, TaskStatus.CANCELLED]
    assert isinstance(finish(cell, 1)[0], ch.Rejected), "the job is over"


def test_a_lasting_failure_is_not_tried_again(cell: Cell) -> None:
    submit(cell, task("a", retries_max=9))
    assign(cell, 0)
    changes = cell(c.FailTask("j", 0, 1, "no such model", True))
    assert changes[-1] == ch.JobFinished("j", JobStatus.FAILED, "task a: no such model")


def test_a_result_larger_than_was_kept_free_for_it_fails_the_task(cell: Cell) -> None:
    submit(cell, task("a", result_bytes_max=2))
    assign(cell, 0)
    assert isinstance(finish(cell, 0, result=b"123")[-1], ch.JobFinished)


def test_a_dead_device_gives_its_tasks_back(cell: Cell) -> None:
    submit(cell, task("a"))
    assign(cell, 0)
    epoch = cell.state.devices["d1"].epoch
    assert cell(c.DeviceLost("d1", epoch))[1:] == [
        ch.TaskReleased("j", 0, 1, "d1", "the device was lost"),
        ch.TaskReady("j", 0),
    ]
    assert isinstance(assign(cell, 0, attempt=2)[0], ch.Rejected), "d1 is lost"
    assign(cell, 0, attempt=2, device="d2")
    assert isinstance(finish(cell, 0, attempt=1)[-1], ch.JobFinished), "it was not dead after all, and was first"


def test_a_device_that_starts_again_has_lost_what_it_was_doing(cell: Cell) -> None:
    submit(cell, task("a"))
    assign(cell, 0)
    changes = cell(c.RegisterDevice("d1", 2, Capabilities()))
    assert [type(change) for change in changes] == [ch.TaskReleased, ch.TaskReady, ch.DeviceUp]


def test_a_task_under_which_devices_die_is_given_up(cell: Cell) -> None:
    submit(cell, task("poison", retries_max=0), task("b"))
    for attempt in range(1, TASK_LOSSES_MAX + 2):
        assert isinstance(assign(cell, 0, attempt)[0], ch.TaskAssigned)
        changes = cell(c.RegisterDevice("d1", attempt + 1, Capabilities()))
    assert changes[-2] == ch.JobFinished(
        "j",
        JobStatus.FAILED,
        f"task poison: {TASK_LOSSES_MAX + 1} devices were lost with it; the last: the device started again",
    )


def test_two_jobs_that_fail_with_one_device_end_each_once(cell: Cell) -> None:
    """Both tasks of the first job are on the device; the first one's loss ends the job and the second task with it."""
    submit(cell, task("a"), task("b"))
    for attempt in range(1, TASK_LOSSES_MAX + 2):
        assign(cell, 0, attempt)
        assign(cell, 1, attempt)
        changes = cell(c.RegisterDevice("d1", attempt + 1, Capabilities()))
    assert sum(isinstance(change, ch.JobFinished) for change in changes) == 1
    assert cell.state.tasks_on("d1") == ()


@pytest.mark.parametrize(("failed", "status"), [(False, JobStatus.CANCELLED), (True, JobStatus.FAILED)])
def test_cancelling_releases_what_is_under_way(cell: Cell, failed: bool, status: JobStatus) -> None:
    submit(cell, task("a"), task("b"), task("c", 1))
    assign(cell, 0)
    assert cell(c.CancelJob("j", WHO, "enough", failed)) == [
        ch.TaskReleased("j", 0, 1, "d1", "enough"),
        ch.JobFinished("j", status, "enough"),
    ]
    assert isinstance(cell(c.CancelJob("j", WHO, "again"))[0], ch.Rejected)
    assert isinstance(cell(c.CancelJob("z", WHO, "none"))[0], ch.Rejected)
    assert not cell.state.ready
    assert not cell.state.assigned


def test_ended_jobs_make_room_the_longest_ended_first(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CELL_JOBS_MAX", 2)
    submit(cell, task("a"), job="one")
    submit(cell, task("a"), job="two")
    assert isinstance(submit(cell, task("a"), job="three")[0], ch.Rejected), "both run"
    cell(c.CancelJob("two", WHO, ""))
    cell(c.CancelJob("one", WHO, ""))
    assert submit(cell, task("a"), job="three")[0] == ch.JobForgotten("two")
    assert set(cell.state.jobs) == {"one", "three"}


def test_jobs_reserve_bytes_and_none_is_forgotten_in_vain(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CELL_JOBS_BYTES_MAX", 6_000)
    submit(cell, task("a", result_bytes_max=100), job="old")
    cell(c.CancelJob("old", WHO, ""))
    assert isinstance(submit(cell, task("a", result_bytes_max=60_000), job="huge")[0], ch.Rejected)
    assert "old" in cell.state.jobs
    assert isinstance(submit(cell, task("a", result_bytes_max=4_000), job="large")[0], ch.JobForgotten)
    held = cell.state.bytes_held
    cell(c.CancelJob("large", WHO, ""))
    submit(cell, task("a", result_bytes_max=4_000), job="next")
    assert cell.state.bytes_held == held
