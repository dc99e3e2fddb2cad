"""The fields of a cell's state, and what is derived from them.

Invariants, most of them told by `Book.faults`:
an agent has at most one device, and that device is known; no epoch is above epoch_last, and no two placements share
one; a task that has ended stays as it is; assigned tasks name a known device; bytes_held is what the jobs reserve.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgeswarm.core.cell.records import job_bytes
from edgeswarm.core.cell.types import (
    AgentState,
    AuditRecord,
    DeviceState,
    JobState,
    JobStatus,
    RolloutState,
    Roster,
    StopFlag,
    TaskRun,
    TaskStatus,
    TokenState,
)
from edgeswarm.limits import AUDIT_RECORDS_MAX, WHY_BYTES_MAX

ENDED = (TaskStatus.FINISHED, TaskStatus.FAILED, TaskStatus.CANCELLED)


class Refused(Exception):
    """A command that is not carried out; nothing has been changed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the command `seq` of a session came to."""

    seq: int
    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Session:
    """floor: everything up to it has been answered, and the answers are gone.  answers: of rising seq, above floor."""

    id: int
    client: str
    floor: int = 0
    answers: tuple[Answer, ...] = ()


@dataclass(slots=True)
class Graph:
    """Of a running job: for each task, who waits for it, and for how many it waits still."""

    waiters: list[list[int]]
    missing: list[int]
    finished: int = 0


class Book:
    """The data.  Everything down to `roots` is replicated; the rest is derived and rebuilt from it."""

    def __init__(self) -> None:
        self.version = 1
        self.index = 0
        self.term = 0
        self.epoch_last = 0
        self.roster = Roster()
        self.devices: dict[str, DeviceState] = {}
        self.agents: dict[str, AgentState] = {}
        self.jobs: dict[str, JobState] = {}
        self.ended: dict[str, None] = {}
        """Jobs that have ended, the longest ago first."""
        self.sessions: dict[int, Session] = {}
        """The longest unused first."""
        self.stop: StopFlag | None = None
        self.audit: list[AuditRecord] = []
        self.tokens: dict[str, TokenState] = {}
        """The oldest first."""
        self.token_time_s = 0
        """Seconds since 1970: the latest that a join has named."""
        self.labels: dict[str, tuple[str, ...]] = {}
        """Of devices that have some, `key=value`, rising; the device may not have registered yet."""
        self.rollouts: dict[str, RolloutState] = {}
        """The oldest first, by the entry that started them."""
        self.roots: tuple[bytes, ...] = ()
        """Rotations of the fleet's root, the oldest first."""

        self.ready: dict[tuple[str, int], None] = {}
        """Tasks (job, index) that the leader may assign."""
        self.assigned: dict[tuple[str, int], None] = {}
        self.graphs: dict[str, Graph] = {}
        self.bytes_held = 0
        self._agents_on: dict[str, dict[str, None]] = {}
        self._tasks_on: dict[str, dict[tuple[str, int], None]] = {}

    # --- reading ------------------------------------------------------------------------------------------------------

    def agents_on(self, device: str) -> tuple[str, ...]:
        """Ids of the agents placed on a device, sorted."""
        return tuple(sorted(self._agents_on.get(device, ())))

    def tasks_on(self, device: str) -> tuple[tuple[str, int], ...]:
        """Tasks (job, index) assigned to a device, sorted."""
        return tuple(sorted(self._tasks_on.get(device, ())))

    # --- writing, for the modules beside this one ---------------------------------------------------------------------

    def next_epoch(self) -> int:
        self.epoch_last += 1
        return self.epoch_last

    def note(self, who: str, what: str) -> None:
        self.audit.append(AuditRecord(self.index, self.term, who, what))
        del self.audit[:-AUDIT_RECORDS_MAX]

    def put_agent(self, agent: AgentState) -> None:
        """A new agent or a new state of one."""
        old = self.agents.get(agent.spec.id)
        if old is not None and old.device is not None and old.device != agent.device:
            del self._agents_on[old.device][agent.spec.id]
        if agent.device is not None:
            self._agents_on.setdefault(agent.device, {})[agent.spec.id] = None
        self.agents[agent.spec.id] = agent

    def drop_agent(self, agent: AgentState) -> None:
        if agent.device is not None:
            del self._agents_on[agent.device][agent.spec.id]
        del self.agents[agent.spec.id]

    def put_job(self, job: JobState) -> None:
        """A job that the book does not have yet, with everything derived from it."""
        self.jobs[job.id] = job
        self.bytes_held += job_bytes(job.tasks)
        if job.status is not JobStatus.RUNNING:
            return
        graph = Graph([[] for _ in job.tasks], [0] * len(job.tasks))
        for index, task in enumerate(job.tasks):
            for before in task.after:
                if job.runs[before].status is not TaskStatus.FINISHED:
                    graph.waiters[before].append(index)
                    graph.missing[index] += 1
        self.graphs[job.id] = graph
        for index, run in enumerate(job.runs):
            graph.finished += run.status is TaskStatus.FINISHED
            self._list_run(job.id, index, run)

    def end_job(self, job: JobState) -> None:
        """`job` is the last state of a running job: none of its tasks is under way any more."""
        for index in range(len(job.tasks)):
            self._unlist_run(job.id, index, self.jobs[job.id].runs[index])
        self.jobs[job.id] = job
        self.ended[job.id] = None
        del self.graphs[job.id]

    def drop_job(self, job: str) -> None:
        """Forget a job that has ended."""
        self.bytes_held -= job_bytes(self.jobs.pop(job).tasks)
        del self.ended[job]

    def put_run(self, job: JobState, index: int, run: TaskRun) -> JobState:
        """Task `index` of a running job goes over to `run`."""
        self._unlist_run(job.id, index, job.runs[index])
        self._list_run(job.id, index, run)
        job = replace(job, runs=(*job.runs[:index], run, *job.runs[index + 1 :]))
        self.jobs[job.id] = job
        return job

    def _list_run(self, job: str, index: int, run: TaskRun) -> None:
        if run.status is TaskStatus.READY:
            self.ready[job, index] = None
        elif run.status is TaskStatus.ASSIGNED:
            self.assigned[job, index] = None
            self._tasks_on.setdefault(run.device, {})[job, index] = None

    def _unlist_run(self, job: str, index: int, run: TaskRun) -> None:
        self.ready.pop((job, index), None)
        if run.status is TaskStatus.ASSIGNED:
            self.assigned.pop((job, index), None)
            self._tasks_on.get(run.device, {}).pop((job, index), None)

    def faults(self) -> Iterable[str]:
        """Links that do not hold; none in a state that commands have made."""
        for agent in self.agents.values():
            if agent.device is not None and agent.device not in self.devices:
                yield f"agent {agent.spec.id} is on {agent.device}, which is not in the cell"
            if agent.epoch > self.epoch_last:
                yield f"agent {agent.spec.id} has epoch {agent.epoch}, the last one is {self.epoch_last}"
        for device in self.devices.values():
            if device.epoch > self.epoch_last:
                yield f"device {device.id} has epoch {device.epoch}, the last one is {self.epoch_last}"
        for job in self.jobs.values():
            if (job.status is JobStatus.RUNNING) == (job.id in self.ended):
                yield f"job {job.id} is {job.status.name}, and the list of ended jobs says otherwise"
            for task, run in zip(job.tasks, job.runs, strict=True):
                waits = any(job.runs[before].status is not TaskStatus.FINISHED for before in task.after)
                yield from _run_faults(self, job, task.name, run, waits)
            if job.status is JobStatus.RUNNING and all(run.status is TaskStatus.FINISHED for run in job.runs):
                yield f"job {job.id} runs, and all its tasks have finished"
        for name in self.ended:
            if name not in self.jobs:
                yield f"job {name} has ended but is not there"


def _run_faults(book: Book, job: JobState, name: str, run: TaskRun, waits: bool) -> Iterable[str]:
    if job.status is not JobStatus.RUNNING and run.status not in ENDED:
        yield f"job {job.id} is {job.status.name}, its task {name} is {run.status.name}"
    if run.status is TaskStatus.ASSIGNED and run.device not in book.devices:
        yield f"job {job.id}: task {name} is on {run.device!r}, which is not in the cell"
    if job.status is not JobStatus.RUNNING:
        return
    if run.status in (TaskStatus.FAILED, TaskStatus.CANCELLED):
        yield f"job {job.id} runs, its task {name} is {run.status.name}"
    if run.status is not TaskStatus.FINISHED and (run.status is TaskStatus.WAITING) != waits:
        yield f"job {job.id}: task {name} is {run.status.name}, and what it waits for says otherwise"


def short(reason: str, bytes_max: int = WHY_BYTES_MAX) -> str:
    """A reason that fits into one line of the state."""
    return reason.replace("\0", "?").encode(errors="replace")[:bytes_max].decode(errors="ignore")
