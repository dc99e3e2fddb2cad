"""What `status` shows of limits."""

from __future__ import annotations

from typing import Any

from edgeswarm.app.cli import limits_view


def agent(**more: Any) -> dict[str, Any]:
    def row(value: float, origin: str = "agent file", **extra: Any) -> dict[str, Any]:
        return {"value": value, "from": origin, "by": ["quota"], **extra}

    return {
        "name": "watcher",
        "limits": {
            "class": "agent",
            "memory_mb": row(64),
            "cpu_cores": row(1.0, "class agent", put_off=3),
            "disk_mb": row(100, used_bytes=2048),
            "network_bandwidth_mbps": row(100.0, "class agent"),
            **more,
        },
    }


def test_each_agent_has_its_limits_and_the_machine_says_what_holds_them() -> None:
    held = {"memory": "cgroup v1", "pids": "rlimit NPROC", "cpu": "cgroup v1", "notes": ["cgroup v2, /x: read-only"]}
    volumes = {"swarm_state": {"used_bytes": 1024, "quota_bytes": 4096}}
    found = limits_view.lines({"agents": [agent()], "mechanisms": held, "volumes": volumes})
    assert found[3].split() == [
        *("watcher", "agent", "64", "MiB", "1", "2.0", "KiB", "of", "100", "MiB", "100", "Mbit/s", "3"),
        *("class:", "cpu_cores,", "network_bandwidth_mbps"),
    ]
    assert found[-3:] == [
        "limits of a jail: memory: cgroup v1, pids: rlimit NPROC, cpu: cgroup v1",
        "  cgroup v2, /x: read-only",
        "volume swarm_state: 1.0 KiB of 4.0 KiB",
    ]


def test_a_supervisor_that_tells_none_shows_none() -> None:
    assert limits_view.lines({"agents": [{"name": "old"}]}) == []
