"""Pointwise 8-bit convolutions whose weights lie as bytes: the same bits, whichever way a machine reads bit 7."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conv_i8_cases import answers, made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_graph, pack_weights, unpack_graph
from edgeswarm.compile.held import REST_BYTES, REST_INDEX_MAX
from edgeswarm.compile.pack_conv_i8 import pack, unpack
from edgeswarm.compile.pack_places_i8 import REST_LENGTH, STEPS, has_bytes, rest_at
from edgeswarm.compile.shape_conv_i8 import FORM, shape_of
from edgeswarm.errors import ModelError
from edgeswarm.model.graph import Graph

Load = Callable[..., Any]
QUICK = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
KINDS = ("small", "few are large", "many are large", "one output", "worst that is held", "a little more")


def with_weights(graph: Graph, weights: np.ndarray) -> Graph:
    nodes = list(graph.nodes)
    params = dict(nodes[1].params) | {"weights": weights.reshape(nodes[1].params["weights"].shape).astype(np.int8)}
    nodes[1] = replace(nodes[1], params=params)
    return Graph(graph.tensors, tuple(nodes), graph.input, graph.output)


def weights_of(kind: str, inputs: int, outputs: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-20, 21, (inputs, outputs))
    if kind == "few are large":
        at = rng.integers(0, weights.size, max(1, weights.size // 150))
        weights.reshape(-1)[at] = rng.choice([-128, 127], len(at))
    elif kind == "many are large":
        weights = rng.integers(-128, 128, (inputs, outputs))
    elif kind == "one output":
        weights[:, rng.integers(outputs)] = rng.choice([-128, 127])
    elif kind == "worst that is held":  # what is summed in 16 bits meets both ends of them
        weights[:] = 0
        weights[:: 4 * STEPS], weights[1 :: 4 * STEPS], weights[4 :: 4 * STEPS] = 127, -128, 1
    elif kind == "a little more":
        weights[:, :1] = 0
        weights[:: 4 * STEPS, 0], weights[4 :: 4 * STEPS, 0] = 127, 2
    return weights


def form_of(graph: Graph) -> int:
    packed = pack(shape_of(graph.outline, 1), graph.nodes[1].params)
    return int(np.frombuffer(packed, "<i4", 1, FORM)[0])


@pytest.fixture
def both(load: Load, load_signed: Load) -> list[Load]:
    """Loads a kernel on a machine to which bit 7 is no sign (x86), and on one to which it is."""
    return [load, load_signed]


@QUICK
@given(
    st.sampled_from(["conv2d_i8", "rows_tflite"]),
    st.tuples(st.integers(1, 5), st.integers(1, 7)),
    st.integers(64, 300),
    st.sampled_from([1, 3, 4, 8, 13, 16, 20, 37, 64]),
    st.sampled_from(KINDS),
    st.sampled_from([(-128, -128), (127, 127), (0, 0), (3, -5)]),
    st.integers(0, 1 << 16),
)
def test_any_shape_and_any_weights_on_either_machine(
    both: list[Load], op: str, size: tuple[int, int], inputs: int, outputs: int, kind: str, zeros: Any, seed: int
) -> None:
    graph = made(op, (*size, inputs), channels=outputs, zeros=zeros, seed=seed)
    graph = with_weights(graph, weights_of(kind, inputs, outputs, seed))
    for load in both:
        answers(load, graph, rows=1 + seed % 2)


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
def test_the_form_follows_the_weights_and_the_code_does_not(both: list[Load], mode: str) -> None:
    graphs = [with_weights(made("conv2d_i8", (6, 7, 128), channels=36), weights_of(kind, 128, 36, 1)) for kind in KINDS]
    assert [form_of(graph) for graph in graphs] == [STEPS, STEPS, 0, 0, STEPS, STEPS]
    for graph in graphs:
        for load in both:
            answers(load, graph, mode=mode)
    kernels = [compile_graph(graph, mode=mode) for graph in graphs]
    assert len({kernel.wasm for kernel in kernels}) == 1
    for kernel, graph in zip(kernels, graphs, strict=True):  # weights of any form come in place of those of any other
        assert pack_weights(graph, kernels[0].layout) == kernel.weights
        again = unpack_graph(kernel.weights, graph.outline)
        assert (again.nodes[1].params["weights"] == graph.nodes[1].params["weights"]).all()


def test_a_rest_that_none_packed_is_refused() -> None:
    graph = with_weights(made("conv2d_i8", (4, 4, 64), channels=16), weights_of("few are large", 64, 16, 3))
    shape = shape_of(graph.outline, 1)
    packed = pack(shape, graph.nodes[1].params)
    length = int(np.frombuffer(packed, "<i4", 1, REST_LENGTH)[0])
    assert has_bytes(shape) and length >= REST_BYTES
    for wrong in (-8, 3, 1 << 30):
        bad = bytearray(packed)
        bad[REST_LENGTH : REST_LENGTH + 4] = np.int32(wrong).tobytes()
        with pytest.raises(ModelError, match="rest"):
            unpack(shape, bytes(bad))
    bad = bytearray(packed)
    bad[rest_at(shape) : rest_at(shape) + 2] = np.uint16(REST_INDEX_MAX).tobytes()
    with pytest.raises(ModelError, match="rest"):
        unpack(shape, bytes(bad))


def test_a_layer_of_more_outputs_than_entries_can_name_has_no_bytes() -> None:
    shape = shape_of(made("conv2d_i8", (2, 2, 64), channels=4).outline, 1)
    assert has_bytes(shape) and has_bytes(replace(shape, outputs=REST_INDEX_MAX))
    assert not has_bytes(replace(shape, outputs=REST_INDEX_MAX + 1))
