"""Float32 numbers by which sums become 8 bits as exactly as in whole numbers, where such numbers can be found.

q - zero point = trunc(float32(sum) * factor + addend), each step rounded to float32; the addend has the product's sign
where numbers below the zero point count.  All of these steps keep the order of sums, as the whole numbers do; so both
agree on every sum if they agree on both sides of each threshold: at the sum nearest to 0 that gives 1, 2, 3 ... (or -1,
-2, -3 ...), and one nearer to 0.  There are at most 255 for an output; a factor and an addend are looked for that get
all of them right, or none are given.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeswarm.model import fixed_point

_ULPS = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6)  # by which factors are tried, beside the nearest
_PARTS = (0.5, 0.35, 0.65, 0.2, 0.8, 0.05, 0.95)  # of the room that an addend has
_FAR = 1e9

I64 = NDArray[np.int64]


def short_factors(
    multiplier: I64,
    shift: I64,
    least: I64,
    greatest: I64,
    tops: tuple[int, int],
    *,
    once: bool = False,
    fused: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """((factor, addend) of each output, whether they are exact) for sums from least to greatest.

    tops: the largest numbers that matter above the zero point and below; 0 below: all of these are the same.  Shifts to
    the left, and sums beyond 2^30, are not for float32, unless the answer is always the same: then it is the addend.
    once: rounded as by `fixed_point.scaled_once`.  fused: numbers that are exact also on a machine that adds the addend
    to the product before that is rounded.
    """
    scaled = fixed_point.scaled_once if once else fixed_point.scaled
    held = np.maximum(np.abs(least), np.abs(greatest)) < 1 << 31
    ends = [np.clip(scaled(end, multiplier, shift), -tops[1], tops[0]) for end in (least, greatest)]
    exact = (shift <= 0) & held & (ends[0] == ends[1])
    found = np.stack([np.zeros(len(exact)), np.where(exact, np.abs(ends[0]) + 0.5, 0)]).astype(np.float32)
    fits = (shift <= 0) & (np.maximum(np.abs(least), np.abs(greatest)) < 1 << 30)
    for ulps in _ULPS:
        left = np.flatnonzero(fits & ~exact)
        if not len(left) or max(tops) < 1:
            break
        numbers, low, high = (multiplier[left], shift[left]), least[left], greatest[left]
        sides = [_Side(*numbers, low, high, tops[0], 1, once), _Side(*numbers, -high, -low, tops[1], -1, once)]
        factor = np.ldexp(numbers[0].astype(np.float64), numbers[1] - 31).astype(np.float32)
        factor = (factor.view(np.int32) + np.where(factor > 0, np.int32(ulps), np.int32(0))).view(np.float32)
        found[:, left], exact[left] = _addends(factor, [side for side in sides if len(side.wanted)], fused)
    return found, exact


class _Side:
    """Thresholds above 0 (sign 1), or below (sign -1) with all signs turned."""

    def __init__(self, multiplier: I64, shift: I64, least: I64, greatest: I64, top: int, sign: int, once: bool) -> None:
        self.wanted = np.arange(1, top + 1)[:, None]
        bounds = thresholds(multiplier, shift, top, sign, once=once)
        self.reached, self.missed = bounds <= greatest, bounds > least  # that a sum can reach, or stay below
        self.at, self.before = np.clip(bounds, least, greatest), np.clip(bounds - 1, least, greatest)


def _addends(
    factor: NDArray[np.float32], sides: list[_Side], fused: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """((factor, addend), whether exact) of each output: the first addend that is."""
    real = factor.astype(np.float64)
    low = np.max([np.where(s.reached, s.wanted - s.at * real, -_FAR).max(axis=0) for s in sides], axis=0)
    high = np.min([np.where(s.missed, s.wanted - s.before * real, _FAR).min(axis=0) for s in sides], axis=0)
    low, high = np.maximum(low, 0), np.minimum(high, 1)  # an addend's sign is its sum's, and 0 stays 0
    addend, exact = np.zeros(len(factor), np.float32), np.zeros(len(factor), bool)
    for part in _PARTS:
        tried = (low + (high - low) * part).astype(np.float32)
        right = (tried >= 0) & (tried < 1)
        for s in sides:
            over, under = (np.trunc(sums.astype(np.float32) * factor + tried) for sums in (s.at, s.before))
            right &= ((over >= s.wanted) | ~s.reached).all(axis=0) & ((under < s.wanted) | ~s.missed).all(axis=0)
            if fused:  # float64 may leave half a step of float32, which goes to the threshold: the safe side
                over, under = ((sums.astype(np.float32) * real + tried).astype(np.float32) for sums in (s.at, s.before))
                right &= ((over >= s.wanted) | ~s.reached).all(axis=0) & ((under < s.wanted) | ~s.missed).all(axis=0)
        addend = np.where(right & ~exact, tried, addend)
        exact |= right
    return np.stack([factor, addend]), exact


def thresholds(multiplier: I64, shift: I64, top: int, sign: int = 1, *, once: bool = False) -> I64:
    """The least sum that gives at least 1, 2, ... top: one row each, one column an output.  shift: at most 0.

    sign -1: the same with all signs turned.  Beyond 32 bits where there is none.  Rounded as by `fixed_point.scaled`,
    or (once) `scaled_once`.
    """
    scaled, early = (fixed_point.scaled_once, 0.0) if once else (fixed_point.scaled, np.ldexp(1.0, shift - 1))
    wanted = np.arange(1, top + 1)[:, None]
    factor = np.maximum(np.ldexp(multiplier.astype(np.float64), shift - 31), 2.0**-80)
    about = np.clip(np.floor((wanted - 0.5 - early) / factor), -(2.0**40), 2.0**40).astype(np.int64)
    found = np.full(about.shape, 1 << 41)
    for by in (2, 1, 0, -1, -2):  # the estimate is at most one off, for float64 holds it
        sums = about + by
        given = sign * np.clip(sums, -(1 << 31) + 1, (1 << 31) - 1)
        enough = sign * scaled(given, multiplier, shift) >= wanted
        found = np.where(enough & (np.abs(sums) < 1 << 31), sums, found)
    return found
