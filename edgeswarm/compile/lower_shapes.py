"""Operators that only move bits: most of them cost nothing (`sharing.py`), the others are copies in nested loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.lowering import Lowering, Plan, Step, no_pack, no_size, no_unpack
from edgeswarm.compile.nest import Axis, NestStep, Part, merged, move, moves, shifted, strides
from edgeswarm.compile.sharing import skipped
from edgeswarm.model.graph import Graph, Outline
from edgeswarm.model.nodes import DTYPES, Node, Tensor
from edgeswarm.model.op import number, whole, wholes
from edgeswarm.model.ops_shapes import nearest


def _item(tensor: Tensor) -> int:
    return DTYPES[tensor.dtype].itemsize


def _numbers(node: Node, name: str) -> tuple[int, ...]:
    return wholes(node.attrs, name, None, 0, 1 << 62)


def _axes(counts: Sequence[int], *steps: Sequence[int]) -> list[Axis]:
    return [Axis(count, each) for count, each in zip(counts, zip(*steps, strict=True), strict=True)]


def _reshape(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    if not plan.copied(index, 0):
        return []
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    return [move("reshape", x, y, [], x.width * _item(plan.outline.tensors[node.output]))]


def _transpose(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    source, made = plan.outline.tensors[node.inputs[0]], plan.outline.tensors[node.output]
    item = _item(made)
    if skipped(plan.outline, node) is not None and not plan.copied(index, 0):  # a view of it
        return []
    read, written = strides(source.shape, item), strides(made.shape, item)
    axes = merged(_axes(made.shape, [read[axis] for axis in _numbers(node, "perm")], written))
    if item == 4 and len(axes) in (2, 3):  # many, columns, rows: tiles of 4 x 4
        columns, rows = axes[-2:]
        if columns.steps == (4, 4 * rows.count) and rows.steps == (4 * columns.count, 4):
            tiles = Part("transpose", {"rows": rows.count, "columns": columns.count})
            return [NestStep("transpose", tiles, (x,), y, tuple(axes[:-2]))]
    return [move("transpose", x, y, axes, item)]


def _join(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    made, y = plan.outline.tensors[node.output], plan.place(node.output)
    axis, item = whole(node.attrs, "axis", 0, len(made.shape) - 1), _item(made)
    outer, wide = math.prod(made.shape[:axis]), math.prod(made.shape[axis:]) * item
    steps: list[Step] = []
    at = 0
    for number_, tensor in enumerate(node.inputs):
        size = math.prod(plan.outline.tensors[tensor].shape[axis:]) * item
        if outer > 1 or plan.copied(index, number_):
            steps.append(move("join", plan.place(tensor), shifted(y, at), [Axis(outer, (size, wide))], size))
        at += size
    return steps


def _pad(plan: Plan, index: int) -> list[Step]:
    """What lies around is filled first, in whole vectors, whose ends the copy of what lies inside then writes over."""
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    source, made = plan.outline.tensors[node.inputs[0]], plan.outline.tensors[node.output]
    item, pads = _item(made), _numbers(node, "pads")
    written = strides(made.shape, item)
    value = np.full(4 // item, number(node.attrs, "value"), DTYPES[made.dtype]).view(np.int32)
    steps: list[Step] = []
    at = 0  # where the values of the axes so far begin
    outer: list[Axis] = []  # loops over them
    for axis, (side, step) in enumerate(zip(source.shape, written, strict=True)):
        before, after = pads[2 * axis : 2 * axis + 2]
        for start, many in ((at, before), (at + (before + side) * step, after)):
            if many:
                fill = Part("fill", {"vectors": -(-many * step // 16), "bits": int(value[0])})
                steps.append(NestStep("fill", fill, (x,), shifted(y, start), tuple(merged(outer))))
        at += before * step
        outer.append(Axis(side, (0, step)))
    axes = _axes(source.shape, strides(source.shape, item), written)
    return [*steps, move("pad", x, shifted(y, at), axes, item)]


def _strided_slice(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    source, made = plan.outline.tensors[node.inputs[0]], plan.outline.tensors[node.output]
    item = _item(made)
    read = strides(source.shape, item)
    if skipped(plan.outline, node) is not None and not plan.copied(index, 0):  # a view of it
        return []
    start = sum(at * step for at, step in zip(_numbers(node, "start"), read, strict=True))
    by = [many * step for many, step in zip(_numbers(node, "step"), read, strict=True)]
    axes = _axes(made.shape, by, strides(made.shape, item))
    return [move("strided_slice", shifted(x, start), y, axes, item)]


# --- resize_nearest: where each column, then each row, is taken from, is a table beside the weights


def _resize_tables(outline: Outline, index: int) -> tuple[list[int], list[int], int]:
    """Offsets of each column's source in a row, of each row's source in the image, and the bytes of a place."""
    node = outline.nodes[index]
    source, made = outline.tensors[node.inputs[0]], outline.tensors[node.output]
    align, half = bool(node.attrs["align"]), bool(node.attrs["half"])
    size = made.shape[2] * _item(made)
    down, across = (nearest(source.shape[axis], made.shape[axis], align, half) for axis in (0, 1))
    return [size * at for at in across], [size * source.shape[1] * at for at in down], size


def _resize_size(outline: Outline, index: int) -> int:
    height, width, _ = outline.tensors[outline.nodes[index].output].shape
    return 4 * (height + width)


def _resize(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    across, down, size = _resize_tables(plan.outline, index)
    table = plan.weights(index)
    row = Part("pieces", {"size": size, "count": len(across), "table": table}, {"move": moves(size)})
    rows = {"size": size * len(across), "count": len(down), "table": table + 4 * len(across)}
    return [NestStep("resize", Part("pieces", rows, {"move": row}), (x,), y)]


def _resize_pack(graph: Graph, index: int) -> bytes:
    across, down, _ = _resize_tables(graph, index)
    return np.array([*across, *down], "<i4").tobytes()


# --- constant: read where its weights lie


def _constant_size(outline: Outline, index: int) -> int:
    tensor = outline.tensors[outline.nodes[index].output]
    return -(-tensor.size * _item(tensor) // 4) * 4


def _constant(plan: Plan, index: int) -> list[Step]:
    tensor, y = plan.outline.nodes[index].output, plan.place(plan.outline.nodes[index].output)
    x = shifted(y, plan.weights(index) - y.offset)
    if x == y:
        return []
    return [move("constant", x, y, [], y.width * _item(plan.outline.tensors[tensor]))]


def _constant_pack(graph: Graph, index: int) -> bytes:
    value = graph.nodes[index].params["value"].tobytes()
    return value + bytes(-len(value) % 4)


def _constant_unpack(packed: bytes, outline: Outline, index: int) -> dict[str, NDArray[Any]]:
    tensor = outline.tensors[outline.nodes[index].output]
    return {"value": np.frombuffer(packed, DTYPES[tensor.dtype], tensor.size).reshape(tensor.shape)}


RESHAPE = Lowering(no_size, _reshape, no_pack, no_unpack)
TRANSPOSE = Lowering(no_size, _transpose, no_pack, no_unpack)
JOIN = Lowering(no_size, _join, no_pack, no_unpack)
PAD = Lowering(no_size, _pad, no_pack, no_unpack)
STRIDED_SLICE = Lowering(no_size, _strided_slice, no_pack, no_unpack)
RESIZE_NEAREST = Lowering(_resize_size, _resize, _resize_pack, no_unpack)
CONSTANT = Lowering(_constant_size, _constant, _constant_pack, _constant_unpack)
