"""What the deterministic mode computes, operation by operation: numpy in float32, the definition of its bits.

Every multiplication, addition and division is rounded once, to nearest even; nothing is fused.  The order is that of
the templates: for a sum the bias, then k = 0, 1, ...; for softmax lane by lane, then (0+2)+(1+3).  Denormals are kept.
A kernel of the mode `deterministic` gives these bits on every machine; tests hold it to them, and to committed ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeswarm.errors import InputError
from edgeswarm.model.mlp import F32, Mlp

NAN = 0x7FC00000  # the one NaN that comes out
_f = np.float32


def forward_bits(model: Mlp, rows: F32) -> F32:
    """The answers of the deterministic mode: float32[n, outputs] of float32[n, inputs], exact to the bit."""
    if rows.ndim != 2 or rows.shape[1] != model.sizes[0] or rows.dtype != np.float32:
        raise InputError(f"rows: expected float32 of the shape (n, {model.sizes[0]}), found {rows.dtype} {rows.shape}")
    x = rows
    with np.errstate(all="ignore"):
        for layer in model.layers:
            total = np.repeat(layer.bias[None, :], len(x), axis=0)
            for k in range(layer.inputs):
                total = total + layer.weights[k] * x[:, k : k + 1]
            x = FUNCTIONS[layer.activation](total)
    out = x.astype(np.float32, copy=True)
    out.view(np.uint32)[np.isnan(out)] = NAN
    return out


def _hold(x: F32, low: float, high: float) -> F32:
    """x within [low, high]; NaN passes."""
    x = np.where(x < _f(low), _f(low), x)
    return np.where(_f(high) < x, _f(high), x)


def _horner(x: F32, *coefficients: float) -> F32:
    """The polynomial with these coefficients, the highest power first."""
    total = x * _f(coefficients[0]) + _f(coefficients[1])
    for coefficient in coefficients[2:]:
        total = x * total + _f(coefficient)
    return total


def _exp_negative(z: F32) -> F32:
    """e^-z, as wasm_kernels/activations/exp_negative.wat."""
    t = z * _f(-1.442695041) + _f(12583039)
    n = t - _f(12583039)
    s = n * _f(0.693359375) + z
    s = n * _f(-2.121944400e-4) + s
    p = _horner(s, -0.008312524296, 0.041890162975, -0.166671141982, 0.499992311001, -1, 1)
    return p * (t.view(np.uint32) << np.uint32(23)).view(np.float32)


def _linear(x: F32) -> F32:
    return x


def _relu(x: F32) -> F32:
    return np.where(x < 0, _f(0), x)


def _sigmoid(x: F32) -> F32:
    return _f(1) / (_exp_negative(_hold(x, -17, 17)) + _f(1))


def _tanh(x: F32) -> F32:
    x = _hold(x, -9.02, 9.02)
    u = x * x
    p = _horner(u, 1.3384360287e-8, 2.0635878172e-5, 0.0034974610899, 0.1338268965483, 1)
    q = _horner(u, 7.7902791418e-7, 0.00032885230030, 0.0258843749762, 0.4671601057053, 1)
    return _hold(x * p / q, -1, 1)


def _softmax(x: F32) -> F32:
    z = x.max(axis=1, keepdims=True) - x
    powers = _exp_negative(np.where(_f(60) < z, _f(60), z))
    lanes = np.pad(powers, ((0, 0), (0, -x.shape[1] % 4))).reshape(len(x), -1, 4)
    total: F32 = np.zeros((len(x), 4), np.float32)
    for vector in range(lanes.shape[1]):
        total = total + lanes[:, vector]
    whole = (total[:, 0] + total[:, 2]) + (total[:, 1] + total[:, 3])
    return np.divide(powers, whole[:, None], dtype=np.float32)


FUNCTIONS: dict[str, Callable[[F32], F32]] = {
    "linear": _linear,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "relu": _relu,
    "softmax": _softmax,
}
