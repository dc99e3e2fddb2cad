"""What the control socket can ask about jobs and messages: submit, look, cancel, follow; send, listen.

`register` puts these into SwarmControl's tables.  Every argument is checked here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from edgeswarm.app.control_ops import argument
from edgeswarm.app.swarm import jobs
from edgeswarm.app.swarm.post import Letter
from edgeswarm.app.swarm.replica import OutcomeUnknownError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import JobState, JobStatus, TaskSpec, TaskStatus
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.errors import EdgeSwarmError, LocalError, RemoteError
from edgeswarm.limits import SWARM_MESSAGES_WAITING_MAX, WHY_BYTES_MAX
from edgeswarm.wire import messages as msg

if TYPE_CHECKING:
    from edgeswarm.app.swarm.control import SwarmControl
    from edgeswarm.app.swarm.node import SwarmNode

LOOK_S = 1.5
FOLLOW_S = 0.1  # how often a job is looked at for what its devices say; changes of the log are seen at once
_OWN_EVENTS = frozenset(msg.EVENTS)


def register(control: SwarmControl, node: SwarmNode) -> None:
    """Add these to what `swarm` and `swarm_watch` answer."""
    asked = JobsControl(node)
    control.one |= {
        "submit": asked.submit,
        "jobs": asked.jobs,
        "job": asked.job,
        "cancel": asked.cancel,
        "put_agent": asked.put_agent,
        "send": asked.send,
    }
    control.many |= {"job": asked.follow, "messages": asked.messages, "events": asked.events}


class JobsControl:
    """One for each device's control socket."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._readers: set[asyncio.Queue[dict[str, Any]]] = set()
        self._heard: dict[tuple[str, str], tuple[int, int]] = {}
        """(job, task) -> (attempt, thousandths) of jobs that somebody here follows."""
        self._followed: dict[str, int] = {}
        self._off: Callable[[], None] = lambda: None
        self._silent: Callable[[], None] = lambda: None
        node.peer.letters[msg.AppMessage] = self._message

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def put_agent(self, args: dict[str, Any]) -> Any:
        """An agent file for tasks: checked, kept and given to peers; its SHA-256."""
        data, who = argument(args, "data", bytes), argument(args, "who", str, "an agent file")
        name = self._node.supervisor.shelf.admit(data, who=who).header.name
        digest = await self._node.artefacts.put(data)
        await self._node.artefacts.spread(digest)
        return {"agent": name, "digest": digest}

    async def submit(self, args: dict[str, Any]) -> Any:
        """A job form, and the SHA-256 of each agent file that it names.  The answer comes once it is committed."""
        node = self._node
        form = jobs.form_of(argument(args, "form", dict), where="job")
        files = argument(args, "files", dict, {})
        if not all(isinstance(name, str) and isinstance(digest, bytes) for name, digest in files.items()):
            raise RemoteError("control request: files: expected names and digests")
        if any(task.map is not None and task.map.match for task in form.tasks):
            await self._fresh()
        tasks = jobs.specs_of(form, agents=node.replica.state.agents, files=files)
        job = form.job or f"job-{os.urandom(6).hex()}"
        who = argument(args, "who", str, node.config.device)
        command = cmd.SubmitJob(job, who, tasks, round(form.deadline_s * 1000))
        index = await self._surely(cmd.encode(command))
        return {"job": job, "index": index, "tasks": len(tasks)}

    async def _surely(self, command: bytes) -> int:
        """Commit what changes nothing the second time: again where a leader that stepped down left it unknown."""
        try:
            return (await self._node.propose(command))[0]
        except OutcomeUnknownError:
            return (await self._node.propose(command))[0]

    async def jobs(self, args: dict[str, Any]) -> Any:
        fresh = await self._fresh()
        rows = [self._row(job, whole=False) for job in self._node.replica.state.jobs.values()]
        return {"jobs": rows, "stale": not fresh, "index": self._node.replica.index}

    async def job(self, args: dict[str, Any]) -> Any:
        fresh = await self._fresh()
        return {**self._row(self._job(argument(args, "job", str)), whole=True), "stale": not fresh}

    async def cancel(self, args: dict[str, Any]) -> Any:
        name, node = argument(args, "job", str), self._node
        why = argument(args, "why", str, "asked to")[:WHY_BYTES_MAX]
        index = await self._surely(cmd.encode(cmd.CancelJob(name, node.config.device, why)))
        return {"job": name, "index": index}

    async def follow(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        """A job's row at each change, until it has ended: the last row has the results."""
        name, node = argument(args, "job", str), self._node
        await self._fresh()
        news = asyncio.Event()

        def changed(changes: Any) -> None:
            news.set()

        node.replica.listeners.append(changed)
        self._listen(name)
        said: Any = None
        try:
            while True:
                news.clear()
                job = self._job(name)
                ended = job.status is not JobStatus.RUNNING
                row = self._row(job, whole=ended)
                if row != said:
                    said = row
                    yield row
                if ended:
                    return
                try:
                    async with asyncio.timeout(FOLLOW_S):  # wait_for of Python 3.11 may lose a cancellation
                        await news.wait()
                except TimeoutError:
                    pass
        finally:
            node.replica.listeners.remove(changed)
            self._unlisten(name)

    def _job(self, name: str) -> JobState:
        found = self._node.replica.state.jobs.get(name)
        if found is None:
            raise LocalError(f"job {name}: the cell has no job of that name")
        return found

    def _row(self, job: JobState, *, whole: bool) -> dict[str, Any]:
        row = jobs.row_of(job, progress=self._permille(job), whole=whole)
        if job.status is JobStatus.RUNNING:
            ready = [spec for spec, run in zip(job.tasks, job.runs, strict=True) if run.status is TaskStatus.READY]
            row["waits"] = sorted({self._why(spec) for spec in ready})
        return row

    def _why(self, spec: TaskSpec) -> str:
        """What a task that could be assigned waits for, as any device can tell."""
        if not spec.agent:
            return "a device that fits and is free"
        agent = self._node.replica.state.agents.get(spec.agent)
        if agent is None:
            return f"the cell has no agent {spec.agent}"
        return f"agent {spec.agent} has no device" if agent.device is None else f"device {agent.device}"

    def _permille(self, job: JobState) -> int:
        done = 0
        for spec, run in zip(job.tasks, job.runs, strict=True):
            if run.status is TaskStatus.FINISHED:
                done += 1000
            elif run.status is TaskStatus.ASSIGNED:
                attempt, permille = self._heard.get((job.id, spec.name), (0, 0))
                done += permille if attempt == run.attempt else 0
        return done // len(job.runs)

    def _listen(self, job: str) -> None:
        """Hear what devices say of their tasks while somebody here follows a job."""
        if not self._followed:
            self._off = self._node.post.on(self._node.topics.events("low", "task.progress"), self._progress)
            self._node.worker.listeners.append(self._own)
        self._followed[job] = self._followed.get(job, 0) + 1

    def _unlisten(self, job: str) -> None:
        self._followed[job] -= 1
        if not self._followed[job]:
            del self._followed[job]
            self._heard = {key: value for key, value in self._heard.items() if key[0] != job}
        if not self._followed:
            self._off()
            self._node.worker.listeners.remove(self._own)

    def _progress(self, letter: Letter) -> None:
        update = msg.decode(letter.payload, who=letter.sender, kinds=(msg.ProgressUpdate,))
        assert isinstance(update, msg.ProgressUpdate)
        if update.device == letter.sender:
            self._own("task.progress", update)

    def _own(self, name: str, message: msg.Message) -> None:
        if isinstance(message, msg.ProgressUpdate) and message.ref.job in self._followed:
            self._heard[message.ref.job, message.ref.task] = (message.ref.attempt, message.permille)

    async def _fresh(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._node.barrier()
        except (EdgeSwarmError, TimeoutError):
            return False
        return True

    # --- messages -----------------------------------------------------------------------------------------------------

    async def send(self, args: dict[str, Any]) -> Any:
        """A message of an application: to one device, or (device empty) to all that listen."""
        node = self._node
        name, body = argument(args, "name", str), argument(args, "body", bytes)
        device = argument(args, "device", str, "")
        message = msg.AppMessage(name=name, body=body)
        if device and node.rosters.lookup(device) is None:
            raise LocalError(f"device {device}: the roster has no such device")
        if device and device != node.config.device:
            node.peer.tell(device, message)
        elif device:
            self._message(device, message)
        else:
            topic = node.topics.event("medium", "app.message")
            node.post.send(topic, msg.encode(message), priority=Priority.MEDIUM, qos=1)
            self._message(node.config.device, message)
        return {"connected": node.transport.is_connected}

    async def messages(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        """Messages of applications to this device or to all, from now on; a slow reader loses the newest."""
        topic = self._node.topics.event("medium", "app.message")
        if not self._readers:
            self._silent = self._node.post.on(topic, self._broadcast, qos=1)
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(SWARM_MESSAGES_WAITING_MAX)
        self._readers.add(queue)
        try:
            yield {"listening": True}
            while True:
                yield await queue.get()
        finally:
            self._readers.discard(queue)
            if not self._readers:
                self._silent()

    def _broadcast(self, letter: Letter) -> None:
        message = msg.decode(letter.payload, who=letter.sender, kinds=(msg.AppMessage,))
        assert isinstance(message, msg.AppMessage)
        self._message(letter.sender, message)

    def _message(self, sender: str, message: msg.AppMessage) -> None:
        row = {"from": sender, "name": message.name, "body": message.body}
        for queue in self._readers:
            if not queue.full():
                queue.put_nowait(row)

    async def events(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        """Typed events of one name (agent.lifecycle, task.completion, neural.updates, alert, ...), field by field."""
        node, name = self._node, argument(args, "name", str)
        if name not in _OWN_EVENTS:
            raise LocalError(f"event {name}: expected one of {', '.join(sorted(_OWN_EVENTS))}")
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(SWARM_MESSAGES_WAITING_MAX)

        def put(sender: str, message: msg.Message) -> None:
            if not queue.full():
                queue.put_nowait({"event": name, "from": sender, **fields(message)})

        def heard(letter: Letter) -> None:
            put(letter.sender, msg.decode_at(letter.topic, letter.payload, who=letter.sender))

        def own(what: str, message: msg.Message) -> None:
            if what == name:
                put(node.config.device, message)

        topic = node.topics.events(msg.event_priority(name), name)
        off = node.post.on(topic, heard)
        node.worker.listeners.append(own)
        try:
            yield {"listening": True}
            while True:
                yield await queue.get()
        finally:
            off()
            node.worker.listeners.remove(own)


def fields(message: Any) -> dict[str, Any]:
    """A message as a plain map."""
    return dataclasses.asdict(message)
