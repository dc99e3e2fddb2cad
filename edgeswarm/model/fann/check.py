"""What makes a parsed net one that can be computed layer by layer; raises ModelError with the line otherwise.

libfann goes through the layers once, front to back.  Where connection_rate is 1 it does not look at where connections
come from, it takes the neurons in order: a file that says something else there would compute something else.
"""

from __future__ import annotations

import numpy as np

from edgeswarm.errors import ModelError
from edgeswarm.model.fann.net import I32, Net


def first_neurons(net: Net) -> I32:
    """Index of the first neuron of each layer, and at the end how many there are: int32[layers + 1]."""
    return np.concatenate([[0], np.cumsum(net.layer_sizes)]).astype(np.int32)


def layer_of_neurons(net: Net) -> I32:
    """The layer of each neuron: int32[neurons]."""
    return np.repeat(np.arange(len(net.layer_sizes), dtype=np.int32), net.layer_sizes)


def targets(net: Net) -> I32:
    """The neuron that each connection goes into: int32[connections]."""
    return np.repeat(np.arange(len(net.num_inputs), dtype=np.int32), net.num_inputs)


def in_order(net: Net) -> I32:
    """Where connections come from when each neuron takes those before it in order: int32[connections].

    From the layer before in a layered net, from all layers in one with shortcuts.
    """
    layers, into = layer_of_neurons(net), targets(net)
    start = np.zeros_like(into) if net.shortcut else first_neurons(net)[np.maximum(layers[into], 1) - 1]
    before = np.cumsum(net.num_inputs) - net.num_inputs
    return (start + (np.arange(len(into)) - before[into])).astype(np.int32)


def check(net: Net, *, who: str = "") -> None:
    """Raises ModelError for connections that do not come from an earlier layer, and for a steepness below 0."""
    line = 2 + len(net.parameters)
    if (found := np.flatnonzero(net.steepness < 0)).size:
        index = int(found[0])
        raise ModelError(
            f"line {line}: neurons[{index}].activation_steepness: expected 0 or more, found {net.steepness[index]:g}",
            who=who,
        )
    layers, into = layer_of_neurons(net), targets(net)
    late = np.flatnonzero(layers[net.sources] >= layers[into])
    if late.size:
        index = int(late[0])
        raise ModelError(
            f"line {line + 1}: connections[{index}].connected_to_neuron: expected a neuron of a layer before that of "
            f"neuron {into[index]} (layer {layers[into[index]]}), found {net.sources[index]} "
            f"(layer {layers[net.sources[index]]})",
            who=who,
        )
    rate = net.parameters["connection_rate"]
    assert isinstance(rate, float)
    if rate < 1 or not into.size:
        return
    expected = in_order(net)
    wrong = np.flatnonzero(expected != net.sources)
    if wrong.size:
        index = int(wrong[0])
        raise ModelError(
            f"line {line + 1}: connections[{index}].connected_to_neuron: expected {expected[index]}, since "
            f"connection_rate={rate:g} says that neuron {into[index]} takes all in order, found {net.sources[index]}",
            who=who,
        )
