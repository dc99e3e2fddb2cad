"""Operators that look at each value alone: activations, leaky, tables of 8-bit numbers, float32 to 8 bits.

All of them may write where they read.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.lowering import Lowering, Plan, Step, no_pack, no_size, no_unpack
from edgeswarm.compile.nest import NestStep, Part
from edgeswarm.compile.template import Value
from edgeswarm.model.graph import Graph, Outline
from edgeswarm.model.op import number


def exact(value: float) -> str:
    """A number as WebAssembly's text writes the nearest float32."""
    return float(np.float32(value)).hex()


def mapped(plan: Plan, what: str, x: Rows, y: Rows, activation: str, **values: Value) -> list[Step]:
    """The step that takes values from x through an activation ("" for none) to y; none if there is nothing to do."""
    if not activation and x.offset == y.offset:
        return []
    shape: dict[str, Value] = {"vectors": -(-y.width // 4), "unroll": plan.library.tile(plan.arch).pass_unroll}
    return [NestStep(what, Part("map", {"activation": activation, **shape, **values}), (x,), y)]


def elementwise_of(plan: Plan, index: int) -> str:
    """The template of a node's activation, "" for none."""
    name = str(plan.outline.nodes[index].attrs["activation"])
    return "" if plan.library.placements[name] == "none" else name


def _elementwise(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    return mapped(plan, str(node.attrs["activation"]), x, y, elementwise_of(plan, index))


def _leaky(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    return mapped(plan, "leaky", x, y, "leaky", slope=exact(number(node.attrs, "slope")))


def _lookup_size(outline: Outline, index: int) -> int:
    return 256


def _lookup(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    table = Part("lookup", {"groups": -(-x.width // 8), "table": plan.weights(index)})
    return [NestStep("lookup", table, (x,), y)]


def _lookup_pack(graph: Graph, index: int) -> bytes:
    return graph.nodes[index].params["table"].tobytes()


def _lookup_unpack(packed: bytes, outline: Outline, index: int) -> dict[str, NDArray[Any]]:
    return {"table": np.frombuffer(packed, np.int8)}


def _quantize(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y, made = plan.place(node.inputs[0]), plan.place(node.output), plan.outline.tensors[node.output]
    scale = float(np.float32(made.scale))
    inverse = math.frexp(scale)[0] == 0.5 and 2.0**-100 < scale < 2.0**100  # a power of 2: a product is as exact
    values: dict[str, Value] = {
        "groups": -(-x.width // 16),
        "divide": "f32x4.mul" if inverse else "f32x4.div",
        "by": exact(1 / scale if inverse else scale),
        "zero": made.zero_point,
        "lowest": int(made.zero_point == -128),
    }
    return [NestStep("quantize", Part("affine_quantize", values), (x,), y)]


ELEMENTWISE = Lowering(no_size, _elementwise, no_pack, no_unpack)
LEAKY = Lowering(no_size, _leaky, no_pack, no_unpack)
LOOKUP = Lowering(_lookup_size, _lookup, _lookup_pack, _lookup_unpack)
QUANTIZE = Lowering(no_size, _quantize, no_pack, no_unpack)
