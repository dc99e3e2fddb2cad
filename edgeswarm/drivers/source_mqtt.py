"""Rows from an MQTT broker: one message, one row.  A message that is no row is counted by kind, as a bad line is.

While the agent holds the source back no more is read from the connection, and the broker keeps, or drops by its own
bounds, what comes meanwhile; MQTT_SOURCE_MESSAGES_MAX messages wait here.  Messages that come while the connection is
away are lost to us: no session is kept at the broker.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeswarm.agentfile.wiring import MqttSource as MqttSourceSpec
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.mqtt.link import Link
from edgeswarm.drivers.mqtt.properties import Incoming
from edgeswarm.drivers.sources import Offer, Setup
from edgeswarm.drivers.sources_lines import TextSource
from edgeswarm.drivers.sources_mqtt_session import Listener, Session, broker_of
from edgeswarm.errors import CodecError, EdgeSwarmError, LimitError, LocalError, RemoteError
from edgeswarm.limits import LINE_BYTES_MAX, MQTT_SOURCE_BYTES_MAX, MQTT_SOURCE_MESSAGES_MAX
from edgeswarm.stream.queue import Row
from edgeswarm.wire.codec import loads


class MqttSource(TextSource):
    """The messages of one topic filter."""

    kind = "mqtt"

    def __init__(self, spec: MqttSourceSpec, setup: Setup, *, secrets: Path) -> None:
        super().__init__(spec.fields, setup)
        self._spec = spec
        self._secrets = secrets
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._some = asyncio.Event()
        self._link: Link | None = None
        listener = Listener(
            up=self._up, down=self._down, failed=self._refused, deliver=self._deliver, granted=self._granted
        )
        self._session = Session(spec, secrets, listener, sleep=self.clock.sleep)

    async def give_rows(self, offer: Offer) -> None:
        session = asyncio.get_running_loop().create_task(self._session.run())
        self.waits()
        try:
            while not session.done():
                if not self._waiting:
                    self._some.clear()
                    some = asyncio.ensure_future(self._some.wait())
                    try:
                        await asyncio.wait((some, session), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        some.cancel()
                    continue
                await self._give_first(offer)
            session.result()  # it does not end by itself: raise what it raised
        finally:
            session.cancel()
            await asyncio.gather(session, return_exceptions=True)
            if self._waiting and not self.leaving:
                self.counts.unread += len(self._waiting)
                self.reporter.report("source_unread", lines=len(self._waiting))

    async def _give_first(self, offer: Offer) -> None:
        payload = self._take()
        row, before = self._row_in(payload), self.counts.rows
        try:
            if row is not None:
                await self.give(row, offer)
        except asyncio.CancelledError:
            if self.leaving and self.counts.rows == before:
                self._waiting.appendleft(payload)
            raise

    def parcel(self, packer: Packer) -> dict[str, object]:
        """The connection stays behind: what the broker sends meanwhile is lost to us, as whenever it is away."""
        return {**super().parcel(packer), "waiting": list(self._waiting)}

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self._waiting = deque(parcel["waiting"])
        self._bytes = sum(map(len, self._waiting))

    def _take(self) -> bytes:
        payload = self._waiting.popleft()
        self._bytes -= len(payload)
        if self._link is not None and not self._is_full(2):
            self._link.resume()
        return payload

    def _is_full(self, part: int = 1) -> bool:
        return len(self._waiting) * part >= MQTT_SOURCE_MESSAGES_MAX or self._bytes * part >= MQTT_SOURCE_BYTES_MAX

    def _row_in(self, payload: bytes) -> Row | None:
        """The row in a message; None for an empty one, and for one that is malformed, which is counted."""
        if self._spec.format == "json":
            return self.row_from(payload)
        try:
            item = loads(payload, bytes_max=LINE_BYTES_MAX)
        except (CodecError, LimitError):
            self.malformed("cbor")
            return None
        return self.row_in(item)

    def row_in(self, item: object) -> Row | None:
        """A number alone is a row of one value."""
        if self.width == 1 and (type(item) is int or type(item) is float):
            item = [item]
        return super().row_in(item)

    # --- what the session tells --------------------------------------------------------------------------------------

    def _up(self, link: Link) -> None:
        self._link = link
        self.counts.opened += 1
        link.subscribe([(self._spec.topic, self._spec.qos)])
        if self._is_full():
            link.pause()

    def _down(self, why: str) -> None:
        self._link = None
        self.counts.vanished += 1
        self.reporter.report("source_vanished", url=self._spec.url, error=why)

    def _refused(self, error: EdgeSwarmError) -> None:
        self.failed("connect", error)

    def _granted(self, _mid: int, codes: Sequence[int]) -> None:
        if any(code >= 128 for code in codes):
            self.failed("subscribe", RemoteError(f"topic {self._spec.topic} refused", who=self._spec.url))
            if self._link is not None:
                self._link.close()

    def _deliver(self, incoming: Incoming) -> None:
        if not incoming.payload:
            return
        if len(incoming.payload) > LINE_BYTES_MAX:
            self.malformed("line_too_long", bytes_max=LINE_BYTES_MAX)
            return
        self._waiting.append(incoming.payload)
        self._bytes += len(incoming.payload)
        self._some.set()
        if self._link is not None and self._is_full():
            self._link.pause()

    def probe(self) -> None:
        try:
            broker_of(self._spec, self._secrets)
        except EdgeSwarmError as error:
            raise LocalError(f"source {self.name}: {error}") from None
