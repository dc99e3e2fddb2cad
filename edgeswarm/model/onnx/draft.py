"""The graph in the making: values by the file's names, and in which order of axes each lies.

ONNX has channels first, our operators channels last.  So a value knows its file's shape and how it lies; a transpose
of the file changes what is known, not what is computed, and one of ours comes in only where an operator wants another
order.  Shapes are per row: the file's first axis, the batch, is counted as 1 and left out.
Invariants: a value's tensor is `base` with its axes in `order`; `shape` is `base` reshaped in the file's own order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import AF_SECTION_BYTES_MAX, GRAPH_AXES_MAX, GRAPH_NODES_MAX
from edgeswarm.model.graph import Builder, Graph
from edgeswarm.model.nodes import Attr, Node, Tensor
from edgeswarm.model.onnx.file import File, Step

Numbers = NDArray[Any]
Order = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A value that rows decide.

    shape: the file's, without the batch.  tensor: of the builder.  order: stored axis k is axis order[k] of base.
    sole: nobody else reads it, so that what comes next may be joined to the node that makes it.
    """

    shape: tuple[int, ...]
    tensor: int
    base: tuple[int, ...]
    order: Order
    sole: bool = True

    @property
    def rank(self) -> int:
        """Axes, the batch not counted."""
        return len(self.shape)


def plain(rank: int) -> Order:
    """The file's own order of axes."""
    return tuple(range(rank))


def last(rank: int) -> Order:
    """Channels last, of a value whose first axis is channels."""
    return (*range(1, rank), 0)


class Draft:
    """The state of one import."""

    def __init__(self, file: File, shape: tuple[int, ...], name: str) -> None:
        """shape, name: of the file's one input, without the batch."""
        self.file = file
        self.builder = Builder(Tensor(shape))
        self.values: dict[str, Held | Numbers] = dict(file.numbers)
        self.uses = Counter(name for step in file.steps for name in step.inputs)
        self.uses.update(value.name for value in file.outputs)
        self.values[name] = Held(shape, 0, shape, plain(len(shape)), self.uses[name] == 1)
        self.notes: list[str] = []
        self.quantised: dict[int, tuple[Numbers, Numbers]] = {}
        """Of a tensor: the int8 weights (in the file's axes) and their scales, one a channel, by which it was made."""
        self.folded: dict[str, tuple[Numbers, Numbers, Numbers]] = {}
        """Of a name: the whole numbers, scales and zero points that DequantizeLinear made its numbers of."""
        self.on_grid: dict[int, tuple[float, int]] = {}
        """Of a constant that DequantizeLinear made: the scale and zero point by which it was held."""
        self.shares: set[int] = set()
        """Tensors whose values, never below 0, add up to 1 in each row."""
        self._arranged: dict[tuple[int, Order, Order], int] = {}
        self._size = 0

    # --- what a step reads and writes

    def value(self, step: Step, index: int) -> Held | Numbers:
        """Input `index`, which must be there."""
        if not self.given(step, index):
            raise ModelError(f"expected an input {index}, found none")
        return self.values[step.inputs[index]]

    def numbers(self, step: Step, index: int, what: str) -> Numbers:
        """Input `index`, which must be known without a row."""
        found = self.value(step, index)
        if isinstance(found, Held):
            raise ModelError(f"{what}: expected numbers of the file, found values that rows decide")
        return found

    def given(self, step: Step, index: int) -> bool:
        """Whether the step has an input of that index."""
        return index < len(step.inputs) and bool(step.inputs[index])

    def held(self, step: Step, index: int) -> Held:
        """Input `index`, which must depend on rows."""
        found = self.value(step, index)
        if not isinstance(found, Held):
            raise ModelError("expected a value that rows decide, found numbers of the file")
        return found

    def put(self, step: Step, value: Held | Numbers, index: int = 0) -> None:
        """Output `index` of the step."""
        name = step.outputs[index]
        if isinstance(value, Held):
            value = replace(value, sole=value.sole and self.uses[name] <= 1)
        self.values[name] = value

    # --- nodes

    def shape_of(self, tensor: int) -> tuple[int, ...]:
        """As it is stored."""
        return self.builder.tensors[tensor].shape

    def node_of(self, tensor: int) -> Node | None:
        """The node that writes a tensor; None for the input."""
        return self.builder.nodes[tensor - 1] if tensor else None

    def add(
        self,
        op: str,
        inputs: Sequence[int],
        params: Mapping[str, Numbers] | None = None,
        like: Tensor | None = None,
        /,
        **attrs: Attr,
    ) -> int:
        """As Builder.add, with a bound on what all nodes together hold."""
        self._size += sum(array.nbytes for array in (params or {}).values())
        if self._size > AF_SECTION_BYTES_MAX:
            raise LimitError(f"weights: at most {AF_SECTION_BYTES_MAX} bytes (AF_SECTION_BYTES_MAX), found more")
        if len(self.builder.nodes) >= GRAPH_NODES_MAX:
            raise LimitError(f"nodes: at most {GRAPH_NODES_MAX} (GRAPH_NODES_MAX), found more")
        return self.builder.add(op, inputs, params, like=like, **attrs)

    def rewrite(self, tensor: int, *, params: Mapping[str, Numbers] | None = None, **attrs: Attr) -> None:
        """Give the node that writes `tensor` other attrs, or params: only where nobody has read it yet."""
        node = self.builder.nodes[tensor - 1]
        self.builder.nodes[tensor - 1] = replace(
            node, attrs={**node.attrs, **attrs}, params={**node.params, **(params or {})}
        )

    def constant(self, values: Numbers, order: Order) -> int:
        """A tensor of these numbers, laid in `order`; values: in the file's axes."""
        stored = np.ascontiguousarray(np.transpose(values, order), np.float32)
        return self.add("constant", [], {"value": stored}, shape=stored.shape, dtype="f32")

    # --- orders of axes

    def fresh(self, tensor: int, order: Order) -> Held:
        """A new value of a tensor whose axes lie in `order`."""
        stored, shape = self.shape_of(tensor), [0] * len(order)
        for position, axis in enumerate(order):
            shape[axis] = stored[position]
        return Held(tuple(shape), tensor, tuple(shape), order)

    def in_order(self, value: Held, order: Order) -> int:
        """The value's tensor with its axes in `order`, which is one of value.shape."""
        at = value
        if at.base != at.shape:
            tensor = self._moved(at.tensor, at.base, at.order, plain(len(at.base)))
            at = replace(value, tensor=self.reshaped(tensor, at.shape or (1,)), base=at.shape, order=plain(at.rank))
        return self._moved(at.tensor, at.shape, at.order, order)

    def reshaped(self, tensor: int, shape: tuple[int, ...]) -> int:
        """The same values in another shape: no work, but a node that says so."""
        if self.shape_of(tensor) == shape:
            return tensor
        if not 1 <= len(shape) <= GRAPH_AXES_MAX:
            raise LimitError(f"at most {GRAPH_AXES_MAX} axes besides the batch (GRAPH_AXES_MAX), found {len(shape)}")
        return self.from_i8(tensor, lambda here: self.add("reshape", [here], shape=shape))

    def _moved(self, tensor: int, shape: tuple[int, ...], order: Order, wanted: Order) -> int:
        if order == wanted:
            return tensor
        if (tensor, order, wanted) not in self._arranged:
            here, there = [a for a in order if shape[a] != 1], [a for a in wanted if shape[a] != 1]
            if here == there:
                made = self.reshaped(tensor, tuple(shape[axis] for axis in wanted))
            else:
                perm = tuple(order.index(axis) for axis in wanted)
                made = self.from_i8(tensor, lambda at: self.add("transpose", [at], perm=perm))
            self._arranged[tensor, order, wanted] = made
        return self._arranged[tensor, order, wanted]

    def from_i8(self, tensor: int, move: Any) -> int:
        """`move` a tensor, before it is dequantised where it is: whole numbers are moved for a quarter of the work."""
        node = self.node_of(tensor)
        if node is None or node.op != "dequantize":
            return int(move(tensor))
        return self.add("dequantize", [move(node.inputs[0])])

    # --- joining what comes next to what was made

    def maker(self, value: Held, ops: Sequence[str], *, keep_last: bool) -> int | None:
        """The tensor of the node, one of `ops`, that a linear step behind `value` may be joined to.

        Reshapes between them do not matter, but with keep_last those that change the last axis do.
        """
        if not value.sole:
            return None
        tensor = value.tensor
        while (node := self.node_of(tensor)) is not None and node.op == "reshape":
            source = node.inputs[0]
            if keep_last and self.shape_of(source)[-1] != self.shape_of(tensor)[-1]:
                return None
            tensor = source
        if node is None or node.op not in ops or node.attrs.get("activation", "linear") != "linear":
            return None
        return tensor

    def finished(self, output: int) -> Graph:
        """The graph of what `output` needs; what nobody reads any more is left out."""
        nodes, tensors = self.builder.nodes, self.builder.tensors
        needed, wanted = {output}, []
        for index in range(len(nodes) - 1, -1, -1):
            if index + 1 in needed:
                needed.update(nodes[index].inputs)
                wanted.append(index)
        if 0 not in needed:
            raise ModelError("expected an output that the input decides, found one that is always the same")
        builder, places = Builder(tensors[0]), {0: 0}
        for index in reversed(wanted):
            node = nodes[index]
            places[index + 1] = builder.add(
                node.op, [places[at] for at in node.inputs], node.params, like=tensors[index + 1], **node.attrs
            )
        return builder.graph(places[output])


def rows_only(array: Numbers, rank: int, what: str) -> Numbers:
    """Numbers that meet a value of `rank` axes and a batch, as float32 of that many axes without the batch.

    Raises ModelError if they differ from row to row.
    """
    if array.dtype.kind != "f":
        raise ModelError(f"{what}: expected float numbers, found {array.dtype}")
    if array.ndim > rank + 1 or (array.ndim == rank + 1 and array.shape[0] != 1):
        raise ModelError(f"{what}: expected numbers for one row of {rank} axes, found the shape {list(array.shape)}")
    own = array.reshape(array.shape[-rank:] if rank else ())
    return own.reshape((1,) * (rank - own.ndim) + own.shape).astype(np.float32)


def row_axis(axis: int, rank: int) -> int:
    """An axis of the file, batch included, as one of a row.  Raises ModelError for the batch and past the last."""
    if not -rank - 1 <= axis <= rank:
        raise ModelError(f"axis: expected {-rank - 1} to {rank}, found {axis}")
    axis += rank + 1 if axis < 0 else 0
    if axis == 0:
        raise ModelError("axis: expected one besides the first, which is the batch; rows do not mix")
    return axis - 1


def size_of(shape: Sequence[int]) -> int:
    """Values of one row."""
    return math.prod(shape)
