"""Steps of one row that go over axes: a template's function at each place, in nested loops of constant counts.

For operators of graphs that go row by row.  Innermost runs are contiguous and their axes merged, so that loops are few
and long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.lowering import Functions
from edgeswarm.compile.template import Value

_UNROLLED_BYTES = 64  # moved in the body of a loop over short pieces


@dataclass(frozen=True, slots=True)
class Axis:
    """count places; steps: bytes from one to the next, for each thing read, then for what is written."""

    count: int
    steps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A template's function.  inner: functions whose names it takes as further values."""

    template: str
    values: Mapping[str, Value]
    inner: Mapping[str, Part] = field(default_factory=dict)

    def name(self, functions: Functions) -> str:
        inner = {key: part.name(functions) for key, part in self.inner.items()}
        return functions.function(self.template, {**self.values, **inner})


@dataclass(frozen=True, slots=True)
class NestStep:
    """A part at each place of `axes`, the outermost first; it takes a pointer to each of `reads`, and one to y."""

    what: str
    part: Part
    reads: tuple[Rows, ...]
    y: Rows
    axes: tuple[Axis, ...] = ()

    @property
    def x(self) -> Rows:
        return self.reads[0]

    def __str__(self) -> str:
        loops = " x ".join(str(axis.count) for axis in self.axes)
        return (
            f"{self.what:<13} {self.x.width} values at {self.x.offset} to {self.y.width} at {self.y.offset}"
            f"{f', {loops} times' if loops else ''}"
        )

    def call(self, functions: Functions, rows: str | None) -> str:
        name = nested(self.part, self.axes, len(self.reads) + 1).name(functions)
        pointers = " ".join(functions.pointer(place, rows) for place in (*self.reads, self.y))
        return f"(call ${name} {pointers})"


def nested(part: Part, axes: Sequence[Axis], pointers: int) -> Part:
    """The part at each place of `axes`."""
    for axis in reversed(axes):
        keys = ("x_step", "z_step", "y_step") if pointers == 3 else ("x_step", "y_step")
        steps: dict[str, Value] = dict(zip(keys, axis.steps, strict=True))
        part = Part("axis", {"pointers": pointers, "count": axis.count, **steps}, {"each": part})
    return part


def merged(axes: Sequence[Axis]) -> list[Axis]:
    """Fewer axes that visit the same places in the same order: none of one place, one where two continue each other."""
    kept: list[Axis] = []
    for axis in axes:
        if axis.count == 1:
            continue
        if kept and all(outer == axis.count * inner for outer, inner in zip(kept[-1].steps, axis.steps, strict=True)):
            kept[-1] = Axis(kept[-1].count * axis.count, axis.steps)
        else:
            kept.append(axis)
    return kept


def move(what: str, x: Rows, y: Rows, axes: Sequence[Axis], size: int) -> NestStep:
    """`size` bytes from x to y at each place of `axes`, exactly."""
    kept = merged(axes)
    if kept and kept[-1].steps == (size, size):
        size *= kept.pop().count
    last = kept.pop() if kept else Axis(1, (0, 0))
    return NestStep(what, moves(size, last), (x,), y, tuple(kept))


def moves(size: int, axis: Axis = Axis(1, (0, 0))) -> Part:
    """`size` bytes at each place of one axis."""
    unroll = max(1, min(8, _UNROLLED_BYTES // size)) if size < 128 else 1
    steps = {"x_step": axis.steps[0], "y_step": axis.steps[1]}
    return Part("moves", {"size": size, "count": axis.count, "unroll": unroll, **steps})


def strides(shape: Sequence[int], item: int) -> list[int]:
    """Bytes from one place of each axis to the next, in rows of contiguous values of `item` bytes."""
    found, at = [], item
    for side in reversed(shape):
        found.append(at)
        at *= side
    return found[::-1]


def shifted(place: Rows, by: int) -> Rows:
    """The place `by` bytes further on, in the same rows."""
    return Rows(place.offset + by, place.stride, place.width)
