"""The leader's board: which tasks to assign now, which attempts have run out of time, which jobs.

The cell's state says what is ready and what is under way; the app tells the board of each change (the methods named in
the past tense) and proposes what `decide` returns.  A proposal may get lost: what the cell has not confirmed after
repeat_ms is decided again; a second proposal of the same attempt is refused by the cell and does no harm.
Time is the leader's: a deadline counts from when this leader first saw the attempt, or the job, so a change of leader
starts it again.  A task that has failed waits (`backoff`); one that only lost its device does not.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from heapq import heappop, heappush
from typing import Protocol

from edgeswarm.core.jobs.backoff import backoff_ms
from edgeswarm.limits import COMMAND_BATCH_MAX

Key = tuple[str, int]
"""A job's id and the index of a task of it."""


class TaskLike(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def deadline_ms(self) -> int: ...
    @property
    def backoff_ms(self) -> int: ...


class RunLike(Protocol):
    @property
    def status(self) -> IntEnum: ...
    @property
    def attempt(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def device(self) -> str: ...


class JobLike(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def deadline_ms(self) -> int: ...
    @property
    def status(self) -> IntEnum: ...
    @property
    def tasks(self) -> tuple[TaskLike, ...]: ...
    @property
    def runs(self) -> tuple[RunLike, ...]: ...


@dataclass(frozen=True, slots=True)
class Assign:
    """Propose AssignTasks with this."""

    job: str
    task: int
    attempt: int
    device: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Propose FailTask: the attempt took too long."""

    job: str
    task: int
    attempt: int
    why: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Propose CancelJob(failed=True): the job took too long."""

    job: str
    why: str


@dataclass(frozen=True, slots=True)
class NoDevice:
    """For the log: nothing takes this task at present.  Told once an attempt."""

    job: str
    task: int
    attempt: int


Decision = Assign | Fail | Cancel | NoDevice


class _Due(IntEnum):
    READY = 0
    TASK = 1
    JOB = 2


@dataclass(slots=True)
class _Ready:
    attempt: int
    """The one to assign."""
    told: bool = False


@dataclass(slots=True)
class _Running:
    attempt: int
    device: str
    permille: int = 0


class JobBoard:
    """now: ms of the monotonic clock, never falling.  repeat_ms: when to decide again what the cell did not confirm."""

    def __init__(self, rng: random.Random, *, repeat_ms: float = 1_000.0) -> None:
        self.busy: Counter[str] = Counter()
        """Device -> tasks that it has, or was proposed for."""
        self._rng, self._repeat_ms = rng, repeat_ms
        self._jobs: dict[str, JobLike] = {}
        self._ready: dict[Key, _Ready] = {}
        """To be assigned now."""
        self._held: dict[Key, _Ready] = {}
        """To be assigned later: it failed, or was proposed and is not confirmed."""
        self._running: dict[Key, _Running] = {}
        self._on: dict[Key, str] = {}
        self._heap: list[tuple[float, int, int, str, int, int]] = []
        """(when, count, _Due, job, task, attempt)."""
        self._count = 0

    # --- what the cell says -------------------------------------------------------------------------------------------

    def took_over(self, jobs: Iterable[JobLike], now: float) -> None:
        """This device leads now; `jobs` is everything that the cell has.  What the board knew is forgotten."""
        self.__init__(self._rng, repeat_ms=self._repeat_ms)  # type: ignore[misc]
        for job in jobs:
            if job.status.name != "RUNNING":
                continue
            self.submitted(job, now)
            for index, run in enumerate(job.runs):
                if run.status.name == "READY":
                    self.became_ready(job.id, index, run, now)
                elif run.status.name == "ASSIGNED":
                    self.assigned(job.id, index, run.attempt, run.device, now)

    def submitted(self, job: JobLike, now: float) -> None:
        self._jobs[job.id] = job
        if job.deadline_ms:
            self._later(now + job.deadline_ms, _Due.JOB, job.id, 0, 0)

    def became_ready(self, job: str, task: int, run: RunLike, now: float) -> None:
        """run: as the cell has it; a task that has failed waits."""
        key = (job, task)
        self._released(key)
        entry = _Ready(run.attempt + 1)
        wait_ms = self._jobs[job].tasks[task].backoff_ms if job in self._jobs else 0
        if run.failures and wait_ms:
            self._held[key] = entry
            at = now + backoff_ms(run.failures, wait_ms, self._rng)
            self._later(at, _Due.READY, job, task, entry.attempt)
        else:
            self._ready[key] = entry

    def assigned(self, job: str, task: int, attempt: int, device: str, now: float) -> None:
        key = (job, task)
        self._released(key)
        self._running[key] = _Running(attempt, device)
        self._put_on(key, device)
        deadline_ms = self._jobs[job].tasks[task].deadline_ms if job in self._jobs else 0
        if deadline_ms:
            self._later(now + deadline_ms, _Due.TASK, job, task, attempt)

    def ended(self, job: str, task: int) -> None:
        """The task finished or failed for good."""
        self._released((job, task))

    def finished(self, job: str) -> None:
        """The job ended: nothing of it is under way any more."""
        view = self._jobs.pop(job, None)
        for index in range(len(view.tasks) if view is not None else 0):
            self._released((job, index))

    def progressed(self, job: str, task: int, attempt: int, permille: int) -> bool:
        """A device says how far it is; True when that attempt is under way, and further than before."""
        running = self._running.get((job, task))
        if running is None or running.attempt != attempt or not running.permille < permille <= 1000:
            return False
        running.permille = permille
        return True

    def progress(self, job: JobLike) -> int:
        """Thousandths of a job that are done: its finished tasks, and what running ones say."""
        done = 0
        for index, run in enumerate(job.runs):
            running = self._running.get((job.id, index))
            done += 1000 if run.status.name == "FINISHED" else running.permille if running is not None else 0
        return done // len(job.runs)

    # --- what to do ---------------------------------------------------------------------------------------------------

    def next_at(self) -> float | None:
        """When a deadline comes due; tasks that are ready are looked at on each call of `decide`."""
        return self._heap[0][0] if self._heap else None

    def decide(self, now: float, choose: Callable[[str, int, TaskLike], str | None]) -> list[Decision]:
        """At most COMMAND_BATCH_MAX decisions; again at once when there are that many.

        choose(job, task, spec): a device that can take one more task now, or None.
        """
        decisions = self._due(now)
        for key in list(self._ready):
            if len(decisions) >= COMMAND_BATCH_MAX:
                break
            job, task = key
            entry = self._ready[key]
            device = choose(job, task, self._jobs[job].tasks[task])
            if device is not None:
                self._held[key] = self._ready.pop(key)
                self._put_on(key, device)
                self._later(now + self._repeat_ms, _Due.READY, job, task, entry.attempt)
                decisions.append(Assign(job, task, entry.attempt, device))
            elif not entry.told:
                entry.told = True
                decisions.append(NoDevice(job, task, entry.attempt))
        return decisions

    def _due(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        while self._heap and self._heap[0][0] <= now and len(decisions) < COMMAND_BATCH_MAX:
            _, _, kind, job, task, attempt = heappop(self._heap)
            key = (job, task)
            if kind == _Due.READY:
                held = self._held.get(key)
                if held is not None and held.attempt == attempt:
                    self._put_on(key, None)
                    self._ready[key] = self._held.pop(key)
            elif kind == _Due.TASK:
                running = self._running.get(key)
                if running is not None and running.attempt == attempt:
                    deadline_ms = self._jobs[job].tasks[task].deadline_ms
                    decisions.append(Fail(job, task, attempt, f"attempt {attempt} took longer than {deadline_ms} ms"))
                    self._later(now + self._repeat_ms, _Due.TASK, job, task, attempt)
            elif job in self._jobs:
                decisions.append(Cancel(job, f"it took longer than {self._jobs[job].deadline_ms} ms"))
                self._later(now + self._repeat_ms, _Due.JOB, job, 0, 0)
        return decisions

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _released(self, key: Key) -> None:
        self._ready.pop(key, None)
        self._held.pop(key, None)
        self._running.pop(key, None)
        self._put_on(key, None)

    def _put_on(self, key: Key, device: str | None) -> None:
        old = self._on.pop(key, None)
        if old is not None:
            self.busy[old] -= 1
            if not self.busy[old]:
                del self.busy[old]
        if device is not None:
            self._on[key] = device
            self.busy[device] += 1

    def _later(self, at: float, kind: _Due, job: str, task: int, attempt: int) -> None:
        self._count += 1
        heappush(self._heap, (at, self._count, kind, job, task, attempt))
        live = len(self._held) + len(self._running) + len(self._jobs)
        if len(self._heap) > 2 * live + 1024:  # most of it is about what has ended
            self._heap = sorted(item for item in self._heap if self._counts(item[2], (item[3], item[4]), item[5]))

    def _counts(self, kind: int, key: Key, attempt: int) -> bool:
        if kind == _Due.JOB:
            return key[0] in self._jobs
        entry = self._held.get(key) if kind == _Due.READY else self._running.get(key)
        return entry is not None and entry.attempt == attempt
