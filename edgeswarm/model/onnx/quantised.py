"""QuantizeLinear and DequantizeLinear: 8-bit models as ONNX Runtime's quantiser writes them (QDQ).

By its definition such a model computes in float between a DequantizeLinear and a QuantizeLinear, and so do we where
nothing better is known.  Where both stand around one operator with an 8-bit form, that form takes their place: its
multiplier is TFLite's, so that an answer may differ from the float one by one step.
uint8 becomes int8: 128 less, zero point and all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgeswarm.errors import ModelError
from edgeswarm.model import fixed_point
from edgeswarm.model.nodes import RANGES, Node, Tensor
from edgeswarm.model.onnx.draft import Draft, Held, Numbers
from edgeswarm.model.onnx.file import Step
from edgeswarm.model.onnx.reading import floats_input, whole_attr
from edgeswarm.model.reference import FUNCTIONS

LOW, HIGH = RANGES["i8"]
ON_GRID = 1e-3
"""Of a step: what float32 makes of a whole number of steps, and no number that is none."""
BOUNDS = {"linear": (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0), "linear_piece": (0.0, 1.0)}
"""Activations that a clamp of whole numbers can be."""


@dataclass(frozen=True, slots=True)
class Grid:
    """scale, zero point (of int8): what a quantised tensor's numbers stand for."""

    scale: float
    zero_point: int

    def like(self, shape: tuple[int, ...]) -> Tensor:
        return Tensor(shape, "i8", self.scale, self.zero_point)


def dequantize_numbers(draft: Draft, step: Step) -> Numbers:
    """DequantizeLinear of numbers of the file; the whole numbers are remembered by the output's name."""
    whole = draft.numbers(step, 0, "x")
    scale = floats_input(draft, step, 1, "scale")
    zero = draft.numbers(step, 2, "zero point") if draft.given(step, 2) else np.zeros(scale.shape, whole.dtype)
    if whole.dtype.name not in ("int8", "uint8", "int32") or zero.size != scale.size or scale.ndim > 1:
        raise ModelError(
            f"expected int8, uint8 or int32 with a scale for all or for each place of one axis, found {whole.dtype} "
            f"and {list(scale.shape)}"
        )
    if whole_attr(step, "block_size", 0):
        raise ModelError("block_size: expected none, found blocks")
    shape = [1] * whole.ndim
    if scale.size > 1:
        axis = whole_attr(step, "axis", 1)
        if not -whole.ndim <= axis < whole.ndim or whole.shape[axis] != scale.size:
            raise ModelError(f"axis: expected one of {scale.size} places in {list(whole.shape)}, found {axis}")
        shape[axis] = scale.size
    moved = whole.astype(np.int64) - zero.astype(np.int64).reshape(shape)
    if whole.dtype != np.int32:
        less = 128 if whole.dtype == np.uint8 else 0
        signed = (whole.astype(np.int16) - less).astype(np.int8)
        draft.folded[step.outputs[0]] = (signed, scale.reshape(-1), zero.reshape(-1).astype(np.int16) - less)
    made: Numbers = (moved * scale.reshape(shape)).astype(np.float32)
    return made


def _grid(draft: Draft, step: Step) -> Grid:
    scale = floats_input(draft, step, 1, "scale")
    zero = draft.numbers(step, 2, "zero point") if draft.given(step, 2) else np.zeros((), np.uint8)
    if scale.size != 1 or zero.size != 1:
        raise ModelError(f"scale: expected one for values that rows decide, found {scale.size}")
    if zero.dtype.name not in ("int8", "uint8"):
        raise ModelError(f"zero point: expected int8 or uint8, found {zero.dtype}")
    return Grid(float(np.float32(scale.reshape(()))), int(zero.reshape(())) - (128 if zero.dtype == np.uint8 else 0))


def dequantize(draft: Draft, step: Step) -> None:
    """DequantizeLinear of a quantised value."""
    value, grid = draft.held(step, 0), _grid(draft, step)
    tensor = draft.builder.tensors[value.tensor]
    if tensor.dtype != "i8":
        raise ModelError("expected a quantised value, found floats")
    if (tensor.scale, tensor.zero_point) != (grid.scale, grid.zero_point):
        raise ModelError("scale: expected that by which its input was quantised, found another")
    draft.put(step, replace(value, tensor=draft.add("dequantize", [value.tensor]), sole=True))


def quantize(draft: Draft, step: Step) -> None:
    """QuantizeLinear: joined to what makes its input where that has an 8-bit form, else a node of its own."""
    value, grid = draft.held(step, 0), _grid(draft, step)
    if draft.builder.tensors[value.tensor].dtype != "f32":
        raise ModelError("expected floats, found a quantised value")
    made = _kept(draft, value, grid)
    if made is None and value.sole:
        made = _joined(draft, value, grid)
    if made is None:
        made = draft.add("affine_quantize", [value.tensor], None, grid.like((1,)))
    draft.put(step, replace(value, tensor=made, sole=True))


def _kept(draft: Draft, value: Held, grid: Grid) -> int | None:
    """What was dequantised, and only moved since, is quantised by the same grid: nothing happened."""
    node = draft.node_of(value.tensor)
    if node is None or node.op != "dequantize" or _grid_of(draft, node.inputs[0]) != grid:
        return None
    return node.inputs[0]


def _grid_of(draft: Draft, tensor: int) -> Grid:
    held = draft.builder.tensors[tensor]
    return Grid(held.scale, held.zero_point)


def _joined(draft: Draft, value: Held, grid: Grid) -> int | None:
    """The 8-bit form of the node that makes the value, and the moves behind it again; None: there is none."""
    tensor, moves = value.tensor, []
    while (node := draft.node_of(tensor)) is not None and node.op in ("reshape", "transpose"):
        moves.append(node)
        tensor = node.inputs[0]
    if node is None:
        return None
    sources = []
    for index in node.inputs:
        source = _source(draft, node, index)
        if source is None:
            return None
        sources.append(source)
    made = _form(draft, node, tensor, sources, grid)
    for move in reversed(moves):
        made = None if made is None else draft.add(move.op, [made], **move.attrs)
    return made


def _source(draft: Draft, reader: Node, tensor: int) -> int | None:
    """The quantised tensor that a float one was made of; numbers of the file that had 8 bits get them back."""
    node = draft.node_of(tensor)
    if node is not None and node.op == "dequantize":
        return node.inputs[0]
    if node is None or node.op != "constant" or tensor not in draft.on_grid or reader.op not in ("add", "mul"):
        return None
    grid = Grid(*draft.on_grid[tensor])
    value = node.params["value"]
    steps = value.astype(np.float64) / grid.scale
    whole = np.rint(steps) + grid.zero_point
    if not ((whole >= LOW) & (whole <= HIGH) & (np.abs(steps - np.rint(steps)) < ON_GRID)).all():
        return None  # it was joined to other numbers since
    params = {"value": whole.astype(np.int8)}
    return draft.add("constant", [], params, grid.like(value.shape), shape=value.shape, dtype="i8")


def _form(draft: Draft, node: Node, tensor: int, sources: list[int], grid: Grid) -> int | None:
    if node.op in _LAYERS and tensor in draft.quantised:
        return _layer(draft, node, tensor, sources[0], grid)
    if node.op in ("elementwise", "leaky") and len(sources) == 1:
        return _lookup(draft, node, sources[0], grid)
    limits = clamp(node, grid)
    if node.op in ("add", "mul") and len(sources) == 2 and limits:
        return draft.add(f"{node.op}_i8", sources, None, grid.like((1,)), low=limits[0], high=limits[1])
    if node.op in ("max_pool", "average_pool") and limits and _grid_of(draft, sources[0]) == grid:
        attrs = {name: node.attrs[name] for name in ("kernel", "stride", "pad")}
        return draft.add(f"{node.op}_i8", sources, low=limits[0], high=limits[1], **attrs)
    if node.op == "mean":
        return draft.add("mean_i8", sources, None, grid.like((1,)), axes=node.attrs["axes"], keep=node.attrs["keep"])
    return None


def clamp(node: Node, grid: Grid) -> tuple[int, int] | None:
    """The activation of a node as bounds of the whole numbers that it writes."""
    found = BOUNDS.get(str(node.attrs.get("activation", "linear")))
    if found is None:
        return None
    low, high = (x if np.isinf(x) else np.rint(x / grid.scale) + grid.zero_point for x in found)
    return int(min(max(LOW, low), HIGH)), int(min(HIGH, max(high, LOW)))


_LAYERS = {"conv2d": "conv2d_i8", "depthwise": "depthwise_i8", "dense": "dense_tflite"}


def _layer(draft: Draft, node: Node, tensor: int, source: int, grid: Grid) -> int | None:
    whole, scales = draft.quantised[tensor]
    limits, held = clamp(node, grid), draft.builder.tensors[source]
    units = whole.shape[-1]
    if limits is None or held.dtype != "i8" or scales.size not in (1, units):
        return None
    each = np.broadcast_to(scales.astype(np.float32), units).astype(np.float64)
    if not (each > 0).all():
        return None
    bias = np.rint(node.params["bias"].astype(np.float64) / (each * held.scale))
    if not (np.abs(bias) < 2.0**31).all():
        return None
    factors = [fixed_point.quantize_multiplier(float(scale) * held.scale / grid.scale) for scale in each]
    params: dict[str, Numbers] = {
        "weights": np.ascontiguousarray(whole, np.int8),
        "bias": bias.astype(np.int32),
        "multiplier": np.array([multiplier for multiplier, _ in factors], np.int32),
        "shift": np.array([shift for _, shift in factors], np.int32),
    }
    attrs = {name: value for name, value in node.attrs.items() if name != "activation"}
    op = _LAYERS[node.op]
    return draft.add(op, [source], params, grid.like((1,)), low=limits[0], high=limits[1], **attrs)


def _lookup(draft: Draft, node: Node, source: int, grid: Grid) -> int:
    """Any function of one number is a table of 256."""
    held = draft.builder.tensors[source]
    x = (held.scale * (np.arange(LOW, HIGH + 1, dtype=np.float64) - held.zero_point)).astype(np.float32)
    if node.op == "leaky":
        slope = node.attrs["slope"]
        assert isinstance(slope, float)
        y = np.where(x < 0, slope * x, x)
    else:
        y = FUNCTIONS[str(node.attrs["activation"])](x.astype(np.float64))
    table = np.clip(np.rint(y.astype(np.float32) / np.float32(grid.scale)) + grid.zero_point, LOW, HIGH)
    return draft.add("lookup_i8", [source], {"table": table.astype(np.int8)}, grid.like((1,)))
