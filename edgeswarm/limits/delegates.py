"""Bounds of delegates: contests, their verdicts, checks, tries, the sharing of an accelerator."""

from edgeswarm.limits.units import KIB

DELEGATE_CONTEST_S = 0.5  # rounds of one contest; each agent file is measured once on a device
DELEGATE_CONTEST_ROUNDS = 21  # at most: the median of 21 is within a few per cent on a machine that does other things
DELEGATE_CONTEST_ROUNDS_MIN = 5  # however slow a row is: the median of fewer is one row's luck
DELEGATE_CONTEST_ROWS_MAX = 256  # of one frame: 2 ms of the fastest model there is
DELEGATE_CONTEST_INPUTS_MAX = 32  # golden rows that a delegate must answer rightly before it is measured
DELEGATE_MARGIN = 0.05  # a delegate faster by less than this share costs more (a process, a thinner wall) than it gives
DELEGATE_VERDICTS_MAX = 1_024  # kept on disk: one for each agent that a device can have
DELEGATE_VERDICTS_BYTES_MAX = 4_096 * KIB  # 1,024 of some 1 KiB, with room for long reasons
DELEGATE_TRIES_MAX = 3  # a delegate that failed so often while serving one agent is left alone until the next start
DELEGATE_RETRY_S = 60.0  # before the first of those tries; each further one waits twice as long
DELEGATE_LINGER_S = 5.0  # a runtime's zygote outlives its last jail by this: a contest is followed by who won it
DELEGATE_THREADS_MAX = 4  # of one model: JAIL_PROCESSES_MAX holds them
DRIVER_JAIL_PROCESSES_MAX = 64  # of a jail with a GPU's driver, which has a thread or two for each core
DELEGATE_SHADOWS_MAX = 8  # checks of one agent that wait for both answers at a time
DELEGATE_RETRY_PUMP_S = 0.005  # frames of a failed delegate wait for room in the kernel's ring: look again after this
GPU_BUDGET_BYTES_MIN = 1 << 20  # what is less is no budget for any model
GPU_RETRY_S = 30.0  # an agent that was told to compute on the CPU asks for the accelerator again after this
"""Allocations change when agents come and go; who is out asks again."""
