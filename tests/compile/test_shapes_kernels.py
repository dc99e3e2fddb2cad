"""Operators that move bits: kernels give what the definition does, to the bit, wherever the tensors lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_graph, pack_weights, unpack_graph
from edgeswarm.compile.kernel import schedule_graph
from edgeswarm.model import random_rows
from edgeswarm.model.graph import Builder, Graph, Tensor, forward

Load = Callable[..., Any]
QUICK = settings(max_examples=35, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
Q = Tensor((1,), "i8", 0.5, -3)


def answers(load: Load, graph: Graph, *, rows: int = 2, mode: str = "fast") -> None:
    """The kernel's answers, of one row and of many, are the definition's to the bit; weights stay."""
    x = np.rint(random_rows(rows, graph.tensors[graph.input].size, seed=4) * 40)
    expected = forward(graph, x).astype(np.float32)
    for batch_max in (1, rows):
        kernel = compile_graph(graph, batch_max=batch_max, mode=mode)
        runner = load(kernel)
        start, end = runner.layout.regions()["weights"]
        runner.memory[:start] = 0xFF
        runner.memory[end:] = 0xFF
        np.testing.assert_array_equal(runner.one(x[0]), expected[0])
        np.testing.assert_array_equal(runner.many(x[:batch_max]), expected[:batch_max])
        assert bytes(runner.memory[start:end]) == kernel.weights
    again = unpack_graph(kernel.weights, graph.outline)
    assert pack_weights(again, kernel.layout) == kernel.weights


def moved(shape: tuple[int, ...], dtype: str, op: str, **attrs: Any) -> Graph:
    """A graph that gives what `op` makes of a tensor of `dtype`: of whole numbers between quantize and dequantize."""
    builder = Builder(Tensor(shape))
    if dtype == "f32":
        return builder.graph(builder.add(op, [0], **attrs))
    q = builder.add("affine_quantize", [0], like=Q)
    made = builder.add(op, [q], like=Q, **attrs)
    return builder.graph(builder.add("dequantize", [made]))


DTYPES = st.sampled_from(["f32", "i8"])


@QUICK
@given(SHAPES, DTYPES, st.data())
def test_transpose(load: Load, shape: tuple[int, ...], dtype: str, data: st.DataObject) -> None:
    perm = tuple(data.draw(st.permutations(range(len(shape)))))
    answers(load, moved(shape, dtype, "transpose", perm=perm))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 7, 8, 9])
def test_transpose_of_two_axes_at_every_remainder(load: Load, rows: int, columns: int) -> None:
    answers(load, moved((3, rows, columns), "f32", "transpose", perm=(0, 2, 1)))


@QUICK
@given(SHAPES, DTYPES, st.data())
def test_strided_slice(load: Load, shape: tuple[int, ...], dtype: str, data: st.DataObject) -> None:
    start = tuple(data.draw(st.integers(0, side - 1)) for side in shape)
    stop = tuple(data.draw(st.integers(at + 1, side)) for at, side in zip(start, shape, strict=True))
    step = tuple(data.draw(st.integers(1, 3)) for _ in shape)
    answers(load, moved(shape, dtype, "strided_slice", start=start, stop=stop, step=step))


@QUICK
@given(SHAPES, DTYPES, st.data())
def test_pad(load: Load, shape: tuple[int, ...], dtype: str, data: st.DataObject) -> None:
    pads = tuple(data.draw(st.integers(0, 3)) for _ in range(2 * len(shape)))
    answers(load, moved(shape, dtype, "pad", pads=pads, value=data.draw(st.sampled_from([0.0, 7.0, -128.0]))))


@QUICK
@given(*(st.integers(1, n) for n in (7, 7, 20, 15, 15)), DTYPES, st.sampled_from([(0, 0), (0, 1), (1, 0)]))
def test_resize_nearest(
    load: Load, h: int, w: int, c: int, height: int, width: int, dtype: str, how: tuple[int, int]
) -> None:
    answers(load, moved((h, w, c), dtype, "resize_nearest", size=(height, width), align=how[0], half=how[1]))


@QUICK
@given(SHAPES, DTYPES, st.data())
def test_join_of_computed_and_given(load: Load, shape: tuple[int, ...], dtype: str, data: st.DataObject) -> None:
    """Of the input, of constants, of what is computed, the same one twice, and of joins."""
    axis = data.draw(st.integers(0, len(shape) - 1))
    builder = Builder(Tensor(shape))
    q = 0 if dtype == "f32" else builder.add("affine_quantize", [0], like=Q)
    like = builder.tensors[q]
    parts = [q]
    for number in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["constant", "view", "moved", "join", "pad"]))
        at = data.draw(st.sampled_from(parts))
        sides = builder.tensors[at].shape
        if kind == "constant":
            value = (np.arange(np.prod(shape)) % 100 + number).reshape(shape)
            params = {"value": value.astype(np.float32 if dtype == "f32" else np.int8)}
            parts.append(builder.add("constant", [], params, like=like, shape=shape, dtype=dtype))
        elif kind == "view":
            flat = builder.add("reshape", [at], like=like, shape=(int(np.prod(sides)),))
            parts.append(builder.add("reshape", [flat], like=like, shape=sides))
        elif kind == "moved":
            zero = tuple(int(i == axis) for i in range(len(sides)) for _ in (0, 1))
            parts.append(builder.add("pad", [at], like=like, pads=zero, value=3.0))
        elif kind == "pad":
            parts.append(builder.add("pad", [at], like=like, pads=(0,) * (2 * len(sides)), value=0.0))
        else:
            parts.append(builder.add("join", [at, data.draw(st.sampled_from(parts))], like=like, axis=axis))
    whole = builder.add("join", data.draw(st.permutations(parts)), like=like, axis=axis)
    graph = builder.graph(whole if dtype == "f32" else builder.add("dequantize", [whole]))
    answers(load, graph)


def test_views_and_joins_of_the_outer_axis_cost_nothing() -> None:
    builder = Builder(Tensor((2, 8, 4)))
    halves = [builder.add("transpose", [0], perm=perm) for perm in ((1, 0, 2), (2, 1, 0))]
    flat = [builder.add("reshape", [half], shape=(64,)) for half in halves]
    both = builder.add("join", flat, axis=0)
    part = builder.add("strided_slice", [both], start=(32,), stop=(96,), step=(1,))
    graph = builder.graph(builder.add("transpose", [builder.add("reshape", [part], shape=(8, 8))], perm=(1, 0)))
    schedule = schedule_graph(graph.outline, batch_max=1)
    assert [step.what for step in schedule.steps] == ["transpose"] * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_a_constant_is_read_where_its_weights_lie_and_copied_to_the_output(load: Load, dtype: str) -> None:
    builder = Builder(Tensor((3, 5)))
    value = np.arange(15).reshape(3, 5).astype(np.float32 if dtype == "f32" else np.int8)
    like = Tensor((1,)) if dtype == "f32" else Q
    made = builder.add("constant", [], {"value": value}, like=like, shape=(3, 5), dtype=dtype)
    answers(load, builder.graph(made if dtype == "f32" else builder.add("dequantize", [made])), rows=1)
