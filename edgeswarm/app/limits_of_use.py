"""What a supervisor says of limits: of each agent with its origin and its mechanism, of each jail, of the machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgeswarm.app.metrics import Sample
from edgeswarm.drivers.cgroup import RLIMITS
from edgeswarm.ids import AgentName

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor
    from edgeswarm.drivers.jails import Jail

BY = {
    "memory_mb": "store limiter",
    "cpu_cores": "turns",
    "disk_mb": "quota",
    "network_bandwidth_mbps": "token bucket",
}
"""What holds each limit of one agent; its jail's group holds the sum of all that are in it as well."""
_CONTROLLER = {"memory_mb": "memory", "cpu_cores": "cpu"}


def mechanisms(supervisor: Supervisor) -> dict[str, Any]:
    """Controller -> what holds it on this machine, and why it is not better."""
    host = supervisor.host
    if host is None:
        return {**RLIMITS, "notes": []}
    return {**host.groups.mechanisms, "notes": list(host.groups.notes)}


def volumes(supervisor: Supervisor) -> dict[str, dict[str, int]]:
    """What this device keeps for its cell, by volume; nothing when it is in none."""
    quota_bytes = supervisor.settings.profile.classes.coordinator.disk_mb << 20
    return supervisor.flows.life.space.coordinator(quota_bytes, time.monotonic()) or {}


def agent(supervisor: Supervisor, name: AgentName) -> dict[str, Any]:
    """Key -> value, where it came from, and what holds it."""
    allowance = supervisor.shelf.current(name).allowance
    rows: dict[str, Any] = {"class": allowance.class_name}
    held = mechanisms(supervisor)
    for key, row in allowance.rows().items():
        by = [BY[key], *([held[_CONTROLLER[key]]] if key in _CONTROLLER else [])]
        rows[key] = {**row, "by": by}
    quota = supervisor.flows.life.quota(name)
    rows["disk_mb"] |= {"used_bytes": quota.used_bytes, "volumes": quota.volumes(), "refused": quota.refused}
    flow = supervisor.flows.flows.get(name)
    share = flow.turns.share(flow.slot) if flow is not None and flow.turns is not None else None
    if share is not None:
        rows["cpu_cores"] |= {"used_s": round(share.used_ns / 1e9, 6), "put_off": share.put_off}
    return rows


def jail(supervisor: Supervisor, found: Jail) -> dict[str, Any]:
    """What the kernel holds this jail to, as its group and its rlimits have it, and what it was refused so far."""
    host = supervisor.host
    assert host is not None, "it has jails"
    toll = host.groups.toll(found.id)
    return {
        "memory_bytes": found.memory_bytes_max,
        "cpu_cores": found.cpu_cores,
        "throttled": toll.throttled,
        "forks_refused": toll.forks_refused,
        "oom_kills": toll.oom_kills,
    }


def samples(row: Mapping[str, Any]) -> Iterator[Sample]:
    """Metrics of limits, from a status."""
    for one in row["agents"]:
        for volume, used in one["limits"]["disk_mb"]["volumes"].items():
            yield "edgeswarm_agent_disk_bytes", "gauge", {"agent": one["name"], "volume": volume}, used
    for one in row["agents"]:
        used_s = one["limits"]["cpu_cores"].get("used_s")
        if used_s is not None:
            yield "edgeswarm_agent_shared_cpu_seconds_total", "counter", {"agent": one["name"]}, used_s
    for one in row["agents"]:
        put_off = one["limits"]["cpu_cores"].get("put_off")
        if put_off is not None:
            yield "edgeswarm_agent_put_off_total", "counter", {"agent": one["name"]}, put_off
    for key in ("throttled", "forks_refused", "oom_kills"):
        for one in row["jails"]:
            yield f"edgeswarm_jail_{key}_total", "counter", {"jail": str(one["jail"])}, one["limits"][key]
    for volume, sizes in row["volumes"].items():
        yield "edgeswarm_volume_bytes", "gauge", {"volume": volume}, sizes["used_bytes"]
