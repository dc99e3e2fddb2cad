"""A kernel opened up: its steps are the kernel's, its tensors the model's, and a wrong layer is found by its number."""

from __future__ import annotations

import numpy as np
import pytest

from edgeswarm.compile import layer_times
from edgeswarm.compile.layer_errors import compare, first_divergent
from edgeswarm.compile.layer_times import ROUNDS_MIN, measure
from edgeswarm.compile.opened import Opened
from edgeswarm.compile.schedule import node_weights
from edgeswarm.errors import InputError, LimitError
from edgeswarm.model import random_mlp, random_rows
from edgeswarm.model.costs import cost, described
from edgeswarm.model.graph import Builder, Graph, Tensor, evaluate, graph_of

DEADLINE_S = 30.0


def mixed() -> Graph:
    """Floats, whole numbers and floats again; the input is a part of what the last layer reads."""
    rng = np.random.default_rng(3)
    builder = Builder(Tensor((20,)))
    q = builder.add("quantize", [0], like=Tensor((1,), "i8", 1 / 60, 1))
    params = {
        "weights": rng.integers(-127, 128, (20, 33)).astype(np.int8),
        "bias": rng.integers(-3000, 3000, 33).astype(np.int32),
        "multiplier": (rng.random(33) * 1e-3 + 1e-5).astype(np.float32),
    }
    like = Tensor((1,), "i8", 0.02, -5)
    hidden = builder.add("dense_i8", [q], params, like=like, units=33, activation="relu")
    both = builder.add("concat", [0, builder.add("dequantize", [hidden])])
    weights = {"weights": rng.standard_normal((53, 7)).astype(np.float32), "bias": np.zeros(7, np.float32)}
    return builder.graph(builder.add("dense", [both], weights, units=7, activation="softmax"))


def test_every_tensor_is_what_the_definition_says() -> None:
    graph, row = mixed(), random_rows(1, 20, 5)[0]
    traced = Opened(graph).trace(row, deadline_s=DEADLINE_S)
    for index, expected in enumerate(evaluate(graph, row[None])):
        assert traced[index].shape == graph.tensors[index].shape
        np.testing.assert_allclose(traced[index].astype(np.float64), expected[0], rtol=1e-4, atol=1e-5)
    assert first_divergent(compare(graph, row, traced)) is None


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
def test_the_steps_one_by_one_answer_as_one_run(mode: str) -> None:
    graph = graph_of(random_mlp([40, 64, 33, 3], "tanh", "softmax", 1))
    row = random_rows(1, 40, 2)[0]
    opened = Opened(graph, mode=mode)
    stepped = opened.trace(row, deadline_s=DEADLINE_S)[graph.output]
    opened.memory[opened.layout.output.offset :][:12] = 0
    with opened.bounded(DEADLINE_S):
        opened.set_input(row)
        opened.function("run")()
    np.testing.assert_array_equal(opened.tensor(graph.output), stepped)


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_the_first_layer_with_wrong_weights_is_named_and_no_later_one(broken: int) -> None:
    graph, row = graph_of(random_mlp([30, 20, 20, 5], "relu", "linear", 4)), random_rows(1, 30, 1)[0]
    opened = Opened(graph)
    at, _ = node_weights(graph)[broken]
    region = opened.layout.weights.offset + at
    opened.memory[region : region + 4].view(np.float32)[:] += 1.0  # a bias of the first output
    errors = compare(graph, row, opened.trace(row, deadline_s=DEADLINE_S))
    assert [error.diverges for error in errors] == [index == broken for index in range(3)]
    found = first_divergent(errors)
    assert found is not None and found.node == broken and found.at == (0,)
    assert all(error.drift > 1e-2 for error in errors[broken:]), "what follows drifts, through no fault of its own"


def test_a_value_that_is_not_a_number_diverges() -> None:
    graph, row = graph_of(random_mlp([4, 4, 2], "linear", "linear", 4)), np.ones(4, np.float32)
    traced = Opened(graph).trace(row, deadline_s=DEADLINE_S)
    traced[1] = traced[1].copy()
    traced[1][2] = np.nan
    found = first_divergent(compare(graph, row, traced))
    assert found is not None and (found.node, found.at, found.error) == (0, (2,), np.inf)


def test_an_int8_tensor_that_is_off_by_one_diverges_where_the_arithmetic_is_whole() -> None:
    graph, row = mixed(), random_rows(1, 20, 5)[0]
    traced = Opened(graph).trace(row, deadline_s=DEADLINE_S)
    traced[2] = traced[2] + np.int8(2)  # of dense_i8, which float32 may round by one to the other side
    found = first_divergent(compare(graph, row, traced))
    assert found is not None and found.node == 1


def test_every_step_gets_a_time_and_belongs_to_one_layer() -> None:
    graph = mixed()
    times = measure(Opened(graph), random_rows(1, 20, 5)[0], seconds=0.01, deadline_s=DEADLINE_S)
    assert times.rounds >= ROUNDS_MIN and len(times.layers) == len(graph.nodes) == len(times.steps)
    assert sum(map(len, times.steps)) == len(Opened(graph).schedule.steps)
    assert times.whole.median_ns > 0 and times.sum_ns > 0
    assert times.steps[2] and times.layers[2].median_ns >= 0


def test_samples_are_bounded_however_long_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = mixed()
    steps = len(Opened(graph).schedule.steps)
    monkeypatch.setattr(layer_times, "SAMPLES_MAX", 40 * (steps + 2))
    assert measure(Opened(graph), np.zeros(20), seconds=5.0, deadline_s=DEADLINE_S).rounds == 40


def test_a_row_of_another_width_and_a_run_past_its_time_are_refused() -> None:
    opened = Opened(graph_of(random_mlp([40, 64, 3], "tanh", "softmax", 1)))
    with pytest.raises(InputError, match="expected 40 values, found 39"):
        opened.trace(np.zeros(39), deadline_s=DEADLINE_S)
    with pytest.raises(LimitError, match="within"):
        measure(opened, np.zeros(40), seconds=DEADLINE_S, deadline_s=0.05)


def test_costs_are_counted_from_the_structure_alone() -> None:
    graph = mixed()
    dense = cost(graph.outline, 4)
    assert (dense.macs, dense.parameters, dense.param_bytes, dense.output_bytes) == (371, 378, 1512, 28)
    assert cost(graph.outline, 3).macs == 0
    assert cost(graph.outline, 1).param_bytes == 20 * 33 + 8 * 33
    assert [described(node) for node in graph.nodes] == [
        "quantize",
        "dense_i8 relu",
        "dequantize",
        "concat",
        "dense softmax",
    ]
