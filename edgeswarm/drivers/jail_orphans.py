"""How jails end that outlive their zygote: this process becomes their parent then, and waits for them itself.

A zygote is a child of this process, and a jail one of the zygote.  When a zygote dies, the kernel hands what it has
forked to the nearest subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): that is this process between `begin` and `end`.  The
price: orphans of other programs that it started (an exec source's) come to it as well, and have to be reaped by it.
Invariants: nobody else's child is ever reaped here: neither one that leads a session, as all do that are started with a
session of their own, nor one of this process's own session; nor a jail that is known, whose end its host wants to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Collection
from typing import Final

from edgeswarm.jail import kernel

_END_WAIT_S: Final = 0.25
"""From the end of a jail's control socket to that of its process: milliseconds, but for the largest memories."""

_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37

End = tuple[int | None, int | None]
"""(exit code, None) or (None, signal)."""


class Orphans:
    """While it is begun, processes that lose their parent below this one become its children."""

    def __init__(self) -> None:
        self._before: bool | None = None

    def begin(self) -> None:
        if self._before is None:
            self._before = _is_subreaper()
            kernel.set_child_subreaper()

    def end(self) -> None:
        """As it was before; what is left goes to whoever is the nearest subreaper then."""
        if self._before is not None:
            kernel.prctl(_PR_SET_CHILD_SUBREAPER, int(self._before))
            self._before = None

    def sweep(self, keep: Collection[int]) -> int:
        """Reap every orphan that has ended, but those of `keep`; returns how many those were."""
        reaped, own_session = 0, os.getsid(0)
        for pid in _children():
            if pid in keep:
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):  # it is gone, or was reaped by who waits for it
                if _ended_in_session(pid) not in (None, pid, own_session):
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
                    reaped += 1
        return reaped


def _is_subreaper() -> bool:
    found = ctypes.c_int(0)
    kernel.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.addressof(found))
    return bool(found.value)


def _children() -> list[int]:
    """Of every thread of this process; none where the kernel does not list them (CONFIG_PROC_CHILDREN)."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    return found


def _ended_in_session(pid: int) -> int | None:
    """The session of a process that has ended and waits to be reaped; None for one that lives.  proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        state, _parent, _group, session, *_ = file.read().rpartition(b") ")[2].split()
    return int(session) if state == b"Z" else None


async def orphan_end(pidfd: int) -> End | None:
    """How a process ended that has become our child; None when it is another's, or does not end soon."""
    try:
        found = _take_end(pidfd)
        if found is None:
            await _ended(pidfd)
            found = _take_end(pidfd)
    except OSError:  # no child of ours, or no descriptor
        return None
    return found


def _take_end(pidfd: int) -> End | None:
    found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if found is None:
        return None
    return (found.si_status, None) if found.si_code == os.CLD_EXITED else (None, found.si_status)


async def _ended(pidfd: int) -> None:
    """Wait a while until a process has ended: its descriptor is readable then."""
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    loop.add_reader(pidfd, seen.set)
    try:
        async with asyncio.timeout(_END_WAIT_S):
            await seen.wait()
    except TimeoutError:
        return
    finally:
        loop.remove_reader(pidfd)
