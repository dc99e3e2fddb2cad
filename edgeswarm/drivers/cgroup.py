"""One cgroup for each jail, of version 2 or 1, wherever this process may make some: memory, processes, CPU time.

    own group (version 2, delegated)            own group (each hierarchy of version 1)
      +- edgeswarm-supervisor  we, moved there    +- es-<state>-<pid>.<start>-<host>-<n>  one jail
      +- es-<state>-<pid>.<start>-<host>-<n>

Invariants: a group is made, and takes its limits, before the jail is forked; the jail itself enters it as its first
step, before it gives up its rights; no process but our own is ever moved, no group but our own is ever removed.
A name says whose a group is: the state directory, and the process that made it, by its start time; so a supervisor
removes at its start what one that was killed left behind, and never what another one uses.
What cannot be had is said in `notes`, and rlimits take its place.
Source: Documentation/admin-guide/cgroup-v2.rst (no internal processes; delegation), cgroup-v1/{memory,pids}.rst.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgeswarm.drivers.cgroup_find import CONTROLLERS, OwnGroup, read_own_groups
from edgeswarm.errors import LocalError
from edgeswarm.limits import CPU_CORES_MIN, CPU_PERIOD_US

LEAF: Final = "edgeswarm-supervisor"
"""Where our own process goes in a delegated tree of version 2: a group with controllers on holds no processes."""
RLIMITS: Final = {"memory": "rlimit DATA", "pids": "rlimit NPROC", "cpu": "deadlines and shares"}
"""What limits a jail where there is no group for it."""
_NAME: Final = re.compile(r"es-[0-9a-f]{12}-([0-9]+)\.([0-9]+)-[0-9]+-[0-9]+")
_HOSTS: Final = itertools.count()
"""Hosts of this process; a program that takes over counts anew, and so finds its groups again."""
_TRIES: Final = 20
_TRY_S: Final = 0.005
"""A group is busy until the kernel has buried its last process."""


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """What one jail may use."""

    memory_bytes: int
    processes: int
    cpu_cores: float


@dataclass(frozen=True, slots=True)
class Toll:
    """What the kernel refused a jail, or killed it for."""

    oom_kills: int = 0
    forks_refused: int = 0
    throttled: int = 0
    """Periods of CPU_PERIOD_US in which it had used its share before they were over."""


@dataclass(frozen=True, slots=True)
class _Tree:
    """A folder that takes our groups."""

    version: Literal[1, 2]
    folder: Path
    controllers: tuple[str, ...]


class Groups:
    """Makes and removes the groups of one host of jails.  `open` finds out what there is."""

    def __init__(
        self, trees: Sequence[_Tree], prefix: str, notes: Sequence[str] = (), home: Path | None = None
    ) -> None:
        self._trees = tuple(trees)
        self.prefix = prefix
        self._home = home  # where we were before we moved into the leaf
        self._busy: set[int] = set()
        self.notes = tuple(notes)
        """Why something cannot be had, in words."""
        self.mechanisms = dict(RLIMITS)
        """Controller -> "cgroup v2", "cgroup v1", or what takes its place."""
        for tree in self._trees:
            self.mechanisms |= dict.fromkeys(tree.controllers, f"cgroup v{tree.version}")

    @classmethod
    def none(cls) -> Groups:
        """No groups: rlimits alone."""
        return cls((), "")

    @classmethod
    def open(cls, owner: str, *, may_move: bool, own: Sequence[OwnGroup] | None = None) -> Groups:
        """What this process may make.  Never raises: what it may not is in `notes`.

        owner: what no two hosts that live at once have in common with another's dead ones: the state directory.
        may_move: into a leaf of our own group (version 2), if nobody else is in it.  own: instead of /proc, for tests.
        """
        trees: list[_Tree] = []
        notes: list[str] = []
        home: Path | None = None
        missing = set(CONTROLLERS)
        prefix = f"es-{_digest(owner)}-{os.getpid()}.{_started(os.getpid())}-{next(_HOSTS)}"
        found = read_own_groups() if own is None else own
        for group in sorted(found, key=lambda one: -one.version):
            wanted = [name for name in CONTROLLERS if name in missing]
            try:
                if group.version == 2:
                    base, names, moved = _enter_v2(group.folder, wanted, may_move=may_move)
                    home = base if moved or (may_move and group.folder.name == LEAF) else home
                else:
                    base, names = group.folder, [name for name in wanted if name in group.controllers]
                if names:
                    _try_group(base / f"{prefix}-0")
                    trees.append(_Tree(2 if group.version == 2 else 1, base, tuple(names)))
                    missing -= set(names)
            except OSError as error:
                notes.append(f"cgroup v{group.version}, {group.folder}: {error.strerror or error}")
        if missing:
            notes.append(f"no cgroup for {', '.join(name for name in CONTROLLERS if name in missing)}")
        groups = cls(trees, prefix, notes, home)
        groups._clean(f"es-{_digest(owner)}-")
        return groups

    # --- one jail ------------------------------------------------------------------------------------------------

    def make(self, number: int, limits: GroupLimits) -> tuple[str, ...]:
        """The groups of jail `number`, limited; the jail enters them by writing 0 to each of these files.

        Raises LocalError, with nothing left behind, when the kernel takes a limit no more.
        """
        self.retry()
        doors = []
        try:
            for tree in self._trees:
                folder = self._folder(tree, number)
                _make(folder)
                for name, value, required in _settings(tree, limits):
                    if required or (folder / name).exists():
                        _put(folder / name, value)
                # A lone thread that writes itself into `tasks` waits for no grace period of RCU, 10 ms and more
                # on an idle machine (cgroup_procs_write_start); version 2 has no such file for what is not threaded.
                doors.append(str(folder / ("cgroup.procs" if tree.version == 2 else "tasks")))
        except OSError as error:
            self.remove(number)
            raise LocalError(f"cgroup of jail {number}: {error.filename or ''}: {error.strerror or error}") from None
        return tuple(doors)

    def toll(self, number: int) -> Toll:
        """What jail `number` was refused so far; nothing when its groups are gone."""
        oom_kills = forks_refused = throttled = 0
        for tree in self._trees:
            folder = self._folder(tree, number)
            if "memory" in tree.controllers:
                name = "memory.events" if tree.version == 2 else "memory.oom_control"
                oom_kills += _counts(folder / name).get("oom_kill", 0)
            if "pids" in tree.controllers:
                forks_refused += _counts(folder / "pids.events").get("max", 0)
            if "cpu" in tree.controllers:
                throttled += _counts(folder / "cpu.stat").get("nr_throttled", 0)
        return Toll(oom_kills, forks_refused, throttled)

    def remove(self, number: int) -> bool:
        """Jail `number` has ended.  False: a group is still busy; the next call of `make`, `retry`, `close` tries
        again."""
        left = [tree for tree in self._trees if not _remove(self._folder(tree, number))]
        (self._busy.add if left else self._busy.discard)(number)
        return not left

    def retry(self) -> None:
        """Remove what was busy."""
        for number in tuple(self._busy):
            self.remove(number)

    def close(self) -> None:
        """Remove what is left, and leave the leaf that we moved into, if nobody else is there.

        With others in it, another supervisor's jails may be beside it: without controllers they would have no limits.
        """
        for _ in range(_TRIES):
            self.retry()
            if not self._busy:
                break
            time.sleep(_TRY_S)
        if self._home is not None:
            home, self._home = self._home, None
            with contextlib.suppress(OSError):
                if set(_words(home / LEAF / "cgroup.procs")) - {str(os.getpid())}:
                    return
                on = (home / "cgroup.subtree_control").read_text(encoding="ascii").split()
                for name in on:
                    _put(home / "cgroup.subtree_control", f"-{name}")
                _put(home / "cgroup.procs", "0")
                _remove(home / LEAF)

    def _folder(self, tree: _Tree, number: int) -> Path:
        return tree.folder / f"{self.prefix}-{number}"

    def _clean(self, prefix: str) -> None:
        """Remove the groups that a killed process of the same owner left.  Busy ones stay: their jails are ending."""
        for tree in self._trees:
            try:
                names = sorted(entry.name for entry in os.scandir(tree.folder) if entry.name.startswith(prefix))
            except OSError:
                continue
            for name in names:
                found = _NAME.fullmatch(name)
                if found is not None and _started(int(found[1])) != int(found[2]):
                    _remove(tree.folder / name)


def _settings(tree: _Tree, limits: GroupLimits) -> list[tuple[str, str, bool]]:
    """(file, value, must be there) in the order in which they are written."""
    settings: list[tuple[str, str, bool]] = []
    quota_us = int(max(limits.cpu_cores, CPU_CORES_MIN) * CPU_PERIOD_US)
    if "memory" in tree.controllers and tree.version == 2:
        settings += [
            ("memory.max", str(limits.memory_bytes), True),
            ("memory.swap.max", "0", False),
            ("memory.oom.group", "1", False),
        ]
    elif "memory" in tree.controllers:
        settings += [
            ("memory.limit_in_bytes", str(limits.memory_bytes), True),
            ("memory.memsw.limit_in_bytes", str(limits.memory_bytes), False),  # memory and swap together
        ]
    if "pids" in tree.controllers:
        settings.append(("pids.max", str(limits.processes), True))
    if "cpu" in tree.controllers and tree.version == 2:
        settings.append(("cpu.max", f"{quota_us} {CPU_PERIOD_US}", True))
    elif "cpu" in tree.controllers:
        settings += [("cpu.cfs_period_us", str(CPU_PERIOD_US), True), ("cpu.cfs_quota_us", str(quota_us), True)]
    return settings


def _enter_v2(folder: Path, wanted: Sequence[str], *, may_move: bool) -> tuple[Path, list[str], bool]:
    """The group to make children in, the controllers that they get, and whether we moved out of it just now.

    Raises OSError when nothing can be had there.
    """
    base = folder.parent if folder.name == LEAF else folder
    offered = set(_words(base / "cgroup.controllers")) & set(wanted)
    if not offered:
        raise OSError(errno.ENOTSUP, f"offers none of {', '.join(wanted) or 'what is wanted'}")
    control = base / "cgroup.subtree_control"
    moved = False
    if base == folder and not offered <= set(_words(control)):
        if not may_move:
            raise OSError(errno.EBUSY, "its processes would have to move; only `edgeswarm run` moves, and itself alone")
        others = set(_words(base / "cgroup.procs")) - {str(os.getpid())}
        if others:
            raise OSError(errno.EBUSY, f"{len(others)} other processes are in it (want a group of our own: Delegate=)")
        _make(base / LEAF)
        _put(base / LEAF / "cgroup.procs", "0")
        moved = True
    for name in sorted(offered - set(_words(control))):
        with contextlib.suppress(OSError):
            _put(control, f"+{name}")
    on = [name for name in wanted if name in offered & set(_words(control))]
    if not on and moved:
        with contextlib.suppress(OSError):
            _put(base / "cgroup.procs", "0")
            _remove(base / LEAF)
    if not on:
        raise OSError(errno.EPERM, "no controller could be turned on for children")
    return base, on, moved


def _try_group(folder: Path) -> None:
    """Make a group and remove it.  Raises OSError: read-only, or not ours."""
    _make(folder)
    _remove(folder)


def _digest(owner: str) -> str:
    return hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _started(pid: int) -> int:
    """When a process began, in ticks since the machine did (field 22 of /proc/<pid>/stat); 0 when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b") ")[2].split()[19])
    except OSError:
        return 0


def _make(folder: Path) -> None:
    folder.mkdir(exist_ok=True)


def _put(path: Path, text: str) -> None:
    """One write, as the kernel wants it.  Raises OSError with the file's name; never makes a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split()


def _counts(path: Path) -> dict[str, int]:
    """A file of `name number` lines; nothing when it is not there."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


def _remove(folder: Path) -> bool:
    """True when it is gone, or never was.  False when it is busy, or may not be removed."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
