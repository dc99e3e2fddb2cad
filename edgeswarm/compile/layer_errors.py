"""Where a kernel leaves its model: each layer's tensor beside the definition, computed from what the layer itself read.

So a layer answers for itself alone: what an earlier one got wrong is not held against it.  How far it is from the
definition computed from the input on (which rounds nothing on the way) is told beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeswarm.model.graph import Graph, evaluate
from edgeswarm.model.nodes import RANGES
from edgeswarm.model.ops import F64, OPS

RELATIVE, ABSOLUTE = 1e-5, 1e-6  # as golden rows: of the tensor's greatest value, for sums that cancel have no digits
_ROUNDED_IN_F32 = ("quantize", "dense_i8")  # defined in float64, computed in float32: a tie may fall to either side


@dataclass(frozen=True, slots=True)
class LayerError:
    """error: the largest difference of a value.  allowed: how large it may be.  at: where it is.

    drift: the largest difference from the definition computed from the graph's input on.
    """

    node: int
    error: float
    allowed: float
    at: tuple[int, ...]
    expected: float
    found: float
    drift: float

    @property
    def diverges(self) -> bool:
        return not self.error <= self.allowed


def compare(
    graph: Graph, row: ArrayLike, traced: Sequence[NDArray[Any]], *, relative: float = RELATIVE
) -> list[LayerError]:
    """One LayerError a node.  traced: every tensor of `row` as the kernel computed it (`Opened.trace`)."""
    true = evaluate(graph, np.asarray(row, np.float32).reshape(1, -1))
    return [_layer(graph, index, traced, true, relative) for index in range(len(graph.nodes))]


def first_divergent(errors: Sequence[LayerError]) -> LayerError | None:
    """The first layer whose answer is not what its own inputs give."""
    return next((error for error in errors if error.diverges), None)


def expected(graph: Graph, index: int, traced: Sequence[NDArray[Any]]) -> F64:
    """What node `index` has to answer to what the kernel gave it, in the shape of its tensor."""
    node = graph.nodes[index]
    out, inputs = graph.tensors[node.output], [graph.tensors[tensor] for tensor in node.inputs]
    read = [traced[tensor].astype(np.float64)[None] for tensor in node.inputs]
    with np.errstate(all="ignore"):
        return OPS[node.op].reference(node, inputs, out, read).reshape(out.shape)


def _layer(
    graph: Graph, index: int, traced: Sequence[NDArray[Any]], true: Sequence[F64], relative: float
) -> LayerError:
    node, own = graph.nodes[index], expected(graph, index, traced)
    out, found = graph.tensors[node.output], traced[node.output].astype(np.float64)
    apart, drift = _apart(own, found), _apart(true[node.output].reshape(out.shape), found)
    if out.dtype in RANGES:
        allowed = float(node.op in _ROUNDED_IN_F32)
    else:
        finite = np.abs(own[np.isfinite(own)])
        allowed = ABSOLUTE + relative * float(finite.max(initial=0.0))
    at = tuple(int(axis) for axis in np.unravel_index(int(apart.argmax()), apart.shape))
    return LayerError(index, float(apart[at]), allowed, at, float(own[at]), float(found[at]), float(drift.max()))


def _apart(expected: F64, found: F64) -> F64:
    """Differences; 0 where both are the same infinity or NaN, infinite where only one of them is."""
    with np.errstate(invalid="ignore"):
        same = (expected == found) | (np.isnan(expected) & np.isnan(found))
        apart = np.where(same, 0.0, np.abs(expected - found))
    return np.where(np.isnan(apart), np.inf, apart)
