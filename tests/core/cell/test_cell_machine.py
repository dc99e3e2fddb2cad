"""One log of anything that hypothesis thinks of, applied twice; what must hold is looked at each step."""

from __future__ import annotations

from cell_commands import AGENTS, DEVICES, JOBS, Cell, assignments, commands, replayed
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell.book import ENDED
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.cell.types import Assignment, Capabilities, Move, TaskRun, TaskSpec, TaskStatus


class CellMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.cell = Cell(version=3)
        self.replica = replayed(self.cell.log)
        self.epochs: dict[str, int] = {}
        self.highest = 0
        self.ended: dict[tuple[str, int, int], TaskRun] = {}
        self.noted: list[str] = []
        self.sessions: list[int] = []
        self.placed: dict[str, str | None] = {}
        for name in DEVICES:
            self.cell.device(name)

    def apply(self, command: c.Command) -> list[ch.Change]:
        changes = self.cell(command)
        self.placed_by(changes)
        return changes

    def placed_by(self, changes: list[ch.Change]) -> None:
        """A second book, kept from the changes alone, as a device keeps it."""
        for change in changes:
            match change:
                case ch.Placed(agent, device, epoch) | ch.Moved(agent, _, device, epoch):
                    assert epoch > self.highest, "epochs grow with every placement, of all agents"
                    self.highest = epoch
                    self.placed[agent] = device
                case ch.Unplaced(agent, source, epoch):
                    assert self.placed[agent] == source
                    assert epoch > self.highest
                    self.highest, self.placed[agent] = epoch, None
                case ch.Removed(agent, device):
                    assert self.placed.pop(agent, None) == device
                case ch.DeviceUp(_, epoch) | ch.DeviceDown(_, epoch):
                    assert epoch > self.highest
                    self.highest = epoch
                case _:
                    pass

    @rule(command=commands)
    def anything(self, command: c.Command) -> None:
        self.apply(command)

    @rule(data=st.binary(max_size=30))
    def noise(self, data: bytes) -> None:
        self.cell(data)

    @rule(agent=st.sampled_from(AGENTS), device=st.one_of(st.none(), st.sampled_from(DEVICES)))
    def place(self, agent: str, device: str | None) -> None:
        state = self.cell.state.agents.get(agent)
        if state is not None:
            self.apply(c.Place((Move(agent, device, state.epoch),)))

    @rule(device=st.sampled_from(DEVICES), boot=st.integers(1, 3))
    def join(self, device: str, boot: int) -> None:
        self.apply(c.RegisterDevice(device, boot, Capabilities(agents_max=boot)))

    @rule(device=st.sampled_from(DEVICES))
    def lose_or_find(self, device: str) -> None:
        state = self.cell.state.devices.get(device)
        if state is not None:
            kind = c.DeviceLost if state.alive else c.DeviceBack
            self.apply(kind(device, state.epoch))

    @rule(job=st.sampled_from(JOBS), count=st.integers(1, 4), retries=st.integers(0, 1))
    def submit(self, job: str, count: int, retries: int) -> None:
        tasks = [
            TaskSpec(f"t{i}", agent="fuse", after=(i - 1,) if i else (), retries_max=retries) for i in range(count)
        ]
        self.apply(c.SubmitJob(job, "ann", tuple(tasks)))

    @rule(device=st.sampled_from(DEVICES))
    def assign_all(self, device: str) -> None:
        wanted = [
            Assignment(job, task, self.cell.state.jobs[job].runs[task].attempt + 1, device)
            for job, task in sorted(self.cell.state.ready)
        ]
        if wanted:
            self.apply(c.AssignTasks(tuple(wanted)))

    @rule(wanted=assignments, well=st.booleans())
    def report(self, wanted: Assignment, well: bool) -> None:
        if well:
            self.apply(c.FinishTask(wanted.job, wanted.task, wanted.attempt, wanted.device, b""))
        else:
            self.apply(c.FailTask(wanted.job, wanted.task, wanted.attempt, "why"))

    @rule(client=st.sampled_from(["ann", "bob"]))
    def open_session(self, client: str) -> None:
        for change in self.apply(c.OpenSession(client)):
            if isinstance(change, ch.SessionOpened):
                self.sessions.append(change.session)

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 9), seq=st.integers(1, 6), acked=st.integers(0, 3), times=st.integers(1, 3))
    def note_once(self, which: int, seq: int, acked: int, times: int) -> None:
        session = self.sessions[which % len(self.sessions)]
        what = f"note {session}/{seq}"
        for _ in range(times):
            changes = self.apply(c.WithSession(session, seq, acked, c.encode(c.Note("ann", what))))
            answer = changes[-1]
            if isinstance(answer, ch.Halted):
                return
            assert isinstance(answer, ch.Answered)
            if not answer.reason and not answer.repeated and self.cell.state.audit[-1].what == what:
                self.noted.append(what)

    @rule()
    def restart_from_a_snapshot(self) -> None:
        self.cell.state = CellState.from_snapshot(self.cell.state.to_snapshot(), supported=9)

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def replicas_are_equal(self) -> None:
        for index in range(self.replica.index + 1, len(self.cell.log) + 1):
            self.replica.apply(index, 1, self.cell.log[index - 1])
        if not self.cell.state.halted and not self.replica.halted:
            assert self.replica.to_snapshot() == self.cell.state.to_snapshot()

    @invariant()
    def links_hold(self) -> None:
        assert list(self.cell.state.faults()) == []

    @invariant()
    def an_agent_is_where_the_changes_said(self) -> None:
        state = self.cell.state
        for name, agent in state.agents.items():
            assert self.placed.get(name) == agent.device
            on = [device for device in state.devices if name in state.agents_on(device)]
            assert on == ([agent.device] if agent.device is not None else [])
            assert agent.epoch >= self.epochs.get(name, 0) or agent.epoch == 0
            self.epochs[name] = agent.epoch

    @invariant()
    def what_has_ended_stays_ended(self) -> None:
        state = self.cell.state
        for job in state.jobs.values():
            for index, run in enumerate(job.runs):
                key = (job.id, job.submitted, index)
                if key in self.ended:
                    assert run == self.ended[key]
                elif run.status in ENDED:
                    self.ended[key] = run

    @invariant()
    def lists_of_tasks_are_what_the_jobs_say(self) -> None:
        state = self.cell.state
        by_status = {
            status: {
                (job.id, index)
                for job in state.jobs.values()
                for index, run in enumerate(job.runs)
                if run.status is status
            }
            for status in (TaskStatus.READY, TaskStatus.ASSIGNED)
        }
        assert set(state.ready) == by_status[TaskStatus.READY]
        assert set(state.assigned) == by_status[TaskStatus.ASSIGNED]
        on_devices = [key for device in state.devices for key in state.tasks_on(device)]
        assert sorted(on_devices) == sorted(state.assigned)

    @invariant()
    def nothing_was_noted_twice(self) -> None:
        assert len(set(self.noted)) == len(self.noted)


TestCellMachine = CellMachine.TestCase
TestCellMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
