"""A device's part in jobs: what the log assigns to it is done, once at a time, and handed in.

Level-triggered: after every change that may concern us, what the cell has assigned to this device is compared with
what is under way here.  A newer attempt replaces an older one; what was released, cancelled or finished elsewhere is
stopped.  A result is proposed until the cell has judged it: the first of a task counts, a second changes nothing, so
a leader that dies in between does no harm.
A prompt (TaskAssignment) for an attempt or an epoch that is over is refused with an ErrorReport, "stale".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeswarm.app.swarm.peer import CallError
from edgeswarm.app.swarm.replica import RejectedError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import TaskSpec, TaskStatus
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import (
    EVENT_BYTES_MAX,
    TASK_PROGRESS_S,
    TASK_RETRY_S_MAX,
    TASKS_PER_DEVICE_MAX,
    WHY_BYTES_MAX,
)
from edgeswarm.wire import messages as msg
from edgeswarm.wire.capability import COMPUTE

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

Key = tuple[str, int]
RETRY_S = 0.1
REFUSALS_MAX = 5


class TaskError(EdgeSwarmError):
    """A task failed.  code: a stable word; lasting: another attempt would fail as well."""

    def __init__(self, message: str, *, code: str = "failed", lasting: bool = False) -> None:
        super().__init__(message)
        self.code, self.lasting = code, lasting


@dataclass(frozen=True, slots=True)
class Share:
    """One attempt at one task, as its executor sees it.

    results: of the tasks that it waited for, by name.  told: say how far it is, in thousandths.
    """

    job: str
    task: int
    attempt: int
    spec: TaskSpec
    results: dict[str, bytes]
    told: Callable[[int], None]


Executor = Callable[[Share], Awaitable[bytes]]
"""Does a task: the bytes of its result.  Raises TaskError; any other error of ours is one that may be retried."""


@dataclass(slots=True)
class _Running:
    attempt: int
    task: asyncio.Task[None]
    handing_in: bool = False
    """Its outcome is known, and is proposed until the cell has judged it: nothing stops that."""


class Worker:
    """execute: what does the work (`tasks_work`).  listeners: called with each event this device publishes of a task;
    the broker does not send us what we say."""

    def __init__(self, node: SwarmNode, execute: Executor) -> None:
        self._node, self._execute = node, execute
        self.running: dict[Key, _Running] = {}
        self.listeners: list[Callable[[str, msg.Message], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(TASKS_PER_DEVICE_MAX)
        self._closed = False

    def start(self) -> None:
        self._node.peer.letters[msg.TaskAssignment] = self._prompted

    async def close(self) -> None:
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what there is to do ------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Start what is assigned here and does not run; stop what runs and is not assigned here any more."""
        state, me = self._node.replica.state, self._node.config.device
        halted = self._closed or self._node.orders.halted
        wanted = {} if halted else {key: state.jobs[key[0]].runs[key[1]].attempt for key in state.tasks_on(me)}
        for key, one in list(self.running.items()):
            if wanted.get(key) != one.attempt:
                if not one.handing_in:
                    one.task.cancel()
                del self.running[key]
        for key, attempt in wanted.items():
            if key not in self.running:
                task = asyncio.create_task(self._do(key, attempt))
                self.running[key] = _Running(attempt, task)
                self._tasks.add(task)
                task.add_done_callback(lambda done, key=key: self._done(key, done))  # type: ignore[misc]

    def _done(self, key: Key, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._node.log.crash("task_fault", error)
        one = self.running.get(key)
        if one is not None and one.task is task and task.cancelled():
            del self.running[key]  # else it stays until the cell has taken it from us: it is not begun again

    def _prompted(self, sender: str, prompt: msg.TaskAssignment) -> None:
        """The leader says that we have a task.  The log decides; where our copy is behind, it catches up."""
        node, ref = self._node, prompt.ref
        leader, device = node.peer.leader, node.replica.state.devices.get(node.config.device)
        if leader is None or leader.device != sender or prompt.term < leader.term:
            return node.log.info("task_refused", sender=sender, job=ref.job, task=ref.task, why="not the leader")
        job = node.replica.state.jobs.get(ref.job)
        at = None if job is None else next((i for i, spec in enumerate(job.tasks) if spec.name == ref.task), None)
        run = None if job is None or at is None else job.runs[at]
        if device is not None and ref.epoch < device.epoch:
            return self._stale(sender, ref, f"epoch {ref.epoch} is over, this is epoch {device.epoch}")
        if run is not None and (run.attempt > ref.attempt or run.status not in (TaskStatus.READY, TaskStatus.ASSIGNED)):
            return self._stale(sender, ref, f"attempt {ref.attempt} is over: {run.status.name}, attempt {run.attempt}")
        if run is not None and (run.attempt, run.device) == (ref.attempt, node.config.device):
            self.look()
            node.peer.tell(sender, msg.ProgressUpdate(ref=ref, device=node.config.device, permille=0))
        elif node.follower is not None and node.voter is None:
            node.follower.catch_up()
        return None

    def _stale(self, sender: str, ref: msg.TaskRef, why: str) -> None:
        report = msg.ErrorReport(ref=ref, device=self._node.config.device, code="stale", text=why, retry=False)
        self._node.peer.tell(sender, report)

    # --- doing it -----------------------------------------------------------------------------------------------------

    async def _do(self, key: Key, attempt: int) -> None:
        node, (job_id, index) = self._node, key
        job = node.replica.state.jobs[job_id]
        spec = job.tasks[index]
        ref = self._ref(job_id, spec, attempt)
        said = -1.0

        def told(permille: int) -> None:
            nonlocal said
            now = loop.time()
            if now - said >= TASK_PROGRESS_S:
                said = now
                self._tell_progress(ref, index, max(0, min(1000, permille)))

        loop = asyncio.get_running_loop()
        began = loop.time()
        results = {job.tasks[at].name: job.runs[at].result for at in spec.after}
        try:
            async with self._slots, asyncio.timeout(spec.deadline_ms / 1000 if spec.deadline_ms else None):
                told(0)
                self._check_granted(spec)
                result = await self._execute(Share(job_id, index, attempt, spec, results, told))
        except TimeoutError:
            why = f"attempt {attempt} took longer than {spec.deadline_ms} ms on {node.config.device}"
            return await self._fail(key, ref, TaskError(why, code="deadline"))
        except EdgeSwarmError as error:
            return await self._fail(key, ref, error)
        except Exception as error:  # a fault of ours ends this attempt, not the device
            node.log.crash("task_fault", error)
            return await self._fail(key, ref, TaskError("internal fault", code="fault"))
        self._handing_in(key, attempt)
        if await self._hand_in(cmd.FinishTask(job_id, index, attempt, node.config.device, result)):
            ms = round((loop.time() - began) * 1000)
            small = result if len(result) <= EVENT_BYTES_MAX // 4 else b""
            notice = msg.CompletionNotice(ref=ref, device=node.config.device, result=small, duration_ms=ms)
            self._publish("task.completion", notice)
        return None

    def _check_granted(self, spec: TaskSpec) -> None:
        """Raises TaskError: whoever leads, this device does not do what the roster does not grant it."""
        if not self._node.may(COMPUTE, spec.agent):
            me = self._node.config.device
            raise TaskError(f"task {spec.name}: the roster does not grant {COMPUTE} to {me}", code="not-granted")

    async def _fail(self, key: Key, ref: msg.TaskRef, error: EdgeSwarmError) -> None:
        lasting = bool(getattr(error, "lasting", False))
        why = _short(str(error) or type(error).__name__)
        self._node.log.info("task_failed", job=key[0], task=ref.task, attempt=ref.attempt, why=why)
        code = str(getattr(error, "code", "") or "failed")
        self._handing_in(key, ref.attempt)
        report = msg.ErrorReport(
            ref=ref, device=self._node.config.device, code=code, text=why[:1000], retry=not lasting
        )
        if await self._hand_in(cmd.FailTask(key[0], key[1], ref.attempt, why, lasting)):
            self._publish("task.error", report)

    def _handing_in(self, key: Key, attempt: int) -> None:
        one = self.running.get(key)
        if one is not None and one.attempt == attempt:
            one.handing_in = True

    async def _hand_in(self, command: cmd.FinishTask | cmd.FailTask) -> bool:
        """Propose until the cell has judged it.  False: it counted no more, or is not a command."""
        wait_s, refusals = RETRY_S, 0
        try:
            data = cmd.encode(command)
        except EdgeSwarmError as error:
            if isinstance(command, cmd.FailTask):
                raise
            why = _short(f"its result cannot be kept: {error}")
            return await self._hand_in(cmd.FailTask(command.job, command.task, command.attempt, why, lasting=True))
        while True:
            try:
                await self._node.propose(data)
                return True
            except RejectedError as error:
                self._node.log.info("result_not_taken", job=command.job, task=command.task, why=str(error))
                return False
            except CallError as error:
                refusals += error.code == "error"
                if refusals >= REFUSALS_MAX:  # it is not ours to propose, as for a device that became a reader
                    self._node.log.error("result_refused", job=command.job, task=command.task, why=str(error))
                    return False
            except EdgeSwarmError as error:
                self._node.log.info("result_waits", job=command.job, task=command.task, why=str(error))
            await asyncio.sleep(wait_s)
            wait_s = min(TASK_RETRY_S_MAX, wait_s * 2)

    # --- what is told -------------------------------------------------------------------------------------------------

    def _ref(self, job: str, spec: TaskSpec, attempt: int) -> msg.TaskRef:
        device = self._node.replica.state.devices.get(self._node.config.device)
        return msg.TaskRef(job, spec.name, attempt, 0 if device is None else device.epoch)

    def _tell_progress(self, ref: msg.TaskRef, index: int, permille: int) -> None:
        node = self._node
        update = msg.ProgressUpdate(ref=ref, device=node.config.device, permille=permille)
        leader = node.peer.leader
        if leader is not None and leader.device != node.config.device:
            node.peer.tell(leader.device, update)
        node.duties.jobs.heard(ref.job, index, ref.attempt, node.config.device, permille)
        self._publish("task.progress", update)

    def _publish(self, name: str, message: msg.Message) -> None:
        node = self._node
        level = msg.event_priority(name)
        topic = node.topics.event(level, name)
        priority = Priority.LOW if level == "low" else Priority.HIGH
        node.post.send(topic, msg.encode(message), priority=priority, qos=0 if level == "low" else 1)
        for listener in self.listeners:
            listener(name, message)


def _short(why: str) -> str:
    """At most WHY_BYTES_MAX bytes, and no NUL: a line for the log."""
    return why.replace("\0", "?").encode()[:WHY_BYTES_MAX].decode(errors="ignore")
