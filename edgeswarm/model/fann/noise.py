"""How far a net's answers move when its numbers are as inexact as float32 makes them.

libfann rounds each sum in its own order and kernels in theirs; a net with large weights turns that into differences
that no tolerance fixed beforehand allows for.  Golden vectors of imported nets follow this figure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeswarm.model.fann.convert import Converted
from edgeswarm.model.mlp import F32, Mlp
from edgeswarm.model.reference import FUNCTIONS
from edgeswarm.model.seeded import random_rows

ROUNDING = 1.2e-7  # relative: one unit in the last place of a float32
ACTIVATION = 4e-7  # absolute: what activations of kernels are off by, with room
TRIALS = 4

F64 = NDArray[np.float64]


def spread(made: Converted, rows: F64, seed: int) -> F64:
    """For each row the largest change of an answer over TRIALS runs with random rounding: float64[n].

    rows: float64[n, inputs].
    """
    exact = _answers(made, rows, None)
    rng = np.random.default_rng(seed)
    moved = [np.abs(_answers(made, rows, rng) - exact).max(axis=1) for _ in range(TRIALS)]
    worst: F64 = np.max(moved, axis=0)
    return worst


def steady_rows(made: Converted, count: int, candidates: int, seed: int) -> tuple[F32, float, float]:
    """Golden rows: of `candidates` random ones over [-1, 1) the `count` whose answers rounding moves least.

    A step function's edge decides nothing.  Returns float32[count, inputs + outputs], the largest change of an answer
    among them, and the largest among all candidates but one in a hundred.
    """
    inputs = made.model.sizes[0] if isinstance(made.model, Mlp) else made.model.tensors[0].size
    rows = random_rows(candidates, inputs, seed)
    moved = spread(made, rows.astype(np.float64), seed)
    best = np.sort(np.argsort(moved, kind="stable")[:count])
    answers = _answers(made, rows[best].astype(np.float64), None).astype(np.float32)
    return np.hstack([rows[best], answers]), float(moved[best].max()), float(np.quantile(moved, 0.99))


def _answers(made: Converted, rows: F64, rng: np.random.Generator | None) -> F64:
    values: dict[int, F64] = {-1: rows}
    with np.errstate(all="ignore"):
        for index, stage in enumerate(made.stages):
            x = np.hstack([values[read] for read in stage.reads])
            weights, bias = (part.astype(np.float64) for part in stage.dense.folded)
            if rng is not None:
                weights *= 1 + ROUNDING * rng.uniform(-1, 1, weights.shape)
                bias *= 1 + ROUNDING * rng.uniform(-1, 1, bias.shape)
            y = FUNCTIONS[stage.dense.activation](x @ weights + bias)
            if rng is not None:
                y = y + ACTIVATION * rng.uniform(-1, 1, y.shape) * np.maximum(1.0, np.abs(y))
            values[index] = y
    return np.hstack([values[read] for read in made.out])
