"""8-bit operators in a graph: kernels answer what model.ops says, wherever tensors lie, and weights come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_graph, pack_weights, unpack_graph
from edgeswarm.errors import LocalError
from edgeswarm.model import random_rows
from edgeswarm.model.graph import Builder, Graph, Tensor, forward

Load = Callable[..., Any]


def layer(rng: np.random.Generator, inputs: int, outputs: int) -> dict[str, np.ndarray]:
    return {
        "weights": rng.integers(-127, 128, (inputs, outputs)).astype(np.int8),
        "bias": rng.integers(-3000, 3000, outputs).astype(np.int32),
        "multiplier": (rng.random(outputs) * 1e-3 + 1e-5).astype(np.float32),
    }


def chain(sizes: list[int], dtype: str, names: tuple[str, ...], seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    zero = 3 if dtype == "u7" else -5
    builder = Builder(Tensor((sizes[0],)))
    at = builder.add("quantize", [0], like=Tensor((1,), dtype, 1 / 60, 63 if dtype == "u7" else 1))
    for index, units in enumerate(sizes[1:]):
        last = index == len(sizes) - 2
        like = None if last else Tensor((1,), dtype, 0.02, zero)
        name = names[index % len(names)]
        at = builder.add("dense_i8", [at], layer(rng, sizes[index], units), like=like, units=units, activation=name)
    return builder.graph(at)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 70), min_size=2, max_size=4),
    st.sampled_from(["u7", "i8"]),
    st.sampled_from([("relu", "linear"), ("linear",)]),
    st.integers(1, 40),
    st.integers(0, 999),
)
def test_a_chain_answers_as_its_definition_to_the_bit(
    load: Load, sizes: list[int], dtype: str, names: tuple[str, ...], count: int, seed: int
) -> None:
    graph, rows = chain(sizes, dtype, names, seed), random_rows(count, sizes[0], seed)
    kernel = compile_graph(graph, batch_max=40)
    runner = load(kernel)
    expected = forward(graph, rows).astype(np.float32)
    np.testing.assert_array_equal(runner.many(rows), expected)
    np.testing.assert_array_equal(runner.one(rows[0]), expected[0])


@pytest.mark.parametrize("dtype", ["u7", "i8"])
def test_weights_packed_and_unpacked_are_the_same(dtype: str) -> None:
    graph = chain([33, 18, 70, 5], dtype, ("relu", "tanh"), 1)
    kernel = compile_graph(graph, batch_max=4)
    back = unpack_graph(kernel.weights, graph.outline)
    assert pack_weights(back, kernel.layout) == kernel.weights
    for node, other in zip(graph.nodes, back.nodes, strict=True):
        assert set(node.params) == set(other.params)
        for name, values in node.params.items():
            np.testing.assert_array_equal(values, other.params[name])


@pytest.mark.parametrize("dtype", ["u7", "i8"])
def test_activations_in_float_end_within_a_step(load: Load, dtype: str) -> None:
    graph, rows = chain([20, 30, 9, 4], dtype, ("tanh", "sigmoid"), 2), random_rows(30, 20, 2)
    found = load(compile_graph(graph, batch_max=30)).many(rows)
    np.testing.assert_allclose(found, forward(graph, rows), atol=0.02 * 127 * 1e-3)


@pytest.mark.parametrize("dtype", ["u7", "i8"])
def test_whole_numbers_joined_cut_and_given_back(load: Load, dtype: str) -> None:
    """Widths that fill no vector, so that what a kernel writes behind a tensor meets its neighbour."""
    rng = np.random.default_rng(3)
    like = Tensor((1,), dtype, 0.05, 9)
    builder = Builder(Tensor((13,)))
    q = builder.add("quantize", [0], like=like)
    first = builder.add("dense_i8", [q], layer(rng, 13, 7), like=like, units=7, activation="relu")
    both = builder.add("concat", [q, first], like=like)
    second = builder.add("dense_i8", [both], layer(rng, 20, 5), like=like, units=5, activation="linear")
    all_of = builder.add("concat", [both, second], like=like)
    part = builder.add("slice", [all_of], like=like, start=11, stop=25)
    graph = builder.graph(builder.add("dequantize", [part]))
    rows = random_rows(33, 13, 3)
    runner = load(compile_graph(graph, batch_max=33))
    expected = forward(graph, rows).astype(np.float32)
    np.testing.assert_allclose(runner.many(rows), expected, rtol=1e-6)
    np.testing.assert_allclose(runner.one(rows[5]), expected[5], rtol=1e-6)


def test_tensors_that_no_8_bit_kernel_takes_are_refused() -> None:
    builder = Builder(Tensor((4,)))
    q = builder.add("quantize", [0], like=Tensor((1,), "u8", 0.05, 9))
    with pytest.raises(LocalError, match="expected tensors of u7 or i8, found u8"):
        compile_graph(builder.graph(builder.add("dequantize", [q])), batch_max=1)
