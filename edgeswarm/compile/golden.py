"""Golden rows: inputs with the answers a kernel must give, computed by the float64 reference.

They travel in the agent file's section `golden`; whoever loads the kernel runs them before it believes it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeswarm.errors import LimitError
from edgeswarm.limits import AF_SECTION_BYTES_MAX
from edgeswarm.model import graph, reference
from edgeswarm.model.mlp import F32, Mlp
from edgeswarm.model.seeded import random_rows

_CANDIDATES = 4  # times as many rows as are wanted
_NUDGE = 1e-5  # ten times what float32 makes of a sum of a hundred


def make_golden(model: Mlp | graph.Graph, n: int, seed: int) -> F32:
    """n rows of input and expected output: float32[n, inputs + outputs], inputs uniform over [-1, 1).

    Rows beside a jump (a threshold, a stepwise sigmoid) are passed over as long as others are at hand: on which side
    of it a kernel comes out is rounding, and a device would refuse a sound file.
    """
    if isinstance(model, Mlp):
        inputs, outputs = model.sizes[0], model.sizes[-1]
    else:
        inputs, outputs = model.tensors[model.input].size, model.tensors[model.output].size
    width = inputs + outputs
    if not 1 <= n <= AF_SECTION_BYTES_MAX // (4 * width):
        raise LimitError(f"golden rows: expected 1 to {AF_SECTION_BYTES_MAX // (4 * width)}, found {n}")
    rows = random_rows(n, inputs, seed)
    if not (steady := _steady(model, rows)).all():
        rows = random_rows(_CANDIDATES * n, inputs, seed)  # begins with the same rows
        steady = _steady(model, rows)
        rows = rows[np.argsort(~steady, kind="stable")[:n]]
    return np.hstack([rows, _forward(model, rows).astype(np.float32)])


def _forward(model: Mlp | graph.Graph, rows: ArrayLike) -> NDArray[np.float64]:
    return reference.forward(model, rows) if isinstance(model, Mlp) else graph.forward(model, rows)


def _steady(model: Mlp | graph.Graph, rows: F32) -> NDArray[np.bool_]:
    """Whether each row's answers stay where they are, to a thousandth, if the row changes by _NUDGE of itself."""
    answers = _forward(model, rows)
    allowed = 1e-3 * (1.0 + np.abs(answers).max(axis=1))
    steady = np.ones(len(rows), np.bool_)
    for change in (_NUDGE, -_NUDGE):
        with np.errstate(invalid="ignore"):  # infinity less infinity: not steady
            steady &= np.abs(_forward(model, rows * np.float64(1.0 + change)) - answers).max(axis=1) <= allowed
    return steady


def split_golden(golden: F32, inputs: int) -> tuple[F32, F32]:
    """The inputs and the expected outputs of golden rows."""
    return golden[:, :inputs], golden[:, inputs:]


def faults(expected: F32, found: F32, *, relative: float = 1e-5, absolute: float = 1e-6) -> str:
    """ "" if `found` is within absolute + relative * (largest expected value of its row), else where it is worst.

    Relative to the row, not to the value: a sum of products that cancel to nearly zero has no digits left in float32.
    """
    if expected.shape != found.shape:
        return f"expected the shape {expected.shape}, found {found.shape}"
    if expected.size == 0:
        return ""
    allowed = absolute + relative * np.abs(expected).max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        excess = np.abs(found.astype(np.float64) - expected) / allowed
    excess = np.where(np.isnan(excess), np.inf, excess)
    row, column = (int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
    if excess[row, column] <= 1.0:
        return ""
    return f"row {row}, value {column}: expected {expected[row, column]!r}, found {found[row, column]!r}"
