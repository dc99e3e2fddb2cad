"""Our cell: voters as processes of their own on one mosquitto."""

from __future__ import annotations

from _swarm_cluster import Cluster, MissingError


class Ours(Cluster):
    """Timing profile `lan`."""

    def __init__(self) -> None:
        raise MissingError("no member to run yet")

    def start(self, members: int) -> None: ...

    def leader(self) -> int | None: ...

    def load(self, *, in_flight: int, seconds: float, rate: float = 0.0) -> list[float]: ...

    def first_write(self, killed: int, since: float, seconds: float = 20.0) -> float: ...

    def spawn(self, member: int) -> None: ...

    def is_whole(self) -> bool: ...
