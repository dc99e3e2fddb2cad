"""What does it cost to ask a jail?  One row there and back, and batches of small rows, beside the kernel alone.

"kernel" is the same prepared call in this process, without a jail.  "lock-step" asks again as soon as the answer is
there (then both sides look before they sleep), "paced" asks every 5 ms, so that each side sleeps and has to be woken:
what a sensor sees.  "two bare processes" is the floor: eight bytes through a pipe and back, between two Pythons that do
nothing else, lock-step and paced.  All contestants take turns; medians over all samples, noise is half the distance of
the quartiles of the rounds' medians.

    python bench/roundtrip.py [--rounds 15] [--json]
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgeswarm.compile import compile_mlp
from edgeswarm.drivers.jail_link import JailLink
from edgeswarm.drivers.jail_sync import SyncHost, SyncJail
from edgeswarm.drivers.jail_zygote import wasmtime_library
from edgeswarm.drivers.jails import JailHost, KernelSpec, Reply
from edgeswarm.ids import JailId
from edgeswarm.jail import wasm
from edgeswarm.jail.agent import Agent, AgentSpec, Ticks
from edgeswarm.model import random_mlp

ROOT = Path(__file__).resolve().parents[1]
LARGE, SMALL = "784-128-64-32-10", "4-8-3"
BATCH = 256
CALLS = 400
CALLS_PACED = 40
PACE_S = 0.005
DEPTH = 4  # frames in flight when a stream of batches is pipelined


class Pair:
    """Another Python that sends back whatever comes."""

    def __init__(self) -> None:
        there, self._there = os.pipe()
        self._back, back = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._there)
            while word := os.read(there, 8):
                os.write(back, word)
            os._exit(0)
        os.close(there)
        os.close(back)

    def call(self) -> None:
        os.write(self._there, b"12345678")
        os.read(self._back, 8)

    def close(self) -> None:
        os.close(self._there)
        os.waitpid(self._pid, 0)


def timed(call: Callable[[], object], count: int, *, pace_s: float = 0.0) -> list[float]:
    """Microseconds of each call."""
    found = []
    for _ in range(count):
        if pace_s:
            time.sleep(pace_s)
        began = time.perf_counter_ns()
        call()
        found.append((time.perf_counter_ns() - began) / 1000)
    return found


class Local:
    """The kernel in this process, prepared as the jail's worker prepares it."""

    def __init__(self, engine: wasm.Engine, spec: KernelSpec, module: bytes) -> None:
        link = JailLink(JailId(0), [spec])
        settings = AgentSpec.from_json(link.job["agents"][0])
        link.close()
        self._words = memoryview(bytearray(16)).cast("Q")
        loaded = engine.load(engine.compile(module).serialize())
        self.agent = Agent(loaded, settings, weights=spec.weights, ticks=Ticks(), running=self._words)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = SyncHost(policy_dir=ROOT / "sandbox", cache_dir=folder, mac_key=bytes(32))
        self.models = {
            name: compile_mlp(random_mlp([int(w) for w in name.split("-")], "sigmoid", "sigmoid", seed=1))
            for name in (LARGE, SMALL)
        }
        self.specs = {
            name: KernelSpec(0, "mlp", self.host.compile(kernel.wasm), kernel.layout, kernel.weights)
            for name, kernel in self.models.items()
        }
        engine = wasm.Engine(wasm.Library(wasmtime_library()))
        self.local = {name: Local(engine, self.specs[name], kernel.wasm) for name, kernel in self.models.items()}
        self.jails: dict[str, SyncJail] = {name: self.host.spawn([spec]) for name, spec in self.specs.items()}
        self.pair = Pair()

    def close(self) -> None:
        self.pair.close()
        self.host.close()

    def singles(self, rounds: int) -> dict[str, dict[str, float]]:
        rows = {name: bytes(spec.frame_bytes) for name, spec in self.specs.items()}
        views = {name: memoryview(row) for name, row in rows.items()}
        contestants: dict[str, tuple[Callable[[], object], float]] = {
            "two bare processes, lock-step": (self.pair.call, 0.0),
            "two bare processes, paced": (self.pair.call, PACE_S),
        }
        for name in self.specs:
            contestants[f"{name}: kernel"] = (lambda n=name: self.local[n].agent.run(views[n]), 0.0)
            contestants[f"{name}: kernel, paced"] = (lambda n=name: self.local[n].agent.run(views[n]), PACE_S)
            contestants[f"{name}: jail, lock-step"] = (lambda n=name: self.jails[n].call(0, rows[n]), 0.0)
            contestants[f"{name}: jail, paced"] = (lambda n=name: self.jails[n].call(0, rows[n]), PACE_S)
        return take_turns(contestants, rounds)

    def batches(self, rounds: int) -> dict[str, dict[str, float]]:
        """Nanoseconds a request, small rows in frames of 256."""
        spec, jail, agent = self.specs[SMALL], self.jails[SMALL], self.local[SMALL].agent
        frame = bytes(BATCH * spec.frame_bytes)
        view = memoryview(frame)
        many = frame * 64
        found = take_turns(
            {
                "kernel": (lambda: agent.run_batch(view, BATCH), 0.0),
                "one frame, lock-step": (lambda: jail.call(0, frame, BATCH), 0.0),
                f"a stream, {DEPTH} frames in flight": (lambda: stream(jail, frame, 64), 0.0),
                "64 frames' rows in one call": (lambda: jail.call(0, many, 64 * BATCH), 0.0),
            },
            rounds,
            counts={f"a stream, {DEPTH} frames in flight": 10, "64 frames' rows in one call": 10},
        )
        for name, item in found.items():
            rows = BATCH * (64 if "64" in name or "stream" in name else 1)
            for key in ("median", "noise", "p99"):
                item[key] = round(item[key] * 1000 / rows, 1)
        return found


def stream(jail: SyncJail, frame: bytes, count: int) -> None:
    """`count` frames with at most DEPTH in flight, through the link itself."""
    link = jail._link
    sent = done = 0
    while done < count:
        while sent < count and link.in_flight < DEPTH:
            jail._seq += 1
            if not link.submit(0, jail._seq, BATCH, frame):
                break
            sent += 1
        done += len(jail._answers())


def take_turns(
    contestants: dict[str, tuple[Callable[[], object], float]], rounds: int, *, counts: dict[str, int] | None = None
) -> dict[str, dict[str, float]]:
    samples: dict[str, list[list[float]]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, (call, pace_s) in contestants.items():
            count = (counts or {}).get(name, CALLS_PACED if pace_s else CALLS)
            values = timed(call, count, pace_s=pace_s)
            if number:
                samples[name].append(values)
    found = {}
    for name, lists in samples.items():
        everything = sorted(value for values in lists for value in values)
        low, _, high = statistics.quantiles([statistics.median(values) for values in lists], n=4)
        found[name] = {
            "median": round(statistics.median(everything), 2),
            "noise": round((high - low) / 2, 2),
            "p99": round(everything[int(len(everything) * 0.99)], 2),
        }
    return found


async def in_a_loop(folder: Path, spec: KernelSpec, rounds: int) -> dict[str, dict[str, float]]:
    """The same under asyncio, as the supervisor asks: submit, and the answer comes to a callback."""
    host = JailHost(policy_dir=ROOT / "sandbox", cache_dir=folder, mac_key=bytes(32))
    await host.start()
    row = bytes(spec.frame_bytes)
    arrived: asyncio.Future[int]

    def on_reply(_: Reply) -> None:
        arrived.set_result(time.perf_counter_ns())

    jail = await host.spawn([spec], on_reply=on_reply, on_exit=lambda _: None)
    lists: dict[float, list[list[float]]] = {0.0: [], PACE_S: []}
    seq = 0
    for number in range(rounds + 1):
        for pace_s, found in lists.items():
            values = []
            for _ in range(CALLS_PACED if pace_s else CALLS):
                if pace_s:
                    await asyncio.sleep(pace_s)
                arrived = asyncio.get_running_loop().create_future()
                seq += 1
                began = time.perf_counter_ns()
                jail.submit(0, seq, 1, row)
                values.append((await arrived - began) / 1000)
            if number:
                found.append(values)
    await host.close()
    result = {}
    for pace_s, found in lists.items():
        everything = sorted(value for values in found for value in values)
        low, _, high = statistics.quantiles([statistics.median(values) for values in found], n=4)
        result[f"{LARGE}: jail under asyncio, {'paced' if pace_s else 'lock-step'}"] = {
            "median": round(statistics.median(everything), 2),
            "noise": round((high - low) / 2, 2),
            "p99": round(everything[int(len(everything) * 0.99)], 2),
        }
    return result


def bench(rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        run = Bench(Path(name))
        try:
            singles, batches = run.singles(rounds), run.batches(rounds)
        finally:
            run.close()
        singles |= asyncio.run(in_a_loop(Path(name), run.specs[LARGE], rounds))
    return {
        "machine": f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}",
        "cores": len(os.sched_getaffinity(0)),
        "tier": run.host.tier,
        "single_us": singles,
        "over_the_kernel_us": {
            name: round(item["median"] - kernel_of(name, singles), 2)
            for name, item in singles.items()
            if ": jail" in name
        },
        "batch_ns_per_request": batches,
    }


def kernel_of(name: str, singles: dict[str, dict[str, float]]) -> float:
    """The kernel alone, called at the same pace: caches cool down between paced calls."""
    network = name.split(":", maxsplit=1)[0]
    return singles[f"{network}: kernel, paced" if name.endswith("paced") else f"{network}: kernel"]["median"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="rounds of all contestants in turn (default 15)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = bench(max(2, options.rounds))
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['machine']}, {found['cores']} cores, tier {found['tier']}; medians, ± half the quartile distance")
    print(f"\n{'one row there and back':<52}{'µs':>18}{'p99':>9}{'over the kernel':>17}")
    for name, item in found["single_us"].items():
        over = found["over_the_kernel_us"].get(name)
        text = f"{over:>17.1f}" if over is not None else ""
        print(f"{name:<52}{item['median']:>10.2f} ±{item['noise']:<6.2f}{item['p99']:>9.1f}{text}")
    print(f"\n{SMALL + ', frames of 256 rows':<52}{'ns/row':>18}{'p99':>9}")
    for name, item in found["batch_ns_per_request"].items():
        print(f"{name:<52}{item['median']:>10.1f} ±{item['noise']:<6.1f}{item['p99']:>9.1f}")


if __name__ == "__main__":
    main()
