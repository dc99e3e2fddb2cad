"""softmax over the last axis, in float32 (the activation's template) and in 8 bits (a table and whole numbers)."""

from __future__ import annotations

import numpy as np

from edgeswarm.compile.lower_pointwise import exact, mapped
from edgeswarm.compile.lowering import Lowering, Plan, Step, no_pack, no_size, no_unpack
from edgeswarm.compile.nest import Axis, NestStep, Part, merged, moves
from edgeswarm.compile.template import Value
from edgeswarm.model import fixed_point_softmax
from edgeswarm.model.graph import Graph, Outline
from edgeswarm.model.op import number


def _softmax(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    width, beta = plan.outline.tensors[node.output].shape[-1], number(node.attrs, "beta")
    rows, vectors = x.width // width, -(-width // 4)
    power = Part("softmax", {"width": width, "vectors": vectors})
    scale: dict[str, Value] = {"slope": exact(beta)} if beta != 1.0 else {}
    if rows == 1 or width % 4 == 0:
        step = NestStep(
            "softmax", Part("softmax_rows", {"vectors": vectors, "rows": rows}, {"softmax": power}), (x,), y
        )
        return [*mapped(plan, "times", x, y, "times" if scale else "", **scale), step]
    read = moves(4 * width)
    if scale:
        read = Part("map", {"activation": "times", "vectors": vectors, "unroll": 1, **scale})
    inner = {"read": read, "softmax": power, "write": moves(4 * width)}
    row = Part("softmax_row", {"vectors": vectors, "scratch": plan.scratch(16 * vectors, index)}, inner)
    return [NestStep("softmax", row, (x,), y, (Axis(rows, (4 * width, 4 * width)),))]


def _table_size(outline: Outline, index: int) -> int:
    return 4 * fixed_point_softmax.DISTANCES


def _softmax_i8(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    width = plan.outline.tensors[node.output].shape[-1]
    part = Part("softmax_eight", {"values": width, "table": plan.weights(index)})
    return [NestStep("softmax", part, (x,), y, tuple(merged([Axis(x.width // width, (width, width))])))]


def _table_pack(graph: Graph, index: int) -> bytes:
    node = graph.nodes[index]
    powers = fixed_point_softmax.powers(graph.tensors[node.inputs[0]].scale, number(node.attrs, "beta"))
    return powers.astype(np.dtype("<i4")).tobytes()


SOFTMAX = Lowering(no_size, _softmax, no_pack, no_unpack)
SOFTMAX_I8 = Lowering(_table_size, _softmax_i8, _table_pack, no_unpack)
