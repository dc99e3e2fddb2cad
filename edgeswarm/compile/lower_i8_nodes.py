"""The 8-bit operators of a graph: quantize, dense_i8, dequantize, over tensors of u7 and i8 (a byte a value).

u7 goes the path `i7`, i8 the path `exact`, for which a row is first widened to 16 bits.  Packed weights of a node: a
record (pack_i8), for dense_i8 then panels, factors and, to be read back, the multipliers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.lower_f32 import passes
from edgeswarm.compile.lower_i8 import OPERATIONS, tile_i8
from edgeswarm.compile.lowering import Functions, Lowering, Plan, Step, no_unpack
from edgeswarm.compile.pack_i8 import ONES, RECORD_BYTES, PackedI8, panels, read_panels, record
from edgeswarm.compile.template import Value
from edgeswarm.errors import LocalError
from edgeswarm.model.graph import Graph, Outline
from edgeswarm.model.nodes import RANGES, Tensor
from edgeswarm.model.quantize import GROUPS, IN_STEPS

_PATHS = {"u7": "i7", "i8": "exact"}


@dataclass(frozen=True, slots=True)
class TemplateStep:
    """One call of a template's function: `values` shape its code, `addresses` are what follows x, rows and before y."""

    template: str
    x: Rows
    y: Rows
    values: Mapping[str, Value]
    addresses: tuple[int, ...] = ()
    in_place: bool = False

    def __str__(self) -> str:
        return f"{self.template:<13} {self.x.width} values at {self.x.offset} to {self.y.width} at {self.y.offset}"

    def call(self, functions: Functions, rows: str | None) -> str:
        """The text that performs the step on row 0 (rows None) or on the rows of a block."""
        name = functions.function(self.template, self.values)
        count = f"(local.get {rows})" if rows else "(i32.const 1)"
        given = " ".join(f"(i32.const {address})" for address in self.addresses)
        y = "" if self.in_place else functions.pointer(self.y, rows)
        return f"(call ${name} {functions.pointer(self.x, rows)} {count} {given} {y})"


@dataclass(frozen=True, slots=True)
class SumsStep:
    """The sums of a dense layer in i32.  weights: offset of the packed node."""

    x: Rows
    y: Rows
    layer: PackedI8
    weights: int
    arch: str

    def __str__(self) -> str:
        return f"{'dense_i8':<13} {self.layer.inputs} -> {self.layer.outputs}: {self.layer.path}, x at {self.x.offset}"

    def call(self, functions: Functions, rows: str | None) -> str:
        layer, tile = self.layer, tile_i8(self.arch)
        shape: dict[str, Value] = {
            "unroll": min(tile.unroll, -(-layer.steps // 4) * 4),
            "fence": tile.fence,
            "group": GROUPS[layer.path],
            "bytes": layer.bytes,
            **OPERATIONS[layer.path],
        }
        sums = [functions.function("i8_sums", {"width": w} | shape) if w else "" for w in (layer.width, layer.last)]
        values: dict[str, Value] = {
            "steps": layer.steps,
            "bytes": layer.bytes,
            "panels": layer.panels,
            "width": layer.width,
            "last": layer.last,
            "x_stride": self.x.stride,
            "y_stride": self.y.stride,
            "sums": sums[0],
            "sums_last": sums[1],
        }
        count = f"(local.get {rows})" if rows else "(i32.const 1)"
        x, y = functions.pointer(self.x, rows), functions.pointer(self.y, rows)
        places = f"(i32.const {self.weights + RECORD_BYTES}) (i32.const {self.weights + ONES})"
        return f"(call ${functions.function('i8_layer', values)} {x} {count} {places} {y})"


def _path(tensor: Tensor) -> str:
    """By what a tensor is computed with.  u8 exists in the definition only."""
    if tensor.dtype not in _PATHS:
        raise LocalError(f"8-bit kernels: expected tensors of {' or '.join(_PATHS)}, found {tensor.dtype}")
    return _PATHS[tensor.dtype]


def _rounding(tensor: Tensor, activation: str = "linear") -> bytes:
    """The record by which values become what `tensor` holds; a relu holds them at its zero point."""
    low, high = RANGES[tensor.dtype]
    low = max(low, tensor.zero_point) if activation == "relu" else low
    return record(1 / tensor.scale, low - tensor.zero_point, high - tensor.zero_point, tensor.zero_point)


def _quantize_step(plan: Plan, x: Rows, y: Rows, record_at: int, factors: int, sums: bool) -> TemplateStep:
    values: dict[str, Value] = {
        "sums": int(sums),
        "half": 0,
        "groups": -(-y.width // 16),
        "x_stride": x.stride,
        "y_stride": y.stride,
        "between": 0,
        "activation": "",
        "unroll": tile_i8(plan.arch).round_unroll,
    }
    return TemplateStep("i8_quantize", x, y, values, (factors, record_at))


def _quantize(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    _path(plan.outline.tensors[node.output])
    return [_quantize_step(plan, x, y, plan.weights(index), 0, False)]


def _quantize_pack(graph: Graph, index: int) -> bytes:
    return _rounding(graph.tensors[graph.nodes[index].output])


def _record_size(outline: Outline, index: int) -> int:
    return RECORD_BYTES


def _dequantize(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    _path(plan.outline.tensors[node.inputs[0]])
    values: dict[str, Value] = {"vectors": -(-x.width // 4), "x_stride": x.stride, "y_stride": y.stride}
    return [TemplateStep("i8_expand", x, y, values, (plan.weights(index),))]


def _dequantize_pack(graph: Graph, index: int) -> bytes:
    tensor = graph.tensors[graph.nodes[index].inputs[0]]
    return record(tensor.scale, 0, 0, tensor.zero_point)


def _layer(outline: Outline, index: int) -> PackedI8:
    node = outline.nodes[index]
    x = outline.tensors[node.inputs[0]]
    return PackedI8(x.size, outline.tensors[node.output].size, _path(x))


def _dense_size(outline: Outline, index: int) -> int:
    layer = _layer(outline, index)
    return layer.size + 4 * layer.padded


def _dense(plan: Plan, index: int) -> list[Step]:
    node, layer = plan.outline.nodes[index], _layer(plan.outline, index)
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    name, out = str(node.attrs["activation"]), plan.outline.tensors[node.output]
    at, factors = plan.weights(index), plan.weights(index) + layer.factors
    block = plan.block_rows
    widened = block * layer.x_stride if layer.path == "exact" else 0
    scratch = plan.scratch(widened + block * 4 * layer.padded)
    steps: list[Step] = []
    if widened:
        wide = Rows(scratch, layer.x_stride, x.width)
        values: dict[str, Value] = {"vectors": layer.x_stride // 16, "x_stride": x.stride, "y_stride": wide.stride}
        steps.append(TemplateStep("i8_widen", x, wide, values))
        x = wide
    sums = y if out.dtype == "f32" else Rows(scratch + widened, 4 * layer.padded, y.width)
    steps.append(SumsStep(x, sums, layer, at, plan.arch))
    if out.dtype != "f32" and name in IN_STEPS:
        return [*steps, _quantize_step(plan, sums, y, at, factors, True)]
    if out.dtype != "f32":  # activations pass over rows end to end: whole vectors, no groups
        sums = Rows(sums.offset, 16 * layer.columns, y.width)
        steps[-1] = SumsStep(x, sums, layer, at, plan.arch)
    gap = sums.stride - 16 * layer.columns
    values = {"vectors": layer.columns, "gap": gap}
    steps.append(TemplateStep("i8_dequantize", sums, sums, values, (factors,), in_place=True))
    steps += passes(plan.library, [name], sums, plan.library.tile(plan.arch).pass_unroll)
    if out.dtype != "f32":
        steps.append(_quantize_step(plan, sums, y, at, 0, False))
    return steps


def _dense_pack(graph: Graph, index: int) -> bytes:
    node, layer = graph.nodes[index], _layer(graph.outline, index)
    out, name = graph.tensors[node.output], str(node.attrs["activation"])
    multiplier = node.params["multiplier"].astype(np.float64)
    straight = out.dtype != "f32" and name in IN_STEPS
    part = bytearray(_dense_size(graph.outline, index))
    head = _rounding(out, name) if out.dtype != "f32" else record(1, 0, 0, 0)
    part[: len(head)] = head
    body = panels(node.params["weights"], node.params["bias"], layer)
    part[RECORD_BYTES : RECORD_BYTES + len(body)] = body
    for at, values in (
        (layer.factors, multiplier / out.scale if straight else multiplier),
        (layer.size, multiplier),
    ):
        packed = values.astype("<f4").tobytes()
        part[at : at + len(packed)] = packed
    return bytes(part)


def _dense_unpack(packed: bytes, outline: Outline, index: int) -> dict[str, NDArray[Any]]:
    layer = _layer(outline, index)
    weights, bias = read_panels(packed[RECORD_BYTES : RECORD_BYTES + layer.sums_size], layer)
    multiplier = np.frombuffer(packed, "<f4", layer.outputs, layer.size).astype(np.float32)
    return {"weights": weights, "bias": bias, "multiplier": multiplier}


QUANTIZE = Lowering(_record_size, _quantize, _quantize_pack, no_unpack)
DENSE = Lowering(_dense_size, _dense, _dense_pack, _dense_unpack)
DEQUANTIZE = Lowering(_record_size, _dequantize, _dequantize_pack, no_unpack)
