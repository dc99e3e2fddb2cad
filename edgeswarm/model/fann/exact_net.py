"""A FANN net as a graph of dense_fann nodes, which give libfann's own bits; and how far a plain model is from them.

Only what libfann computes layer by layer in one order: fully connected float nets.  Neighbours of one layer that have
the same activation share a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from edgeswarm.model import graph, reference
from edgeswarm.model.fann.activations import OF_FANN
from edgeswarm.model.fann.check import first_neurons
from edgeswarm.model.fann.exact import FUNCTIONS
from edgeswarm.model.fann.net import F64, Net
from edgeswarm.model.graph import Builder, Graph, Tensor
from edgeswarm.model.mlp import F32, Mlp
from edgeswarm.model.seeded import random_rows

ROWS = 512  # of each of three kinds of random input; fewer for large nets
PRODUCTS_MAX = 40_000_000  # of those rows: two seconds of an operator's time
RUNS_MAX = 1_024  # nodes; a net of more has its activations thrown together
STEPWISE_GAUSS = 9  # of which libfann computes nothing


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Neighbours of one layer with one activation.

    index: of the layer.  weights: float32[connections, units] in the file's order, bias (its place) among them.
    first: of its connections.
    """

    index: int
    weights: F32
    steepness: F32
    activation: str
    bias: int
    first: int


def layers(net: Net) -> list[Layer] | None:
    """The layers of a net that can be computed so; None for any other."""
    rate = net.parameters["connection_rate"]
    assert isinstance(rate, float)
    as_float = net.weights.astype(np.float32)
    if net.fixed or rate < 1 or (as_float != net.weights).any() or not (net.steepness[net.num_inputs > 0] > 0).all():
        return None
    starts, at = first_neurons(net), 0
    made: list[Layer] = []
    for index in range(1, len(net.layer_sizes)):
        units = np.arange(starts[index], starts[index + 1] - (not net.shortcut))
        spare = net.num_inputs[units[-1] + 1 : starts[index + 1]]
        count = int(starts[index]) if net.shortcut else net.layer_sizes[index - 1]
        if not units.size or (net.num_inputs[units] != count).any() or spare.any():
            return None
        kinds = net.activations[units]
        edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(units)]
        bias = net.inputs if net.shortcut else count - 1
        for start, end in pairwise(edges):
            name = "zero" if kinds[start] == STEPWISE_GAUSS else OF_FANN[kinds[start]].name
            if name not in FUNCTIONS or len(made) >= RUNS_MAX:
                return None
            weights = as_float[at : at + count * (end - start)].reshape(end - start, count).T
            steepness = net.steepness[units[start:end]].astype(np.float32)
            made.append(Layer(index, weights, steepness, name, bias, at))
            at += count * (end - start)
    return made


def exact_graph(net: Net) -> Graph | None:
    """The graph that answers with libfann's bits; None where `layers` has none."""
    found = layers(net)
    if found is None:
        return None
    builder = Builder(Tensor((net.inputs,)))
    x = 0
    for index, group in groupby(found, key=lambda layer: layer.index):
        runs = [_node(builder, x, layer) for layer in group]
        before = [x] if net.shortcut and index < len(net.layer_sizes) - 1 else []
        x = builder.add("concat", before + runs) if before or len(runs) > 1 else runs[0]
    return builder.graph(x)


def _node(builder: Builder, x: int, layer: Layer) -> int:
    params = {
        "weights": np.delete(layer.weights, layer.bias, axis=0),
        "bias": layer.weights[layer.bias],
        "steepness": layer.steepness,
    }
    units = len(layer.steepness)
    return builder.add("dense_fann", [x], params, units=units, activation=layer.activation, bias=layer.bias)


def weights_of(net: Net, params: Sequence[dict[str, F32]]) -> NDArray[np.float64]:
    """The file's weights when the dense_fann nodes of its graph have these params: float64[connections]."""
    weights = net.weights.copy()
    for layer, one in zip(layers(net) or [], params, strict=True):
        full = np.insert(one["weights"], layer.bias, one["bias"], axis=0)
        weights[layer.first : layer.first + full.size] = full.T.ravel()
    return weights


def difference(model: Mlp | Graph, exact: Graph, seed: int) -> float:
    """The largest difference between a plain model's answers and libfann's over random rows, of their largest answer.

    Rows over [-1, 1), over [0, 1), and of 0 and 1, as nets are trained on.
    """
    inputs = exact.tensors[exact.input].size
    count = max(8, min(ROWS, PRODUCTS_MAX // exact.parameters))
    rows = random_rows(3 * count, inputs, seed).astype(np.float64)
    rows[count : 2 * count] = np.abs(rows[count : 2 * count])
    rows[2 * count :] = rows[2 * count :] > 0
    wanted = graph.forward(exact, rows)
    found: F64 = reference.forward(model, rows) if isinstance(model, Mlp) else graph.forward(model, rows)
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(np.abs(found - wanted)) / max(1.0, float(np.abs(wanted).max())))
