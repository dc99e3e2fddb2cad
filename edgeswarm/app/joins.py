"""Which agent's flow passes its rows to which, on this device.

A source `agent` is joined to that agent's flow; `any/agent` is joined while the agent runs here (`Supervisor.remote`
says when).  Invariant: joins hold no circle, so that agents never wait in one for each other's full queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeswarm.agentfile.wiring import AgentSource
from edgeswarm.app.lifecycle import Lifecycle
from edgeswarm.app.pump import AgentFlow, Reader
from edgeswarm.ids import AgentName
from edgeswarm.stream.remote import ANY

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor


class Joins:
    """flows: by agent name, shared with `Flows`."""

    def __init__(self, supervisor: Supervisor, flows: Mapping[AgentName, AgentFlow], life: Lifecycle) -> None:
        self._sup, self.flows, self.life = supervisor, flows, life
        self._circles: set[tuple[AgentName, AgentName]] = set()  # told already: (reader, agent that it reads)

    def join(self, flow: AgentFlow) -> None:
        """Connect with the open flows that this one reads, and those that read it."""
        links = self._links()
        for name, wanted in links.items():
            reader = self.flows[name]
            for index, source in wanted.items():
                writer = self.flows.get(source)
                if writer is not None and flow in (reader, writer):
                    _link(reader, index, writer)

    def _links(self) -> dict[AgentName, dict[int, AgentName]]:
        """Open agent -> its source -> the agent of this device that it should read there.

        Of a circle over agents that may be anywhere nothing is joined: they would hold each other up.
        """
        links: dict[AgentName, dict[int, AgentName]] = {}
        loose: list[tuple[AgentName, int]] = []
        for header in self._sup.shelf.known():
            name = AgentName(header.name)
            if name not in self.flows or not self.life.is_open(name):
                continue
            wanted = links.setdefault(name, {})
            for index, source in enumerate(header.wiring.sources):
                writer = self._writer_of(source) if isinstance(source, AgentSource) else None
                if writer is not None:
                    wanted[index] = writer
                    if isinstance(source, AgentSource) and source.device:
                        loose.append((name, index))
        circles = [(name, index) for name, index in loose if _reaches(links, links[name][index], name)]
        for name, index in circles:
            writer = links[name].pop(index)
            if (name, writer) not in self._circles:
                self._circles.add((name, writer))
                self._sup.log.error("stream_circle", agent=name, source=writer)
        return links

    def _writer_of(self, source: AgentSource) -> AgentName | None:
        """The agent of this device that a source reads now; None while it is another device's."""
        if not source.device:
            return AgentName(source.agent)
        if self._sup.remote is not None:
            return self._sup.remote.writer(source)
        return AgentName(source.name) if source.device == ANY else None

    def leave_writers(self, flow: AgentFlow) -> None:
        """It reads no stream any more: nobody is held back by it."""
        writers, flow.writers = flow.writers, []
        for writer in writers:
            dropped = writer.forget_reader(flow)
            if dropped:
                self._sup.log.warning("rows_discarded", agent=flow.name, writer=writer.name, count=len(dropped))
            writer.release()

    def unjoin(self, flow: AgentFlow) -> None:
        self.leave_writers(flow)
        for reader in flow.readers:
            reader.flow.writers = [writer for writer in reader.flow.writers if writer is not flow]
        flow.readers = []

    def rejoin(self, flow: AgentFlow) -> None:
        """Make it read what it should read now: another version may read other streams."""
        self.rejoin_remote(flow.name)

    def rejoin_remote(self, *names: AgentName) -> None:
        """Agents that may be anywhere came to this device, or left it.  names: agents that changed themselves."""
        for name, wanted in self._links().items():
            sources = self._sup.shelf.current(name).header.wiring.sources
            if name in names or any(isinstance(source, AgentSource) and source.device for source in sources):
                self._relink(self.flows[name], wanted)

    def _relink(self, flow: AgentFlow, wanted: Mapping[int, AgentName]) -> None:
        """Make the flow read exactly these.  Rows held for a source that leaves go on with its remote one."""
        links = {(self.flows[writer], index) for index, writer in wanted.items() if writer in self.flows}
        now = {(writer, reader.index) for writer in flow.writers for reader in writer.readers if reader.flow is flow}
        for writer, index in now - links:
            rows = writer.forget_reader(flow, index)
            flow.writers.remove(writer)
            if rows and not self.life.take_over(flow.name, index, rows):
                self._sup.log.warning("rows_discarded", agent=flow.name, writer=writer.name, count=len(rows))
            writer.release()
        for writer, index in links - now:
            _link(flow, index, writer)

    def forget(self, name: AgentName) -> None:
        """The agent is removed: a circle with another one of its name is told again."""
        self._circles = {pair for pair in self._circles if name not in pair}


def _link(reader: AgentFlow, index: int, writer: AgentFlow) -> None:
    writer.readers.append(Reader(reader, index))
    reader.writers.append(writer)


def _reaches(links: Mapping[AgentName, Mapping[int, AgentName]], start: AgentName, end: AgentName) -> bool:
    """Does `start` read `end`, directly or by way of others?  An agent reaches itself."""
    seen, ahead = {start}, [start]
    while ahead:
        here = ahead.pop()
        if here == end:
            return True
        following = [name for name in links.get(here, {}).values() if name not in seen]
        seen.update(following)
        ahead.extend(following)
    return False
