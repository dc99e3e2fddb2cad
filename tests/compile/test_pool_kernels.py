"""Kernels of pooling and of means, against the definition: 8 bits to the bit, float32 closely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_graph, faults
from edgeswarm.model import random_rows
from edgeswarm.model.graph import Builder, Graph, Tensor, forward
from edgeswarm.model.nodes import Tensor as T

Load = Callable[..., Any]
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Q = Tensor((1,), "i8", 0.5, -3)


def answers(load: Load, graph: Graph, *, exact: bool, mode: str = "fast", special: bool = False) -> None:
    rows = random_rows(3, graph.tensors[graph.input].size, seed=5) * np.float32(70)
    if special:
        rows[1, ::7] = np.nan
        rows[2, ::5] = np.inf
    expected = forward(graph, rows).astype(np.float32)
    for batch_max in (1, 3):
        runner = load(compile_graph(graph, batch_max=batch_max, mode=mode))
        start, end = runner.layout.regions()["weights"]
        runner.memory[:start], runner.memory[end:] = 0xFF, 0xFF
        found = runner.many(rows) if batch_max == 3 else np.array([runner.one(row) for row in rows])
        if special:
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        elif exact:
            np.testing.assert_array_equal(found, expected)
        else:
            assert faults(expected, found, relative=2e-6, absolute=1e-5) == "", "of values up to 70"


def one(shape: tuple[int, ...], op: str, eight: bool, like: T = Q, read: T = Q, **attrs: Any) -> Graph:
    builder = Builder(Tensor(shape))
    if not eight:
        return builder.graph(builder.add(op, [0], **attrs))
    made = builder.add(op, [builder.add("affine_quantize", [0], like=read)], like=like, **attrs)
    return builder.graph(builder.add("dequantize", [made]))


def window(data: st.DataObject, sides: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    kernel, pad = [], []
    for side in sides:
        size = data.draw(st.integers(1, side + 3))
        least = max(0, size - side)  # so that the kernel fits
        before = data.draw(st.integers(0, min(size - 1, least + 2)))
        pad += [before, data.draw(st.integers(min(max(0, least - before), size - 1), size - 1))]
        kernel.append(size)
    stride = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    return {"kernel": tuple(kernel), "stride": stride, "pad": tuple(pad)}


@QUICK
@given(st.tuples(st.integers(1, 9), st.integers(1, 19), st.integers(1, 37)), st.data())
def test_pools_of_floats(load: Load, shape: tuple[int, int, int], data: st.DataObject) -> None:
    op = data.draw(st.sampled_from(["average_pool", "max_pool"]))
    name = data.draw(st.sampled_from(["linear", "relu", "tanh"]))
    graph = one(shape, op, False, **window(data, shape[:2]), activation=name)
    mode = data.draw(st.sampled_from(["fast", "deterministic"]))
    answers(load, graph, exact=False, mode=mode, special=data.draw(st.booleans()))


@QUICK
@given(st.tuples(st.integers(1, 9), st.integers(1, 19), st.integers(1, 37)), st.data())
def test_pools_of_8_bits_are_the_definition_to_the_bit(
    load: Load, shape: tuple[int, int, int], data: st.DataObject
) -> None:
    op = data.draw(st.sampled_from(["average_pool_i8", "max_pool_i8"]))
    low = data.draw(st.integers(-128, 127))
    graph = one(shape, op, True, **window(data, shape[:2]), low=low, high=data.draw(st.integers(low, 127)))
    answers(load, graph, exact=True, mode=data.draw(st.sampled_from(["fast", "deterministic"])))


@pytest.mark.parametrize("eight", [False, True])
@pytest.mark.parametrize("shape", [(25, 5, 64), (8, 8, 64), (3, 3, 256), (1, 1, 1), (200, 220, 1), (40, 31, 3)])
def test_pools_of_a_whole_image(load: Load, shape: tuple[int, int, int], eight: bool) -> None:
    attrs: dict[str, Any] = {"kernel": shape[:2], "stride": (1, 1), "pad": (0, 0, 0, 0)}
    attrs |= {"low": -128, "high": 127} if eight else {"activation": "linear"}
    answers(load, one(shape, "average_pool_i8" if eight else "average_pool", eight, **attrs), exact=eight)


def test_a_mean_of_more_values_than_float32_divides_exactly(load: Load) -> None:
    builder = Builder(Tensor((250, 250, 1)))
    q = builder.add("affine_quantize", [0], like=Q)
    more = builder.add("pad", [q], like=Q, pads=(9, 9, 9, 9, 0, 1), value=77.0)
    attrs: dict[str, Any] = {"kernel": (268, 268), "stride": (1, 1), "pad": (0, 0, 0, 0), "low": -128, "high": 127}
    made = builder.add("average_pool_i8", [more], like=Q, **attrs)
    answers(load, builder.graph(builder.add("dequantize", [made])), exact=True)


AXES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@QUICK
@given(AXES, st.data())
def test_means_of_floats_over_any_axes(load: Load, shape: tuple[int, ...], data: st.DataObject) -> None:
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    answers(load, one(shape, "mean", False, axes=axes, keep=data.draw(st.integers(0, 1))), exact=False)


@QUICK
@given(AXES, st.floats(1e-3, 0.9), st.integers(-128, 127), st.data())
def test_means_of_8_bits_are_the_definition_to_the_bit(
    load: Load, shape: tuple[int, ...], scale: float, zero: int, data: st.DataObject
) -> None:
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    like, read = (
        Tensor((1,), "i8", float(np.float32(scale)), zero),
        Tensor((1,), "i8", 0.5, data.draw(st.integers(-128, 127))),
    )
    answers(load, one(shape, "mean_i8", True, like, read, axes=axes, keep=data.draw(st.integers(0, 1))), exact=True)


@pytest.mark.parametrize("values", [1, 15, 16, 17, 33, 40])
@pytest.mark.parametrize("axes", [(1,), (0,), (0, 1)])
def test_means_of_8_bits_at_every_remainder(load: Load, values: int, axes: tuple[int, ...]) -> None:
    answers(load, one((400, values), "mean_i8", True, axes=axes, keep=0), exact=True)


@pytest.mark.parametrize("values", [1, 3, 4, 5, 15, 16, 17, 31, 64, 67])
@pytest.mark.parametrize("axes", [(1,), (0,), (0, 1)])
def test_means_of_floats_at_every_remainder(load: Load, values: int, axes: tuple[int, ...]) -> None:
    answers(load, one((3, values), "mean", False, axes=axes, keep=0), exact=False)
