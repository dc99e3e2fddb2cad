"""A time of its own for the tests of sources: every sleep of a source runs the next step of the test's story."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgeswarm.drivers.sources import Clock, Setup, Source


class Story:
    """A clock whose sleeps run steps; after the last one the source is cancelled.  Keeps rows, times and events."""

    def __init__(self, *steps: Callable[[], object] | None, hold_s: float = 0.0) -> None:
        self.steps = list(steps)
        self.now_ns = 0
        self.slept: list[float] = []
        self.rows: list[tuple[float, ...]] = []
        self.times_s: list[float] = []
        self.events: list[str] = []
        self.hold_s = hold_s

    @property
    def setup(self) -> Setup:
        def told(name: str, /, **_: object) -> None:
            self.events.append(name)

        return Setup("s", told, Clock(lambda: self.now_ns, self.sleep))

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0.0
        self.now_ns += round(seconds * 1e9)
        self.slept.append(seconds)
        if not self.steps:
            raise asyncio.CancelledError
        step = self.steps.pop(0)
        if step is not None:
            step()

    async def offer(self, row: tuple[float, ...], at_ns: int) -> None:
        assert at_ns == self.now_ns
        self.rows.append(row)
        self.times_s.append(at_ns / 1e9)
        self.now_ns += round(self.hold_s * 1e9)

    async def of(self, source: Source) -> list[tuple[float, ...]]:
        try:
            async with asyncio.timeout(5):
                await source.run(self.offer)
        except asyncio.CancelledError:
            pass
        return self.rows
