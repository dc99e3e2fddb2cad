"""A scaled net's own scaling: from the values of the training data to those the net computes with, and back.

libfann leaves it to the caller: fann_scale_input before fann_run, fann_descale_output after it.
An input:  x -> ((x - mean) / deviation + 1) * factor + new_min.
An output: y -> ((y - new_min) / factor - 1) * deviation + mean.
"""

from __future__ import annotations

import numpy as np

from edgeswarm.errors import ModelError
from edgeswarm.model.fann.net import F64, Net
from edgeswarm.model.mlp import Dense


def input_scale(net: Net, *, who: str = "") -> tuple[F64, F64]:
    """Slope and offset of each input: float64[inputs] twice.  Raises ModelError where one was constant in training."""
    deviation = _no_zeros(net, "scale_deviation_in", who)
    slope = net.reals("scale_factor_in") / deviation
    offset = net.reals("scale_factor_in") - net.reals("scale_mean_in") * slope + net.reals("scale_new_min_in")
    return slope, offset


def output_scale(net: Net, *, who: str = "") -> tuple[F64, F64]:
    """Slope and offset of each output: float64[outputs] twice."""
    slope = net.reals("scale_deviation_out") / _no_zeros(net, "scale_factor_out", who)
    offset = net.reals("scale_mean_out") - net.reals("scale_deviation_out") - net.reals("scale_new_min_out") * slope
    return slope, offset


def scaled_in(dense: Dense, slope: F64, offset: F64) -> Dense:
    """`dense` for raw values in its first rows."""
    weights, bias = (part.astype(np.float64) for part in dense.folded)
    bias += offset @ weights[: len(slope)]
    weights[: len(slope)] *= slope[:, None]
    return Dense(weights, bias, dense.activation)  # type: ignore[arg-type]  # Dense rounds and checks


def scaled_out(dense: Dense | None, slope: F64, offset: F64) -> Dense:
    """The linear layer `dense`, or one that passes its inputs on, with raw values as its answers."""
    weights, bias = (np.eye(len(slope)), np.zeros(len(slope))) if dense is None else dense.folded
    return Dense(weights * slope, bias * slope + offset, "linear")  # type: ignore[arg-type]


def _no_zeros(net: Net, name: str, who: str) -> F64:
    values = net.reals(name)
    zeros = np.flatnonzero(values == 0)
    if zeros.size:
        raise ModelError(
            f"{name}[{zeros[0]}]: expected another number than 0, to divide by: this value never changed in training; "
            "import without the scaling",
            who=who,
        )
    return values
