"""8-bit convolutions and dense layers as TFLite computes them: conv2d_i8, depthwise_i8, dense_tflite.

A few rows of outputs at a time: rows of the input are widened to 16 bits with their margins, convolved into i32 sums,
and these become 8 bits.  Both lie in scratch that fits the first cache, for the whole image is never widened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.lower_dense_i8 import dense_values
from edgeswarm.compile.lower_depthwise_i8 import pair_bytes, paired, row_values_of, taps
from edgeswarm.compile.lower_places_i8 import places_call
from edgeswarm.compile.lower_winograd_i8 import TILE, tile_places, tile_scratch_bytes, tiles
from edgeswarm.compile.lowering import Functions, Lowering, Plan, Step
from edgeswarm.compile.pack_conv_i8 import pack, unpack
from edgeswarm.compile.shape_conv_i8 import FLAT_STEPS_MAX, PANEL_VECTORS, Shape, aligned, shape_of
from edgeswarm.compile.template import Value
from edgeswarm.model.graph import Graph, Outline

_TILES = {4: TILE, 3: 2, 2: 4, 1: 4}  # the same, by the width of the panel
_SCRATCH_LEAST, _SCRATCH_MOST = 4096, 24576  # bytes: enough for a few rows, and half of a small first cache


@dataclass(frozen=True, slots=True)
class ConvStep:
    """One convolution.  weights: offset of the packed node; scratch: of widened rows and sums; rows: at a time."""

    x: Rows
    y: Rows
    op: str
    shape: Shape
    weights: int
    scratch: int
    rows: int

    def __str__(self) -> str:
        s = self.shape
        what = f"{s.height}x{s.width}x{s.inputs} -> {s.window.height}x{s.window.width}x{s.outputs}"
        kernel = "x".join(map(str, s.window.kernel))
        return f"{self.op:<13} {what}, kernel {kernel}, {self.rows} rows at a time, x at {self.x.offset}"

    def call(self, functions: Functions, rows: str | None) -> str:
        """The text that performs the step; `rows` holds 1."""
        s = self.shape
        values: dict[str, Value] = {
            "factors_at": s.factors_at,
            "bias_at": s.bias_at,
            "raw_at": s.raw_at,
            "weights_at": s.weights_at,
            "sums_at": sums_at(s, self.rows),
        }
        values |= _requantise(functions, s)
        if s.dense:
            name = functions.function("conv_i8_dense_layer", values | dense_values(functions, s))
        elif s.paired:
            name = functions.function("conv_i8_depthwise", values | paired(functions, s))
        elif s.winograd:
            name = functions.function("conv_i8_winograd", values | tiles(functions, s))
        elif s.pointwise:
            x, y = functions.pointer(self.x, rows), functions.pointer(self.y, rows)
            arguments = f"{x} (i32.const {self.weights}) (i32.const {self.scratch}) {y}"
            return places_call(functions, s, values | _pass(functions, s, self.rows), self.weights, arguments)
        else:
            name = functions.function("conv_i8_layer", values | _pass(functions, s, self.rows) | _image(s))
        x, y = functions.pointer(self.x, rows), functions.pointer(self.y, rows)
        return f"(call ${name} {x} (i32.const {self.weights}) (i32.const {self.scratch}) {y})"


def _pass(functions: Functions, s: Shape, rows: int) -> dict[str, Value]:
    return {
        "rows": rows,
        "inputs": s.inputs,
        "widen": _widen(functions, s),
        "sums": taps(functions, s) if s.depthwise else _panels(functions, s),
    }


def _image(s: Shape) -> dict[str, Value]:
    return {
        "height": s.window.height,
        "width": s.window.width,
        "top": s.window.pad[0],
        "stride": s.strides[0],
        "spread": s.window.spread[0],
        "row_bytes": row_bytes(s),
        "y_row": 16 * s.vectors * s.window.width,
        "out_row": s.outputs * s.window.width,
    }


def row_values(shape: Shape) -> int:
    """Values of a widened row: with the margins, or of the places that are picked."""
    return shape.window.width * shape.inputs if shape.picked else row_values_of(shape)


def row_bytes(shape: Shape) -> int:
    return 2 * (shape.inputs if shape.pointwise else row_values(shape))


def sums_at(shape: Shape, rows: int) -> int:
    """Bytes of scratch for the widened input of `rows` rows of outputs, and for what is read behind it."""
    window, (rounds, unroll) = shape.window, shape.rounds
    if shape.dense:
        return aligned(32 * shape.bodies[0] * shape.bodies[1] + 32)
    if shape.winograd:
        return tile_places(shape)[3]
    if shape.paired:
        return shape.pairs * pair_bytes(shape) + aligned(shape.width * shape.inputs + 16)
    deep = rows if shape.pointwise else (rows - 1) * shape.strides[0] + window.spread[0]
    if shape.depthwise:
        _, across, columns = shape.parts
        behind = 2 * shape.channels * window.dilation[1] * (across * columns - window.kernel[1])
    else:
        behind = 4 * rounds * unroll - 2 * shape.segments[2]
    return aligned(deep * row_bytes(shape) + behind + 64)


def scratch_bytes(shape: Shape, rows: int) -> int:
    if shape.winograd:
        return tile_scratch_bytes(shape)
    places = rows if shape.pointwise else (1 if shape.paired else rows) * shape.window.width
    return sums_at(shape, rows) + 16 * shape.vectors * places + 64


def rows_of(shape: Shape, peak: int = 0) -> int:
    """Rows (pointwise: places) of outputs at a time.  peak: bytes that some node of the graph reads and writes.

    As many as fit with the input and the output into a little more than the peak.
    """
    window = shape.window
    if shape.paired:
        return shape.tables
    if shape.winograd:
        return 4
    size = shape.height * shape.width * shape.inputs + window.height * window.width * shape.outputs
    room = min(max(peak + peak // 3 - size, _SCRATCH_LEAST), _SCRATCH_MOST)
    most = window.height * window.width if shape.pointwise else window.height
    one = scratch_bytes(shape, 1)
    each = scratch_bytes(shape, 17) - one  # of 16 rows: what alignment adds is small in it
    rows = 1 + max(0, room - one) * 16 // each
    if shape.pointwise and rows >= TILE:
        rows -= rows % TILE
    return min(rows, most)


def peak_of(outline: Outline) -> int:
    """The most that a node of 8-bit tensors reads and writes, in bytes."""
    tensors = outline.tensors
    return max(
        sum(tensors[index].size for index in (*node.inputs, node.output) if tensors[index].dtype == "i8")
        for node in outline.nodes
    )


def _widen(functions: Functions, s: Shape) -> str:
    if s.pointwise:
        return functions.function("conv_i8_extend", {"values": s.inputs})
    if s.picked:
        down, across = s.window.stride
        places: dict[str, Value] = {"places": s.window.width, "inputs": s.inputs, "across": across}
        return functions.function("conv_i8_picked", places | {"row_step": down * s.width * s.inputs})
    values: dict[str, Value] = {
        "height": s.height,
        "left": s.window.pad[2] * s.channels,
        "row": s.width * s.channels,
        "total": row_bytes(s) // 2,
        "zero": s.zero,
        "times": s.times,
    }
    return functions.function("conv_i8_widen", values)


def _panels(functions: Functions, s: Shape) -> str:
    groups, segments, _ = s.segments
    rounds, unroll = s.rounds
    shape: dict[str, Value] = {
        "splat": 0,
        "repeat": 1,
        "biased": 1,
        "rest": 1,
        "at_once": 0,
        "x_step": 2 * s.inputs * s.strides[1],
        "y_step": 16 * s.vectors,
        "groups": groups,
        "group_step": s.window.dilation[0] * row_bytes(s),
        "segments": segments,
        "seg_step": 2 * s.inputs * s.window.dilation[1],
        "rounds": rounds,
        "unroll": unroll,
        "flat": int(s.steps <= FLAT_STEPS_MAX),
    }
    places = s.window.width * (s.window.height if s.pointwise else 1)
    widths = [PANEL_VECTORS if s.vectors >= PANEL_VECTORS else 0, s.vectors % PANEL_VECTORS]
    tiles: list[dict[str, Value]] = [{"width": width, "tile": min(places, _TILES.get(width, 1))} for width in widths]
    sums = [functions.function("conv_i8_gemm", tile | shape) if tile["width"] else "" for tile in tiles]
    values: dict[str, Value] = {
        "panels": s.vectors // PANEL_VECTORS,
        "width": PANEL_VECTORS,
        "last": widths[1],
        "panel_bytes": 16 * PANEL_VECTORS * s.steps,
        "sums": sums[0],
        "sums_last": sums[1],
    }
    return functions.function("conv_i8_panels", values)


def _requantise(functions: Functions, s: Shape) -> dict[str, Value]:
    together = 16 // s.outputs if s.outputs in (4, 8) and 4 * s.vectors == s.outputs else 1
    vectors = -(-s.outputs // 4)
    quick: dict[str, Value] = {
        "signed": int(s.signed),
        "short_signed": int(s.short_signed),
        "kinds": s.factor_bytes // 32,
        "low": s.low,
        "high": s.high,
        "pairs": int(s.outputs * together % 16 == 0),
        "together": together,
        "period": vectors,
        "vectors": vectors * together,
        "y_step": 16 * s.vectors * together,
        "out_step": s.outputs * together,
    }
    slow: dict[str, Value] = {
        "channels": s.outputs,
        "shifts": 16 * s.vectors,
        "y_step": 16 * s.vectors,
        "once": int(s.once),
    }
    functions_of: dict[str, Value] = {"any": functions.function("conv_i8_requantise_any", slow)}
    return functions_of if s.paired else functions_of | {"quick": functions.function("conv_i8_requantise", quick)}


def _steps(plan: Plan, index: int) -> list[Step]:
    node, shape = plan.outline.nodes[index], shape_of(plan.outline, index)
    rows = rows_of(shape, peak_of(plan.outline))
    scratch = plan.scratch(scratch_bytes(shape, rows), index)
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    return [ConvStep(x, y, node.op, shape, plan.weights(index), scratch, rows)]


def _size(outline: Outline, index: int) -> int:
    return shape_of(outline, index).size


def _pack(graph: Graph, index: int) -> bytes:
    return pack(shape_of(graph.outline, index), graph.nodes[index].params)


def _unpack(packed: bytes, outline: Outline, index: int) -> dict[str, NDArray[Any]]:
    node, params = outline.nodes[index], unpack(shape_of(outline, index), packed)
    weights = params["weights"]
    if node.op == "depthwise_i8":
        params["weights"] = weights.reshape(*weights.shape[:2], -1)
    elif node.op in ("dense_tflite", "rows_tflite"):
        params["weights"] = weights.reshape(-1, weights.shape[-1])
    params["weights"] = np.ascontiguousarray(params["weights"])
    return params


CONV = DEPTHWISE = DENSE = Lowering(_size, _steps, _pack, _unpack)
