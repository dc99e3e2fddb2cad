"""What do many agents of one small net (4-8-2, sigmoid) cost on one device?  Ticks a second, memory each, start.

Isolated: 1,000 instances in one store, ticked by one call of the driver, in this process and in a jail (there and back,
as `Population.tick` with and without its checks and inputs); beside it the same kernels in a Python loop of prepared
calls, a store each.  Packed: the same agents in one memory.  Contestants take turns; printed are medians over the
rounds of the medians of each round's calls and, as noise, half the distance of the rounds' quartiles.
Then 10,000 isolated and 1,000,000 packed agents: memory by what the kernel says is held (each page once) and of page
tables, which nobody else counts, less a jail of one agent.

    python bench/population.py [--rounds 31] [--json]
"""

from __future__ import annotations

import argparse
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

import numpy as np

from edgeswarm.app.population import Population
from edgeswarm.compile import compile_mlp
from edgeswarm.compile.packed import driver_wasm
from edgeswarm.drivers.jail_population import PopulationLink, PopulationSpec, spans_of
from edgeswarm.drivers.jail_sync import SyncHost
from edgeswarm.drivers.jail_zygote import wasmtime_library
from edgeswarm.ids import JailId
from edgeswarm.jail import wasm
from edgeswarm.jail.table import Blame, Table, TableSpec
from edgeswarm.model import random_mlp, random_rows, reference

ROOT = Path(__file__).resolve().parents[1]
FEW, MANY, SWARM = 1_000, 10_000, 1_000_000
MODEL = random_mlp([4, 8, 2], "sigmoid", "sigmoid", seed=1)
LARGE, LARGE_COUNT = [784, 128, 64, 32, 10], 200
ROUND_NS = 4_000_000
TARGETS = {"ticks_per_s": 2_000_000, "aim_ticks_per_s": 3_900_000, "bytes_each": 30_000, "aim_bytes_each": 17_000}


class Local:
    """The agents in this process: a table behind the driver, and as many instances for a loop."""

    def __init__(self, rows: np.ndarray) -> None:
        engine = wasm.Engine(wasm.Library(wasmtime_library()))
        kernel = compile_mlp(MODEL, batch_max=1)
        layout = kernel.layout
        agent, driver = engine.compile(kernel.wasm), engine.compile(driver_wasm())
        places = (layout.input, layout.output)
        spec = PopulationSpec(
            name="local",
            count=FEW,
            cwasm=b"",
            driver=b"",
            spans=spans_of(*((place.offset, place.offset + 4 * place.width) for place in places)),
            weights=kernel.weights,
            weights_offset=layout.weights.offset,
            memory_bytes=layout.memory_bytes,
        )
        link = self._link = PopulationLink(JailId(0), spec)
        _, shared, _, _, _, payload = link.fds
        order = TableSpec.from_json(link.job["population"])
        self.table = Table(
            agent, driver, order, weights=memoryview(kernel.weights), shared_fd=shared, payload_fd=payload
        )
        self.blame = Blame()
        self.loop = [wasm.Instance(agent, memory_bytes_max=layout.memory_bytes) for _ in range(FEW)]
        at, out = layout.input.offset // 4, layout.output.offset // 4
        views = np.frombuffer(link.view, np.float32, FEW * spec.stride // 4, link.spans_at).reshape(FEW, -1)
        views[:, at : at + 4] = rows
        self.outputs = views[:, out : out + 2]
        for index, instance in enumerate(self.loop):
            instance.memory[layout.weights.offset : layout.weights.offset + layout.weights.size] = kernel.weights
            instance.floats[at : at + 4] = memoryview(rows[index].tobytes()).cast("f")
        self._out = out

    def looped(self) -> np.ndarray:
        """What the loop has answered."""
        return np.array([instance.floats[self._out : self._out + 2] for instance in self.loop], np.float32)

    def in_a_loop(self) -> None:
        for instance in self.loop:
            instance.run(1)


def take_turns(contestants: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, dict[str, float]]:
    """Agent ticks a second: {name: {median, noise}}; each contestant computes for about as long in every round."""
    calls: dict[str, int] = {}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for name, (run, _) in contestants.items():
        run()
        began = time.perf_counter_ns()
        run()
        calls[name] = max(1, ROUND_NS // max(1, time.perf_counter_ns() - began))
    for _ in range(rounds):
        for name, (run, count) in contestants.items():
            took_ns = []
            for _ in range(calls[name]):
                began = time.perf_counter_ns()
                run()
                took_ns.append(time.perf_counter_ns() - began)
            samples[name].append(count / statistics.median(took_ns) * 1e9)
    found = {}
    for name, values in samples.items():
        low, middle, high = statistics.quantiles(values, n=4)
        found[name] = {"median": middle, "noise": (high - low) / 2}
    return found


def speed(host: SyncHost, rounds: int) -> dict[str, dict[str, float]]:
    rows = random_rows(FEW, 4, seed=2)
    expected = reference.forward(MODEL, rows)
    local = Local(rows)
    with (
        Population(MODEL, FEW, host=host) as isolated,
        Population(MODEL, FEW, isolation="packed", host=host) as packed,
        Population(MODEL, MANY, host=host) as many,
        Population(MODEL, SWARM, isolation="packed", host=host) as swarm,
    ):
        for agents in (isolated, packed):
            assert np.abs(agents.tick(rows) - expected).max() < 1e-5
        for agents, count in ((many, MANY), (swarm, SWARM)):
            assert np.abs(agents.tick(np.tile(rows, (count // FEW, 1)))[-FEW:] - expected).max() < 1e-5
        local.table.tick(local.blame)
        local.in_a_loop()
        assert np.abs(local.outputs - expected).max() < 1e-5
        assert np.abs(local.looped() - expected).max() < 1e-5
        return take_turns(
            {
                f"{FEW:,} isolated: Python loop of prepared calls": (local.in_a_loop, FEW),
                f"{FEW:,} isolated: one call, this process": (lambda: local.table.tick(local.blame), FEW),
                f"{FEW:,} isolated: one call, in a jail": (isolated._members.population.tick, FEW),
                f"{FEW:,} isolated: Population.tick()": (isolated.tick, FEW),
                f"{FEW:,} isolated: Population.tick(rows)": (lambda: isolated.tick(rows), FEW),
                f"{MANY:,} isolated: Population.tick()": (many.tick, MANY),
                f"{FEW:,} packed: one call, in a jail": (packed._members.population.tick, FEW),
                f"{FEW:,} packed: Population.tick()": (packed.tick, FEW),
                f"{SWARM:,} packed: one call, in a jail": (swarm._members.population.tick, SWARM),
                f"{SWARM:,} packed: Population.tick()": (swarm.tick, SWARM),
            },
            rounds,
        )


def memory(host: SyncHost, count: int, isolation: str, repeats: int) -> dict[str, Any]:
    """Bytes of each agent once it has been ticked, and how long the jail took to make them."""
    ready, load, found = [], [], {}
    with Population(MODEL, 1, isolation=isolation, host=host) as alone:
        alone.tick()
        base = alone.memory()
    for _ in range(repeats):
        with Population(MODEL, count, isolation=isolation, host=host) as agents:
            agents.tick()
            found = agents.memory()
            ready.append(agents.started_ms)
            load.append(agents._members.population.load_ms)
    each = {name: (found[name] - base[name]) / count for name in ("held", "page_tables")}
    return {
        "agents": count,
        "isolation": isolation,
        "held_each": round(each["held"]),
        "page_tables_each": round(each["page_tables"]),
        "each": round(sum(each.values())),
        "held_total": found["held"],
        "ready_ms": round(statistics.median(ready), 1),
        "instantiate_us_each": round(statistics.median(load) * 1000 / count, 2),
    }


def sharing(host: SyncHost) -> list[dict[str, Any]]:
    """Bytes held by each of LARGE_COUNT larger nets: weights as they came, then each agent's written anew."""
    model = random_mlp(LARGE, "relu", "softmax", seed=1)
    rows = random_rows(LARGE_COUNT, LARGE[0], seed=2)
    found = []
    with Population(model, LARGE_COUNT, host=host) as agents:
        for label in ("shared", "each its own"):
            assert np.abs(agents.tick(rows) - reference.forward(model, rows)).max() < 1e-5
            each = agents.memory()["held"] // LARGE_COUNT
            found.append({"weights": label, "weights_bytes": 4 * model.parameters, "held_each": each})
            for agent in range(LARGE_COUNT):
                agents.set_weights(agent, model)
    return found


def machine() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return {
        "machine": platform.machine(),
        "processor": names[0] if names else "",
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31, help="rounds of all contestants in turn (default 31)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        SyncHost(policy_dir=ROOT / "sandbox", cache_dir=Path(folder), mac_key=bytes(32)) as host,
    ):
        held = [memory(host, MANY, "instance", 3), memory(host, SWARM, "packed", 3), memory(host, FEW, "instance", 3)]
        large = sharing(host)
        ticks = speed(host, max(2, options.rounds))
    where = machine()
    if options.json:
        print(
            json.dumps(
                {"where": where, "ticks_per_s": ticks, "memory": held, "sharing": large, "targets": TARGETS}, indent=1
            )
        )
        return
    cores = f"{where['cores']} cores, load {where['load']}"
    print(f"{where['processor']}, {cores}, {where['machine']}, Linux {where['kernel']}")
    print(f"\n{'4-8-2, sigmoid':<52}{'M ticks/s':>10}  noise")
    for name, found in ticks.items():
        print(f"{name:<52}{found['median'] / 1e6:>10.2f}  ±{found['noise'] / 1e6:.2f}")
    print(f"\n{'agents':<22}{'held':>10}{'page tables':>13}{'together':>10}{'ready':>12}{'making each':>13}")
    for one in held:
        label = f"{one['agents']:,} {one['isolation']}"
        print(
            f"{label:<22}{one['held_each']:>8} B{one['page_tables_each']:>11} B{one['each']:>8} B"
            f"{one['ready_ms']:>9} ms{one['instantiate_us_each']:>10} µs"
        )
    net = f"{'-'.join(map(str, LARGE))}, {large[0]['weights_bytes']:,} bytes of weights"
    print(f"\n{LARGE_COUNT} isolated agents of {net}:")
    for one in large:
        print(f"  weights {one['weights']:<14}{one['held_each']:>9,} B each, the jail's interpreter included")


if __name__ == "__main__":
    main()
