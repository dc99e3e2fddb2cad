"""Kernels of softmax as an operator, of tables and of pointwise operators: 8 bits to the bit, float32 closely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_graph, faults, pack_weights, unpack_graph
from edgeswarm.model import random_rows
from edgeswarm.model.graph import Builder, Graph, Tensor, forward

Load = Callable[..., Any]
QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=3).flatmap(
    lambda axes: st.integers(1, 70).map(lambda last: (*axes, last))
)


def answers(load: Load, graph: Graph, rows: np.ndarray, *, exact: bool, mode: str = "fast") -> None:
    expected = forward(graph, rows).astype(np.float32)
    for batch_max in (1, len(rows)):
        kernel = compile_graph(graph, batch_max=batch_max, mode=mode)
        runner = load(kernel)
        start, end = runner.layout.regions()["weights"]
        runner.memory[:start], runner.memory[end:] = 0xFF, 0xFF
        found = runner.many(rows) if batch_max > 1 else np.array([runner.one(row) for row in rows])
        if exact:
            np.testing.assert_array_equal(found, expected)
        else:
            assert faults(expected, found) == ""
    assert pack_weights(unpack_graph(kernel.weights, graph.outline), kernel.layout) == kernel.weights


@QUICK
@given(SHAPES, st.sampled_from([1.0, 0.5, 3.0]), st.booleans(), st.sampled_from(["fast", "deterministic"]))
def test_softmax_of_floats(load: Load, shape: tuple[int, ...], beta: float, inside: bool, mode: str) -> None:
    """inside: between two operators, where it may write over what it reads."""
    builder = Builder(Tensor(shape))
    at = builder.add("elementwise", [0], activation="tanh") if inside else 0
    at = builder.add("softmax", [at], beta=beta)
    if inside:
        at = builder.add("leaky", [at], slope=0.5)
    rows = random_rows(3, int(np.prod(shape)), seed=2) * np.float32(9)
    answers(load, builder.graph(at), rows, exact=False, mode=mode)


@QUICK
@given(SHAPES, st.floats(1e-4, 0.9), st.floats(0.1, 3), st.integers(0, 99))
def test_softmax_of_8_bits_is_the_definition_to_the_bit(
    load: Load, shape: tuple[int, ...], scale: float, beta: float, seed: int
) -> None:
    builder = Builder(Tensor(shape))
    q = builder.add("affine_quantize", [0], like=Tensor((1,), "i8", scale, 3))
    made = builder.add("softmax_i8", [q], like=Tensor((1,), "i8", 1 / 256, -128), beta=float(np.float32(beta)))
    rows = random_rows(3, int(np.prod(shape)), seed=seed) * np.float32(scale * 140)
    answers(load, builder.graph(builder.add("dequantize", [made])), rows, exact=True)


@pytest.mark.parametrize("width", [1, 2, 3, 4_095])
def test_softmax_of_8_bits_that_are_all_alike(load: Load, width: int) -> None:
    builder = Builder(Tensor((width,)))
    q = builder.add("affine_quantize", [0], like=Tensor((1,), "i8", 0.01, 3))
    made = builder.add("softmax_i8", [q], like=Tensor((1,), "i8", 1 / 256, -128), beta=1.0)
    answers(load, builder.graph(builder.add("dequantize", [made])), np.zeros((2, width), np.float32), exact=True)


@QUICK
@given(st.integers(1, 99), st.integers(0, 99))
def test_tables_of_8_bits(load: Load, values: int, seed: int) -> None:
    builder = Builder(Tensor((values,)))
    q = builder.add("affine_quantize", [0], like=Tensor((1,), "i8", 0.01, 3))
    table = np.random.default_rng(seed).integers(-128, 128, 256).astype(np.int8)
    made = builder.add("lookup_i8", [q], {"table": table}, like=Tensor((1,), "i8", 0.5, -9))
    answers(load, builder.graph(builder.add("dequantize", [made])), random_rows(2, values, seed) * 2, exact=True)


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
@pytest.mark.parametrize("scale", [0.1, 0.5, 1 / 3, 1e-30])
@pytest.mark.parametrize("zero", [-128, 0, 17])
def test_whole_numbers_are_made_as_tflite_rounds(load: Load, scale: float, zero: int, mode: str) -> None:
    """At halves and beside them, beyond the range, infinite and NaN."""
    scale = float(np.float32(scale))
    halves = ((np.arange(-300, 300) + 0.5) * scale).astype(np.float32)
    near = [np.nextafter(halves, np.float32(to)) for to in (-np.inf, np.inf)]
    special = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0, 1e-45], np.float32)
    row = np.concatenate([halves, *near, special])
    builder = Builder(Tensor((len(row),)))
    q = builder.add("affine_quantize", [0], like=Tensor((1,), "i8", scale, zero))
    answers(load, builder.graph(builder.add("dequantize", [q])), np.stack([row, row]), exact=True, mode=mode)


@QUICK
@given(st.integers(1, 40), st.sampled_from(["relu", "relu6", "tanh", "gelu", "linear"]), st.booleans())
def test_activations_and_leaky_by_themselves(load: Load, values: int, name: str, leaky: bool) -> None:
    builder = Builder(Tensor((values, 2)))
    at = builder.add("elementwise", [0], activation=name)
    at = builder.add("leaky", [at], slope=-0.3) if leaky else at
    answers(load, builder.graph(at), random_rows(3, values * 2, seed=1) * np.float32(8), exact=False)
