"""Real bursts of load on this machine, caused on purpose: every core busy, or a piece of memory taken and held.

Used by record.py to make recordings with known labels, and by `edgeswarm demo`.  Standard library only.

    python bursts.py cpu --seconds 3
    python bursts.py memory --seconds 3 --percent 8
    python bursts.py size                      what a burst can reach here, in percent of the machine

A container may have less than the machine (cpuset, cgroup quota, cgroup memory limit), while psutil's percentages are
of the whole machine: `reachable` says how large a burst can be from in here, and is what the agents' scale is set by.
"""

from __future__ import annotations

import argparse
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MEMORY_PERCENT = 8.0  # of the machine's memory: well above what programs come and go with, far below what hurts
MEMORY_BYTES_MIN = 400 << 20  # and not less than this: on a small board a Python interpreter alone is some percent
MEMORY_SHARE_MAX = 0.5  # of what is available: nothing is swapped out or killed for a demonstration
HOLDER_BYTES_MAX = 2 << 30  # of one process: larger bursts are taken by several at once, so that the ramp stays short
HOLDERS_MAX = 16
RAMP_S = 0.8  # the memory comes over this time where the machine is quick, so that one core is not kept busy by it
RAMP_S_MAX = 2.5  # and is what it is by then: a virtual machine that gets its memory on demand may be slow to give it
RAMP_STEPS = 32


@dataclass(frozen=True, slots=True)
class Reach:
    """The largest burst possible from here, in percent of the machine's CPU time and memory."""

    cpu_percent: float
    memory_percent: float
    memory_bytes: int


def reachable(memory_percent: float = MEMORY_PERCENT) -> Reach:
    """What `start_cpu` and `start_memory` will add at most, on an idle machine.  memory_percent: how much is wanted."""
    cores = os.cpu_count() or 1
    usable = min([float(len(os.sched_getaffinity(0))), *_cgroup_cores()])
    memory = _meminfo()
    room = min([memory["MemAvailable"], *_cgroup_memory_room()])
    size = int(min(max(memory["MemTotal"] * memory_percent / 100, MEMORY_BYTES_MIN), room * MEMORY_SHARE_MAX))
    return Reach(100.0 * min(1.0, usable / cores), 100.0 * size / memory["MemTotal"], size)


def start_cpu(seconds: float) -> list[subprocess.Popen[bytes]]:
    """One busy process a usable core; they end by themselves after `seconds`, or when this process dies."""
    return [_start("spin", seconds) for _ in os.sched_getaffinity(0)]


def start_memory(seconds: float, memory_percent: float = MEMORY_PERCENT) -> list[subprocess.Popen[bytes]]:
    """Processes that take up to `reachable(memory_percent).memory_bytes` together, then hold it for `seconds`."""
    size = reachable(memory_percent).memory_bytes
    count = max(1, min(HOLDERS_MAX, -(-size // HOLDER_BYTES_MAX)))
    return [_start("hold", seconds, size // count) for _ in range(count)]


def wait(processes: list[subprocess.Popen[bytes]]) -> None:
    """Until all of a burst's processes have ended."""
    for process in processes:
        process.wait()


def _start(*words: object) -> subprocess.Popen[bytes]:
    """This file again as a child, which ends early when we die."""
    argv = [sys.executable, "-I", "-S", __file__, *map(str, words), "--parent", str(os.getpid())]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


# --- in the children --------------------------------------------------------------------------------------------


def _orphaned(parent: int) -> bool:
    return os.getppid() != parent


def _spin(seconds: float, parent: int) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not _orphaned(parent):
        for _ in range(100_000):
            pass


def _hold(seconds: float, size: int, parent: int) -> None:
    start = time.monotonic()
    step = max(mmap.PAGESIZE, size // RAMP_STEPS // mmap.PAGESIZE * mmap.PAGESIZE)
    held: list[mmap.mmap] = []
    while len(held) * step < size and time.monotonic() < start + RAMP_S_MAX:
        block = mmap.mmap(-1, step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block.madvise(mmap.MADV_HUGEPAGE)
        block[:: mmap.PAGESIZE] = b"\x01" * (step // mmap.PAGESIZE)  # a page is taken when it is written to
        held.append(block)
        time.sleep(max(0.0, start + RAMP_S * len(held) / RAMP_STEPS - time.monotonic()))
    end = time.monotonic() + seconds
    while time.monotonic() < end and not _orphaned(parent):
        time.sleep(0.05)


# --- what the machine has, and what of it we may use -------------------------------------------------------------


def _meminfo() -> dict[str, int]:
    """Bytes by name, from /proc/meminfo (which counts in kB)."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}


def _cgroup_folders() -> Iterator[Path]:
    """Our cgroup (v2) and those above it, as far as we see them."""
    root = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            folder = root / line[3:].strip().lstrip("/")
            yield from (place for place in (folder, *folder.parents) if place == root or root in place.parents)


def _cgroup_cores() -> Iterator[float]:
    for folder in _cgroup_folders():
        words = _words(folder / "cpu.max")
        if len(words) == 2 and words[0].isdigit():
            yield int(words[0]) / int(words[1])


def _cgroup_memory_room() -> Iterator[int]:
    for folder in _cgroup_folders():
        limit, used = _words(folder / "memory.max"), _words(folder / "memory.current")
        if limit and limit[0].isdigit() and used:
            yield max(0, int(limit[0]) - int(used[0]))


def _words(path: Path) -> list[str]:
    """The words of a small file; none where it is absent or not ours to read."""
    try:
        return path.read_text().split()
    except OSError:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description="Cause a burst of load on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("cpu", "memory"):
        command = commands.add_parser(name)
        command.add_argument("--seconds", type=float, default=3.0)
        if name == "memory":
            command.add_argument("--percent", type=float, default=MEMORY_PERCENT)
    commands.add_parser("size")
    for name in ("spin", "hold"):  # what the children do
        command = commands.add_parser(name)
        command.add_argument("seconds", type=float)
        if name == "hold":
            command.add_argument("size", type=int)
        command.add_argument("--parent", type=int, required=True)
    args = parser.parse_args()
    match args.command:
        case "cpu":
            wait(start_cpu(args.seconds))
        case "memory":
            wait(start_memory(args.seconds, args.percent))
        case "spin":
            _spin(args.seconds, args.parent)
        case "hold":
            _hold(args.seconds, args.size, args.parent)
        case _:
            reach = reachable()
            print(f"cpu {reach.cpu_percent:.1f} %, memory {reach.memory_percent:.2f} % ({reach.memory_bytes:,} bytes)")


if __name__ == "__main__":
    main()
