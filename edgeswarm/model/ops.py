"""The operators of a model graph: for each its attrs, its params, the shape it makes, and what it computes.

A new operator is one entry of OPS here (with its float64 definition), one lowering in `edgeswarm.compile`, and its
templates in `wasm_kernels/`.  Here: those of flat rows; images and sequences: `ops_spatial.py`, `ops_shapes.py`; 8 bits
as TFLite computes them: `ops_i8.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeswarm.errors import ModelError
from edgeswarm.limits import AF_SECTION_BYTES_MAX, GRAPH_TENSOR_VALUES_MAX
from edgeswarm.model import ops_i8, ops_shapes, ops_spatial
from edgeswarm.model.fann import exact
from edgeswarm.model.nodes import RANGES, Node, Param, Tensor
from edgeswarm.model.op import F64, Attrs, Op, Written, activation, flat, no_params, whole
from edgeswarm.model.reference import FUNCTIONS

__all__ = ["CONNECTIONS_MAX", "F64", "OPS", "Attrs", "Op", "Written", "to_quantised", "whole"]

CONNECTIONS_MAX = AF_SECTION_BYTES_MAX // 4  # of a sparse layer: its weights alone then fill a section


# --- dense: activation(x @ weights + bias); a layer's steepness is folded into both before it gets here


def _dense_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    flat(inputs[0], ("f32",))
    activation(attrs)
    return Written((whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX),))


def _dense_params(inputs: Sequence[Tensor], attrs: Attrs) -> dict[str, Param]:
    units = whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX)
    return {"weights": Param("f32", (inputs[0].size, units)), "bias": Param("f32", (units,))}


def _dense(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    sums = rows[0] @ node.params["weights"].astype(np.float64) + node.params["bias"]
    return FUNCTIONS[str(node.attrs["activation"])](sums)


# --- concat: its inputs side by side; slice: the values from start to before stop


def _concat_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    kinds = {(tensor.dtype, tensor.scale, tensor.zero_point) for tensor in inputs}
    if len(kinds) != 1:
        raise ModelError("concat: expected inputs of one dtype, scale and zero point, found several")
    width, first = sum(flat(tensor, (tensor.dtype,)) for tensor in inputs), inputs[0]
    return Written((width,), (first.dtype,), (first.scale, first.zero_point))


def _concat(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return np.concatenate(rows, axis=1)


def _slice_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    tensor = inputs[0]
    width = flat(tensor, (tensor.dtype,))
    start = whole(attrs, "start", 0, width - 1)
    stop = whole(attrs, "stop", start + 1, width)
    return Written((stop - start,), (tensor.dtype,), (tensor.scale, tensor.zero_point))


def _slice(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    start = whole(node.attrs, "start", 0, inputs[0].size)
    return rows[0][:, start : start + output.size]


# --- quantize: round(x / scale + zero_point), halves to even, within the dtype's range; dequantize: the way back
# Divisions are multiplications by a float32, and every step is rounded to float32: kernels give the same whole numbers.


def _quantize_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    if inputs[0].dtype != "f32":
        raise ModelError(f"quantize: expected f32, found {inputs[0].dtype}")
    return Written(inputs[0].shape, tuple(RANGES))


def to_quantised(t: F64, tensor: Tensor, low: int | None = None) -> F64:
    """The whole numbers by which `tensor` holds scale * t, from `low` on; t is taken as float32, NaN as the lowest."""
    least, greatest = RANGES[tensor.dtype]
    least = least if low is None else max(least, low)
    t = t.astype(np.float32).astype(np.float64)
    t = np.where(t > least - tensor.zero_point, t, least - tensor.zero_point)
    held: F64 = np.rint(np.minimum(t, greatest - tensor.zero_point) + tensor.zero_point)
    return held


def _times(x: F64, factor: F64 | float) -> F64:
    """x times factor, all of them float32."""
    product: F64 = (x.astype(np.float32) * np.asarray(factor).astype(np.float32)).astype(np.float64)
    return product


def _quantize(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return to_quantised(_times(rows[0], 1 / output.scale), output)


def _dequantize_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    if inputs[0].dtype not in RANGES:
        raise ModelError(f"dequantize: expected {', '.join(RANGES)}, found {inputs[0].dtype}")
    return Written(inputs[0].shape)


def _dequantize(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return inputs[0].scale * (rows[0] - inputs[0].zero_point)


# --- dense_i8: activation(multiplier * (q @ weights + bias)), one multiplier an output; rounded again if it writes i8


def _dense_i8_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    flat(inputs[0], tuple(RANGES))
    activation(attrs)
    return Written((whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX),), ("f32", *RANGES))


def _dense_i8_params(inputs: Sequence[Tensor], attrs: Attrs) -> dict[str, Param]:
    units = whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX)
    return {
        "weights": Param("i8", (inputs[0].size, units)),
        "bias": Param("i32", (units,)),
        "multiplier": Param("f32", (units,)),
    }


def _dense_i8(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    sums = rows[0] @ node.params["weights"].astype(np.float64) + node.params["bias"]
    multiplier, name = node.params["multiplier"].astype(np.float64), str(node.attrs["activation"])
    if output.dtype in RANGES and name in ("linear", "relu"):  # one multiplication, and relu is a bound
        low = output.zero_point if name == "relu" else None
        return to_quantised(_times(sums, multiplier / output.scale), output, low)
    real = FUNCTIONS[name](_times(sums, multiplier))
    return to_quantised(_times(real, 1 / output.scale), output) if output.dtype in RANGES else real


# --- dense_fann: a layer of a FANN net in libfann's own float32 arithmetic; bias: its place among the connections


def _dense_fann_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    width = flat(inputs[0], ("f32",))
    whole(attrs, "bias", 0, width)
    if attrs["activation"] not in exact.FUNCTIONS:
        raise ModelError(f"activation: expected one of {', '.join(exact.FUNCTIONS)}, found {attrs['activation']!r}")
    return Written((whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX),))


def _dense_fann_params(inputs: Sequence[Tensor], attrs: Attrs) -> dict[str, Param]:
    return _dense_params(inputs, attrs) | {
        "steepness": Param("f32", (whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX),))
    }


def _dense_fann(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    """In float32, unlike the others: its bits are the point."""
    bias = whole(node.attrs, "bias", 0, inputs[0].size)
    x = np.insert(rows[0].astype(np.float32), bias, np.float32(1), axis=1)
    weights = np.insert(node.params["weights"], bias, node.params["bias"], axis=0)
    return exact.layer(x, weights, node.params["steepness"], str(node.attrs["activation"])).astype(np.float64)


# --- sparse_fann: the same with `counts` connections for each output; the source past the last value is the 1


def _sparse_fann_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    whole(attrs, "connections", 1, CONNECTIONS_MAX)
    return _dense_fann_infer(inputs, {**attrs, "bias": 0})


def _sparse_fann_params(inputs: Sequence[Tensor], attrs: Attrs) -> dict[str, Param]:
    units, connections = (
        whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX),
        whole(attrs, "connections", 1, CONNECTIONS_MAX),
    )
    return {
        "weights": Param("f32", (connections,)),
        "sources": Param("i32", (connections,)),
        "counts": Param("i32", (units,)),
        "steepness": Param("f32", (units,)),
    }


def _sparse_fann_check(node: Node, inputs: Sequence[Tensor]) -> None:
    counts, sources, width = node.params["counts"], node.params["sources"], inputs[0].size
    if (counts < 0).any() or int(counts.sum(dtype=np.int64)) != len(sources):
        raise ModelError(f"counts: expected numbers from 0 that add up to {len(sources)} connections, found others")
    if ((sources < 0) | (sources > width)).any():
        raise ModelError(f"sources: expected 0 to {width}, the last for the 1 behind the values, found others")


def _sparse_fann(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    x = np.hstack([rows[0].astype(np.float32), np.ones((len(rows[0]), 1), np.float32)])
    out, at, name = np.empty((len(x), output.size)), 0, str(node.attrs["activation"])
    for unit, count in enumerate(node.params["counts"].tolist()):
        one = slice(at, at + count)
        weights, steepness = node.params["weights"][one, None], node.params["steepness"][unit : unit + 1]
        out[:, unit] = exact.layer(x[:, node.params["sources"][one]], weights, steepness, name)[:, 0]
        at += count
    return out


_DENSE: dict[str, Any] = {"units": int, "activation": str}


def _dense_macs(inputs: Sequence[Tensor], attrs: Attrs) -> int:
    return inputs[0].size * whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX)


def _sparse_macs(inputs: Sequence[Tensor], attrs: Attrs) -> int:
    return whole(attrs, "connections", 1, CONNECTIONS_MAX)


OPS: dict[str, Op] = {
    "dense": Op((1, 1), _DENSE, _dense_infer, _dense_params, _dense, "dense_f32", macs=_dense_macs),
    "dense_fann": Op(
        (1, 1),
        _DENSE | {"bias": int},
        _dense_fann_infer,
        _dense_fann_params,
        _dense_fann,
        "dense_fann",
        macs=_dense_macs,
    ),
    "sparse_fann": Op(
        (1, 1),
        _DENSE | {"connections": int},
        _sparse_fann_infer,
        _sparse_fann_params,
        _sparse_fann,
        "sparse_fann",
        _sparse_fann_check,
        _sparse_macs,
    ),
    "concat": Op((1, 4096), {}, _concat_infer, no_params, _concat, "concat"),
    "slice": Op((1, 1), {"start": int, "stop": int}, _slice_infer, no_params, _slice, "slice"),
    "quantize": Op((1, 1), {}, _quantize_infer, no_params, _quantize, "quantize"),
    "dense_i8": Op((1, 1), _DENSE, _dense_i8_infer, _dense_i8_params, _dense_i8, "dense_i8", macs=_dense_macs),
    "dequantize": Op((1, 1), {}, _dequantize_infer, no_params, _dequantize, "dequantize"),
    **ops_spatial.OPS,
    **ops_shapes.OPS,
    **ops_i8.OPS,
}
