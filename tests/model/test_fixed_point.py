"""Whole-number arithmetic of 8-bit operators, held to its formulas in Python's whole numbers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.model import fixed_point, fixed_point_softmax

WORD = st.integers(-(1 << 31), (1 << 31) - 1)
EDGES = st.sampled_from([0, 1, -1, (1 << 31) - 1, -(1 << 31), 1 << 30, -(1 << 30), (1 << 30) - 1, 3, -3])
X = WORD | EDGES | st.integers(-5000, 5000)
MULTIPLIER = st.just(0) | st.integers(1 << 30, (1 << 31) - 1) | st.sampled_from([1 << 30, (1 << 31) - 1])
SHIFT = st.integers(-31, 30)


def word(x: int) -> int:
    """x as a signed 32-bit number."""
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)


def away(value: Fraction) -> int:
    """To nearest, halves away from 0."""
    size = math.floor(abs(value) + Fraction(1, 2))
    return size if value >= 0 else -size


@settings(max_examples=250, deadline=None)
@given(x=X, multiplier=MULTIPLIER, shift=SHIFT)
def test_two_roundings_are_a_high_product_and_a_division(x, multiplier, shift):
    moved = word(x << max(shift, 0))
    high = math.floor(Fraction(moved * multiplier, 1 << 31) + Fraction(1, 2))
    expected = away(Fraction(high, 1 << max(-shift, 0)))
    assert fixed_point.scaled(np.array([x]), multiplier, shift).tolist() == [expected]


@settings(max_examples=250, deadline=None)
@given(x=X, multiplier=MULTIPLIER, shift=SHIFT)
def test_one_rounding_is_to_nearest_and_halves_up(x, multiplier, shift):
    expected = word(math.floor(Fraction(x * multiplier) / (1 << 31) * Fraction(2) ** shift + Fraction(1, 2)))
    assert fixed_point.scaled_once(np.array([x]), multiplier, shift).tolist() == [expected]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(X, MULTIPLIER, SHIFT), min_size=2, max_size=5))
def test_channels_are_scaled_each_by_its_own(many):
    x, multiplier, shift = (np.array(column, np.int64) for column in zip(*many, strict=True))
    for scaled in (fixed_point.scaled, fixed_point.scaled_once):
        alone = [scaled(x[i : i + 1], int(multiplier[i]), int(shift[i]))[0] for i in range(len(many))]
        assert scaled(x, multiplier, shift).tolist() == alone


@settings(max_examples=150, deadline=None)
@given(real=st.floats(2.0**-31, 2.0**29) | st.sampled_from([0.5, 1.0, 2.0, 1 - 2**-53, 0.25 - 2**-56]))
def test_a_factor_is_kept_to_31_bits(real):
    multiplier, shift = fixed_point.quantize_multiplier(real)
    assert 1 << 30 <= multiplier < 1 << 31
    assert abs(Fraction(multiplier, 1 << 31) * Fraction(2) ** shift / Fraction(real) - 1) <= Fraction(1, 1 << 31)


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (0.0, (0, 0)),
        (-1.0, (0, 0)),
        (math.nan, (0, 0)),
        (2.0**-33, (0, 0)),
        (2.0**-32, (1 << 30, -31)),
        (5e-324, (0, 0)),
        (2.0**40, ((1 << 31) - 1, 30)),
        (math.inf, ((1 << 31) - 1, 30)),
    ],
)
def test_factors_out_of_reach_become_the_next_that_is(real, expected):
    assert fixed_point.quantize_multiplier(real) == expected


@settings(max_examples=100, deadline=None)
@given(scale=st.floats(1e-6, 4.0), beta=st.floats(0.1, 4.0))
def test_powers_are_those_of_e(scale, beta):
    table = fixed_point_softmax.powers(scale, beta)
    exact = np.exp(-scale * beta * np.arange(256)) * 2.0**31
    assert np.abs(table - exact).max() < 600  # 3e-7 of the largest, less than 1/256 / 10,000
    assert table[0] == (1 << 31) - 1 and (np.diff(table) <= 1).all()


@settings(max_examples=200, deadline=None)
@given(total=st.integers(1 << 19, (1 << 31) - 1) | st.sampled_from([1 << 19, 1 << 25, (1 << 31) - 1]))
def test_reciprocals_are_right_to_eight_digits(total):
    q, shift = (int(value) for value in fixed_point_softmax.reciprocal(np.array(total)))
    assert Fraction(q, 1 << 31) / (1 << shift) * Fraction(total, 1 << 19) == pytest.approx(1, abs=2e-8)


@settings(max_examples=100, deadline=None)
@given(
    row=st.lists(st.integers(-128, 127), min_size=1, max_size=40),
    scale=st.floats(1e-30, 1e30) | st.floats(0.01, 1),
    beta=st.floats(0, 1e30) | st.just(1.0),
)
def test_softmax_is_that_of_the_numbers_rounded_to_nearest(row, scale, beta):
    q = np.array([row])
    ours = fixed_point_softmax.softmax(q.max() - q, fixed_point_softmax.powers(scale, beta))
    with np.errstate(over="ignore", under="ignore"):
        exact = np.exp(beta * scale * (q - q.max()).astype(np.float64))
    exact = np.minimum(256 * exact / exact.sum() - 128, 127)
    assert np.abs(ours - exact).max() <= 0.501


def test_the_widest_row_of_equal_values_is_all_nothing():
    distance = np.zeros((1, fixed_point_softmax.WIDTH_MAX), np.int64)
    assert (fixed_point_softmax.softmax(distance, fixed_point_softmax.powers(0.1, 1.0)) == -128).all()
