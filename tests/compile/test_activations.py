"""Every activation, alone and in networks: accurate over its range, defined outside it, whatever the steepness."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_mlp, faults, make_golden
from edgeswarm.compile.bits import FUNCTIONS, forward_bits
from edgeswarm.model import ACTIVATIONS, Dense, Mlp, random_mlp, random_rows, reference
from edgeswarm.model.activations import SINE_RANGE

MODES = ("fast", "deterministic")
JUMPS = ("threshold", "threshold_symmetric", "sigmoid_stepwise", "sigmoid_stepwise_symmetric")
SMOOTH = [name for name in ACTIVATIONS if name not in JUMPS]
PERIODIC = ("sin", "cos", "sin_symmetric", "cos_symmetric")
UNBOUNDED = ("linear", "relu", "leaky_relu", "gelu")
FANN = json.loads((Path(__file__).with_name("golden") / "fann_activations.json").read_text())
LIMITS = {
    "linear": (-math.inf, math.inf),
    "sigmoid": (0, 1),
    "tanh": (-1, 1),
    "relu": (0, math.inf),
    "softmax": (math.nan, math.nan),
    "threshold": (0, 1),
    "threshold_symmetric": (-1, 1),
    "sigmoid_stepwise": (0, 1),
    "sigmoid_stepwise_symmetric": (-1, 1),
    "gaussian": (0, 0),
    "gaussian_symmetric": (-1, -1),
    "elliott": (0, 1),
    "elliott_symmetric": (-1, 1),
    "linear_piece": (0, 1),
    "linear_piece_symmetric": (-1, 1),
    "sin": (math.sin(-SINE_RANGE) / 2 + 0.5, math.sin(SINE_RANGE) / 2 + 0.5),
    "cos": (math.cos(SINE_RANGE) / 2 + 0.5,) * 2,
    "sin_symmetric": (math.sin(-SINE_RANGE), math.sin(SINE_RANGE)),
    "cos_symmetric": (math.cos(SINE_RANGE),) * 2,
    "leaky_relu": (-math.inf, math.inf),
    "gelu": (0, math.inf),
    "relu6": (0, 6),
}
"""What -infinity and infinity give."""


def alone(activation: str, steepness: float = 1.0) -> Mlp:
    """A layer that hands its input to the activation as it is (-0 + x is x)."""
    return Mlp((Dense([[1.0]], [-0.0], activation, steepness),))


def floats(words: str) -> np.ndarray:
    return np.array([int(word, 16) for word in words.split()], np.uint32).view(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_error_stays_below_two_millionths_over_the_whole_range(load, mode, activation):
    """Within +-150, where FANN holds sums; sin and cos within SINE_RANGE; relative where the answer grows with x."""
    net = alone(activation)
    runner = load(compile_mlp(net, batch_max=4096, mode=mode))
    wide = SINE_RANGE if activation in PERIODIC else 150.0
    for sweep in (np.linspace(-wide, wide, 4096), np.linspace(-20, 20, 4096), np.linspace(-3, 3, 4096)):
        rows = sweep.astype(np.float32)[:, None]
        exact = reference.forward(net, rows)
        allowed = 2e-6 * (np.maximum(1, np.abs(exact)) if activation in UNBOUNDED else 1)
        assert (np.abs(runner.many(rows) - exact) <= allowed).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_infinities_give_the_limit_and_nan_stays(load, mode, activation):
    assert set(LIMITS) == set(ACTIVATIONS) == set(FUNCTIONS) == set(reference.FUNCTIONS)
    net = alone(activation)
    rows = np.array([[-np.inf], [np.inf], [np.nan], [-3e38], [3e38]], np.float32)
    answers = load(compile_mlp(net, mode=mode)).many(rows)[:, 0]
    assert answers[:3] == pytest.approx([*LIMITS[activation], math.nan], abs=2e-7, nan_ok=True)
    assert reference.forward(net, rows[:3])[:, 0] == pytest.approx([*LIMITS[activation], math.nan], nan_ok=True)
    if activation not in UNBOUNDED:
        assert np.abs(answers[3:]).max() <= max(1, LIMITS[activation][1])  # the limit of softmax is NaN: 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "gaussian", "gelu"])
def test_tails_hold_no_denormal_numbers(load, mode, activation):
    rows = np.linspace(-100, 100, 4001, dtype=np.float32)[:, None]
    answers = load(compile_mlp(alone(activation), batch_max=4096, mode=mode)).many(rows)
    assert (np.abs(answers[answers != 0]) > np.finfo(np.float32).tiny).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", FANN["cases"], ids=lambda case: f"{case['activation']}-{case['steepness']}")
def test_answers_are_those_of_libfann(load, mode, case):
    """Its sigmoid has twice the slope; its break points hold to the float, at a steepness that is a power of two."""
    steepness = case["steepness"] * (2 if case["activation"] == "sigmoid" else 1)
    net = alone(case["activation"], steepness)
    rows, expected = floats(FANN["inputs"])[:, None], floats(case["outputs"])
    sums = np.abs(steepness * rows[:, 0])
    allowed = 1e-6 + 6e-8 * (sums if case["steepness"] == 0.3 else np.abs(expected))  # FANN rounds the product
    for answers in (reference.forward(net, rows), load(compile_mlp(net, mode=mode)).many(rows)):
        close = np.abs(answers[:, 0] - expected) <= allowed
        if case["steepness"] == 0.3 and "stepwise" in case["activation"]:
            close |= np.abs(sums - 2.6466527) < 1e-6  # the product may land on either side of the jump
        assert close.all()


@st.composite
def networks(draw, names=ACTIVATIONS) -> Mlp:
    """Widths with every number of residual lanes, and a steepness for each layer."""
    sizes = draw(st.lists(st.one_of(st.integers(1, 9), st.integers(10, 40)), min_size=2, max_size=4))
    plain = random_mlp(sizes, seed=draw(st.integers(0, 1000))).layers
    slope = st.one_of(st.sampled_from([0.5, 1.0, 2.0]), st.floats(-4, 4, width=32))
    return Mlp(tuple(Dense(x.weights, x.bias, draw(st.sampled_from(names)), draw(slope)) for x in plain))


@settings(max_examples=75, deadline=None)
@given(net=networks(SMOOTH), mode=st.sampled_from(MODES), count=st.integers(1, 19))
def test_networks_of_any_steepness_agree_with_the_reference(load, net, mode, count):
    rows = random_rows(count, net.sizes[0], seed=count) * np.float32(3)
    runner = load(compile_mlp(net, batch_max=19, mode=mode))
    many = runner.many(rows)
    assert faults(reference.forward(net, rows).astype(np.float32), many, relative=3e-5, absolute=3e-6) == ""
    assert (runner.one(rows[-1]) == many[-1]).all()


@settings(max_examples=50, deadline=None)
@given(net=networks(), count=st.integers(1, 9))
def test_networks_of_any_steepness_give_the_bits_of_the_definition(load, net, count):
    rows = random_rows(count, net.sizes[0], seed=count)
    rows[0, 0] = [np.nan, np.inf, -np.inf][count % 3]
    runner = load(compile_mlp(net, batch_max=9, mode="deterministic"))
    assert runner.many(rows).tobytes() == forward_bits(net, rows).tobytes()


@settings(max_examples=40, deadline=None)
@given(
    activation=st.sampled_from(JUMPS),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    steepness=st.sampled_from([0.25, 0.5, 1.0, -2.0]),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 999),
)
def test_activations_that_jump_do_so_where_the_reference_does(load, activation, inputs, outputs, steepness, mode, seed):
    """Eighths only, so that sums are exact and many of them lie on 0, where the thresholds jump."""
    layer = random_mlp([inputs, outputs], seed=seed).layers[0]
    weights, bias = np.round(layer.weights * 8) / 8, np.round(layer.bias * 8) / 8
    net = Mlp((Dense(weights, bias, activation, steepness),))
    rows = np.round(random_rows(30, inputs, seed) * 8) / 8
    answers = load(compile_mlp(net, mode=mode)).many(rows)
    assert np.abs(answers - reference.forward(net, rows)).max() <= 2e-6


@pytest.mark.parametrize("width", [1, 4, 5, 31, 32, 33, 36, 37, 44, 45, 52, 53, 260])
def test_softmax_of_any_width_gives_the_bits_of_the_definition(load, width):
    """Written out, in rounds of four vectors, and every remainder of them."""
    net = random_mlp([3, width], output_activation="softmax", seed=width)
    rows = random_rows(5, 3, seed=1) * np.float32(9)
    runner = load(compile_mlp(net, mode="deterministic"))
    assert runner.many(rows).tobytes() == forward_bits(net, rows).tobytes()
    assert runner.one(rows[0]).tobytes() == forward_bits(net, rows[:1]).tobytes()


def test_golden_rows_keep_away_from_jumps():
    """The second of these rows puts a sum on the threshold; it is passed over, and the rows around it stay."""
    rows = random_rows(9, 1, seed=5)
    net = Mlp((Dense([[1.0]], -rows[1], "threshold"),))
    assert make_golden(net, 4, seed=5)[:, 0].tolist() == rows[[0, 2, 3, 4], 0].tolist()
    smooth = Mlp((Dense([[1.0]], -rows[1], "tanh"),))
    assert make_golden(smooth, 4, seed=5)[:, 0].tolist() == rows[:4, 0].tolist()
    everywhere = Mlp((Dense([[1e6]], [0.0], "sin", 1e6),))
    assert len(make_golden(everywhere, 4, seed=5)) == 4
