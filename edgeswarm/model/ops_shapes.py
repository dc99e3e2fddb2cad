"""Operators on tensors of any axes: those that only move bits (any dtype), and the float ones that go value by value.

Axes are counted without the batch.  What only moves bits keeps dtype, scale and zero point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeswarm.errors import ModelError
from edgeswarm.limits import GRAPH_AXES_MAX, GRAPH_TENSOR_VALUES_MAX
from edgeswarm.model.nodes import RANGES, Node, Param, Tensor
from edgeswarm.model.op import F64, Attrs, Op, Written, elementwise, no_params, number, of_dtype, shown, whole, wholes
from edgeswarm.model.reference import FUNCTIONS


def _moved(tensor: Tensor, shape: tuple[int, ...]) -> Written:
    return Written(shape, (tensor.dtype,), (tensor.scale, tensor.zero_point))


# --- reshape: the same values in the same order


def _reshape_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    shape = wholes(attrs, "shape", None, 1, GRAPH_TENSOR_VALUES_MAX)
    if not 1 <= len(shape) <= GRAPH_AXES_MAX or math.prod(shape) != inputs[0].size:
        raise ModelError(
            f"shape: expected 1 to {GRAPH_AXES_MAX} axes of together {inputs[0].size} values, found {shown(shape)}"
        )
    return _moved(inputs[0], shape)


def _reshape(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return rows[0].reshape(len(rows[0]), *output.shape)


# --- transpose: axis i of what is written is axis perm[i] of what is read


def _transpose_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    shape = inputs[0].shape
    perm = wholes(attrs, "perm", len(shape), 0, len(shape) - 1)
    if len(set(perm)) != len(perm):
        raise ModelError(f"perm: expected each axis once, found {list(perm)}")
    return _moved(inputs[0], tuple(shape[axis] for axis in perm))


def _transpose(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    perm = wholes(node.attrs, "perm", len(output.shape), 0, len(output.shape) - 1)
    return np.transpose(rows[0], (0, *(axis + 1 for axis in perm)))


# --- join: side by side along one axis, the others equal


def _join_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    first = inputs[0]
    axis = whole(attrs, "axis", 0, len(first.shape) - 1)
    if len({(tensor.dtype, tensor.scale, tensor.zero_point) for tensor in inputs}) != 1:
        raise ModelError("join: expected inputs of one dtype, scale and zero point, found several")
    around = {(tensor.shape[:axis], tensor.shape[axis + 1 :]) for tensor in inputs}
    if len(around) != 1 or len({len(tensor.shape) for tensor in inputs}) != 1:
        raise ModelError(f"join: expected inputs that differ in axis {axis} alone, found others")
    wide = sum(tensor.shape[axis] for tensor in inputs)
    return _moved(first, (*first.shape[:axis], wide, *first.shape[axis + 1 :]))


def _join(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return np.concatenate(rows, axis=whole(node.attrs, "axis", 0, len(output.shape) - 1) + 1)


# --- pad: `value` around; pads is (before, after) of each axis in turn; of an 8-bit tensor the value is what it holds


def _pad_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    tensor = inputs[0]
    pads, value = wholes(attrs, "pads", 2 * len(tensor.shape), 0, GRAPH_TENSOR_VALUES_MAX), number(attrs, "value")
    least, greatest = RANGES.get(tensor.dtype, (-math.inf, math.inf))
    if tensor.dtype in RANGES and not (value.is_integer() and least <= value <= greatest):
        raise ModelError(f"value: expected a whole number from {least} to {greatest} for {tensor.dtype}, found {value}")
    return _moved(tensor, tuple(side + sum(pads[2 * axis : 2 * axis + 2]) for axis, side in enumerate(tensor.shape)))


def _pad(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    pads = wholes(node.attrs, "pads", 2 * len(output.shape), 0, GRAPH_TENSOR_VALUES_MAX)
    around = [(0, 0), *zip(pads[::2], pads[1::2], strict=True)]
    return np.pad(rows[0], around, constant_values=number(node.attrs, "value"))


# --- strided_slice: along each axis the values start, start + step, ... before stop


def _strided_slice_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    shape, sides = inputs[0].shape, []
    parts = [wholes(attrs, name, len(shape), 0, GRAPH_TENSOR_VALUES_MAX) for name in ("start", "stop", "step")]
    for side, start, stop, step in zip(shape, *parts, strict=True):
        if not 0 <= start < stop <= side or step < 1:
            raise ModelError(
                f"strided_slice: expected 0 <= start < stop <= {side} and a step of at least 1, "
                f"found {start}, {stop}, {step}"
            )
        sides.append(-((start - stop) // step))
    return _moved(inputs[0], tuple(sides))


def _strided_slice(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    axes = len(output.shape)
    parts = [wholes(node.attrs, name, axes, 0, GRAPH_TENSOR_VALUES_MAX) for name in ("start", "stop", "step")]
    return rows[0][(slice(None), *(slice(*part) for part in zip(*parts, strict=True)))]


# --- resize_nearest: size (height, width); align: corners lie on corners; half: places are counted at their middles


def _resize_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    tensor = inputs[0]
    if len(tensor.shape) != 3:
        raise ModelError(f"input: expected the axes height, width, channels, found {list(tensor.shape)}")
    height, width = wholes(attrs, "size", 2, 1, GRAPH_TENSOR_VALUES_MAX)
    align, half = (whole(attrs, name, 0, 1) for name in ("align", "half"))
    if align and half:
        raise ModelError("align: expected 0 where half is 1, found 1")
    return _moved(tensor, (height, width, tensor.shape[2]))


def nearest(side: int, size: int, align: bool, half: bool) -> list[int]:
    """Which of `side` places each of `size` is taken from; in float32, as TFLite computes it."""
    scale = np.float32(side - 1) / np.float32(size - 1) if align and size > 1 else np.float32(side) / np.float32(size)
    at = (np.arange(size, dtype=np.float32) + np.float32(0.5 if half else 0)) * scale
    place = np.floor(at + np.float32(0.5)) if align else np.floor(at)
    held: list[int] = np.clip(place, 0, side - 1).astype(int).tolist()
    return held


def _resize(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    align, half = bool(node.attrs["align"]), bool(node.attrs["half"])
    down = nearest(inputs[0].shape[0], output.shape[0], align, half)
    across = nearest(inputs[0].shape[1], output.shape[1], align, half)
    return rows[0][:, down][:, :, across]


# --- constant: reads nothing


def _constant_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    shape = wholes(attrs, "shape", None, 1, GRAPH_TENSOR_VALUES_MAX)
    if not 1 <= len(shape) <= GRAPH_AXES_MAX or math.prod(shape) > GRAPH_TENSOR_VALUES_MAX:
        raise ModelError(
            f"shape: expected 1 to {GRAPH_AXES_MAX} axes of at most {GRAPH_TENSOR_VALUES_MAX} values, "
            f"found {shown(shape)}"
        )
    if attrs["dtype"] not in ("f32", "i8"):
        raise ModelError(f"dtype: expected f32 or i8, found {shown(attrs['dtype'])}")
    return Written(shape, (str(attrs["dtype"]),))


def _constant_params(inputs: Sequence[Tensor], attrs: Attrs) -> dict[str, Param]:
    made = _constant_infer(inputs, attrs)
    return {"value": Param(made.dtypes[0], made.shape)}


def _constant(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    """One row, whatever the number of the others: it is broadcast where it is read."""
    return node.params["value"].astype(np.float64)[None]


# --- mean over axes; all of them: [1].  softmax(beta * x) over the last axis


def mean_shape(inputs: Sequence[Tensor], attrs: Attrs) -> tuple[int, ...]:
    """What a mean writes."""
    shape = inputs[0].shape
    axes = wholes(attrs, "axes", None, 0, len(shape) - 1)
    if not axes or list(axes) != sorted(set(axes)):
        raise ModelError(f"axes: expected at least one, each once, in order, found {shown(axes)}")
    if whole(attrs, "keep", 0, 1):
        return tuple(1 if axis in axes else side for axis, side in enumerate(shape))
    return tuple(side for axis, side in enumerate(shape) if axis not in axes) or (1,)


def _mean_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "f32")
    return Written(mean_shape(inputs, attrs))


def _mean(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    axes = wholes(node.attrs, "axes", None, 0, len(inputs[0].shape) - 1)
    mean: F64 = rows[0].mean(axis=tuple(axis + 1 for axis in axes))
    return mean.reshape(len(rows[0]), *output.shape)


def _softmax_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "f32")
    number(attrs, "beta")
    return Written(inputs[0].shape)


def _softmax(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return FUNCTIONS["softmax"](number(node.attrs, "beta") * rows[0])


# --- add, mul: activation(a + b), activation(a * b); an axis of 1 is repeated


def broadcast_shape(inputs: Sequence[Tensor]) -> tuple[int, ...]:
    """What two tensors of as many axes give value by value."""
    a, b = (tensor.shape for tensor in inputs)
    if len(a) != len(b) or any(x != y and 1 not in (x, y) for x, y in zip(a, b, strict=False)):
        raise ModelError(f"inputs: expected shapes that are equal but for axes of 1, found {list(a)} and {list(b)}")
    return tuple(max(x, y) for x, y in zip(a, b, strict=True))


def _pair_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "f32")
    elementwise(attrs)
    return Written(broadcast_shape(inputs))


def _add(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return FUNCTIONS[str(node.attrs["activation"])](rows[0] + rows[1])


def _mul(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return FUNCTIONS[str(node.attrs["activation"])](rows[0] * rows[1])


# --- elementwise: an activation; leaky: x, below 0 slope * x


def _elementwise_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "f32")
    elementwise(attrs)
    return Written(inputs[0].shape)


def _elementwise(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return FUNCTIONS[str(node.attrs["activation"])](rows[0])


def _leaky_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "f32")
    number(attrs, "slope")
    return Written(inputs[0].shape)


def _leaky(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return np.where(rows[0] < 0, number(node.attrs, "slope") * rows[0], rows[0])


OPS: dict[str, Op] = {
    "reshape": Op((1, 1), {"shape": tuple}, _reshape_infer, no_params, _reshape, "reshape"),
    "transpose": Op((1, 1), {"perm": tuple}, _transpose_infer, no_params, _transpose, "transpose"),
    "join": Op((2, 4096), {"axis": int}, _join_infer, no_params, _join, "join"),
    "pad": Op((1, 1), {"pads": tuple, "value": float}, _pad_infer, no_params, _pad, "pad"),
    "strided_slice": Op(
        (1, 1),
        {"start": tuple, "stop": tuple, "step": tuple},
        _strided_slice_infer,
        no_params,
        _strided_slice,
        "strided_slice",
    ),
    "resize_nearest": Op(
        (1, 1), {"size": tuple, "align": int, "half": int}, _resize_infer, no_params, _resize, "resize_nearest"
    ),
    "constant": Op((0, 0), {"shape": tuple, "dtype": str}, _constant_infer, _constant_params, _constant, "constant"),
    "mean": Op((1, 1), {"axes": tuple, "keep": int}, _mean_infer, no_params, _mean, "mean"),
    "softmax": Op((1, 1), {"beta": float}, _softmax_infer, no_params, _softmax, "softmax"),
    "add": Op((2, 2), {"activation": str}, _pair_infer, no_params, _add, "add"),
    "mul": Op((2, 2), {"activation": str}, _pair_infer, no_params, _mul, "mul"),
    "elementwise": Op((1, 1), {"activation": str}, _elementwise_infer, no_params, _elementwise, "elementwise"),
    "leaky": Op((1, 1), {"slope": float}, _leaky_infer, no_params, _leaky, "leaky"),
}
