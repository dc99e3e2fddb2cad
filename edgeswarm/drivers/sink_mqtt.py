"""Records to an MQTT broker, one message each, in order.

With QoS 0 a record is written once the connection took it; with QoS 1 once the broker acknowledged it, and those that
were under way when a connection broke go again, so they may arrive twice: records carry `seq`.  While there is no
connection records wait in the outbox; the oldest goes, counted.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeswarm.agentfile.wiring import MqttSink as MqttSinkSpec
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.mqtt.link import Link
from edgeswarm.drivers.sinks import Outbox, Sink, SinkSetup, outbox_counts
from edgeswarm.drivers.sources_mqtt_session import Listener, Session
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import CHILD_STOP_MS, MQTT_SINK_INFLIGHT_MAX
from edgeswarm.wire.codec import dumps


class MqttSink(Sink):
    """Records to one topic."""

    def __init__(self, setup: SinkSetup, spec: MqttSinkSpec, *, secrets: Path) -> None:
        super().__init__("mqtt", setup, when=spec.when)
        self._spec = spec
        self._outbox = Outbox()
        self._again: deque[bytes] = deque()  # were under way when the connection broke; at most MQTT_SINK_INFLIGHT_MAX
        self._inflight: dict[int, bytes] = {}
        self._failing = False
        self._closing = False
        self._empty = asyncio.Event()
        self.opened = 0
        listener = Listener(up=self._up, down=self._down, failed=self._refused, acked=self._acked, writable=self.flush)
        self._session = Session(spec, secrets, listener)
        self._leaving = False
        self._task: asyncio.Task[None] | None = None
        if setup.begins:
            self.begin()

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._session.run()
        finally:
            self._finish()

    def _finish(self) -> None:
        if not self._leaving:
            lost = len(self._again) + len(self._inflight)
            self._outbox.dropped += lost
            self._again.clear()
            self._inflight.clear()
            self.note_dropped(lost + self._outbox.clear(), "closed")

    async def parcel(self, packer: Packer) -> dict[str, Any]:
        """The connection stays behind; what the broker has not acknowledged goes again."""
        self._leaving = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        again = [*self._inflight.values(), *self._again]
        return {
            **await super().parcel(packer),
            "outbox": self._outbox.state(),
            "again": again,
            "opened": self.opened,
        }

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self._outbox.restore(parcel["outbox"])
        self._again, self.opened = deque(parcel["again"]), parcel["opened"]

    def write_line(self, line: bytes) -> None:
        dropped = self._outbox.push(line)
        if self._closing:
            dropped += self._outbox.clear()
        self.note_dropped(dropped, "closed" if self._closing else "slow")
        self.flush()

    def flush(self) -> None:
        link = self._session.link
        while link is not None and not link.is_blocked and (self._again or self._outbox):
            if self._spec.qos and len(self._inflight) >= min(MQTT_SINK_INFLIGHT_MAX, link.offer.inflight_max):
                return
            line = self._again.popleft() if self._again else self._outbox.take(1)[0]
            if not self._publish(link, line):
                self._again.appendleft(line)
                return
        if not self._waiting:
            self._empty.set()

    @property
    def _waiting(self) -> int:
        return len(self._outbox) + len(self._again) + len(self._inflight)

    def _publish(self, link: Link, line: bytes) -> bool:
        """False: the link is lost, and the record waits on."""
        try:
            payload = line.rstrip(b"\n") if self._spec.format == "json" else dumps(json.loads(line))
        except EdgeSwarmError as error:
            self._drop("record", error)
            return True
        if len(payload) > link.offer.payload_bytes_max:
            self._drop("record_too_long", ValueError(f"{len(payload)} bytes, at most {link.offer.payload_bytes_max}"))
            return True
        qos = min(self._spec.qos, link.offer.qos_max)
        mid = link.publish(self._spec.topic, payload, qos, self._spec.retain)
        if mid is None:
            return False
        if qos:
            self._inflight[mid] = line
        else:
            self._outbox.written += 1
        return True

    def _drop(self, what: str, error: Exception) -> None:
        self._outbox.dropped += 1
        self.note_failed(what, error)

    # --- what the session tells --------------------------------------------------------------------------------------

    def _up(self, _link: Link) -> None:
        self.opened += 1
        if self._failing:
            self._failing = False
            self.reporter.report("sink_recovered", url=self._spec.url)
        self.flush()

    def _down(self, why: str) -> None:
        self._again.extendleft(reversed(self._inflight.values()))
        self._inflight.clear()
        if not self._closing and not self._leaving:
            self._note("lost", ConnectionError(why))

    def _refused(self, error: EdgeSwarmError) -> None:
        self._note("connect", error)

    def _note(self, what: str, error: Exception) -> None:
        self._failing = True
        self.note_failed(what, error)

    def _acked(self, mid: int, reason: int) -> None:
        if self._inflight.pop(mid, None) is None:
            return
        if reason < 128:
            self._outbox.written += 1
        else:
            self._drop("refused", ConnectionError(f"the broker refused a record, code {reason}"))
        self.flush()

    def counts(self) -> dict[str, int]:
        return {**outbox_counts(self._outbox, self.failed), "waiting": self._waiting, "opened": self.opened}

    def close(self) -> None:
        """The broker has CHILD_STOP_MS from now on to take what waits; `closed` waits for it."""
        if not self._closing:
            self._closing = True
            self._empty.clear()
            self.flush()
            self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(CHILD_STOP_MS / 1000 if self._session.link else 0.0):
                await self._empty.wait()
        except TimeoutError:
            pass
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def closed(self) -> None:
        """Returns once the connection is gone."""
        if self._closing:
            await asyncio.shield(self._ending)
