"""Kernels of graphs against the float64 definition: shortcut nets, tensors inside tensors, one row or many."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_graph, faults, lower_f32, pack_weights, unpack_graph
from edgeswarm.compile.kernel import schedule_graph
from edgeswarm.compile.places import Places
from edgeswarm.errors import ModelError
from edgeswarm.model import Dense, random_mlp, random_rows
from edgeswarm.model.graph import Builder, Graph, Tensor, forward, graph_of
from edgeswarm.model.shortcut import Shortcut, forward_shortcut

NAMES = ("sigmoid", "tanh", "relu", "linear", "softmax")


def shortcut(inputs: int, widths: list[int], outputs: int | None = None, seed: int = 1) -> Shortcut:
    random = np.random.default_rng(seed)
    layers, width = [], inputs
    for index, units in enumerate(widths):
        weights = random.normal(size=(width, units)).astype(np.float32) / np.float32(np.sqrt(width))
        bias = random.normal(size=units).astype(np.float32)
        layers.append(Dense(weights, bias, NAMES[(index + seed) % len(NAMES)]))
        width += units
    return Shortcut(inputs, tuple(layers), outputs or widths[-1])


def agrees(load, graph: Graph, *, mode: str = "fast", arch: str = "x86-64", batch_max: int = 40) -> None:
    runner = load(compile_graph(graph, batch_max=batch_max, mode=mode, arch=arch))
    start, end = runner.layout.regions()["weights"]
    runner.memory[:start] = 0xFF
    runner.memory[end:] = 0xFF
    rows = random_rows(batch_max, graph.tensors[graph.input].size, seed=3)
    many = runner.many(rows)
    assert faults(forward(graph, rows).astype(np.float32), many) == ""
    for index in {0, batch_max // 2, batch_max - 1}:
        assert (runner.one(rows[index]) == many[index]).all()


@settings(max_examples=50, deadline=None)
@given(
    inputs=st.integers(1, 40),
    widths=st.lists(st.one_of(st.just(1), st.integers(1, 19)), min_size=1, max_size=9),
    data=st.data(),
)
def test_shortcut_nets_agree_with_the_reference(load, inputs, widths, data):
    outputs = data.draw(st.sampled_from([widths[-1], data.draw(st.integers(1, sum(widths)))]))
    net = shortcut(inputs, widths, outputs, seed=data.draw(st.integers(0, 50)))
    graph = graph_of(net)
    rows = random_rows(3, inputs, seed=1)
    assert np.abs(forward(graph, rows) - forward_shortcut(net, rows)).max() < 1e-12
    mode, arch = (
        data.draw(st.sampled_from(["fast", "deterministic"])),
        data.draw(st.sampled_from(["x86-64", "aarch64"])),
    )
    agrees(load, graph, mode=mode, arch=arch, batch_max=data.draw(st.sampled_from([1, 3, 40])))


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
def test_a_cascade_of_many_single_neurons_agrees_with_the_reference(load, mode):
    agrees(load, graph_of(shortcut(21, [1] * 60 + [3])), mode=mode)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_graphs_of_any_form_agree_with_the_reference(load, data):
    """Dense, concat and slice in any order, tensors read twice, inputs in the middle, outputs of any kind."""
    builder = Builder(Tensor((data.draw(st.integers(1, 9)),)))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    for _ in range(data.draw(st.integers(1, 9))):
        tensors = range(len(builder.tensors))
        op = data.draw(st.sampled_from(["dense", "concat", "slice"]))
        x = data.draw(st.sampled_from(tensors))
        width = builder.tensors[x].size
        if op == "dense":
            units = data.draw(st.integers(1, 9))
            weights = (random.normal(size=(width, units)) / np.sqrt(width)).astype(np.float32)
            params = {"weights": weights, "bias": random.normal(size=units).astype(np.float32)}
            builder.add("dense", [x], params, units=units, activation=data.draw(st.sampled_from(NAMES)))
        elif op == "concat":
            inputs = data.draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=3))
            builder.add("concat", [x, *inputs])
        else:
            start = data.draw(st.integers(0, width - 1))
            builder.add("slice", [x], start=start, stop=data.draw(st.integers(start + 1, width)))
    graph = builder.graph(data.draw(st.integers(1, len(builder.tensors) - 1)))
    agrees(load, graph, batch_max=data.draw(st.sampled_from([1, 5, 40])))


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
@pytest.mark.parametrize("order", list(permutations(range(3))), ids=lambda order: "".join(map(str, order)))
def test_what_is_joined_in_another_order_than_computed_is_not_written_over(load, order, mode):
    """Kernels write whole vectors: a part that lies left of one that was there before it would reach into that."""
    builder, random = Builder(Tensor((5,))), np.random.default_rng(1)
    parts = []
    for units in (3, 2, 5):
        params = {"weights": random.normal(size=(5, units)), "bias": random.normal(size=units)}
        params = {name: value.astype(np.float32) for name, value in params.items()}
        parts.append(builder.add("dense", [0], params, units=units, activation="tanh"))
    inner = builder.add("concat", [parts[order[0]], parts[order[1]]])
    agrees(load, builder.graph(builder.add("concat", [inner, parts[order[2]]])), mode=mode, batch_max=7)


def test_concat_costs_nothing_in_a_shortcut_net():
    graph = graph_of(shortcut(7, [3, 1, 1, 5]))
    places = Places(graph)
    assert places.copies == set()
    assert len(places.buffers) == 2, "the growing row and the answer"
    assert [places.spots[i].offset for i in (0, 1, 3, 5)] == [0, 28, 40, 44]
    assert "copy" not in str(compile_graph(graph).layout)


def test_graphs_of_one_structure_share_their_code_and_only_they_share_weights():
    a, b, other = (graph_of(shortcut(5, widths, seed=seed)) for widths, seed in (([2, 3], 1), ([2, 3], 6), ([3, 2], 1)))
    first, second = compile_graph(a), compile_graph(b)
    assert first.wasm == second.wasm and first.weights != second.weights
    assert pack_weights(b, first.layout) == second.weights
    with pytest.raises(ModelError, match="of topology"):
        pack_weights(other, first.layout)
    again = unpack_graph(second.weights, a.outline)
    for x, y in zip(again.nodes, b.nodes, strict=True):
        assert all((x.params[name] == y.params[name]).all() for name in y.params)
    with pytest.raises(ModelError, match="weights: expected 256 bytes for a model of 3 nodes, found 255"):
        unpack_graph(second.weights[:-1], a.outline)
    with pytest.raises(ModelError, match="found 320"):
        unpack_graph(second.weights + bytes(64), a.outline)


def test_a_chain_that_is_a_graph_compiles_to_what_the_network_does():
    net = random_mlp([6, 9, 2], "tanh", "softmax")
    assert pack_weights(net, compile_graph(graph_of(net)).layout) == compile_graph(graph_of(net)).weights


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
@pytest.mark.parametrize("inputs", [31, 32, 33, 34, 35, 63, 64, 97, 127, 128, 257])
def test_layers_of_one_output_agree_with_the_reference_at_every_remainder(load, inputs, mode):
    agrees(load, graph_of(shortcut(inputs, [1, 1, 1, 3], seed=inputs)), mode=mode, batch_max=5)
    net = random_mlp([inputs, 1], "tanh", "softmax" if inputs % 2 else "sigmoid", seed=1)
    agrees(load, graph_of(net), mode=mode, batch_max=5)


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
def test_padding_of_a_dot_product_never_reaches_its_answer(load, mode):
    """What pads the weights, and what lies behind the row, is NaN; no answer changes."""
    graph = graph_of(random_mlp([37, 1], "tanh", "linear", seed=3))
    kernel = compile_graph(graph, batch_max=3, mode=mode)
    runner, rows = load(kernel), random_rows(3, 37, seed=1)
    clean = runner.many(rows)
    packed = np.frombuffer(kernel.weights, "<f4").copy()
    packed[packed == 0] = np.nan
    assert np.isnan(packed).sum() >= 6
    runner.set_weights(packed.tobytes())
    assert (runner.many(rows) == clean).all()


def test_planning_looks_at_each_layer_a_bounded_number_of_times(monkeypatch):
    looked, packed_of = [], lower_f32.packed_of

    def counted(outline, index):
        looked.append(index)
        return packed_of(outline, index)

    monkeypatch.setattr(lower_f32, "packed_of", counted)
    builder, at = Builder(Tensor((4,))), 0
    for _ in range(200):
        at = builder.dense(at, Dense(np.eye(4), np.zeros(4), "relu"))
    schedule_graph(builder.graph(at), batch_max=1)
    assert len(looked) <= 5 * 200
