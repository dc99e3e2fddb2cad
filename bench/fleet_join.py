"""How long joining a fleet takes, from the token to being seen running: one device after another, and many at once.

    python bench/fleet_join.py [--singles 20] [--crowds 50,200] [--json]

A real fleet on this machine: mosquitto with TLS 1.3 (both listeners), `fleet serve` as a process.  single: `edgeswarm
join` as a person calls it, a process each, its start and its look at the isolation layers included.  crowd: the
device's side of so many joins in one process, all begun at once, each with a state directory, key and connections of
its own; until the last one has been heard by the controller with its new certificate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from fleet_rig import Rig, fleet_rig

WAIT_S = 120.0


def singles(rig: Rig, count: int) -> dict[str, Any]:
    took: list[float] = []
    token = rig.token("--uses", str(count))
    for number in range(count):
        began = time.perf_counter()
        rig.join(f"single-{number}", token)
        took.append(time.perf_counter() - began)
    return {"joins": count, "way": "one by one", **spread(took), "rosters": None}


def crowd(rig: Rig, count: int) -> dict[str, Any]:
    from join_made import INVENTORY

    from edgeswarm.app.join import run
    from edgeswarm.app.join.line import Times
    from edgeswarm.wire import token as wire

    token = wire.parse(rig.token("--uses", str(count)).read_text())
    before = version(rig)
    took: list[float] = []

    async def one(number: int, began: float) -> None:
        wish = run.Wish(rig.home / f"crowd-{count}-{number}", name=f"c{count}-{number}", found=INVENTORY)
        await run.run(token, wish, times=Times(wait=WAIT_S), seen_s=WAIT_S)
        took.append(time.perf_counter() - began)

    async def all_of_them() -> None:
        began = time.perf_counter()
        await asyncio.gather(*(one(number, began) for number in range(count)))

    asyncio.run(all_of_them())
    return {"joins": count, "way": "at once", **spread(took), "rosters": version(rig) - before}


def version(rig: Rig) -> int:
    return int(rig.json("fleet", "status")["roster_version"])


def spread(took: list[float]) -> dict[str, float]:
    took = sorted(took)
    return {"first_s": took[0], "p50_s": statistics.median(took), "p95_s": took[int(0.95 * (len(took) - 1))],
            "all_s": took[-1]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--singles", type=int, default=20)
    parser.add_argument("--crowds", default="50,200")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    machine = (
        f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="es-join-") as home:
        os.chmod(home, 0o755)
        with fleet_rig(Path(home) / "site") as rig:
            rig.serve()
            try:
                rows.append(singles(rig, options.singles))
                rows += [crowd(rig, int(count)) for count in options.crowds.split(",") if count]
            except BaseException:
                print(rig.tail("controller", 40), file=sys.stderr)
                raise
    if options.json:
        print(json.dumps({"machine": machine, "rows": rows}))
        return
    print(f"{machine}; from the token to seen running, mosquitto with TLS 1.3\n")
    print(f"{'joins':>6}  {'how':<11}{'first s':>9}{'p50 s':>8}{'p95 s':>8}{'all s':>8}{'rosters':>9}")
    for row in rows:
        print(
            f"{row['joins']:>6}  {row['way']:<11}{row['first_s']:>9.2f}{row['p50_s']:>8.2f}{row['p95_s']:>8.2f}"
            f"{row['all_s']:>8.2f}{row['rosters'] if row['rosters'] is not None else '':>9}"
        )


if __name__ == "__main__":
    main()
