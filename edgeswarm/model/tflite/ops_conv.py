"""CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED: float32, full int8, and int8 weights beside float32 values.

The factor of a channel is scale read * scale of its weights / scale written: in float64, but for a fully connected
layer with one scale, whose first product TFLite computes in float32.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import GRAPH_TENSOR_VALUES_MAX, TFLITE_GROUPS_MAX
from edgeswarm.model.fixed_point import quantize_multiplier
from edgeswarm.model.ops_spatial import same_pad
from edgeswarm.model.tflite.fused import activation, clamp
from edgeswarm.model.tflite.site import Phases, Site, rows_shape, steps_of

BIAS_TOLERANCE = 0.02  # of the scale written: by how much TFLite lets a bias's scale be another than it must be
HYBRID = (
    "weights of 8 bits beside float32 values are computed in float32; LiteRT rounds the values to 8 bits there, and is "
    "less exact"
)


def window(site: Site, kernel: tuple[int, int], *, dilated: bool) -> dict[str, Any]:
    """kernel, stride, dilation and pad of an operator on images."""
    phases = site.phases(0) if dilated else None
    shape = site.shape(0) if phases is None else phases.plain
    if len(shape) != 4 or shape[0] != 1:
        raise ModelError(f"{site.name(0)}: expected [1, height, width, channels], found {list(shape)}; one row a call")
    stride = int(site.option("StrideH")), int(site.option("StrideW"))
    dilation = (int(site.option("DilationHFactor")), int(site.option("DilationWFactor"))) if dilated else (1, 1)
    if min(*stride, *dilation, *kernel) < 1:
        raise ModelError(f"kernel, stride, dilation: expected at least 1, found {kernel}, {stride}, {dilation}")
    if site.option("Padding") not in (0, 1):
        raise ModelError(f"padding: expected SAME (0) or VALID (1), found {site.option('Padding')}")
    same = site.option("Padding") == 0
    if phases is not None:
        if stride != (1, 1) or (same and kernel != (1, 1)) or phases.block[3] != 1:
            raise ModelError("expected a convolution without stride and padding behind SPACE_TO_BATCH_ND, found others")
        dilation = dilation[0] * phases.block[1], dilation[1] * phases.block[2]
    pad = same_pad(shape[1:3], kernel, stride, dilation) if same else (0, 0, 0, 0)
    found: dict[str, Any] = {"kernel": kernel, "stride": stride, "pad": pad}
    return found | ({"dilation": dilation} if dilated else {})


def conv_2d(site: Site) -> None:
    weights = _weights(site, 4, channels=0)
    filters, kh, kw, cin = weights.shape
    channels = _channels(site)
    groups = channels // cin
    if groups * cin != channels or filters % groups or groups > TFLITE_GROUPS_MAX:
        raise ModelError(
            f"{site.name(1)}: expected weights for {channels} channels, or for one of up to {TFLITE_GROUPS_MAX} equal "
            f"groups of them (TFLITE_GROUPS_MAX), found {list(weights.shape)}"
        )
    attrs = window(site, (kh, kw), dilated=True) | {"filters": filters // groups}
    _convolve(site, "conv2d", weights.transpose(1, 2, 3, 0), attrs, groups)


def depthwise_conv_2d(site: Site) -> None:
    weights = _weights(site, 4, channels=3)
    one, kh, kw, channels = weights.shape
    cin, multiplier = _channels(site), int(site.option("DepthMultiplier"))
    if one != 1 or multiplier < 1 or channels != cin * multiplier:
        raise ModelError(
            f"{site.name(1)}: expected weights of [1, height, width, {cin} * {multiplier}], found {list(weights.shape)}"
        )
    attrs = window(site, (kh, kw), dilated=True) | {"multiplier": multiplier}
    _convolve(site, "depthwise", weights[0], attrs)


def _channels(site: Site) -> int:
    """Channels of the image."""
    phases = site.phases(0)
    shape = site.shape(0) if phases is None else phases.plain
    if not shape:
        raise ModelError(f"{site.name(0)}: expected [1, height, width, channels], found one number")
    return shape[-1]


def _convolve(site: Site, op: str, weights: NDArray[Any], attrs: dict[str, Any], groups: int = 1) -> None:
    """Of an image, or of one in phases; each group of channels by itself, side by side again behind."""
    phases = site.phases(0)
    if phases is None:
        image = site.read(0, "i8" if site.dtype(0) == "i8" else "f32")
    else:
        image = site.reshaped(phases.at, phases.plain[1:])
    at = convolved(site, op, image, weights, attrs, groups)
    plain = (1, *site.graph_tensor(at).shape)
    if phases is None:
        return site.write(at, plain)
    return site.write_phases(Phases(at, plain, phases.block))


def convolved(site: Site, op: str, image: int, weights: NDArray[Any], attrs: dict[str, Any], groups: int = 1) -> int:
    """A convolution of the graph's tensor `image`, with the bias and the steps of the operator.

    weights: [height, width, channels of a group, filters of all].
    """
    params, more = _bias_and_more(site, weights.shape[-1])
    op = f"{op}_i8" if site.dtype(0) == "i8" else op
    if groups == 1:
        return site.add(op, [image], {**params, "weights": weights}, **more, **attrs)
    height, width, channels = site.graph_tensor(image).shape
    parts, deep, many = [], channels // groups, weights.shape[-1] // groups
    for group in range(groups):
        start, stop = (0, 0, group * deep), (height, width, (group + 1) * deep)
        part = site.add("strided_slice", [image], start=start, stop=stop, step=(1, 1, 1))
        own = slice(group * many, (group + 1) * many)
        taken = {name: array[own] for name, array in params.items()} | {"weights": weights[..., own]}
        parts.append(site.add(op, [part], taken, **more, **attrs))
    return site.add("join", parts, axis=2)


def _bias_and_more(site: Site, channels: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Params besides weights, and what else a convolution of this type takes."""
    if site.dtype(0) == "i8":
        return _params_i8(site, channels, alone=False), {"like": site.like(), **clamp(site)}
    return {"bias": _bias(site, channels)}, {"activation": activation(site)}


def transpose_conv(site: Site) -> None:
    """A convolution of the image with gaps of 0 between its values, its kernel turned round."""
    if len(site.op.inputs) < 3:
        raise ModelError(f"expected a shape, weights and an image, found {len(site.op.inputs)} inputs")
    sides = site.numbers(0, "sides")
    inputs = (site.op.inputs[2], site.op.inputs[1], *site.op.inputs[3:])  # in the order of CONV_2D
    site = Site(site.state, replace(site.op, inputs=inputs))
    weights, shape = _weights(site, 4, channels=0), site.shape(0)
    filters, *kernel, cin = weights.shape
    if len(shape) != 4 or (shape[0], shape[3]) != (1, cin) or len(sides) != 4 or (sides[0], sides[3]) != (1, filters):
        raise ModelError(f"expected [1, height, width, {cin}] to [1, ..., {filters}], found {list(shape)} to {sides}")
    stride = int(site.option("StrideH")), int(site.option("StrideW"))
    if min(*stride, *sides) < 1 or site.option("Padding") not in (0, 1):
        raise ModelError(f"expected strides and sides of at least 1, SAME or VALID, found {stride}, {sides}")
    if math.prod(shape) * stride[0] * stride[1] > GRAPH_TENSOR_VALUES_MAX:
        raise LimitError(
            f"at most {GRAPH_TENSOR_VALUES_MAX} values (GRAPH_TENSOR_VALUES_MAX), found more with the gaps"
        )
    image = _spread(site, site.read(0, "f32", "i8"), stride)
    pads = same_pad(sides[1:3], kernel, stride) if site.option("Padding") == 0 else (0, 0, 0, 0)
    around, stops = [], []
    for axis in (0, 1):
        before, wide = pads[2 * axis], shape[1 + axis] * stride[axis]
        after = sides[1 + axis] - wide + before
        around += [kernel[axis] - 1 - before, max(0, after)]
        stops.append(wide + min(0, after))
    if min(*around, *stops) < 0 or 0 in stops:
        raise ModelError(f"expected an image that reaches {sides[1:3]}, found {list(shape[1:3])}")
    height, width, channels = site.graph_tensor(image).shape
    if (height, width) != tuple(stops):
        image = site.add("strided_slice", [image], start=(0, 0, 0), stop=(*stops, channels), step=(1, 1, 1))
    attrs: dict[str, Any] = {"kernel": tuple(kernel), "stride": (1, 1), "dilation": (1, 1), "pad": tuple(around)}
    turned = weights[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    at = convolved(site, "conv2d", image, turned, attrs | {"filters": filters})
    site.write(at, (1, *site.graph_tensor(at).shape))


def _spread(site: Site, at: int, stride: tuple[int, int]) -> int:
    """The image with stride - 1 places of 0 behind each row and each column."""
    height, width, channels = site.graph_tensor(at).shape
    value = float(site.graph_tensor(at).zero_point)
    for axis, by in enumerate(stride):
        if by > 1:
            outer, inner = (height, width * channels) if axis == 0 else (height * width, channels)
            at = site.add("pad", [site.reshaped(at, (outer, 1, inner))], pads=(0, 0, 0, by - 1, 0, 0), value=value)
            height, width = (height * by, width) if axis == 0 else (height, width * by)
    return site.reshaped(at, (height, width, channels))


def fully_connected(site: Site) -> None:
    if site.option("WeightsFormat") != 0:
        raise ModelError(f"weights: expected them row by row (format 0), found format {site.option('WeightsFormat')}")
    weights = _weights(site, 2, channels=0)
    units, width = weights.shape
    shape = site.shape(0)
    rows, over = divmod(math.prod(shape), width) if width else (0, 1)
    keep = bool(site.option("KeepNumDims"))
    if over or not rows or (keep and shape[-1:] != (width,)):
        raise ModelError(f"{site.name(0)}: expected rows of {width} values, as the weights have, found {list(shape)}")
    out = (*shape[:-1], units) if keep else (rows, units)
    more: dict[str, Any]
    if site.dtype(0) == "i8":
        params = _params_i8(site, units, alone=True)
        read, more, op = site.read(0, "i8"), {"like": site.like(), **clamp(site)}, "dense_tflite"
    else:
        params = {"bias": _bias(site, units)}
        read, more, op = site.read(0, "f32"), {"activation": activation(site)}, "dense"
    if rows == 1:
        at = site.add(op, [site.reshaped(read, (width,))], {**params, "weights": weights.T}, units=units, **more)
    elif op == "dense_tflite":
        lines = site.reshaped(read, (rows, width))
        at = site.add("rows_tflite", [lines], {**params, "weights": weights.T}, units=units, **more)
    else:  # each row a pixel
        image = site.reshaped(read, (rows, 1, width))
        pixels = {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "pad": (0, 0, 0, 0), "filters": units}
        at = site.add("conv2d", [image], {**params, "weights": weights.T.reshape(1, 1, width, units)}, **pixels, **more)
    site.write(site.reshaped(at, rows_shape(out)), out)


def _weights(site: Site, axes: int, *, channels: int) -> NDArray[Any]:
    """The weights as float32 for float values, as int8 for int8.  channels: the axis along which scales may differ."""
    kind = site.dtype(0)
    if kind not in ("f32", "i8"):
        raise ModelError(f"{site.name(0)}: expected f32 or i8, found {kind}; convert it to float32 or full int8")
    wanted = ("i8",) if kind == "i8" else ("f32", "i8")
    weights = site.constant(1, "weights", *wanted)
    if weights.ndim != axes or 0 in weights.shape:
        raise ModelError(f"{site.name(1)}: expected {axes} axes, found {list(weights.shape)}")
    if kind == "i8" or site.dtype(1) == "f32":
        return weights
    site.note(HYBRID)
    scales = weight_scales(site, weights.shape[channels], channels)
    return (weights * scales.reshape([-1 if axis == channels else 1 for axis in range(axes)])).astype(np.float32)


def weight_scales(site: Site, count: int, axis: int) -> NDArray[np.float64]:
    """One scale for each channel of int8 weights; they are symmetric, so that their zero points are 0."""
    tensor = site.tensor(1)
    scales, points = tensor.scales.astype(np.float64), tensor.zero_points
    if len(scales) not in (1, count) or (len(scales) > 1 and tensor.axis != axis):
        raise ModelError(
            f"{site.name(1)}: expected 1 or {count} scales along axis {axis}, found {len(scales)} along {tensor.axis}"
        )
    if not ((scales > 0) & np.isfinite(scales)).all():
        raise ModelError(f"{site.name(1)}: expected scales above 0, found others")
    if len(points) not in (0, 1, len(scales)) or points.any():
        raise ModelError(f"{site.name(1)}: expected zero points of 0 for weights, found others")
    return np.broadcast_to(scales, (count,))


def _bias(site: Site, channels: int) -> NDArray[np.float32]:
    if not site.has(2):
        return np.zeros(channels, np.float32)
    bias = site.constant(2, "the bias", "f32")
    if bias.size != channels:
        raise ModelError(f"{site.name(2)}: expected {channels} values, found {list(bias.shape)}")
    return bias.reshape(channels)


def _params_i8(site: Site, channels: int, *, alone: bool) -> dict[str, Any]:
    """bias, multiplier and shift.  alone: of a fully connected layer."""
    read, _ = steps_of(site.tensor(0), site.name(0))
    written, _ = site.steps()
    scales = weight_scales(site, channels, 3 if site.op.name == "DEPTHWISE_CONV_2D" else 0)
    if alone and len(site.tensor(1).scales) == 1:
        with np.errstate(over="ignore", under="ignore"):
            products = np.full(channels, float(np.float32(read) * np.float32(scales[0])))
    else:
        products = read * scales
    factors = [quantize_multiplier(product / written) for product in products.tolist()]
    return {
        "bias": _bias_i32(site, channels, products, written),
        "multiplier": np.array([multiplier for multiplier, _ in factors], np.int32),
        "shift": np.array([shift for _, shift in factors], np.int32),
    }


def _bias_i32(site: Site, channels: int, products: NDArray[np.float64], written: float) -> NDArray[np.int32]:
    if not site.has(2):
        return np.zeros(channels, np.int32)
    bias, tensor = site.constant(2, "the bias", "i32"), site.tensor(2)
    if bias.size != channels or tensor.zero_points.any():
        raise ModelError(f"{site.name(2)}: expected {channels} values and a zero point of 0, found {list(bias.shape)}")
    scales = tensor.scales.astype(np.float64)
    if len(scales):
        near = len(scales) in (1, channels) and np.abs(scales - products).max() / written <= BIAS_TOLERANCE
        if not near:  # nor is NaN
            raise ModelError(f"{site.name(2)}: expected scales of input times weights, found others")
    return bias.reshape(channels)


OPERATORS = {
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "FULLY_CONNECTED": fully_connected,
    "TRANSPOSE_CONV": transpose_conv,
}
