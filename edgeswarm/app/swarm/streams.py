"""The streams of agents across devices: what leaves this device, what comes to it, and what is joined on it.

Out: rows of an agent whose file says `publish` go to stream/<device>/<agent>, in batches, while fencing allows.
In: a source `device/agent` or `any/agent` of an agent here subscribes, and gets the rows that stream.remote delivers;
while the agent that it names runs on this device, it gets them straight from its flow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode


class Streams:
    """node: of this device; its post and its supervisor are there, started or not."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node

    def start(self) -> None:
        """From now on agents that open and close are looked at."""

    def wake(self) -> None:
        """The cell's table, the lease or the stop flag changed.  Cheap, does no I/O, may be called at any time."""

    async def close(self) -> None:
        """Send what waits, let go of every agent."""

    def counts(self) -> dict[str, Any]:
        """For metrics: {"out": {agent: counts}, "in": {"agent <- device/agent": counts}}."""
        return {"out": {}, "in": {}}
