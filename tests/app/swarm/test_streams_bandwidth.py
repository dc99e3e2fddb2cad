"""A stream leaves its device no faster than its agent's bandwidth; what waits keeps its order, and every row counts."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, cast

from supervised import until

from edgeswarm.agentfile.wiring import PublishSpec
from edgeswarm.app.pump import AgentFlow
from edgeswarm.app.swarm.streams_out import Outlet
from edgeswarm.limits import BANDWIDTH_WAITING_BYTES_MAX
from edgeswarm.stream import remote
from edgeswarm.stream.bucket import TokenBucket

NOW = 1_700_000_000_000  # ms


@dataclass
class Flow:
    """What an outlet needs of an agent's flow."""

    exports: list[Any] = field(default_factory=list)
    bandwidth: TokenBucket | None = None

    def emit(self, value: float) -> None:
        for export in self.exports:
            export((value,), time.monotonic_ns())


class Device:
    """An outlet, and what it sent."""

    def __init__(self, **spec: int) -> None:
        self.flow = Flow()
        self.permit, self.now_ms = 0, NOW
        self.sent: list[bytes] = []
        self.outlet = Outlet(
            "x",
            permit=lambda: self.permit,
            send=lambda payload, _expiry_s, _bulk: self.sent.append(payload),
            now_ms=lambda: self.now_ms,
        )
        self.outlet.attach(cast(AgentFlow, self.flow), PublishSpec(rows=4, **spec), 1)

    def balanced(self) -> dict[str, int]:
        counts = self.outlet.counts()
        parts = ("sent", "waiting", "early", "fenced", "malformed", "unsent")
        assert counts["rows"] == sum(counts[part] for part in parts), counts
        return counts


def values(device: Device) -> list[float]:
    return [row[0] for data in device.sent for row in remote.decode(data).rows]


def bucket(rate: float, burst: float) -> TokenBucket:
    return TokenBucket(rate, burst, time.monotonic_ns())


async def test_what_exceeds_the_bandwidth_waits_and_goes_in_order() -> None:
    device = Device()
    device.flow.bandwidth = bucket(1_000.0, 200.0)
    for value in range(40):
        device.flow.emit(float(value))
    counts = device.balanced()
    assert counts["put_off"] > 0
    assert 0 < counts["sent"] < 40
    assert counts["waiting"] == 40 - counts["sent"]
    await until(lambda: device.outlet.counts()["sent"] == 40)
    assert values(device) == [float(value) for value in range(40)]
    assert cast(TokenBucket, device.flow.bandwidth).taken == sum(map(len, device.sent))
    device.balanced()


async def test_what_waits_longer_than_it_is_of_use_is_dropped_and_counted() -> None:
    device = Device(expire_ms=1000)
    device.flow.bandwidth = bucket(200.0, 1.0)
    for value in range(12):
        device.flow.emit(float(value))
    assert device.balanced()["waiting"] > 0
    device.now_ms = NOW + 1001
    await until(lambda: device.outlet.counts()["waiting"] == 0)
    assert device.balanced()["unsent"] >= 8


async def test_the_oldest_goes_when_too_much_waits() -> None:
    device = Device()
    device.flow.bandwidth = bucket(1.0, 1.0)
    device.flow.emit(-1.0)
    rows = 4 * (BANDWIDTH_WAITING_BYTES_MAX // 50)
    for value in range(rows):
        device.flow.emit(float(value))
    counts = device.balanced()
    assert counts["unsent"] > 0
    assert device.outlet._held_bytes <= BANDWIDTH_WAITING_BYTES_MAX
    device.outlet.detach()
    assert device.balanced()["waiting"] == 0


async def test_a_message_that_waited_stays_here_once_its_epoch_is_over() -> None:
    device = Device()
    device.flow.bandwidth = bucket(500.0, 100.0)
    for value in range(20):
        device.flow.emit(float(value))
    sent = device.balanced()["sent"]
    device.permit = 9
    await until(lambda: device.outlet.counts()["waiting"] == 0)
    await asyncio.sleep(0)
    counts = device.balanced()
    assert (counts["sent"], counts["fenced"]) == (sent, 20 - sent)
    assert sent < 20, "something waited"
