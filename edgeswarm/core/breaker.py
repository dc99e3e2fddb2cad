"""Circuit breaker of one agent: closed -> open -> half open -> closed (Nygard, Release It!, 2nd ed., section 5.2).

Decides when an agent whose calls keep failing is left alone, and when one frame may try again.
Invariant: at most one probe between `probe_due` and its answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Breaker:
    """faults: times (ms) of the faults inside the window while closed.  pause_ms doubles with each failed probe."""

    faults_max: int = 5
    within_ms: float = 10_000.0
    pause_ms_first: float = 1_000.0
    pause_ms_max: float = 60_000.0
    state: State = State.CLOSED
    faults: tuple[float, ...] = ()
    pause_ms: float = 0.0

    def faulted(self, now: float) -> Breaker:
        """After one more fault; `opened_by` tells whether this one opened it."""
        match self.state:
            case State.CLOSED:
                recent = (*(t for t in self.faults if now - t < self.within_ms), now)
                if len(recent) >= self.faults_max:
                    return replace(self, state=State.OPEN, faults=(), pause_ms=self.pause_ms_first)
                return replace(self, faults=recent)
            case State.HALF_OPEN:
                pause_ms = min(max(self.pause_ms, self.pause_ms_first) * 2, self.pause_ms_max)
                return replace(self, state=State.OPEN, pause_ms=pause_ms)
            case State.OPEN:
                return self

    def probe_due(self) -> Breaker:
        return replace(self, state=State.HALF_OPEN) if self.state is State.OPEN else self

    def probed(self) -> Breaker:
        """The probe was answered: closed, and the memory of faults is gone."""
        return replace(self, state=State.CLOSED, faults=(), pause_ms=0.0) if self.state is State.HALF_OPEN else self
