"""Several sources, one row: where the rows of an agent's sources wait, and how they become the rows of its stream.

`single`  one source: its rows, in order
`latest`  the first source drives: each of its rows makes one joined row, with the values that the others had when it
          came.  Before every other source has spoken once, rows of the first wait in its queue.  A side row that is
          replaced before any row took it counts as dropped: that is what `latest` declares.
`zip`     one row of each, in the order of the sources: heads are paired.  A row dropped from one queue shifts the
          pairing, so pair sources of one rate, or let their queues block.
Invariant, for each source at any time: rows_in == joined + dropped + queued.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.limits import SOURCES_PER_AGENT_MAX
from edgeswarm.stream.queue import TAKEN_IN, Policy, Pushed, RowQueue, Sample

JoinKind = Literal["latest", "zip"]


@dataclass(frozen=True, slots=True)
class Inlet:
    """One source as its agent sees it: how wide its rows are, and how they queue."""

    width: int
    policy: Policy = "block"
    rows: int = 256


class SourceCount(NamedTuple):
    """Rows of one source, all counted since the start; `queued` is what waits now."""

    rows_in: int
    joined: int
    dropped: int
    queued: int


class Intake(Protocol):
    """The waiting rows of one agent."""

    widths: tuple[int, ...]
    width: int

    def offer(self, index: int, sample: Sample) -> Pushed:
        """Take a row of source `index` in, under its policy."""

    def take(self) -> Sample | None:
        """The next joined row, or None when there is none yet.  at_ns is that of its newest part."""

    def full(self, index: int) -> bool:
        """True while a row of source `index` would be refused."""

    def counts(self) -> tuple[SourceCount, ...]:
        """Where the rows of each source are."""

    def adopt(self, other: Intake) -> None:
        """Take over the waiting rows and the counts of the agent's last version.

        Raises LocalError, with nothing changed, when that has other sources."""


class SingleIntake:
    """One source."""

    __slots__ = ("_joined", "_queue", "width", "widths")

    def __init__(self, inlet: Inlet) -> None:
        self.widths: tuple[int, ...] = (inlet.width,)
        self.width = inlet.width
        self._queue = RowQueue(inlet.policy, inlet.rows)
        self._joined = 0

    def offer(self, index: int, sample: Sample) -> Pushed:
        return self._queue.push(sample)

    def take(self) -> Sample | None:
        items = self._queue.items
        if not items:
            return None
        self._joined += 1
        return items.popleft()

    def full(self, index: int) -> bool:
        return self._queue.policy == "block" and self._queue.full

    def counts(self) -> tuple[SourceCount, ...]:
        return (SourceCount(self._queue.pushed, self._joined, self._queue.dropped, len(self._queue)),)

    def adopt(self, other: Intake) -> None:
        if not isinstance(other, SingleIntake) or other.widths != self.widths:
            raise _other_sources(self, other)
        self._queue.adopt(other._queue)
        self._joined = other._joined


class ZipIntake:
    """One row of each source makes one row."""

    __slots__ = ("_joined", "_queues", "width", "widths")

    def __init__(self, inlets: Sequence[Inlet]) -> None:
        self.widths = tuple(inlet.width for inlet in inlets)
        self.width = sum(self.widths)
        self._queues = [RowQueue(inlet.policy, inlet.rows) for inlet in inlets]
        self._joined = 0

    def offer(self, index: int, sample: Sample) -> Pushed:
        return self._queues[index].push(sample)

    def take(self) -> Sample | None:
        for queue in self._queues:
            if not queue.items:
                return None
        parts = [queue.items.popleft() for queue in self._queues]
        self._joined += 1
        return Sample(max(part.at_ns for part in parts), sum((part.values for part in parts), ()))

    def full(self, index: int) -> bool:
        queue = self._queues[index]
        return queue.policy == "block" and queue.full

    def counts(self) -> tuple[SourceCount, ...]:
        return tuple(SourceCount(q.pushed, self._joined, q.dropped, len(q)) for q in self._queues)

    def adopt(self, other: Intake) -> None:
        if not isinstance(other, ZipIntake) or other.widths != self.widths:
            raise _other_sources(self, other)
        for mine, theirs in zip(self._queues, other._queues, strict=True):
            mine.adopt(theirs)
        self._joined = other._joined


class LatestIntake:
    """The first source drives; of the others only the newest row counts."""

    __slots__ = (
        "_dropped", "_joined", "_pushed", "_queue", "_side", "_side_count", "_sides", "_unused", "width", "widths",
    )  # fmt: skip

    def __init__(self, inlets: Sequence[Inlet]) -> None:
        self.widths = tuple(inlet.width for inlet in inlets)
        self.width = sum(self.widths)
        self._queue = RowQueue(inlets[0].policy, inlets[0].rows)
        self._side_count = len(inlets) - 1
        self._sides: dict[int, Sample] = {}  # source index -> its newest row
        self._side: tuple[float, ...] | None = None  # the sides' values in order, once all are there
        self._unused: set[int] = set()  # sides whose newest row no joined row has taken yet
        self._pushed = [0] * len(inlets)
        self._joined = [0] * len(inlets)
        self._dropped = [0] * len(inlets)

    def offer(self, index: int, sample: Sample) -> Pushed:
        if index:
            return self._offer_side(index, sample)
        return self._queue.push(self._with_side(sample) if self._side is not None else sample)

    def _offer_side(self, index: int, sample: Sample) -> Pushed:
        replaces_unused = index in self._unused
        self._sides[index] = sample
        self._unused.add(index)
        self._pushed[index] += 1
        self._dropped[index] += replaces_unused
        if len(self._sides) == self._side_count:
            parts = (self._sides[side].values for side in range(1, self._side_count + 1))
            self._side = sum(parts, ())
        return TAKEN_IN  # a replaced row is counted, but nothing to tell: it is what `latest` is for

    def _with_side(self, sample: Sample) -> Sample:
        """The row with the sides' values as they are now, which are thereby used."""
        assert self._side is not None
        if self._unused:
            for side in self._unused:
                self._joined[side] += 1
            self._unused.clear()
        return Sample(sample.at_ns, sample.values + self._side)

    def take(self) -> Sample | None:
        if self._side is None or not self._queue.items:
            return None
        self._joined[0] += 1
        sample = self._queue.items.popleft()
        if len(sample.values) < self.width:  # it came before every side had spoken
            return self._with_side(sample)
        return sample

    def full(self, index: int) -> bool:
        return index == 0 and self._queue.policy == "block" and self._queue.full

    def counts(self) -> tuple[SourceCount, ...]:
        queue = self._queue
        first = SourceCount(queue.pushed, self._joined[0], queue.dropped, len(queue))
        sides = (
            SourceCount(self._pushed[i], self._joined[i], self._dropped[i], int(i in self._unused))
            for i in range(1, self._side_count + 1)
        )
        return (first, *sides)

    def adopt(self, other: Intake) -> None:
        if not isinstance(other, LatestIntake) or other.widths != self.widths:
            raise _other_sources(self, other)
        self._queue.adopt(other._queue)
        self._sides, self._side, self._unused = other._sides, other._side, other._unused
        self._pushed, self._joined, self._dropped = other._pushed, other._joined, other._dropped
        other._sides, other._side, other._unused = {}, None, set()


def make_intake(inlets: Sequence[Inlet], join: JoinKind) -> Intake:
    """The intake for these sources.  Raises ConfigError when there are none, or too many."""
    if not 1 <= len(inlets) <= SOURCES_PER_AGENT_MAX:
        raise ConfigError(f"wiring.sources: expected 1 to {SOURCES_PER_AGENT_MAX}, found {len(inlets)}")
    if len(inlets) == 1:
        return SingleIntake(inlets[0])
    return ZipIntake(inlets) if join == "zip" else LatestIntake(inlets)


def _other_sources(mine: Intake, theirs: Intake) -> LocalError:
    expected, found = ((type(one).__name__, one.widths) for one in (mine, theirs))
    return LocalError(f"rows of the last version: expected sources {expected}, found {found}: let it drain first")
