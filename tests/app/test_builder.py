"""What a model becomes on its way into an agent file, and what new weights become for a kernel that runs."""

from __future__ import annotations

import numpy as np
import pytest

from edgeswarm.agentfile import Header
from edgeswarm.app import builder
from edgeswarm.compile import Kernel, compile_mlp, unpack_weights
from edgeswarm.model import Dense, Mlp, random_mlp
from edgeswarm.schema import decode

STEEP = (0.25, 3.0)


def header(steepness: tuple[float, ...] = STEEP) -> Header:
    net = {"input_size": 3, "output_size": 2, "hidden_layers": [4], "steepness": list(steepness)}
    return decode({"version": "1.0", "name": "a", "neural_config": net}, Header)


@pytest.fixture
def kernel() -> Kernel:
    return compile_mlp(random_mlp((3, 4, 2), "relu", "linear", 1))


def arrays(model: Mlp) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(layer.weights, layer.bias) for layer in model.layers]


def test_plain_arrays_take_the_steepness_of_the_header(kernel: Kernel) -> None:
    other = random_mlp((3, 4, 2), "relu", "linear", 2)
    packed = builder.repack(header(), kernel.layout, kernel.weights, arrays(other), delta=False)
    for layer, found, steepness in zip(
        other.layers, unpack_weights(packed, other.sizes, other.activations).layers, STEEP, strict=True
    ):
        assert np.array_equal(found.weights, layer.weights * np.float32(steepness))
        assert np.array_equal(found.bias, layer.bias * np.float32(steepness))


def test_a_delta_of_plain_arrays_takes_the_steepness_too(kernel: Kernel) -> None:
    delta = random_mlp((3, 4, 2), "relu", "linear", 2)
    before = unpack_weights(kernel.weights, delta.sizes, delta.activations)
    packed = builder.repack(header(), kernel.layout, kernel.weights, arrays(delta), delta=True)
    after = unpack_weights(packed, delta.sizes, delta.activations)
    for old, change, new, steepness in zip(before.layers, delta.layers, after.layers, STEEP, strict=True):
        assert np.array_equal(new.weights, old.weights + change.weights * np.float32(steepness))


def test_a_model_keeps_its_own_steepness(kernel: Kernel) -> None:
    layers = random_mlp((3, 4, 2), "relu", "linear", 2).layers
    model = Mlp(tuple(Dense(layer.weights, layer.bias, layer.activation, 2.0) for layer in layers))
    packed = builder.repack(header(), kernel.layout, kernel.weights, model, delta=False)
    found = unpack_weights(packed, model.sizes, model.activations)
    assert np.array_equal(found.layers[0].weights, layers[0].weights * 2)
    assert builder.steepness_of(model) == [2.0, 2.0]
    assert builder.steepness_of(found) == []
