"""A FANN net as a graph of dense_fann nodes, which give libfann's own bits; and how far a plain model is from them.

Float nets only; a fully connected one has dense nodes, any other sparse ones.  Neighbours of one layer that have the
same activation share a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.model import graph, reference
from edgeswarm.model.fann.activations import OF_FANN
from edgeswarm.model.fann.check import first_neurons, layer_of_neurons
from edgeswarm.model.fann.exact import FUNCTIONS
from edgeswarm.model.fann.net import F64, I32, Net
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
    as_float = net.as_float32
    if rate < 1 or not _is_float(net):
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
            name = _name(kinds[start])
            if name not in FUNCTIONS or len(made) >= RUNS_MAX:
                return None
            weights = as_float[at : at + count * (end - start)].reshape(end - start, count).T
            steepness = net.steepness[units[start:end]].astype(np.float32)
            made.append(Layer(index, weights, steepness, name, bias, at))
            at += count * (end - start)
    return made


def _is_float(net: Net) -> bool:
    """Whether float32 holds the weights, and a steepness above 0 of every neuron that computes."""
    with np.errstate(over="ignore"):
        steepness = net.steepness[net.num_inputs > 0].astype(np.float32)
    return not net.fixed and net.single and bool(((steepness > 0) & np.isfinite(steepness)).all())


def exact_graph(net: Net) -> Graph | None:
    """The graph that answers with libfann's bits; None where there is none."""
    found = layers(net)
    if found is None:
        return sparse_graph(net)
    builder = Builder(Tensor((net.inputs,)))
    x = 0
    for index, group in groupby(found, key=lambda layer: layer.index):
        runs = [_node(builder, x, layer) for layer in group]
        before = [x] if net.shortcut and index < len(net.layer_sizes) - 1 else []
        x = builder.add("concat", before + runs) if before or len(runs) > 1 else runs[0]
    return builder.graph(x)


def sparse_graph(net: Net) -> Graph | None:
    """The same with connections of its own for each neuron, slower; None where an output has none at all."""
    runs = _sparse_runs(net)
    if runs is None:
        return None
    builder, layer_of = Builder(Tensor((net.inputs,))), layer_of_neurons(net)
    where = np.full(len(layer_of), -1, np.int64)  # of a neuron's value in x; -1: it is always 1
    where[: net.inputs] = np.arange(net.inputs)
    x, width = 0, net.inputs
    for index, group in groupby(runs, key=lambda run: int(layer_of[run[0]])):
        made, read = [], width
        for units in group:
            made.append(_sparse_node(builder, x, net, units, np.where(where < 0, read, where)))
            width += len(units)
        before = [x] if index < len(net.layer_sizes) - 1 else []
        x = builder.add("concat", before + made) if before or len(made) > 1 else made[0]
        ready = np.concatenate([run for run in runs if layer_of[run[0]] == index])
        where[ready] = read + np.arange(len(ready))
    return builder.graph(x)


def _sparse_node(builder: Builder, x: int, net: Net, units: I32, where: NDArray[np.int64]) -> int:
    """where: of each neuron's value in x; its width for a 1."""
    counts, ends = net.num_inputs[units], np.cumsum(net.num_inputs)
    first, end = int(ends[units[0]] - counts[0]), int(ends[units[-1]])
    params: dict[str, NDArray[Any]] = {
        "weights": net.weights[first:end].astype(np.float32),
        "sources": where[net.sources[first:end]].astype(np.int32),
        "counts": counts.astype(np.int32),
        "steepness": net.steepness[units].astype(np.float32),
    }
    name = _name(net.activations[units[0]])
    return builder.add("sparse_fann", [x], params, units=len(units), activation=name, connections=end - first)


def _name(kind: int) -> str:
    """Of `exact.FUNCTIONS`, or another."""
    return "zero" if kind == STEPWISE_GAUSS else OF_FANN[kind].name


def _sparse_runs(net: Net) -> list[I32] | None:
    """Neighbours of one layer and activation, all of them with connections, outputs last; None where that cannot be."""
    active = net.num_inputs > 0
    if not _is_float(net):
        return None
    starts = first_neurons(net)
    runs: list[I32] = []
    for index in range(1, len(net.layer_sizes)):
        units = np.arange(starts[index], starts[index + 1], dtype=np.int32)
        if index == len(net.layer_sizes) - 1:
            units = units[: net.outputs]
            if not active[units].all():
                return None
        units = units[active[units]]
        edges = np.flatnonzero((np.diff(units) > 1) | (np.diff(net.activations[units]) != 0)) + 1
        runs += [run for run in np.split(units, edges) if run.size]
    known = all(_name(net.activations[run[0]]) in FUNCTIONS for run in runs)
    return runs if known and len(runs) <= RUNS_MAX else None


def _node(builder: Builder, x: int, layer: Layer) -> int:
    params = {
        "weights": np.delete(layer.weights, layer.bias, axis=0),
        "bias": layer.weights[layer.bias],
        "steepness": layer.steepness,
    }
    units = len(layer.steepness)
    return builder.add("dense_fann", [x], params, units=units, activation=layer.activation, bias=layer.bias)


def weights_of(net: Net, params: Sequence[dict[str, NDArray[Any]]]) -> NDArray[np.float64]:
    """The file's weights when the nodes of its graph have these params: float64[connections]."""
    weights = net.weights.copy()
    runs = _sparse_runs(net) if layers(net) is None else None
    if runs is not None:
        ends = np.cumsum(net.num_inputs)
        for units, one in zip(runs, params, strict=True):
            end = int(ends[units[-1]])
            weights[end - len(one["weights"]) : end] = one["weights"]
        return weights
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
