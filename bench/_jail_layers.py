"""What each layer of a jail costs: jails that lack it, in turns with whole ones, by the worker of `sandbox probe`."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import jail_kernels as k

from edgeswarm.drivers.jail_link import JailLink, KernelSpec
from edgeswarm.drivers.jail_sync import SyncHost, SyncJail
from edgeswarm.drivers.jail_zygote import Program
from edgeswarm.jail import probes

WORKER = "edgeswarm.jail.probe_worker"
CALLS, CALLS_WARM = 2_000, 200


def layers(folder: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Layer left out -> time to ready (ms) and time of a call of one row there and back (us), medians of the rounds."""
    names = {"every layer": ()} | {f"without {name}": (name,) for name in probes.LAYERS}
    names["without any but descriptors"] = tuple(name for name in probes.LAYERS if name != "descriptors")
    ready: dict[str, list[float]] = {name: [] for name in names}
    calls: dict[str, list[float]] = {name: [] for name in names}
    program = Program(worker=WORKER)
    with SyncHost(policy_dir=k.SANDBOX, cache_dir=folder, mac_key=bytes(32), program=program) as host:
        spec = k.moody_spec(host.compile(k.assemble(k.MOODY)))
        for number in range(rounds + 1):
            for name, without in names.items():
                with _spawn(host, spec, without) as jail:
                    if number:  # the first round warms
                        ready[name].append(jail.started_ms)
                        calls[name].append(_call_us(jail))
    return {name: {"ready_ms": _summary(ready[name]), "call_us": _summary(calls[name])} for name in names}


def _spawn(host: SyncHost, spec: KernelSpec, without: tuple[str, ...]) -> SyncJail:
    link = JailLink(host.next_id(), [spec])
    link.job["probe"] = {"name": "", "without": list(without), "sibling": 1, "supervisor": os.getpid()}
    jail = SyncJail(host, link, "strict")
    host._jails.append(jail)
    return jail


def _call_us(jail: SyncJail) -> float:
    """The median call of this jail."""
    payload, took = k.row(k.ADD), []
    for number in range(CALLS_WARM + CALLS):
        began = time.perf_counter_ns()
        jail.call(0, payload)
        if number >= CALLS_WARM:
            took.append(time.perf_counter_ns() - began)
    return statistics.median(took) / 1000


def _summary(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 3), "noise": round((high - low) / 2, 3), "count": len(values)}
