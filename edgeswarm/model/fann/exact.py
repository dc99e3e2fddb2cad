"""libfann's arithmetic, operation by operation: float32 sums in its order, activations as it rounds them.

What makes two float32 programs differ is the order of their sums; a net with large weights turns that into visible
differences.  `layer` gives libfann's own bits (measured with Debian's 2.2.0 on x86-64, where nothing is fused).
Sums go over the connections in the file's order, the bias among them: first the odd ones at the front from the last to
the first, then by fours, each four summed before it is added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeswarm.model.reference import STEP_VALUES, STEPS

F32 = NDArray[np.float32]
_f = np.float32
SUM_MAX: Final = _f(150)


def _double(f: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[[F32], F32]:
    """f in float64 of a float32, rounded once at its end."""
    return lambda x: f(x.astype(np.float64)).astype(np.float32)


def _gauss(scale: float, offset: float) -> Callable[[F32], F32]:
    """scale * e^(-x^2) + offset, where x^2 is rounded to float32 before the exponential."""
    f = _double(lambda squared: np.exp(squared) * scale + offset)
    return lambda x: f(np.negative(x) * x)


def _stepwise(column: int, low: float) -> Callable[[F32], F32]:
    """Straight lines between FANN's points, in float64."""
    points, values = STEPS[:, column], STEP_VALUES[:, column]

    def f(x: NDArray[np.float64]) -> NDArray[np.float64]:
        at = np.clip(np.searchsorted(points, x, side="right") - 1, 0, 4)
        line = ((values[at + 1] - values[at]) * (x - points[at])) / (points[at + 1] - points[at]) + values[at]
        return np.where(x < points[0], low, np.where(x >= points[-1], 1.0, line))

    return _double(f)


FUNCTIONS: Final[dict[str, Callable[[F32], F32]]] = {
    "linear": lambda x: x,
    "threshold": lambda x: np.where(x < 0, _f(0), _f(1)),
    "threshold_symmetric": lambda x: np.where(x < 0, _f(-1), _f(1)),
    "sigmoid": _double(lambda x: 1 / (1 + np.exp(-2 * x))),
    "sigmoid_stepwise": _stepwise(0, 0.0),
    "sigmoid_stepwise_symmetric": _stepwise(1, -1.0),
    "tanh": _double(lambda x: 2 / (1 + np.exp(-2 * x)) - 1),
    "gaussian": _gauss(1, 0),
    "gaussian_symmetric": _gauss(2, -1),
    "elliott": lambda x: np.add(x / _f(2) / np.add(_f(1), np.abs(x)), _f(0.5), dtype=np.float32),
    "elliott_symmetric": lambda x: np.divide(x, np.add(_f(1), np.abs(x)), dtype=np.float32),
    "linear_piece": lambda x: np.clip(x, _f(0), _f(1)),
    "linear_piece_symmetric": lambda x: np.clip(x, _f(-1), _f(1)),
    "sin": _double(lambda x: np.sin(x) / 2 + 0.5),
    "cos": _double(lambda x: np.cos(x) / 2 + 0.5),
    "sin_symmetric": _double(np.sin),
    "cos_symmetric": _double(np.cos),
    "zero": np.zeros_like,
}
"""By the names of ours; sigmoid and tanh are of FANN's steepness, so that sigmoid is 1 / (1 + e^-2x).
zero is its stepwise Gauss, of which libfann computes nothing."""


def layer(x: F32, weights: F32, steepness: F32, activation: str) -> F32:
    """float32[n, units] of x float32[n, connections], the bias's 1 among them, and weights[connections, units]."""
    count = len(weights)
    total = np.zeros((len(x), weights.shape[1]), np.float32)
    products = (x[:, index, None] * weights[index] for index in [*range((count & 3) - 1, -1, -1)])
    with np.errstate(all="ignore"):
        for product in products:
            total = total + product
        for start in range(count & 3, count, 4):
            p = [x[:, start + index, None] * weights[start + index] for index in range(4)]
            total = total + (((p[0] + p[1]) + p[2]) + p[3])
        total = steepness * total
        most = SUM_MAX / steepness
        total = np.where(total > most, most, np.where(total < -most, -most, total))
        return FUNCTIONS[activation](total)
