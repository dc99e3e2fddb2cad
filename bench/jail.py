"""What does a jail cost?  Time to ready, the price of each layer, memory of 100 jails, time until a death is reported.

Contestants for "ready", in turns within one run: a jail of policy `strict` with every layer (and with fewer), a cold
`python -I -S` that loads the same compiled kernel and calls it once without any jail, the same through the wasmtime
package's own wrappers, and bubblewrap around the cold Python.  Medians of the rounds; noise is half the distance of
the quartiles.  The 99th percentile of "ready" and of deaths comes from as many more jails as --tail says.
Layers: each left out of the plan in turn (`bench/_jail_layers.py`); what that saves is its price.

    python bench/jail.py [--rounds 41] [--tail 200] [--jails 100] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import jail_kernels  # noqa: E402
from _jail_layers import layers  # noqa: E402

from edgeswarm.compile import Kernel, compile_mlp  # noqa: E402
from edgeswarm.drivers.jail_zygote import wasmtime_library  # noqa: E402
from edgeswarm.drivers.jails import JailExit, JailHost, KernelSpec  # noqa: E402
from edgeswarm.model import random_mlp  # noqa: E402

SIZES = [784, 128, 64, 32, 10]
TAIL_MIN = 100
"""Fewer samples have no 99th percentile."""

COLD = """
import sys
sys.path[:0] = [sys.argv[1]]
import mmap
from edgeswarm.jail import wasm
engine = wasm.Engine(wasm.Library(sys.argv[2]))
module = engine.load(open(sys.argv[3], "rb").read())
wasm.check_abi(module)
instance = wasm.Instance(module, memory_bytes_max=int(sys.argv[6]))
weights = open(sys.argv[4], "rb").read()
at = int(sys.argv[5])
instance.memory[at : at + len(weights)] = weights
assert not instance.run(1) and not instance.run_batch(1)
sys.stdout.write("ready")
sys.stdout.flush()
sys.stdin.read()
"""

COLD_PACKAGE = """
import sys
import wasmtime
sys.path[:0] = [sys.argv[1]]
from edgeswarm.jail.engine import SETTINGS
config = wasmtime.Config()
for name, value in SETTINGS.items():
    setattr(config, name, value)
engine = wasmtime.Engine(config)
module = wasmtime.Module.deserialize(engine, open(sys.argv[3], "rb").read())
store = wasmtime.Store(engine)
store.set_epoch_deadline(1)
exports = wasmtime.Instance(store, module, []).exports(store)
exports["memory"].write(store, open(sys.argv[4], "rb").read(), int(sys.argv[5]))
exports["run"](store)
exports["run_batch"](store, 1)
sys.stdout.write("ready")
sys.stdout.flush()
sys.stdin.read()
"""

BWRAP = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--ro-bind", "/", "/"]


def summary(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    found = {"median": round(middle, 3), "noise": round((high - low) / 2, 3), "count": len(values)}
    if len(values) >= TAIL_MIN:
        found["p99"] = round(sorted(values)[math.ceil(len(values) * 0.99) - 1], 3)
    return found


def process_ms(command: list[str]) -> float:
    """From the start of a command to its "ready"."""
    began = time.perf_counter_ns()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.read(5) != b"ready":
            raise SystemExit(f"{command[0]} did not become ready")
        return (time.perf_counter_ns() - began) / 1e6


class Bench:
    """Hosts of two tiers, one compiled kernel, and every way to get it ready."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernel: Kernel = compile_mlp(random_mlp(SIZES, "sigmoid", "sigmoid", seed=1))
        self.hosts: dict[str, JailHost] = {}
        self.specs: dict[str, KernelSpec] = {}
        self.exits: asyncio.Queue[JailExit] = asyncio.Queue()

    async def start(self) -> None:
        for tier in ("A", "B", "C"):
            host = JailHost(policy_dir=ROOT / "sandbox", cache_dir=self.folder, mac_key=bytes(32))
            await host.start()
            if host.tier > tier:
                await host.close()
                continue
            await host.close()
            host = JailHost(policy_dir=ROOT / "sandbox", cache_dir=self.folder, mac_key=bytes(32), tier=tier)
            await host.start()
            code = await host.compile(self.kernel.wasm)
            self.hosts[tier] = host
            self.specs[tier] = KernelSpec(0, "mlp", code, self.kernel.layout, self.kernel.weights)
            (self.folder / "code").write_bytes(code)
        (self.folder / "weights").write_bytes(self.kernel.weights)

    async def close(self) -> None:
        for host in self.hosts.values():
            await host.close()

    async def jail_ms(self, tier: str) -> float:
        jail = await self.hosts[tier].spawn([self.specs[tier]], on_reply=print, on_exit=lambda _: None)
        await jail.close()
        return jail.started_ms

    def cold(self, text: str, *flags: str) -> list[str]:
        layout = self.kernel.layout
        places = [self.folder / "code", self.folder / "weights", layout.weights.offset, layout.memory_bytes]
        return [sys.executable, *flags, "-c", text, str(ROOT), wasmtime_library(), *map(str, places)]

    def contestants(self) -> dict[str, Callable[[], Awaitable[float]]]:
        def process(command: list[str]) -> Callable[[], Awaitable[float]]:
            async def run() -> float:
                return process_ms(command)

            return run

        def jail(tier: str) -> Callable[[], Awaitable[float]]:
            return lambda: self.jail_ms(tier)

        lean = self.cold(COLD, "-I", "-S")
        found = {f"jail, tier {tier}": jail(tier) for tier in self.hosts}
        found["cold Python, no jail"] = process(lean)
        found["cold Python, wasmtime package, no jail"] = process(self.cold(COLD_PACKAGE, "-I"))
        bwrap = shutil.which("bwrap")
        if bwrap:
            found["bubblewrap + cold Python"] = process([bwrap, *BWRAP, *lean])
            found["bubblewrap + cold Python, wasmtime package"] = process(
                [bwrap, *BWRAP, *self.cold(COLD_PACKAGE, "-I")]
            )
        return found

    async def ready(self, rounds: int) -> dict[str, dict[str, float]]:
        contestants = self.contestants()
        samples: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(rounds + 2):
            for name, run in contestants.items():
                value = await run()
                if number >= 2:
                    samples[name].append(value)
        return {name: summary(values) for name, values in samples.items()}

    async def memory(self, count: int) -> dict[str, Any]:
        """Of `count` living jails, each after some calls."""
        tier = min(self.hosts)
        host, spec = self.hosts[tier], self.specs[tier]
        jails = [await host.spawn([spec], on_reply=lambda _: None, on_exit=lambda _: None) for _ in range(count)]
        for jail in jails:
            for seq in range(10):
                jail.submit(0, seq, 1, bytes(spec.frame_bytes))
            await jail.ping(0)
        found = {
            "jails": count,
            "tier": tier,
            "private_mib": summary([jail.memory_bytes() / (1 << 20) for jail in jails]),
            "of_which_kernel_mib": round(self.kernel.layout.memory_bytes / (1 << 20), 3),
            "proportional_mib": summary([rollup(jail.pid, "Pss") / 1024 for jail in jails]),
            "resident_mib": summary([rollup(jail.pid, "Rss") / 1024 for jail in jails]),
            "zygote_resident_mib": round(rollup(host.zygote_pid, "Rss") / 1024, 1),
            "request_to_ready_ms": summary([jail.started_ms for jail in jails]),
        }
        await asyncio.gather(*(jail.close() for jail in jails))
        return found

    async def tail(self, rounds: int) -> dict[str, float]:
        """Request to ready of the full jail, one at a time."""
        tier = min(self.hosts)
        return summary([await self.jail_ms(tier) for _ in range(rounds)])

    async def deaths(self, rounds: int) -> dict[str, dict[str, float]]:
        """Milliseconds from SIGKILL of a jail in an endless call to the end of its socket, and to the host's word."""
        host = self.hosts[min(self.hosts)]
        code = await host.compile(jail_kernels.assemble(jail_kernels.MOODY))
        spec = jail_kernels.moody_spec(code, deadline_ms=60_000)
        seen: list[float] = []
        told: list[float] = []
        for _ in range(rounds):
            jail = await host.spawn([spec], on_reply=print, on_exit=self.exits.put_nowait)
            assert jail.submit(0, 1, 1, jail_kernels.row(jail_kernels.SPIN))
            await asyncio.sleep(0.005)
            end, at = jail._end, [0]

            def ended(end: Callable[[], None] = end, at: list[int] = at) -> None:
                at[0] = time.perf_counter_ns()
                end()

            jail._end = ended  # type: ignore[method-assign]
            began = time.perf_counter_ns()
            jail.kill()
            assert (await self.exits.get()).signal == 9
            told.append((time.perf_counter_ns() - began) / 1e6)
            seen.append((at[0] - began) / 1e6)
        return {"SIGKILL of a spinning jail, seen": summary(seen), "the same, and how it ended": summary(told)}


def rollup(pid: int, key: str) -> int:
    """KiB from smaps_rollup."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) for kib in re.findall(rf"^{key}: +(\d+) kB$", text, re.MULTILINE))


async def bench(rounds: int, jails: int, tail: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = Bench(Path(folder))
        await run.start()
        try:
            return {
                "machine": f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}",
                "cores": len(os.sched_getaffinity(0)),
                "user": "root" if os.geteuid() == 0 else "ordinary",
                "bubblewrap": shutil.which("bwrap") is not None,
                "ready_ms": await run.ready(rounds),
                "tail_ms": await run.tail(tail),
                "memory": await run.memory(jails),
                "deaths_ms": await run.deaths(tail),
                "layers": layers(run.folder, rounds),
            }
        finally:
            await run.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41, help="rounds of all contestants in turn (default 41)")
    parser.add_argument("--jails", type=int, default=100, help="living jails for the memory table (default 100)")
    parser.add_argument("--tail", type=int, default=200, help="more jails, for the 99th percentiles (default 200)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = asyncio.run(bench(max(2, options.rounds), max(2, options.jails), max(TAIL_MIN, options.tail)))
    if options.json:
        print(json.dumps(found, indent=1))
        return
    show(found)


def show(found: dict[str, Any]) -> None:
    print(f"{found['machine']}, {found['cores']} cores, {found['user']}; medians, ± half the quartile distance")
    base = min(item["median"] for name, item in found["ready_ms"].items() if name.startswith("jail, tier A"))
    print(f"\n{'request to ready, 784-128-64-32-10':<46}{'ms':>20}{'over a jail':>13}")
    for name, item in found["ready_ms"].items():
        print(f"{name:<46}{item['median']:>11.2f} ±{item['noise']:<6.2f}{item['median'] / base:>12.1f}x")
    tail = found["tail_ms"]
    label = f"the full jail, {tail['count']} in a row: p50, p99"
    print(f"{label:<46}{tail['median']:>11.2f}{tail['p99']:>8.2f}")
    if not found["bubblewrap"]:
        print("bubblewrap is not installed: not measured")
    memory = found["memory"]
    print(f"\n{'memory of ' + str(memory['jails']) + ' jails, each':<46}{'MiB':>20}")
    for key, text in (
        ("private_mib", f"private (USS), of which its kernel's {memory['of_which_kernel_mib']}"),
        ("proportional_mib", "proportional (PSS)"),
        ("resident_mib", "resident, mostly shared with the zygote"),
    ):
        print(f"{text:<46}{memory[key]['median']:>11.2f} ±{memory[key]['noise']:<6.2f}")
    print(f"{'the zygote, resident':<46}{memory['zygote_resident_mib']:>11.2f}")
    ready = memory["request_to_ready_ms"]
    print(f"{'request to ready while they came, ms':<46}{ready['median']:>11.2f} ±{ready['noise']:<6.2f}")
    print(f"\n{'deaths':<46}{'p50 ms':>11}{'p99 ms':>9}")
    for name, item in found["deaths_ms"].items():
        print(f"{name:<46}{item['median']:>11.2f}{item['p99']:>9.2f}")
    print(f"\n{'price of a layer':<46}{'ready ms':>17}{'price':>8}{'call us':>10}{'price':>8}")
    whole = found["layers"]["every layer"]
    for name, item in found["layers"].items():
        ready_ms, call_us = item["ready_ms"], item["call_us"]
        price = "" if item is whole else f"{whole['ready_ms']['median'] - ready_ms['median']:+.2f}"
        steady = "" if item is whole else f"{whole['call_us']['median'] - call_us['median']:+.2f}"
        print(
            f"{name:<46}{ready_ms['median']:>9.2f} ±{ready_ms['noise']:<6.2f}{price:>8}"
            f"{call_us['median']:>10.2f}{steady:>8}"
        )


if __name__ == "__main__":
    main()
