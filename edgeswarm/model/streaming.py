"""A net of windows as a net of frames: what it saw before comes back to it, so that each call computes the new alone.

A graph that reads a window of `length` frames becomes one that reads `frames` of them and a memory, and writes what it
answers and the memory for the next call: the end of each tensor that a layer with a reach looks back on.  The memory is
the agent file's own (`memory` of its header): it starts as zeros, a call that fails leaves it as it was, checkpoints
keep it, it moves with the agent.  The kernel keeps nothing.
Only causal nets can be so: no layer may look beyond the last frame, and strides must end on it.  Zeros in front of a
window are what the memory starts with.
Invariants: `length` frames from the start give the window's own answer with the last of them; where `windows` is true,
so does every later call for the window that ends with its frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import GRAPH_TENSOR_VALUES_MAX, MEMORY_WIDTH_MAX
from edgeswarm.model.graph import Builder, Graph
from edgeswarm.model.nodes import RANGES, Attr, Node, Tensor
from edgeswarm.model.op import wholes
from edgeswarm.model.ops_spatial import window_of

LOCAL = frozenset(
    ("elementwise", "leaky", "lookup_i8", "affine_quantize", "dequantize", "quantize", "softmax", "softmax_i8")
)
"""Operators that look at one place of the axis of time, where that is not the last for softmax."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """graph: reads frames, then the memory; writes answers, then the memory.  memory: its values.

    axis: of the input, along which time runs.  length: frames of a window.  padded: whether zeros stood in front of it.
    windows: see the module.  macs: of a call, and its values.
    """

    graph: Graph
    memory: int
    frames: int
    axis: int
    length: int
    padded: bool
    windows: bool
    macs: int


def streamed(graph: Graph, frames: int) -> Streamed:
    """The graph of `frames` frames, by the axis of its input on which that is least work.

    Raises ModelError where no axis can be that of time, with the reason for each.
    """
    shape, found, reasons = graph.tensors[graph.input].shape, [], []
    whole = macs_of(graph)
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        try:
            if not 1 <= frames < length or length % frames:
                raise ModelError(f"expected frames that divide {length}, and fewer, found {frames}")
            made = _along(graph, frames, axis)
        except (ModelError, LimitError) as error:
            reasons.append(f"axis {axis} of {length}: {error}")
            continue
        if made.macs < whole:
            found.append(made)
        else:
            reasons.append(f"axis {axis} of {length}: nothing is saved, each call costs what a window does")
    if not found:
        raise ModelError(f"--stream: expected a causal net over a window of frames; {'; '.join(reasons)}")
    return min(found, key=lambda made: made.macs)


def macs_of(graph: Graph) -> int:
    """What a row costs: its multiplications, and one more for each value that a node writes."""
    return sum(graph.macs_of(index) + graph.tensors[node.output].size for index, node in enumerate(graph.nodes))


def _along(graph: Graph, frames: int, axis: int) -> Streamed:
    reach: dict[int, int] = {}
    _Pass(graph, frames, axis, reach, GRAPH_TENSOR_VALUES_MAX).walk()  # how far back each tensor is looked at
    sizes = _Pass(graph, frames, axis, reach, GRAPH_TENSOR_VALUES_MAX)
    sizes.walk()
    if not sizes.memory:
        raise ModelError("no layer looks back: frames can be given one by one as they are")
    if sizes.memory > MEMORY_WIDTH_MAX:
        raise LimitError(f"memory: at most {MEMORY_WIDTH_MAX} values (MEMORY_WIDTH_MAX), found {sizes.memory}")
    size = graph.tensors[graph.input].size // graph.tensors[graph.input].shape[axis] * frames
    last = _Pass(graph, frames, axis, reach, size + sizes.memory)
    made = last.builder.graph(last.walk())
    length = graph.tensors[graph.input].shape[axis]
    return Streamed(made, last.memory, frames, axis, length, last.padded, last.windows, macs_of(made))


@dataclass(frozen=True, slots=True)
class _Value:
    """A tensor of the window in the stream.

    tensor: of the builder, with `new` places on the axis of time instead of `length`.  axis None: it has none, and is
    the window's own.  padded: places at the start of the window that zeros in front of it have had a part in.
    made: places that a stream has once its first window is full.  fixed: no row decides it.
    """

    tensor: int
    axis: int | None = None
    length: int = 0
    new: int = 0
    padded: int = 0
    made: int = 0
    fixed: bool = False


class _Pass:
    """One walk over the nodes.  reach: places that are kept of each tensor; grows while it walks."""

    def __init__(self, graph: Graph, frames: int, axis: int, reach: dict[int, int], width: int) -> None:
        """width: of the row that is read; more than is needed does no harm while it is not known."""
        self.graph, self.reach, self.memory = graph, reach, 0
        self.padded, self.windows, self._mixed = False, True, False
        self.builder = Builder(Tensor((width,)))
        shape = graph.tensors[graph.input].shape
        self._at = math.prod(shape) // shape[axis] * frames  # where the memory that is not yet taken begins
        self._kept: list[int] = []  # tensors of one axis: the memory for the next call
        self._full: dict[int, tuple[int, int]] = {}  # of a tensor of the window: kept and new together, places kept
        rows = self._cut(0, 0, self._at)
        held = self.add("reshape", [rows], shape=_with(shape, axis, frames))
        self.values = {graph.input: _Value(held, axis, shape[axis], frames, made=shape[axis])}

    def walk(self) -> int:
        """All nodes; the tensor that is written.  Raises ModelError naming the node that is not causal."""
        for index, node in enumerate(self.graph.nodes):
            try:
                self.values[node.output] = self._node(node)
            except ModelError as error:
                raise ModelError(f"node {index} ({node.op}): {error}") from None
        answer = self.values[self.graph.output]
        if answer.axis is not None and answer.length < answer.new:  # the window answers for its last frames alone
            answer = replace(answer, tensor=self.whole(self.graph.output), new=answer.length)
        if answer.axis is not None and answer.padded > max(0, answer.length - answer.new):
            self.windows = False
        if self._mixed and not self.windows:
            raise ModelError("padding behind a layer without it: no call would answer as a window does")
        flat = self.add("reshape", [answer.tensor], shape=(self._shape(answer.tensor).size,))
        return self.add("join", [flat, *self._kept], axis=0) if self._kept else flat

    def add(
        self, op: str, inputs: list[int], node: Node | None = None, like: Tensor | None = None, **attrs: Attr
    ) -> int:
        """A node, with the params and attrs of `node` but for `attrs`."""
        params = node.params if node else None
        return self.builder.add(op, inputs, params, like=like, **{**(node.attrs if node else {}), **attrs})

    def same(self, node: Node, inputs: list[int], **attrs: Attr) -> int:
        """The node of the window on other inputs."""
        return self.add(node.op, inputs, node, self.graph.tensors[node.output], **attrs)

    def _shape(self, tensor: int) -> Tensor:
        return self.builder.tensors[tensor]

    def _cut(self, tensor: int, start: int, stop: int, axis: int = 0) -> int:
        shape = self._shape(tensor).shape
        if (start, stop) == (0, shape[axis]):
            return tensor
        starts, stops = (0,) * len(shape), shape
        starts, stops = _with(starts, axis, start), _with(stops, axis, stop)
        return self.add("strided_slice", [tensor], start=starts, stop=stops, step=(1,) * len(shape))

    def back(self, index: int, places: int) -> int:
        """Tensor `index` of the window: its new places, and so many before them."""
        value = self.values[index]
        assert value.axis is not None
        if places > self.reach.get(index, 0):
            self.reach[index] = places
            self._full.pop(index, None)
        if not self.reach.get(index, 0):
            return value.tensor
        if index not in self._full:
            self._full[index] = self._remember(value, self.reach[index]), self.reach[index]
        full, kept = self._full[index]
        return self._cut(full, kept - places, kept + value.new, value.axis)

    def _remember(self, value: _Value, places: int) -> int:
        """Take `places` of a value from the memory, and put as many in for the next call; all together."""
        assert value.axis is not None
        held = self._shape(value.tensor)
        shape = _with(held.shape, value.axis, places)
        size = math.prod(shape)
        before = self.add("reshape", [self._cut(0, self._at, self._at + size)], shape=shape)
        self._at, self.memory = self._at + size, self.memory + size
        if held.dtype != "f32":  # whole numbers as what they stand for: 0 is the zero point, and back it is exact
            before = self.add("affine_quantize", [before], like=held)
        full = self.add("join", [before, value.tensor], axis=value.axis)
        after = self._cut(full, value.new, value.new + places, value.axis)
        after = self.add("dequantize", [after]) if held.dtype != "f32" else after
        self._kept.append(self.add("reshape", [after], shape=(size,)))
        return full

    def whole(self, index: int) -> int:
        """Tensor `index` of the window as the window has it."""
        value = self.values[index]
        if value.axis is None:
            return value.tensor
        self.windows &= not value.padded
        if value.length < value.new:
            return self._cut(value.tensor, value.new - value.length, value.new, value.axis)
        return self.back(index, value.length - value.new)

    def pad(self, value: _Value, places: int) -> int:
        """Zeros in front of a value, by the memory that begins with them; how many places they have had a part in."""
        self.padded |= places > 0
        self._mixed |= places > 0 and value.length < value.made  # a stream has others than zeros there
        return value.padded + places

    # --- operators

    def _node(self, node: Node) -> _Value:
        fixed = all(self.values[index].fixed for index in node.inputs)
        moving = [self.values[index] for index in node.inputs if self.values[index].axis is not None]
        if moving:
            made = _WORKS.get(node.op, _none)(self, node, moving[0])
            if made is not None:
                return made
        return _Value(self.same(node, [self.whole(index) for index in node.inputs]), fixed=fixed)


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


Work = Callable[[_Pass, Node, _Value], _Value | None]
"""(the pass, the node, the first of its inputs with an axis of time) -> what it writes; None: it needs the window."""


def _none(at: _Pass, node: Node, value: _Value) -> None:
    return None


def _local(at: _Pass, node: Node, value: _Value) -> _Value | None:
    if node.op.startswith("softmax") and value.axis == len(at.graph.tensors[node.inputs[0]].shape) - 1:
        return None
    return replace(value, tensor=at.same(node, [value.tensor]))


def _reshape(at: _Pass, node: Node, value: _Value) -> _Value | None:
    """The axis of time goes where as many values lie before it."""
    assert value.axis is not None
    source, made = at.graph.tensors[node.inputs[0]].shape, at.graph.tensors[node.output].shape
    before = math.prod(source[: value.axis])
    for axis, size in enumerate(made):
        if size == value.length and math.prod(made[:axis]) == before:
            tensor = at.same(node, [value.tensor], shape=_with(made, axis, value.new))
            return replace(value, tensor=tensor, axis=axis)
    return None


def _transpose(at: _Pass, node: Node, value: _Value) -> _Value | None:
    perm = wholes(node.attrs, "perm", None, 0, 7)
    assert value.axis is not None
    return replace(value, tensor=at.same(node, [value.tensor]), axis=perm.index(value.axis))


def _pad(at: _Pass, node: Node, value: _Value) -> _Value | None:
    """Zeros in front are what the memory starts with; other axes are padded as they are."""
    assert value.axis is not None
    pads = wholes(node.attrs, "pads", None, 0, GRAPH_TENSOR_VALUES_MAX)
    before, after = pads[2 * value.axis : 2 * value.axis + 2]
    source = at.graph.tensors[node.inputs[0]]
    if after:
        raise ModelError(f"expected no padding behind the last frame, found {after} frames: it would look ahead")
    if before and node.attrs["value"] != (source.zero_point if source.dtype in RANGES else 0.0):
        return None
    rest = tuple(0 if index // 2 == value.axis else count for index, count in enumerate(pads))
    tensor = at.same(node, [value.tensor], pads=rest) if any(rest) else value.tensor
    return replace(value, tensor=tensor, length=value.length + before, padded=at.pad(value, before))


def _strided_slice(at: _Pass, node: Node, value: _Value) -> _Value | None:
    """What leaves the first frames out leaves nothing out of a stream."""
    assert value.axis is not None
    parts = {name: wholes(node.attrs, name, None, 0, GRAPH_TENSOR_VALUES_MAX) for name in ("start", "stop", "step")}
    start, stop, step = (parts[name][value.axis] for name in ("start", "stop", "step"))
    if stop != value.length or step != 1:
        return None
    ours: Mapping[str, Attr] = {
        "start": _with(parts["start"], value.axis, 0),
        "stop": _with(parts["stop"], value.axis, value.new),
    }
    tensor = at.same(node, [value.tensor], **ours)
    return replace(value, tensor=tensor, length=value.length - start, padded=max(0, value.padded - start))


def _mean(at: _Pass, node: Node, value: _Value) -> _Value | None:
    assert value.axis is not None
    axes = wholes(node.attrs, "axes", None, 0, 7)
    if value.axis in axes:
        return None
    axis = value.axis if node.attrs["keep"] else value.axis - sum(other < value.axis for other in axes)
    return replace(value, tensor=at.same(node, [value.tensor]), axis=axis)


def _pair(at: _Pass, node: Node, value: _Value) -> _Value | None:
    """Two of one time, or one and what is the same at each place."""
    values = [at.values[index] for index in node.inputs]
    for index, other in zip(node.inputs, values, strict=True):
        if other.axis is None:
            shape = at.graph.tensors[index].shape
            if not other.fixed or value.axis is None or shape[value.axis] != 1:
                return None  # what rows decide belongs to this window, and what is remembered met another
        elif (other.axis, other.length, other.new) != (value.axis, value.length, value.new):
            return None
    return replace(_both(values), tensor=at.same(node, [other.tensor for other in values]))


def _both(values: list[_Value]) -> _Value:
    """What a value of several has of each."""
    moving = [value for value in values if value.axis is not None]
    return replace(moving[0], padded=max(value.padded for value in moving))


def _join(at: _Pass, node: Node, value: _Value) -> _Value | None:
    values = [at.values[index] for index in node.inputs]
    times = {(other.axis, other.length, other.new) for other in values}
    if len(times) != 1 or value.axis == node.attrs["axis"]:
        return None
    return replace(_both(values), tensor=at.same(node, [other.tensor for other in values]))


def _window(at: _Pass, node: Node, value: _Value) -> _Value | None:
    """A convolution or pool along time: it looks back `reach` places, and pads no more than in front."""
    source = at.graph.tensors[node.inputs[0]]
    if value.axis not in (0, 1):
        return None
    window, time = window_of(source, node.attrs), value.axis
    stride, covered = window.stride[time], window.spread[time]
    before = window.pad[2 * time]
    written = (window.height, window.width)[time]
    left = value.length + before - (written - 1) * stride - covered  # places behind what the last window sees
    if left < 0:
        raise ModelError(f"expected a layer that does not look ahead, found one that sees {-left} past the last frame")
    if left:
        raise ModelError(f"stride {stride}: expected one that ends on the last frame, found {left} left over")
    if value.new % stride:
        raise ModelError(f"stride {stride}: expected calls of a multiple of it at this layer, found {value.new}")
    if before and "pool" in node.op:
        raise ModelError("expected a pool that is not padded along time: padding does not count, and zeros would")
    reach = covered - stride
    tensor = at.back(node.inputs[0], max(0, reach))
    if reach < 0:
        tensor = at.builder.add(
            "strided_slice",
            [tensor],
            start=_with((0, 0, 0), time, -reach),
            stop=at.builder.tensors[tensor].shape,
            step=(1, 1, 1),
        )
    pad = tuple(0 if index // 2 == time else count for index, count in enumerate(window.pad))
    padded = min(written, -(-at.pad(value, before) // stride))
    return _Value(
        at.same(node, [tensor], pad=pad),
        time,
        written,
        value.new // stride,
        padded,
        value.made // stride,
    )


_WORKS: Mapping[str, Work] = {
    **dict.fromkeys(LOCAL, _local),
    **dict.fromkeys(("add", "mul", "add_i8", "mul_i8"), _pair),
    **dict.fromkeys(("conv2d", "depthwise", "conv2d_i8", "depthwise_i8"), _window),
    **dict.fromkeys(("average_pool", "max_pool", "average_pool_i8", "max_pool_i8"), _window),
    **dict.fromkeys(("mean", "mean_i8"), _mean),
    "reshape": _reshape,
    "transpose": _transpose,
    "pad": _pad,
    "strided_slice": _strided_slice,
    "join": _join,
}
