"""Many answers become one, while they come in: memory does not grow with their number.

mean: element by element, weighted (McMahan et al. 2017, Algorithm 1, where values are weights and weights counts of
samples).  vote: the most frequent text or integer.  top-k: the k highest scores with who gave them.  kernel: an agent
that takes up to MAP_FOLD_ROWS rows and answers one; its answers are rows for it again, so what it computes must not
depend on how rows are grouped (a maximum, a sum; not a median).
A value of the wrong kind or width is refused and counted, it does not end the map.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappush, heappushpop
from math import isfinite
from typing import Protocol

from edgeswarm.errors import LocalError
from edgeswarm.limits import AGGREGATE_WIDTH_MAX, MAP_AGENTS_MAX, MAP_FOLD_ROWS, VOTE_CHOICES_MAX, WHY_BYTES_MAX

Value = str | int | float | Sequence[float]
Row = tuple[float, ...]
FLOAT_MAX = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Fold:
    """Ask the kernel to draw these rows into one; answer with `Kernel.folded`."""

    number: int
    rows: tuple[Row, ...]


class Aggregate(Protocol):
    """taken, refused: how many answers went in, and how many did not fit."""

    taken: int
    refused: int

    def add(self, who: str, value: object, weight: float = 1.0) -> Fold | None:
        """One agent's answer; a Fold where a kernel has to work before there is a result."""

    def end(self) -> Fold | None:
        """No answer will come any more."""

    def result(self) -> object:
        """What the answers come to, in plain CBOR values; None: nothing (yet)."""


def make(kind: str, *, k: int = 1) -> Aggregate:
    """kind: mean, vote, top-k or kernel; k: 1 .. MAP_AGENTS_MAX, of top-k."""
    match kind:
        case "mean":
            return Mean()
        case "vote":
            return Vote()
        case "top-k":
            return TopK(k)
        case "kernel":
            return Kernel()
        case _:
            raise LocalError(f"aggregate: expected mean, vote, top-k or kernel, found {kind!r}")


def row_of(value: object) -> Row | None:
    """Finite numbers, 1 to AGGREGATE_WIDTH_MAX of them; a single number is a row of one.  None: it is no row."""
    items = value if isinstance(value, list | tuple) else [value]
    if not 1 <= len(items) <= AGGREGATE_WIDTH_MAX:
        return None
    row: list[float] = []
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | float) or not -FLOAT_MAX <= item <= FLOAT_MAX:
            return None  # NaN is not between them either
        row.append(float(item))
    return tuple(row)


class Mean:
    """The weighted mean of rows of one width, the first one's.  Returns {mean, weight, count}."""

    def __init__(self) -> None:
        self.taken = self.refused = 0
        self.weight = 0.0
        self.mean: list[float] = []

    def add(self, who: str, value: object, weight: float = 1.0) -> Fold | None:
        row = row_of(value)
        good = row is not None and isfinite(weight) and weight > 0 and isfinite(self.weight + weight)
        if row is None or not good or (self.mean and len(row) != len(self.mean)):
            self.refused += 1
            return None
        if not self.mean:
            self.mean = [0.0] * len(row)
        self.weight += weight
        share = weight / self.weight
        self.mean = [old * (1 - share) + new * share for old, new in zip(self.mean, row, strict=True)]
        self.taken += 1
        return None

    def end(self) -> Fold | None:
        return None

    def result(self) -> object:
        return {"mean": self.mean, "weight": self.weight, "count": self.taken} if self.taken else None


class Vote:
    """The most frequent answer, by weight; of equals the one that sorts first.  {choice, votes, count, others}."""

    def __init__(self) -> None:
        self.taken = self.refused = self.others = 0
        self.votes: dict[str | int, float] = {}

    def add(self, who: str, value: object, weight: float = 1.0) -> Fold | None:
        choice = _choice(value)
        if choice is None or not isfinite(weight) or weight <= 0:
            self.refused += 1
        elif choice in self.votes or len(self.votes) < VOTE_CHOICES_MAX:
            self.votes[choice] = self.votes.get(choice, 0.0) + weight
            self.taken += 1
        else:
            self.others += 1
            self.taken += 1
        return None

    def end(self) -> Fold | None:
        return None

    def result(self) -> object:
        if not self.votes:
            return None
        choice = min(self.votes, key=lambda one: (-self.votes[one], isinstance(one, str), one))
        return {"choice": choice, "votes": self.votes[choice], "count": self.taken, "others": self.others}


def _choice(value: object) -> str | int | None:
    """A text, an integer, or a row's arg-max (the first of equals)."""
    if isinstance(value, str):
        return value if len(value.encode(errors="replace")) <= WHY_BYTES_MAX else None
    if isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63:
        return value
    row = row_of(value) if isinstance(value, list | tuple) else None
    return max(range(len(row)), key=lambda index: row[index]) if row else None


class TopK:
    """The k highest scores; of equal ones, whose name sorts first.  Returns [[who, score], ...], the highest first."""

    def __init__(self, k: int) -> None:
        if not 1 <= k <= MAP_AGENTS_MAX:
            raise LocalError(f"top-k: expected k from 1 to {MAP_AGENTS_MAX}, found {k}")
        self.taken = self.refused = 0
        self.k = k
        self._heap: list[tuple[float, _Last]] = []

    def add(self, who: str, value: object, weight: float = 1.0) -> Fold | None:
        row = row_of(value)
        if row is None or len(row) != 1:
            self.refused += 1
            return None
        self.taken += 1
        item = (row[0], _Last(who))
        if len(self._heap) < self.k:
            heappush(self._heap, item)
        else:
            heappushpop(self._heap, item)
        return None

    def end(self) -> Fold | None:
        return None

    def result(self) -> object:
        return [[last.who, score] for score, last in sorted(self._heap, reverse=True)] if self._heap else None


@dataclass(frozen=True, slots=True)
class _Last:
    """A name that sorts backwards."""

    who: str

    def __lt__(self, other: _Last) -> bool:
        return self.who > other.who


class Kernel:
    """Rows wait until there are MAP_FOLD_ROWS, then go to the kernel; its answer waits with the next.

    Holds at most MAP_FOLD_ROWS rows and those of folds under way; returns {row, count}.
    """

    def __init__(self) -> None:
        self.taken = self.refused = 0
        self.width = 0
        self._rows: list[Row] = []
        self._folds = 0
        self._under_way: set[int] = set()
        self._ended = False

    def add(self, who: str, value: object, weight: float = 1.0) -> Fold | None:
        row = row_of(value)
        if row is None or (self.width and len(row) != self.width):
            self.refused += 1
            return None
        self.width = len(row)
        self.taken += 1
        self._rows.append(row)
        return self._next()

    def folded(self, number: int, value: object) -> Fold | None:
        """The kernel's answer to Fold `number`; an answer that was not asked for changes nothing.

        Raises LocalError where it is no row as wide as those that went in: then there is no result.
        """
        if number not in self._under_way:
            return None
        row = row_of(value)
        if row is None or len(row) != self.width:
            raise LocalError(f"kernel: expected one row of {self.width} values")
        self._under_way.discard(number)
        self._rows.append(row)
        return self._next()

    def end(self) -> Fold | None:
        self._ended = True
        return self._next()

    def result(self) -> object:
        """A single answer goes through the kernel as well, alone."""
        if not self._ended or self._under_way or not self._folds or len(self._rows) != 1:
            return None
        return {"row": list(self._rows[0]), "count": self.taken}

    def _next(self) -> Fold | None:
        rest = self._ended and not self._under_way and (len(self._rows) > 1 or (not self._folds and bool(self._rows)))
        if len(self._rows) < MAP_FOLD_ROWS and not rest:
            return None
        self._folds += 1
        rows, self._rows = tuple(self._rows), []
        self._under_way.add(self._folds)
        return Fold(self._folds, rows)
