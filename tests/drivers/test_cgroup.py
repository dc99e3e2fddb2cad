"""Which groups are ours, and how a delegated tree of version 2 is used, on a kernel that is played by a folder.

This machine's version 2 has no controllers; `Kernel` keeps the rules of cgroup-v2.rst that matter here: a controller is
in a group when its parent passes it on, no group passes any on while it holds processes, and only empty ones go.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from edgeswarm.drivers import cgroup
from edgeswarm.drivers.cgroup import LEAF, RLIMITS, GroupLimits, Groups, Toll
from edgeswarm.drivers.cgroup_find import OwnGroup, own_groups
from edgeswarm.errors import LocalError

LIMITS = GroupLimits(memory_bytes=1 << 27, processes=8, cpu_cores=1.5)
FILES = {
    "memory": ("memory.max", "memory.swap.max", "memory.oom.group", "memory.events"),
    "pids": ("pids.max",),
    "cpu": ("cpu.max",),
}


class Kernel:
    """A tree of version 2 below a folder; our own process is in `own`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, *, offers: str = "memory pids cpu io") -> None:
        self.own = root / "service"
        self.own.mkdir(parents=True)
        self._fill(self.own, offers)
        self._write(self.own / "cgroup.procs", str(os.getpid()))
        self.refuses: set[str] = set()
        monkeypatch.setattr(cgroup, "_make", self.make)
        monkeypatch.setattr(cgroup, "_put", self.put)
        monkeypatch.setattr(cgroup, "_remove", self.remove)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text + "\n" if text else "")

    def _fill(self, folder: Path, offers: str) -> None:
        self._write(folder / "cgroup.controllers", offers)
        for name in ("cgroup.subtree_control", "cgroup.procs"):
            self._write(folder / name, "")
        for controller in offers.split():
            for name in FILES.get(controller, ()):
                self._write(folder / name, "max")

    def make(self, folder: Path) -> None:
        if not folder.exists():
            folder.mkdir()
            self._fill(folder, (folder.parent / "cgroup.subtree_control").read_text().strip())

    def put(self, path: Path, text: str) -> None:
        if path.name in self.refuses or not path.exists():
            raise OSError(errno.EINVAL if path.exists() else errno.ENOENT, "refused", str(path))
        if path.name == "cgroup.procs":
            if (path.parent / "cgroup.subtree_control").read_text().strip():
                raise OSError(errno.EBUSY, "it passes controllers on", str(path))
            for other in self.own.rglob("cgroup.procs"):
                self._write(other, " ".join(set(other.read_text().split()) - {str(os.getpid())}))
            self._write(path, str(os.getpid()))
        elif path.name == "cgroup.subtree_control":
            if (path.parent / "cgroup.procs").read_text().strip() and text.startswith("+"):
                raise OSError(errno.EBUSY, "it holds processes", str(path))
            if text[1:] not in (path.parent / "cgroup.controllers").read_text().split():
                raise OSError(errno.ENOENT, "not offered", str(path))
            on = set(path.read_text().split())
            self._write(path, " ".join(sorted(on | {text[1:]} if text[0] == "+" else on - {text[1:]})))
        else:
            self._write(path, text)

    def remove(self, folder: Path) -> bool:
        if folder.exists() and (folder / "cgroup.procs").read_text().strip():
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return True

    def open(self, *, may_move: bool = True, at: Path | None = None) -> Groups:
        return Groups.open("state", may_move=may_move, own=[OwnGroup(2, at or self.own)])

    def procs(self, folder: Path) -> str:
        return (folder / "cgroup.procs").read_text().strip()


def test_a_delegated_tree_gets_a_leaf_for_us_and_a_group_for_each_jail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(tmp_path, monkeypatch)
    groups = kernel.open()
    assert groups.mechanisms == dict.fromkeys(("memory", "pids", "cpu"), "cgroup v2")
    assert kernel.procs(kernel.own / LEAF) == str(os.getpid())
    assert kernel.procs(kernel.own) == ""
    assert (kernel.own / "cgroup.subtree_control").read_text().split() == ["cpu", "memory", "pids"]
    (door,) = groups.make(3, LIMITS)
    folder = Path(door).parent
    assert folder.parent == kernel.own and folder.name == f"{groups.prefix}-3"
    found = {
        name: (folder / name).read_text().strip() for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max")
    }
    assert found == {"memory.max": "134217728", "memory.swap.max": "0", "pids.max": "8", "cpu.max": "150000 100000"}
    assert (folder / "memory.oom.group").read_text().strip() == "1"
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")
    assert groups.toll(3) == Toll(oom_kills=1)
    assert groups.remove(3)
    groups.close()
    assert kernel.procs(kernel.own) == str(os.getpid())
    assert [path.name for path in kernel.own.iterdir() if path.is_dir()] == []


def test_who_is_in_the_leaf_already_makes_groups_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that takes over is where the one before it went; a library inside the daemon moves nobody."""
    kernel = Kernel(tmp_path, monkeypatch)
    kernel.open()
    again = kernel.open(may_move=False, at=kernel.own / LEAF)
    (door,) = again.make(1, LIMITS)
    assert Path(door).parent.parent == kernel.own


def test_a_leaf_with_others_in_it_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that another one's exec source started: its end must not take the limits of the other's jails."""
    kernel = Kernel(tmp_path, monkeypatch)
    kernel.open()
    again = kernel.open(at=kernel.own / LEAF)
    (kernel.own / LEAF / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    again.close()
    assert (kernel.own / "cgroup.subtree_control").read_text().split() == ["cpu", "memory", "pids"]
    assert kernel.procs(kernel.own) == ""


@pytest.mark.parametrize("may_move", [True, False])
def test_a_group_with_others_in_it_or_without_leave_to_move_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_move: bool
) -> None:
    kernel = Kernel(tmp_path, monkeypatch)
    if may_move:
        (kernel.own / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    groups = kernel.open(may_move=may_move)
    assert groups.mechanisms == RLIMITS
    assert ("1 other processes" if may_move else "would have to move") in groups.notes[0]
    assert groups.make(1, LIMITS) == ()
    assert [path.name for path in kernel.own.iterdir() if path.is_dir()] == []


def test_controllers_that_are_not_offered_are_named_and_left_to_rlimits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(tmp_path, monkeypatch, offers="pids io")
    groups = kernel.open()
    assert groups.mechanisms == {**RLIMITS, "pids": "cgroup v2"}
    assert groups.notes == ("no cgroup for memory, cpu",)
    assert Kernel(tmp_path / "none", monkeypatch, offers="io").open().mechanisms == RLIMITS


def test_a_limit_that_the_kernel_refuses_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(tmp_path, monkeypatch)
    groups = kernel.open()
    kernel.refuses = {"cpu.max"}
    with pytest.raises(LocalError, match=r"cgroup of jail 1: .*cpu\.max: refused"):
        groups.make(1, LIMITS)
    assert [path.name for path in kernel.own.iterdir() if path.is_dir()] == [LEAF]


def test_a_busy_group_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(tmp_path, monkeypatch)
    groups = kernel.open()
    (door,) = groups.make(1, LIMITS)
    Path(door).write_text("4711\n")
    assert not groups.remove(1)
    Path(door).write_text("")
    groups.make(2, LIMITS)
    assert not Path(door).parent.exists()


def test_only_groups_of_dead_processes_of_the_same_state_are_removed_at_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(tmp_path, monkeypatch)
    alive = kernel.open()
    (door,) = alive.make(1, LIMITS)
    name = Path(door).parent.name
    owner, process, rest = name.split("-")[1], *name.split("-", 3)[2:]
    pid, started = process.split(".")
    others = [
        f"es-{owner}-{pid}.{int(started) + 1}-{rest}",  # the number is used again
        f"es-{owner}-4194305.7-0-1",  # nobody has it
        f"es-{'0' * 12}-4194305.7-0-1",  # of another state directory
        f"es-{owner}-4194305.7-0-1-mine",
    ]
    for other in others:
        kernel.make(kernel.own / other)
    kernel.open()
    assert {path.name for path in kernel.own.iterdir() if path.is_dir()} == {LEAF, name, *others[2:]}


DOCKER = """\
30 29 0:26 /docker/abc /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory
31 29 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro,nosuid - cgroup cgroup rw,cpu,cpuacct
32 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 29 0:29 / /mnt/with\\040blank rw shared:9 - tmpfs tmpfs rw
malformed
"""


def test_groups_of_ours_are_found_where_they_are_mounted() -> None:
    text = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc/inner\n2:pids:/docker/abc\n1:name=systemd:/x\n0::/a\n"
    assert own_groups(DOCKER, text) == [
        OwnGroup(1, Path("/sys/fs/cgroup/memory"), ("memory",)),
        OwnGroup(1, Path("/sys/fs/cgroup/cpu,cpuacct/inner"), ("cpu", "cpuacct")),
        OwnGroup(2, Path("/sys/fs/cgroup/unified/a")),
    ]


@pytest.mark.parametrize(
    "text", ["4:memory:/../outside", "4:memory:/elsewhere", "0:", "", "x", ":::", "4:memory:relative"]
)
def test_what_is_outside_or_malformed_is_no_group(text: str) -> None:
    assert own_groups(DOCKER, text) == []
