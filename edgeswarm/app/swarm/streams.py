"""The streams of agents across devices: what leaves this device, what comes to it, and what is joined on it.

Out: rows of an agent whose file says `publish` go to stream/<device>/<agent>, in batches, while fencing allows.  (MQTT
tells no publisher whether anybody listens; the file does, so nothing is asked and a moved agent speaks at once.)
In: a source `device/agent` or `any/agent` of an agent here subscribes, and gets the rows that stream.remote delivers;
while the agent that it names runs on this device, it gets them straight from its flow.
Invariants: a message counts only on the topic of the device that signed it; an agent that the cell's table knows is
heard from the device that the table names, no other; each topic is subscribed to once, however many read it.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeswarm.agentfile.header import Header
from edgeswarm.agentfile.wiring import AgentSource
from edgeswarm.app.flows import stream_width
from edgeswarm.app.pump import AgentFlow
from edgeswarm.app.swarm.post import Letter
from edgeswarm.app.swarm.streams_in import Message, RemoteSource
from edgeswarm.app.swarm.streams_out import NOT_YET, Outlet, is_bulk
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.drivers.sources import Setup, Source
from edgeswarm.errors import RemoteError
from edgeswarm.ids import AgentName
from edgeswarm.limits import REMOTE_BATCH_ROWS_DEFAULT, STREAM_PARKED_MS_MAX
from edgeswarm.stream.queue import Row
from edgeswarm.stream.remote import ANY
from edgeswarm.stream.report import OnEvent
from edgeswarm.wire.capability import PUBLISH

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode


def now_ms() -> int:
    """Wall clock."""
    return int(time.time() * 1000)


class Streams:
    """node: of this device; its post and its supervisor are there, started or not."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._outlets: dict[AgentName, Outlet] = {}
        self._ears: dict[str, list[RemoteSource]] = {}  # running sources, by the agent that they read
        self._filters: dict[str, bool] = {}  # topic filters subscribed to -> over the second connection
        self._look_soon: asyncio.Handle | None = None
        self._look_later: asyncio.TimerHandle | None = None
        self._closed = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """From now on agents that open and close are looked at; those that are open already are now."""
        supervisor = self._node.supervisor
        supervisor.remote = self
        supervisor.flows.remote_came()

    def wake(self) -> None:
        """The cell's table, the lease or the stop flag changed.  Cheap, does no I/O, may be called at any time."""
        if self._look_soon is None and not self._closed:
            self._look_soon = asyncio.get_running_loop().call_soon(self._look)

    async def close(self) -> None:
        """Send what waits, let go of every agent."""
        self._closed = True
        if self._look_soon is not None:
            self._look_soon.cancel()
        if self._look_later is not None:
            self._look_later.cancel()
        for outlet in self._outlets.values():
            outlet.detach()
        for topic_filter, bulk in self._filters.items():
            self._node.post.transport.unsubscribe(topic_filter, bulk=bulk)
        self._filters.clear()
        if self._node.supervisor.remote is self:
            self._node.supervisor.remote = None

    def counts(self) -> dict[str, Any]:
        """For metrics: {"out": {agent: counts}, "in": {"agent <- device/agent": counts}}."""
        heard = {
            f"{source.reader} <- {source.spec.agent}": {
                **source.subscriber.counts.as_dict(),
                "taken": source.counts.rows,
                "waiting": source.waiting,
                "overflow": source.counts.overflow,
                "outdated": source.counts.outdated,
                "beside": source.counts.beside,
            }
            for sources in self._ears.values()
            for source in sources
        }
        return {"out": {name: outlet.counts() for name, outlet in self._outlets.items()}, "in": heard}

    # --- what the data plane asks (app.remote.RemoteStreams) ----------------------------------------------------------

    def place(self) -> str:
        return f"in cell {self._node.config.cell} as device {self._node.config.device}"

    def source(self, reader: AgentName, spec: AgentSource, on_event: OnEvent) -> Source:
        setup = Setup(spec.id or spec.agent, on_event)
        return RemoteSource(reader, spec, setup, listen=self._listens, unlisten=self._unlistens)

    def writer(self, spec: AgentSource) -> AgentName | None:
        name = AgentName(spec.name)
        if spec.device not in (ANY, self._node.config.device) or not self._node.supervisor.flows.life.is_open(name):
            return None
        return None if self._permit(name) is None else name

    def take_over(self, source: Source, rows: Sequence[tuple[Row, int]]) -> bool:
        if not isinstance(source, RemoteSource):
            return False
        source.take_over(rows)
        return True

    def opened(self, flow: AgentFlow, header: Header) -> None:
        outlet, spec = self._outlets.get(flow.name), header.wiring.publish
        if spec is not None:
            if outlet is None:
                outlet = self._outlets[flow.name] = Outlet(
                    flow.name,
                    permit=functools.partial(self._permit_out, flow.name),
                    send=functools.partial(self._send, self._node.topics.stream(self._node.config.device, flow.name)),
                    now_ms=now_ms,
                )
            outlet.attach(flow, spec, stream_width(header))
            if not self._granted(flow.name):
                why = f"{PUBLISH}{flow.name} is not granted to {self._node.config.device}: its rows stay here"
                self._node.log.error("stream_not_granted", agent=flow.name, error=why)
        elif outlet is not None:
            outlet.detach()
        self.wake()

    def closed(self, flow: AgentFlow) -> None:
        outlet = self._outlets.get(flow.name)
        if outlet is not None:
            outlet.flush()
        self.wake()

    # --- out ----------------------------------------------------------------------------------------------------------

    def _permit(self, name: AgentName) -> int | None:
        """The epoch under which the agent may speak for itself now: 0 for one that is not the cell's; NOT_YET where
        it is being brought up; None: it may not."""
        hosted, agent = self._node.hosted, self._node.replica.state.agents.get(name)
        epoch = hosted.epoch_of(name)
        if epoch is not None:
            return epoch if hosted.may_run(name) else None
        if agent is None:
            return 0
        return NOT_YET if agent.device == self._node.config.device else None

    def _granted(self, name: AgentName) -> bool:
        return self._node.may(PUBLISH + name, name)

    def _permit_out(self, name: AgentName) -> int | None:
        """As `_permit`, for what leaves this device: nobody would take what the roster does not grant."""
        return self._permit(name) if self._granted(name) else None

    def _send(self, topic: str, payload: bytes, expiry_s: int, bulk: bool) -> None:
        self._node.post.send(topic, payload, priority=Priority.MEDIUM, qos=0, expiry_s=expiry_s, bulk=bulk)

    # --- in -----------------------------------------------------------------------------------------------------------

    def _listens(self, source: RemoteSource) -> None:
        self._ears.setdefault(source.spec.name, []).append(source)
        self.wake()

    def _unlistens(self, source: RemoteSource) -> None:
        sources = self._ears[source.spec.name]
        sources.remove(source)
        if not sources:
            del self._ears[source.spec.name]
        self.wake()

    def _wanted(self) -> dict[str, bool]:
        """Topic filters for what is listened to.  They never overlap: who hears a message twice takes the second one
        for a replay."""
        found: dict[str, bool] = {}
        for name, sources in self._ears.items():
            devices = {source.spec.device for source in sources}
            bulk = any(is_bulk(source.spec.width, REMOTE_BATCH_ROWS_DEFAULT) for source in sources)
            for device in ["+"] if ANY in devices else devices - {self._node.config.device}:
                found[self._node.topics.streams(device, name)] = bulk
        return found

    def _subscribe(self) -> None:
        wanted = self._wanted()
        for topic_filter, bulk in self._filters.items() - wanted.items():
            self._node.post.transport.unsubscribe(topic_filter, bulk=bulk)
        for topic_filter, bulk in wanted.items() - self._filters.items():
            self._node.post.on(topic_filter, self._letter, bulk=bulk)
        self._filters = wanted

    def _letter(self, letter: Letter) -> None:
        device, agent = letter.topic.device, letter.topic.agent
        if letter.sender != device:
            raise RemoteError(f"stream {device}/{agent}: its messages are signed by {device}", who=letter.sender)
        message = Message(letter.sender, letter.boot, letter.payload, now_ms())
        for source in self._ears.get(agent, ()):
            if source.spec.device in (ANY, device):
                source.hear(message)
                if source.parked and self._look_later is None:
                    self._later()

    def _later(self) -> None:
        loop = asyncio.get_running_loop()
        self._look_later = loop.call_later((STREAM_PARKED_MS_MAX + 100) / 1000, self._parked_too_long)

    def _parked_too_long(self) -> None:
        self._look_later = None
        self._look()
        if any(source.parked for sources in self._ears.values() for source in sources):
            self._later()

    def _look(self) -> None:
        """Compare what is joined, heard and published with what the cell and the open agents say, and make it so."""
        if self._look_soon is not None:
            self._look_soon.cancel()
            self._look_soon = None
        if self._closed:
            return
        flows = self._node.supervisor.flows
        for gone in [name for name in self._outlets if name not in flows.flows]:
            self._outlets.pop(gone).detach()
        self._subscribe()
        now, agents = now_ms(), self._node.replica.state.agents
        for name, sources in self._ears.items():
            for source in sources:
                source.placed(agents.get(name), now, here=self.writer(source.spec) is not None)
        flows.joins.rejoin_remote()
