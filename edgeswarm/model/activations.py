"""The closed list of activations, by name; numpy-free, so that a header can be checked without arrays.

What each computes is defined once, in `reference.py`; how a kernel computes it, in `wasm_kernels/activations/`.
"""

from __future__ import annotations

ACTIVATIONS = ("linear", "sigmoid", "tanh", "relu", "softmax")
"""linear: x.  sigmoid: 1 / (1 + e^-x).  tanh.  relu: max(x, 0).  softmax: e^x / sum of e^x over the row's width."""
