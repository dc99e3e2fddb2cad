"""What a model computes, by definition: numpy in float64, plain and slow.  Kernels are measured against this.

NaN in a row gives NaN in that row.  An infinity gives the function's limit, and NaN in softmax.  Beyond +-SINE_RANGE
sin and cos, and their symmetric forms, give what they give at +-SINE_RANGE.
Those of FANN follow its 2.x sources (fann_activation.h) at steepness 1, except for sigmoid and tanh, which are plain
1 / (1 + e^-x) and tanh x: FANN's sigmoid of steepness s is the sigmoid of steepness 2 s here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeswarm.errors import InputError
from edgeswarm.model.activations import LEAKY_SLOPE, SINE_RANGE
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


def threshold(x: F64) -> F64:
    """0 where x < 0, else 1."""
    return np.where(np.isnan(x), x, np.where(x < 0, 0.0, 1.0))


def threshold_symmetric(x: F64) -> F64:
    """-1 where x < 0, else 1: 0 gives 1, as in FANN."""
    return np.where(np.isnan(x), x, np.where(x < 0, -1.0, 1.0))


STEPS: F64 = np.array(
    [
        [-2.646652460098266602, -2.646652936935424805],
        [-1.472219467163085938, -1.472219347953796387],
        [-0.549306154251098633, -0.549306154251098633],
        [0.549306154251098633, 0.549306154251098633],
        [1.472219347953796387, 1.472219347953796387],
        [2.646652936935424805, 2.646652936935424805],
    ]
)
"""Where FANN's two stepwise sigmoids break: float32 numbers, and those of the first are not symmetric."""

STEP_VALUES: F64 = np.array(
    [
        [0.00499999988824129, -0.990000009536743164],
        [0.0500000007450580597, -0.899999976158142090],
        [0.25, -0.5],
        [0.75, 0.5],
        [0.949999988079071045, 0.899999976158142090],
        [0.995000004768371582, 0.990000009536743164],
    ]
)
"""What they give there.  They jump at both ends: beyond the first and from the last on they give their limits."""


def _stepwise(x: F64, points: F64, values: F64, low: float) -> F64:
    """Straight lines between the points, `low` before the first, 1 from the last on."""
    inside = np.interp(x, points, values)
    return np.where(np.isnan(x), x, np.where(x < points[0], low, np.where(x >= points[-1], 1.0, inside)))


def sigmoid_stepwise(x: F64) -> F64:
    """FANN's piecewise linear 1 / (1 + e^-2x)."""
    return _stepwise(x, STEPS[:, 0], STEP_VALUES[:, 0], 0.0)


def sigmoid_stepwise_symmetric(x: F64) -> F64:
    """FANN's piecewise linear tanh x."""
    return _stepwise(x, STEPS[:, 1], STEP_VALUES[:, 1], -1.0)


def gaussian(x: F64) -> F64:
    """e^(-x^2)."""
    return np.exp(-x * x)


def gaussian_symmetric(x: F64) -> F64:
    """2 e^(-x^2) - 1."""
    return 2.0 * np.exp(-x * x) - 1.0


def elliott_symmetric(x: F64) -> F64:
    """x / (1 + |x|); +-1 at infinity."""
    return np.where(np.isinf(x), np.sign(x), x / (1.0 + np.abs(x)))


def elliott(x: F64) -> F64:
    """x / 2 / (1 + |x|) + 0.5; 0 and 1 at infinity."""
    return elliott_symmetric(x) / 2.0 + 0.5


def linear_piece(x: F64) -> F64:
    """x within [0, 1]."""
    return np.clip(x, 0.0, 1.0)


def linear_piece_symmetric(x: F64) -> F64:
    """x within [-1, 1]."""
    return np.clip(x, -1.0, 1.0)


def sin_symmetric(x: F64) -> F64:
    return np.sin(np.clip(x, -SINE_RANGE, SINE_RANGE))


def cos_symmetric(x: F64) -> F64:
    return np.cos(np.clip(x, -SINE_RANGE, SINE_RANGE))


def sin(x: F64) -> F64:
    """sin(x) / 2 + 0.5."""
    return sin_symmetric(x) / 2.0 + 0.5


def cos(x: F64) -> F64:
    """cos(x) / 2 + 0.5."""
    return cos_symmetric(x) / 2.0 + 0.5


def leaky_relu(x: F64) -> F64:
    """x where x >= 0, else LEAKY_SLOPE x."""
    return np.where(x < 0, LEAKY_SLOPE * x, x)


def gelu(x: F64) -> F64:
    """x (1 + erf(x / sqrt 2)) / 2: the exact form of Hendrycks and Gimpel 2016, not the one with tanh."""
    half = np.vectorize(math.erfc, otypes=[np.float64])(x * -math.sqrt(0.5)) / 2.0
    return np.where(half == 0.0, 0.0, x * half)  # 0 at -infinity, where the product would be NaN


def relu6(x: F64) -> F64:
    """x within [0, 6]."""
    return np.clip(x, 0.0, 6.0)


FUNCTIONS: dict[str, Callable[[F64], F64]] = {
    "linear": linear,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": relu,
    "softmax": softmax,
    "threshold": threshold,
    "threshold_symmetric": threshold_symmetric,
    "sigmoid_stepwise": sigmoid_stepwise,
    "sigmoid_stepwise_symmetric": sigmoid_stepwise_symmetric,
    "gaussian": gaussian,
    "gaussian_symmetric": gaussian_symmetric,
    "elliott": elliott,
    "elliott_symmetric": elliott_symmetric,
    "linear_piece": linear_piece,
    "linear_piece_symmetric": linear_piece_symmetric,
    "sin": sin,
    "cos": cos,
    "sin_symmetric": sin_symmetric,
    "cos_symmetric": cos_symmetric,
    "leaky_relu": leaky_relu,
    "gelu": gelu,
    "relu6": relu6,
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
            total = x @ layer.weights.astype(np.float64) + layer.bias
            x = FUNCTIONS[layer.activation](layer.steepness * total)
    return x
