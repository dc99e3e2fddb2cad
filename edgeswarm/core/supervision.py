"""Who is restarted with whom, after how long, and when it is given up: Erlang/OTP's supervisor behaviour.

Source: OTP Design Principles, "Supervisor Behaviour" (strategies, maximum restart intensity).  One difference: under
one_for_one the intensity is counted per agent, because one bad agent must never stop another.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edgeswarm.core.events import Strategy, Supervision
from edgeswarm.ids import AgentName


def restart_set(strategy: Strategy, order: Sequence[AgentName], victims: Collection[AgentName]) -> list[AgentName]:
    """The agents to restart, in `order` (start order of the network); victims must be in `order`."""
    match strategy:
        case "one_for_one":
            return [name for name in order if name in victims]
        case "one_for_all":
            return list(order) if victims else []
        case "rest_for_one":
            first = min((order.index(name) for name in victims), default=len(order))
            return list(order[first:])


@dataclass(frozen=True, slots=True)
class Intensity:
    """Restart times (ms) of one agent or one network that still count."""

    times: tuple[float, ...] = ()

    def restarted(self, now: float, supervision: Supervision) -> Intensity:
        return Intensity((*(t for t in self.times if now - t < supervision.within_ms), now))

    def exceeded(self, supervision: Supervision) -> bool:
        return len(self.times) > supervision.restarts_max

    def delay_ms(self, supervision: Supervision) -> float:
        """Exponential back-off: backoff_ms, doubled with each restart that still counts, up to backoff_ms_max."""
        doublings = min(max(0, len(self.times) - 1), 30)
        return float(min(supervision.backoff_ms * 2**doublings, supervision.backoff_ms_max))
