"""Whole-number arithmetic of TFLite's 8-bit operators, to the bit: a factor as 31 bits and a shift.

The formulas are those of Jacob et al. 2018 (arXiv:1712.05877) section 2.2 and of gemmlowp's fixedpoint: a product's
high half, rounded to nearest, then a division by a power of two, halves away from 0.  Its matrix products
(FULLY_CONNECTED) are ruy's, which rounds once.  Values are int64 arrays that hold 32-bit numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


def quantize_multiplier(real: float, shift_max: int = 30) -> tuple[int, int]:
    """(multiplier, shift) with real = multiplier / 2^31 * 2^shift: 0, or 2^30 <= multiplier < 2^31.

    real: at least 0.  What is below 2^-32 becomes 0; what is beyond the reach of `shift_max` the largest there is.
    """
    if math.isnan(real) or real <= 0.0:
        return 0, 0
    if math.isinf(real):
        return (1 << 31) - 1, shift_max
    fraction, shift = math.frexp(real)
    multiplier = math.floor(math.ldexp(fraction, 31) + 0.5)  # of numbers above 0: halves away from 0
    if multiplier == 1 << 31:
        multiplier, shift = 1 << 30, shift + 1
    if shift < -31:
        return 0, 0
    return (multiplier, shift) if shift <= shift_max else ((1 << 31) - 1, shift_max)


def wrapped(x: I64) -> I64:
    """x modulo 2^32, as a signed 32-bit number: what a machine's 32-bit sums become beyond their range."""
    return x.astype(np.int32).astype(np.int64)


def high_product(x: I64, multiplier: I64 | int) -> I64:
    """x * multiplier / 2^31, to nearest, halves up (SaturatingRoundingDoublingHighMul for multiplier < 2^31)."""
    high: I64 = (x * multiplier + (1 << 30)) >> 31
    return high


def rounded_shift(x: I64, by: I64 | int) -> I64:
    """x / 2^by, to nearest, halves away from 0 (RoundingDivideByPOT); by: 0 to 62."""
    by = np.asarray(by, np.int64)
    below = (x >> 63) & np.where(by > 0, -1, 0)  # -1 where x < 0, whose halves go down
    rounded: I64 = (x + ((np.int64(1) << by) >> 1) + below) >> by
    return rounded


def scaled(x: I64, multiplier: I64 | int, shift: I64 | int) -> I64:
    """x times multiplier / 2^31 * 2^shift, as MultiplyByQuantizedMultiplier with double rounding.

    multiplier, shift: numbers, or one for each of the last axis.  A shift above 0 comes first, and wraps at 32 bits.
    """
    shift = np.asarray(shift, np.int64)
    moved = wrapped(x << np.maximum(shift, 0))
    return rounded_shift(high_product(moved, multiplier), np.maximum(-shift, 0))


def scaled_once(x: I64, multiplier: I64 | int, shift: I64 | int) -> I64:
    """The same rounded once, halves up; the result wraps at 32 bits.  shift: -31 to 30."""
    by = 31 - np.asarray(shift, np.int64)
    return wrapped((x * multiplier + (np.int64(1) << (by - 1))) >> by)
