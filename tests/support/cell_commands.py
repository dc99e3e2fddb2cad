"""Commands of a small cell, drawn by hypothesis: few names, so that they meet."""

from __future__ import annotations

from hypothesis import strategies as st

from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell.changes import Change
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.cell.types import (
    ROLLOUT_STATES,
    TOKEN_ROLES,
    AgentSpec,
    Assignment,
    Capabilities,
    MapSpec,
    Move,
    Needs,
    TaskSpec,
    Want,
)

DEVICES = ["d1", "d2", "d3"]
AGENTS = ["fuse", "scorer", "vitals"]
JOBS = ["j1", "j2"]
WHO = "operator-ann"

devices = st.sampled_from(DEVICES)
agents = st.sampled_from(AGENTS)
jobs = st.sampled_from(JOBS)
digests = st.sampled_from([bytes(32), b"\x01" * 32, b"\xff" * 32])
small = st.integers(0, 12)
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
names = st.lists(st.sampled_from(["a", "b=c", "temp"]), unique=True, max_size=3).map(lambda found: tuple(sorted(found)))
some_agents = st.lists(agents, unique=True, max_size=2).map(lambda found: tuple(sorted(found)))
needs = st.builds(Needs, memory_bytes=small, cpu_milli=small, sensors=names, tier_min=st.sampled_from("ABC"))
capabilities = st.builds(Capabilities, memory_bytes=small, agents_max=small, sensors=names, labels=names)
specs = st.builds(
    AgentSpec,
    agents,
    digests,
    needs,
    pin=st.sampled_from(["", *DEVICES]),
    near=some_agents,
    apart=some_agents,
    stateful=st.booleans(),
    runs_alone=st.booleans(),
)


@st.composite
def task_lists(draw: st.DrawFn) -> tuple[TaskSpec, ...]:
    found = []
    for index in range(draw(st.integers(1, 4))):
        after = draw(st.sets(st.integers(0, index - 1), max_size=2)) if index else set()
        kind = draw(st.sampled_from(["agent", "artefact", "map"]))
        found.append(
            TaskSpec(
                f"t{index}",
                agent="fuse" if kind == "agent" else "",
                artefact=bytes(32) if kind == "artefact" else b"",
                map=MapSpec(tuple(AGENTS), "mean") if kind == "map" else None,
                after=tuple(sorted(after)),
                input=draw(st.binary(max_size=4)),
                result_bytes_max=draw(st.integers(0, 4)),
                retries_max=draw(st.integers(0, 2)),
            )
        )
    return tuple(found)


moves = st.builds(Move, agents, st.one_of(st.none(), devices), small)
assignments = st.builds(Assignment, jobs, st.integers(0, 4), st.integers(1, 4), devices)
keys = st.sampled_from([bytes(32), b"\x01" * 32])
tokens = st.sampled_from(["a" * 13, "b2" * 6 + "c"])
rollouts = st.sampled_from(["0" * 16, "f" * 16, "01" * 8])
rollout_states = st.sampled_from(ROLLOUT_STATES)
labels = st.lists(st.sampled_from(["room=a", "x=", "zone=1 b"]), unique=True, max_size=3).map(
    lambda found: tuple(sorted(found))
)
some_devices = st.lists(devices, unique=True, max_size=3).map(lambda found: tuple(sorted(found)))
fleet_commands = st.one_of(
    st.builds(
        c.AddToken,
        tokens,
        keys,
        st.sampled_from(TOKEN_ROLES),
        st.integers(1, 3),
        st.integers(1, 12),
        st.booleans(),
        labels,
        names,
        texts,
    ),
    st.builds(c.UseToken, tokens, devices, keys, small),
    st.builds(c.RevokeToken, tokens, texts),
    st.builds(c.SetLabels, devices, labels, texts),
    st.builds(c.StartRollout, rollouts, agents, digests, st.binary(max_size=3), texts),
    st.builds(c.AdvanceRollout, rollouts, st.integers(0, 3), some_devices, texts),
    st.builds(c.SteerRollout, rollouts, rollout_states, st.binary(max_size=3), texts, texts),
    st.builds(c.RotateRoot, st.binary(max_size=3), texts),
)
plain_commands = st.one_of(
    fleet_commands,
    st.just(c.Noop()),
    st.builds(c.SetVersion, st.integers(1, 4)),
    st.builds(c.SetRoster, st.integers(1, 3), st.sampled_from([b"", bytes(32)]), st.binary(max_size=3)),
    st.builds(c.Stop, texts, texts),
    st.builds(c.Resume, texts, texts),
    st.builds(c.Note, texts, texts),
    st.builds(c.RegisterDevice, devices, st.integers(0, 4), capabilities),
    st.builds(c.DeviceLost, devices, small),
    st.builds(c.DeviceBack, devices, small),
    st.builds(c.ForgetDevice, devices, texts),
    st.builds(c.Drain, devices, st.booleans(), texts),
    st.builds(c.Deploy, specs, st.integers(0, 3), texts),
    st.builds(c.Place, st.lists(moves, min_size=1, max_size=4).map(tuple)),
    st.builds(c.Desire, st.lists(st.builds(Want, agents, digests), min_size=1, max_size=3).map(tuple), texts),
    st.builds(c.Remove, agents, texts),
    st.builds(c.Checkpoint, agents, small, digests),
    st.builds(c.SubmitJob, jobs, texts, task_lists(), small),
    st.builds(c.AssignTasks, st.lists(assignments, min_size=1, max_size=4).map(tuple)),
    st.builds(c.FinishTask, jobs, st.integers(0, 4), st.integers(1, 4), devices, st.binary(max_size=5)),
    st.builds(c.FailTask, jobs, st.integers(0, 4), st.integers(1, 4), texts, st.booleans()),
    st.builds(c.CancelJob, jobs, texts, texts, st.booleans()),
    st.builds(c.OpenSession, st.sampled_from(["ann", "bob"])),
    st.builds(c.CloseSession, small),
)
session_commands = st.builds(c.WithSession, small, st.integers(1, 30), st.integers(0, 30), plain_commands.map(c.encode))
batches = st.builds(
    c.Batch, st.lists(st.one_of(plain_commands, session_commands).map(c.encode), min_size=1, max_size=4).map(tuple)
)
commands = st.one_of(plain_commands, plain_commands, session_commands, batches)


class Cell:
    """A state with its log: `cell(command)` is what one more entry comes to."""

    def __init__(self, *, version: int = 2, supported: int = c.VERSION_LATEST) -> None:
        self.state = CellState(supported=supported)
        self.log: list[bytes] = []
        for step in range(1, version):
            self(c.SetVersion(step + 1))

    def __call__(self, command: c.Command | bytes) -> list[Change]:
        self.log.append(command if isinstance(command, bytes) else c.encode(command))
        return self.state.apply(len(self.log), 1, self.log[-1])

    def device(self, name: str, *, boot: int = 1, **offer: object) -> int:
        """Register a device; returns its epoch."""
        self(c.RegisterDevice(name, boot, Capabilities(**offer)))  # type: ignore[arg-type]
        return self.state.devices[name].epoch

    def agent(self, name: str, *, on: str | None = None, **spec: object) -> int:
        """Deploy an agent, and place it; returns its epoch."""
        self(c.Deploy(AgentSpec(name, bytes(32), **spec), 0, WHO))  # type: ignore[arg-type]
        if on is not None:
            self.move(name, on)
        return self.state.agents[name].epoch

    def move(self, agent: str, device: str | None) -> list[Change]:
        return self(c.Place((Move(agent, device, self.state.agents[agent].epoch),)))


def replayed(log: list[bytes]) -> CellState:
    state = CellState()
    for index, data in enumerate(log, 1):
        state.apply(index, 1, data)
    return state
