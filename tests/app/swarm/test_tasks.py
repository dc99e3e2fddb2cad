"""Jobs between a leader and devices, without network and jails: assignment, loss, deadlines, cancelling, handing in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from supervised import until
from task_cell import TaskCell

from edgeswarm.app.swarm import jobs
from edgeswarm.app.swarm.replica import RejectedError
from edgeswarm.app.swarm.tasks_run import Share, TaskError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import Assignment, JobStatus, TaskSpec
from edgeswarm.limits import TASK_NAG_S
from edgeswarm.wire import codec
from edgeswarm.wire import messages as msg

FILES = {"x.af": bytes(32)}


class Devices:
    """What each device was given, and how it answers."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str, int]] = []
        self.ended: list[str] = []
        self.hold: Callable[[str, Share], bool] = lambda device, share: False
        self.fault: Callable[[str, Share], Exception | None] = lambda device, share: None

    async def execute(self, device: str, share: Share) -> bytes:
        self.given.append((device, share.spec.name, share.attempt))
        try:
            if self.hold(device, share):
                await asyncio.sleep(3600)
            if (error := self.fault(device, share)) is not None:
                raise error
            share.told(500)
            return codec.dumps({"answers": [], "by": device, "seen": sorted(share.results)})
        finally:
            self.ended.append(share.spec.name)


@pytest.fixture
def devices() -> Devices:
    return Devices()


@pytest.fixture
async def cell(devices: Devices) -> AsyncIterator[TaskCell]:
    cell = TaskCell(3, devices.execute)
    cell.leader.duties.jobs.begin()
    yield cell
    await cell.close()


def submit(cell: TaskCell, *tasks: dict[str, Any], deadline_s: float = 0.0) -> str:
    rows = [{"file": "x.af", "rows": [[1.0]], "backoff_s": 0.001, **task} for task in tasks]
    form = jobs.form_of({"job": "j", "tasks": rows, "deadline_s": deadline_s}, where="test")
    cell.apply(cmd.SubmitJob("j", "test", jobs.specs_of(form, agents=(), files=FILES), round(deadline_s * 1000)))
    return "j"


async def ended(cell: TaskCell) -> Any:
    await until(lambda: cell.replica.state.jobs["j"].status is not JobStatus.RUNNING, within_s=5)
    return cell.replica.state.jobs["j"]


async def begun(devices: Devices, count: int = 1) -> None:
    await until(lambda: len(devices.given) >= count, within_s=5)


async def test_tasks_run_in_the_order_of_their_graph_spread_over_devices(cell: TaskCell, devices: Devices) -> None:
    submit(cell, {"name": "last", "after": ["a", "b", "c"]}, {"name": "a"}, {"name": "b"}, {"name": "c"})
    job = await ended(cell)
    assert job.status is JobStatus.FINISHED
    assert {device for device, name, _ in devices.given if name != "last"} == {"d1", "d2", "d3"}
    assert devices.given[-1][1] == "last"
    assert jobs.result_of(job.runs[-1].result)["seen"] == ["a", "b", "c"]
    await asyncio.sleep(0.01)
    assert [name for name, _ in cell.published].count("task.completion") == 4


async def test_a_lost_device_s_task_is_done_elsewhere_and_counts_once(cell: TaskCell, devices: Devices) -> None:
    devices.hold = lambda device, share: share.attempt == 1
    submit(cell, {"name": "a"})
    await begun(devices)
    victim = devices.given[0][0]
    if victim == "d1":  # the leader of this test stays
        cell.apply(cmd.DeviceLost("d1", cell.replica.state.devices["d1"].epoch))
    else:
        cell.kill(victim)
    job = await ended(cell)
    assert job.status is JobStatus.FINISHED and job.runs[0].losses == 1
    assert devices.given[1][0] != victim and devices.given[1][2] == 2
    with pytest.raises(RejectedError):
        cell.apply(cmd.FinishTask("j", 0, 1, victim, b"late"))
    assert cell.replica.state.jobs["j"].runs[0].result != b"late"


async def test_a_failed_task_is_tried_again_and_a_lasting_failure_is_not(cell: TaskCell, devices: Devices) -> None:
    devices.fault = lambda device, share: TaskError("no") if share.attempt < 3 else None
    submit(cell, {"name": "a", "retries": 3})
    job = await ended(cell)
    assert job.status is JobStatus.FINISHED and job.runs[0].failures == 2
    devices.fault = lambda device, share: TaskError("never", lasting=True)
    cell.apply(cmd.SubmitJob("k", "test", job.tasks, 0))
    await until(lambda: cell.replica.state.jobs["k"].status is not JobStatus.RUNNING, within_s=5)
    assert cell.replica.state.jobs["k"].runs[0].attempt == 1
    assert "never" in cell.replica.state.jobs["k"].why


async def test_an_attempt_and_a_job_that_take_too_long_end(cell: TaskCell, devices: Devices) -> None:
    devices.hold = lambda device, share: True
    submit(cell, {"name": "a", "deadline_s": 0.02, "retries": 1})
    job = await ended(cell)
    assert job.status is JobStatus.FAILED and "20 ms" in job.why
    assert job.runs[0].attempt == 2
    cell.apply(cmd.SubmitJob("k", "test", tuple(job.tasks), 15))
    await until(lambda: cell.replica.state.jobs["k"].status is not JobStatus.RUNNING, within_s=5)
    assert cell.replica.state.jobs["k"].status is JobStatus.FAILED


async def test_cancelling_stops_what_is_under_way(cell: TaskCell, devices: Devices) -> None:
    devices.hold = lambda device, share: True
    submit(cell, {"name": "a"}, {"name": "b"})
    await begun(devices, 2)
    cell.apply(cmd.CancelJob("j", "test", "enough"))
    await until(lambda: len(devices.ended) >= 2, within_s=5)
    assert cell.replica.state.jobs["j"].status is JobStatus.CANCELLED
    assert all(not node.worker.running for node in cell.nodes.values())


async def test_a_result_waits_while_nobody_leads(cell: TaskCell, devices: Devices) -> None:
    devices.hold = lambda device, share: False
    submit(cell, {"name": "a"})
    while not cell.replica.state.jobs["j"].runs[0].device:  # noqa: ASYNC110 - the very turn of the loop matters
        await asyncio.sleep(0)
    cell.no_leader = True
    await begun(devices)
    await asyncio.sleep(0.05)
    assert cell.replica.state.jobs["j"].status is JobStatus.RUNNING
    cell.no_leader = False
    assert (await ended(cell)).status is JobStatus.FINISHED
    assert len(devices.given) == 1, "it was done once, and handed in again"


async def test_a_prompt_of_an_older_attempt_or_epoch_or_of_no_leader_is_refused(
    cell: TaskCell, devices: Devices
) -> None:
    devices.hold = lambda device, share: True
    submit(cell, {"name": "a"})
    await begun(devices)
    device, _, _ = devices.given[0]
    node, epoch = cell.nodes[device], cell.replica.state.devices[device].epoch
    cell.apply(cmd.FailTask("j", 0, 1, "try again"))
    await begun(devices, 2)

    def prompt(attempt: int, epoch: int, term: int = 7) -> msg.TaskAssignment:
        return msg.TaskAssignment(ref=msg.TaskRef("j", "a", attempt, epoch), term=term, operation="ask")

    give = node.peer.letters[msg.TaskAssignment]
    cell.told.clear()
    give("d1", prompt(1, epoch))
    give("d1", prompt(2, epoch - 1))
    refusals = [message for _, message in cell.told if isinstance(message, msg.ErrorReport)]
    assert [one.code for one in refusals] == ["stale", "stale"]
    cell.told.clear()
    give("d9", prompt(2, epoch))
    give("d1", prompt(2, epoch, term=6))
    assert not cell.told, "who does not lead gets no answer"


async def test_an_assignment_is_told_until_the_device_says_how_far_it_is(cell: TaskCell, devices: Devices) -> None:
    devices.hold = lambda device, share: True
    submit(cell, *({"name": name} for name in "abc"))
    await begun(devices, 3)
    await asyncio.sleep(0.02)
    prompts = [to for to, message in cell.told if isinstance(message, msg.TaskAssignment)]
    assert sorted(prompts) == ["d2", "d3"], "the leader itself knows from the log"
    await asyncio.sleep(TASK_NAG_S * 1.1)
    assert len([1 for _, message in cell.told if isinstance(message, msg.TaskAssignment)]) == 2


async def test_a_new_leader_goes_on_where_the_old_one_stopped(cell: TaskCell, devices: Devices) -> None:
    cell.leader.duties.jobs.end()
    submit(cell, {"name": "a"}, {"name": "b", "after": ["a"]})
    await asyncio.sleep(0.02)
    assert not devices.given
    cell.nodes["d2"].duties.jobs.begin()
    assert (await ended(cell)).status is JobStatus.FINISHED


async def test_nothing_runs_while_the_cell_is_stopped(cell: TaskCell, devices: Devices) -> None:
    cell.apply(cmd.Stop("op", "smoke"))
    submit(cell, {"name": "a"})
    await asyncio.sleep(0.05)
    assert not devices.given
    cell.apply(cmd.Resume("op", "gone"))
    assert (await ended(cell)).status is JobStatus.FINISHED


async def test_readers_are_given_no_tasks(cell: TaskCell, devices: Devices) -> None:
    cell.roles |= {"d1": "reader", "d3": "reader"}
    submit(cell, *({"name": name} for name in "abcd"))
    assert (await ended(cell)).status is JobStatus.FINISHED
    assert {device for device, _, _ in devices.given} == {"d2"}


async def test_a_device_without_the_capability_is_given_no_tasks(cell: TaskCell, devices: Devices) -> None:
    cell.grants |= {"d1": (), "d3": ("neural.compute@other", "tool:*")}
    submit(cell, *({"name": name} for name in "abcd"))
    assert (await ended(cell)).status is JobStatus.FINISHED
    assert {device for device, _, _ in devices.given} == {"d2"}


async def test_a_task_waits_while_the_device_of_its_agent_may_not_compute(cell: TaskCell, devices: Devices) -> None:
    cell.place(["scorer"])
    cell.grants["d1"] = ("neural.compute@other",)
    cell.apply(cmd.SubmitJob("j", "test", (TaskSpec("a", agent="scorer"),)))
    await until(lambda: "is not granted neural.compute" in str(cell.leader.duties.jobs.waiting))
    cell.grants["d1"] = ("neural.compute@scorer",)
    cell.leader.duties.jobs._soon()
    assert (await ended(cell)).status is JobStatus.FINISHED


async def test_a_device_does_no_task_that_a_leader_had_no_right_to_give_it(cell: TaskCell, devices: Devices) -> None:
    cell.leader.duties.jobs.end()  # this one does not look at grants
    cell.grants["d2"] = ()
    job = submit(cell, {"name": "a"})
    cell.apply(cmd.AssignTasks((Assignment(job, 0, 1, "d2"),)))
    await until(lambda: "does not grant neural.compute to d2" in cell.replica.state.jobs[job].runs[0].why)
    assert devices.given == []
