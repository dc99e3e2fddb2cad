"""FANN's nets as models, against libfann's own answers, and back into files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fann_nets import ANSWERED, SMALL, answers, net_bytes

from edgeswarm.errors import ModelError
from edgeswarm.model import Dense, Mlp, graph, random_mlp, reference
from edgeswarm.model.fann import export
from edgeswarm.model.fann.convert import Converted, convert
from edgeswarm.model.fann.exact_net import exact_graph
from edgeswarm.model.fann.noise import spread, steady_rows
from edgeswarm.model.fann.parse import parse
from edgeswarm.model.fann.section import imported
from edgeswarm.model.fann.write import write

SENSITIVE = "thyroid_cascade2_final"
"""libfann's own answers are up to 9e-6 off what the numbers of this file say, over the whole test set."""


def forward(made: Converted, rows: np.ndarray) -> np.ndarray:
    if isinstance(made.model, Mlp):
        return reference.forward(made.model, rows)
    return graph.forward(made.model, rows)


def layers_of(made: Converted) -> list[Dense]:
    return [stage.dense for stage in made.stages]


@pytest.mark.parametrize("name", ANSWERED)
def test_a_net_computes_what_libfann_computes(name: str) -> None:
    """To 1e-6 of the largest answer; but for one net, of which float32 itself makes more (see below)."""
    net = parse(net_bytes(name))
    rows, expected = answers(name, net.inputs)
    made = convert(net, scaled=net.scaled)
    worst = float(np.abs(forward(made, rows) - expected).max())
    assert worst <= 1e-6 * max(1.0, float(np.abs(expected).max())) or (name == SENSITIVE and worst < 1e-5)


def test_the_noise_of_float32_is_large_where_weights_are() -> None:
    """What golden vectors' tolerance follows: a net with a weight of 945 behind a cosine, and a mild one."""
    for name, low, high in [(SENSITIVE, 1e-5, 1e-1), ("thyroid_init", 1e-8, 1e-6)]:
        rows, _ = answers(name, 21)
        assert low < spread(convert(parse(net_bytes(name))), rows.astype(float), 1).max() < high


def test_golden_rows_are_those_that_rounding_moves_least() -> None:
    made = convert(parse(net_bytes(SENSITIVE)))
    golden, moved, usual = steady_rows(made, 8, 128, seed=1)
    assert golden.shape == (8, 21 + 3)
    assert 0 < moved < usual / 4


def test_a_plain_net_is_an_mlp_and_others_are_graphs() -> None:
    kinds = {name: type(convert(parse(net_bytes(name))).model).__name__ for name in SMALL}
    assert {name for name, kind in kinds.items() if kind == "Graph"} >= {"shortcut", "cascade", "mixed"}
    assert {name for name, kind in kinds.items() if kind == "Mlp"} >= {
        "trained",
        "sparse",
        "one_layer",
        "fixed",
        "steep",
    }


def test_sums_are_held_within_libfanns_bound_only_where_it_shows() -> None:
    held = {name: convert(parse(net_bytes(name))).held for name in SMALL}
    assert held["large_sums"] == 8
    assert held["steep"] == 5
    assert held["trained"] == held["one_layer"] == held["activation_00"] == 0


def test_a_fixed_point_net_is_the_floating_point_one_rounded() -> None:
    """`fixed` is `trained`, written by fann_save_to_fixed."""
    fixed, float_ = (parse(net_bytes(name)) for name in ("fixed", "trained"))
    rows, expected = answers("trained", 2)
    assert np.abs(forward(convert(fixed), rows) - expected).max() < 200 / fixed.multiplier
    assert (np.abs(fixed.weights / fixed.multiplier - float_.weights) <= 0.5 / fixed.multiplier).all()


def test_scaling_is_folded_in_only_when_asked_and_only_where_there_is_one() -> None:
    net = parse(net_bytes("scaled"))
    rows, expected = answers("scaled", 3)
    assert np.abs(forward(convert(net), rows) - expected).max() > 1
    with pytest.raises(ModelError, match="scale_included: expected 1"):
        convert(parse(net_bytes("trained")), scaled=True)
    flat = net.parameters | {"scale_deviation_in": (0.0, 1.0, 1.0)}  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"scale_deviation_in\[0\]: expected another number than 0"):
        convert(replace(net, parameters=flat), scaled=True)


def test_a_neuron_without_connections_is_a_bias_of_one() -> None:
    """The last neuron of the hidden layer feeds nothing but its 1; so does one in its midst, as libfann has it."""
    net = parse(net_bytes("one_layer"))
    counts = net.num_inputs.copy()
    counts[6] = 0
    inputs = net.parameters | {"connection_rate": 0.5}  # type: ignore[operator]
    cut = replace(net, parameters=inputs, num_inputs=counts, sources=net.sources[6:], weights=net.weights[6:])
    rows = np.random.default_rng(1).uniform(-1, 1, (4, 5))
    found, whole = forward(convert(parse(write(cut))), rows), forward(convert(net), rows)
    assert (found[:, 0] == 1).all()
    assert np.allclose(found[:, 1:], whole[:, 1:], atol=1e-12)


# --- back ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_unchanged_weights_give_the_file_back(name: str) -> None:
    data = net_bytes(name)
    net = parse(data)
    for scaled in {False, net.scaled}:
        item = imported(data, scaled=scaled)
        assert export.export(item, layers_of(convert(net, scaled=scaled))) == (data, 0)


@pytest.mark.parametrize(
    "name", sorted({"sparse", "shortcut", "cascade", "mixed", "trained", "fixed", "activation_10"})
)
def test_changed_weights_come_out_where_they_belong(name: str) -> None:
    """Every weight that is not 0 becomes another: the exported file, read again, has the layers that were given."""
    item = imported(net_bytes(name))
    made = convert(item.net)
    layers = layers_of(made)
    for index in set(made.stage.tolist()) - {-1}:  # a stage that only puts outputs in order has no connection
        w, b, kind = parts(made)[index]
        layers[index] = Dense(w * np.float32(1.25), b * np.float32(0.75), kind)
    data, changed = export.export(item, layers)
    again = convert(parse(data))
    assert changed == np.count_nonzero(item.net.weights * made.scale)  # stepwise Gauss has a scale of 0
    unit = 1 / item.net.multiplier if item.net.fixed else 0
    for (w, b, _), layer in zip(parts(again), layers, strict=True):
        assert np.allclose(w, layer.weights, rtol=3e-7, atol=unit)
        assert np.allclose(b, layer.bias, rtol=3e-7, atol=unit)


def parts(made: Converted) -> list[tuple[np.ndarray, np.ndarray, str]]:
    return [(*layer.folded, layer.activation) for layer in layers_of(made)]


def test_one_changed_weight_leaves_the_digits_of_the_others() -> None:
    data = net_bytes("activation_10")
    item = imported(data)
    layers = layers_of(convert(item.net))
    weights = layers[0].weights.copy()
    weights[1, 2] += 0.5
    layers[0] = Dense(weights, layers[0].bias, layers[0].activation)
    changed, count = export.export(item, layers)
    assert count == 1
    here, there = data.decode().split(" "), changed.decode().split(" ")
    assert sum(a != b for a, b in zip(here, there, strict=True)) == 1


@pytest.mark.parametrize("number", [1e300, 3e38, 1e-30, 1e-300, 5e-324])
@pytest.mark.parametrize("name", SMALL)
def test_numbers_at_the_ends_of_a_double_are_computed_or_refused_without_a_warning(name: str, number: float) -> None:
    """Warnings are errors here; libfann's own arithmetic exists for what a float32 holds alone."""
    net = parse(net_bytes(name))
    for field in ("weights", "steepness"):
        values = getattr(net, field).copy()
        values[-2 if field == "steepness" else 0] = number
        changed = replace(net, **{field: values})
        if changed.fixed:
            continue
        exact = exact_graph(changed)
        assert exact is None or (number != 1e300 and (field, number) not in {("weights", 5e-324), ("weights", 1e-300)})
        try:
            forward(convert(changed), np.ones((2, net.inputs)))
        except ModelError as error:
            assert "float32" in str(error) or "finite" in str(error)


def test_what_a_net_cannot_hold_is_refused() -> None:
    item = imported(net_bytes("sparse"))
    layers = layers_of(convert(item.net))
    grown = [Dense(layer.weights + 1, layer.bias, layer.activation) for layer in layers]
    with pytest.raises(ModelError, match="changed where the net has no connection"):
        export.export(item, grown)
    with pytest.raises(ModelError, match="expected the layers of the imported net"):
        export.export(item, layers[:-1])
    scaled = imported(net_bytes("scaled"), scaled=True)
    moved = [Dense(w * 2, b, kind) for w, b, kind in parts(convert(scaled.net, scaled=True))]
    with pytest.raises(ModelError, match="hold the net's scaling"):
        export.export(scaled, moved)
    fixed = imported(net_bytes("fixed"))
    huge = [Dense(w * np.float32(1e6), b, kind) for w, b, kind in parts(convert(fixed.net))]
    with pytest.raises(ModelError, match="fit 32 bits"):
        export.export(fixed, huge)


@pytest.mark.parametrize("activation", sorted(export.TO_FANN))
def test_a_model_that_never_was_a_net_becomes_one(activation: str) -> None:
    model = random_mlp([3, 5, 2], activation, "linear", 4)
    net = parse(write(export.fresh(model)))
    rows = np.random.default_rng(2).uniform(-3, 3, (20, 3))
    assert net.layer_sizes == (4, 6, 3)
    assert np.abs(forward(convert(net), rows) - reference.forward(model, rows)).max() < 1e-6


@pytest.mark.parametrize("activation", ["relu", "softmax", "gelu", "leaky_relu", "relu6"])
def test_an_activation_that_libfann_has_not_is_refused(activation: str) -> None:
    with pytest.raises(ModelError, match=f"layer 1: {activation} has no counterpart in libfann 2.2"):
        export.fresh(random_mlp([3, 5, 2], "tanh", activation, 4))
