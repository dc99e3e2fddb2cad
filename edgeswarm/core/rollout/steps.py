"""What is wanted of an agent, what is so, what is to be done next, and what is reported: the words of `converge`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgeswarm.core.rollout.journal import Journal, Version
from edgeswarm.wire.rollout import Plan

State = Literal["fetching", "staged", "running", "healthy", "failed", "rolled_back", "refused"]

# --- what is wanted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """One rollout of an agent that has this device.

    plan: verified; None: fault says why it is not.  withdrawn: rolled back, by an order that was verified; why: its.
    """

    rollout: str
    artefact: str
    plan: Plan | None = None
    fault: str = ""
    withdrawn: bool = False
    why: str = ""

    @property
    def version(self) -> Version:
        return Version(self.rollout, self.artefact)


@dataclass(frozen=True, slots=True)
class Wish:
    """wanted: the newest rollout that counts; withdrawn: newer ones that were rolled back; refused: not verified."""

    wanted: Known | None = None
    withdrawn: tuple[Known, ...] = ()
    refused: Known | None = None


def wish(newest_first: Iterable[Known], journal: Journal) -> Wish:
    """What counts of an agent's rollouts that have this device.

    One whose plan does not verify counts only where it is what runs here already: it was verified then, and its signer
    may have left since.
    """
    withdrawn: list[Known] = []
    refused: Known | None = None
    ours = (journal.current, journal.tried)
    for known in newest_first:
        if known.withdrawn:
            withdrawn.append(known)
        elif known.plan is not None or known.version in ours:
            return Wish(known, tuple(withdrawn), refused)
        elif refused is None:
            refused = known
    return Wish(None, tuple(withdrawn), refused)


def version_tuple(text: str) -> tuple[int, ...]:
    """`1.2.3` in its order; a text that is no version comes before all."""
    parts = text.split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


# --- what is so -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """What the supervisor says of the agent.  runs: its artefact, hex, "" for none; version: the agent's own.

    hosted: the cell has placed an agent of this name here.  halted: the safety stop holds.  restarts, faults: counted
    since this process began.
    """

    runs: str = ""
    version: str = ""
    status: str = ""
    hosted: bool = False
    halted: bool = False
    restarts: int = 0
    faults: int = 0


# --- what is to be done ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing now; again in so many seconds, None: when something changes."""

    s: float | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """Fetch, verify, run the golden vectors; then staged() or stage_failed()."""

    version: Version
    plan: Plan | None


@dataclass(frozen=True, slots=True)
class Try:
    """Keep `base` on disk, then swap to `version` (deploy it where nothing runs, start it where it does not run).

    Then tried() or try_failed().
    """

    version: Version
    base: Version


@dataclass(frozen=True, slots=True)
class GoBack:
    """Swap to `base`, or remove the agent where it is no version; then went_back() or back_failed()."""

    base: Version
    why: str


Step = Wait | Stage | Try | GoBack


@dataclass(frozen=True, slots=True)
class Row:
    """What is reported of an agent."""

    agent: str
    rollout: str
    artefact: str
    state: State
    why: str = ""
