"""model.quantize and model.calibrate: laws of rounding, of ranges found in data, and of the choice of a path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import InputError, LimitError, ModelError
from edgeswarm.model import Dense, Mlp, from_arrays, random_mlp, random_rows, reference
from edgeswarm.model.calibrate import Samples, choose, golden_rows, judge, ranges
from edgeswarm.model.quantize import (
    BIAS_MAX,
    GROUP_SUM_MAX,
    PATHS,
    DenseI8,
    QuantizedMlp,
    Steps,
    forward,
    group_sums,
    quantize,
    trace,
)

numbers = st.floats(-1e6, 1e6, width=32)
paths = st.sampled_from(list(PATHS))


def quantized(model: Mlp, rows: np.ndarray, path: str) -> QuantizedMlp:
    found = ranges(model, rows, method="minmax")
    return quantize(model, [Steps.of_range(low, high, path) for low, high in found], path)


# --- rounding --------------------------------------------------------------------------------------------------------


@given(numbers, numbers, paths, st.floats(0, 1))
def test_a_value_within_the_range_is_off_by_half_a_step_at_most(a: float, b: float, path: str, where: float) -> None:
    low, high = min(a, b), max(a, b)
    steps = Steps.of_range(low, high, path)
    value = np.float32(low + where * (high - low))
    t = np.array([value], np.float32) * steps.record(path)[0]
    q = float(steps.round(t, path)[0])
    assert PATHS[path][0] <= q <= PATHS[path][1]
    if max(high, 0) - min(low, 0) >= 1e-30:
        allowed = steps.scale * 1.001 + abs(float(value)) * 1e-6  # half a step, and half of one for the zero point
        assert abs(steps.scale * (q - steps.zero_point) - float(value)) <= allowed


@given(numbers, numbers, paths)
def test_zero_is_always_exact(a: float, b: float, path: str) -> None:
    steps = Steps.of_range(min(a, b), max(a, b), path)
    assert PATHS[path][0] <= steps.zero_point <= PATHS[path][1]
    assert steps.round(np.zeros(1, np.float32), path)[0] == steps.zero_point


@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_number_or_outside_is_held_at_the_ends(path: str) -> None:
    steps = Steps.of_range(-1.0, 1.0, path)
    t = np.array([np.nan, -np.inf, np.inf, -1e30, 1e30], np.float32)
    least, greatest = PATHS[path]
    assert steps.round(t, path).tolist() == [least, least, greatest, least, greatest]


@pytest.mark.parametrize(("low", "high"), [(np.nan, 1.0), (0.0, np.inf), (-np.inf, 0.0), (0.0, 1e39)])
def test_a_range_that_is_not_finite_is_refused(low: float, high: float) -> None:
    with pytest.raises(ModelError, match="expected finite numbers"):
        Steps.of_range(low, high, "i7")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 1e-20, 1e20]))
def test_sums_of_a_group_stay_within_16_bits(inputs: int, outputs: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    sign = rng.choice([-1.0, 1.0], (1, outputs)) if seed % 2 else rng.choice([-1.0, 1.0], (inputs, outputs))
    weights = (sign * rng.random((inputs, outputs)) ** 0.1 * scale).astype(np.float32)
    layer = Dense(weights, np.zeros(outputs, np.float32), "linear")
    whole = quantize(Mlp((layer,)), [Steps(0.5, 0)], "i7x4").layers[0].weights
    assert group_sums(whole, 4).max() <= GROUP_SUM_MAX
    assert GROUP_SUM_MAX * 127 < 1 << 15


@pytest.mark.parametrize("path", PATHS)
def test_channels_of_zeros_and_of_a_bias_alone_answer_their_bias(path: str) -> None:
    weights = np.zeros((5, 3), np.float32)
    weights[:, 2] = 1e-6
    model = Mlp((Dense(weights, np.array([0.0, 1e4, -3e4], np.float32), "linear"),))
    rows = random_rows(9, 5, seed=1)
    answers = forward(quantized(model, rows, path), rows)
    np.testing.assert_allclose(answers, reference.forward(model, rows), rtol=1e-6)


def test_a_bias_beyond_what_8_bits_can_hold_is_refused() -> None:
    model = Mlp((Dense(np.ones((1, 1), np.float32), np.full(1, 3e38, np.float32), "linear"),))
    with pytest.raises(ModelError, match="bias: too large"):
        quantize(model, [Steps(1e-30, 0)], "exact")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=4),
    st.sampled_from(["relu", "sigmoid", "tanh", "linear"]),
    paths,
    st.integers(0, 99),
)
def test_a_random_net_loses_a_few_hundredths(sizes: list[int], activation: str, path: str, seed: int) -> None:
    model, rows = random_mlp(sizes, activation, "linear", seed), random_rows(50, sizes[0], seed)
    expected = reference.forward(model, rows)
    error = np.abs(forward(quantized(model, rows, path), rows) - expected)
    assert error.mean() <= 0.06 * max(np.abs(expected).max(), 0.5)


def test_steepness_is_in_the_weights() -> None:
    plain = Dense(np.full((2, 2), 0.5, np.float32), np.ones(2, np.float32), "linear")
    steep = Dense(plain.weights / np.float32(4), plain.bias / np.float32(4), "linear", 4.0)
    rows = random_rows(9, 2, seed=1)
    answers = [forward(quantize(Mlp((layer,)), [Steps(0.01, 60)], "i7"), rows) for layer in (plain, steep)]
    assert (answers[0] == answers[1]).all()


def layer(**changes: Any) -> DenseI8:
    values: dict[str, Any] = {
        "weights": np.ones((4, 2), np.int8),
        "weight_scales": np.ones(2, np.float32),
        "bias": np.zeros(2, np.int32),
        "activation": "relu",
        "x": Steps(1.0, 0),
    }
    return DenseI8(**(values | changes))


@pytest.mark.parametrize(
    ("path", "changes", "text"),
    [
        ("i8", {}, "path: expected one of"),
        ("i7", {"activation": "soft"}, "unknown activation"),
        ("i7", {"weights": np.full((4, 2), -128, np.int8)}, "found -128"),
        ("i7x4", {"weights": np.full((8, 2), 127, np.int8)}, "8 of one sign"),
        ("i7", {"weights": np.ones((4, 2), np.int16)}, "expected int8"),
        ("i7", {"bias": np.zeros(3, np.int32)}, "a bias and a scale for each"),
        ("i7", {"bias": np.full(2, BIAS_MAX + 1, np.int32)}, "bias: expected at most"),
        ("i7", {"weight_scales": np.zeros(2, np.float32)}, "scales: expected finite numbers above 0"),
        ("i7", {"x": Steps(float("nan"), 0)}, "scales: expected finite numbers above 0"),
        ("i7", {"x": Steps(1.0, -1)}, "zero point: expected 0 to 127, found -1"),
    ],
)
def test_a_layer_that_breaks_an_invariant_is_refused(path: str, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        QuantizedMlp(path, (layer(**changes),))


def test_layers_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(ModelError, match="layer 1: expected 2 inputs, found 4"):
        QuantizedMlp("i7", (layer(), layer()))
    behind = layer(weights=np.ones((2, 2), np.int8), x=Steps(1.0, 5))
    with pytest.raises(ModelError, match="behind a relu"):
        QuantizedMlp("i7", (layer(), behind))
    with pytest.raises(LimitError, match="LAYERS_MAX"):
        QuantizedMlp("i7", ())


# --- calibration -----------------------------------------------------------------------------------------------------


def test_percentiles_lie_within_least_and_greatest_and_meet_them_at_100() -> None:
    model, rows = random_mlp([6, 8, 3], "tanh", seed=1), random_rows(200, 6, seed=1)
    widest = ranges(model, rows, method="minmax")
    assert widest[0] == (float(rows.min()), float(rows.max()))
    assert ranges(model, rows, method="percentile", percentile=100) == widest
    for (low, high), (least, greatest) in zip(
        ranges(model, rows, method="percentile", percentile=95), widest, strict=True
    ):
        assert least < low < high < greatest


def test_percentiles_take_no_notice_of_one_wild_value() -> None:
    model, rows = random_mlp([6, 3], seed=1), random_rows(2000, 6, seed=1)
    rows[7, 2] = 1e6
    usual = rows[:7]
    expected = reference.forward(model, usual)
    errors = {}
    for method in ("minmax", "percentile"):
        taken, _ = choose(model, Samples(rows), method=method, percentile=99.9)
        errors[method] = float(np.abs(forward(taken, usual) - expected).mean())
    assert errors["percentile"] < 0.01 < errors["minmax"]


@pytest.mark.parametrize(("method", "percentile"), [("mean", 99.0), ("percentile", 50.0), ("percentile", 101.0)])
def test_ranges_by_an_unknown_method_are_refused(method: str, percentile: float) -> None:
    with pytest.raises(InputError, match="expected minmax or percentile"):
        ranges(random_mlp([2, 2]), random_rows(9, 2), method=method, percentile=percentile)


def test_the_fastest_path_within_the_bound_is_taken_else_the_best() -> None:
    model, rows = random_mlp([20, 30, 4], "relu", seed=2), random_rows(100, 20, seed=2)
    taken, reports = choose(model, Samples(rows), loss_max=1.0)
    assert (taken.path, [report.path for report in reports]) == ("i7x4", ["i7x4"])
    taken, reports = choose(model, Samples(rows), loss_max=0.0)
    assert [report.path for report in reports] == list(PATHS)
    assert taken.path == min(reports, key=lambda report: report.loss).path == "exact"
    between = (reports[0].loss + reports[1].loss) / 2
    assert reports[1].loss < between < reports[0].loss
    assert choose(model, Samples(rows), loss_max=between)[0].path == "i7"


def test_the_loss_is_lost_accuracy_else_other_answers_else_error() -> None:
    model, rows = random_mlp([5, 9, 3], "relu", seed=3), random_rows(64, 5, seed=3)
    whole = quantized(model, rows, "i7")
    expected = reference.forward(model, rows)
    right = expected.argmax(axis=1)
    same = float((forward(whole, rows).argmax(axis=1) == right).mean())
    by_error = judge(whole, Samples(rows), expected)
    assert 0 < by_error.loss < 0.05
    assert by_error.error_mean < by_error.error_max
    assert (by_error.agreement, by_error.accuracy_after) == (None, None)
    assert judge(whole, Samples(rows, classifies=True), expected).loss == 1 - same
    by_class = judge(whole, Samples(rows, classes=right), expected)
    assert (by_class.accuracy_before, by_class.accuracy_after, by_class.loss) == (1.0, same, 1.0 - same)
    by_target = judge(whole, Samples(rows, targets=expected.astype(np.float32)), expected)
    assert by_target.target_error_before == pytest.approx(0, abs=1e-6)
    assert by_target.target_error_after == pytest.approx(by_target.error_mean, rel=1e-4)


def test_too_few_too_many_or_too_narrow_rows_are_refused() -> None:
    model = random_mlp([4, 2])
    with pytest.raises(InputError, match="at least 8 rows"):
        choose(model, Samples(random_rows(7, 4)))
    with pytest.raises(InputError, match="rows of 4 values"):
        choose(model, Samples(random_rows(9, 5)))
    with pytest.raises(LimitError, match="CALIBRATION_VALUES_MAX"):
        choose(model, Samples(np.zeros(((1 << 21) + 1, 4), np.float32)))


def test_a_loss_of_just_the_bound_is_within_it() -> None:
    net, samples = random_mlp((6, 16, 3), "tanh", "linear", 1), Samples(random_rows(50, 6, seed=1))
    _, reports = choose(net, samples, loss_max=0.0)
    assert len(reports) == len(PATHS) and reports[0].loss > 0
    taken, tried = choose(net, samples, loss_max=reports[0].loss)
    assert (taken.path, len(tried)) == ("i7x4", 1)


def test_golden_rows_are_those_furthest_from_the_middle_between_two_steps() -> None:
    """There kernels and numpy may round to either side."""
    net = random_mlp((6, 24, 3), "tanh", "linear", 1)
    made = quantized(net, random_rows(100, 6, seed=2), "exact")
    kept = golden_rows(made, 8, seed=1)[:, :6]
    any_rows = random_rows(64, 6, seed=3)

    def margins(rows: np.ndarray) -> np.ndarray:
        t = trace(made, rows)[1].astype(np.float64)
        return np.abs(t - np.floor(t) - 0.5).min(axis=1)

    assert margins(kept).min() > np.median(margins(any_rows))


def test_a_loss_is_never_more_than_all_of_it() -> None:
    """Weights that cancel out: the error is 26 times the answers' spread, and a header takes a share."""
    weights = np.array([[127.0], [-31.6], [-31.6], [-63.79]]) * 1000 / 127
    rows = np.repeat(np.linspace(-1, 1, 64, dtype=np.float32)[:, None], 4, axis=1)
    _, reports = choose(from_arrays([weights], [np.zeros(1)]), Samples(rows))
    assert [report.loss for report in reports] == [1.0] * 3


@pytest.mark.parametrize(("activation", "classifies"), [("linear", False), ("linear", True), ("softmax", True)])
def test_answers_past_float32_have_no_loss_to_accept(activation: str, classifies: bool) -> None:
    """Their loss was NaN, which no bound is below, and the build went through."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) * 1e37 for shape in ((4, 8), (8, 3))]
    net = from_arrays(weights, [np.zeros(8), np.zeros(3)], "relu", activation)
    with pytest.raises(ModelError, match="expected finite float32 numbers"):
        choose(net, Samples(rng.normal(size=(64, 4)).astype(np.float32), classifies=classifies))


def test_golden_rows_carry_the_models_own_answers() -> None:
    model, rows = random_mlp([6, 20, 3], "sigmoid", "softmax", seed=1), random_rows(50, 6, seed=1) * np.float32(4)
    whole = quantized(model, rows, "i7x4")
    golden = golden_rows(whole, 5, 1)
    assert golden.shape == (5, 9)
    assert golden.dtype == np.float32
    assert (golden[:, 6:] == forward(whole, golden[:, :6])).all()
    assert (golden == golden_rows(whole, 5, 1)).all()
    assert np.abs(golden[:, :6]).max() > 2  # over the range that calibration found, not only -1 to 1
