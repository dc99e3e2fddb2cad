"""A sink that sends no faster than its agent's bandwidth: what exceeds waits here, in order, in a bounded outbox.

All network sinks of an agent, and its stream, take from one bucket.  What counts is the record as it is written, not
what MQTT, HTTP, TLS and TCP put around it.  Invariant, as of every sink: written + dropped + waiting == accepted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from edgeswarm.agentfile import wiring
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.sinks import Outbox, Sink, SinkSetup, make_sink
from edgeswarm.stream.bucket import TokenBucket
from edgeswarm.stream.report import ignore_event

_WAIT_S_MIN = 0.001


class LimitedSink(Sink):
    """Stands before `inner`, which is its own from now on.  bucket: bytes."""

    def __init__(self, inner: Sink, setup: SinkSetup, bucket: TokenBucket, *, when: str) -> None:
        super().__init__(inner.kind, setup, when=when)
        self.inner = inner
        self.bucket = bucket
        self._outbox = Outbox()
        self._next = b""  # the line before those of the outbox
        self._passed = 0
        self._put_off = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def write_line(self, line: bytes) -> None:
        if not self._closed and not self._waiting and self.bucket.take(len(line), time.monotonic_ns()):
            self._passed += 1
            self.inner.write_line(line)
            return
        self._put_off += 1
        dropped = self._outbox.push(line)
        if self._closed:
            dropped += self._outbox.clear()
        self.note_dropped(dropped, "closed" if self._closed else "bandwidth")
        self._arm()

    def flush(self) -> None:
        """Pass on what may go now."""
        self._pass_on()
        self.inner.flush()

    def _pass_on(self) -> None:
        while line := self._head():
            if not self.bucket.take(len(line), time.monotonic_ns()):
                break
            self._next = b""
            self.inner.write_line(line)
        self._arm()

    def _head(self) -> bytes:
        """The line that goes next; none: b""."""
        if not self._next and self._outbox:
            (self._next,) = self._outbox.take(1)
        return self._next

    @property
    def _waiting(self) -> int:
        return len(self._outbox) + bool(self._next)

    def _arm(self) -> None:
        if self._timer is None and not self._closed and (line := self._head()):
            wait_s = self.bucket.wait_ns(len(line), time.monotonic_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(max(wait_s, _WAIT_S_MIN), self._due)

    def _due(self) -> None:
        self._timer = None
        self._pass_on()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def counts(self) -> dict[str, int]:
        """Those of the sink behind, with what waits here; put_off: records that had to wait for bandwidth."""
        inner = self.inner.counts()
        return {
            **inner,
            "accepted": self._passed + self._outbox.accepted,
            "dropped": inner["dropped"] + self._outbox.dropped,
            "waiting": inner["waiting"] + self._waiting,
            "failed": inner["failed"] + self.failed,
            "put_off": self._put_off,
        }

    async def parcel(self, packer: Packer) -> dict[str, Any]:
        self._disarm()
        own = {"outbox": self._outbox.state(), "next": self._next, "passed": self._passed, "put_off": self._put_off}
        return {**await super().parcel(packer), **own, "inner": await self.inner.parcel(packer)}

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        """A parcel of a program that limited nothing is the inner sink's."""
        if "inner" not in parcel:
            self.inner.unpack(parcel, unpacker)
            self._passed = self.inner.counts()["accepted"]
            return
        super().unpack(parcel, unpacker)
        self._outbox.restore(parcel["outbox"])
        self._next, self._passed, self._put_off = parcel["next"], parcel["passed"], parcel["put_off"]
        self.inner.unpack(parcel["inner"], unpacker)

    def begin(self) -> None:
        self.inner.begin()
        self._pass_on()

    def close(self) -> None:
        self._disarm()
        self._pass_on()
        self._disarm()
        self._closed = True
        unsent = bool(self._next)
        self._next = b""
        self._outbox.dropped += unsent
        self.note_dropped(unsent + self._outbox.clear(), "closed")
        self.inner.close()

    async def closed(self) -> None:
        await self.inner.closed()


NETWORK: Final = frozenset({"mqtt", "webhook"})
"""Kinds of sinks that leave the device."""


def make_limited_sink(spec: wiring.Sink, *, bucket: TokenBucket | None, **given: Any) -> Sink:
    """As `sinks.make_sink`, with the agent's bandwidth before what leaves the device.  bucket: None: no limit."""
    if bucket is None or spec.type not in NETWORK:
        return make_sink(spec, **given)
    setup = SinkSetup(given["agent"], given.get("on_event", ignore_event), begins=given.get("begins", True))
    return LimitedSink(make_sink(spec, **given), setup, bucket, when=spec.when)
