"""Rows of an agent on another device, as a source of an agent here.

What of a message is delivered is stream.remote's to say; this source keeps it until its agent takes it, bounded: when
the agent is held back for long the oldest rows go, and so do those that are past their expiry by then, all counted.
Invariant: delivered by the subscriber + taken over == rows taken + waiting + overflow + outdated + beside + unread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edgeswarm.agentfile.wiring import AgentSource
from edgeswarm.core.cell.types import AgentState
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.sources import Offer, Setup, Source, SourceCounts
from edgeswarm.errors import CodecError, LimitError, LocalError
from edgeswarm.ids import AgentName
from edgeswarm.limits import (
    STREAM_PARKED_MAX,
    STREAM_PARKED_MS_MAX,
    STREAM_WAITING_ROWS_MAX,
    STREAM_WAITING_VALUES_MAX,
)
from edgeswarm.stream.queue import Row
from edgeswarm.stream.remote import ANY, Subscriber, decode


class Message(NamedTuple):
    """One message of a stream, as its envelope was opened.  at_ms: wall clock when it came."""

    sender: str
    boot: int
    payload: bytes
    at_ms: int


@dataclass(slots=True)
class StreamCounts(SourceCounts):
    """overflow: rows dropped because the agent took none.  outdated: past their expiry when the agent could take them.
    beside: came while the agent that is read runs on this device.  taken_over: held for us when it left this device.
    stream: what `stream.remote.RemoteCounts` says."""

    overflow: int = 0
    outdated: int = 0
    beside: int = 0
    taken_over: int = 0
    stream: dict[str, int] = field(default_factory=dict)


class RemoteSource(Source):
    """One source `device/agent` or `any/agent`.  Nothing is subscribed to but while it runs."""

    kind = "agent"
    counts: StreamCounts

    def __init__(
        self,
        reader: AgentName,
        spec: AgentSource,
        setup: Setup,
        *,
        listen: Callable[[RemoteSource], None],
        unlisten: Callable[[RemoteSource], None],
    ) -> None:
        super().__init__(tuple(map(str, range(spec.width))), setup)
        self.counts = StreamCounts()
        self.reader, self.spec = reader, spec
        self.subscriber = Subscriber(
            spec.name, spec.device, width=spec.width, late_ms=spec.late_ms, expire_ms=spec.expire_ms
        )
        self._listen, self._unlisten = listen, unlisten
        self._rows_max = max(1, min(STREAM_WAITING_ROWS_MAX, STREAM_WAITING_VALUES_MAX // spec.width))
        self._waiting: deque[tuple[Row, int]] = deque()  # row, time.monotonic_ns() when it was made
        self._some = asyncio.Event()
        self._parked: deque[Message] = deque()
        self._joined = False
        self._placed: AgentState | None = None

    @property
    def waiting(self) -> int:
        """Rows that the agent has not taken yet."""
        return len(self._waiting)

    async def give_rows(self, offer: Offer) -> None:
        self._listen(self)
        try:
            while True:
                if self._waiting:
                    await self._give_first(offer)
                    continue
                self._some.clear()
                if not self._joined:
                    self.waits()
                await self._some.wait()
        finally:
            self._unlisten(self)
            unread = 0 if self.leaving else len(self._waiting)
            self.counts.unread += unread
            if unread:
                self.reporter.report("source_unread", lines=len(self._waiting))
                self._waiting.clear()

    async def _give_first(self, offer: Offer) -> None:
        row, made_ns = self._waiting.popleft()
        if self.clock.now_ns() - made_ns > self.spec.expire_ms * 1_000_000:
            self.counts.outdated += 1
            self.reporter.report("stream_expired", rows=1)
            return

        async def since(values: Row, _now_ns: int) -> None:
            await offer(values, made_ns)

        before = self.counts.rows
        try:
            await self.give(row, since)
        except asyncio.CancelledError:
            if self.counts.rows == before and self.leaving:
                self._waiting.appendleft((row, made_ns))
            elif self.counts.rows == before:
                self.counts.unread += 1
            raise

    def parcel(self, packer: Packer) -> dict[str, object]:
        """The rows that wait; what is heard is another matter, the next program comes into the cell anew."""
        return {"waiting": [[list(row), made_ns] for row, made_ns in self._waiting]}

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        self.take_over([(tuple(row), made_ns) for row, made_ns in parcel["waiting"]])

    def probe(self) -> None:
        if self.subscriber.device is None:
            raise LocalError(f"source {self.name}: no device has sent rows of agent {self.spec.name} yet")

    # --- what the cell and its devices say ----------------------------------------------------------------------------

    def placed(self, agent: AgentState | None, now_ms: int, *, here: bool) -> None:
        """Where the cell's table has the agent, if it knows it; here: its rows come from its flow on this device."""
        self._joined = here
        if here:
            self.rests()
        self._placed = agent if self.spec.device == ANY else None
        if self._placed is not None and self._placed.device is not None:
            self.subscriber.follow(self._placed.device, self._placed.epoch, now_ms)
        parked, self._parked = self._parked, deque()
        for message in parked:
            if now_ms - message.at_ms <= STREAM_PARKED_MS_MAX:
                self.hear(message)
            else:
                self._foreign(message)

    @property
    def parked(self) -> int:
        return len(self._parked)

    def hear(self, message: Message) -> None:
        """One message of the agent's stream.  One of a device that the table does not name waits for the table: our
        copy may be behind, and no device may take a stream over by its own word."""
        if self._placed is not None and self._placed.device != message.sender:
            self._parked.append(message)
            if len(self._parked) > STREAM_PARKED_MAX:
                self._foreign(self._parked.popleft())
            return
        seen = self.subscriber.counts
        missing, expired, malformed = seen.missing, seen.expired, seen.malformed
        rows = self.subscriber.receive(message.payload, sender=message.sender, boot=message.boot, now_ms=message.at_ms)
        if seen.malformed > malformed:
            self.reporter.report("stream_malformed", device=message.sender, error=self.subscriber.last_fault)
        if seen.missing > missing:
            self.reporter.report("stream_gap", device=message.sender, rows=seen.missing - missing)
        if seen.expired > expired:
            self.reporter.report("stream_expired", device=message.sender, rows=seen.expired - expired)
        if rows and (late_ms := max(row.late_ms for row in rows)):
            self.reporter.report("stream_late", device=message.sender, late_ms=late_ms, rows=len(rows))
        self.counts.stream = seen.as_dict()
        if self._joined:
            self.counts.beside += len(rows)
            return
        now_ns = self.clock.now_ns()
        self._put([(row.values, now_ns - row.age_ms * 1_000_000) for row in rows])

    def take_over(self, rows: Sequence[tuple[Row, int]]) -> None:
        """Rows that the agent's flow on this device held for us when it left."""
        self.counts.taken_over += len(rows)
        self._put(rows)

    def _put(self, rows: Sequence[tuple[Row, int]]) -> None:
        self._waiting.extend(rows)
        dropped = max(0, len(self._waiting) - self._rows_max)
        for _ in range(dropped):
            self._waiting.popleft()
        if dropped:
            self.counts.overflow += dropped
            self.reporter.report("rows_dropped", rows=dropped)
        self._some.set()

    def _foreign(self, message: Message) -> None:
        """Rows of a device that the table does not name, and did not in time."""
        counts = self.subscriber.counts
        counts.messages += 1
        try:
            rows = len(decode(message.payload, who=message.sender).rows)
        except (CodecError, LimitError):
            counts.malformed += 1
        else:
            counts.rows += rows
            counts.foreign += rows
        self.counts.stream = counts.as_dict()
