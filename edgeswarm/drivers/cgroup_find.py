"""Where this process is in the trees of cgroups, by its own /proc: what is mounted where, and which groups are ours.

Decides nothing about what may be written there; `cgroup.py` finds that out by trying.
Source: cgroups(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

CONTROLLERS: Final = ("memory", "pids", "cpu")
"""Those that a jail is limited by."""


@dataclass(frozen=True, slots=True)
class OwnGroup:
    """One group that this process is in.  controllers: of version 1; version 2 says its own in cgroup.controllers."""

    version: int
    folder: Path
    controllers: tuple[str, ...] = ()


def own_groups(mountinfo: str, cgroup: str) -> list[OwnGroup]:
    """Every group of ours that is mounted.  mountinfo, cgroup: the text of /proc/self/mountinfo and /proc/self/cgroup.

    Lines that are not as cgroups(7) says are passed over.
    """
    mounts = _mounts(mountinfo)
    found = []
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        controllers = tuple(name for name in names.split(",") if name)
        version = 2 if number == "0" and not controllers else 1
        if not path.startswith("/") or (version == 1 and not set(controllers) & set(CONTROLLERS)):
            continue
        for kind, root, target, options in mounts:
            if (version == 2) != (kind == "cgroup2") or (version == 1 and not set(controllers) <= options):
                continue
            folder = _below(root, path, target)
            if folder is not None:
                found.append(OwnGroup(version, folder, controllers))
                break
    return found


def _mounts(text: str) -> list[tuple[str, str, Path, frozenset[str]]]:
    """(cgroup or cgroup2, root within the tree, where, options of the super block) of every mounted tree."""
    mounts = []
    for line in text.splitlines():
        head, separator, tail = line.partition(" - ")
        fields, more = head.split(), tail.split()
        if not separator or len(fields) < 5 or len(more) < 3 or more[0] not in ("cgroup", "cgroup2"):
            continue
        mounts.append((more[0], _plain(fields[3]), Path(_plain(fields[4])), frozenset(more[2].split(","))))
    return mounts


def _plain(field: str) -> str:
    """mountinfo writes blanks and backslashes as three octal digits."""
    for code in ("040", "011", "012"):
        field = field.replace(f"\\{code}", chr(int(code, 8)))
    return field.replace("\\134", "\\")


def _below(root: str, path: str, target: Path) -> Path | None:
    """The folder of group `path` in a tree of which `root` is mounted at `target`; None when it is outside of that."""
    if ".." in PurePosixPath(path).parts:
        return None  # our group is outside of the namespace that the mount shows
    try:
        return target / PurePosixPath(path).relative_to(root)
    except ValueError:
        return None


def read_own_groups() -> list[OwnGroup]:
    """Those of this process; none where /proc says nothing."""
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        cgroup = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return own_groups(mountinfo, cgroup)
