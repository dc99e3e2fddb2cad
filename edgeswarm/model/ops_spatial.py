"""Float operators on images: convolution, pooling, and their windows.  Tensors are [height, width, channels].

pad is (top, bottom, left, right): TFLite's SAME and VALID are two ways to compute it (`same_pad`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import GRAPH_TENSOR_VALUES_MAX, WINDOW_SIDE_MAX
from edgeswarm.model.nodes import Node, Param, Tensor
from edgeswarm.model.op import F64, Attrs, Op, Written, elementwise, no_params, of_dtype, whole, wholes
from edgeswarm.model.reference import FUNCTIONS

PADDED_VALUES_MAX = 4 * GRAPH_TENSOR_VALUES_MAX
"""An image with its padding: an image of the largest size, padded to twice its sides."""

BLOCK = 1 << 18
"""Values of images at work at one time: 2 MiB."""


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel goes over an image: whole numbers of values.  height, width: of what it writes."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int, int, int]
    height: int
    width: int

    @property
    def spread(self) -> tuple[int, int]:
        """Rows and columns that a kernel covers, with the gaps of its dilation."""
        return (self.kernel[0] - 1) * self.dilation[0] + 1, (self.kernel[1] - 1) * self.dilation[1] + 1


def window_of(tensor: Tensor, attrs: Attrs) -> Window:
    """The window of a node that reads `tensor`.  Raises ModelError for attrs that do not fit, LimitError past a bound.

    At least one place of each window lies inside the image where dilation is 1.
    """
    if len(tensor.shape) != 3:
        raise ModelError(f"input: expected the axes height, width, channels, found {list(tensor.shape)}")
    kernel = wholes(attrs, "kernel", 2, 1, WINDOW_SIDE_MAX)
    stride = wholes(attrs, "stride", 2, 1, WINDOW_SIDE_MAX)
    dilation = wholes(attrs, "dilation", 2, 1, WINDOW_SIDE_MAX) if "dilation" in attrs else (1, 1)
    pad = wholes(attrs, "pad", 4, 0, WINDOW_SIDE_MAX**2)
    sides = []
    for axis, name in enumerate(("height", "width")):
        spread = (kernel[axis] - 1) * dilation[axis] + 1
        before, after = pad[2 * axis : 2 * axis + 2]
        if max(before, after) >= spread:
            raise ModelError(f"pad: expected less than the {spread} that the kernel covers, found {list(pad)}")
        room = tensor.shape[axis] + before + after - spread
        if room < 0:
            raise ModelError(
                f"kernel: expected one that fits into the {name} {tensor.shape[axis]} and its padding, found {spread}"
            )
        sides.append(room // stride[axis] + 1)
    padded = (tensor.shape[0] + pad[0] + pad[1]) * (tensor.shape[1] + pad[2] + pad[3]) * tensor.shape[2]
    if padded > PADDED_VALUES_MAX:
        raise LimitError(f"pad: at most {PADDED_VALUES_MAX} values of an image with its padding, found {padded}")
    return Window((kernel[0], kernel[1]), (stride[0], stride[1]), (dilation[0], dilation[1]), pad, sides[0], sides[1])  # type: ignore[arg-type]


def same_pad(
    sides: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int] = (1, 1)
) -> tuple[int, int, int, int]:
    """The pad with which ceil(side / stride) is written, the odd one at the end: TFLite's and ONNX's SAME_UPPER."""
    pads: list[int] = []
    for side, size, step, gap in zip(sides, kernel, stride, dilation, strict=True):
        total = max(0, (-(-side // step) - 1) * step + (size - 1) * gap + 1 - side)
        pads += [total // 2, total - total // 2]
    return pads[0], pads[1], pads[2], pads[3]


def padded(rows: F64, window: Window, value: float = 0.0) -> F64:
    """The images with their padding."""
    top, bottom, left, right = window.pad
    if not any(window.pad):
        return rows
    return np.pad(rows, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def _pieces(images: int, window: Window, each: int) -> Iterator[tuple[slice, slice, slice]]:
    """Images, rows and columns written, in pieces of about BLOCK values where a place needs `each` of them."""
    many = BLOCK // (window.height * window.width * each)
    rows = window.height if many else max(1, BLOCK // (window.width * each))
    columns = window.width if many or rows > 1 else max(1, BLOCK // each)
    for image in range(0, images, max(1, many)):
        for row in range(0, window.height, rows):
            for column in range(0, window.width, columns):
                yield slice(image, image + max(1, many)), slice(row, row + rows), slice(column, column + columns)


def _patches(rows: F64, window: Window) -> F64:
    """What each place written meets of padded rows: (n, height, width, kh, kw, channels), a view."""
    spread = np.lib.stride_tricks.sliding_window_view(rows, window.spread, axis=(1, 2))
    (sh, sw), (dh, dw) = window.stride, window.dilation
    return spread[:, ::sh, ::sw, :, ::dh, ::dw].transpose(0, 1, 2, 4, 5, 3)


def convolved(rows: F64, weights: F64, window: Window) -> F64:
    """Sums of a convolution of padded rows; weights [kh, kw, cin, filters].  Float64 throughout."""
    patches, flat = _patches(rows, window), weights.reshape(-1, weights.shape[3])
    total = np.empty((len(rows), window.height, window.width, weights.shape[3]))
    for piece in _pieces(len(rows), window, len(flat)):
        part = patches[piece]
        total[piece] = (part.reshape(-1, len(flat)) @ flat).reshape(*part.shape[:3], -1)
    return total


def convolved_depthwise(rows: F64, weights: F64, window: Window) -> F64:
    """The same where each channel meets its own weights [kh, kw, channels * multiplier]."""
    multiplier = weights.shape[2] // rows.shape[3]
    if multiplier > 1:
        rows = np.repeat(rows, multiplier, axis=3)
    patches, channels = _patches(rows, window), weights.shape[2]
    total = np.zeros((len(rows), window.height, window.width, channels))
    if window.kernel[0] * window.kernel[1] > window.height * window.width * len(rows):
        for place in np.ndindex(total.shape[:3]):
            total[place] = np.einsum("ijc,ijc->c", patches[place], weights)
        return total
    for piece in _pieces(
        len(rows), window, 8 * channels
    ):  # small enough for the cache, over all of the kernel's places
        part, sums = patches[piece], total[piece]
        for i, j in np.ndindex(window.kernel):
            sums += part[..., i, j, :] * weights[i, j]
    return total


# --- conv2d, depthwise: activation(sums + bias)


def conv_params(inputs: Sequence[Tensor], attrs: Attrs) -> tuple[tuple[int, ...], int]:
    """The shape of a convolution's weights, and its outputs' channels."""
    kh, kw = wholes(attrs, "kernel", 2, 1, WINDOW_SIDE_MAX)
    filters = whole(attrs, "filters", 1, GRAPH_TENSOR_VALUES_MAX)
    return (kh, kw, inputs[0].shape[2], filters), filters


def depthwise_params(inputs: Sequence[Tensor], attrs: Attrs) -> tuple[tuple[int, ...], int]:
    """The same of a depthwise one."""
    kh, kw = wholes(attrs, "kernel", 2, 1, WINDOW_SIDE_MAX)
    channels = inputs[0].shape[2] * whole(attrs, "multiplier", 1, GRAPH_TENSOR_VALUES_MAX)
    return (kh, kw, channels), channels


def conv_shape(inputs: Sequence[Tensor], attrs: Attrs) -> tuple[int, int, int]:
    """What a convolution, depthwise or not, writes."""
    window = window_of(inputs[0], attrs)
    channels = (conv_params if "filters" in attrs else depthwise_params)(inputs, attrs)[1]
    return window.height, window.width, channels


def conv_macs(inputs: Sequence[Tensor], attrs: Attrs) -> int:
    """Multiplications and additions of one row."""
    each = math.prod(wholes(attrs, "kernel", 2, 1, WINDOW_SIDE_MAX)) * (inputs[0].shape[2] if "filters" in attrs else 1)
    return math.prod(conv_shape(inputs, attrs)) * each


def _conv_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "f32")
    elementwise(attrs)
    return Written(conv_shape(inputs, attrs))


def _conv_params(inputs: Sequence[Tensor], attrs: Attrs) -> dict[str, Param]:
    shape, channels = (conv_params if "filters" in attrs else depthwise_params)(inputs, attrs)
    return {"weights": Param("f32", shape), "bias": Param("f32", (channels,))}


def _conv(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    window, weights = window_of(inputs[0], node.attrs), node.params["weights"].astype(np.float64)
    sums = (convolved if node.op == "conv2d" else convolved_depthwise)(padded(rows[0], window), weights, window)
    return FUNCTIONS[str(node.attrs["activation"])](sums + node.params["bias"])


# --- average_pool, max_pool: over each channel; what is padding counts neither as a value nor as one of their number


def pool_shape(inputs: Sequence[Tensor], attrs: Attrs) -> tuple[int, int, int]:
    """What a pooling writes."""
    window = window_of(inputs[0], attrs)
    return window.height, window.width, inputs[0].shape[2]


def pool_looks(inputs: Sequence[Tensor], attrs: Attrs) -> int:
    """Values that its windows look at, as far as they lie inside the image."""
    height, width, _ = inputs[0].shape
    kh, kw = wholes(attrs, "kernel", 2, 1, WINDOW_SIDE_MAX)
    return math.prod(pool_shape(inputs, attrs)) * min(kh, height) * min(kw, width)


def window_sums(rows: F64, window: Window) -> F64:
    """The sums of each window and channel, first along the columns, then along the rows."""
    rows = padded(rows, window)
    (kh, kw), (sh, sw) = window.kernel, window.stride
    across = sum(rows[:, :, j : j + (window.width - 1) * sw + 1 : sw] for j in range(1, kw))
    across = across + rows[:, :, : (window.width - 1) * sw + 1 : sw]
    down = sum(across[:, i : i + (window.height - 1) * sh + 1 : sh] for i in range(1, kh))
    total: F64 = down + across[:, : (window.height - 1) * sh + 1 : sh]
    return total


def window_counts(tensor: Tensor, window: Window) -> F64:
    """How many places of each window lie inside the image: (1, height, width, 1)."""
    return window_sums(np.ones((1, *tensor.shape[:2], 1)), window)


def window_maxima(rows: F64, window: Window) -> F64:
    """The largest value of each window and channel; NaN where there is one."""
    rows = padded(rows, window, -np.inf)
    (kh, kw), (sh, sw) = window.kernel, window.stride
    across = rows[:, :, : (window.width - 1) * sw + 1 : sw]
    for j in range(1, kw):
        across = np.maximum(across, rows[:, :, j : j + (window.width - 1) * sw + 1 : sw])
    down = across[:, : (window.height - 1) * sh + 1 : sh]
    for i in range(1, kh):
        down = np.maximum(down, across[:, i : i + (window.height - 1) * sh + 1 : sh])
    return down


def _pool_infer(inputs: Sequence[Tensor], attrs: Attrs) -> Written:
    of_dtype(inputs, "f32")
    elementwise(attrs)
    return Written(pool_shape(inputs, attrs))


def _average_pool(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    window = window_of(inputs[0], node.attrs)
    mean = window_sums(rows[0], window) / window_counts(inputs[0], window)
    return FUNCTIONS[str(node.attrs["activation"])](mean)


def _max_pool(node: Node, inputs: Sequence[Tensor], output: Tensor, rows: Sequence[F64]) -> F64:
    return FUNCTIONS[str(node.attrs["activation"])](window_maxima(rows[0], window_of(inputs[0], node.attrs)))


POOL: dict[str, Any] = {"kernel": tuple, "stride": tuple, "pad": tuple}
WINDOW = POOL | {"dilation": tuple}

OPS: dict[str, Op] = {
    "conv2d": Op(
        (1, 1), WINDOW | {"filters": int, "activation": str}, _conv_infer, _conv_params, _conv, "conv2d", macs=conv_macs
    ),
    "depthwise": Op(
        (1, 1),
        WINDOW | {"multiplier": int, "activation": str},
        _conv_infer,
        _conv_params,
        _conv,
        "depthwise",
        macs=conv_macs,
    ),
    "average_pool": Op(
        (1, 1), POOL | {"activation": str}, _pool_infer, no_params, _average_pool, "average_pool", looks=pool_looks
    ),
    "max_pool": Op((1, 1), POOL | {"activation": str}, _pool_infer, no_params, _max_pool, "max_pool", looks=pool_looks),
}
