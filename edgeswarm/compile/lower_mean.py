"""Means over any axes, in float32 and in 8 bits: axes that stay side by side are one, those between them loops."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeswarm.compile.lower_pairs import scale_values
from edgeswarm.compile.lower_pool import Kind, finish, once, over_any
from edgeswarm.compile.lowering import Lowering, Plan, Step, no_pack, no_size, no_unpack
from edgeswarm.compile.nest import Axis, NestStep, Part
from edgeswarm.compile.template import Value
from edgeswarm.model.graph import Outline
from edgeswarm.model.nodes import DTYPES
from edgeswarm.model.op import wholes
from edgeswarm.model.ops_i8 import mean_multiplier


@dataclass(frozen=True, slots=True)
class Grouped:
    """Axes of a mean, merged: (places, bytes from one to the next) of each, the outer first.

    gone: those that the mean goes over, two at most.  kept: the others, without the innermost where that is kept: then
    `inner` values one behind the other stay, else 0.
    """

    gone: tuple[tuple[int, int], ...]
    kept: tuple[tuple[int, int], ...]
    inner: int


def grouped(outline: Outline, index: int) -> Grouped:
    """The axes of the mean `index`."""
    node = outline.nodes[index]
    tensor = outline.tensors[node.inputs[0]]
    axes = wholes(node.attrs, "axes", None, 0, len(tensor.shape) - 1)
    groups: list[tuple[bool, int]] = []  # whether it goes, places
    for axis, side in enumerate(tensor.shape):
        if side > 1 and groups and groups[-1][0] == (axis in axes):
            groups[-1] = (axis in axes, groups[-1][1] * side)
        elif side > 1:
            groups.append((axis in axes, side))
    if not any(goes for goes, _ in groups):
        groups.insert(0, (True, 1))
    placed, at = [], DTYPES[tensor.dtype].itemsize
    for goes, places in reversed(groups):
        placed.append((goes, (places, at)))
        at *= places
    inner = 0 if groups[-1][0] else groups[-1][1]
    kept = [group for goes, group in placed[bool(inner) :] if not goes]
    return Grouped(tuple(group for goes, group in placed[::-1] if goes), tuple(kept[::-1]), inner)


def kept_axes(groups: Grouped, item: int) -> tuple[Axis, ...]:
    """Loops over what stays, but for the innermost stretch."""
    width = max(1, groups.inner) * item
    many = [math.prod(places for places, _ in groups.kept[at + 1 :]) for at in range(len(groups.kept))]
    return tuple(Axis(places, (step, width * each)) for (places, step), each in zip(groups.kept, many, strict=True))


def window(groups: Grouped) -> tuple[int, int, int, int]:
    """What the mean goes over as rows and columns: how many, and bytes from one row, one column to the next."""
    (cols, pixel), (rows, row) = groups.gone[-1], groups.gone[0] if len(groups.gone) > 1 else (1, 0)
    return rows, cols, row, pixel


def _mean(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    groups = grouped(plan.outline, index)
    rows, cols, row, pixel = window(groups)
    if groups.inner:
        kind = Kind("f32", 0, {"activation": ""})
        part = once(rows, cols, over_any(kind, groups.inner, row, pixel, 0, finish(kind, groups.inner, 0, rows * cols)))
    else:
        part = Part("pool_across", {"rows": rows, "row": row, "values": cols})
    return [NestStep("mean", part, (x,), y, kept_axes(groups, 4))]


def _mean_i8(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    source, made = plan.outline.tensors[node.inputs[0]], plan.outline.tensors[node.output]
    groups = grouped(plan.outline, index)
    rows, cols, row, pixel = window(groups)
    values: dict[str, Value] = {"less": rows * cols * source.zero_point, "zero": made.zero_point}
    values |= scale_values(*mean_multiplier((source,), made, node.attrs))
    if groups.inner:
        kind = Kind("i8", 0, {})
        sums = plan.scratch(kind.sums_bytes(groups.inner), index)
        end = Part("pool_requantise", {"vectors": kind.vectors(groups.inner), "sums": sums, **values})
        part = once(rows, cols, over_any(kind, groups.inner, row, pixel, sums, end))
    else:
        part = Part("pool_across_eight", {"rows": rows, "row": row, "values": cols, **values})
    return [NestStep("mean", part, (x,), y, kept_axes(groups, 1))]


MEAN_I8 = Lowering(no_size, _mean_i8, no_pack, no_unpack)
MEAN = Lowering(no_size, _mean, no_pack, no_unpack)
