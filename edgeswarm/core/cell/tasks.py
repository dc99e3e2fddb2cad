"""Commands on jobs: tasks become ready, are assigned, end; the first result of a task counts.

There is no clock in here: when to try again and when a deadline has passed is for the leader (`core/jobs`) to say, in
commands.
"""

from __future__ import annotations

from dataclasses import replace

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.book import ENDED, Book, Refused, short
from edgeswarm.core.cell.records import job_bytes, job_fault
from edgeswarm.core.cell.types import Assignment, JobState, JobStatus, TaskRun, TaskStatus
from edgeswarm.limits import CELL_JOBS_BYTES_MAX, CELL_JOBS_MAX, TASK_LOSSES_MAX


def submit(book: Book, command: cmd.SubmitJob) -> list[ch.Change]:
    old = book.jobs.get(command.job)
    if old is not None:
        if (old.tasks, old.deadline_ms, old.who) == (command.tasks, command.deadline_ms, command.who):
            return []
        raise Refused(f"job {command.job}: there is another one of that id")
    fault = job_fault(command.tasks)
    if fault:
        raise Refused(f"job {command.job}: {fault}")
    changes = _make_room(book, command)
    runs = tuple([TaskRun(TaskStatus.WAITING if task.after else TaskStatus.READY) for task in command.tasks])
    job = JobState(command.job, command.who, command.tasks, runs, book.index, command.deadline_ms)
    book.put_job(job)
    ready = [index for index, task in enumerate(job.tasks) if not task.after]
    return [*changes, ch.JobSubmitted(job.id), *[ch.TaskReady(job.id, index) for index in ready]]


def _make_room(book: Book, command: cmd.SubmitJob) -> list[ch.Change]:
    """Forget ended jobs, the longest ended first, until one more job fits; refuse before any is forgotten in vain."""
    wanted = job_bytes(command.tasks)
    jobs, held = len(book.jobs), book.bytes_held
    dropped: list[str] = []
    candidates = iter(book.ended)
    while jobs >= CELL_JOBS_MAX or held + wanted > CELL_JOBS_BYTES_MAX:
        oldest = next(candidates, None)
        if oldest is None:
            raise Refused(
                f"job {command.job}: no room for {wanted} bytes; {jobs} jobs run and hold {held} "
                f"of {CELL_JOBS_BYTES_MAX} bytes"
            )
        dropped.append(oldest)
        jobs, held = jobs - 1, held - job_bytes(book.jobs[oldest].tasks)
    for name in dropped:
        book.drop_job(name)
    return [ch.JobForgotten(name) for name in dropped]


def assign(book: Book, command: cmd.AssignTasks) -> list[ch.Change]:
    changes: list[ch.Change] = []
    for assignment in command.assignments:
        try:
            changes.append(_assign(book, assignment))
        except Refused as refused:
            changes.append(ch.Rejected(str(refused)))
    return changes


def _assign(book: Book, wanted: Assignment) -> ch.Change:
    job, run = _task(book, wanted.job, wanted.task)
    if run.status is not TaskStatus.READY:
        raise Refused(f"job {wanted.job}: task {wanted.task} is {run.status.name}, not READY")
    if wanted.attempt != run.attempt + 1:
        raise Refused(
            f"job {wanted.job}: task {wanted.task}: expected attempt {run.attempt + 1}, found {wanted.attempt}"
        )
    device = book.devices.get(wanted.device)
    if device is None or not device.alive:
        raise Refused(f"device {wanted.device} is {'lost' if device else 'not in the cell'}, no task goes there")
    book.put_run(
        job, wanted.task, replace(run, status=TaskStatus.ASSIGNED, attempt=wanted.attempt, device=wanted.device)
    )
    return ch.TaskAssigned(wanted.job, wanted.task, wanted.attempt, wanted.device)


def finish(book: Book, command: cmd.FinishTask) -> list[ch.Change]:
    job, run = _task(book, command.job, command.task)
    if run.status in ENDED:
        raise Refused(f"job {command.job}: task {command.task} is {run.status.name} already")
    if command.attempt > run.attempt:
        raise Refused(f"job {command.job}: task {command.task} has had {run.attempt} attempts, found {command.attempt}")
    bytes_max = job.tasks[command.task].result_bytes_max
    if len(command.result) > bytes_max:
        if run.status is not TaskStatus.ASSIGNED or command.attempt != run.attempt:
            raise Refused(f"job {command.job}: a result of {len(command.result)} bytes, at most {bytes_max}")
        return _failed(book, job, command.task, f"a result of {len(command.result)} bytes, at most {bytes_max}")
    released: list[ch.Change] = []
    if run.status is TaskStatus.ASSIGNED and (run.attempt, run.device) != (command.attempt, command.device):
        released = [ch.TaskReleased(job.id, command.task, run.attempt, run.device, "another attempt finished first")]
    done = replace(run, status=TaskStatus.FINISHED, device=command.device, result=command.result, why="")
    job = book.put_run(job, command.task, done)
    finished = ch.TaskFinished(job.id, command.task, command.attempt, command.device)
    return [*released, finished, *_after_finish(book, job, command.task)]


def _after_finish(book: Book, job: JobState, index: int) -> list[ch.Change]:
    """Tasks that waited for `index` alone become ready; a job without an unfinished task has finished."""
    changes: list[ch.Change] = []
    graph = book.graphs[job.id]
    for waiter in graph.waiters[index]:
        graph.missing[waiter] -= 1
        if graph.missing[waiter] == 0:
            job = book.put_run(job, waiter, replace(job.runs[waiter], status=TaskStatus.READY))
            changes.append(ch.TaskReady(job.id, waiter))
    graph.finished += 1
    if graph.finished == len(job.tasks):
        book.end_job(replace(job, status=JobStatus.FINISHED))
        changes.append(ch.JobFinished(job.id, JobStatus.FINISHED, ""))
    return changes


def fail(book: Book, command: cmd.FailTask) -> list[ch.Change]:
    job, run = _task(book, command.job, command.task)
    if run.status is not TaskStatus.ASSIGNED or run.attempt != command.attempt:
        raise Refused(f"job {command.job}: attempt {command.attempt} of task {command.task} is not under way")
    task = job.tasks[command.task]
    failures = run.failures + 1
    if command.lasting or failures > task.retries_max:
        return _failed(book, job, command.task, command.why)
    again = replace(run, status=TaskStatus.READY, failures=failures, device="", why=command.why)
    book.put_run(job, command.task, again)
    return [
        ch.TaskReleased(job.id, command.task, run.attempt, run.device, command.why),
        ch.TaskReady(job.id, command.task),
    ]


def cancel(book: Book, command: cmd.CancelJob) -> list[ch.Change]:
    job = book.jobs.get(command.job)
    if job is None:
        raise Refused(f"job {command.job} is not in the cell")
    if job.status is not JobStatus.RUNNING:
        raise Refused(f"job {command.job} is {job.status.name} already")
    book.note(command.who, short(f"cancel job {job.id}: {command.why}"))
    return _end(book, job, JobStatus.FAILED if command.failed else JobStatus.CANCELLED, command.why)


def release_tasks(book: Book, device: str, why: str) -> list[ch.Change]:
    """Everything that `device` was doing goes back; a task under which too many devices died fails."""
    changes: list[ch.Change] = []
    for job_id, index in book.tasks_on(device):
        job = book.jobs[job_id]
        run = job.runs[index]
        if job.status is not JobStatus.RUNNING or run.status is not TaskStatus.ASSIGNED:
            continue  # its job failed in an earlier turn of this loop
        if run.losses >= TASK_LOSSES_MAX:
            changes += _failed(book, job, index, f"{run.losses + 1} devices were lost with it; the last: {why}")
            continue
        book.put_run(job, index, replace(run, status=TaskStatus.READY, losses=run.losses + 1, device="", why=why))
        changes.append(ch.TaskReleased(job_id, index, run.attempt, device, why))
        changes.append(ch.TaskReady(job_id, index))
    return changes


def _failed(book: Book, job: JobState, index: int, why: str) -> list[ch.Change]:
    """No further attempt: the job fails, and what it had under way is released."""
    run = job.runs[index]
    why = short(why)
    job = book.put_run(job, index, replace(run, status=TaskStatus.FAILED, failures=run.failures + 1, why=why))
    changes: list[ch.Change] = [
        ch.TaskReleased(job.id, index, run.attempt, run.device, why),
        ch.TaskFailed(job.id, index, why),
    ]
    return changes + _end(book, job, JobStatus.FAILED, short(f"task {job.tasks[index].name}: {why}"))


def _end(book: Book, job: JobState, status: JobStatus, why: str) -> list[ch.Change]:
    changes: list[ch.Change] = []
    runs: list[TaskRun] = []
    for index, run in enumerate(job.runs):
        if run.status is TaskStatus.ASSIGNED:
            changes.append(ch.TaskReleased(job.id, index, run.attempt, run.device, why))
        runs.append(run if run.status in ENDED else replace(run, status=TaskStatus.CANCELLED, device=""))
    book.end_job(replace(job, runs=tuple(runs), status=status, why=why))
    return [*changes, ch.JobFinished(job.id, status, why)]


def _task(book: Book, job_id: str, index: int) -> tuple[JobState, TaskRun]:
    job = book.jobs.get(job_id)
    if job is None:
        raise Refused(f"job {job_id} is not in the cell")
    if index >= len(job.tasks):
        raise Refused(f"job {job_id} has {len(job.tasks)} tasks, found number {index}")
    return job, job.runs[index]
