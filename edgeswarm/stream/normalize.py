"""Rows to the scale a model was trained on, learnt on the device's own first rows where the agent file asks for it.

`none`    the row as it is
`fixed`   (value - mean) / std, both from the agent file
`zscore`  the same, with mean and std learnt from the first `warmup_rows` rows (or given, with warmup_rows = 0)
`minmax`  (value - low) / (high - low), learnt or given alike
While it learns, no row comes out; then what was learnt is frozen, so that a slow drift stays visible as one.
A field that never changed during the warm-up has no scale: it is only shifted (divided by 1), as scikit-learn does.
The first seconds may be too quiet or too wild to tell what is usual: what zscore learns is kept within
mean_min..mean_max and std_min..std_max, where the agent file gives these bounds.
All results are clipped to [-clip, clip] when clip > 0: one wild reading must not saturate a window of good ones.
Invariants: seen <= warmup_rows; nothing that comes out is NaN or infinite if the row is finite.
Source: Welford 1962, as in Knuth, The Art of Computer Programming vol. 2, 4.2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import mul, sub
from typing import Literal

from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.limits import FLOAT32_MAX
from edgeswarm.stream.queue import Row

Method = Literal["none", "fixed", "zscore", "minmax"]


class Normalizer:
    """One agent's normalisation.  `push` is the whole of it; `warming` is True while it learns."""

    __slots__ = (
        "_clip", "_first", "_high", "_low", "_mean", "_mean_max", "_mean_min", "_scale", "_second", "_std_max",
        "_std_min", "apply", "method", "seen", "warming", "warmup_rows", "width",
    )  # fmt: skip

    def __init__(
        self,
        method: Method,
        width: int,
        *,
        warmup_rows: int = 0,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        low: Sequence[float] = (),
        high: Sequence[float] = (),
        clip: float = 0.0,
        mean_min: Sequence[float] = (),
        mean_max: Sequence[float] = (),
        std_min: Sequence[float] = (),
        std_max: Sequence[float] = (),
    ) -> None:
        """Raises ConfigError when the numbers that `method` needs are missing, not `width` many, or without a scale."""
        self.method = method
        self.width = width
        self.warmup_rows = warmup_rows if method in ("zscore", "minmax") else 0
        self.seen = 0
        self.warming = self.warmup_rows > 0
        self._clip = clip
        self._mean_min = _bounds(mean_min, width, "mean_min")
        self._mean_max = _bounds(mean_max, width, "mean_max")
        self._std_min = _bounds(std_min, width, "std_min", above=0.0)
        self._std_max = _bounds(std_max, width, "std_max", above=0.0)
        self._first = [0.0] * width  # Welford's mean, or the lowest value seen
        self._second = [0.0] * width  # Welford's sum of squared differences, or the highest value seen
        self._mean: Row = (0.0,) * width
        self._scale: Row = (1.0,) * width
        self.apply: Callable[[Row], Row] = self._shift_and_scale if method != "none" else self._as_it_is
        if method == "none" or self.warming:
            return
        first, second = (low, high) if method == "minmax" else (mean, std)
        names = ("low", "high") if method == "minmax" else ("mean", "std")
        for name, values in zip(names, (first, second), strict=True):
            if len(values) != width:
                raise ConfigError(f"normalize.{name}: expected {width} numbers, found {len(values)}")
        spans = tuple(map(sub, high, low)) if method == "minmax" else tuple(second)
        for index, span in enumerate(spans):
            if not (math.isfinite(span) and span > 0.0 and math.isfinite(first[index])):
                raise ConfigError(f"normalize.{names[1]}[{index}]: leaves no scale: expected a finite span > 0")
        self._freeze(first, spans)

    def push(self, row: Row) -> Row | None:
        """The normalised row; None while warming, when the row is learnt from and used up."""
        if self.warming:
            self._learn(row)
            return None
        return self.apply(row)

    def _as_it_is(self, row: Row) -> Row:
        return row

    def _shift_and_scale(self, row: Row) -> Row:
        result = tuple(map(mul, map(sub, row, self._mean), self._scale))
        clip = self._clip
        if clip > 0.0 and (max(result) > clip or min(result) < -clip):
            return tuple([clip if v > clip else -clip if v < -clip else v for v in result])
        return result

    def _freeze(self, first: Sequence[float], spans: Sequence[float]) -> None:
        self._mean = tuple(map(float, first))
        self._scale = tuple(1.0 / span if _has_scale(span) else 1.0 for span in spans)

    def _learn(self, row: Row) -> None:
        self.seen += 1
        first, second, count = self._first, self._second, self.seen
        if self.method == "zscore":
            for index, value in enumerate(row):
                delta = value - first[index]
                first[index] += delta / count
                second[index] += delta * (value - first[index])
        else:
            for index, value in enumerate(row):
                first[index] = value if count == 1 else min(first[index], value)
                second[index] = value if count == 1 else max(second[index], value)
        if count >= self.warmup_rows:
            self._finish_warmup()

    def _finish_warmup(self) -> None:
        self.warming = False
        if self.method == "zscore":
            spans = [math.sqrt(max(total, 0.0) / self.seen) for total in self._second]
            self._freeze(
                _within(self._first, self._mean_min, self._mean_max), _within(spans, self._std_min, self._std_max)
            )
        else:
            self._freeze(self._first, list(map(sub, self._second, self._first)))

    def learnt(self) -> dict[str, Row] | None:
        """What rows are shifted and scaled by, for people: None while warming or with method `none`."""
        if self.warming or self.method == "none":
            return None
        return {"shift": self._mean, "scale": tuple(1.0 / s for s in self._scale)}

    def state(self) -> dict[str, object]:
        """What `restore` takes: how far the warm-up is and what it learnt.  Small: two numbers a field."""
        return {
            "method": self.method,
            "width": self.width,
            "warmup_rows": self.warmup_rows,
            "seen": self.seen,
            "first": list(self._first),
            "second": list(self._second),
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on where `state` stopped.  Raises LocalError, with nothing changed, when it does not fit."""
        shape = (state.get("method"), state.get("width"), state.get("warmup_rows"))
        if shape != (self.method, self.width, self.warmup_rows):
            expected = (self.method, self.width, self.warmup_rows)
            raise LocalError(f"normalizer state: expected method, width, warm-up {expected}, found {shape}")
        seen = state.get("seen")
        if isinstance(seen, bool) or not isinstance(seen, int) or not 0 <= seen <= self.warmup_rows:
            raise LocalError(f"normalizer state: seen: expected 0 to {self.warmup_rows}, found {seen!r}")
        first = _numbers(state.get("first"), self.width, "first")
        second = _numbers(state.get("second"), self.width, "second")
        if self.method == "zscore" and any(value < 0.0 for value in second):
            raise LocalError("normalizer state: second: a sum of squares is negative")
        if self.method == "minmax" and any(map(float.__gt__, first, second)):
            raise LocalError("normalizer state: a lowest value is above the highest")
        if not self.warmup_rows:
            return
        self.seen, self._first, self._second = seen, first, second
        self.warming = True
        if seen >= self.warmup_rows:
            self._finish_warmup()


def _within(values: Sequence[float], low: Row, high: Row) -> list[float]:
    """Each value raised to its `low` and lowered to its `high`, where these are given."""
    raised = list(map(max, values, low)) if low else list(values)
    return list(map(min, raised, high)) if high else raised


def _bounds(values: Sequence[float], width: int, name: str, *, above: float = -math.inf) -> Row:
    """`values` as they are; ConfigError unless there are none, or `width` many finite ones past `above`."""
    if values and len(values) != width:
        raise ConfigError(f"normalize.{name}: expected {width} numbers, found {len(values)}")
    for index, value in enumerate(values):
        if not (math.isfinite(value) and value > above):
            raise ConfigError(f"normalize.{name}[{index}]: expected a finite number above {above}, found {value}")
    return tuple(values)


def _has_scale(span: float) -> bool:
    """False for a field that never changed, up to rounding: 1 / span must stay a float32's size."""
    return span > 1.0 / FLOAT32_MAX


def _numbers(value: object, width: int, name: str) -> list[float]:
    if not isinstance(value, (list, tuple)) or len(value) != width:
        raise LocalError(f"normalizer state: {name}: expected {width} numbers")
    numbers: list[float] = []
    for item in value:
        if isinstance(item, bool) or not isinstance(item, (int, float)) or not math.isfinite(item):
            raise LocalError(f"normalizer state: {name}: expected finite numbers, found {item!r}")
        numbers.append(float(item))
    return numbers
