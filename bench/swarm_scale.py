"""What a cell of 10, 100, 1,000 devices costs its leader, and how long until all have joined.

    python bench/swarm_scale.py [--sizes 10,100,1000] [--seconds 30] [--json] [--save bench/results/swarm-scale.svg]

Three voters as daemons on one mosquitto, timing profile `default` (a sign of life every 10 s), and simulated workers in
two processes (`_swarm_devices.py` says what they do and what not), all on this machine.  joined: from the moment that
the workers begin to connect, all at once, until the leader's table holds them all.  Then, over `seconds`: CPU time of
the leader, of another voter and of the broker in percent of a core, resident memory at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _svg import Plot
from _swarm_cluster import MissingError, wait_for
from _swarm_ours import Ours

VOTERS = 3
PROCESSES = 2
PERIOD_S = 10.0
JOIN_S_MAX = 120.0


class Cell(Ours):
    """Voters as daemons, workers as simulated devices."""

    def __init__(self, workers: int) -> None:
        super().__init__(timing="default")
        self.workers = workers
        self.crowds: list[subprocess.Popen[bytes]] = []

    def make(self, members: int, url: str) -> list[Path]:
        """The voters' state directories; the whole roster is in each."""
        import os as system

        from edgeswarm.app.swarm import config
        from edgeswarm.app.swarm.rosters import RosterBook
        from edgeswarm.drivers.files import write_whole
        from edgeswarm.wire.dev_fleet import make_dev_fleet

        total = members + self.workers
        made = make_dev_fleet(
            total, entropy=system.urandom(32), now_s=int(time.time()), voters=members, coordinators=members
        )
        states = []
        for device, seed in list(made.device_seeds.items())[:members]:
            state = self.folder / "cell" / device
            write_whole(state / "keys" / "device.key", seed.hex().encode() + b"\n")
            config.save(state, config.CellConfig(made.fleet, made.cell, device, (url,), "default"))
            RosterBook.save_first(state, made.root_public, made.roster)
            states.append(state)
        self.roster_bytes = len(made.roster.data)
        (self.folder / "roster.cbor").write_bytes(made.roster.data)
        rest = list(made.device_seeds.items())[members:]
        for number in range(PROCESSES):
            plan = {
                "fleet": made.fleet,
                "cell": made.cell,
                "root": made.root_public.hex(),
                "roster": str(self.folder / "roster.cbor"),
                "port": self.broker.port,
                "period_s": PERIOD_S,
                "devices": {device: seed.hex() for device, seed in rest[number::PROCESSES]},
            }
            (self.folder / f"crowd-{number}.json").write_text(json.dumps(plan))
        return states

    def join(self) -> float:
        """Seconds until the leader has them all."""
        program = str(Path(__file__).with_name("_swarm_devices.py"))
        for number in range(min(PROCESSES, self.workers)):
            log = (self.folder / f"log-crowd-{number}").open("ab")
            self.crowds.append(
                subprocess.Popen(
                    [sys.executable, program, str(self.folder / f"crowd-{number}.json")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
            )
        for crowd in self.crowds:
            assert crowd.stdout is not None and b"ready" in crowd.stdout.readline()
        began = time.perf_counter()
        for crowd in self.crowds:
            self._tell_crowd(crowd)
        total = len(self.processes) + self.workers
        leader = self.leader()
        assert leader is not None
        wait_for(f"{total} devices", lambda: self.ask(leader, {"op": "status"})["devices"] >= total, JOIN_S_MAX)
        return time.perf_counter() - began

    def _tell_crowd(self, crowd: subprocess.Popen[bytes]) -> None:
        assert crowd.stdin is not None
        crowd.stdin.write(b"\n")
        crowd.stdin.flush()

    def crowd_counts(self) -> dict[str, int]:
        """What the workers have heard, all together."""
        total: dict[str, int] = {}
        for crowd in self.crowds:
            assert crowd.stdout is not None
            self._tell_crowd(crowd)
            found = json.loads(crowd.stdout.readline())
            if "at" in found:
                found = json.loads(crowd.stdout.readline())
            for key, count in found.items():
                total[key] = total.get(key, 0) + count
        return total

    def close(self) -> None:
        for crowd in self.crowds:
            crowd.kill()
            crowd.wait()
        super().close()


def spent_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def measure(workers: int, seconds: float) -> dict[str, Any]:
    cell = Cell(workers)
    try:
        cell.start(VOTERS)
        empty = psutil.Process(cell.processes[cell.writer()].pid).memory_info().rss
        joined_s = cell.join()
        time.sleep(2.0)
        leader = cell.writer()
        other = next(member for member in cell.processes if member != leader)
        pids = {
            "leader": cell.processes[leader].pid,
            "voter": cell.processes[other].pid,
            "broker": cell.broker.process.pid,
        }
        heard, before = cell.crowd_counts(), {name: spent_s(pid) for name, pid in pids.items()}
        began = time.perf_counter()
        time.sleep(seconds)
        took = time.perf_counter() - began
        cpu = {f"{name}_cpu": 100 * (spent_s(pid) - before[name]) / took for name, pid in pids.items()}
        rss = {f"{name}_mb": psutil.Process(pid).memory_info().rss / 1e6 for name, pid in pids.items()}
        counts = cell.crowd_counts()
        status = cell.ask(leader, {"op": "status"})
        return {
            "workers": workers,
            "joined_s": joined_s,
            **cpu,
            **rss,
            "leader_empty_mb": empty / 1e6,
            "roster_kb": cell.roster_bytes / 1e3,
            "asked": counts["asked"],
            "lost": counts["lost"],
            "alive": status["alive"] - VOTERS,
            "worker_messages_s": (counts["messages"] - heard["messages"]) / took / workers,
            "worker_bytes_s": (counts["bytes"] - heard["bytes"]) / took / workers,
        }
    except Exception:
        print(cell.log_tail(), file=sys.stderr)
        raise
    finally:
        cell.close()


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'workers':>8}{'joined s':>10}{'leader CPU %':>14}{'MB':>7}{'(without)':>10}", end="")
    print(
        f"{'voter CPU %':>13}{'broker CPU %':>14}{'MB':>6}{'alive':>7}{'a worker hears: messages/s':>28}{'bytes/s':>9}"
    )
    for row in rows:
        print(f"{row['workers']:>8}{row['joined_s']:>10.2f}{row['leader_cpu']:>14.1f}{row['leader_mb']:>7.0f}", end="")
        print(f"{row['leader_empty_mb']:>10.0f}{row['voter_cpu']:>13.1f}{row['broker_cpu']:>14.1f}", end="")
        print(
            f"{row['broker_mb']:>6.0f}{row['alive']:>7}{row['worker_messages_s']:>28.2f}{row['worker_bytes_s']:>9.0f}"
        )


def draw(rows: list[dict[str, Any]], path: Path, subtitle: str) -> None:
    plot = Plot("What a cell costs its leader, by the number of workers", subtitle, "workers")
    for key, name, unit in (
        ("joined_s", "all joined", "s"),
        ("leader_cpu", "leader, CPU", "% of a core"),
        ("broker_cpu", "broker, CPU", "% of a core"),
        ("leader_mb", "leader, resident", "MB"),
    ):
        plot.line(f"{name} ({unit})", [(row["workers"], row[key]) for row in rows])
    path.write_text(plot.svg())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="10,100,1000")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    machine = (
        f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    )
    try:
        rows = [measure(int(size), options.seconds) for size in options.sizes.split(",")]
    except MissingError as error:
        print(error, file=sys.stderr)
        return
    if options.json:
        print(json.dumps({"machine": machine, "rows": rows}))
    else:
        print(f"{machine}; 3 voters, health every {PERIOD_S:g} s, over {options.seconds:g} s\n")
        show(rows)
    if options.save:
        draw(rows, options.save, f"3 voters, one mosquitto, a sign of life every {PERIOD_S:g} s; {machine}")


if __name__ == "__main__":
    main()
