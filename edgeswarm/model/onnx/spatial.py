"""Convolutions and pools of ONNX: Conv (groups too), MaxPool, AveragePool and their global forms.

A window over one axis is one over two, the first of which is 1.  Source: the ONNX operator specification.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import GRAPH_TENSOR_VALUES_MAX, ONNX_GROUPS_MAX, WINDOW_SIDE_MAX
from edgeswarm.model.onnx.dense import keep_whole
from edgeswarm.model.onnx.draft import Draft, Held, Numbers, last, plain
from edgeswarm.model.onnx.file import Step
from edgeswarm.model.onnx.reading import floats_input, single, text_attr, whole_attr, wholes_attr, wholes_input

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """Two axes, always.  pad: (top, bottom, left, right)."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    pad: tuple[int, int, int, int]


def image(draft: Draft, value: Held) -> tuple[int, int]:
    """The value as [height, width, channels]: its tensor, and how many spatial axes the file has."""
    if value.rank not in (2, 3):
        raise ModelError(f"expected channels and one or two axes besides the batch, found {list(value.shape)}")
    tensor = draft.in_order(value, last(value.rank))
    if value.rank == 2:
        tensor = draft.reshaped(tensor, (1, *draft.shape_of(tensor)))
    return tensor, value.rank - 1


def unimage(draft: Draft, tensor: int, spatial: int) -> Held:
    """The way back."""
    if spatial == 1:
        tensor = draft.reshaped(tensor, draft.shape_of(tensor)[1:])
    return draft.fresh(tensor, last(spatial + 1))


def conv(draft: Draft, step: Step) -> None:
    """Conv: weights [filters, channels / group, ...kernel]; depthwise where a group is one channel."""
    value = draft.held(step, 0)
    weights = floats_input(draft, step, 1, "weights")
    if weights.ndim != value.rank + 1 or value.rank not in (2, 3):
        raise ModelError(
            f"expected one or two axes besides batch and channels, and weights for as many, found "
            f"{list(value.shape)} and {list(weights.shape)}"
        )
    if weights.ndim == 3:
        weights = weights[:, :, None]
    filters, each, channels = weights.shape[0], weights.shape[1], value.shape[0]
    groups = whole_attr(step, "group", 1)
    if groups < 1 or each * groups != channels or filters % groups or not filters:
        raise ModelError(
            f"group: expected {channels} channels and {filters} filters in {groups} groups of {each} channels"
        )
    bias = floats_input(draft, step, 2, "bias", 1) if draft.given(step, 2) else np.zeros(filters)
    if bias.shape != (filters,):
        raise ModelError(f"bias: expected {filters} numbers, found {list(bias.shape)}")
    tensor, spatial = image(draft, value)
    window = _window(step, draft.shape_of(tensor)[:2], weights.shape[2:], spatial)
    tensor, window = _joined_pad(draft, tensor, window)
    tensor, window = _padded(draft, tensor, window, 0.0)
    held, bias32 = single(weights, "weights"), single(bias, "bias")
    if each == 1 and groups > 1:
        made = _depthwise(draft, tensor, held, bias32, window)
    elif groups == 1:
        made = _convolution(draft, tensor, held, bias32, window)
    else:
        made = _grouped(draft, tensor, held, bias32, window, groups)
    if groups == 1 or each == 1:
        keep_whole(draft, step, made, _depthwise_layout if each == 1 and groups > 1 else _layout)
    draft.put(step, unimage(draft, made, spatial))


def _convolution(draft: Draft, tensor: int, weights: Numbers, bias: Numbers, window: Window) -> int:
    params = {"weights": _layout(weights), "bias": bias}
    return draft.add("conv2d", [tensor], params, filters=len(bias), activation="linear", **_attrs(window))


def _depthwise(draft: Draft, tensor: int, weights: Numbers, bias: Numbers, window: Window) -> int:
    params = {"weights": _depthwise_layout(weights), "bias": bias}
    multiplier = len(bias) // draft.shape_of(tensor)[2]
    return draft.add("depthwise", [tensor], params, multiplier=multiplier, activation="linear", **_attrs(window))


def _grouped(draft: Draft, tensor: int, weights: Numbers, bias: Numbers, window: Window, groups: int) -> int:
    """Each group is a convolution of a part of the channels."""
    if groups > ONNX_GROUPS_MAX:
        raise LimitError(f"group: at most {ONNX_GROUPS_MAX} (ONNX_GROUPS_MAX) where each has channels, found {groups}")
    height, width, channels = draft.shape_of(tensor)
    each, filters, parts = channels // groups, len(bias) // groups, []
    for group in range(groups):
        start, stop = (0, 0, group * each), (height, width, (group + 1) * each)
        part = draft.add("strided_slice", [tensor], start=start, stop=stop, step=(1, 1, 1))
        mine = slice(group * filters, (group + 1) * filters)
        parts.append(_convolution(draft, part, weights[mine], bias[mine], window))
    return draft.add("join", parts, axis=2)


def _layout(weights: Numbers) -> Numbers:
    weights = weights if weights.ndim == 4 else weights[:, :, None]
    return np.ascontiguousarray(weights.transpose(2, 3, 1, 0))


def _depthwise_layout(weights: Numbers) -> Numbers:
    weights = weights if weights.ndim == 4 else weights[:, :, None]
    return np.ascontiguousarray(weights[:, 0].transpose(1, 2, 0))


def _attrs(window: Window) -> dict[str, tuple[int, ...]]:
    return {"kernel": window.kernel, "stride": window.stride, "dilation": window.dilation, "pad": window.pad}


def _window(step: Step, sides: tuple[int, ...], kernel: tuple[int, ...] | None, spatial: int) -> Window:
    """kernel: of the weights; None: as the attribute says."""
    said = wholes_attr(step, "kernel_shape", kernel and kernel[-spatial:], spatial, 1, WINDOW_SIDE_MAX)
    if kernel is not None and said != kernel[-spatial:]:
        raise ModelError(f"kernel_shape: expected that of the weights, {list(kernel[-spatial:])}, found {list(said)}")
    stride = wholes_attr(step, "strides", (1,) * spatial, spatial, 1, WINDOW_SIDE_MAX)
    dilation = wholes_attr(step, "dilations", (1,) * spatial, spatial, 1, WINDOW_SIDE_MAX)
    pads = wholes_attr(step, "pads", (0,) * 2 * spatial, 2 * spatial, 0)
    one = (1,) * (2 - spatial)
    around = (*(0,) * (2 - spatial) * 2, *(pads[axis + end * spatial] for axis in range(spatial) for end in (0, 1)))
    window = Window(
        _pair(one + said), _pair(one + stride), _pair(one + dilation), (around[0], around[1], around[2], around[3])
    )
    return _auto_pad(step, sides, window)


def _pair(values: tuple[int, ...]) -> Pair:
    return values[0], values[1]


def _auto_pad(step: Step, sides: tuple[int, ...], window: Window) -> Window:
    kind = text_attr(step, "auto_pad", "NOTSET")
    if kind == "NOTSET":
        return window
    if kind not in ("VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ModelError(f"auto_pad: expected NOTSET, VALID, SAME_UPPER or SAME_LOWER, found {kind[:40]!r}")
    pads: list[int] = []
    for axis in (0, 1):
        covered = (window.kernel[axis] - 1) * window.dilation[axis] + 1
        total = max(0, (-(-sides[axis] // window.stride[axis]) - 1) * window.stride[axis] + covered - sides[axis])
        less, more = (0, 0) if kind == "VALID" else (total // 2, total - total // 2)
        pads += [more, less] if kind == "SAME_LOWER" else [less, more]
    return Window(window.kernel, window.stride, window.dilation, (pads[0], pads[1], pads[2], pads[3]))


def _joined_pad(draft: Draft, tensor: int, window: Window) -> tuple[int, Window]:
    """A Pad with zeros in front becomes the convolution's own; the node stays for others that read it."""
    at = tensor
    node = draft.node_of(at)
    while node is not None and node.op == "reshape":
        at = node.inputs[0]
        node = draft.node_of(at)
    if node is None or node.op != "pad" or node.attrs["value"] != 0.0:
        return tensor, window
    pads = node.attrs["pads"]
    assert isinstance(pads, tuple)
    wide = (0,) * (6 - len(pads)) + pads
    if len(draft.shape_of(at)) not in (2, 3) or any(wide[4:]):
        return tensor, window
    source = draft.shape_of(node.inputs[0])
    if draft.shape_of(tensor) != (1,) * (3 - len(source)) + draft.shape_of(at):
        return tensor, window
    top, bottom, left, right = (mine + more for mine, more in zip(window.pad, wide[:4], strict=True))
    inner = draft.reshaped(node.inputs[0], (1,) * (3 - len(source)) + source)
    return inner, Window(window.kernel, window.stride, window.dilation, (top, bottom, left, right))


def _padded(draft: Draft, tensor: int, window: Window, value: float, *, always: bool = False) -> tuple[int, Window]:
    """A node for padding of more than a window has itself (its kernel would see nothing but it); always: for any."""
    covered = [(size - 1) * gap + 1 for size, gap in zip(window.kernel, window.dilation, strict=True)]
    over = max(window.pad[:2]) >= covered[0] or max(window.pad[2:]) >= covered[1]
    if not over and not (always and any(window.pad)):
        return tensor, window
    made = draft.add("pad", [tensor], pads=(*window.pad, 0, 0), value=value)
    return made, Window(window.kernel, window.stride, window.dilation, (0, 0, 0, 0))


# --- pools


def max_pool(draft: Draft, step: Step) -> None:
    """MaxPool; the places of the maxima, its second output, are not made."""
    _no_second(draft, step)
    value = draft.held(step, 0)
    tensor, spatial = image(draft, value)
    window = _ceiled(step, draft.shape_of(tensor), _window(step, draft.shape_of(tensor)[:2], None, spatial))
    _pool(draft, step, "max_pool", tensor, window, spatial)


def average_pool(draft: Draft, step: Step) -> None:
    """AveragePool; padding that counts becomes a node of its own."""
    tensor, spatial = image(draft, draft.held(step, 0))
    window = _window(step, draft.shape_of(tensor)[:2], None, spatial)
    counts = bool(whole_attr(step, "count_include_pad", 0))
    if counts:
        tensor, window = _padded(draft, tensor, window, 0.0, always=True)
    _pool(draft, step, "average_pool", tensor, _ceiled(step, draft.shape_of(tensor), window), spatial)


def _pool(draft: Draft, step: Step, op: str, tensor: int, window: Window, spatial: int) -> None:
    if window.dilation != (1, 1):
        raise ModelError(f"dilations: expected 1 for a pool, found {list(window.dilation)}")
    made = draft.add(op, [tensor], kernel=window.kernel, stride=window.stride, pad=window.pad, activation="linear")
    draft.put(step, unimage(draft, made, spatial))


def _ceiled(step: Step, shape: tuple[int, ...], window: Window) -> Window:
    """ceil_mode: a last window that begins inside the image or its padding, though it ends outside, is one more."""
    if not whole_attr(step, "ceil_mode", 0):
        return window
    pads = list(window.pad)
    for axis in (0, 1):
        before, after = pads[2 * axis : 2 * axis + 2]
        size, stride = window.kernel[axis], window.stride[axis]
        room = shape[axis] + before + after - size
        count = -(-room // stride) + 1
        if (count - 1) * stride >= shape[axis] + before:
            count -= 1
        pads[2 * axis + 1] = max(after, (count - 1) * stride + size - shape[axis] - before)
    return Window(window.kernel, window.stride, window.dilation, (pads[0], pads[1], pads[2], pads[3]))


def _no_second(draft: Draft, step: Step) -> None:
    used = [name for name in step.outputs[1:] if name and draft.uses[name]]
    if used:
        raise ModelError(f"expected its first output to be read alone, found {used[0][:60]!r} read too")


def global_average_pool(draft: Draft, step: Step) -> None:
    """GlobalAveragePool: the mean over all axes behind the channels."""
    value = draft.held(step, 0)
    if value.rank < 2:
        raise ModelError(f"expected channels and at least one axis besides the batch, found {list(value.shape)}")
    tensor = draft.in_order(value, last(value.rank))
    made = draft.add("mean", [tensor], axes=plain(value.rank - 1), keep=1)
    draft.put(step, draft.fresh(made, last(value.rank)))


def global_max_pool(draft: Draft, step: Step) -> None:
    """GlobalMaxPool: a pool whose window is the image."""
    tensor, spatial = image(draft, draft.held(step, 0))
    height, width, _ = draft.shape_of(tensor)
    _pool(draft, step, "max_pool", tensor, Window((height, width), (1, 1), (1, 1), (0, 0, 0, 0)), spatial)


def resize(draft: Draft, step: Step) -> None:
    """Resize (before opset 11 Upsample) to the nearest, places counted from 0: what PyTorch's nearest becomes."""
    mode, asked = text_attr(step, "mode", "nearest"), {"coordinate_transformation_mode": "asymmetric"}
    asked["nearest_mode"] = "floor"
    found = {name: text_attr(step, name, default) for name, default in _RESIZE_DEFAULTS.items()}
    newer = step.op == "Resize" and draft.file.opset >= 11
    if mode != "nearest" or (newer and found != asked):
        raise ModelError("mode: expected nearest, asymmetric, floor, found another")
    value = draft.held(step, 0)
    tensor, spatial = image(draft, value)
    shape = (1, *value.shape)
    if newer and draft.given(step, 3):
        sizes = wholes_input(draft, step, 3, "sizes", len(shape), 1, GRAPH_TENSOR_VALUES_MAX)
    else:
        scales = floats_input(draft, step, 2 if newer else 1, "scales", 1)
        if len(scales) != len(shape) or not ((scales > 0) & (scales < GRAPH_TENSOR_VALUES_MAX)).all():
            raise ModelError(f"scales: expected {len(shape)} numbers above 0, found others")
        sizes = tuple(int(side * scale) for side, scale in zip(shape, scales.tolist(), strict=True))
    if "axes" in step.attrs or sizes[:2] != shape[:2]:
        raise ModelError(f"sizes: expected other sizes for all axes but batch and channels, found {list(sizes)}")
    if any(large % small for large, small in zip(sizes[2:], shape[2:], strict=True)):
        raise ModelError(f"sizes: expected multiples of {list(shape[2:])}, found {list(sizes[2:])}")
    size = (1,) * (2 - spatial) + sizes[2:]
    made = draft.from_i8(tensor, lambda at: draft.add("resize_nearest", [at], size=size, align=0, half=0))
    draft.put(step, unimage(draft, made, spatial))


_RESIZE_DEFAULTS = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"}
