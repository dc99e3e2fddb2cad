"""What became of a command: facts for the app to react to, in the order in which they happened.

They are made on every device alike.  A device looks for its own id: it starts what was placed on it, stops what moved,
switches where an artefact changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeswarm.core.cell.types import JobStatus


@dataclass(frozen=True, slots=True)
class Rejected:
    """Nothing was changed; why, in one line."""

    reason: str


@dataclass(frozen=True, slots=True)
class Halted:
    """The cell uses a feature version that this program does not know: it must not apply on, and needs an update."""

    version: int
    supported: int


@dataclass(frozen=True, slots=True)
class VersionChanged:
    version: int


@dataclass(frozen=True, slots=True)
class RosterChanged:
    version: int


@dataclass(frozen=True, slots=True)
class Stopped:
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Resumed:
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class DeviceUp:
    """Registered, or heard again.  epoch: from now on."""

    device: str
    epoch: int


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    """What it offers, or whether it is drained, changed."""

    device: str


@dataclass(frozen=True, slots=True)
class DeviceDown:
    device: str
    epoch: int


@dataclass(frozen=True, slots=True)
class DeviceForgotten:
    device: str


@dataclass(frozen=True, slots=True)
class Deployed:
    """An agent is new or has another specification (version > 1)."""

    agent: str
    version: int


@dataclass(frozen=True, slots=True)
class Placed:
    """It had no device."""

    agent: str
    device: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Moved:
    agent: str
    source: str
    device: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Unplaced:
    agent: str
    source: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Desired:
    """Switch the agent to this artefact now.  version: of its specification."""

    agent: str
    artefact: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Removed:
    """device: where it was, if anywhere."""

    agent: str
    device: str | None


@dataclass(frozen=True, slots=True)
class Checkpointed:
    agent: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    job: str


@dataclass(frozen=True, slots=True)
class TaskReady:
    """Everything that it waits for has finished, or an attempt of it ended: the leader may assign it."""

    job: str
    task: int


@dataclass(frozen=True, slots=True)
class TaskAssigned:
    job: str
    task: int
    attempt: int
    device: str


@dataclass(frozen=True, slots=True)
class TaskReleased:
    """device shall not go on with this attempt: it was lost, the attempt failed, or the task ended otherwise."""

    job: str
    task: int
    attempt: int
    device: str
    why: str


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """The result is in the state.  attempt: whose result won."""

    job: str
    task: int
    attempt: int
    device: str


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """There will be no further attempt."""

    job: str
    task: int
    why: str


@dataclass(frozen=True, slots=True)
class JobFinished:
    """The job ended, well or not."""

    job: str
    status: JobStatus
    why: str


@dataclass(frozen=True, slots=True)
class JobForgotten:
    job: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    session: int
    client: str


@dataclass(frozen=True, slots=True)
class SessionClosed:
    session: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What a session's command came to.  index: where it was applied; reason: why it was rejected, or nothing.

    repeated: it had been applied before, and was not applied again.
    """

    session: int
    seq: int
    index: int
    reason: str
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class TokenAdded:
    token: str


@dataclass(frozen=True, slots=True)
class TokenUsed:
    """public: of the device."""

    token: str
    device: str
    public: bytes


@dataclass(frozen=True, slots=True)
class TokenRevoked:
    token: str


@dataclass(frozen=True, slots=True)
class LabelsChanged:
    device: str


@dataclass(frozen=True, slots=True)
class RolloutChanged:
    """It started, went on to more devices, or has another state."""

    rollout: str


@dataclass(frozen=True, slots=True)
class RootRotated:
    """The last of `state.roots` is new."""


Change = (
    Rejected
    | Halted
    | VersionChanged
    | RosterChanged
    | Stopped
    | Resumed
    | DeviceUp
    | DeviceChanged
    | DeviceDown
    | DeviceForgotten
    | Deployed
    | Placed
    | Moved
    | Unplaced
    | Desired
    | Removed
    | Checkpointed
    | JobSubmitted
    | TaskReady
    | TaskAssigned
    | TaskReleased
    | TaskFinished
    | TaskFailed
    | JobFinished
    | JobForgotten
    | SessionOpened
    | SessionClosed
    | Answered
    | TokenAdded
    | TokenUsed
    | TokenRevoked
    | LabelsChanged
    | RolloutChanged
    | RootRotated
)
