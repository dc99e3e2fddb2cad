"""Operators on 8-bit tensors, in the whole-number arithmetic of TFLite's reference kernels: the same bits.

Sums are 32-bit numbers (they wrap), scaled as `fixed_point.py` tells (rounded twice, in dense_tflite and rows_tflite
once), then moved by the zero point written, then held within low and high: the fused activation, as whole numbers.
Padded places count as the zero point read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeswarm.errors import ModelError
from edgeswarm.limits import GRAPH_TENSOR_VALUES_MAX
from edgeswarm.model import fixed_point, fixed_point_softmax
from edgeswarm.model.nodes import RANGES, Node, Param, Tensor
from edgeswarm.model.op import F64, I64, Attrs, Op, Written, no_params, number, of_dtype, whole, wholes
from edgeswarm.model.ops_shapes import broadcast_shape, mean_shape
from edgeswarm.model.ops_spatial import (
    POOL,
    WINDOW,
    conv_macs,
    conv_params,
    conv_shape,
    convolved,
    convolved_depthwise,
    depthwise_params,
    padded,
    pool_looks,
    pool_shape,
    window_counts,
    window_maxima,
    window_of,
    window_sums,
)

LOW, HIGH = RANGES["i8"]


def bounds(attrs: Attrs) -> tuple[int, int]:
    """The attrs low and high."""
    low = whole(attrs, "low", LOW, HIGH)
    return low, whole(attrs, "high", low, HIGH)


def _held(values: I64, output: Tensor, low: int = LOW, high: int = HIGH) -> F64:
    """Whole numbers around 0, moved by the zero point written, within low and high."""
    return np.clip(values + output.zero_point, low, high).astype(np.float64)


def _offset(rows: F64, tensor: Tensor) -> I64:
    """The whole numbers of `tensor` less its zero point."""
    return rows.astype(np.int64) - tensor.zero_point


# --- conv2d_i8, depthwise_i8, dense_tflite, rows_tflite (a dense layer over the last axis): a multiplier an output


def _channel_params(shape: tuple[int, ...], channels: int) -> dict[str, Param]:
    each = {name: Param("i32", (channels,)) for name in ("bias", "multiplier", "shift")}
    return {"weights": Param("i8", shape), **each}


def _check_channels(node: Node, inputs: Sequence[Tensor]) -> None:
    multiplier, shift = node.params["multiplier"], node.params["shift"]
    if ((multiplier != 0) & (multiplier < 1 << 30)).any():
        raise ModelError("multiplier: expected 0 or 2^30 to 2^31 - 1, found another")
    if ((shift < -31) | (shift > 30)).any():
        raise ModelError("shift: expected -31 to 30, found another")


def _conv_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "i8")
    bounds(attrs)
    return Written(conv_shape(inputs, attrs), ("i8",))


def _conv_params(inputs: Sequence[Tensor], attrs: Attrs) -> dict[str, Param]:
    return _channel_params(*(conv_params if "filters" in attrs else depthwise_params)(inputs, attrs))


def _requantised(node: Node, sums: F64, output: Tensor) -> F64:
    """Sums without bias, which float64 holds exactly, to the numbers written."""
    total = fixed_point.wrapped(sums.astype(np.int64) + node.params["bias"])
    multiplier, shift = node.params["multiplier"].astype(np.int64), node.params["shift"].astype(np.int64)
    scaled = fixed_point.scaled_once if node.op in ("dense_tflite", "rows_tflite") else fixed_point.scaled
    return _held(scaled(total, multiplier, shift), output, *bounds(node.attrs))


def _conv(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    window, weights = window_of(inputs[0], node.attrs), node.params["weights"].astype(np.float64)
    x = padded(rows[0] - inputs[0].zero_point, window)
    sums = (convolved if node.op == "conv2d_i8" else convolved_depthwise)(x, weights, window)
    return _requantised(node, sums, output)


def _dense_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "i8")
    bounds(attrs)
    return Written((whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX),), ("i8",))


def _dense_params(inputs: Sequence[Tensor], attrs: Attrs) -> dict[str, Param]:
    units = whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX)
    return _channel_params((inputs[0].size, units), units)


def _dense(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    x = rows[0].reshape(len(rows[0]), -1) - inputs[0].zero_point
    return _requantised(node, x @ node.params["weights"].astype(np.float64), output)


def _dense_macs(inputs: Sequence[Tensor], attrs: Attrs) -> int:
    return inputs[0].size * whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX)


def _rows_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    return Written((*inputs[0].shape[:-1], *_dense_infer(inputs, attrs).shape), ("i8",))


def _rows_params(inputs: Sequence[Tensor], attrs: Attrs) -> dict[str, Param]:
    units = whole(attrs, "units", 1, GRAPH_TENSOR_VALUES_MAX)
    return _channel_params((inputs[0].shape[-1], units), units)


def _rows(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    x = rows[0] - inputs[0].zero_point
    return _requantised(node, x @ node.params["weights"].astype(np.float64), output)


# --- add_i8, mul_i8: multipliers from the scales of what is read and written


def _pair_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "i8")
    bounds(attrs)
    return Written(broadcast_shape(inputs), ("i8",))


ADD_SHIFT = 20
"""Bits by which both addends are shifted left before they are scaled: |q - zero point| < 2^8 leaves room for it."""


def add_multipliers(inputs: Sequence[Tensor], output: Tensor) -> tuple[tuple[int, int], ...]:
    """(multiplier, shift) of both addends, which come shifted left by ADD_SHIFT, and of their sum."""
    twice = 2.0 * max(tensor.scale for tensor in inputs)
    reals = [tensor.scale / twice for tensor in inputs] + [twice / ((1 << ADD_SHIFT) * output.scale)]
    return tuple(fixed_point.quantize_multiplier(real) for real in reals)


def mul_multiplier(inputs: Sequence[Tensor], output: Tensor) -> tuple[int, int]:
    """(multiplier, shift) of a product.  Its factor is computed in float32, as TFLite does."""
    with np.errstate(over="ignore", under="ignore"):
        real = np.float32(inputs[0].scale) * np.float32(inputs[1].scale) / np.float32(output.scale)
    return fixed_point.quantize_multiplier(float(real))


def _add(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    *each, last = add_multipliers(inputs, output)
    total = sum(
        fixed_point.scaled(_offset(x, tensor) << ADD_SHIFT, *factor)
        for x, tensor, factor in zip(rows, inputs, each, strict=True)
    )
    return _held(fixed_point.scaled(np.asarray(total), *last), output, *bounds(node.attrs))


def _mul(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    product = _offset(rows[0], inputs[0]) * _offset(rows[1], inputs[1])
    return _held(fixed_point.scaled(product, *mul_multiplier(inputs, output)), output, *bounds(node.attrs))


# --- average_pool_i8, max_pool_i8: scale and zero point are kept


def _pool_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "i8")
    bounds(attrs)
    return Written(pool_shape(inputs, attrs), ("i8",), (inputs[0].scale, inputs[0].zero_point))


def _divided(total: I64, count: I64) -> I64:
    """total / count, to nearest, halves away from 0."""
    rounded: I64 = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return rounded


def _average_pool(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    """The mean of the numbers as they are held, zero point included."""
    window = window_of(inputs[0], node.attrs)
    count = window_counts(inputs[0], window).astype(np.int64)
    mean = _divided(window_sums(rows[0], window).astype(np.int64), count)
    return np.clip(mean, *bounds(node.attrs)).astype(np.float64)


def _max_pool(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return np.clip(window_maxima(rows[0], window_of(inputs[0], node.attrs)), *bounds(node.attrs))


# --- mean_i8: the number of values is a part of the multiplier


def _mean_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "i8")
    return Written(mean_shape(inputs, attrs), ("i8",))


def mean_multiplier(inputs: Sequence[Tensor], output: Tensor, attrs: Attrs) -> tuple[int, int]:
    """(multiplier, shift) by which the sum of the values, less their zero points, becomes their mean."""
    multiplier, shift = fixed_point.quantize_multiplier(inputs[0].scale / output.scale)
    count = inputs[0].size // math.prod(mean_shape(inputs, attrs))
    by = max(0, min(count.bit_length() - 1, 32, 31 + shift))
    return (multiplier << by) // count, shift - by


def _mean(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    axes = wholes(node.attrs, "axes", None, 0, len(inputs[0].shape) - 1)
    total = _offset(rows[0], inputs[0]).sum(axis=tuple(axis + 1 for axis in axes))
    mean = fixed_point.scaled(total, *mean_multiplier(inputs, output, node.attrs))
    return _held(mean.reshape(len(total), *output.shape), output)


# --- softmax_i8, over the last axis

SOFTMAX_STEPS = 1 / 256, -128
"""What it writes: TFLite knows no other."""


def _softmax_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "i8")
    if not number(attrs, "beta") >= 0:
        raise ModelError(f"beta: expected at least 0, found {attrs['beta']}")
    if inputs[0].shape[-1] > fixed_point_softmax.WIDTH_MAX:
        raise ModelError(
            f"softmax_i8: expected at most {fixed_point_softmax.WIDTH_MAX} values in the last axis, "
            f"found {inputs[0].shape[-1]}"
        )
    return Written(inputs[0].shape, ("i8",), SOFTMAX_STEPS)


def _softmax(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    table = fixed_point_softmax.powers(inputs[0].scale, number(node.attrs, "beta"))
    distance = (rows[0].max(axis=-1, keepdims=True) - rows[0]).astype(np.int64)
    return fixed_point_softmax.softmax(distance, table).astype(np.float64)


# --- lookup_i8: table[q + 128]


def _lookup_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "i8")
    return Written(inputs[0].shape, ("i8",))


def _lookup_params(inputs: Sequence[Tensor], attrs: Attrs) -> dict[str, Param]:
    return {"table": Param("i8", (256,))}


def _lookup(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    table: F64 = node.params["table"].astype(np.float64)
    return table[rows[0].astype(np.int64) - LOW]


# --- affine_quantize: x / scale in float32, halves away from 0, + zero point, within -128 and 127; NaN as the lowest


def _affine_quantize_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "f32")
    return Written(inputs[0].shape, ("i8",))


def _affine_quantize(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    t = rows[0].astype(np.float32) / np.float32(output.scale)
    t = np.where(np.isnan(t), LOW - output.zero_point, np.clip(t, -1024, 1024)).astype(np.float64)
    away: F64 = np.copysign(np.floor(np.abs(t) + 0.5), t)
    return np.clip(away + output.zero_point, LOW, HIGH)


CLAMP: dict[str, Any] = {"low": int, "high": int}

OPS: dict[str, Op] = {
    "conv2d_i8": Op(
        (1, 1),
        WINDOW | CLAMP | {"filters": int},
        _conv_infer,
        _conv_params,
        _conv,
        "conv2d_i8",
        _check_channels,
        conv_macs,
    ),
    "depthwise_i8": Op(
        (1, 1),
        WINDOW | CLAMP | {"multiplier": int},
        _conv_infer,
        _conv_params,
        _conv,
        "depthwise_i8",
        _check_channels,
        conv_macs,
    ),
    "dense_tflite": Op(
        (1, 1),
        CLAMP | {"units": int},
        _dense_infer,
        _dense_params,
        _dense,
        "dense_tflite",
        _check_channels,
        _dense_macs,
    ),
    "rows_tflite": Op(
        (1, 1),
        CLAMP | {"units": int},
        _rows_infer,
        _rows_params,
        _rows,
        "dense_tflite",
        _check_channels,
        _dense_macs,
    ),
    "add_i8": Op((2, 2), CLAMP, _pair_infer, no_params, _add, "add_i8"),
    "mul_i8": Op((2, 2), CLAMP, _pair_infer, no_params, _mul, "mul_i8"),
    "average_pool_i8": Op(
        (1, 1), POOL | CLAMP, _pool_infer, no_params, _average_pool, "average_pool_i8", looks=pool_looks
    ),
    "max_pool_i8": Op((1, 1), POOL | CLAMP, _pool_infer, no_params, _max_pool, "max_pool_i8", looks=pool_looks),
    "mean_i8": Op((1, 1), {"axes": tuple, "keep": int}, _mean_infer, no_params, _mean, "mean_i8"),
    "softmax_i8": Op((1, 1), {"beta": float}, _softmax_infer, no_params, _softmax, "softmax_i8"),
    "lookup_i8": Op((1, 1), {}, _lookup_infer, _lookup_params, _lookup, "lookup_i8"),
    "affine_quantize": Op((1, 1), {}, _affine_quantize_infer, no_params, _affine_quantize, "affine_quantize"),
}
