"""Who may run: the sum of what agents need against what the device has.

An agent is admitted when its minimum fits beside the minimums of those already admitted; its limits may be
overcommitted (they cap a jail, they do not reserve).  Leaves enforcement to the jail.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeswarm.core.events import Need


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the device gives to agents: memory in bytes, CPU in cores, and how many agents and jails."""

    memory_bytes: int
    cpu_cores: float
    agents_max: int
    jails_max: int


def refusal(capacity: Capacity, admitted: Iterable[Need], need: Need) -> str | None:
    """Why `need` does not fit beside `admitted`, or None if it does."""
    others = list(admitted)
    if len(others) >= capacity.agents_max:
        return f"agents: the device runs at most {capacity.agents_max} (profile agents_max), {len(others)} are deployed"
    if need.memory_bytes < need.memory_bytes_min:
        return f"memory: limit {_mb(need.memory_bytes)} is below the minimum {_mb(need.memory_bytes_min)}"
    memory_taken = sum(n.memory_bytes_min for n in others)
    if memory_taken + need.memory_bytes_min > capacity.memory_bytes:
        return (
            f"memory: needs {_mb(need.memory_bytes_min)}, "
            f"free {_mb(max(0, capacity.memory_bytes - memory_taken))} of {_mb(capacity.memory_bytes)}"
        )
    cpu_taken = sum(n.cpu_cores_min for n in others)
    if cpu_taken + need.cpu_cores_min > capacity.cpu_cores + 1e-9:
        return (
            f"cpu: needs {need.cpu_cores_min:g} cores, "
            f"free {max(0.0, capacity.cpu_cores - cpu_taken):g} of {capacity.cpu_cores:g}"
        )
    return None


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):g} MB"
