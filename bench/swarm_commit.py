"""How long until a cell has committed a write, how many a second, and how long it cannot after something broke.

    python bench/swarm_commit.py [--only ours,etcd,pysyncobj] [--rounds 3] [--seconds 4] [--kills 20] [--stops 10]

3 (and 5) voters as processes of their own on this machine, fsync on, values of 256 bytes, all in the same run, in turn.
Ours: one mosquitto between the voters, messages signed, timing profile `lan`.  etcd: Debian's, with its own timings and
tuned ones, written to at its leader through gRPC by a client that costs some 15 µs (`_swarm_grpc.py`; beside it what a
Python program has with grpcio).  pysyncobj: default and tuned, called in its leader's process.

one: one write at a time.  at 1500/s: writes begun evenly, 1,500 a second, latency counted from when each was due.
full: 64 under way.  kill -9, stop: the leader is killed, or stopped by SIGSTOP; milliseconds to the first write that is
acknowledged to a client which tries all the others all the time.  A member that was killed is started again, and the
next one goes when all have caught up and a random while has passed.  p50 and max (or p99); medians over the rounds.
A contestant that is not installed says so and is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _swarm_cluster import PEERS, Cluster, MissingError, wait_for
from _swarm_etcd import Etcd
from _swarm_pysyncobj import PySyncObj

RATE = 1500.0


def contestants() -> dict[str, list[tuple[int, Callable[[], Cluster]]]]:
    from _swarm_ours import Ours

    return {
        "ours": [(3, Ours), (3, lambda: Ours(remote=True)), (5, Ours)],
        "etcd": [(3, lambda: Etcd("default")), (3, lambda: Etcd("tuned")), (5, lambda: Etcd("tuned"))],
        "pysyncobj": [(3, lambda: PySyncObj("default")), (3, lambda: PySyncObj("tuned"))],
    }


def quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def loads(cluster: Cluster, seconds: float) -> dict[str, float]:
    """Milliseconds and commits a second."""
    found: dict[str, float] = {}
    cluster.load(in_flight=8, seconds=min(1.0, seconds))  # warm
    for name, options in (
        ("one", {"in_flight": 1}),
        ("paced", {"in_flight": 4096, "rate": RATE}),
        ("full", {"in_flight": 64}),
    ):
        cpu_s, began = cluster.cpu_s(), time.perf_counter()
        took = cluster.load(seconds=seconds, **options)  # type: ignore[arg-type]
        spent = time.perf_counter() - began
        found |= {
            f"{name}_p50": quantile(took, 0.5),
            f"{name}_p99": quantile(took, 0.99),
            f"{name}_rate": len(took) / spent,
            f"{name}_cpu": (cluster.cpu_s() - cpu_s) / spent,
        }
    return found


def failures(cluster: Cluster, how: str, count: int, rng: random.Random) -> list[float]:
    """Milliseconds to the first write after each of `count` failures of the leader, or of the broker."""
    found = []
    for _ in range(count):
        leader = cluster.leader()
        assert leader is not None
        if how == "broker":
            found.append(cluster.first_write(-1, cluster.restart_broker()))
        elif how == "kill":
            found.append(cluster.first_write(leader, cluster.signal(leader, signal.SIGKILL)))
            cluster.spawn(leader)
        else:
            found.append(cluster.first_write(leader, cluster.signal(leader, signal.SIGSTOP)))
            cluster.signal(leader, signal.SIGCONT)
        wait_for("a whole cluster", cluster.is_whole, 60.0)
        time.sleep(rng.uniform(0.3, 0.8))
    return found


def run(members: int, make: Callable[[], Cluster], options: argparse.Namespace) -> dict[str, Any]:
    rounds, row = [], {}
    for number in range(options.rounds):
        cluster = make()
        try:
            row = {"name": cluster.name, "members": members, "note": cluster.note}
            cluster.start(members)
            rounds.append(loads(cluster, options.seconds))
            if number == options.rounds - 1 and (members == 3 or options.all):
                rng = random.Random(1)
                row["kill"] = failures(cluster, "kill", options.kills, rng)
                row["stop"] = failures(cluster, "stop", options.stops, rng)
                if cluster.has_broker:
                    row["broker"] = failures(cluster, "broker", options.stops, rng)
            if number == 0 and isinstance(cluster, Etcd) and members == 3:
                row["grpcio"] = grpcio(cluster, options.seconds)
        except Exception as error:
            print(f"{cluster.name}, {members} members: {type(error).__name__}: {error}", file=sys.stderr)
            print(cluster.log_tail(), file=sys.stderr)
            row["failed"] = str(error) or type(error).__name__
            traceback.print_exc()
            break
        finally:
            cluster.close()
    if rounds:
        row |= {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    return row


def grpcio(cluster: Etcd, seconds: float) -> list[float]:
    """p50 and p99 of writes one at a time through grpcio; empty where it is not installed."""
    leader = cluster.leader()
    assert leader is not None
    client = Path(__file__).with_name("_swarm_grpcio_client.py")
    command = [str(PEERS / "venv" / "bin" / "python"), str(client), str(cluster.port(leader)), str(seconds)]
    try:
        took = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return []
    return [quantile(took, 0.5), quantile(took, 0.99)]


def show(rows: list[dict[str, Any]]) -> None:
    head = (
        "one p50",
        "p99",
        "at 1500/s",
        "p99",
        "full/s",
        "p50",
        "kill p50",
        "max",
        "stop p50",
        "max",
        "broker",
        "max",
    )
    print(f"{'':42}" + "".join(f"{text:>10}" for text in head))
    for row in rows:
        print(f"{row['name']}, {row['members']} members"[:42].ljust(42), end="")
        if "failed" in row:
            print(f"  failed: {row['failed']}"[:100])
            continue
        kept = row["paced_rate"] > 0.9 * RATE
        cells = [row["one_p50"], row["one_p99"]]
        cells += [row["paced_p50"], row["paced_p99"]] if kept else ["-", "-"]
        cells += [round(row["full_rate"]), row["full_p50"]]
        for how in ("kill", "stop", "broker"):
            times = row.get(how)
            cells += [statistics.median(times), max(times)] if times else ["-", "-"]
        print("".join(f"{cell:>10.2f}" if isinstance(cell, float) else f"{cell:>10}" for cell in cells))
    for row in rows:
        if row.get("grpcio"):
            p50, p99 = row["grpcio"]
            print(f"{row['name']}, a Python program with grpcio, one at a time: p50 {p50:.2f}, p99 {p99:.2f}")
        if row.get("note"):
            print(f"{row['name']}: {row['note']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="ours,etcd,pysyncobj")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--all", action="store_true", help="failures with 5 members too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for name, cases in contestants().items():
        if name not in options.only.split(","):
            continue
        for members, make in cases:
            try:
                rows.append(run(members, make, options))
            except MissingError as error:
                print(f"{name}: {error}", file=sys.stderr)
                break
    machine = (
        f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    )
    if options.json:
        print(json.dumps({"machine": machine, "rows": rows}))
        return
    print(f"{machine}; milliseconds, medians of {options.rounds} rounds of {options.seconds:g} s\n")
    show(rows)


if __name__ == "__main__":
    main()
