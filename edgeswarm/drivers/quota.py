"""How many bytes of disk are kept for one agent: an account by volume and name, and never more than its quota.

Whoever writes for an agent claims the size first and writes then, or does not write: past the quota nothing is begun.
Sizes are those of the files as they are kept; what a file is replaced from is beside it for a moment (`write_whole`).
Invariants: used_bytes is the sum of all sizes; a claim that was granted leaves it at most at limit_bytes; a claim that
was refused changes nothing.  What is found on the disk counts, whatever the quota: then only less can be claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeswarm.errors import LimitError

AGENT_DATA: Final = "agent_data"
"""What its sinks keep, its checkpoint, its weights, frames that nobody could answer."""
MODEL_CACHE: Final = "model_cache"
"""Its compiled code."""
TEMP_WORKSPACE: Final = "temp_workspace"
"""What is emptied whenever it starts."""
AGENT_VOLUMES: Final = (AGENT_DATA, MODEL_CACHE, TEMP_WORKSPACE)
COORDINATOR_VOLUMES: Final = ("coordination_data", "swarm_state")


class QuotaError(LimitError):
    """No space left for this agent: ENOSPC, but its own."""


class Quota:
    """One agent's account."""

    def __init__(self, who: str, limit_bytes: int) -> None:
        self.who = who
        self.limit_bytes = limit_bytes
        self._sizes: dict[tuple[str, str], int] = {}
        self.used_bytes = 0
        self.refused = 0

    def size(self, volume: str, name: str) -> int:
        return self._sizes.get((volume, name), 0)

    def claim(self, volume: str, name: str, size_bytes: int) -> None:
        """This will have `size_bytes` from now on.  Raises QuotaError, with nothing changed; never for what shrinks."""
        old = self.size(volume, name)
        if size_bytes > old and self.used_bytes - old + size_bytes > self.limit_bytes:
            self.refused += 1
            raise QuotaError(
                f"{self.who}: no space left for {volume}/{name}: {size_bytes} bytes wanted, "
                f"{max(0, self.limit_bytes - self.used_bytes + old)} free of {self.limit_bytes} (disk_mb)"
            )
        self.found(volume, name, size_bytes)

    def found(self, volume: str, name: str, size_bytes: int) -> None:
        """This has `size_bytes`, whatever was claimed; 0: it is gone."""
        key = (volume, name)
        self.used_bytes += size_bytes - self._sizes.pop(key, 0)
        if size_bytes:
            self._sizes[key] = size_bytes

    def volumes(self) -> dict[str, int]:
        """Bytes by volume, every volume of an agent included."""
        sums = dict.fromkeys(AGENT_VOLUMES, 0)
        for (volume, _), size_bytes in self._sizes.items():
            sums[volume] = sums.get(volume, 0) + size_bytes
        return sums


@dataclass(frozen=True, slots=True)
class Account:
    """One writer's part of a quota: its files, by their names after `prefix`."""

    quota: Quota
    volume: str
    prefix: str = ""

    def claim(self, name: str, size_bytes: int) -> None:
        """Raises QuotaError."""
        self.quota.claim(self.volume, self.prefix + name, size_bytes)

    def found(self, name: str, size_bytes: int) -> None:
        self.quota.found(self.volume, self.prefix + name, size_bytes)
