"""Weights that keep sums of products within 16 bits, and what they lack."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeswarm.compile.held import ONE_SIGN_MAX, kept, pack_rest, unpack_rest

WEIGHTS = arrays.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 16)), elements=st.integers(-128, 127))


@settings(max_examples=200, deadline=None)
@given(weights=WEIGHTS, data=st.data())
def test_no_sum_of_kept_weights_leaves_16_bits_and_none_is_larger_than_it_was(weights, data):
    held = kept(weights)
    assert (np.maximum(held, 0).sum(axis=-1) <= ONE_SIGN_MAX).all()
    assert (np.minimum(held, 0).sum(axis=-1) >= -ONE_SIGN_MAX).all()
    assert (np.sign(held) * np.sign(weights) >= 0).all() and (abs(held) <= abs(weights)).all()
    fits = (np.maximum(weights, 0).sum(axis=-1) <= 128) & (np.minimum(weights, 0).sum(axis=-1) >= -128)
    assert (held[fits] == weights[fits]).all()
    for low, high in ((0, 255), (-128, 127)):
        for x in (np.where(held > 0, high, low), np.where(held > 0, low, high)):  # the worst that it can meet
            assert (abs((held * x).sum(axis=-1)) < 1 << 15).all()


@settings(max_examples=100, deadline=None)
@given(weights=WEIGHTS)
def test_the_rest_comes_back_as_it_was_packed(weights):
    rest = weights - kept(weights)
    packed = pack_rest(rest)
    assert len(packed) == 32 * -(-np.count_nonzero(rest) // 4)
    assert (unpack_rest(packed, *weights.shape) == rest).all()


def test_as_few_weights_as_can_be_are_changed():
    assert kept(np.array([[100, 20, 30, -127]])).tolist() == [[78, 20, 30, -127]]
    assert kept(np.array([[127, 127, 127, -128]])).tolist() == [[0, 1, 127, -128]]
