"""What the deterministic mode computes, operation by operation: numpy in float32, the definition of its bits.

Every multiplication, addition and division is rounded once, to nearest even; nothing is fused.  The order is that of
the templates: for a sum the bias, then k = 0, 1, ...; for softmax lane by lane, then (0+2)+(1+3).  Denormals are kept.
The steepness is folded into weights and bias (`Dense.folded`).
A kernel of the mode `deterministic` gives these bits on every machine; tests hold it to them, and to committed ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import InputError
from edgeswarm.model.mlp import F32, Mlp

WORDS = NDArray[np.uint32]
NAN = 0x7FC00000  # the one NaN that comes out
_f = np.float32


def forward_bits(model: Mlp, rows: F32) -> F32:
    """The answers of the deterministic mode: float32[n, outputs] of float32[n, inputs], exact to the bit."""
    if rows.ndim != 2 or rows.shape[1] != model.sizes[0] or rows.dtype != np.float32:
        raise InputError(f"rows: expected float32 of the shape (n, {model.sizes[0]}), found {rows.dtype} {rows.shape}")
    x = rows
    with np.errstate(all="ignore"):
        for layer in model.layers:
            weights, bias = layer.folded
            total = np.repeat(bias[None, :], len(x), axis=0)
            for k in range(layer.inputs):
                total = total + weights[k] * x[:, k : k + 1]
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


def _threshold(x: F32) -> F32:
    return np.where(np.isnan(x), x, np.where(x < 0, _f(0), _f(1)))


def _threshold_symmetric(x: F32) -> F32:
    return np.where(np.isnan(x), x, np.where(x < 0, _f(-1), _f(1)))


def _stepwise(x: F32, low: float) -> F32:
    """As wasm_kernels/activations/stepwise.wat."""
    t = np.abs(x)
    middle = t * _f(0.4334101830) + _f(0.2619251192)
    outer = t * _f(0.07663271404) + _f(0.7871798119)
    lines = np.minimum(np.minimum(t * _f(0.9102392102), middle), outer)
    outside = (x >= _f(2.646652936935424805)) | (x < _f(low))
    signed: F32 = np.copysign(np.where(outside, _f(1), lines), x)
    return signed


def _sigmoid_stepwise(x: F32) -> F32:
    return _half(_stepwise(x, -2.646652460098266602))


def _sigmoid_stepwise_symmetric(x: F32) -> F32:
    return _stepwise(x, -2.646652936935424805)


def _gaussian(x: F32) -> F32:
    z = x * x
    return _exp_negative(np.where(_f(40) < z, _f(40), z))


def _gaussian_symmetric(x: F32) -> F32:
    return _gaussian(x) * _f(2) + _f(-1)


def _elliott_symmetric(x: F32) -> F32:
    x = _hold(x, -1e30, 1e30)
    return np.divide(x, np.abs(x) + _f(1), dtype=np.float32)


def _elliott(x: F32) -> F32:
    return _half(_elliott_symmetric(x))


def _linear_piece(x: F32) -> F32:
    return _hold(x, 0, 1)


def _linear_piece_symmetric(x: F32) -> F32:
    return _hold(x, -1, 1)


def _half_turns(x: F32) -> tuple[F32, WORDS]:
    """x - n pi and the sign of n, as wasm_kernels/activations/half_turns.wat."""
    x = _hold(x, -8192, 8192)
    t = x * _f(0.3183098862) + _f(12582912)
    n = t - _f(12582912)
    x = n * _f(-3.140625) + x
    x = n * _f(-9.67502593994140625e-4) + x
    x = n * _f(-1.509957990978e-7) + x
    return x, t.view(np.uint32) << np.uint32(31)


def _sin_symmetric(x: F32) -> F32:
    x, sign = _half_turns(x)
    x = (x.view(np.uint32) ^ sign).view(np.float32)
    return x * _horner(x * x, 2.590167241e-6, -1.980073866e-4, 0.008332896978, -0.1666664779, 1)


def _cos_symmetric(x: F32) -> F32:
    x, sign = _half_turns(x)
    p = _horner(x * x, 2.319126907e-5, -0.001385579817, 0.04166397452, -0.4999993145, 1)
    return (p.view(np.uint32) ^ sign).view(np.float32)


def _sin(x: F32) -> F32:
    return _half(_sin_symmetric(x))


def _cos(x: F32) -> F32:
    return _half(_cos_symmetric(x))


def _half(x: F32) -> F32:
    """[-1, 1] to [0, 1]."""
    return x * _f(0.5) + _f(0.5)


def _leaky_relu(x: F32) -> F32:
    slow = x * _f(0.01)
    return np.where(x < slow, slow, x)


def _gelu(x: F32) -> F32:
    t = np.abs(x)
    t = np.where(_f(9) < t, _f(9), t)
    p = _horner(t, 6.332424618e-6, 4.138806980e-5, 5.970611892e-5, 0.003249330679, 0.02115728892, 0.04986413941, 1)
    for _ in range(4):
        p = p * p
    tail: F32 = t * _f(0.5) / p
    return np.where(x < 0, _f(0), x) - tail


def _relu6(x: F32) -> F32:
    return _hold(x, 0, 6)


FUNCTIONS: dict[str, Callable[[F32], F32]] = {
    "linear": _linear,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "relu": _relu,
    "softmax": _softmax,
    "threshold": _threshold,
    "threshold_symmetric": _threshold_symmetric,
    "sigmoid_stepwise": _sigmoid_stepwise,
    "sigmoid_stepwise_symmetric": _sigmoid_stepwise_symmetric,
    "gaussian": _gaussian,
    "gaussian_symmetric": _gaussian_symmetric,
    "elliott": _elliott,
    "elliott_symmetric": _elliott_symmetric,
    "linear_piece": _linear_piece,
    "linear_piece_symmetric": _linear_piece_symmetric,
    "sin": _sin,
    "cos": _cos,
    "sin_symmetric": _sin_symmetric,
    "cos_symmetric": _cos_symmetric,
    "leaky_relu": _leaky_relu,
    "gelu": _gelu,
    "relu6": _relu6,
}
