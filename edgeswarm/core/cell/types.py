"""The nouns of a cell: what a device offers, what an agent needs, what a job is, and how far each has come.

All of it is immutable: a change puts a new record in the place of the old, so that a snapshot can be written beside
the loop from a shallow copy.  Integers only, no floats: one value, one encoding, on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

TIERS = ("A", "B", "C")
"""Isolation tiers, the strongest first."""
AGGREGATES = ("mean", "vote", "top-k", "kernel")
TOKEN_ROLES = ("worker", "reader", "coordinator")
"""What a device may join as."""
ROLLOUT_STATES = ("running", "paused", "aborted", "rolled_back", "done")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a device offers.  All sets are sorted tuples."""

    profile: str = "default"
    tier: str = "C"
    architecture: str = ""
    memory_bytes: int = 0
    """For the minimums of agents, summed."""
    cpu_milli: int = 0
    """Thousandths of a core, the same."""
    agents_max: int = 0
    delegates: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    """What the roster grants: neural.compute, tool:<name>, ..."""
    labels: tuple[str, ...] = ()
    """key=value, for selectors."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What an agent or a task needs of a device; an empty text or tuple asks for nothing."""

    profile: str = ""
    tier_min: str = "C"
    architectures: tuple[str, ...] = ()
    """Any one of them."""
    memory_bytes: int = 0
    cpu_milli: int = 0
    delegates: tuple[str, ...] = ()
    """All of them, as the following three."""
    sensors: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device of the cell.  epoch: grows when it is lost or comes back; what is said of it names the epoch."""

    id: str
    capabilities: Capabilities
    boot: int
    registered: int
    """Index of the entry that registered it last."""
    alive: bool
    epoch: int
    drained: bool = False


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent as somebody wants it.  artefact: SHA-256 of its agent file, 32 bytes."""

    id: str
    artefact: bytes
    needs: Needs = Needs()
    pin: str = ""
    """The one device that it may run on; empty: any."""
    near: tuple[str, ...] = ()
    """Agents whose device is preferred."""
    apart: tuple[str, ...] = ()
    """Agents whose device is refused."""
    stateful: bool = False
    """Its checkpoint travels with it."""
    runs_alone: bool = False
    """Keeps running on a device that hears no leader (`fencing`)."""


@dataclass(frozen=True, slots=True)
class AgentState:
    """An agent of the cell.  epoch: the fencing token; every placement takes a higher one than any before it."""

    spec: AgentSpec
    version: int
    """Counts the changes of `spec`, from 1."""
    device: str | None = None
    epoch: int = 0
    desired_at: int = 0
    """Index of the entry that chose the artefact: every device switches there."""
    checkpoint: bytes = b""
    """SHA-256 of the last one, or nothing."""


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One input for many agents, their answers drawn together."""

    agents: tuple[str, ...]
    aggregate: str
    """One of AGGREGATES."""
    k: int = 1
    """How many the aggregate top-k keeps."""
    kernel: str = ""
    """The agent that draws answers together, for the aggregate kernel."""
    share_min_permille: int = 1000
    """Answers needed, in thousandths of the agents."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task of a job.  after: indexes of tasks that stand before it in the job, so no cycle can be written down."""

    name: str
    agent: str = ""
    """The agent that is asked: the task runs where it is.  Empty: `artefact` runs on any device that fits."""
    artefact: bytes = b""
    needs: Needs = Needs()
    after: tuple[int, ...] = ()
    input: bytes = b""
    result_bytes_max: int = 1024
    deadline_ms: int = 0
    """For one attempt; 0: none."""
    retries_max: int = 3
    backoff_ms: int = 100
    map: MapSpec | None = None


class TaskStatus(IntEnum):
    WAITING = 0
    READY = 1
    ASSIGNED = 2
    FINISHED = 3
    FAILED = 4
    CANCELLED = 5


class JobStatus(IntEnum):
    RUNNING = 0
    FINISHED = 1
    FAILED = 2
    CANCELLED = 3


@dataclass(frozen=True, slots=True)
class TaskRun:
    """How far a task has come.  attempt: counts assignments, from 1; it is what a result or a failure names."""

    status: TaskStatus = TaskStatus.WAITING
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    """Devices that died under it."""
    device: str = ""
    result: bytes = b""
    why: str = ""


@dataclass(frozen=True, slots=True)
class JobState:
    """A job: tasks and runs have the same length and order."""

    id: str
    who: str
    tasks: tuple[TaskSpec, ...]
    runs: tuple[TaskRun, ...]
    submitted: int
    """Index of its entry."""
    deadline_ms: int = 0
    """For the whole job; 0: none."""
    status: JobStatus = JobStatus.RUNNING
    why: str = ""


@dataclass(frozen=True, slots=True)
class StopFlag:
    """Who stopped the cell, why, and at which entry."""

    who: str
    why: str
    index: int


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One deliberate act, as `swarm log` shows it."""

    index: int
    term: int
    who: str
    what: str


@dataclass(frozen=True, slots=True)
class Roster:
    """The roster as it was signed; the cell checks the hash link, the app the signatures."""

    version: int = 0
    """0: there is none yet."""
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Move:
    """One agent onto a device, or off any (None).  epoch: of the agent as the planner knew it."""

    agent: str
    device: str | None
    epoch: int


@dataclass(frozen=True, slots=True)
class Want:
    """The artefact (SHA-256) that an agent shall run."""

    agent: str
    artefact: bytes


@dataclass(frozen=True, slots=True)
class Assignment:
    """attempt: one more than the task had so far."""

    job: str
    task: int
    attempt: int
    device: str


@dataclass(frozen=True, slots=True)
class TokenState:
    """A join token.  public: of the key derived from its secret; the secret is nowhere in the cell."""

    id: str
    public: bytes
    role: str
    uses: int
    expires_s: int
    approval: bool
    labels: tuple[str, ...]
    grants: tuple[str, ...]
    who: str
    used: tuple[tuple[str, bytes], ...] = ()
    """(device, its public key), in the order in which they joined; at most `uses`."""
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class RolloutState:
    """An artefact on its way to the devices of an agent.  plan, order: as somebody signed them."""

    id: str
    agent: str
    artefact: bytes
    plan: bytes
    who: str
    index: int
    """Of the entry that started it."""
    state: str = "running"
    wave: int = 0
    """Of the devices that were added last; 0: none yet."""
    devices: tuple[str, ...] = ()
    """All that it has reached, rising."""
    order: bytes = b""
    why: str = ""
    """Of the order, and of the last change of its state."""

    @property
    def open(self) -> bool:
        """It may go on."""
        return self.state in ("running", "paused")
