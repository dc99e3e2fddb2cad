"""Golden rows: inputs with the answers a kernel must give, computed by the float64 reference.

They travel in the agent file's section `golden`; whoever loads the kernel runs them before it believes it.
"""

from __future__ import annotations

import numpy as np

from edgeswarm.errors import LimitError
from edgeswarm.limits import AF_SECTION_BYTES_MAX
from edgeswarm.model.mlp import F32, Mlp
from edgeswarm.model.reference import forward
from edgeswarm.model.seeded import random_rows


def make_golden(model: Mlp, n: int, seed: int) -> F32:
    """n rows of input and expected output: float32[n, inputs + outputs], inputs uniform over [-1, 1)."""
    width = model.sizes[0] + model.sizes[-1]
    if not 1 <= n <= AF_SECTION_BYTES_MAX // (4 * width):
        raise LimitError(f"golden rows: expected 1 to {AF_SECTION_BYTES_MAX // (4 * width)}, found {n}")
    rows = random_rows(n, model.sizes[0], seed)
    return np.hstack([rows, forward(model, rows).astype(np.float32)])


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
