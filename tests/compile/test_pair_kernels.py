"""Kernels of add and mul: 8 bits to the bit, float32 closely, with axes of 1 repeated, in place and not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_graph, faults
from edgeswarm.compile.kernel import schedule_graph
from edgeswarm.compile.lower_pairs import short_sum
from edgeswarm.model import random_rows
from edgeswarm.model.graph import Builder, Graph, Tensor, forward

Load = Callable[..., Any]
QUICK = settings(max_examples=35, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
SCALES = st.floats(1e-4, 0.9).map(lambda scale: float(np.float32(scale)))
ZEROS = st.integers(-128, 127)


def answers(load: Load, graph: Graph, *, exact: bool, mode: str = "fast", scale: float = 1.0) -> None:
    rows = random_rows(3, graph.tensors[graph.input].size, seed=6) * np.float32(scale)
    expected = forward(graph, rows).astype(np.float32)
    for batch_max in (1, 3):
        runner = load(compile_graph(graph, batch_max=batch_max, mode=mode))
        start, end = runner.layout.regions()["weights"]
        runner.memory[:start], runner.memory[end:] = 0xFF, 0xFF
        found = runner.many(rows) if batch_max == 3 else np.array([runner.one(row) for row in rows])
        if exact:
            np.testing.assert_array_equal(found, expected)
        else:
            assert faults(expected, found) == ""


def repeated(data: st.DataObject, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with some axes of 1."""
    return tuple(data.draw(st.sampled_from([1, side])) for side in shape)


def operands(builder: Builder, data: st.DataObject, shape: tuple[int, ...], like: list[Tensor]) -> list[int]:
    """Two tensors of shapes that are repeated to `shape`: of the input, one of them perhaps a constant, or the same."""
    kind = data.draw(st.sampled_from(["cut", "constant", "same"]))
    made = []
    for number in (0, 1):
        sides = shape if kind == "same" or not number else repeated(data, shape)
        dtype = like[number].dtype
        at = 0 if dtype == "f32" else builder.add("affine_quantize", [0], like=like[number])
        if kind == "constant" and number:
            value = np.random.default_rng(1).integers(-90, 90, sides).astype(np.float32 if dtype == "f32" else np.int8)
            at = builder.add("constant", [], {"value": value}, like=like[number], shape=sides, dtype=dtype)
        elif sides != shape:
            zeros = tuple(0 for _ in shape)
            attrs = {"start": zeros, "stop": sides, "step": tuple(1 for _ in shape)}
            at = builder.add("strided_slice", [at], like=like[number], **attrs)
        made.append(at)
    return [made[0], made[0]] if kind == "same" else data.draw(st.permutations(made))


@QUICK
@given(SHAPES, st.sampled_from(["add", "mul"]), st.sampled_from(["linear", "relu", "tanh"]), st.data())
def test_pairs_of_floats(load: Load, shape: tuple[int, ...], op: str, name: str, data: st.DataObject) -> None:
    builder = Builder(Tensor(shape))
    made = builder.add(op, operands(builder, data, shape, [Tensor((1,))] * 2), activation=name)
    if data.draw(st.booleans()):  # so that it may write over what it reads
        made = builder.add("transpose", [made], perm=tuple(reversed(range(len(shape)))))
    mode = data.draw(st.sampled_from(["fast", "deterministic"]))
    answers(load, builder.graph(made), exact=False, mode=mode)


@QUICK
@given(SHAPES, st.sampled_from(["add_i8", "mul_i8"]), st.lists(SCALES, min_size=3, max_size=3), st.data())
def test_pairs_of_8_bits_are_the_definition_to_the_bit(
    load: Load, shape: tuple[int, ...], op: str, scales: list[float], data: st.DataObject
) -> None:
    like = [Tensor((1,), "i8", scale, data.draw(ZEROS)) for scale in scales]
    builder = Builder(Tensor(shape))
    low = data.draw(st.sampled_from([-128, -128, 3]))
    pair = operands(builder, data, shape, like[:2])
    made = builder.add(op, pair, like=like[2], low=low, high=data.draw(st.sampled_from([127, 100])))
    answers(load, builder.graph(builder.add("dequantize", [made])), exact=True, scale=scales[0] * 140)


def every_pair(op: str, like: list[Tensor]) -> Graph:
    """A graph whose answer holds the op of every pair of 8-bit numbers."""
    builder = Builder(Tensor((256,)))
    column, line = (builder.add("affine_quantize", [0], like=like[number]) for number in (0, 1))
    column = builder.add("reshape", [column], like=like[0], shape=(256, 1))
    line = builder.add("reshape", [line], like=like[1], shape=(1, 256))
    made = builder.add(op, [column, line], like=like[2], low=-128, high=127)
    return builder.graph(builder.add("dequantize", [made]))


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
@pytest.mark.parametrize(
    "scales",
    [
        (0.02, 0.02, 0.02), (0.02, 0.02, 0.04), (0.05, 0.025, 0.1), (0.0235, 0.0471, 0.0612),
        (0.1, 1e-4, 0.09), (0.3, 0.3, 1e-4), (1e-4, 2e-4, 0.5), (0.0348, 0.0787, 0.2424), (0.1489, 0.0563, 0.223),
        (0.072, 0.259, 0.0468), (0.163, 0.0695, 0.225),
    ],
)  # fmt: skip
@pytest.mark.parametrize("op", ["add_i8", "mul_i8"])
def test_every_pair_of_8_bit_numbers(load: Load, op: str, scales: tuple[float, ...], mode: str) -> None:
    zeros = (-128, 5, -7)
    like = [Tensor((1,), "i8", float(np.float32(s)), z) for s, z in zip(scales, zeros, strict=True)]
    graph = every_pair(op, like)
    for number in (0, 1):  # the row holds every number of the one, and of the other what that rounds to
        row = (np.arange(-128, 128) - like[number].zero_point).astype(np.float32) * np.float32(like[number].scale)
        expected = forward(graph, row[None]).astype(np.float32)
        np.testing.assert_array_equal(load(compile_graph(graph, batch_max=1, mode=mode)).one(row), expected[0])


def test_sums_of_the_usual_scales_take_the_short_way() -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(40):
        scales = rng.uniform(0.01, 0.2, 3).astype(np.float32)
        zeros = rng.integers(-128, 20, 3)
        x, z, y = (Tensor((1,), "i8", float(s), int(zero)) for s, zero in zip(scales, zeros, strict=True))
        found.append(short_sum(x, z, y, -128, 127))
    assert sum(formula is not None for formula in found) >= 38


@pytest.mark.parametrize(("scales", "off"), [((0.0348, 0.0787, 0.2424), 2), ((0.072, 0.259, 0.0468), 3)])
def test_sums_that_are_off_for_a_few_pairs_are_mended(scales: tuple[float, ...], off: int) -> None:
    """The kernels of these are among those held to every pair above."""
    x, z, y = (Tensor((1,), "i8", float(np.float32(s)), zero) for s, zero in zip(scales, (-128, 5, -7), strict=True))
    formula = short_sum(x, z, y, -128, 127)
    assert formula is not None and len(formula.off) == off


def test_what_dies_is_written_over() -> None:
    builder = Builder(Tensor((4, 4, 4)))
    a = builder.add("transpose", [0], perm=(2, 0, 1))
    b = builder.add("transpose", [0], perm=(1, 0, 2))
    total = builder.add("add", [a, b], activation="relu")
    graph = builder.graph(builder.add("transpose", [total], perm=(1, 2, 0)))
    schedule = schedule_graph(graph.outline, batch_max=1)
    assert schedule.tensors[total].offset in (schedule.tensors[a].offset, schedule.tensors[b].offset)


@pytest.mark.parametrize("op", ["add", "add_i8"])
def test_a_tensor_is_not_written_over_while_a_view_of_it_is_read(load: Load, op: str) -> None:
    """Its first row is added to all of its rows."""
    like = Tensor((1,)) if op == "add" else Tensor((1,), "i8", 0.5, 3)
    attrs: dict[str, Any] = {"activation": "linear"} if op == "add" else {"low": -128, "high": 127}
    builder = Builder(Tensor((3, 5)))
    at = builder.add("affine_quantize", [0], like=like) if op == "add_i8" else 0
    first = builder.add("strided_slice", [at], like=like, start=(0, 0), stop=(1, 5), step=(1, 1))
    made = builder.add(op, [at, first], like=like, **attrs)
    made = builder.add("transpose", [made], like=like, perm=(1, 0))
    graph = builder.graph(builder.add("dequantize", [made]) if op == "add_i8" else made)
    answers(load, graph, exact=op == "add_i8", scale=9.0)
