"""Bounds of populations: many agents of one model in one jail."""

from edgeswarm.limits.units import GIB, KIB

POPULATION_INSTANCES_MAX = 16_384  # isolated agents: 3 mappings each of 65,530, 4 GiB of addresses each of 128 TiB
POPULATION_RESETS_MAX = 4_096  # instances made anew in one jail: its store frees none of the old ones
POPULATION_PACKED_MAX = 8_388_608  # agents in one memory: of the smallest nets, what fills the next bound
POPULATION_PACKED_BYTES_MAX = 2 * GIB  # one memory of packed agents; half of what 32-bit addresses reach
POPULATION_MEMORY_BYTES_MAX = 16 * GIB  # sum of the isolated agents' limits; pages that nobody writes are shared
POPULATION_SHARED_BYTES_MAX = 4 * GIB  # inputs and outputs of isolated agents, a page each at least
POPULATION_PARAMETERS_MAX = 16_384  # of one packed net: past that its own SIMD kernel keeps the lanes as full
POPULATION_DEADLINE_MS_DEFAULT = 100  # one agent's share of a tick; a small net takes less than a thousandth of it
POPULATION_PACKED_DEADLINE_MS_DEFAULT = 10_000  # a tick of all packed agents: 2 GiB pass through in a second or two
POPULATION_PACKED_RESETS_MAX = 256  # a packed memory that fell is made anew; code of ours falls never, so few suffice
POPULATION_TICK_MS_MAX = 60_000  # a whole tick; past a minute without an answer the jail is ended
POPULATION_HOST_BYTES = 8 * KIB  # an instance's own bookkeeping in wasmtime, which the jail's memory limit allows for
