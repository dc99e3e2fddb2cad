"""What an operator on one 8-bit value computes, as a table: q + 128 -> q, in TFLite's reference arithmetic, to the bit.

LOGISTIC, TANH and GELU are computed there in float32, once for each of the 256 values; the others in whole numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import ModelError
from edgeswarm.model.fixed_point import I64, quantize_multiplier, rounded_shift, scaled

I8 = NDArray[np.int8]
ALL: I64 = np.arange(-128, 128)


def requantized(read: tuple[float, int], written: tuple[float, int]) -> I8:
    """QUANTIZE of 8 bits to 8 bits.  read, written: scale and zero point."""
    return _held(_scaled(ALL - read[1], read[0] / written[0]) + written[1])


def clipped(read: tuple[float, int], written: tuple[float, int], low: int, high: int) -> I8:
    """RELU and its kin; low, high: their bounds as whole numbers.  The factor is computed in float32."""
    factor = float(np.float32(read[0]) / np.float32(written[0]))
    return _held(np.clip(_scaled(ALL - read[1], factor) + written[1], low, high))


def leaky(read: tuple[float, int], written: tuple[float, int], slope: float) -> I8:
    """LEAKY_RELU: one factor above the zero point, another below."""
    real = np.float32(read[0]) / np.float32(written[0])
    below = np.float32(read[0]) * np.float32(slope) / np.float32(written[0])
    x = ALL - read[1]
    return _held(np.where(x >= 0, _scaled(x, float(real)), _scaled(x, float(below))) + written[1])


def logistic(read: tuple[float, int]) -> I8:
    """LOGISTIC; what is written has the scale 1/256 and the zero point -128."""
    with np.errstate(over="ignore"):
        power = np.exp(-_real(read).astype(np.float64)).astype(np.float32)
    return _nearest(np.float32(1) / (np.float32(1) + power), (1 / 256, -128))


def tanh(read: tuple[float, int]) -> I8:
    """TANH; what is written has the scale 1/128 and the zero point 0."""
    return _nearest(np.tanh(_real(read).astype(np.float64)).astype(np.float32), (1 / 128, 0))


def negated() -> I8:
    """-1 - q: the negative, where the zero point is -1 less the other."""
    return _held(-1 - ALL)


def gelu(read: tuple[float, int], written: tuple[float, int], *, approximate: bool) -> I8:
    """GELU: computed in floats for each value.  approximate: the form with tanh."""
    x = _real(read).astype(np.float64)
    if approximate:
        gate = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        gate = np.array([math.erf(value * math.sqrt(0.5)) for value in x.tolist()])
    return _nearest((0.5 * x * (1 + gate)).astype(np.float32), written)


def hard_swish(read: tuple[float, int], written: tuple[float, int]) -> I8:
    """HARD_SWISH in 16 bits: x times a gate, which is relu6(x + 3) / 6 with 15 bits behind the point.

    Raises ModelError for a scale written that is far finer than the one read: LiteRT refuses it, too.
    """
    x = (ALL - read[1]) << 7
    fine = np.float32(read[0]) / np.float32(128)
    (factor, factor_shift), (gain, gain_shift) = (
        _multiplier_16(float(fine / step)) for step in (np.float32(written[0]), np.float32(3 / 32768))
    )
    if factor_shift > 0:
        raise ModelError(f"expected an output scale of at least 1/128 of the input's {read[0]}, found {written[0]}")
    gate = _held_16(x << (gain_shift - 1)) if gain_shift > 0 else x
    gate = _product_16(gate, gain)
    gate = _held_16(gate << 1) if gain_shift > 0 else rounded_shift(gate, -gain_shift)
    gate = (gate + (1 << 15)) >> 1
    product = gate * _product_16(x, factor)
    return _held(rounded_shift(np.sign(product) * (np.abs(product) >> 15), -factor_shift) + written[1])


def _multiplier_16(real: float) -> tuple[int, int]:
    """The factor as 15 bits and a shift."""
    multiplier, shift = quantize_multiplier(real)
    return min((multiplier + (1 << 15)) >> 16, 32767), shift


def _product_16(a: I64, b: int) -> I64:
    """a * b / 2^15, to nearest, halves up."""
    product: I64 = (a * b + (1 << 14)) >> 15
    return product


def _held_16(x: I64) -> I64:
    held: I64 = np.clip(x, -(1 << 15), (1 << 15) - 1)
    return held


def _real(read: tuple[float, int]) -> NDArray[np.float32]:
    """What all values stand for."""
    return np.float32(read[0]) * (ALL - read[1]).astype(np.float32)


def _nearest(values: NDArray[np.float32], written: tuple[float, int]) -> I8:
    """In steps of what is written: the nearest, halves away from 0."""
    steps = values * (np.float32(1) / np.float32(written[0]))
    away = np.copysign(np.floor(np.abs(steps.astype(np.float64)) + 0.5), steps)
    return _held(away.astype(np.int64) + written[1])


def _held(values: I64) -> I8:
    return np.clip(values, -128, 127).astype(np.int8)


def _scaled(x: I64, factor: float) -> I64:
    """x times factor; a factor below 0 is the negative of the one above."""
    held = scaled(x, *quantize_multiplier(abs(factor)))
    return held if factor >= 0 else scaled(-x, *quantize_multiplier(abs(factor)))
