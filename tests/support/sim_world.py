"""Virtual time: one heap of events, one source of chance, and a clock per node that runs at its own rate.

Nothing here knows Raft.  `World.run` takes events in the order of time, and those of one instant in the order in which
they were asked for, so one seed is one history.  Times are integers, microseconds of virtual time since the start.
"""

from __future__ import annotations

import heapq
import random
from asyncio import events as asyncio_events
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MS = 1_000
S = 1_000_000


class Timer:
    """One event to come; cancel() makes it none."""

    __slots__ = ("act", "args")

    def __init__(self, act: Callable[..., object] | None, args: tuple[Any, ...]) -> None:
        self.act = act
        self.args = args

    def cancel(self) -> None:
        self.act, self.args = None, ()


class World:
    """now_us: the true time, that no node sees.  steps: events so far; a logical clock that never stands still."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now_us = 0
        self.steps = 0
        self.trace: list[str] | None = None
        self._heap: list[tuple[int, int, Timer]] = []
        self._count = 0

    def after(self, delay_us: int, act: Callable[..., object], *args: Any) -> Timer:
        return self.at(self.now_us + delay_us, act, *args)

    def at(self, at_us: int, act: Callable[..., object], *args: Any) -> Timer:
        timer = Timer(act, args)
        self._count += 1
        heapq.heappush(self._heap, (at_us if at_us > self.now_us else self.now_us, self._count, timer))
        return timer

    def run(self, until_us: int, *, done: Callable[[], bool] | None = None) -> bool:
        """Every event up to `until_us`; stops early, and returns True, when `done` holds."""
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            self.now_us, _, timer = heapq.heappop(heap)
            if timer.act is None:
                continue
            self.steps += 1
            timer.act(*timer.args)
            if done is not None and done():
                return True
        self.now_us = max(self.now_us, until_us)
        return done is not None and done()

    def stamp(self) -> int:
        """An instant for a history: later than all before, also within one event."""
        self.steps += 1
        return self.steps

    def note(self, text: str) -> None:
        """A line of the trace, when one is kept: what a person reads after a failure."""
        if self.trace is not None:
            self.trace.append(f"{self.now_us / S:10.6f} {text}")

    # --- chance ---------------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def between(self, low_us: int, high_us: int) -> int:
        return int(low_us + (high_us - low_us) * self.rng.random())


class NodeLoop:
    """What a node's code takes for its event loop: time(), call_soon(), call_at(), as asyncio names them.

    rate: seconds of the node's clock per true second.  While it is paused (SIGSTOP, a virtual machine that moves) the
    node's events wait; when its process ends, `stop` forgets them.
    """

    def __init__(self, world: World, *, rate: float = 1.0, offset_us: int = 0) -> None:
        self._world = world
        self._rate = rate
        self._true_us, self._own_us = world.now_us, float(world.now_us + offset_us)
        self._resume_us = 0
        self._stopped = False
        self.watch: Callable[[], object] | None = None  # called after everything that the node does

    def time(self) -> float:
        """Seconds on the node's own clock."""
        return (self._own_us + (self._world.now_us - self._true_us) * self._rate) / S

    def set_rate(self, rate: float) -> None:
        self._own_us += (self._world.now_us - self._true_us) * self._rate
        self._true_us, self._rate = self._world.now_us, rate

    def pause(self, until_us: int) -> None:
        self._resume_us = max(self._resume_us, until_us)

    def stop(self) -> None:
        self._stopped = True

    def call_soon(self, act: Callable[..., object], *args: Any) -> Timer:
        return self._world.after(0, self.call, act, args)

    def call_at(self, when_s: float, act: Callable[..., object], *args: Any) -> Timer:
        wait_us = (when_s * S - self.time() * S) / self._rate
        return self._world.after(max(int(wait_us), 0), self.call, act, args)

    def call_later(self, delay_s: float, act: Callable[..., object], *args: Any) -> Timer:
        return self.call_at(self.time() + delay_s, act, *args)

    def call(self, act: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Now, or when the pause is over."""
        if self._stopped:
            return
        if self._resume_us > self._world.now_us:
            self._world.at(self._resume_us, self.call, act, args)
            return
        act(*args)
        if self.watch is not None and not self._stopped:
            self.watch()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Code inside finds this loop where it asks asyncio for the running one."""
        before = asyncio_events._get_running_loop()
        asyncio_events._set_running_loop(self)  # type: ignore[arg-type]
        try:
            yield
        finally:
            asyncio_events._set_running_loop(before)
