"""What `status` shows of limits: a line for each agent, and what holds them on this machine.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeswarm.app.cli import output
from edgeswarm.errors import CapabilityError

if TYPE_CHECKING:
    from edgeswarm.agentfile.header import Header
    from edgeswarm.app.config import Settings

COLUMNS = ("agent", "class", "memory", "cpu", "disk", "network", "put off", "set by")
RIGHT = (2, 3, 4, 5, 6)


def lines(now: Mapping[str, Any]) -> list[str]:
    """Nothing for a supervisor that tells no limits, or has no agents."""
    held = now.get("mechanisms") or {}
    rows = [_cells(row["name"], row["limits"]) for row in now["agents"] if row.get("limits")]
    found = ["", *output.table(COLUMNS, rows, right=RIGHT).splitlines()] if rows else []
    if held:
        found += ["", "limits of a jail: " + ", ".join(f"{key}: {held[key]}" for key in ("memory", "pids", "cpu"))]
        found += [f"  {output.plain(note)}" for note in held.get("notes", ())]
    for name, row in (now.get("volumes") or {}).items():
        found.append(f"volume {name}: {output.size(row['used_bytes'])} of {output.size(row['quota_bytes'])}")
    return found


def _cells(name: str, limits: Mapping[str, Any]) -> tuple[str, ...]:
    disk, share = limits["disk_mb"], limits["cpu_cores"]
    used = output.size(disk["used_bytes"]) + " of " if "used_bytes" in disk else ""
    by_class = [key for key, row in limits.items() if isinstance(row, Mapping) and row["from"] != "agent file"]
    return (
        name,
        limits["class"],
        f"{limits['memory_mb']['value']} MiB",
        f"{share['value']:g}",
        f"{used}{disk['value']} MiB",
        f"{limits['network_bandwidth_mbps']['value']:g} Mbit/s",
        str(share.get("put_off", "-")),
        f"class: {', '.join(by_class)}" if by_class else "agent file",
    )


def here(header: Header, settings: Settings) -> dict[str, Any]:
    """What an agent file would get on a device with these settings; `refused` says why it would get nothing."""
    from edgeswarm.app.allowance import allow

    try:
        allowance = allow(header, settings.profile.classes)
    except CapabilityError as error:
        return {"refused": str(error)}
    return {"class": allowance.class_name, **allowance.rows()}
