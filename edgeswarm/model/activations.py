"""The closed list of activations, by name; numpy-free, so that a header can be checked without arrays.

What each computes is defined once, in `reference.py`; how a kernel computes it, in `wasm_kernels/activations/`.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

Activation = Literal[
    "linear",
    "sigmoid",
    "tanh",
    "relu",
    "softmax",
    "threshold",
    "threshold_symmetric",
    "sigmoid_stepwise",
    "sigmoid_stepwise_symmetric",
    "gaussian",
    "gaussian_symmetric",
    "elliott",
    "elliott_symmetric",
    "linear_piece",
    "linear_piece_symmetric",
    "sin",
    "cos",
    "sin_symmetric",
    "cos_symmetric",
    "leaky_relu",
    "gelu",
    "relu6",
]
ACTIVATIONS: Final[tuple[str, ...]] = get_args(Activation)
"""What each computes: `reference.py`.  Ranges, accuracy, NaN and infinities: docs/kernel-abi.md, Activations."""

STEEPNESS_MAX: Final = 1e6
"""|steepness| at most: what FANN's own training and files hold is around 1; more than this is a fault of the file."""

LEAKY_SLOPE: Final = 0.01
"""leaky_relu's slope below 0: that of Maas, Hannun and Ng 2013."""

SINE_RANGE: Final = 8192.0
"""sin and cos, and their symmetric forms, take x beyond +-SINE_RANGE as if it were there: no NaN from an infinity."""
