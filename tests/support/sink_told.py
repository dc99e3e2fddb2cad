"""What tests of sinks share: what a sink tells, and that its counts add up."""

from __future__ import annotations

import json
from typing import Any

from edgeswarm.drivers.sinks import Sink, SinkSetup


class Told:
    """Events, and a time of their own."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.now_ns = 1

    @property
    def setup(self) -> SinkSetup:
        return SinkSetup("a", self, lambda: self.now_ns)

    def __call__(self, name: str, /, **fields: object) -> None:
        self.events.append((name, fields))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]


def numbers(data: bytes) -> list[int]:
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line)["seq"] for line in data.splitlines()]


def balanced(sink: Sink) -> None:
    counts = sink.counts()
    assert counts["accepted"] == counts["written"] + counts["dropped"] + counts["waiting"]
