"""A model as a graph: tensors and the nodes that compute them, in an order in which they can be computed.

Outline is the structure without numbers: what a kernel's code depends on.  Graph is an Outline with params.
Invariants: 1 <= nodes <= GRAPH_NODES_MAX, and they read at most GRAPH_READS_MAX tensors; each tensor but the input is
written by exactly one node, before any node reads it; input and output are f32, as hosts write and read them; shapes,
dtypes, steps, attrs and params are what OPS says; params are finite, contiguous and read-only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeswarm.errors import InputError, LimitError, ModelError
from edgeswarm.limits import AF_SECTION_BYTES_MAX, GRAPH_MACS_MAX, GRAPH_NODES_MAX, GRAPH_READS_MAX, KERNEL_WIDTH_MAX
from edgeswarm.model.mlp import Dense, Mlp
from edgeswarm.model.nodes import Attr, Node, Param, Tensor, frozen_param
from edgeswarm.model.ops import F64, OPS, Op
from edgeswarm.model.shortcut import Shortcut

__all__ = ["Builder", "Graph", "Node", "Outline", "Tensor", "evaluate", "forward", "graph_of"]

PIECE_VALUES = 1 << 21
"""Values of one tensor that `forward` computes at one time: 16 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """Tensors, nodes (their params are not looked at), and which tensor is the input and which the output."""

    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    input: int
    output: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", tuple(self.tensors))
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if not 1 <= len(self.nodes) <= GRAPH_NODES_MAX:
            raise LimitError(f"nodes: expected 1 to {GRAPH_NODES_MAX} (GRAPH_NODES_MAX), found {len(self.nodes)}")
        if (reads := sum(len(node.inputs) for node in self.nodes)) > GRAPH_READS_MAX:
            raise LimitError(f"nodes: together at most {GRAPH_READS_MAX} inputs (GRAPH_READS_MAX), found {reads}")
        if not {self.input, self.output} <= set(range(len(self.tensors))) or self.input == self.output:
            raise ModelError(f"graph: expected two of {len(self.tensors)} tensors as input and output")
        for name, tensor in (("input", self.tensors[self.input]), ("output", self.tensors[self.output])):
            if tensor.dtype != "f32":
                raise ModelError(
                    f"{name}: expected f32, for hosts know no other (quantize inside), found {tensor.dtype}"
                )
            if tensor.size > KERNEL_WIDTH_MAX:
                raise LimitError(f"{name}: at most {KERNEL_WIDTH_MAX} values (KERNEL_WIDTH_MAX), found {tensor.size}")
        ready = {self.input}
        for index, node in enumerate(self.nodes):
            self._check(node, ready, f"node {index} ({node.op})")
            ready.add(node.output)
        if missing := set(range(len(self.tensors))) - ready:
            raise ModelError(f"tensor {min(missing)}: expected a node that writes it, found none")
        size = sum(param.size for index in range(len(self.nodes)) for param in self.params_of(index).values())
        if size > AF_SECTION_BYTES_MAX:
            raise LimitError(f"weights: at most {AF_SECTION_BYTES_MAX} bytes (AF_SECTION_BYTES_MAX), found {size}")
        if (work := sum(self._work_of(node) for node in self.nodes)) > GRAPH_MACS_MAX:
            raise LimitError(
                f"nodes: at most {GRAPH_MACS_MAX} multiplications and values in windows (GRAPH_MACS_MAX), found {work}"
            )

    def _check(self, node: Node, ready: set[int], where: str) -> None:
        if node.op not in OPS:
            raise ModelError(f"{where}: expected an operator of {', '.join(OPS)}")
        op = OPS[node.op]
        if not op.inputs[0] <= len(node.inputs) <= op.inputs[1]:
            raise ModelError(f"{where}: expected {op.inputs[0]} to {op.inputs[1]} inputs, found {len(node.inputs)}")
        if not set(node.inputs) <= ready:
            raise ModelError(f"{where}: expected inputs that are computed before it, found {list(node.inputs)}")
        if node.output in ready or not 0 <= node.output < len(self.tensors):
            raise ModelError(f"{where}: expected a tensor of its own to write, found {node.output}")
        _check_attrs(op, node.attrs, where)
        try:
            made = op.infer([self.tensors[index] for index in node.inputs], node.attrs)
        except (ModelError, LimitError) as error:
            raise type(error)(f"{where}: {error}") from None
        out = self.tensors[node.output]
        if out.shape != made.shape or out.dtype not in made.dtypes:
            raise ModelError(
                f"{where}: expected to write {' or '.join(made.dtypes)} {list(made.shape)}, "
                f"found {out.dtype} {list(out.shape)}"
            )
        if made.steps not in (None, (out.scale, out.zero_point)):
            raise ModelError(f"{where}: expected to write the scale and zero point that it reads, found others")

    def _work_of(self, node: Node) -> int:
        op, inputs = OPS[node.op], [self.tensors[i] for i in node.inputs]
        return op.macs(inputs, node.attrs) + op.looks(inputs, node.attrs)

    def params_of(self, index: int) -> dict[str, Param]:
        """What the params of node `index` must be."""
        node = self.nodes[index]
        return OPS[node.op].params([self.tensors[i] for i in node.inputs], node.attrs)

    def macs_of(self, index: int) -> int:
        """Multiplications and additions that node `index` takes for one row."""
        node = self.nodes[index]
        return OPS[node.op].macs([self.tensors[i] for i in node.inputs], node.attrs)


@dataclass(frozen=True, slots=True, eq=False)
class Graph(Outline):
    """An Outline whose nodes have all of their params.  Raises ModelError naming the node and the param."""

    def __post_init__(self) -> None:
        Outline.__post_init__(self)
        nodes = []
        for index, node in enumerate(self.nodes):
            wanted, where = self.params_of(index), f"node {index} ({node.op})"
            if set(node.params) != set(wanted):
                raise ModelError(f"{where}: expected params {sorted(wanted)}, found {sorted(node.params)}")
            params = {name: frozen_param(node.params[name], param, f"{where}.{name}") for name, param in wanted.items()}
            nodes.append(replace(node, params=params))
            try:
                OPS[node.op].check(nodes[-1], [self.tensors[i] for i in node.inputs])
            except ModelError as error:
                raise ModelError(f"{where}: {error}") from None
        object.__setattr__(self, "nodes", tuple(nodes))

    @property
    def outline(self) -> Outline:
        """The structure alone."""
        nodes = tuple(replace(node, params={}) for node in self.nodes)
        return Outline(self.tensors, nodes, self.input, self.output)

    @property
    def parameters(self) -> int:
        """How many numbers a swap of weights replaces."""
        return sum(array.size for node in self.nodes for array in node.params.values())


class Builder:
    """Makes a Graph node by node: `add` infers what a node writes and answers the index of that tensor."""

    def __init__(self, rows: Tensor) -> None:
        """rows: what the graph reads."""
        self.tensors = [rows]
        self.nodes: list[Node] = []

    def add(
        self,
        op: str,
        inputs: Sequence[int],
        params: Mapping[str, ArrayLike] | None = None,
        *,
        like: Tensor | None = None,
        **attrs: Attr,
    ) -> int:
        """like: dtype, scale and zero point of what is written, where the operator leaves them open (default: its first
        dtype, scale 1)."""
        if op not in OPS or not all(0 <= index < len(self.tensors) for index in inputs):
            raise ModelError(f"node {op!r} of {list(inputs)}: expected a known operator and known tensors")
        attrs = {name: value.item() if isinstance(value, np.generic) else value for name, value in attrs.items()}
        _check_attrs(OPS[op], attrs, op)
        made = OPS[op].infer([self.tensors[index] for index in inputs], attrs)
        like = like or Tensor(made.shape, made.dtypes[0], *(made.steps or ()))
        self.tensors.append(replace(like, shape=made.shape))
        arrays: dict[str, NDArray[Any]] = {name: np.asarray(value) for name, value in (params or {}).items()}
        self.nodes.append(Node(op, tuple(inputs), len(self.tensors) - 1, attrs, arrays))
        return len(self.tensors) - 1

    def dense(self, x: int, layer: Dense) -> int:
        """A dense layer on tensor x, its steepness folded into its weights."""
        weights, bias = layer.folded
        params = {"weights": weights, "bias": bias}
        return self.add("dense", [x], params, units=layer.outputs, activation=layer.activation)

    def graph(self, output: int) -> Graph:
        """The finished graph, whose answer is the tensor `output`."""
        return Graph(tuple(self.tensors), tuple(self.nodes), 0, output)


def graph_of(model: Mlp | Shortcut) -> Graph:
    """The graph of a chain of dense layers, or of layers that read all values before them."""
    if isinstance(model, Mlp):
        builder, at = Builder(Tensor((model.sizes[0],))), 0
        for layer in model.layers:
            at = builder.dense(at, layer)
        return builder.graph(at)
    builder, at = Builder(Tensor((model.inputs,))), 0
    for layer in model.layers[:-1]:
        at = builder.add("concat", [at, builder.dense(at, layer)])
    last = builder.dense(at, model.layers[-1])
    if model.outputs == model.layers[-1].outputs:
        return builder.graph(last)
    whole = builder.add("concat", [at, last])
    width = builder.tensors[whole].size
    return builder.graph(builder.add("slice", [whole], start=width - model.outputs, stop=width))


def evaluate(graph: Graph, rows: ArrayLike) -> list[F64]:
    """All tensors for these rows by the float64 definitions: one array (n, *shape) a tensor.

    rows: n rows of the input's shape, or flat.  Raises InputError on a wrong shape.
    """
    return _computed(graph, _rows(graph, rows), keep=True)


def _rows(graph: Graph, rows: ArrayLike) -> F64:
    x = np.asarray(rows, dtype=np.float64)
    tensor = graph.tensors[graph.input]
    if x.ndim < 2 or x.shape[1:] not in (tensor.shape, (tensor.size,)):
        raise InputError(f"rows: expected the shape (n, {', '.join(map(str, tensor.shape))}), found {x.shape}")
    return x.reshape(len(x), *tensor.shape)


def _computed(graph: Graph, x: F64, keep: bool) -> list[F64]:
    """All tensors, or those that no later node reads already forgotten."""
    values: list[F64] = [np.empty(0)] * len(graph.tensors)
    values[graph.input] = x
    last = {index: number for number, node in enumerate(graph.nodes) for index in node.inputs}
    with np.errstate(all="ignore"):
        for number, node in enumerate(graph.nodes):
            tensors = [graph.tensors[index] for index in node.inputs]
            read = [values[index] for index in node.inputs]
            made = OPS[node.op].reference(node, tensors, graph.tensors[node.output], read)
            values[node.output] = made if read else np.repeat(made, len(x), axis=0)
            if not keep:
                for index in node.inputs:
                    if last[index] == number and index != graph.output:
                        values[index] = np.empty(0)
    return values


def forward(graph: Graph, rows: ArrayLike) -> F64:
    """The graph's answers in float64, one flat row each: float64[n, values of the output].

    In pieces, and no tensor is kept longer than it is read: a thousand images need no more memory than a few.
    """
    x = _rows(graph, rows)
    many = max(1, PIECE_VALUES // max(tensor.size for tensor in graph.tensors))
    out = graph.tensors[graph.output].size
    answers = [
        _computed(graph, x[at : at + many], keep=False)[graph.output].reshape(-1, out)
        for at in range(0, max(1, len(x)), many)
    ]
    return np.concatenate(answers)


def _check_attrs(op: Op, attrs: Mapping[str, Attr], where: str) -> None:
    if set(attrs) != set(op.attrs):
        raise ModelError(f"{where}: expected the attrs {sorted(op.attrs)}, found {sorted(attrs)}")
    for name, kind in op.attrs.items():
        if type(attrs[name]) is not kind:
            raise ModelError(f"{where}.{name}: expected {kind.__name__}, found {type(attrs[name]).__name__}")
