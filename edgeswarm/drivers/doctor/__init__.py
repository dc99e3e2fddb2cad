"""What this machine can do: every layer, cgroup, delegate and firmware piece, tried for real.

`examine` starts a program of its own (`probe.py`) that forks a child for each trial, so that it may be called from a
supervisor with threads; settings are read only to explain a refusal, never to predict one.
Invariants: the tier is what the jails' own trial says (`jail.tiers`); whatever is not ok has an advice; no advice
weakens the machine; it ends within the time given, whatever hangs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgeswarm.drivers import firmware
from edgeswarm.drivers.doctor import advice
from edgeswarm.drivers.doctor.advice import Facts

__all__ = ["Check", "Report", "Wanted", "examine", "text"]

Tier = Literal["A", "B", "C", "D"]
State = Literal["ok", "missing", "unknown", "not_here"]

TIERS: dict[Tier, str] = {
    "A": "every layer: namespaces, Landlock, seccomp",
    "B": "Landlock and seccomp, no namespaces",
    "C": "no Landlock: seccomp and limits, and namespaces where they work",
    "D": "nothing can be jailed here, so nothing runs",
}
SECONDS_MAX = 10.0
"""For one trial; they run side by side.  Ten seconds is a Pi Zero that imports wasmtime from a cold card."""

_BOOT = "import sys; sys.path[:0] = sys.argv[3:]; from edgeswarm.drivers.doctor.probe import main; main()"
SYSCTLS = (
    "kernel.apparmor_restrict_unprivileged_userns",
    "kernel.unprivileged_userns_clone",
    "user.max_user_namespaces",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing tried.  advice: what to do about it, "" when it is ok or does not apply."""

    ok: bool
    detail: str
    advice: str = ""
    state: State = "ok"


@dataclass(frozen=True, slots=True)
class Report:
    """What `edgeswarm doctor` shows; `dataclasses.asdict` makes JSON of it."""

    tier: Tier
    tier_text: str
    machine: dict[str, str]
    layers: dict[str, Check]
    cgroups: dict[str, Check]
    wasmtime: Check
    delegates: dict[str, Check]
    firmware: dict[str, Check]
    took_ms: int

    @property
    def degraded(self) -> bool:
        """Agents can run, without all of the layers: on their operator's word (`min_tier`)."""
        return self.tier in ("B", "C")

    @property
    def can_run(self) -> bool:
        """Agents can run here at all."""
        return self.tier != "D" and self.wasmtime.ok and self.layers["seccomp_filters"].ok


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a device's settings say of delegates (`drivers.profiles.Delegates`)."""

    packages: str = ""
    library: str = ""
    options: tuple[str, ...] = ()
    gpu_driver: str = ""
    npu_dispatch: str = ""


NOTHING_WANTED = Wanted()


def examine(
    *, seconds_max: float = SECONDS_MAX, python: str = sys.executable, wanted: Wanted = NOTHING_WANTED
) -> Report:
    """Try everything.  Blocks for some 0.5 s on a PC, 1 s with a delegate; call it in a thread from asyncio.

    seconds_max: for each trial; they run side by side.  Raises nothing for what it finds.
    """
    began = time.monotonic()
    facts = read_facts()
    found = _run_probe(seconds_max, python, wanted)
    report = judge(found, facts)
    pieces = {
        (name if target == "linux" else f"{target}: {name}"): _from_finding(finding)
        for target in firmware.here()
        for name, finding in firmware.check(target).items()
    }
    took_ms = round((time.monotonic() - began) * 1000)
    return Report(
        tier=report.tier,
        tier_text=TIERS[report.tier],
        machine=_machine(facts),
        layers=report.layers,
        cgroups=report.cgroups,
        wasmtime=report.wasmtime,
        delegates=report.delegates,
        firmware=pieces,
        took_ms=took_ms,
    )


def judge(found: dict[str, Any], facts: Facts) -> Report:
    """A probe's plain answer as a report, with advice for what is not there; machine and firmware are left empty."""

    def checks(area: str, advise: Any) -> dict[str, Check]:
        return {
            name: Check(True, detail) if ok else Check(False, detail, advise(name, number, detail), "missing")
            for name, (ok, detail, number) in found[area].items()
        }

    def layer_advice(name: str, number: int, detail: str) -> str:
        if not found["layers"].get("jail_user", (True,))[0]:
            return advice.for_jail_user(name)
        return advice.for_layer(name, number, detail, facts)

    tier: Tier = found["tier"]
    has_v1 = any(name.startswith("v1") for name in found["cgroups"])
    return Report(
        tier=tier,
        tier_text=TIERS[tier],
        machine={},
        layers=checks("layers", layer_advice),
        cgroups=checks("cgroups", lambda name, number, _: advice.for_cgroup(name, number, facts, has_v1=has_v1)),
        wasmtime=checks("wasmtime", lambda _, __, detail: advice.for_wasmtime(detail, facts))["wasmtime"],
        delegates=checks("delegates", lambda name, _, detail: advice.for_delegate(name, detail)),
        firmware={},
        took_ms=0,
    )


def _run_probe(seconds_max: float, python: str, wanted: Wanted) -> dict[str, Any]:
    """The probe's answer; when it gives none, one that says so: tier D, because nothing was seen to hold."""
    folders = [str(Path(__file__).resolve().parents[3])]
    wasmtime = importlib.util.find_spec("wasmtime")
    if wasmtime is not None and wasmtime.origin is not None:
        folders.append(str(Path(wasmtime.origin).parents[1]))  # where a jail would take it from
    command = [python, "-I", "-c", _BOOT, str(seconds_max), json.dumps(asdict(wanted)), *folders]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2 * seconds_max + 5,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            check=False,
        )
        if done.returncode == 0:
            answer: dict[str, Any] = json.loads(done.stdout)
            return answer
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        why = f"the probe ended with {done.returncode}: {last[:300]}"
    except subprocess.TimeoutExpired:
        why = f"the probe did not answer within {2 * seconds_max + 5:g} s"
    except (OSError, ValueError) as error:
        why = f"the probe did not run: {error}"
    no = (False, why, 0)
    layers = dict.fromkeys(("namespaces", "landlock", "seccomp", "seccomp_filters"), no)
    return {"tier": "D", "layers": layers, "cgroups": {}, "wasmtime": {"wasmtime": no}, "delegates": {}}


def read_facts() -> Facts:
    """Settings that explain refusals."""
    sysctls = {name: found for name in SYSCTLS if (found := _line(f"/proc/sys/{name.replace('.', '/')}")) is not None}
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    numbers = (platform.release() + ".0").split(".")[:2]
    return Facts(
        arch=platform.machine(),
        kernel=(_digits(numbers[0]), _digits(numbers[1])),
        is_root=os.geteuid() == 0,
        filtered=status.get("Seccomp", "0").strip() == "2",
        chrooted=_chrooted(),
        sysctls=sysctls,
    )


def _digits(text: str) -> int:
    digits = "".join(char for char in text if char.isdigit())
    return int(digits) if digits else 0


def _chrooted() -> bool:
    """True when our root is no mount point: the kernel refuses user namespaces there."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return not any(line.split()[4] == "/" for line in mounts)


def _line(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _machine(facts: Facts) -> dict[str, str]:
    memory = next((line.split()[1] for line in (_line("/proc/meminfo") or "").splitlines() if "MemTotal" in line), "0")
    return {
        "arch": facts.arch,
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()).strip() or "unknown",
        "python": platform.python_version(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory_mb": str(int(memory) >> 10),
        "user": "root" if facts.is_root else f"uid {os.geteuid()}",
        "container": "under a seccomp filter" if facts.filtered else "no seccomp filter on us",
    }


def _from_finding(finding: firmware.Finding) -> Check:
    return Check(finding.state in ("ok", "not_here"), finding.detail, finding.advice, finding.state)


# --- for people -------------------------------------------------------------------------------------------------------

_MARKS: dict[State, str] = {"ok": "ok", "missing": "--", "unknown": "??", "not_here": "n/a"}


def text(report: Report) -> str:
    """Plain aligned lines: what is there, and below each thing missing what to do about it."""
    machine = report.machine
    software = f"{machine['arch']}, Linux {machine['kernel']}, {machine['libc']}, Python {machine['python']}"
    hardware = f"{machine['cpus']} CPUs, {machine['memory_mb']} MB, as {machine['user']}"
    mark = " (degraded)" if report.degraded else ""
    lines = [f"{software}, {hardware}", f"tier {report.tier}: {report.tier_text}{mark}"]
    no_group = Check(False, "no cgroup of ours is mounted", "Jails do without.", "missing")
    areas = {
        "isolation layers": report.layers,
        "cgroups": report.cgroups or {"none": no_group},
        "kernels": {"wasmtime": report.wasmtime},
        "delegates": report.delegates,
        "firmware": report.firmware,
    }
    width = max(len(name) for checks in areas.values() for name in checks)
    for area, checks in areas.items():
        lines += ["", area]
        for name, check in checks.items():
            lines.append(f"  {_MARKS[check.state]:3} {name:{width}}  {check.detail}")
            if check.advice:
                lines.append(f"      {'':{width}}  -> {check.advice}")
    lines += ["", f"tried in {report.took_ms} ms; nothing was changed"]
    return "\n".join(lines)
