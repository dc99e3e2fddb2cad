"""Models check themselves on the way in, and the reference computes what the formulas say."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm import model
from edgeswarm.errors import InputError, LimitError, ModelError
from edgeswarm.limits import LAYER_WIDTH_MAX, LAYERS_MAX
from edgeswarm.model import ACTIVATIONS, Dense, Mlp, from_arrays, random_mlp, random_rows, reference
from edgeswarm.model.mlp import check_sizes
from edgeswarm.model.seeded import uniform


def dense(inputs: int = 2, outputs: int = 3, activation: str = "relu") -> Dense:
    return Dense(np.ones((inputs, outputs)), np.zeros(outputs), activation)


@pytest.mark.parametrize(
    ("weights", "bias", "activation", "text"),
    [
        (np.ones((2, 3)), np.zeros(3), "swish", "expected one of linear, sigmoid, tanh, relu, softmax, threshold"),
        (np.ones(3), np.zeros(3), "relu", r"expected the shape \(inputs, outputs\)"),
        (np.ones((0, 3)), np.zeros(3), "relu", r"expected the shape \(inputs, outputs\)"),
        (np.ones((2, 3)), np.zeros(2), "relu", r"expected the shape \(3,\) of the outputs, found \(2,\)"),
        ([[1.0, math.nan]], np.zeros(2), "relu", r"found nan at \[0, 1\]"),
        ([[1.0, 1e39]], np.zeros(2), "relu", r"finite float32 numbers, found 1e\+39 at \[0, 1\]"),
        ([[1.0]], [math.inf], "relu", r"bias: expected finite"),
        ([["a"]], [0.0], "relu", "expected numbers, found the dtype"),
        ([[1.0], [1.0, 2.0]], [0.0], "relu", "expected an array of numbers"),
        ([[None]], [0.0], "relu", "expected numbers, found the dtype object"),
        ([[True]], [0.0], "relu", "expected numbers, found the dtype bool"),
    ],
)
def test_layer_refuses_what_does_not_fit(weights, bias, activation, text):
    with pytest.raises(ModelError, match=text):
        Dense(weights, bias, activation)


def test_layer_refuses_a_steepness_that_is_none_or_takes_numbers_past_float32():
    for bad in (np.nan, np.inf, 1.01e6, "1", None, True):
        with pytest.raises(ModelError, match="steepness: expected"):
            Dense(np.eye(2), np.zeros(2), "tanh", bad)
    with pytest.raises(ModelError, match="takes weights or bias past the range of float32"):
        Dense(np.eye(2) * 1e35, np.zeros(2), "tanh", 1e6)


@given(st.floats(-1e6, 1e6), st.integers(0, 99))
def test_folding_the_steepness_rounds_once(steepness, seed):
    layer = Dense(uniform(seed, 6).reshape(2, 3), uniform(seed, 3, stream=1), "tanh", steepness)
    assert layer.steepness == np.float32(steepness)
    for folded, plain in zip(layer.folded, (layer.weights, layer.bias), strict=True):
        exact = [float(value) * layer.steepness for value in plain.ravel()]
        assert folded.ravel().tolist() == [float(np.float32(value)) for value in exact]
        assert folded.dtype == np.float32 and folded.shape == plain.shape


def test_steepness_multiplies_the_sum_before_the_activation():
    layers = (Dense([[1.5]], [0.5], "tanh", 0.25), Dense([[2.0]], [-1.0], "linear", -3.0))
    expected = -3 * (2 * math.tanh(0.25 * (1.5 * 0.7 + 0.5)) - 1)
    assert reference.forward(Mlp(layers), [[0.7]])[0, 0] == pytest.approx(expected, rel=1e-15)
    assert Mlp(layers).steepness == (0.25, -3.0)


def test_layer_refuses_widths_past_the_bound():
    with pytest.raises(LimitError, match="LAYER_WIDTH_MAX"):
        Dense(np.zeros((1, LAYER_WIDTH_MAX + 1)), np.zeros(LAYER_WIDTH_MAX + 1), "relu")


def test_layer_keeps_a_read_only_copy():
    weights = np.ones((2, 2))
    layer = Dense(weights, np.zeros(2), "linear")
    weights[0, 0] = 7
    assert layer.weights[0, 0] == 1 and layer.weights.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        layer.weights[0, 0] = 2


def test_layers_must_fit_each_other():
    with pytest.raises(ModelError, match="layer 1: expected 3 inputs, the outputs of layer 0, found 4"):
        Mlp((dense(2, 3), dense(4, 1)))


@pytest.mark.parametrize("count", [0, LAYERS_MAX + 1])
def test_number_of_layers_is_bounded(count):
    with pytest.raises(LimitError, match="LAYERS_MAX"):
        Mlp((dense(2, 2),) * count)


def test_weights_in_total_are_bounded(monkeypatch):
    monkeypatch.setattr(model.mlp, "AF_SECTION_BYTES_MAX", 35)
    with pytest.raises(LimitError, match="AF_SECTION_BYTES_MAX"):
        Mlp((dense(2, 3),))


def test_sizes_name_the_widths_and_parameters_count_them():
    net = Mlp((dense(2, 3), dense(3, 1, "sigmoid")))
    assert net.sizes == (2, 3, 1)
    assert net.activations == ("relu", "sigmoid")
    assert net.parameters == 9 + 4


def test_from_arrays_gives_hidden_layers_one_activation_and_the_last_its_own():
    net = from_arrays([np.ones((2, 3)), np.ones((3, 3)), np.ones((3, 1))], [[0] * 3, [0] * 3, [0]], "tanh", "softmax")
    assert net.activations == ("tanh", "tanh", "softmax")


def test_from_arrays_names_the_layer_at_fault():
    with pytest.raises(ModelError, match="layer 1: weights: expected finite"):
        from_arrays([np.ones((2, 1)), [[math.nan]]], [[0.0], [0.0]])
    with pytest.raises(ModelError, match="2 weights and 1 biases"):
        from_arrays([np.ones((2, 1)), np.ones((1, 1))], [[0.0]])


def test_reference_computes_by_the_formulas():
    net = from_arrays([[[2.0, -1.0]]], [[0.5, 0.25]], output_activation="linear")
    x = 0.75
    pre = [2 * x + 0.5, -x + 0.25]
    exps = [math.exp(value) for value in pre]
    expected = {
        "linear": pre,
        "relu": [max(value, 0) for value in pre],
        "sigmoid": [1 / (1 + math.exp(-value)) for value in pre],
        "tanh": [math.tanh(value) for value in pre],
        "softmax": [value / sum(exps) for value in exps],
        "threshold": [1, 0],
        "threshold_symmetric": [1, -1],
        "sigmoid_stepwise": [0.95 + 0.045 * (2 - 1.472219) / (2.646653 - 1.472219), 0.25 + 0.5 * 0.049306 / 1.098612],
        "sigmoid_stepwise_symmetric": [0.9 + 0.09 * (2 - 1.472219) / (2.646653 - 1.472219), -0.5 * 0.5 / 0.549306],
        "gaussian": [math.exp(-4), math.exp(-0.25)],
        "gaussian_symmetric": [2 * math.exp(-4) - 1, 2 * math.exp(-0.25) - 1],
        "elliott": [1 / 3 + 0.5, -1 / 6 + 0.5],
        "elliott_symmetric": [2 / 3, -1 / 3],
        "linear_piece": [1, 0],
        "linear_piece_symmetric": [1, -0.5],
        "sin": [math.sin(2) / 2 + 0.5, math.sin(-0.5) / 2 + 0.5],
        "cos": [math.cos(2) / 2 + 0.5, math.cos(-0.5) / 2 + 0.5],
        "sin_symmetric": [math.sin(2), math.sin(-0.5)],
        "cos_symmetric": [math.cos(2), math.cos(-0.5)],
        "leaky_relu": [2, -0.005],
        "relu6": [2, 0],
        "gelu": [1 + math.erf(2 / math.sqrt(2)), -0.25 * (1 + math.erf(-0.5 / math.sqrt(2)))],
    }
    for activation in ACTIVATIONS:
        layer = Dense(net.layers[0].weights, net.layers[0].bias, activation)
        tolerance = 1e-6 if "stepwise" in activation else 1e-15
        assert reference.forward(Mlp((layer,)), [[x]]) == pytest.approx(np.array([expected[activation]]), rel=tolerance)


def test_stepwise_sigmoids_break_where_fann_does():
    """At the first point and one float below it, at the last and one below it: the jumps are FANN's."""
    first, symmetric, last = np.float32(-2.64665246), np.float32(-2.646652937), np.float32(2.646652937)
    for name, point, before, at in (
        ("sigmoid_stepwise", first, 0, 0.005),
        ("sigmoid_stepwise", last, 0.995, 1),
        ("sigmoid_stepwise_symmetric", symmetric, -1, -0.99),
        ("sigmoid_stepwise_symmetric", last, 0.99, 1),
    ):
        net = Mlp((Dense([[1.0]], [0.0], name),))
        rows = np.array([[np.nextafter(point, np.float32(-9))], [point]], np.float32)
        assert reference.forward(net, rows)[:, 0] == pytest.approx([before, at], abs=1e-6), name


def test_reference_survives_large_values_and_keeps_nan():
    for activation in ("sigmoid", "softmax", "tanh"):
        net = Mlp((Dense(np.eye(2) * 1e30, np.zeros(2), activation),))
        rows = reference.forward(net, [[1e8, -1e8], [math.nan, 0]])
        assert np.isfinite(rows[0]).all() and np.isnan(rows[1]).any()


@pytest.mark.parametrize("rows", [[1.0, 2.0], [[1.0]], [[[1.0, 2.0]]]])
def test_reference_refuses_rows_of_another_width(rows):
    with pytest.raises(InputError, match=r"expected the shape \(n, 2\)"):
        reference.forward(Mlp((dense(2, 3),)), rows)


def test_seeded_numbers_are_the_same_for_ever():
    assert uniform(1, 4).tolist() == [
        0.9114075899124146,
        0.49736571311950684,
        0.6573774814605713,
        0.6298239231109619,
    ]
    assert (random_rows(2, 2, 1) == uniform(1, 4, stream=-1).reshape(2, 2)).all()


@given(st.integers(0, 2**70), st.integers(0, 500))
def test_seeded_numbers_lie_in_their_range(seed, count):
    values = uniform(seed, count)
    assert values.shape == (count,) and (np.abs(values) <= 1).all()
    assert (values == uniform(seed, count)).all()


def test_random_mlp_has_the_sizes_and_activations_asked_for():
    net = random_mlp([3, 5, 2], "tanh", "softmax", seed=4)
    assert net.sizes == (3, 5, 2) and net.activations == ("tanh", "softmax")
    assert not (net.layers[0].weights == random_mlp([3, 5, 2], seed=5).layers[0].weights).all()


@pytest.mark.parametrize(
    ("sizes", "bound"),
    [
        ([3], "LAYERS_MAX"),
        ([2] * (LAYERS_MAX + 2), "LAYERS_MAX"),
        ([0, 1], r"sizes\[0\]"),
        ([1, LAYER_WIDTH_MAX + 1], r"sizes\[1\].*LAYER_WIDTH_MAX"),
        ([LAYER_WIDTH_MAX, LAYER_WIDTH_MAX], "AF_SECTION_BYTES_MAX"),
    ],
)
def test_sizes_are_bounded(sizes, bound):
    with pytest.raises(LimitError, match=bound):
        check_sizes(sizes)


def test_importing_the_package_loads_no_numpy():
    code = (
        "import sys; from edgeswarm import model, compile; from edgeswarm.compile import abi, check, read_layout; "
        "assert model.ACTIVATIONS; assert not {'numpy', 'wasmtime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'transformer'"):
        _ = model.transformer
    assert model.seeded.random_mlp is model.random_mlp
