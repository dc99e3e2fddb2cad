"""The leader's part in jobs: what is ready is assigned, what takes too long fails, and who was chosen is told.

`core.jobs.JobBoard` decides; each decision goes through the log, and only what the log says counts.  A device learns
of its task from the log as well; the message TaskAssignment is a prompt that makes a device look whose copy is behind.
It is sent again until the device has said how far it is, or the attempt is over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeswarm.app.swarm import rights
from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import Assignment, TaskRun, TaskSpec, TaskStatus
from edgeswarm.core.jobs.board import Assign, Cancel, Fail, JobBoard, NoDevice
from edgeswarm.core.placement import TaskChooser
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import COMMAND_BATCH_MAX, DEADLINE_MS_MAX, TASK_NAG_S
from edgeswarm.wire import messages as msg
from edgeswarm.wire.capability import COMPUTE

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

SOON_S = 0.002  # changes of one turn are decided on together
LOOK_S = 0.5  # how often tasks without a device are looked at again
Key = tuple[str, int]


class TaskDuty:
    """Made with its node; works between `begin` and `end`."""

    def __init__(self, node: SwarmNode, *, rng: random.Random | None = None) -> None:
        self._node = node
        self.board = JobBoard(rng or random.Random())
        self.active = False
        self.waiting: dict[Key, str] = {}
        """Tasks that no device takes now, and why."""
        self._untold: dict[Key, tuple[int, str]] = {}
        """(attempt, device) of assignments that were not acknowledged."""
        self._due: asyncio.TimerHandle | None = None
        self._nag: asyncio.TimerHandle | None = None

    def _now(self) -> float:
        return asyncio.get_running_loop().time() * 1000

    def begin(self) -> None:
        """This device leads now."""
        self.active = True
        self._untold.clear()
        self.waiting.clear()
        jobs = self._node.replica.state.jobs
        self.board.took_over(jobs.values(), self._now())
        for job in jobs.values():
            for index, run in enumerate(job.runs):
                if run.status is TaskStatus.ASSIGNED:
                    self._tell(job.id, index, run.attempt, run.device)
        self._node.peer.letters[msg.ProgressUpdate] = self._progress
        self._soon()
        self._nag_later()

    def end(self) -> None:
        self.active = False
        for timer in (self._due, self._nag):
            if timer is not None:
                timer.cancel()
        self._due = self._nag = None

    # --- what the cell says -------------------------------------------------------------------------------------------

    def changed(self, changes: Sequence[Any]) -> None:
        if not self.active:
            return
        now, state = self._now(), self._node.replica.state
        for change in changes:
            match change:
                case ch.JobSubmitted():
                    self.board.submitted(state.jobs[change.job], now)
                case ch.TaskReady() if (run := self._run(change.job, change.task)) is not None:
                    self._over(change.job, change.task)
                    if run.status is TaskStatus.READY:
                        self.board.became_ready(change.job, change.task, run, now)
                case ch.TaskAssigned():
                    self.waiting.pop((change.job, change.task), None)
                    self.board.assigned(change.job, change.task, change.attempt, change.device, now)
                    self._tell(change.job, change.task, change.attempt, change.device)
                case ch.TaskFinished() | ch.TaskFailed():
                    self._over(change.job, change.task)
                    self.board.ended(change.job, change.task)
                case ch.JobFinished():
                    self.board.finished(change.job)
                    for key in [key for key in (*self._untold, *self.waiting) if key[0] == change.job]:
                        self._over(*key)
        self._soon()

    def restored(self) -> None:
        if self.active:
            self.end()
            self.begin()

    def _run(self, job: str, task: int) -> TaskRun | None:
        found = self._node.replica.state.jobs.get(job)
        return None if found is None else found.runs[task]

    def _over(self, job: str, task: int) -> None:
        self._untold.pop((job, task), None)
        self.waiting.pop((job, task), None)

    # --- deciding -----------------------------------------------------------------------------------------------------

    def _soon(self, delay_s: float = SOON_S) -> None:
        """Decide within delay_s."""
        if not self.active:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + delay_s
        if self._due is not None:
            if self._due.when() <= at:
                return
            self._due.cancel()
        self._due = loop.call_at(at, self._decide)

    def _decide(self) -> None:
        self._due = None
        node, state, now = self._node, self._node.replica.state, self._now()
        if not self.active or state.stop is not None:
            self._soon(LOOK_S)  # nothing begins while the cell is stopped
            return
        load = {device: node.duties.load.get(device, 0) for device in state.devices}
        roster = node.rosters.current
        able = [rights.placeable(roster, device) for device in state.devices.values()]
        chooser = TaskChooser(able, load=load, busy=self.board.busy)

        def choose(job: str, task: int, spec: Any) -> str | None:
            assert isinstance(spec, TaskSpec)
            device, why = self._choose(chooser, spec)
            if device is None:
                self.waiting[job, task] = why
            return device

        decisions = self.board.decide(now, choose)
        assignments = []
        for decision in decisions:
            match decision:
                case Assign():
                    assignments.append(Assignment(decision.job, decision.task, decision.attempt, decision.device))
                case Fail():
                    self._propose(cmd.FailTask(decision.job, decision.task, decision.attempt, decision.why))
                case Cancel():
                    me = node.config.device
                    self._propose(cmd.CancelJob(decision.job, me, decision.why, failed=True))
                case NoDevice():
                    why = self.waiting.get((decision.job, decision.task), "")
                    node.log.info("task_waits", job=decision.job, task=decision.task, why=why)
        if assignments:
            self._propose(cmd.AssignTasks(tuple(assignments)))
        if len(decisions) >= COMMAND_BATCH_MAX:
            self._soon()
            return
        at = self.board.next_at()
        if at is not None:
            self._soon(max(SOON_S, (at - now) / 1000))
        if self.waiting:
            self._soon(LOOK_S)

    def _choose(self, chooser: TaskChooser, spec: TaskSpec) -> tuple[str | None, str]:
        """(device, why there is none)."""
        if not spec.agent:
            device = chooser.choose(replace(spec.needs, grants=(*spec.needs.grants, COMPUTE)))
            return device, "" if device else "no device that fits is free"
        agent = self._node.replica.state.agents.get(spec.agent)
        if agent is None:
            return None, f"the cell has no agent {spec.agent}"
        if agent.device is None:
            return None, f"agent {spec.agent} has no device"
        if not self._node.may(COMPUTE, spec.agent, device=agent.device):
            return None, f"device {agent.device} of agent {spec.agent} is not granted {COMPUTE}"
        if not chooser.takes(agent.device):
            return None, f"device {agent.device} of agent {spec.agent} takes no more now"
        return agent.device, ""

    def _propose(self, command: cmd.Command) -> None:
        async def propose() -> None:
            try:
                await self._node.commit(cmd.encode(command))
            except (EdgeSwarmError, TimeoutError) as error:
                self._node.log.info("duty_not_done", command=type(command).__name__, error=str(error))

        self._node.task(propose())

    # --- telling ------------------------------------------------------------------------------------------------------

    def _tell(self, job: str, task: int, attempt: int, device: str) -> None:
        if device == self._node.config.device:
            return  # the log has told it
        self._untold[job, task] = (attempt, device)
        self._send(job, task, attempt, device)

    def _send(self, job: str, task: int, attempt: int, device: str) -> None:
        state = self._node.replica.state
        known, found = state.devices.get(device), state.jobs.get(job)
        if known is None or found is None:
            return
        spec = found.tasks[task]
        self._node.peer.tell(
            device,
            msg.TaskAssignment(
                ref=msg.TaskRef(job, spec.name, attempt, known.epoch),
                term=self._node.peer.term_seen,
                operation="ask" if spec.map is None else "map",
                agent=spec.agent or None,
                artefact=spec.artefact or None,
                input=spec.input,
                deadline_ms=min(spec.deadline_ms, DEADLINE_MS_MAX) or None,
            ),
        )

    def _nag_later(self) -> None:
        if self.active:
            self._nag = asyncio.get_running_loop().call_later(TASK_NAG_S, self._nag_all)

    def _nag_all(self) -> None:
        for (job, task), (attempt, device) in list(self._untold.items())[:COMMAND_BATCH_MAX]:
            self._send(job, task, attempt, device)
        self._nag_later()

    def _progress(self, sender: str, update: msg.ProgressUpdate) -> None:
        """A device works at its task: that acknowledges it."""
        job = self._node.replica.state.jobs.get(update.ref.job)
        if job is None or update.device != sender:
            return
        task = next((at for at, spec in enumerate(job.tasks) if spec.name == update.ref.task), None)
        if task is not None:
            self.heard(job.id, task, update.ref.attempt, sender, update.permille)

    def heard(self, job: str, task: int, attempt: int, device: str, permille: int) -> None:
        """How far an attempt is, from the device that has it."""
        if self._untold.get((job, task)) == (attempt, device):
            del self._untold[job, task]
        self.board.progressed(job, task, attempt, permille)
