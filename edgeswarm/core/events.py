"""What happened: the closed union of events that `node.handle` takes.  Names are past tense.

Every event carries `cause`, the id that everything following from it carries on.  Times are milliseconds of the
monotonic clock and come as an argument of `handle`, never inside an event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgeswarm.ids import AgentName, Cause, JailId, NetworkName

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]


@dataclass(frozen=True, slots=True)
class Need:
    """What an agent asks of its device: memory in bytes, CPU in cores."""

    memory_bytes_min: int
    memory_bytes: int
    cpu_cores_min: float
    cpu_cores: float


@dataclass(frozen=True, slots=True)
class Supervision:
    """How an agent's network is brought back (Erlang/OTP supervisor behaviour: strategy, intensity, period)."""

    network: NetworkName
    strategy: Strategy = "one_for_one"
    restarts_max: int = 5
    within_ms: float = 60_000.0
    backoff_ms: float = 50.0
    backoff_ms_max: float = 5_000.0


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """One version of an agent as the control plane sees it.

    artefact: SHA-256 of the agent file.  trust_domain: (publisher key id, policy): agents of one domain may share a
    jail. upstream: agents whose streams it reads.
    """

    name: AgentName
    artefact: str
    publisher: str
    policy: str
    own_jail: bool
    need: Need
    supervision: Supervision
    upstream: tuple[AgentName, ...] = ()
    checkpoint_ms: float = 10_000.0

    @property
    def trust_domain(self) -> tuple[str, str]:
        return (self.publisher, self.policy)


@dataclass(frozen=True, slots=True)
class AgentDeployed:
    """The operator hands in an agent; it is admitted or refused as a whole, then prepared and started.

    start: False keeps it as stopped (what a restart of the supervisor does with agents that were stopped).
    """

    plan: AgentPlan
    cause: Cause
    start: bool = True


@dataclass(frozen=True, slots=True)
class AgentSwapAsked:
    """The operator hands in another version of a running agent."""

    plan: AgentPlan
    cause: Cause


@dataclass(frozen=True, slots=True)
class AgentStartAsked:
    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class AgentStopAsked:
    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class AgentRemoveAsked:
    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class KernelPrepared:
    """The kernel of `artefact` is compiled, cached and its MAC checked."""

    name: AgentName
    artefact: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class KernelRefused:
    name: AgentName
    artefact: str
    why: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class AgentNotOpened:
    """A source or sink of the agent cannot be opened, or its wiring does not fit its neighbours any more."""

    name: AgentName
    why: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class JailReady:
    jail: JailId
    cause: Cause


@dataclass(frozen=True, slots=True)
class JailExited:
    """The jail is gone, wanted or not.  suspects: agents that had a frame in flight, the oldest frame's first."""

    jail: JailId
    why: str
    sigsys: bool
    cause: Cause
    suspects: tuple[AgentName, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentFaulted:
    """One call of the agent's kernel failed (trap, deadline, memory, non-finite output); its jail lives on."""

    name: AgentName
    why: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class AgentProbed:
    """The single frame let through a half-open breaker was answered."""

    name: AgentName
    cause: Cause


@dataclass(frozen=True, slots=True)
class CutOver:
    """The data plane has sent its last frame to the old jail and goes on in the new one."""

    name: AgentName
    jail: JailId
    cause: Cause


@dataclass(frozen=True, slots=True)
class TimerFired:
    """key: ("restart", jail) | ("probe", agent) | ("checkpoint", agent)."""

    key: tuple[str, str]
    cause: Cause


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    cause: Cause = field(default=Cause("shutdown"))


Event = (
    AgentDeployed
    | AgentSwapAsked
    | AgentStartAsked
    | AgentStopAsked
    | AgentRemoveAsked
    | KernelPrepared
    | KernelRefused
    | AgentNotOpened
    | JailReady
    | JailExited
    | AgentFaulted
    | AgentProbed
    | CutOver
    | TimerFired
    | ShutdownAsked
)
