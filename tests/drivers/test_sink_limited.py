"""Records leave the device no faster than their agent's bandwidth; what waits is bounded, in order, and counted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from supervised import until

from edgeswarm.agentfile import wiring
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.sink_limited import LimitedSink, make_limited_sink
from edgeswarm.drivers.sinks import Sink, SinkSetup
from edgeswarm.limits import SINK_RECORDS_MAX
from edgeswarm.stream.bucket import TokenBucket


class Behind(Sink):
    """A sink that takes everything."""

    def __init__(self) -> None:
        super().__init__("mqtt", SinkSetup("a"), when="always")
        self.lines: list[bytes] = []
        self.is_closed = False

    def write_line(self, line: bytes) -> None:
        self.lines.append(line)

    def flush(self) -> None:
        return

    def counts(self) -> dict[str, int]:
        count = len(self.lines)
        return {"accepted": count, "written": count, "dropped": 0, "waiting": 0, "failed": self.failed}

    async def parcel(self, packer: Packer) -> dict[str, Any]:
        return {**await super().parcel(packer), "lines": self.lines}

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self.lines = list(parcel["lines"])

    def close(self) -> None:
        self.is_closed = True


def make(rate: float, burst: float, *, when: str = "always") -> tuple[LimitedSink, Behind]:
    behind = Behind()
    bucket = TokenBucket(rate, burst, time.monotonic_ns())
    return LimitedSink(behind, SinkSetup("a"), bucket, when=when), behind


def balanced(sink: Sink) -> dict[str, int]:
    counts = sink.counts()
    assert counts["written"] + counts["dropped"] + counts["waiting"] == counts["accepted"], counts
    return counts


async def test_records_past_the_bandwidth_wait_and_go_in_order() -> None:
    sink, behind = make(2_000.0, 50.0)  # all of it takes 0.4 s
    for number in range(100):
        sink.write({"n": number})
    assert 0 < len(behind.lines) < 100
    assert balanced(sink)["put_off"] == 100 - len(behind.lines)
    await until(lambda: not balanced(sink)["waiting"])
    assert behind.lines == [b'{"n":%d}\n' % number for number in range(100)]
    assert sink.bucket.taken == sum(map(len, behind.lines))


async def test_more_than_may_wait_drops_the_oldest_but_the_one_that_is_next() -> None:
    sink, behind = make(0.001, 1.0)
    sink.write({"n": -2})
    for number in range(SINK_RECORDS_MAX + 11):
        sink.write({"n": number})
    counts = balanced(sink)
    assert (counts["waiting"], counts["dropped"]) == (SINK_RECORDS_MAX + 1, 10)
    sink.close()
    assert balanced(sink)["waiting"] == 0
    assert behind.is_closed
    sink.write({"n": 1})
    assert balanced(sink)["waiting"] == 0
    assert len(behind.lines) == 1, "the first was larger than the burst, and passed a full bucket"


async def test_what_waits_goes_over_to_the_next_program() -> None:
    sink, _ = make(0.001, 20.0)
    for number in range(9):
        sink.write({"n": number})
    parcel = await sink.parcel(Packer())
    heir, behind = make(1e6, 1e6)
    heir.unpack(parcel, Unpacker(()))
    heir.begin()
    assert behind.lines == [b'{"n":%d}\n' % number for number in range(9)]
    assert balanced(heir)["accepted"] == 9


async def test_a_program_that_limited_nothing_hands_its_sink_over() -> None:
    before = Behind()
    before.write({"n": 1})
    heir, behind = make(1.0, 1.0)
    heir.unpack(await before.parcel(Packer()), Unpacker(()))
    assert behind.lines == before.lines
    assert balanced(heir)["accepted"] == 1


async def test_changes_only_still_holds() -> None:
    sink, behind = make(1e6, 1e6, when="decision_changed")
    sink.write({"changed": False})
    sink.write({"changed": True})
    assert len(behind.lines) == 1


@pytest.mark.parametrize(("kind", "limited"), [("stdout", False), ("webhook", True)])
async def test_only_what_leaves_the_device_is_limited(tmp_path: Path, kind: str, limited: bool) -> None:
    spec: wiring.Sink = wiring.StdoutSink("stdout")
    if kind == "webhook":
        spec = wiring.WebhookSink("webhook", url="https://example.org/x")
    bucket = TokenBucket(1.0, 1.0, 0)
    given = {"agent": "a", "base_dir": tmp_path, "runtime_dir": tmp_path, "capabilities": ["webhook_sink"]}
    sink = make_limited_sink(spec, bucket=bucket, **given)
    assert isinstance(sink, LimitedSink) == limited
    sink.close()
    await sink.closed()
    free = make_limited_sink(spec, bucket=None, **given)
    assert not isinstance(free, LimitedSink)
    free.close()
    await free.closed()
