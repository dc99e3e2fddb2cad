"""`fleet broker check`: real connections to the running broker; what must work works, what must not is refused."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from edgeswarm.app.fleet.broker_probes import PROBES, REFUSED, Bench
from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.drivers.broker_fleet_client import RefusedError, UnreachableError
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire.roster import Roster


@dataclass(frozen=True, slots=True)
class Row:
    """One probe: what was tried, what must come of it, what did."""

    name: str
    expected: str
    found: str
    ok: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(folder: FleetFolder, roster: Roster, *, now_s: int | None = None) -> list[Row]:
    """Every probe, in order.  Raises ConfigError, LocalError where the folder is not a fleet's."""
    bench = Bench(folder, roster, int(time.time()) if now_s is None else now_s)
    rows = []
    for name, expected, probe in PROBES:
        try:
            found = probe(bench)
        except RefusedError as error:
            how = "cannot be tried" if isinstance(error, UnreachableError) else REFUSED
            found = f"{how}: {error}"
        except (EdgeSwarmError, OSError) as error:
            found = f"cannot be tried: {error}"
        rows.append(Row(name, expected, found, found.startswith(expected)))
    return rows
