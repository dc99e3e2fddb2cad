"""FANN's activations by ours: name, factor on the sum, and beyond which sum the answer stays the same.

FANN computes f(steepness * sum), where its sigmoid is 1 / (1 + e^-2x), ours with twice the steepness; its symmetric
sigmoid is tanh.  Before f it holds steepness * sum within +-150 / steepness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

SUM_MAX: Final = 150.0
"""FANN holds steepness * sum within +-SUM_MAX / steepness."""


@dataclass(frozen=True, slots=True)
class Activation:
    """name: of ACTIVATIONS.  factor: ours(factor * x) is FANN's f(x).  settled: beyond +-settled f changes by less than
    1e-8.  largest: |f| at most."""

    name: str
    factor: float = 1.0
    settled: float = math.inf
    largest: float = 1.0


OF_FANN: Final = (
    Activation("linear", largest=math.inf),
    Activation("threshold", settled=0.0),
    Activation("threshold_symmetric", settled=0.0),
    Activation("sigmoid", factor=2.0, settled=9.5),
    Activation("sigmoid_stepwise", settled=9.5),
    Activation("tanh", settled=9.8),
    Activation("sigmoid_stepwise_symmetric", settled=9.5),
    Activation("gaussian", settled=4.4),
    Activation("gaussian_symmetric", settled=4.4),
    Activation("linear", factor=0.0, settled=0.0),  # gaussian stepwise, of which libfann computes nothing: always 0
    Activation("elliott"),
    Activation("elliott_symmetric"),
    Activation("linear_piece", settled=1.0),
    Activation("linear_piece_symmetric", settled=1.0),
    Activation("sin_symmetric"),
    Activation("cos_symmetric"),
    Activation("sin"),
    Activation("cos"),
    Activation("relu", largest=math.inf),
    Activation("leaky_relu", largest=math.inf),
)
"""By FANN's number."""

_FAR = 2.0**-10  # an exact factor, with which FANN holds steepness * sum within +-153,600 and not +-150

TO_FANN: Final = {
    entry.name: (number, _FAR if entry.settled == math.inf else 1.0 / entry.factor)
    for number, entry in enumerate(OF_FANN)
    if entry.factor and number < 18
}
"""Ours -> FANN's number as libfann 2.2.0 knows them, and the steepness to give its neurons, by which their weights are
divided.  softmax, gelu, relu, relu6 and leaky_relu have none."""
