"""How long from a sample to its decision, how many agents one core carries, what an idle supervisor weighs.

    python bench/streams.py [--json] [--seconds 5]

The whole path: source task -> pipeline -> ring -> jail -> pipeline -> decision, with every isolation layer on.  The
supervisor and all jails share one core (sched_setaffinity) where it says "one core".
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgeswarm.app import builder, config
from edgeswarm.app.log import Log
from edgeswarm.app.supervisor import Supervisor
from edgeswarm.drivers import keys

ROUNDS = 5


def agent(name: str, key: keys.SigningKey, *, queue: int = 256) -> bytes:
    """A predictor of two vitals over a window of 8 rows, 16-16-2, with a threshold on its score."""
    tree = {
        "version": "1.0",
        "name": name,
        "neural_config": {
            "network_type": "feedforward",
            "input_size": 16,
            "output_size": 2,
            "hidden_layers": [16],
            "activation_function": "tanh",
        },
        "resources": {"limits": {"memory_mb": 4}},
        "supervision": {"network": "bench"},
        "wiring": {
            "sources": [{"type": "api", "width": 2, "queue": {"policy": "drop_oldest", "rows": queue}}],
            "window": {"rows": 8},
            "normalize": {"method": "fixed", "mean": [50.0, 50.0], "std": [20.0, 20.0]},
            "score": {"type": "prediction_error"},
            "decision": {"type": "threshold", "above": 4.0},
        },
    }
    model = builder.model_of(None, sizes=(16, 16, 2), activation="tanh", output_activation="linear")
    return builder.build(tree, model, key=key)


async def stream(agents: int, rate_hz: float, seconds: float) -> dict[str, Any]:
    """`agents` agents fed at rate_hz each for `seconds`; latency over all, CPU of the supervisor and its jails."""
    with tempfile.TemporaryDirectory() as state:
        key, _ = keys.load_or_make(Path(state) / "keys" / "publisher.key")
        keys.trust(Path(state) / "trust.d", key.public, "bench")
        flags = {"limits.agents_max": 1000, "limits.cpu_cores": 1000.0, "limits.memory_mb": 100_000}
        settings = config.load(state=Path(state), flags=flags, environ={})
        async with Supervisor(settings, log=Log(stream=None, level="warning")) as supervisor:
            await supervisor.deploy([("bench", agent(f"a{i}", key)) for i in range(agents)])
            flows = list(supervisor.flows.flows.values())
            latencies: list[int] = []
            for flow in flows:
                flow.hooks_after.append(lambda outcome: latencies.append(time.monotonic_ns() - outcome.at_ns))
            began, cpu = time.monotonic(), _cpu_seconds(supervisor)
            row, period, sent = (42.0, 43.0), 1 / rate_hz, 0
            # one timer for all, spread over the period, as sources of real sensors are
            due = began
            while due < began + seconds:
                for flow in flows:
                    due += period / agents
                    late = due - time.monotonic()
                    if late > 0:
                        await asyncio.sleep(late)
                    await flow.offer(0, row, time.monotonic_ns())
                    sent += 1
            took = time.monotonic() - began
            cpu = _cpu_seconds(supervisor) - cpu
            for flow in flows:
                await flow.drain(5.0)
            tallies = [flow.pipeline.tally() for flow in flows]
            latencies.sort()
            return {
                "agents": agents,
                "rate_hz": rate_hz,
                "samples_per_s": round(sent / took),
                "asked_per_s": round(agents * rate_hz),
                "p50_us": latencies[len(latencies) // 2] / 1000,
                "p99_us": latencies[len(latencies) * 99 // 100] / 1000,
                "cpu_percent": round(100 * cpu / took),
                "dropped": sum(t["dropped"] for t in tallies),  # type: ignore[misc]
                "lost": sum(t["lost"] for t in tallies),  # type: ignore[misc]
                "jails": len(supervisor.jails),
            }


def _cpu_seconds(supervisor: Supervisor) -> float:
    ticks = os.sysconf("SC_CLK_TCK")
    total = sum(os.times()[:2])
    for jail in supervisor.jails.values():
        fields = Path(f"/proc/{jail.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
    return total


IDLE = """
import asyncio, sys
from pathlib import Path
from edgeswarm.app import config, report
from edgeswarm.app.log import Log
from edgeswarm.app.supervisor import Supervisor
from edgeswarm.app import daemon
async def main():
    settings = config.load(state=Path(sys.argv[1]), environ={})
    async with Supervisor(settings, log=Log(stream=None)) as s:
        await asyncio.sleep(0.5)
        print(report.rss_bytes())
asyncio.run(main())
"""


def idle_rss_bytes() -> int:
    """Resident memory of a supervisor with no agents, a process of its own."""
    with tempfile.TemporaryDirectory() as state:
        return int(subprocess.run([sys.executable, "-c", IDLE, state], capture_output=True, check=True).stdout)


def help_ms() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "edgeswarm", "--help"], capture_output=True, check=True)
    return (time.perf_counter() - began) * 1000


def spread(values: list[float]) -> tuple[float, float]:
    """Median and interquartile range."""
    quarters = statistics.quantiles(values, n=4)
    return statistics.median(values), quarters[2] - quarters[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    one = [asyncio.run(stream(1, 100.0, options.seconds / ROUNDS)) for _ in range(ROUNDS)]
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    many = asyncio.run(stream(100, 100.0, options.seconds))
    os.sched_setaffinity(0, everywhere)
    rss = [float(idle_rss_bytes()) for _ in range(ROUNDS)]
    help_times = [help_ms() for _ in range(ROUNDS * 2)]
    p50, p50_spread = spread([r["p50_us"] for r in one])
    p99, p99_spread = spread([r["p99_us"] for r in one])
    found = {
        "one_agent": {"p50_us": p50, "p50_spread_us": p50_spread, "p99_us": p99, "p99_spread_us": p99_spread},
        "hundred_agents_one_core": many,
        "idle_rss_mb": spread([r / 1e6 for r in rss]),
        "help_ms": spread(help_times),
    }
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"one agent, 100 Hz       sample to decision  p50 {p50:7.1f} µs (spread {p50_spread:.1f})   "
        f"p99 {p99:7.1f} µs (spread {p99_spread:.1f})   mark: p50 <= 200"
    )
    print(
        f"100 agents, 100 Hz each, one core, {many['jails']} jails   {many['samples_per_s']} of {many['asked_per_s']} "
        f"samples/s   dropped {many['dropped']}   lost {many['lost']}   p50 {many['p50_us']:.0f} µs   "
        f"p99 {many['p99_us']:.0f} µs   CPU {many['cpu_percent']} %   mark: dropped 0"
    )
    print("idle supervisor         RSS {:.1f} MB (spread {:.1f})   mark: <= 60".format(*found["idle_rss_mb"]))
    print("edgeswarm --help        {:.0f} ms (spread {:.0f})   mark: <= 150".format(*found["help_ms"]))


if __name__ == "__main__":
    main()
