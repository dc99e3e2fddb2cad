"""What is to be done: the closed union of effects that `node.handle` returns.  Names are imperative; list order is
the order.

An effect that fails comes back as an event; nothing here is retried behind the node's back.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeswarm.ids import AgentName, Cause, JailId


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell whoever asked that nothing was done, and why."""

    name: AgentName
    why: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class PrepareKernel:
    """Compile (in a jail of policy `build`) or fetch from the cache; ends in KernelPrepared or KernelRefused."""

    name: AgentName
    artefact: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class SpawnJail:
    """Start a jail with these agents, slot i = agents[i]; ends in JailReady or JailExited."""

    jail: JailId
    policy: str
    agents: tuple[tuple[AgentName, str], ...]
    cause: Cause


@dataclass(frozen=True, slots=True)
class KillJail:
    jail: JailId
    cause: Cause


@dataclass(frozen=True, slots=True)
class OpenAgent:
    """Restore state, run the workflow's `initialization`, open sources and sinks.  Once per start."""

    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class AttachAgent:
    """Send the agent's frames to this slot from now on, those its dead jail left unanswered first."""

    name: AgentName
    jail: JailId
    slot: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class DetachAgent:
    """The agent has no jail now: keep its frames queued under its streams' policies."""

    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class SwitchAgent:
    """Hot swap: answer what is in flight in the old jail, then go on with `artefact` in this slot; ends in CutOver."""

    name: AgentName
    artefact: str
    jail: JailId
    slot: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class PauseAgent:
    """Breaker open: send no frame."""

    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class ProbeAgent:
    """Breaker half open: send one frame; ends in AgentProbed or AgentFaulted."""

    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class ResumeAgent:
    """Breaker closed."""

    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class CloseAgent:
    """Drain, run the workflow's `shutdown` (checkpoint included), close sources and sinks."""

    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class ForgetAgent:
    """Delete what is kept of the agent: its file, its checkpoint."""

    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class WriteCheckpoint:
    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class ArmTimer:
    """Deliver TimerFired(key) at `at_ms`; an armed timer of the same key is replaced."""

    key: tuple[str, str]
    at_ms: float
    cause: Cause


@dataclass(frozen=True, slots=True)
class CancelTimer:
    key: tuple[str, str]
    cause: Cause


@dataclass(frozen=True, slots=True)
class Announce:
    """The agent's status changed; `detail` says why in words."""

    name: AgentName
    status: str
    detail: str
    cause: Cause


Effect = (
    Refuse
    | PrepareKernel
    | SpawnJail
    | KillJail
    | OpenAgent
    | AttachAgent
    | DetachAgent
    | SwitchAgent
    | PauseAgent
    | ProbeAgent
    | ResumeAgent
    | CloseAgent
    | ForgetAgent
    | WriteCheckpoint
    | ArmTimer
    | CancelTimer
    | Announce
)
