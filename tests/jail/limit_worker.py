"""A worker for tests: enters its cgroups as a jail does, by the first step of its plan, and then tries to break them.

No other layer is in force then, so that what is stopped was stopped by the cgroup.  What to try is the first agent's
name; what came of it goes out as the refusal of the jail.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from edgeswarm.jail import enter, plan, wasm, worker

FDS = worker.FDS
CHILDREN_MAX = 64
MIB = 1 << 20


def fork_bomb() -> str:
    children = []
    try:
        for _ in range(CHILDREN_MAX):
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
    except OSError as error:
        return f"forked {len(children)}, then {error.strerror}"
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return f"forked {len(children)}"


def shared_bomb() -> str:
    """Shared memory is no private data: RLIMIT_DATA, as the jail has it, does not count it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    for _ in range(64):
        address = libc.mmap(None, 32 * MIB, 3, 0x21, -1, 0)
        ctypes.memset(address, 1, 32 * MIB)
    return "touched 2 GiB"


def spin() -> str:
    while time.process_time() < 0.3:
        pass
    return f"used {time.process_time_ns()} ns"


def descriptors() -> str:
    names = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them is gone by then
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
    return "cgroup" if any("cgroup" in name for name in names) else "none"


def start(
    job: dict[str, Any],
    fds: Sequence[int],
    engine: wasm.Engine,
    steps: Sequence[plan.Step],
    forked: Callable[[int], NoReturn],
) -> NoReturn:
    if job["kind"] != "serve" or not isinstance(steps[0], plan.JoinGroups):
        worker.start(job, fds, engine, steps, forked)
    around = enter.Surroundings((), forked, lambda: None, tuple, lambda _entered: None, lambda: None)
    enter.perform([step for step in steps if isinstance(step, plan.JoinGroups | plan.Limit)][:1], around)
    name = job["agents"][0]["name"]
    found: str = getattr(sys.modules[__name__], name)()
    worker.tell(fds[0], {"failed": found})
    os._exit(7)
