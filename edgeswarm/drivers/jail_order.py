"""What the zygote is told to make one jail: the order, the cgroups that are made for it beforehand, and when it may
be sent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import stat
from typing import Any, Final

from edgeswarm.drivers.cgroup import GroupLimits, Groups
from edgeswarm.drivers.jail_life import Link
from edgeswarm.jail.policy import Policy, Tier
from edgeswarm.limits import (
    DRIVER_JAIL_PROCESSES_MAX,
    JAIL_GROUP_SPARE_BYTES,
    JAIL_PROCESSES_MAX,
    JAILS_MAX,
    ZYGOTE_ORDERS_MAX,
)

_DESCRIPTORS_A_JAIL: Final = 9
"""Six while it lives, three more while it starts."""
_DESCRIPTORS_OTHER: Final = 256
_HEAR_S_MAX: Final = 0.1


class Orders:
    """Those that were sent and that the zygote has not answered yet.  `async with` it: when the next one's turn comes.

    waiting: how many wait for their turn, or have it.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._turn = asyncio.Lock()
        self._sent: set[int] = set()
        self._heard = asyncio.Event()

    async def __aenter__(self) -> None:
        self.waiting += 1
        try:
            await self._turn.acquire()
        except BaseException:
            self.waiting -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self.waiting -= 1
        self._turn.release()

    @property
    def full(self) -> bool:
        return len(self._sent) >= ZYGOTE_ORDERS_MAX

    def sent(self, number: int) -> None:
        self._sent.add(number)

    def answered(self, number: int) -> None:
        """The zygote has said what became of it; or its jail has ended, and nobody waits for that any more."""
        self._sent.discard(number)
        self._heard.set()

    async def hear(self) -> None:
        """Wait for an answer; a moment only, as a socket may be full for other reasons than our orders."""
        self._heard.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HEAR_S_MAX):
                await self._heard.wait()


def group_limits(link: Link, policy: Policy) -> GroupLimits:
    """What the jail of this link may use, as its cgroup has it.

    Its memory is what RLIMIT_DATA allows, what it shares with the supervisor (whoever touches that first is charged),
    and what the kernel needs for it: an honest jail meets RLIMIT_DATA first, and gets an error, not a kill.
    """
    own_bytes = policy.data_bytes + link.memory_bytes_max
    shared_bytes = sum(_memory_bytes(fd) for fd in link.fds)
    return GroupLimits(
        memory_bytes=own_bytes + own_bytes // 8 + shared_bytes + JAIL_GROUP_SPARE_BYTES,
        processes=JAIL_PROCESSES_MAX if not link.job.get("prepares") else DRIVER_JAIL_PROCESSES_MAX,
        cpu_cores=link.cpu_cores,
    )


def _memory_bytes(fd: int) -> int:
    found = os.fstat(fd)
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def order_for(link: Link, policy: Policy, tier: Tier, groups: Groups) -> dict[str, Any]:
    """What the zygote is told, besides the descriptors.  Makes the jail's groups; raises LocalError when the kernel
    takes no more."""
    return {
        "order": "jail",
        "id": link.id,
        "policy": policy.name,
        "tier": tier,
        "memory_bytes": link.memory_bytes_max,
        "groups": groups.make(link.id, group_limits(link, policy)),
        "job": link.job,
    }


def why_killed(groups: Groups, number: int) -> str:
    """Why the kernel killed jail `number`, when that was for its memory; else nothing.  To be asked before its groups
    are removed."""
    killed = groups.toll(number).oom_kills
    return f"used more memory than it may: killed ({groups.mechanisms['memory']}, oom_kill)" if killed else ""


def allow_descriptors() -> None:
    """Raise this process's soft limit of open files to what all jails need, as far as its hard limit goes."""
    count = _DESCRIPTORS_OTHER + JAILS_MAX * _DESCRIPTORS_A_JAIL
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
