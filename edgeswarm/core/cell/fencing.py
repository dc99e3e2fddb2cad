"""Who may run an agent: the rule that keeps two copies of one agent from running at a time.

The log says where an agent is placed and under which epoch.  A device trusts its copy of the log for the length of a
lease: lease_ms after it heard the leader of the highest term that it knows say a commit index that it has applied.  So
a device that hears the leader knows what moved, and one that does not hear it stops when its lease ends; the leader
gives a device up later than that (`lease_fits`).
Two kinds of agents go on without a lease: those pinned to the device, because no other device may ever get them, and
those that their owner marked `runs_alone`: for them a second copy is the lesser evil.
A device that comes back applies the log first; what moved has a higher epoch there, and its copy stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeswarm.core.cell.types import AgentState


@dataclass(frozen=True, slots=True)
class Lease:
    """What a device last heard of a leader.  until: ms of the device's monotonic clock; term: the leader's."""

    term: int = 0
    until: float = 0.0

    def renewed(self, *, term: int, commit: int, applied: int, now: float, lease_ms: float) -> Lease:
        """After a verified message of the leader of `term`, which has committed up to `commit`, arrived at `now`.

        applied: index up to which this device has applied the log; while it lacks entries nothing is renewed, since
        one of them may take an agent away.  An older leader renews nothing.
        """
        if term < self.term:
            return self
        if applied < commit:
            return Lease(term, self.until)
        return Lease(term, max(self.until, now + lease_ms))

    def held(self, now: float) -> bool:
        return now < self.until


def may_run(agent: AgentState | None, device: str, epoch: int, lease: Lease, now: float, *, stopped: bool) -> str:
    """Why `device` may not run its copy of the agent that it got under `epoch`; an empty text: it may.

    agent: as the device's own state has it, None: removed.  stopped: the safety stop holds.
    """
    if stopped:
        return "the cell is stopped"
    if agent is None:
        return "the agent was removed"
    if agent.device != device:
        return f"the agent is placed on {agent.device or 'no device'}"
    if agent.epoch != epoch:
        return f"epoch {epoch} is over, the agent is at {agent.epoch}"
    if not lease.held(now) and not _needs_no_lease(agent, device):
        return "no leader was heard for the length of a lease"
    return ""


def to_stop(
    running: Mapping[str, int],
    agents: Mapping[str, AgentState],
    device: str,
    lease: Lease,
    now: float,
    *,
    stopped: bool,
) -> dict[str, str]:
    """Of what runs on `device` (agent -> epoch), what must stop, and why, sorted by agent."""
    found: dict[str, str] = {}
    for name in sorted(running):
        why = may_run(agents.get(name), device, running[name], lease, now, stopped=stopped)
        if why:
            found[name] = why
    return found


def to_start(
    running: Mapping[str, int],
    placed: Iterable[AgentState],
    device: str,
    lease: Lease,
    now: float,
    *,
    stopped: bool,
) -> list[AgentState]:
    """Of the agents in `placed`, those that `device` shall run under an epoch that it does not run yet, sorted.

    Starting asks for more than going on: without a lease nothing new starts.  After a power cut on a site that is cut
    off, what needs no lease starts from the device's own memory of the log (`resume_alone`).
    """
    if stopped or not lease.held(now):
        return []
    wanted = [agent for agent in placed if agent.device == device and running.get(agent.spec.id) != agent.epoch]
    return sorted(wanted, key=lambda agent: agent.spec.id)


def resume_alone(placed: Iterable[AgentState], device: str, *, stopped: bool) -> list[AgentState]:
    """What a device may start after its own restart while it hears no leader, from the last state that it kept."""
    if stopped:
        return []
    wanted = [agent for agent in placed if agent.device == device and _needs_no_lease(agent, device)]
    return sorted(wanted, key=lambda agent: agent.spec.id)


def lease_fits(*, lease_ms: float, silent_ms: float, status_ms: float, drift_permille: int = 10) -> bool:
    """True when a lease is over before the leader gives a silent device up.

    A device that is cut off at T was last heard no earlier than T - status_ms (it speaks that often), is given up no
    earlier than silent_ms after that, and its lease ends no later than T + lease_ms, by a clock that runs apart from
    the leader's by at most drift_permille.  (A last will comes after T; the leader waits a whole lease from there.)
    """
    return lease_ms * (1000 + drift_permille) <= (silent_ms - status_ms) * (1000 - drift_permille)


def _needs_no_lease(agent: AgentState, device: str) -> bool:
    return agent.spec.runs_alone or agent.spec.pin == device
