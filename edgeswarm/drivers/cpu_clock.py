"""CPU time of another process, by its clock in the kernel (clock_getcpuclockid(3)): in ns, and without /proc."""

from __future__ import annotations

import time
from typing import Final

_SCHED: Final = 2
"""CPUCLOCK_SCHED of include/linux/posix-timers_types.h: what the scheduler has counted, of all threads."""


def cpu_ns(pid: int) -> int:
    """CPU time that a process has used so far; 0 when it is gone."""
    if pid <= 0:
        return 0
    try:
        return time.clock_gettime_ns((~pid << 3) | _SCHED)
    except OSError:
        return 0
