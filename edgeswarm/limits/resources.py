"""Bounds of what agents and their jails may use: cgroups, CPU shares, quotas, bandwidth."""

from edgeswarm.limits.units import MIB

# --- cgroups ----------------------------------------------------------------------------------------------------------
JAIL_PROCESSES_MAX = 8  # of one jail's group: the process between, the jail, its epoch thread, and some to spare
JAIL_GROUP_SPARE_BYTES = 32 * MIB  # page tables, stacks, pipes: what RLIMIT_DATA does not count and a cgroup does
CPU_PERIOD_US = 100_000  # over which a cgroup's CPU quota holds: the kernel's own default
CPU_CORES_MIN = 0.02  # a jail starts with some 15 ms of CPU: at less it would not be ready in time on a slow board
