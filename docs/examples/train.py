"""A small trainer for dense networks in plain numpy: what the examples are trained with.

Adam (Kingma and Ba 2015, Algorithm 1) with a cosine decay of the rate, mini-batches drawn from a seeded generator.
With a linear output the loss is the mean square, with sigmoid or softmax the cross-entropy: in all three cases its
gradient at the last layer's sum is (answer - wanted), which is why one loop serves them all.
The same seed, data and numpy give the same weights, bit by bit, on one machine; another BLAS rounds differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgeswarm.model import Mlp, from_arrays
from edgeswarm.model.reference import FUNCTIONS

F64 = NDArray[np.float64]

SLOPES: dict[str, Callable[[F64], F64]] = {
    "linear": np.ones_like,
    "relu": lambda y: (y > 0).astype(np.float64),
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
}
"""Slope of each activation, from its answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """sizes: inputs, hidden widths, outputs.  steps: mini-batches of `batch` rows.  decay: of the weights, per step."""

    sizes: tuple[int, ...]
    activation: str = "tanh"
    output_activation: str = "linear"
    steps: int = 3_000
    batch: int = 256
    rate: float = 5e-3
    decay: float = 0.0
    seed: int = 1


def fit(
    plan: Plan,
    inputs: F64,
    wanted: F64,
    weights: F64 | None = None,
    augment: Callable[[F64, np.random.Generator], F64] | None = None,
) -> Mlp:
    """A network that answers `wanted` to `inputs`.

    inputs: [n, sizes[0]].  wanted: [n, sizes[-1]].  weights: [n], how much each row counts.  augment(batch, rng): a
    batch of inputs, changed in a way that does not change what is wanted.
    """
    if inputs.shape != (len(wanted), plan.sizes[0]) or wanted.shape[1] != plan.sizes[-1]:
        raise ValueError(f"expected rows of {plan.sizes[0]} and {plan.sizes[-1]}, found {inputs.shape}, {wanted.shape}")
    rng = np.random.default_rng(plan.seed)
    layers = [_layer(rng, before, after) for before, after in pairwise(plan.sizes)]
    activations = [plan.activation] * (len(layers) - 1) + [plan.output_activation]
    moments = [[np.zeros_like(array) for array in layer] for layer in layers]
    squares = [[np.zeros_like(array) for array in layer] for layer in layers]
    for step in range(1, plan.steps + 1):
        rows = rng.integers(0, len(inputs), plan.batch)
        batch = inputs[rows] if augment is None else augment(inputs[rows], rng)
        answers = _forward(layers, activations, batch)
        delta = (answers[-1] - wanted[rows]) / plan.batch
        if weights is not None:
            delta *= weights[rows, None]
        gradients = _backward(layers, activations, answers, delta)
        rate = plan.rate * 0.5 * (1 + np.cos(np.pi * step / plan.steps))
        for layer, gradient, moment, square in zip(layers, gradients, moments, squares, strict=True):
            layer[0] *= 1 - rate * plan.decay
            for array, slope, first, second in zip(layer, gradient, moment, square, strict=True):
                first += 0.1 * (slope - first)
                second += 0.001 * (slope * slope - second)
                array -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return from_arrays(
        [weight for weight, _ in layers], [bias for _, bias in layers], plan.activation, plan.output_activation
    )


def _layer(rng: np.random.Generator, inputs: int, outputs: int) -> list[F64]:
    """Weights uniform within +-sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010, equation 16), bias 0."""
    bound = np.sqrt(6 / (inputs + outputs))
    return [rng.uniform(-bound, bound, (inputs, outputs)), np.zeros(outputs)]


def _forward(layers: Sequence[list[F64]], activations: Sequence[str], x: F64) -> list[F64]:
    """The input and the answer of each layer."""
    answers = [x]
    for (weight, bias), name in zip(layers, activations, strict=True):
        answers.append(FUNCTIONS[name](answers[-1] @ weight + bias))
    return answers


def _backward(
    layers: Sequence[list[F64]], activations: Sequence[str], answers: Sequence[F64], delta: F64
) -> list[tuple[F64, F64]]:
    """Gradients of (weight, bias) of each layer.  delta: the loss's gradient at the last layer's sum."""
    gradients = []
    for index in range(len(layers) - 1, -1, -1):
        gradients.append((answers[index].T @ delta, delta.sum(axis=0)))
        if index:
            delta = (delta @ layers[index][0].T) * SLOPES[activations[index - 1]](answers[index])
    return gradients[::-1]
