"""What each missing layer would add, which attempts it would stop by itself, and how this machine can get it.

Which attempts: from `sandbox/probes.json`, the committed matrix of `edgeswarm sandbox probe`.  While seccomp holds, no
tier has an open probe; what a layer stops alone is what it is there for on the day that a filter or the kernel has a
hole.  Pure but for reading that file.  Invariant: no step weakens the machine (`advice.py` holds the same).
"""

from __future__ import annotations

import errno
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edgeswarm.assets import asset
from edgeswarm.drivers.cgroup_find import CONTROLLERS
from edgeswarm.drivers.doctor import Check, Report, advice
from edgeswarm.drivers.doctor.advice import Facts
from edgeswarm.errors import LocalError

_FOLDER: Final = "firmware_configs/linux"
_INDENT: Final = 9
_COLUMNS_SHOWN: Final = 110
_TITLES: Final = {
    "seccomp": "seccomp",
    "namespaces": "namespaces",
    "landlock": "Landlock",
    "refuse_exec_gain": "no new code (PR_SET_MDWE)",
    "seal_text": "sealed code (mseal)",
    "cgroups": "cgroups",
}
_ADDS: Final = {
    "seccomp": "The system calls that a jail does not need end it. Without this no jail is made, and no agent runs.",
    "namespaces": "A jail sees no file, no other process, no network interface and no name of this machine: there is "
    "nothing to reach, whatever a call would do.",
    "landlock": "The kernel refuses every file to a jail; TCP from Linux 6.7 and signals to strangers from 6.12 on.",
    "refuse_exec_gain": "No memory of a jail becomes executable any more, so an attack cannot bring code of its own.",
    "seal_text": "The code of a jail cannot be changed, moved or unmapped, not even by itself.",
    "cgroups": "The kernel bounds memory, processes and processor time of a jail as a whole; without it RLIMIT_DATA, "
    "NPROC and deadlines bound each process.",
}
_COLUMNS: Final = {
    "namespaces": "only_namespaces",
    "landlock": "only_landlock",
    "refuse_exec_gain": "only_exec_gain",
    "seal_text": "only_seal",
}
"""Layer -> column of the matrix in which it stands alone."""


@dataclass(frozen=True, slots=True)
class Missing:
    """One layer that jails here do without.

    said: what the kernel answered.  stops: probes that this layer alone stops, of the `of` that are open where neither
    it nor seccomp nor any other of the layers is there; empty where no probe was counted.  how: steps, in their order.
    """

    layer: str
    title: str
    said: str
    adds: str
    stops: tuple[str, ...]
    of: int
    how: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """The columns of `sandbox/probes.json` for this user: name -> probes that are open."""

    open: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def stopped_by(self, layer: str) -> tuple[tuple[str, ...], int]:
        """Probes that the layer stops alone, and how many are open without it."""
        bare, alone = self.open.get("bare"), self.open.get(_COLUMNS.get(layer, ""))
        if bare is None or alone is None:
            return (), 0
        return tuple(sorted(bare - alone)), len(bare)


def read_matrix(*, is_root: bool) -> Matrix:
    """The committed matrix; an empty one where it was not shipped."""
    try:
        tree: dict[str, Any] = json.loads(asset("sandbox", "probes.json").read_text(encoding="utf-8"))
    except (LocalError, OSError, ValueError):
        return Matrix()
    return Matrix({column: frozenset(names) for column, names in tree["root" if is_root else "user"].items()})


def explain(report: Report, facts: Facts, matrix: Matrix) -> tuple[Missing, ...]:
    """Every layer that is missing, the most important first."""
    found = []
    for layer in ("seccomp", "namespaces", "landlock", "refuse_exec_gain", "seal_text"):
        check = report.layers.get(layer)
        if check is not None and not check.ok:
            found.append(_missing(layer, check, how(layer, check, facts), matrix))
    if lost := _unbounded(report.cgroups):
        said = "; ".join(check.detail for check in report.cgroups.values()) or "no cgroup of ours is mounted"
        said = said if len(lost) == len(CONTROLLERS) else f"none for {', '.join(lost)}: {said}"
        found.append(_missing("cgroups", Check(False, said), how("cgroups", Check(False, said), facts), matrix))
    return tuple(found)


def _unbounded(groups: Mapping[str, Check]) -> list[str]:
    """The controllers by which no group of a jail would be bounded."""
    bounded = {name.removeprefix("v1_") for name, check in groups.items() if check.ok}
    if (both := groups.get("v2")) is not None and both.ok and (limits := re.search(r"limits: ([a-z ]+)", both.detail)):
        bounded |= set(limits[1].split())
    return [name for name in CONTROLLERS if name not in bounded]


def _missing(layer: str, check: Check, steps: tuple[str, ...], matrix: Matrix) -> Missing:
    stops, of = matrix.stopped_by(layer)
    return Missing(layer, _TITLES[layer], check.detail, _ADDS[layer], stops, of, steps)


def how(layer: str, check: Check, facts: Facts) -> tuple[str, ...]:
    """Steps: the advice for what was seen here, then what else there is to know."""
    steps = [check.advice] if check.advice else []
    if facts.filtered and layer in ("namespaces", "landlock", "seal_text"):
        steps += _container()
    if layer == "namespaces":
        steps += _namespaces(check.detail, facts)
    elif layer == "landlock":
        steps.append(
            f"Kernel: Linux 5.13 or later with {_options('CONFIG_SECURITY', 'CONFIG_SECURITY_LANDLOCK')} and landlock "
            f"among CONFIG_LSM or in lsm= at boot ({_FOLDER}/kernel/edgeswarm.config)."
        )
    elif layer == "seccomp":
        steps.append(f"Kernel: {_options('CONFIG_SECCOMP', 'CONFIG_SECCOMP_FILTER')} ({_FOLDER}/kernel).")
    elif layer == "cgroups":
        steps += _cgroups(facts)
    return tuple(dict.fromkeys(steps))


def _options(*names: str) -> str:
    return ", ".join(f"{name}=y" for name in names)


def _namespaces(detail: str, facts: Facts) -> list[str]:
    kernel = _options(*(f"CONFIG_{name}" for name in ("NAMESPACES", "USER_NS", "PID_NS", "NET_NS", "IPC_NS", "UTS_NS")))
    if facts.filtered:
        return []
    steps = [
        (
            f"systemd: {_FOLDER}/systemd/edgeswarm.service (edgeswarm daemon install) leaves to the supervisor what "
            "jails are made of and locks the rest; a unit of your own must not refuse them user, pid, mnt, net, ipc, "
            "uts or cgroup in RestrictNamespaces=, nor @mount in SystemCallFilter=~."
        )
    ]
    if advice.refused(0, detail, errno.EINVAL, errno.ENOSYS, errno.ENOENT):
        steps.append(f"Kernel: {kernel} and CONFIG_CGROUPS=y ({_FOLDER}/kernel/edgeswarm.config).")
    if facts.is_root:
        steps.append("A supervisor of an ordinary user needs no more than user namespaces, and less can go wrong.")
    return steps


def _cgroups(facts: Facts) -> list[str]:
    steps = [
        (
            f"systemd: Delegate=memory pids cpu in the unit, as in {_FOLDER}/systemd/edgeswarm.service; by hand "
            "systemd-run --user --scope -p Delegate=yes edgeswarm run."
        )
    ]
    if facts.filtered:
        steps.append(
            "In a container the runtime's own limits (--memory, --pids-limit, --cpus) bound all jails together."
        )
    return steps


def _container() -> list[str]:
    return [
        (
            f"Container: {_FOLDER}/container/edgeswarm-seccomp.json names the calls that jails are made of, unshare "
            "only together with a user namespace. Add it to a copy of your runtime's own profile: jq --slurpfile add "
            "edgeswarm-seccomp.json '.syscalls += $add[0].syscalls' default.json > edgeswarm.json, then docker run "
            "--security-opt seccomp=edgeswarm.json. Everything else that the profile refuses stays refused."
        ),
        "A container needs no further capability for it: keep those of the runtime, or fewer.",
    ]


def text(found: tuple[Missing, ...], *, shown: int = 6) -> str:
    """For people.  shown: how many probes are named; --json has all of them.  A step is told once."""
    if not found:
        return "No layer is missing: every jail on this machine has all of them."
    lines: list[str] = []
    told: set[str] = set()
    for item in found:
        lines += [f"{item.title}: missing ({item.said})", *_wrapped("adds", item.adds)]
        if item.of:
            lines += _wrapped("stops", _stops(item, shown))
        new = [step for step in item.how if step not in told]
        if len(new) < len(item.how):
            new.append("And the same for the container as above.")
        for number, step in enumerate(new):
            lines += _wrapped("" if number else "how", step)
        told.update(item.how)
        lines.append("")
    return "\n".join(lines).rstrip()


def _wrapped(head: str, said: str) -> list[str]:
    blank = " " * _INDENT
    wrap = textwrap.TextWrapper(_COLUMNS_SHOWN, initial_indent=f"  {head}".ljust(_INDENT), subsequent_indent=blank)
    wrap.break_long_words = wrap.break_on_hyphens = False
    return wrap.wrap(said)


def _stops(item: Missing, shown: int) -> str:
    some = ", ".join(item.stops[:shown])
    more = f" and {len(item.stops) - shown} more (--json)" if len(item.stops) > shown else ""
    return (
        f"{len(item.stops)} of the {item.of} probes that are open without any layer, by itself: {some}{more}. "
        "With seccomp in force none of them is open on any tier."
    )
