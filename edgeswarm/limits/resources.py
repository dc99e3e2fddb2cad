"""Bounds of what agents and their jails may use: cgroups, CPU shares, quotas, bandwidth."""

from edgeswarm.limits.units import MIB

# --- cgroups ----------------------------------------------------------------------------------------------------------
JAIL_PROCESSES_MAX = 8  # of one jail's group: the process between, the jail, its epoch thread, and some to spare
JAIL_GROUP_SPARE_BYTES = 32 * MIB  # page tables, stacks, pipes: what RLIMIT_DATA does not count and a cgroup does
CPU_PERIOD_US = 100_000  # over which a cgroup's CPU quota holds: the kernel's own default
CPU_CORES_MIN = 0.02  # a jail starts with some 15 ms of CPU: at less it would not be ready in time on a slow board

# --- CPU shares of the agents of one jail -----------------------------------------------------------------------------
TURN_QUANTUM_NS = 20_000_000  # CPU time by which an agent may be ahead of a neighbour that waits: a few slow calls
TURN_FRAMES_MAX = 32  # frames of one agent in a jail that it shares: calls run in the order they came
TURN_BURST_S = 0.5  # seconds of its share that an agent may use at once after a pause
TURN_COST_FADE = 0.9  # what a call is expected to cost: the largest lately, a tenth less with each that cost less
TURN_WAIT_NS_MIN = 1_000_000  # an agent that is out of CPU time is looked at again after this at the earliest

# --- bandwidth --------------------------------------------------------------------------------------------------------
BANDWIDTH_BURST_S = 1.0  # seconds of its rate that an agent may send at once after a pause
BANDWIDTH_BURST_BYTES_MIN = 4_096  # a few records of a small agent, however low its rate
BANDWIDTH_WAITING_BYTES_MAX = 1 * MIB  # messages of one stream that wait for bandwidth; then the oldest goes, counted

# --- volumes ----------------------------------------------------------------------------------------------------------
VOLUME_FILES_MAX = 256  # files of one volume: a few sinks and their older files
VOLUME_FILE_BYTES_MAX = 64 * MIB  # one file that is written whole: as large as the largest compiled kernel

# --- processes --------------------------------------------------------------------------------------------------------
ORPHAN_LOOK_S = 10.0  # between two looks for ended processes that nobody waits for; each holds a number until then
