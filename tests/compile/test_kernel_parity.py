"""Kernels against the float64 reference: any shape, any activation, one row or many, and nothing leaks between rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wasmtime import Trap

from edgeswarm.compile import compile_mlp, faults, make_golden, split_golden
from edgeswarm.compile.lower_f32 import STREAM_BYTES_MIN
from edgeswarm.errors import LimitError
from edgeswarm.limits import LAYERS_MAX
from edgeswarm.model import ACTIVATIONS, Dense, Mlp, random_mlp, random_rows, reference

MODES = ("fast", "deterministic")
ARCHS = ("x86-64", "aarch64")
SMOOTH = [name for name in ACTIVATIONS if "threshold" not in name and "stepwise" not in name]
"""Where a sum that is rounded otherwise cannot make a jump; those that jump: test_activations.py."""


def expected(net: Mlp, rows: np.ndarray) -> np.ndarray:
    return reference.forward(net, rows).astype(np.float32)


@st.composite
def networks(draw) -> Mlp:
    width = st.one_of(st.integers(1, 45), st.sampled_from([57, 64, 100, 129, 260]))
    sizes = draw(st.lists(width, min_size=2, max_size=5))
    seed = draw(st.integers(0, 1000))
    names = [draw(st.sampled_from(SMOOTH)) for _ in sizes[1:]]
    layers = random_mlp(sizes, seed=seed).layers
    return Mlp(tuple(Dense(layer.weights, layer.bias, name) for layer, name in zip(layers, names, strict=True)))


@settings(max_examples=80, deadline=None)
@given(
    net=networks(),
    mode=st.sampled_from(MODES),
    arch=st.sampled_from(ARCHS),
    batch_max=st.sampled_from([1, 2, 3, 40, 70]),
    data=st.data(),
)
def test_kernels_of_any_shape_agree_with_the_reference(load, net, mode, arch, batch_max, data):
    """Every row within the tolerance; run_batch gives the bits of run; the memory around is full of NaN."""
    runner = load(compile_mlp(net, batch_max=batch_max, mode=mode, arch=arch))
    count = data.draw(st.integers(1, batch_max))
    start, end = runner.layout.regions()["weights"]
    runner.memory[:start] = 0xFF
    runner.memory[end:] = 0xFF
    rows = random_rows(count, net.sizes[0], seed=count) * np.float32(3)
    many = runner.many(rows)
    assert faults(expected(net, rows), many) == ""
    for index in {0, count // 2, count - 1}:
        assert (runner.one(rows[index]) == many[index]).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("hidden", "output"), [("sigmoid", "softmax"), ("relu", "linear"), ("tanh", "sigmoid")])
def test_benchmark_network_agrees_with_the_reference(load, mode, hidden, output):
    net = random_mlp([784, 128, 64, 32, 10], hidden, output, seed=2)
    inputs, answers = split_golden(make_golden(net, 131, seed=3), 784)
    runner = load(compile_mlp(net, mode=mode))
    assert faults(answers, runner.many(inputs)) == ""
    assert faults(answers[:3], np.stack([runner.one(row) for row in inputs[:3]])) == ""


@pytest.mark.parametrize("sizes", [[1, 1], [1, 300], [300, 1], [2048, 3], [1, 17, 1], [64] * (LAYERS_MAX + 1)])
def test_extreme_shapes_agree_with_the_reference(load, sizes):
    net = random_mlp(sizes, "tanh", "linear", seed=7)
    rows = random_rows(37, sizes[0], seed=8)
    assert faults(expected(net, rows), load(compile_mlp(net)).many(rows)) == ""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [[600, 530, 7], [1000, 203, 45]])
def test_weights_past_the_second_level_cache_agree_with_the_reference(load, sizes, mode):
    """They are streamed panel by panel, in shorter rounds; one row still gives the bits that it has among many."""
    net = random_mlp(sizes, "relu", "linear", seed=7)
    kernel = compile_mlp(net, mode=mode)
    assert kernel.layout.weights.size >= STREAM_BYTES_MIN
    runner, rows = load(kernel), random_rows(35, sizes[0], seed=8)
    many = runner.many(rows)
    assert faults(expected(net, rows), many) == ""
    assert (runner.one(rows[34]) == many[34]).all()


@pytest.mark.parametrize("mode", MODES)
def test_padding_never_reaches_an_answer(load, mode):
    """The lanes that pad weights hold NaN instead of zero; no answer changes."""
    net = random_mlp([5, 7, 18, 3], "softmax", "softmax", seed=1)
    net = Mlp((net.layers[0], Dense(net.layers[1].weights, net.layers[1].bias, "sigmoid"), net.layers[2]))
    kernel = compile_mlp(net, mode=mode)
    runner = load(kernel)
    rows = random_rows(40, 5, seed=2)
    clean = runner.many(rows)
    packed = np.frombuffer(kernel.weights, "<f4").copy()
    packed[packed == 0] = np.nan
    assert np.isnan(packed).sum() > 35
    runner.set_weights(packed.tobytes())
    assert (runner.many(rows) == clean).all()
    assert (runner.one(rows[0]) == clean[0]).all()


def test_rows_behind_the_count_are_left_alone(load):
    net = random_mlp([3, 4, 2], "relu", "sigmoid", seed=1)
    runner = load(compile_mlp(net, batch_max=50))
    out = runner.rows(runner.layout.output)
    for count in (1, 2, 31, 32, 33, 49):
        out[:] = -7
        runner.many(random_rows(count, 3))
        assert (out[count:] == -7).all() and (out[:count] != -7).all()


@pytest.mark.parametrize("count", [0, 11, 2**31, 2**32 - 1])
def test_counts_outside_the_batch_trap(load, count):
    runner = load(compile_mlp(random_mlp([3, 2]), batch_max=10))
    before = runner.memory.copy()
    with pytest.raises(Trap, match="unreachable"):
        runner.call_batch(count - 2**32 if count >= 2**31 else count)
    assert (runner.memory == before).all()
    runner.call_batch(10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_accurate_from_end_to_end_of_their_range(load, mode, activation):
    net = Mlp((Dense([[1.0]], [0.0], activation),))
    runner = load(compile_mlp(net, batch_max=4096, mode=mode))
    small = np.float32(10.0) ** np.linspace(-37, 0, 2048, dtype=np.float32)
    sweeps = [np.linspace(-20, 20, 4096), np.linspace(-2, 2, 4096), np.concatenate([small, -small])]
    for sweep in sweeps:
        rows = sweep.astype(np.float32)[:, None]
        answers, exact = runner.many(rows).astype(np.float64), reference.forward(net, rows)
        assert np.abs(answers - exact).max() <= 2e-6 * max(1.0, np.abs(exact).max())
        if activation == "tanh":
            assert np.abs(answers / exact - 1).max() < 1e-6
            assert np.abs(answers).max() <= 1
        if activation == "sigmoid":
            inside = np.abs(rows) < 17
            assert np.abs(answers / exact - 1)[inside].max() < 1e-6
            assert answers.min() > 4e-8 and answers.max() <= 1


@pytest.mark.parametrize("mode", MODES)
def test_softmax_is_stable_and_adds_up_to_one(load, mode):
    net = Mlp((Dense(np.eye(7), np.zeros(7), "softmax"),))
    runner = load(compile_mlp(net, mode=mode))
    rows = random_rows(50, 7, seed=1) * np.float32(10.0) ** np.linspace(-3, 30, 50, dtype=np.float32)[:, None]
    answers = runner.many(rows)
    assert np.abs(answers - reference.forward(net, rows)).max() < 1e-6
    assert answers.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert answers.min() >= 1e-28, "no denormals"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_comes_out_of_every_value_that_depends_on_it(load, mode, activation):
    net = random_mlp([3, 4, 6], activation, activation, seed=1)
    runner = load(compile_mlp(net, mode=mode))
    rows = random_rows(5, 3)
    clean = runner.many(rows)
    rows[2, 1] = np.nan
    answers = runner.many(rows)
    assert np.isnan(answers[2]).all()
    others = [0, 1, 3, 4]
    assert (answers[others] == clean[others]).all()


@pytest.mark.parametrize("mode", MODES)
def test_infinities_are_taken_to_their_limits(load, mode):
    rows = np.array([[np.inf], [-np.inf]], np.float32)
    limits = {"relu": (np.inf, 0), "sigmoid": (1, 0), "tanh": (1, -1), "linear": (np.inf, -np.inf)}
    for activation, expected_answers in limits.items():
        runner = load(compile_mlp(Mlp((Dense([[1.0]], [0.0], activation),)), mode=mode))
        assert runner.many(rows)[:, 0] == pytest.approx(expected_answers, abs=2e-7)
    runner = load(compile_mlp(Mlp((Dense([[1.0]], [0.0], "softmax"),)), mode=mode))
    assert np.isnan(runner.many(rows)).all()


def test_faults_name_the_worst_value():
    a = np.array([[1, 2], [3, 4]], np.float32)
    assert faults(a, a) == ""
    assert faults(a, a + np.float32(2e-6)) == ""
    assert faults(a, a * [[1, 1], [1, 1.1]]).startswith("row 1, value 1: expected")
    assert faults(a, np.where(a == 2, np.nan, a)).startswith("row 0, value 1")
    assert faults(a, a[:1]) == "expected the shape (2, 2), found (1, 2)"
    assert faults(a[:0], a[:0]) == ""


def test_golden_rows_are_bounded_and_repeatable():
    net = random_mlp([3, 2])
    assert (make_golden(net, 4, seed=9) == make_golden(net, 4, seed=9)).all()
    assert make_golden(net, 4, seed=9).dtype == np.float32
    for count in (0, 1 << 40):
        with pytest.raises(LimitError, match="golden rows"):
            make_golden(net, count, seed=9)
