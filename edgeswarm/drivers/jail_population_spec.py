"""What a population in a jail is made of, and whether one jail can hold it.  Pure but for one sysctl."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeswarm.errors import LimitError
from edgeswarm.jail.pages import Span, around, joined
from edgeswarm.limits import (
    CALL_DEADLINE_MS_MAX,
    POPULATION_DEADLINE_MS_DEFAULT,
    POPULATION_INSTANCES_MAX,
    POPULATION_MEMORY_BYTES_MAX,
    POPULATION_RESETS_MAX,
    POPULATION_SHARED_BYTES_MAX,
)

_MAPPINGS_SPARE: Final = 2_000  # the interpreter's, the libraries', the code's


@dataclass(frozen=True, slots=True)
class PopulationSpec:
    """What a population is made of.  cwasm and driver come from `SyncHost.compile` only.

    spans: pages of an agent's memory that both sides see.  filled: they are written here, before the jail starts.
    """

    name: str
    count: int
    cwasm: bytes
    driver: bytes
    spans: tuple[Span, ...]
    weights: bytes
    weights_offset: int
    memory_bytes: int
    memory_limit_bytes: int = 0
    """0: memory_bytes."""
    filled: bool = False
    resets_max: int = POPULATION_RESETS_MAX
    deadline_ms: int = POPULATION_DEADLINE_MS_DEFAULT

    @property
    def limit_bytes(self) -> int:
        return self.memory_limit_bytes or self.memory_bytes

    @property
    def stride(self) -> int:
        return sum(span.size for span in self.spans)

    @property
    def mappings(self) -> int:
        """Into how many pieces an agent's memory falls at most: spans, weights, what is between, what is reserved."""
        weights = around(self.weights_offset, self.weights_offset + len(self.weights))
        places = {0, self.memory_bytes, *weights, *(place for span in self.spans for place in span)}
        return sum(place < self.memory_bytes for place in places) + 1

    def check(self) -> None:
        """Raises LimitError or LocalError when this cannot be one jail."""
        if not 1 <= self.count <= POPULATION_INSTANCES_MAX:
            raise LimitError(
                f"population {self.name}: 1 to {POPULATION_INSTANCES_MAX} isolated agents (POPULATION_INSTANCES_MAX) "
                f"expected, found {self.count}"
            )
        for what, found, most, bound in (
            ("memory", self.count * self.limit_bytes, POPULATION_MEMORY_BYTES_MAX, "POPULATION_MEMORY_BYTES_MAX"),
            (
                "inputs and outputs",
                self.count * self.stride,
                POPULATION_SHARED_BYTES_MAX,
                "POPULATION_SHARED_BYTES_MAX",
            ),
        ):
            if found > most:
                raise LimitError(
                    f"population {self.name}: {what} of {self.count} agents: at most {most} bytes ({bound}), "
                    f"found {found}; fewer agents or a smaller memory limit need less"
                )
        if not 1 <= self.deadline_ms <= CALL_DEADLINE_MS_MAX:
            raise LimitError(
                f"population {self.name}: deadline of 1 to {CALL_DEADLINE_MS_MAX} ms (CALL_DEADLINE_MS_MAX) expected, "
                f"found {self.deadline_ms}"
            )
        needed, most = self.count * self.mappings + _MAPPINGS_SPARE, mappings_max()
        if self.count > 1 and needed > most:
            raise LimitError(
                f"population {self.name}: {self.count} isolated agents need {needed} memory mappings, this machine "
                f"allows {most} (sysctl vm.max_map_count); use fewer agents or isolation=packed"
            )


def mappings_max() -> int:
    """How many memory mappings Linux gives one process."""
    try:
        with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65_530


def spans_of(*regions: tuple[int, int]) -> tuple[Span, ...]:
    """The pages of these (first byte, byte past the last), as few spans in order."""
    return tuple(joined([around(first, end) for first, end in regions]))
