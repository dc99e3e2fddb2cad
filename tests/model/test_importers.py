"""Models from files and trained objects: what fits is read, everything else is a clear error."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import LAYERS_MAX
from edgeswarm.model import (
    ACTIVATIONS,
    Dense,
    Mlp,
    from_sklearn,
    importers,
    load_json,
    load_npz,
    random_mlp,
    reference,
    save_json,
    save_npz,
)


def same(a, b) -> bool:
    return (a.activations, a.steepness) == (b.activations, b.steepness) and all(
        (x.weights == y.weights).all() and (x.bias == y.bias).all() for x, y in zip(a.layers, b.layers, strict=True)
    )


@pytest.fixture
def net():
    return random_mlp([3, 4, 2], "tanh", "softmax", seed=1)


def test_npz_and_json_give_back_what_was_saved(net, tmp_path):
    save_npz(net, tmp_path / "net.npz")
    save_json(net, tmp_path / "net.json")
    assert same(load_npz(tmp_path / "net.npz"), net)
    assert same(load_json(tmp_path / "net.json"), net)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from(ACTIVATIONS), min_size=1, max_size=4),
    steepness=st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4),
)
def test_every_activation_and_steepness_survives_a_file(tmp_path, names, steepness):
    layers = [Dense(np.eye(2), np.ones(2), name, s) for name, s in zip(names, steepness, strict=False)]
    save_npz(Mlp(tuple(layers)), tmp_path / "net.npz")
    save_json(Mlp(tuple(layers)), tmp_path / "net.json")
    assert same(load_npz(tmp_path / "net.npz"), Mlp(tuple(layers)))
    assert same(load_json(tmp_path / "net.json"), Mlp(tuple(layers)))


def test_files_of_steepness_one_read_as_before(net, tmp_path):
    save_npz(net, tmp_path / "net.npz")
    save_json(net, tmp_path / "net.json")
    assert "steepness" not in np.load(tmp_path / "net.npz").files
    assert "steepness" not in (tmp_path / "net.json").read_text()


def test_npz_steepness_goes_with_activations_from_the_call(tmp_path):
    path = _npz(tmp_path / "net.npz", w0=np.eye(2), b0=np.zeros(2), steepness=np.array([0.5]))
    assert load_npz(path, output_activation="gelu").steepness == (0.5,)


def test_npz_without_activations_takes_them_from_the_call(net, tmp_path):
    arrays = {f"w{i}": layer.weights for i, layer in enumerate(net.layers)}
    np.savez(tmp_path / "net.npz", **arrays, **{f"b{i}": layer.bias for i, layer in enumerate(net.layers)})
    assert load_npz(tmp_path / "net.npz").activations == ("sigmoid", "linear")
    assert load_npz(tmp_path / "net.npz", "relu", "softmax").activations == ("relu", "softmax")


def _npz(path, **arrays):
    np.savez(path, **arrays)
    return path


W, B = np.ones((2, 2)), np.zeros(2)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"w0": W}, r"expected w0, b0, w1, b1, \.\.\. in pairs .*, found w0"),
        ({"w0": W, "b0": B, "w2": W, "b2": B}, "expected w0, b0"),
        ({"w0": W, "b0": B, "scale": B}, "found b0, scale, w0"),
        ({}, "found nothing"),
        ({"w0": W * np.nan, "b0": B}, "layer 0: weights: expected finite"),
        ({"w0": np.array([["x"]]), "b0": B}, "expected numbers"),
        ({"w0": W, "b0": B, "activations": np.array(["relu", "relu"])}, "expected 1 texts"),
        ({"w0": W, "b0": B, "activations": np.array([1.0])}, "expected 1 texts"),
        ({"w0": W, "b0": B, "activations": np.array(["swish"])}, "found 'swish'"),
        ({"w0": W, "b0": B, "steepness": np.array([1.0, 2.0])}, "expected 1 numbers"),
        ({"w0": W, "b0": B, "steepness": np.array(["1"])}, "expected 1 numbers"),
        ({"w0": W, "b0": B, "steepness": np.array([np.nan])}, "layer 0: steepness: expected at most"),
        ({"w0": np.array([[object()]]), "b0": B}, "expected a .npz file of plain arrays"),
    ],
)
def test_npz_refuses_what_is_no_model_and_names_the_file(tmp_path, arrays, text):
    path = _npz(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ModelError, match=text) as caught:
        load_npz(path)
    assert "bad.npz" in str(caught.value)


def test_npz_with_activations_refuses_others_beside(net, tmp_path):
    save_npz(net, tmp_path / "net.npz")
    with pytest.raises(ModelError, match="the file names its own"):
        load_npz(tmp_path / "net.npz", activation="relu")


def test_npz_of_too_many_arrays_is_refused_before_they_are_read(tmp_path):
    path = _npz(tmp_path / "many.npz", **{f"w{i}": B for i in range(2 * LAYERS_MAX + 3)})
    with pytest.raises(LimitError, match="LAYERS_MAX"):
        load_npz(path)


def test_npz_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(importers, "AF_SECTION_BYTES_MAX", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w0.npy", bytes(2 << 20))
    with pytest.raises(LimitError, match="AF_SECTION_BYTES_MAX"):
        load_npz(tmp_path / "bomb.npz")


def test_large_and_missing_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="absent.npz: cannot be read: No such file"):
        load_npz(tmp_path / "absent.npz")
    monkeypatch.setattr(importers, "MODEL_FILE_BYTES_MAX", 10)
    (tmp_path / "large.json").write_text(" " * 11)
    with pytest.raises(LimitError, match="MODEL_FILE_BYTES_MAX"):
        load_json(tmp_path / "large.json")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_broken_npz_files_give_no_other_errors(tmp_path, data):
    """A byte changed, or the end cut off, anywhere: a model, ModelError or LimitError, and nothing else."""
    buffer = io.BytesIO()
    np.savez(buffer, w0=W, b0=B)
    raw = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "mutant.npz"
    path.write_bytes(raw)
    try:
        load_npz(path)
    except (ModelError, LimitError):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[]", "expected {"),
        ('{"layers": 3}', "expected {"),
        ('{"layers": [{"weights": [[1]], "bias": [0]}]}', "expected {"),
        ('{"layers": [{"weights": [[1]], "bias": [0], "activation": "relu"}], "x": 1}', "expected {"),
        ('{"layers": [{"weights": [[NaN]], "bias": [0], "activation": "relu"}]}', "finite"),
        ('{"layers": [{"weights": [[1], [2, 3]], "bias": [0], "activation": "relu"}]}', "layer 0: weights"),
        ('{"layers": [{"weights": {}, "bias": [0], "activation": "relu"}]}', "layer 0: weights"),
        ('{"layers": [{"weights": [[1]], "bias": [0], "activation": 3}]}', "found 3"),
        ('{"layers": [{"weights": [[1]], "bias": [0], "activation": "relu", "x": 3}]}', "expected {"),
        *[
            (f'{{"layers": [{{"weights": [[1]], "bias": [0], "activation": "relu", "steepness": {value}}}]}}', text)
            for value, text in (
                ("true", "layer 0: steepness: expected a number, found True"),
                ('"1"', "steepness: expected a number"),
                ("null", "steepness: expected a number"),
                ("1e7", r"at most \+-1e\+06, found 1"),
                ("NaN", "found nan"),
                ("1" + "0" * 400, "at most"),
            )
        ],
        ('{"layers": [{"weights": [[1]], "bias": [0], "activation": []}]}', r"found \[\]"),
    ],
)
def test_json_refuses_what_is_no_model(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_json(tmp_path / "bad.json")


def test_json_without_layers_is_past_a_bound(tmp_path):
    (tmp_path / "empty.json").write_text(json.dumps({"layers": []}))
    with pytest.raises(LimitError, match="LAYERS_MAX"):
        load_json(tmp_path / "empty.json")


def test_sklearn_classifier_and_regressor_answer_alike():
    neural = pytest.importorskip("sklearn.neural_network")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 4))
    three = np.arange(60) % 3
    for estimator, labels in (
        (neural.MLPClassifier(hidden_layer_sizes=(8, 5), activation="tanh", max_iter=5, random_state=1), three),
        (neural.MLPClassifier(hidden_layer_sizes=(8,), activation="logistic", max_iter=5, random_state=1), three > 0),
        (neural.MLPRegressor(hidden_layer_sizes=(6,), activation="relu", max_iter=5, random_state=1), rows[:, 0]),
        (neural.MLPRegressor(hidden_layer_sizes=(6,), activation="identity", max_iter=5, random_state=1), rows[:, :2]),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # five rounds do not converge, nor need they
            estimator.fit(rows, labels)
        answers = reference.forward(from_sklearn(estimator), rows.astype(np.float32))
        if hasattr(estimator, "predict_proba"):
            expected = estimator.predict_proba(rows)[:, -answers.shape[1] :]
        else:
            expected = estimator.predict(rows).reshape(len(rows), -1)
        assert answers == pytest.approx(expected, abs=1e-5)


def test_sklearn_objects_that_are_untrained_or_unknown_are_refused():
    good = {"coefs_": [W], "intercepts_": [B], "activation": "relu", "out_activation_": "identity"}
    assert from_sklearn(SimpleNamespace(**good)).activations == ("linear",)
    for name in good:
        bad = SimpleNamespace(**{key: value for key, value in good.items() if key != name})
        with pytest.raises(ModelError, match=f"expected a trained network with `{name}`"):
            from_sklearn(bad)
    with pytest.raises(ModelError, match="activation: expected one of identity, logistic"):
        from_sklearn(SimpleNamespace(**{**good, "activation": "gelu"}))
