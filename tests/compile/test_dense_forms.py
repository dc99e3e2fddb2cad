"""8-bit dense layers take the form that their weights allow, and each form gives the same bits on any machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conv_i8_cases import answers, made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_graph, compile_mlp, pack_weights, schedule
from edgeswarm.compile.pack_conv_i8 import pack, unpack
from edgeswarm.compile.shape_conv_i8 import FORM, shape_of
from edgeswarm.errors import ModelError
from edgeswarm.model import random_mlp
from edgeswarm.model.graph import Graph

Load = Callable[..., Any]
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def dense(inputs: int, units: int, deviation: float, *, seed: int = 0, wild: int = 0, **more: Any) -> Graph:
    """Normal weights of that deviation, the same in a wild number of places but the largest that there are."""
    graph = made("dense_tflite", (inputs,), channels=units, seed=seed, **more)
    rng = np.random.default_rng(seed)
    weights = np.clip(np.rint(rng.normal(0, deviation, (inputs, units))), -127, 127).astype(np.int8)
    weights.reshape(-1)[rng.integers(0, weights.size, wild)] = rng.choice(np.array([127, -127, -128], np.int8), wild)
    nodes = [
        replace(node, params={**node.params, "weights": weights}) if node.op == "dense_tflite" else node
        for node in graph.nodes
    ]
    return Graph(graph.tensors, nodes, graph.input, graph.output)


def form_of(graph: Graph) -> int:
    index = next(index for index, node in enumerate(graph.nodes) if node.op == "dense_tflite")
    packed = pack(shape_of(graph.outline, index), graph.nodes[index].params)
    return int(np.frombuffer(packed, "<i4", 1, FORM)[0])


@pytest.mark.parametrize(("deviation", "form"), [(6, 2), (18, 2), (32, 1), (70, 0)])
def test_small_weights_are_summed_in_longer_rows(load: Load, load_signed: Load, deviation: float, form: int) -> None:
    graph = dense(640, 64, deviation)
    assert form_of(graph) == form
    answers(load, graph)
    answers(load_signed, graph)


@QUICK
@given(
    inputs=st.integers(1, 300) | st.sampled_from([640, 1024, 1040, 2080]),
    units=st.integers(1, 40),
    deviation=st.sampled_from([1, 5, 12, 20, 30, 60]),
    wild=st.integers(0, 20),
    seed=st.integers(0, 99),
)
def test_every_form_gives_the_bits_of_the_definition_however_a_machine_reads_bit_7(
    load: Load, load_signed: Load, inputs: int, units: int, deviation: float, wild: int, seed: int
) -> None:
    graph = dense(inputs, units, deviation, seed=seed, wild=wild, zeros=((seed * 37) % 256 - 128, seed % 250 - 125))
    answers(load, graph)
    answers(load_signed, graph, rows=3)


def test_weights_of_any_form_are_swapped_under_one_kernel(load: Load) -> None:
    graphs = [dense(128, 32, deviation, seed=3) for deviation in (2, 32, 80)]
    assert {form_of(graph) for graph in graphs} == {0, 1, 2}
    kernels = [compile_graph(graph, batch_max=1) for graph in graphs]
    assert len({kernel.wasm for kernel in kernels}) == 1
    runner = load(kernels[0])
    for graph, kernel in zip(graphs, kernels, strict=True):
        weights = pack_weights(graph, runner.layout)
        assert weights == kernel.weights
        runner.set_weights(weights)
        row = np.random.default_rng(0).uniform(-60, 60, 128).astype(np.float32)
        np.testing.assert_array_equal(runner.one(row), load(kernel).one(row))


def test_a_layer_of_more_outputs_than_entries_can_name_keeps_all_of_its_weights() -> None:
    graph = dense(2, 65_540, 5)
    assert form_of(graph) == 0
    index = next(index for index, node in enumerate(graph.nodes) if node.op == "dense_tflite")
    shape = shape_of(graph.outline, index)
    again = unpack(shape, pack(shape, graph.nodes[index].params))
    np.testing.assert_array_equal(again["weights"].reshape(2, -1), graph.nodes[index].params["weights"])


@pytest.mark.parametrize(
    ("at", "value", "text"),
    [
        (FORM + 4, -8, "at most .* bytes of a rest, found -8"),
        (FORM + 4, 1 << 30, "at most .* bytes of a rest"),
        (FORM + 4, 12, "8 bytes an entry, found 12"),
        (None, 0xFFFF, "a rest for 64 inputs and 16 outputs, found one for more"),
    ],
)
def test_a_rest_that_nobody_packed_is_refused(at: int | None, value: int, text: str) -> None:
    graph = dense(64, 16, 5, wild=6)
    index = next(index for index, node in enumerate(graph.nodes) if node.op == "dense_tflite")
    shape = shape_of(graph.outline, index)
    packed = bytearray(pack(shape, graph.nodes[index].params))
    assert form_of(graph) == 2
    place = shape.rest_at if at is None else at
    packed[place : place + 4] = np.array([value], "<i4").tobytes()
    with pytest.raises(ModelError, match=text):
        unpack(shape, bytes(packed))


def test_weights_of_another_packing_are_of_another_topology(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be equally long, and the kernel would misread them."""
    eight, floats = dense(64, 16, 5), random_mlp([4, 3], "relu", "linear", 1)
    before = compile_graph(eight, batch_max=1).layout.topology, compile_mlp(floats).layout.topology
    monkeypatch.setattr(schedule, "PACKING_I8", schedule.PACKING_I8 + 1)
    after = compile_graph(eight, batch_max=1).layout.topology, compile_mlp(floats).layout.topology
    assert before[0] != after[0] and before[1] == after[1]
