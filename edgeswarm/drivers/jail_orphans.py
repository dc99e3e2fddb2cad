"""How jails end that outlive their zygote, and what else comes to a supervisor whose process is its own.

A zygote is a child of this process, and a jail one of the zygote.  When a zygote dies, the kernel hands what it has
forked to the nearest subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): that is this process between `begin` and `end`, if
nothing but a supervisor runs in it.  The price: orphans of whatever else it started (an exec source's) come to it as
well, and have to be reaped by it.  A program that uses EdgeSwarm as a library must not pay that: there nobody begins,
and the kernel tells how a jail ended once its new parent has reaped it (Linux 6.15).
Invariants: no child is ever reaped that somebody is about to wait for: none that leads a session (all do that are
started with a session of their own) or is of this process's own, unless nobody has waited for it in ORPHAN_LOOK_S; nor
a jail that is known, whose end its host wants to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import struct
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from edgeswarm.jail import kernel
from edgeswarm.limits import ORPHAN_LOOK_S

_END_WAIT_S: Final = 0.25
"""From the end of a jail's control socket to that of its process: milliseconds, but for the largest memories."""

_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37
_PIDFD_INFO: Final = struct.Struct("<QQ11Ii")
"""struct pidfd_info of linux/pidfd.h as far as exit_code: mask, cgroup, eleven ids, exit_code."""
_PIDFD_GET_INFO: Final = 3 << 30 | _PIDFD_INFO.size << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT: Final = 1 << 3

End = tuple[int | None, int | None]
"""(exit code, None) or (None, signal)."""


class _Zombie(NamedTuple):
    pid: int
    session: int
    started: int


class Orphans:
    """While it is begun, processes that lose their parent below this one become its children.

    keep: the processes whose ends others want to know.  ours: nothing but a supervisor runs in this process; else
    nothing ever happens here.
    """

    def __init__(self, keep: Callable[[], Collection[int]] = tuple, *, ours: bool = True) -> None:
        self._keep = keep
        self._ours = ours
        self._before: bool | None = None
        self._seen: set[_Zombie] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """From now on look for them; in an event loop every ORPHAN_LOOK_S, else at `sweep` only."""
        if self._ours and self._before is None:
            self._before = _is_subreaper()
            kernel.set_child_subreaper()
            with contextlib.suppress(RuntimeError):
                self._timer = asyncio.get_running_loop().call_later(ORPHAN_LOOK_S, self._look)

    def end(self) -> None:
        """As it was before; what is left goes to whoever is the nearest subreaper then."""
        if self._before is not None:
            kernel.prctl(_PR_SET_CHILD_SUBREAPER, int(self._before))
            self._before = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def sweep(self) -> int:
        """Reap every orphan that has ended, but those that are kept; returns how many those were."""
        return self._reap({zombie for zombie in self._zombies() if _is_nobodys(zombie)})

    def _look(self) -> None:
        """As `sweep`, and what has been waiting to be reaped since the last look: nobody is about to."""
        zombies = self._zombies()
        self._reap({zombie for zombie in zombies if _is_nobodys(zombie)} | (zombies & self._seen))
        self._seen = zombies
        self._timer = asyncio.get_running_loop().call_later(ORPHAN_LOOK_S, self._look)

    def _zombies(self) -> set[_Zombie]:
        if self._before is None:
            return set()
        keep = self._keep()
        return {zombie for pid in _children() if pid not in keep and (zombie := _zombie(pid)) is not None}

    def _reap(self, zombies: Collection[_Zombie]) -> int:
        for zombie in zombies:
            with contextlib.suppress(OSError):  # it was reaped by who waits for it
                os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOHANG)
        return len(zombies)


def _is_nobodys(zombie: _Zombie) -> bool:
    """It was started by a child of ours, not by us."""
    return zombie.session not in (zombie.pid, os.getsid(0))


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


def _zombie(pid: int) -> _Zombie | None:
    """A process that has ended and waits to be reaped; None for one that lives, or is gone.  proc_pid_stat(5)."""
    fields = _stat(pid)
    if not fields or fields[0] != b"Z":
        return None
    return _Zombie(pid, session=int(fields[3]), started=int(fields[19]))


def _stat(pid: int) -> list[bytes]:
    """What follows the name of a process in its stat; empty for one that is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2].split()
    return []


async def orphan_end(pidfd: int) -> End | None:
    """How a process ended that has become our child, or that its parent has reaped; None when nobody can say yet."""
    try:
        found = _take_end(pidfd)
        if found is None:
            await _ended(pidfd)
            found = _take_end(pidfd)
    except ChildProcessError:
        return told_end(pidfd)
    except OSError:  # no descriptor
        return None
    return found


def zombie_end(pidfd: int) -> End | None:
    """How a process ended badly that nobody has reaped yet; None for one that lives, is gone, or ended well.

    Source: proc_pid_stat(5), exit_code; who may not trace the process is shown a 0.
    """
    pid = _pid_of(pidfd)
    fields = _stat(pid)
    if not fields or fields[0] != b"Z" or _pid_of(pidfd) != pid:  # its number may be another's by now
        return None
    status = int(fields[49])
    return _end(status) if status else None


def _pid_of(pidfd: int) -> int:
    """-1 once it is reaped."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
    return -1


def told_end(pidfd: int) -> End | None:
    """How a process ended that somebody else has reaped; None where the kernel does not say (before Linux 6.15).

    Source: linux/pidfd.h, PIDFD_GET_INFO.
    """
    answer = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *(12 * [0]), 0))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, answer)
    except OSError:
        return None
    mask, *_, status = _PIDFD_INFO.unpack(answer)
    if not mask & _PIDFD_INFO_EXIT:
        return None
    return _end(status)


def _end(status: int) -> End:
    """status: as of waitpid(2)."""
    how = os.waitstatus_to_exitcode(status)
    return (how, None) if how >= 0 else (None, -how)


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
