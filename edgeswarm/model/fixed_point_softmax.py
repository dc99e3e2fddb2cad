"""Softmax of 8-bit numbers in whole numbers, to the bit as TFLite's reference kernel: powers, their sum, a reciprocal.

All that depends on one value is a table over its distance to the row's largest, so a kernel needs no exponential.
Fixed point Qm.n is a 32-bit number with n bits behind the point and m before it; products keep the high half, rounded
(`fixed_point.high_product`).  The method is that of gemmlowp's fixedpoint: e^x by a short series times e^-(powers of
two), and Newton's reciprocal.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeswarm.model.fixed_point import high_product, quantize_multiplier, rounded_shift

I64 = NDArray[np.int64]
DISTANCES = 256
"""How far below a row's largest a value may be, and 0."""
WIDTH_MAX = 4_095
"""Values of a row: their powers, each at most 1 in Q12.19, then add up to less than 2^31."""
_BITS = 26  # of x behind the point: Q5.26, so that x reaches down to -32
_ONE = 1 << 31


def powers(scale: float, beta: float) -> I64:
    """e^(-beta scale d) in Q0.31 for d = 0 to 255: 2^31 - 1 for 1, 0 where the exponent would pass -31."""
    multiplier, shift = quantize_multiplier(min(beta * scale * (1 << _BITS), _ONE - 1.0), 31)
    if shift < 0:  # TFLite wants a factor of at least 1 here; below 2^-26 every power is 1 but for the last bits
        multiplier, shift = 0, 0
    near = min(DISTANCES - 1, (31 << _BITS) >> shift)
    table = np.zeros(DISTANCES, np.int64)
    distance = np.arange(near + 1, dtype=np.int64)
    table[: near + 1] = _power(high_product(-distance << shift, multiplier))
    return table


def _power(x: I64) -> I64:
    """e^x of x <= 0 in Q5.26, in Q0.31."""
    quarter = 1 << (_BITS - 2)
    part = (x & (quarter - 1)) - quarter  # -1/4 <= part < 0, and the rest is a multiple of 1/4
    total, rest = _series(part << 5), part - x
    for power in range(-2, 5):
        factor = math.floor(math.exp(-(2.0**power)) * _ONE + 0.5)
        total = np.where(rest & (1 << (_BITS + power)), high_product(total, factor), total)
    return np.where(x == 0, _ONE - 1, total)


def _series(x: I64) -> I64:
    """e^x of -1/4 <= x < 0 in Q0.31: a series around -1/8."""
    middle = math.floor(math.exp(-0.125) * _ONE + 0.5)
    t = x + (1 << 28)
    square = high_product(t, t)
    cube, fourth = high_product(square, t), high_product(square, square)
    high = rounded_shift(high_product(rounded_shift(fourth, 2) + cube, _third()) + square, 1)
    return middle + high_product(t + high, middle)


def _third() -> int:
    return math.floor(_ONE / 3 + 0.5)


def reciprocal(total: I64) -> tuple[I64, I64]:
    """1 / total as (q, s): q / 2^31 / 2^s, for sums in Q12.19 from 1 (2^19) on, below 2^31."""
    length = np.frexp(total.astype(np.float64))[1].astype(np.int64)
    half = (total << (32 - length)) >> 1  # 1/2 to 1 in Q0.31
    x = 1515870810 + high_product(half, -1010580540)  # 48/17 and -32/17 in Q2.29: the start whose error is the least
    for _ in range(3):
        x = x + (high_product(x, (1 << 29) - high_product(half, x)) << 2)
    return np.minimum(x << 1, _ONE - 1), length - 20


def softmax(distance: I64, table: I64) -> I64:
    """Rows of 256 * softmax - 128: distance is the row's largest less each of its values, table its `powers`."""
    each = table[distance]
    q, shift = reciprocal(rounded_shift(each, 12).sum(axis=-1, keepdims=True))
    return np.clip(rounded_shift(high_product(each, q), shift + 23) - 128, -128, 127)
