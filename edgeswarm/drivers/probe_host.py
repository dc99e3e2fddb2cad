"""Runs the probes of `edgeswarm/jail/probes*.py`, `probes_ring` and `probe_wasm` in real jails, a column at a time.

A column is a way of making the jails: whole, a weaker tier, one layer left out, or all of those that can be.  Every
attempt gets a jail of its own, made from the policy `strict` by a zygote of the column's own, whose worker is
`probe_worker`: it leaves out what the order says.  Nothing of this can be asked of a supervisor.
Invariants: before its probes a column shows that an attempt which does nothing is told as open, so that jails that fail
to start are never counted as blocked; every jail and the zygote are gone when a column is through.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from edgeswarm.drivers import probe_wasm
from edgeswarm.drivers.jail_life import JailStartError
from edgeswarm.drivers.jail_link import JailLink, KernelSpec
from edgeswarm.drivers.jail_sync import SyncHost, SyncJail
from edgeswarm.drivers.jail_zygote import Program
from edgeswarm.errors import EdgeSwarmError, JailError, JailGoneError, KernelError, LimitError, TrapError
from edgeswarm.jail import probes, probes_ring
from edgeswarm.jail.frames import RingError

Status = Literal["blocked", "open", "untried"]
NOTHING: Final = "does_nothing"
_DEADLINE_MS: Final = 5_000
"""Of a call that ends by itself, on however busy a machine."""
_DEADLINE_OF_LOOPS_MS: Final = 150
_CALLS: Final = 3
_REFUSED: Final = 70
"""Exit code of a jail that could not be made (`worker.EXIT_REFUSED`)."""


@dataclass(frozen=True, slots=True)
class Row:
    """A probe as the matrix shows it."""

    name: str
    layer: str
    group: str
    careful: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one attempt in one column."""

    status: Status
    text: str


@dataclass(frozen=True, slots=True)
class Column:
    """A way of making the jails.  without: layers left out; tier: of the jails."""

    name: str
    without: tuple[str, ...] = ()
    tier: str = "A"

    @property
    def unsealed(self) -> bool:
        return "seal" in self.without


def rows() -> dict[str, Row]:
    """Every probe of this architecture."""
    native = {name: Row(name, p.layer, p.group, p.careful) for name, p in probes.load_all().items() if name != NOTHING}
    lies = {name: Row(name, "supervisor", "protocol") for name in probes_ring.LIES}
    modules = {name: Row(name, "engine", "wasm") for name in probe_wasm.load_all()}
    return native | lies | modules


CORE: Final = ("seccomp", "namespaces", "landlock", "limits", "exec_gain", "seal")
"""What is left out of the jails of the column `bare`.

User, capabilities and descriptors stay: without them a probe that works could harm the machine."""

PRIVILEGED: Final = ("seccomp", "landlock", "limits", "exec_gain", "seal", "capabilities")
"""What is left out to see what dropping capabilities stops: in namespaces of its own they are over nobody else's."""


def columns(offered: str, *, is_root: bool) -> list[Column]:
    """Those that a machine of this tier can show.

    The full jail, each layer left out, the weaker tiers, each layer of CORE alone, and none of these.
    """
    absent = {"A": set[str](), "B": {"namespaces"}, "C": {"namespaces", "landlock"}}[offered]
    if not is_root:
        absent.add("user")
    absent.add("cgroup")  # bounds what a jail takes; it refuses nothing that a probe could try without harm
    left = [Column(f"without_{layer}", (layer,), offered) for layer in probes.LAYERS if layer not in absent]
    weaker = [Column(f"tier_{tier}", (), tier) for tier in "BC" if tier > offered]
    alone = [
        Column(f"only_{layer}", tuple(other for other in CORE if other != layer), offered)
        for layer in CORE
        if layer not in absent
    ]
    if "namespaces" not in absent:
        alone.append(Column("only_namespaces_as_root_in_them", PRIVILEGED, offered))
    return [Column("full", (), offered), *left, *weaker, *alone, Column("bare", CORE, offered)]


class ProbeHost:
    """A zygote for one column.  Blocking; one thread uses it."""

    def __init__(self, column: Column, *, policy_dir: Path, cache_dir: Path, mac_key: bytes) -> None:
        """Raises JailError, TierError where this column cannot be made."""
        self.column = column
        worker = "edgeswarm.jail.probe_unsealed" if column.unsealed else "edgeswarm.jail.probe_worker"
        self._host = SyncHost(
            policy_dir=policy_dir,
            cache_dir=cache_dir,
            mac_key=mac_key,
            tier=column.tier,
            program=Program(worker=worker),
        )
        self.tier = self._host.tier
        self._modules, self._probes = probe_wasm.load_all(), probes.load_all()
        self._neighbour: SyncJail | None = None
        try:
            self._code = self._host.compile(probe_wasm.PLAIN)
            self._neighbour = self._spawn("", self._code)
            answer = self.attempt(NOTHING)
            if answer.status != "open":
                raise JailError(f"column {column.name}: its jails cannot be made ({answer.text})")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End its jails and its zygote."""
        if self._neighbour is not None:
            self._neighbour.close()
        self._host.close()

    def __enter__(self) -> ProbeHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(self, name: str, code: bytes, layout: Any = probe_wasm.LAYOUT, *, loops: bool = False) -> SyncJail:
        deadline_ms = _DEADLINE_OF_LOOPS_MS if loops else _DEADLINE_MS
        spec = KernelSpec(0, "probe", code, layout, bytes(layout.weights.size), deadline_ms=deadline_ms)
        link = JailLink(self._host.next_id(), [spec])
        link.job["probe"] = {
            "name": name,
            "without": list(self.column.without),
            "sibling": self._neighbour.pid if self._neighbour else 1,
            "supervisor": os.getpid(),
        }
        return SyncJail(self._host, link, "strict")

    def attempt(self, name: str) -> Answer:
        """Make one attempt, in a jail of its own."""
        if name in probes_ring.LIES:
            return self._lie(name)
        if name in self._modules:
            return self._run_wasm(self._modules[name])
        if self._probes[name].careful and "seccomp" in self.column.without:
            return Answer("untried", "not tried where nothing would stop it")
        try:
            with self._spawn(name, self._code) as jail:
                text = jail.faults.get(0, "untried: said nothing")
        except JailStartError as error:
            return _ended(error)
        status, _, detail = text.partition(": ")
        return Answer("open" if status == "open" else "blocked" if status == "blocked" else "untried", detail)

    def _lie(self, name: str) -> Answer:
        try:
            with self._spawn(name, self._code, loops=name == "jail_never_answers") as jail:
                for _ in range(_CALLS):
                    jail.call(0, bytes(8))
        except JailStartError as error:
            return Answer("blocked", str(error))
        except (JailGoneError, RingError) as error:
            return Answer("blocked", str(error))
        except TrapError as error:
            return Answer("open", f"was believed: {error}")
        return Answer("open", "was believed")

    def _run_wasm(self, probe: probe_wasm.WasmProbe) -> Answer:
        """The way of an order: the supervisor's check, a jail that compiles, a jail that loads and calls."""
        harmless = probe.verdict == "harmless"
        try:
            layout = probe_wasm.check(probe)
            code = self._host.compile(probe.module)
        except (KernelError, LimitError) as error:
            return Answer("blocked", f"refused: {error}"[:160])
        except JailError as error:
            return Answer("open" if harmless else "blocked", f"ended the compiler's jail: {error}"[:160])
        try:
            with self._spawn("", code, layout, loops="endless" in probe.name) as jail:
                if 0 in jail.faults:
                    return Answer("blocked", f"not loaded: {jail.faults[0]}"[:160])
                if probe.verdict == "refused":
                    return Answer("open", "was loaded")
                right = jail.call(0, probe_wasm.ASK) == probe_wasm.ANSWER
                if harmless:
                    return Answer("blocked" if right else "open", "ignored" if right else "changed an answer")
                return Answer("open", "was answered")
        except TrapError as error:
            return Answer("open" if harmless else "blocked", str(error).rpartition(": ")[2])
        except JailError as error:
            return Answer("open" if harmless else "blocked", f"ended its jail: {error}"[:160])

    def threads(self) -> list[dict[str, int]]:
        """What the kernel says, from outside, of every thread of a serving jail."""
        jail = self._neighbour
        assert jail is not None
        found = []
        for task in sorted(Path(f"/proc/{jail.pid}/task").iterdir()):
            text = (task / "status").read_text(encoding="utf-8")
            numbers = dict(
                re.findall(r"^(Seccomp|Seccomp_filters|NoNewPrivs|CapEff|CapBnd):\s*(\w+)$", text, re.MULTILINE)
            )
            found.append(
                {
                    "thread": int(task.name),
                    "seccomp": int(numbers["Seccomp"]),
                    "filters": int(numbers.get("Seccomp_filters", 2)),
                    "no_new_privs": int(numbers["NoNewPrivs"]),
                    "capabilities": int(numbers["CapEff"], 16),
                }
            )
        return found


def _ended(error: JailStartError) -> Answer:
    ended = error.ended
    if ended.sigsys:
        return Answer("blocked", "SIGSYS")
    if ended.signal is not None:
        with suppress(ValueError):
            return Answer("blocked", signal.Signals(ended.signal).name)
    if ended.code == 0:
        return Answer("open", "another program ran in its place")
    if ended.code == _REFUSED:
        return Answer("untried", f"the jail could not be made: {error}"[:160])
    return Answer("blocked", f"ended: {error}"[:160])


def guarded(threads: Iterable[Mapping[str, int]]) -> list[str]:
    """Threads that lack what every thread of a full jail has; empty where all is well."""
    faults = []
    for row in threads:
        if row["seccomp"] != 2 or row["filters"] < 2 or row["no_new_privs"] != 1 or row["capabilities"]:
            faults.append(f"thread {row['thread']}: {dict(row)}")
    return faults


def run_column(
    column: Column, names: Sequence[str], told: Callable[[int], object], **host: Any
) -> tuple[dict[str, Answer], list[dict[str, int]]]:
    """The answers of one column, and the threads of one of its jails.  told: called with 1 after each attempt.

    Raises JailError where the column cannot be made.
    """
    with ProbeHost(column, **host) as probing:
        threads = probing.threads()
        answers = {}
        for name in names:
            try:
                answers[name] = probing.attempt(name)
            except EdgeSwarmError as error:
                raise JailError(f"column {column.name}, probe {name}: {error}") from None
            told(1)
        return answers, threads
