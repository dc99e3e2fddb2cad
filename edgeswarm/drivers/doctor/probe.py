"""The program that tries everything: started by `examine` as a process of its own, single-threaded, JSON on stdout.

A supervisor has threads and must not fork; this has none.  The layers are tried as the user that a jail would run as,
the rest as the user that asked.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from edgeswarm.assets import asset
from edgeswarm.drivers.doctor import layers, machine
from edgeswarm.drivers.doctor.child import Outcome, Trial, try_all
from edgeswarm.drivers.jail_policy import load_policies
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.jail import kernel, tiers
from edgeswarm.jail.zygote import forget_signals, user_of


def layer_trials(run_as: tuple[int, int] | None) -> dict[str, Trial]:
    """Every layer on its own, in the order in which a jail enters them."""

    def jail_user() -> str:
        return f"jails run as user {run_as[0]}" if run_as else "jails run as this user"

    attempts = {"jail_user": jail_user}
    attempts |= {f"namespace_{name}": layers.namespace(name) for name in kernel.NAMESPACE_FLAGS}
    attempts |= {
        "capabilities": layers.capabilities,
        "data_limit": layers.data_limit,
        "memfd_sealed": layers.memfd,
        "pidfd": layers.pidfd,
        "peer_credentials": layers.peer_credentials,
    }
    return {name: Trial(attempt, run_as) for name, attempt in attempts.items()}


def filter_trial(run_as: tuple[int, int] | None) -> Trial:
    """The committed filters; what is wrong with the files themselves shows as a refusal too."""
    try:
        strict = load_policies(asset("sandbox"))["strict"]
    except (EdgeSwarmError, KeyError) as error:
        text = f"policy strict: {error}"

        def attempt() -> str:
            raise machine.ProbeError(text)

        return Trial(attempt)
    return Trial(layers.filters((strict.stage_1, strict.stage_2)), run_as)


def machine_trials(wanted: Mapping[str, Any]) -> dict[str, dict[str, Trial]]:
    """wanted: what the settings say of delegates (packages, library, options)."""
    groups = machine.own_groups()
    controllers = [name for name in ("memory", "pids", "cpu") if name in groups]
    cgroups = {f"v1_{name}": Trial(machine.cgroup_v1(name, groups[name])) for name in controllers}
    if "" in groups:
        cgroups["v2"] = Trial(machine.cgroup_v2(groups[""]))
    delegates = {
        "litert": Trial(machine.delegate("litert", packages=wanted["packages"])),
        "tflite": Trial(machine.delegate("tflite", packages=wanted["packages"])),
        "gpu": Trial(machine.delegate("gpu", packages=wanted["packages"], driver=wanted["gpu_driver"])),
        "npu": Trial(machine.delegate("npu", packages=wanted["packages"], driver=wanted["npu_dispatch"])),
        "gpu_nodes": Trial(machine.gpu_nodes),
        "vulkan": Trial(machine.vulkan),
        "cuda": Trial(machine.cuda),
    }
    if wanted["library"]:
        library, options = wanted["library"], tuple(wanted["options"])
        external = machine.delegate("external", packages=wanted["packages"], library=library, options=options)
        delegates["external"] = Trial(external)
    return {"wasmtime": {"wasmtime": Trial(machine.wasmtime)}, "cgroups": cgroups, "delegates": delegates}


def probe(seconds_max: float, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, as plain values."""
    run_as = user_of(0)
    together = tiers.try_layers(run_as)
    tried = {name: Outcome(item.ok, re.sub(r"^\[Errno \d+\] ", "", item.detail)) for name, item in together.items()}
    trials = {"layers": {"seccomp_filters": filter_trial(run_as), **layer_trials(run_as)}, **machine_trials(wanted)}
    flat = {f"{area}/{name}": trial for area, area_trials in trials.items() for name, trial in area_trials.items()}
    found = try_all(flat, seconds_max=seconds_max)
    areas: dict[str, dict[str, Outcome]] = {area: {} for area in trials}
    for path, outcome in found.items():
        area, _, name = path.partition("/")
        areas[area][name] = outcome
    areas["layers"] = {"jail_user": areas["layers"]["jail_user"]} | tried | areas["layers"]
    return {
        "tier": tiers.tier_of(together),
        **{area: _plain(outcomes) for area, outcomes in areas.items()},
    }


def _plain(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    return {name: [item.ok, item.detail, item.number] for name, item in outcomes.items()}


def main() -> None:
    forget_signals()
    sys.stdout.write(json.dumps(probe(float(sys.argv[1]), json.loads(sys.argv[2]))))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
