"""What a model computes, by definition: numpy in float64, plain and slow.  Kernels are measured against this.

NaN in a row gives NaN in that row; infinities follow IEEE 754 (softmax of an infinite value is NaN).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeswarm.errors import InputError
from edgeswarm.model.mlp import Mlp

F64 = NDArray[np.float64]


def linear(x: F64) -> F64:
    return x


def relu(x: F64) -> F64:
    return np.where(x < 0, 0.0, x)


def sigmoid(x: F64) -> F64:
    """1 / (1 + e^-x), written so that neither tail overflows."""
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1.0) / (1.0 + small)


def tanh(x: F64) -> F64:
    return np.tanh(x)


def softmax(x: F64) -> F64:
    """e^x over its sum along the last axis, shifted by the row's maximum so that it cannot overflow."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    total: F64 = powers / powers.sum(axis=-1, keepdims=True)
    return total


FUNCTIONS: dict[str, Callable[[F64], F64]] = {
    "linear": linear,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": relu,
    "softmax": softmax,
}


def forward(model: Mlp, rows: ArrayLike) -> F64:
    """The model's answers, in float64 throughout.

    rows: n rows of model.sizes[0] numbers.  Returns float64[n, model.sizes[-1]].  Raises InputError on a wrong shape.
    """
    x = np.asarray(rows, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != model.sizes[0]:
        raise InputError(f"rows: expected the shape (n, {model.sizes[0]}), found {x.shape}")
    with np.errstate(all="ignore"):
        for layer in model.layers:
            x = FUNCTIONS[layer.activation](x @ layer.weights.astype(np.float64) + layer.bias)
    return x
