"""The leader's board, by itself and together with the cell that it decides for."""

from __future__ import annotations

import random

import pytest
from cell_commands import WHO, Cell
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell.types import Assignment, JobStatus, TaskSpec, TaskStatus
from edgeswarm.core.jobs.board import Assign, Cancel, Fail, JobBoard, NoDevice
from edgeswarm.core.placement import TaskChooser


class Leader:
    """A board joined to a cell, as the app joins them: changes in, decisions into the log (or lost)."""

    def __init__(self, *, repeat_ms: float = 1_000) -> None:
        self.cell = Cell()
        self.board = JobBoard(random.Random(1), repeat_ms=repeat_ms)
        self.now = 0.0
        self.lost = False

    def __call__(self, command: c.Command) -> list[ch.Change]:
        changes = self.cell(command)
        for change in changes:
            self.tell(change)
        return changes

    def tell(self, change: ch.Change) -> None:
        jobs, board = self.cell.state.jobs, self.board
        match change:
            case ch.JobSubmitted(job):
                board.submitted(jobs[job], self.now)
            case ch.TaskReady(job, task):
                board.became_ready(job, task, jobs[job].runs[task], self.now)
            case ch.TaskAssigned(job, task, attempt, device):
                board.assigned(job, task, attempt, device, self.now)
            case ch.TaskFinished(job, task, _, _) | ch.TaskFailed(job, task, _):
                board.ended(job, task)
            case ch.JobFinished(job, _, _):
                board.finished(job)
            case _:
                pass

    def decide(self) -> list[object]:
        chooser = TaskChooser(self.cell.state.devices.values(), load={}, busy=self.board.busy, each_max=2)
        decisions = self.board.decide(self.now, lambda job, task, spec: chooser.choose(spec.needs))  # type: ignore[attr-defined]
        if not self.lost:
            for decision in decisions:
                match decision:
                    case Assign(job, task, attempt, device):
                        self(c.AssignTasks((Assignment(job, task, attempt, device),)))
                    case Fail(job, task, attempt, why):
                        self(c.FailTask(job, task, attempt, why))
                    case Cancel(job, why):
                        self(c.CancelJob(job, "leader", why, failed=True))
                    case NoDevice():
                        pass
        return list(decisions)

    def submit(self, *tasks: TaskSpec, job: str = "j", deadline_ms: int = 0) -> None:
        self(c.SubmitJob(job, WHO, tasks, deadline_ms))

    def finish(self, task: int, attempt: int = 1, job: str = "j") -> list[ch.Change]:
        return self(c.FinishTask(job, task, attempt, "d1", b""))


def task(name: str, *after: int, **other: object) -> TaskSpec:
    return TaskSpec(name, artefact=bytes(32), after=after, **other)  # type: ignore[arg-type]


@pytest.fixture
def leader() -> Leader:
    found = Leader()
    found.cell.device("d1", agents_max=9)
    found.cell.device("d2", agents_max=9)
    return found


def test_ready_tasks_are_assigned_evenly_and_no_more_than_devices_take(leader: Leader) -> None:
    leader.submit(*[task(f"t{i}") for i in range(6)])
    assert leader.decide() == [
        Assign("j", 0, 1, "d1"),
        Assign("j", 1, 1, "d2"),
        Assign("j", 2, 1, "d1"),
        Assign("j", 3, 1, "d2"),
        NoDevice("j", 4, 1),
        NoDevice("j", 5, 1),
    ]
    assert leader.decide() == []
    leader.finish(0)
    assert leader.decide() == [Assign("j", 4, 1, "d1")]


def test_a_lost_proposal_is_made_again(leader: Leader) -> None:
    leader.submit(task("a"))
    leader.lost = True
    assert leader.decide() == [Assign("j", 0, 1, "d1")]
    assert leader.board.busy == {"d1": 1}
    leader.now = 999
    assert leader.decide() == []
    leader.now, leader.lost = 1_000, False
    assert leader.decide() == [Assign("j", 0, 1, "d2")], "while d1 may have it still"
    leader.now = 5_000
    assert leader.decide() == []


def test_the_end_of_an_old_wait_does_not_end_a_new_one(leader: Leader) -> None:
    """Attempt 1 was proposed at 0 and would be looked at again at 1000; it fails at 10, and attempt 2 waits longer."""
    leader.submit(task("a", backoff_ms=10_000))
    leader.decide()
    leader.now = 10
    leader(c.FailTask("j", 0, 1, "why"))
    leader.now = 1_000
    assert leader.decide() == []
    leader.now = 10_010
    assert leader.decide() == [Assign("j", 0, 2, "d1")]


def test_an_attempt_that_takes_too_long_fails_and_the_task_waits_before_the_next(leader: Leader) -> None:
    leader.submit(task("a", deadline_ms=500, backoff_ms=100))
    leader.decide()
    leader.now = 499
    assert leader.decide() == []
    leader.now = 500
    assert leader.decide() == [Fail("j", 0, 1, "attempt 1 took longer than 500 ms")]
    leader.now = 549
    assert leader.decide() == []
    leader.now = 600
    assert leader.decide() == [Assign("j", 0, 2, "d1")]


def test_a_task_of_a_dead_device_does_not_wait(leader: Leader) -> None:
    leader.submit(task("a", backoff_ms=60_000))
    leader.decide()
    leader(c.DeviceLost("d1", leader.cell.state.devices["d1"].epoch))
    assert leader.decide() == [Assign("j", 0, 2, "d2")]
    assert leader.finish(0, attempt=1)[-1] == ch.JobFinished("j", JobStatus.FINISHED, ""), "late, and first"
    assert leader.board.busy == {}


def test_a_job_that_takes_too_long_ends_as_failed(leader: Leader) -> None:
    leader.submit(task("a"), task("b", 0), deadline_ms=1_000)
    leader.decide()
    leader.now = 1_000
    assert leader.decide() == [Cancel("j", "it took longer than 1000 ms")]
    assert leader.cell.state.jobs["j"].status is JobStatus.FAILED
    leader.now = 9_000
    assert leader.decide() == []
    assert leader.board.busy == {}


def test_progress_counts_finished_tasks_and_what_running_ones_say(leader: Leader) -> None:
    leader.submit(task("a"), task("b"))
    leader.decide()
    leader.finish(0)
    assert leader.board.progressed("j", 1, 1, 400)
    assert not leader.board.progressed("j", 1, 1, 300), "no way back"
    assert not leader.board.progressed("j", 1, 2, 900), "not that attempt"
    assert not leader.board.progressed("j", 0, 1, 900), "it has finished"
    assert not leader.board.progressed("j", 1, 1, 1001)
    assert leader.board.progress(leader.cell.state.jobs["j"]) == 700


def test_a_new_leader_takes_over_what_is_ready_and_what_is_under_way(leader: Leader) -> None:
    leader.submit(task("a", deadline_ms=500), task("b"), task("c", 1))
    leader.decide()
    leader(c.FailTask("j", 1, 1, "why"))
    leader.submit(task("a"), job="ended")
    leader(c.CancelJob("ended", WHO, ""))
    leader.board = JobBoard(random.Random(2))
    leader.now = 100_000
    leader.board.took_over(leader.cell.state.jobs.values(), leader.now)
    assert leader.board.busy == {"d1": 1}
    leader.now += 100
    assert leader.decide() == [Assign("j", 1, 2, "d2")]
    leader.now += 400
    assert leader.decide() == [Fail("j", 0, 1, "attempt 1 took longer than 500 ms")]


def test_ended_jobs_leave_nothing_on_the_board(leader: Leader) -> None:
    """Deadlines a week ahead of jobs that end at once."""
    for number in range(3_000):
        leader.submit(task("a", deadline_ms=86_400_000), job=f"j{number}", deadline_ms=86_400_000)
        leader.decide()
        leader.finish(0, job=f"j{number}")
    board = leader.board
    assert len(board._heap) <= 1_100
    assert not (board._jobs or board._ready or board._held or board._running or board._on or board.busy)


@given(st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_jobs_end_whatever_is_lost_on_the_way(seed: int) -> None:
    """Proposals get lost, attempts fail or hang, devices die and return, leaders change: all jobs end."""
    rng = random.Random(seed)
    leader = Leader(repeat_ms=50)
    for name in ("d1", "d2", "d3"):
        leader.cell.device(name, agents_max=9)
    for number in range(3):
        tasks = [
            task(f"t{i}", *sorted(rng.sample(range(i), min(i, rng.randrange(3)))), deadline_ms=200, backoff_ms=10)
            for i in range(rng.randrange(1, 8))
        ]
        leader.submit(*tasks, job=f"j{number}", deadline_ms=60_000)
    state = leader.cell.state
    for _ in range(5_000):
        leader.now += 10
        leader.lost = rng.random() < 0.2
        leader.decide()
        for job, index in sorted(state.assigned):
            run = state.jobs[job].runs[index] if (job, index) in state.assigned else None
            chance = rng.random()
            if run is not None and chance < 0.1:
                leader(c.FinishTask(job, index, rng.randrange(1, run.attempt + 1), run.device, b""))
            elif run is not None and chance < 0.12:
                leader(c.FailTask(job, index, run.attempt, "bad luck"))
        device = state.devices[rng.choice(["d1", "d2", "d3"])]
        if rng.random() < 0.02:
            leader((c.DeviceLost if device.alive else c.DeviceBack)(device.id, device.epoch))
        if rng.random() < 0.01:
            leader.board.took_over(state.jobs.values(), leader.now)
        held = {key for key in leader.board._on if key not in leader.board._held}
        assert held <= set(state.assigned)
        if all(job.status is not JobStatus.RUNNING for job in state.jobs.values()):
            break
    else:
        raise AssertionError("a job did not end")
    assert all(run.status is not TaskStatus.ASSIGNED for job in state.jobs.values() for run in job.runs)
    assert not leader.board._jobs
