"""Activations that operators carry, and numbers as TFLite's kernels make them of scales and zero points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from edgeswarm.errors import ModelError
from edgeswarm.model.tflite.schema import ACTIVATIONS
from edgeswarm.model.tflite.site import Site

FLOAT: Final[Mapping[str, str]] = {
    "NONE": "linear",
    "RELU": "relu",
    "RELU6": "relu6",
    "RELU_N1_TO_1": "linear_piece_symmetric",
}
"""What a fused activation is called here, in float."""

_BOUNDS: Final[Mapping[str, tuple[float | None, float | None]]] = {
    "NONE": (None, None),
    "RELU": (0.0, None),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}


def fused(site: Site) -> str:
    """The activation that the operator carries, as the schema calls it.  Raises ModelError for one that none knows."""
    number = site.option("FusedActivationFunction")
    name = ACTIVATIONS.get(number, f"number {number}")
    if name not in FLOAT:
        raise ModelError(f"fused activation: expected {', '.join(FLOAT)}, found {name}")
    return name


def activation(site: Site) -> str:
    """The activation that a float operator carries, as it is called here."""
    return FLOAT[fused(site)]


def bounds(name: str, scale: float, zero_point: int) -> dict[str, Any]:
    """low and high of an 8-bit operator: the real bounds of the activation as whole numbers, divided in float32."""
    held = []
    for real, end in zip(_BOUNDS[name], (-128, 127), strict=True):
        whole = float(end)
        if real is not None:
            with np.errstate(over="ignore"):
                steps = float(np.float32(real) / np.float32(scale))
            away = np.copysign(np.floor(abs(steps) + 0.5), steps) + zero_point
            whole = max(whole, away) if end < 0 else min(whole, away)
        held.append(int(whole))
    return {"low": held[0], "high": held[1]}


def clamp(site: Site) -> dict[str, Any]:
    """The same of the operator's own activation and its output."""
    return bounds(fused(site), *site.steps())
