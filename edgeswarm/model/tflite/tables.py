"""What an operator on one 8-bit value computes, as a table: q + 128 -> q, in TFLite's reference arithmetic, to the bit.

LOGISTIC and TANH are computed there in fixed point: a power of e as a product of known powers, one for each bit, and a
polynomial for the rest; a quotient by three steps of Newton and Raphson.  Formulas: gemmlowp's fixedpoint, whose
constants are exp(-2^k), exp(-1/8), 1/3, 48/17 and 32/17 as whole numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import ModelError
from edgeswarm.model.fixed_point import I64, high_product, quantize_multiplier, rounded_shift, scaled

I8 = NDArray[np.int8]
ALL: I64 = np.arange(-128, 128)

_ONE = (1 << 31) - 1  # as near to 1 as 31 bits behind the point come
_INTEGER_BITS = 4  # of LOGISTIC's and TANH's argument: beyond +-16 both are at their ends
_EIGHTH = round(math.exp(-1 / 8) * 2**31)
_THIRD = round(2**31 / 3)
_48_17 = round(48 / 17 * 2**29)
_32_17 = round(32 / 17 * 2**29)


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
    x, beyond = _argument(read)
    share = np.minimum(rounded_shift(_logistic(x), 23), 255)
    return _held(np.where(beyond > 0, 127, np.where(beyond < 0, -128, share - 128)))


def tanh(read: tuple[float, int]) -> I8:
    """TANH; what is written has the scale 1/128 and the zero point 0."""
    x, beyond = _argument(read)
    return _held(np.where(beyond > 0, 127, np.where(beyond < 0, -128, rounded_shift(_tanh(x), 24))))


def negated() -> I8:
    """-1 - q: the negative, where the zero point is -1 less the other."""
    return _held(-1 - ALL)


def gelu(read: tuple[float, int], written: tuple[float, int], *, approximate: bool) -> I8:
    """GELU: computed in floats for each value.  approximate: the form with tanh."""
    x = (np.float32(read[0]) * (ALL - read[1]).astype(np.float32)).astype(np.float64)
    if approximate:
        gate = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        gate = np.array([math.erf(value * math.sqrt(0.5)) for value in x.tolist()])
    steps = (0.5 * x * (1 + gate)).astype(np.float32) * (np.float32(1) / np.float32(written[0]))
    away = np.copysign(np.floor(np.abs(steps.astype(np.float64)) + 0.5), steps)
    return _held(away.astype(np.int64) + written[1])


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


def _held(values: I64) -> I8:
    return np.clip(values, -128, 127).astype(np.int8)


def _scaled(x: I64, factor: float) -> I64:
    """x times factor; a factor below 0 is the negative of the one above."""
    held = scaled(x, *quantize_multiplier(abs(factor)))
    return held if factor >= 0 else scaled(-x, *quantize_multiplier(abs(factor)))


def _argument(read: tuple[float, int]) -> tuple[I64, I64]:
    """All values with 27 bits behind the point, and which are beyond what these hold: -1, 0, 1."""
    x = ALL - read[1]
    fraction, shift = math.frexp(read[0] * (1 << (31 - _INTEGER_BITS)))
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 1 << 31:
        multiplier, shift = 1 << 30, shift + 1
    radius = math.floor(((1 << _INTEGER_BITS) - 1) * 2.0 ** (31 - _INTEGER_BITS) / 2.0**shift)
    beyond = np.where(x < -radius, -1, np.where(x > radius, 1, 0))
    if shift > 30 or shift < -31:  # one step is past both ends, or all of them are 0
        return np.zeros_like(x), np.sign(x) if shift > 30 else np.zeros_like(x)
    return scaled(np.where(beyond == 0, x, 0), multiplier, shift), beyond


def _product(a: I64, b: I64 | int) -> I64:
    return high_product(a, b)


def _saturated(x: I64, left: int) -> I64:
    """x shifted left, held within 32 bits."""
    held: I64 = np.clip(x << left, -(1 << 31), _ONE)
    return held


def _exp(x: I64, integer_bits: int) -> I64:
    """e^x of x <= 0 with 31 bits behind the point; x has 31 - integer_bits of them."""
    behind = 31 - integer_bits
    quarter = 1 << (behind - 2)
    rest = (x & (quarter - 1)) - quarter  # from -1/4 to below 0
    result = _exp_near_0(_saturated(rest, integer_bits))
    left = rest - x
    for power in range(-2, integer_bits):
        factor = round(math.exp(-(2.0**power)) * 2**31)
        result = np.where(left & (1 << (behind + power)), _product(result, factor), result)
    return np.where(x == 0, _ONE, result)


def _exp_near_0(x: I64) -> I64:
    """e^x of -1/4 <= x < 0: a polynomial around -1/8."""
    x = x + (1 << 28)
    x2 = _product(x, x)
    x3 = _product(x2, x)
    x4 = _product(x2, x2)
    tail = rounded_shift(_product(rounded_shift(x4, 2) + x3, _THIRD) + x2, 1)
    return _product(x + tail, _EIGHTH) + _EIGHTH


def _reciprocal(x: I64) -> I64:
    """2 / (1 + x) of 0 <= x <= 1, with 29 bits behind the point."""
    total = x + _ONE
    half = np.where(total >= 0, total + 1, total - 1) // 2
    result = _48_17 - _product(half, _32_17)
    for _ in range(3):
        fault = (1 << 29) - _product(half, result)
        result = result + _saturated(_product(result, fault), 2)
    return result


def _logistic(x: I64) -> I64:
    power = _exp(-np.abs(x), _INTEGER_BITS)
    above = _saturated(_reciprocal(power), 1)
    return np.where(x == 0, 1 << 30, np.where(x > 0, above, _ONE - above))


def _tanh(x: I64) -> I64:
    power = _exp(-np.abs(x), _INTEGER_BITS + 1)  # e^(-2 |x|): the same bits, the point one further right
    below = _saturated(_reciprocal(power) - (1 << 29), 2)
    return np.where(x == 0, 0, np.where(x > 0, below, -below))
