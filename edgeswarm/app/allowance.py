"""What one agent may use on this device: its file's `resources.limits`, capped by its class in the profile.

Invariants: no value is above either; each remembers which of the two it came from.  Where the file's bandwidth is 0, it
asks for nothing of its own, and the class's holds.  Enforced elsewhere: memory by the store's limiter, CPU by `Turns`
and the jail's cgroup, disk by `drivers/quota.py`, bandwidth by `drivers/sink_limited.py` and the streams' outlets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from edgeswarm.agentfile.header import Header
from edgeswarm.drivers.profiles import AgentClass, Classes
from edgeswarm.errors import CapabilityError

BROKER: Final = frozenset({"mqtt_source", "mqtt_sink"})
NETWORK: Final = BROKER | {"webhook_sink"}


@dataclass(frozen=True, slots=True)
class Allowance:
    """origin: key of `resources.limits` -> "agent file" or "class agent"."""

    class_name: str
    memory_bytes: int
    cpu_cores: float
    disk_bytes: int
    bandwidth_mbps: float
    origin: dict[str, str] = field(default_factory=dict)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Key -> value and where it came from, in the units of the agent file."""
        values = {
            "memory_mb": self.memory_bytes >> 20,
            "cpu_cores": self.cpu_cores,
            "disk_mb": self.disk_bytes >> 20,
            "network_bandwidth_mbps": self.bandwidth_mbps,
        }
        return {key: {"value": value, "from": self.origin[key]} for key, value in values.items()}


def class_of(name: str, classes: Classes) -> tuple[str, AgentClass]:
    """The class of an agent: its name, and what it says."""
    if name in classes.coordinators:
        return "coordinator", classes.coordinator
    return "agent", classes.agent


def allow(header: Header, classes: Classes) -> Allowance:
    """Raises CapabilityError when the file wants a network that its class has not."""
    name, most = class_of(header.name, classes)
    check_network(header, name, most)
    limits = header.resources.limits
    origin: dict[str, str] = {}

    def least(key: str) -> Any:
        asked, cap = getattr(limits, key), getattr(most, key)
        of_file = asked <= cap and not (key == "network_bandwidth_mbps" and asked == 0)
        origin[key] = "agent file" if of_file else f"class {name}"
        return asked if of_file else cap

    return Allowance(
        class_name=name,
        memory_bytes=least("memory_mb") << 20,
        cpu_cores=least("cpu_cores"),
        disk_bytes=least("disk_mb") << 20,
        bandwidth_mbps=least("network_bandwidth_mbps"),
        origin=origin,
    )


def check_network(header: Header, name: str, most: AgentClass) -> None:
    """Raises CapabilityError."""
    if most.network == "capabilities":
        return
    allowed = BROKER if most.network == "broker" else frozenset[str]()
    for capability in header.capabilities:
        if capability in NETWORK - allowed:
            raise CapabilityError(
                f"agent {header.name}: capability {capability}: class {name} of this device's profile allows "
                f"{'the broker only' if allowed else 'no network'} (classes.{name}.network)"
            )
