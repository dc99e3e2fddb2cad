"""What the data plane asks of the swarm, where this device is in one (`app.swarm.streams`).

Without one, `Supervisor.remote` is None: a source `any/agent` reads the agent of this device, a source `device/agent`
reads nothing until the device is in a cell, and both steps of a workflow that name the swarm say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgeswarm.agentfile.header import Header
from edgeswarm.agentfile.wiring import AgentSource
from edgeswarm.app.pump import AgentFlow
from edgeswarm.drivers.sources import Source
from edgeswarm.ids import AgentName
from edgeswarm.stream.queue import Row
from edgeswarm.stream.report import OnEvent


class RemoteStreams(Protocol):
    """All are called on the loop, do no I/O and raise nothing."""

    def place(self) -> str:
        """Cell and device, in words."""
        ...

    def source(self, reader: AgentName, spec: AgentSource, on_event: OnEvent) -> Source:
        """The driver of a source `device/agent` or `any/agent`; it listens while it runs."""
        ...

    def writer(self, spec: AgentSource) -> AgentName | None:
        """The open agent of this device that such a source reads now; None while it is another device's."""
        ...

    def take_over(self, source: Source, rows: Sequence[tuple[Row, int]]) -> bool:
        """Rows that were held back for this source, each with its time.monotonic_ns().  False: it is none of ours."""
        ...

    def opened(self, flow: AgentFlow, header: Header) -> None:
        """An agent was opened, or goes on as another version."""
        ...

    def closed(self, flow: AgentFlow) -> None:
        """An agent was closed; the flow may be opened again."""
        ...
