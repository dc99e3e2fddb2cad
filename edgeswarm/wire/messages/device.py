"""What a device says about itself, and what happens to its agents.  Facts with one writer: the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from edgeswarm import limits
from edgeswarm.wire.messages.base import (
    AgentId,
    Chars,
    Count,
    DeviceId,
    Digest,
    Items,
    Line,
    Message,
    Num,
    Real,
    Text,
    Uint,
    Word,
    message,
)

Words = Annotated[tuple[Word, ...], Items(64)]
AgentState = Literal["starting", "ready", "stopping", "stopped", "failed"]


@message("capabilities", bytes_max=32 * limits.KIB)
class Capabilities(Message):
    """What a device has.  What it may do is granted in the roster, not claimed here."""

    profile: Word  # name of its profile: "default", "pi-zero"
    tier: Literal["A", "B", "C"]  # isolation that `doctor` found
    architecture: Word  # "x86_64"
    memory_bytes: Uint  # for agents
    cpu_milli: Count  # thousandths of a core, for agents
    agents_max: Count
    delegates: Words = ()  # accelerators: "tflite", "gpu"
    sensors: Words = ()  # what its sources can read: "vitals", "iio:temp0"
    labels: Words = ()  # "site:hall-3", for selectors
    software: Line = ""  # "edgeswarm 0.1.0"
    speaks: Count = 1  # newest version of these messages that it reads


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a device is now."""

    cpu_milli: Count = 0  # thousandths of a core in use
    memory_free_bytes: Uint = 0
    queue_rows: Count = 0  # rows waiting in all its agents
    temperature_c: Annotated[float, Num(-100, 200)] | None = None


@dataclass(frozen=True, slots=True)
class RunningAgent:
    """An agent that a device has, in whatever state."""

    agent: AgentId
    artefact: Digest  # SHA-256 of its file
    state: AgentState
    epoch: Uint  # of its placement: an older one is a copy that must stop
    restarts: Count = 0


@message("health", bytes_max=2 * limits.KIB)
class Health(Message):
    """The sign of life, every status_s of the timing profile.  Topic event/low/health."""

    load: Load
    agents: Count  # how many run
    roster_version: Uint
    term: Uint  # highest that it saw
    applied: Uint  # index of the last log entry that it applied
    stop_number: Uint = 0  # of the last order to stop or resume that it obeys


@message("status", bytes_max=limits.DEVICE_STATE_BYTES_MAX)
class DeviceStatus(Message):
    """The retained status of a device: what it has, what it runs, what it knows.  The broker keeps the newest."""

    state: Literal["online", "draining", "offline"]
    uptime_s: Uint
    capabilities: Capabilities
    load: Load
    agents: Annotated[tuple[RunningAgent, ...], Items(limits.AGENTS_PER_STATUS_MAX)]
    roster_version: Uint
    term: Uint
    applied: Uint
    stop_number: Uint = 0


@dataclass(frozen=True, slots=True)
class DesiredAgent:
    """An agent that a device should run."""

    agent: AgentId
    artefact: Digest
    epoch: Uint


@message("desired", bytes_max=limits.DEVICE_STATE_BYTES_MAX)
class DesiredState(Message):
    """What a device should run, as of a log entry: retained by the leader, a cache of what the log says."""

    term: Uint
    index: Uint
    agents: Annotated[tuple[DesiredAgent, ...], Items(limits.AGENTS_PER_STATUS_MAX)]


RolloutProgress = Literal["fetching", "staged", "running", "healthy", "failed", "rolled_back", "refused"]


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """How far a rollout has come on a device.  running: on trial; failed: it went back by itself."""

    agent: AgentId
    rollout: Annotated[str, Chars(16, 16, "[0-9a-f]*")]
    artefact: Digest
    state: RolloutProgress
    why: Annotated[str, Chars(limits.ROLLOUT_WHY_CHARS_MAX)] = ""


@message("reported", version=2, bytes_max=limits.DEVICE_STATE_BYTES_MAX)
class ReportedState(Message):
    """What a device runs, as of the log entry that it followed; retained."""

    term: Uint
    index: Uint
    agents: Annotated[tuple[RunningAgent, ...], Items(limits.AGENTS_PER_STATUS_MAX)]
    rollouts: Annotated[tuple[RolloutRow, ...], Items(limits.ROLLOUT_ROWS_MAX)] = ()


@message("agent.lifecycle", bytes_max=4 * limits.KIB)
class AgentLifecycle(Message):
    """Something happened to an agent.  Topic event/medium/agent.lifecycle."""

    device: DeviceId
    agent: AgentId
    event: Literal["placed", "started", "ready", "swapped", "moved", "stopped", "failed", "removed"]
    artefact: Digest
    epoch: Uint
    term: Uint
    cause: Line = ""  # what set it going; one grep for it tells the story
    text: Text = ""


@message("alert", bytes_max=8 * limits.KIB)
class Alert(Message):
    """Somebody should look.  Topic event/critical/alert."""

    device: DeviceId
    severity: Literal["info", "warning", "error", "critical"]
    code: Word  # stable: "disk-full", "clone"
    text: Text
    agent: AgentId | None = None
    count: Count = 1  # how many times since the last alert of this code


@message("gone", bytes_max=limits.GONE_BYTES_MAX)
class Gone(Message):
    """A last will, published by the broker and signed by nobody: a hint to look, never a reason to believe."""

    boot: Uint  # of the connection that ended: a device that came back meanwhile is not gone


@message("away", bytes_max=256)
class Away(Message):
    """The device says nothing for a moment and keeps its agents: another version of its supervisor takes them over."""

    back_ms: Annotated[int, Num(0, limits.AWAY_MS_MAX)]  # within that; later it is given up as any other


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a device."""

    name: Word
    value: Real


@message("metrics", bytes_max=32 * limits.KIB)
class Metrics(Message):
    """Numbers for people and dashboards.  Topic event/low/metrics."""

    values: Annotated[tuple[Metric, ...], Items(512)]
