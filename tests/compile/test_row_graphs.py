"""Graphs that go row by row, of any form: whoever shares memory, each tensor is read as it was written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_graph, faults
from edgeswarm.compile.emit import emit
from edgeswarm.compile.kernel import schedule_graph
from edgeswarm.compile.library import library
from edgeswarm.model import random_rows
from edgeswarm.model.graph import Builder, Graph, Tensor, forward
from edgeswarm.model.nodes import DTYPES

Load = Callable[..., Any]
OPS = ("leaky", "add", "softmax", "reshape", "transpose", "join", "slice", "pad", "pool", "dense", "mean", "constant")


def grow(builder: Builder, data: st.DataObject, rng: np.random.Generator) -> None:
    """One more node, of tensors that are there."""
    at = data.draw(st.integers(0, len(builder.tensors) - 1))
    shape = builder.tensors[at].shape
    zeros, ones = (0,) * len(shape), (1,) * len(shape)
    op = data.draw(st.sampled_from(OPS))
    if op == "leaky":
        builder.add("leaky", [at], slope=-0.5)
    elif op == "softmax":
        builder.add("softmax", [at], beta=1.0)
    elif op == "reshape":
        builder.add("reshape", [at], shape=data.draw(st.sampled_from([(builder.tensors[at].size,), (*shape[::-1],)])))
    elif op == "transpose":
        builder.add("transpose", [at], perm=tuple(data.draw(st.permutations(range(len(shape))))))
    elif op in ("add", "join"):
        same = [other for other, tensor in enumerate(builder.tensors) if tensor.shape == shape]
        pair = [at, data.draw(st.sampled_from(same))]
        if op == "add":
            builder.add("add", pair, activation="linear")
        else:
            builder.add("join", pair, axis=data.draw(st.integers(0, len(shape) - 1)))
    elif op == "slice":
        axis = data.draw(st.integers(0, len(shape) - 1))
        start = tuple(data.draw(st.integers(0, side - 1)) if n == axis else 0 for n, side in enumerate(shape))
        builder.add("strided_slice", [at], start=start, stop=shape, step=ones)
    elif op == "pad":
        builder.add("pad", [at], pads=(1, 0, *zeros, *zeros[:-2]) if len(shape) > 1 else (1, 0), value=2.0)
    elif op == "pool" and len(shape) == 3:
        attrs = {"kernel": (1, 1), "stride": (1, 2), "pad": (0, 0, 0, 0)}
        builder.add("max_pool", [at], activation="linear", **attrs)
    elif op == "dense" and len(shape) == 1:
        units = data.draw(st.integers(1, 9))
        weights = (rng.normal(size=(shape[0], units)) / np.sqrt(shape[0])).astype(np.float32)
        params = {"weights": weights, "bias": np.ones(units, np.float32)}
        builder.add("dense", [at], params, units=units, activation="linear")
    elif op == "mean":
        builder.add("mean", [at], axes=(data.draw(st.integers(0, len(shape) - 1)),), keep=1)
    else:
        value = rng.normal(size=shape).astype(np.float32)
        builder.add("constant", [], {"value": value}, shape=shape, dtype="f32")


def some(data: st.DataObject) -> Graph:
    builder = Builder(Tensor(data.draw(st.sampled_from([(7,), (3, 5), (2, 3, 5)]))))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    builder.add("leaky", [0], slope=0.5)
    for _ in range(data.draw(st.integers(1, 14))):
        if max(tensor.size for tensor in builder.tensors) < 400:
            grow(builder, data, rng)
    return builder.graph(data.draw(st.integers(1, len(builder.tensors) - 1)))


@settings(max_examples=70, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_graphs_of_any_form_agree_with_the_definition(load: Load, data: st.DataObject) -> None:
    graph = some(data)
    rows = random_rows(3, graph.tensors[graph.input].size, seed=7)
    expected = forward(graph, rows).astype(np.float32)
    for batch_max in (1, 3):
        runner = load(compile_graph(graph, batch_max=batch_max))
        start, end = runner.layout.regions()["weights"]
        runner.memory[:start], runner.memory[end:] = 0xFF, 0xFF
        found = runner.many(rows) if batch_max == 3 else np.array([runner.one(row) for row in rows])
        assert faults(expected, found) == ""


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_memory_is_never_more_than_all_tensors_and_never_less_than_a_node_needs(data: st.DataObject) -> None:
    graph = some(data)
    schedule = schedule_graph(graph.outline, batch_max=1)
    sizes = [tensor.size * DTYPES[tensor.dtype].itemsize for tensor in graph.tensors]
    assert schedule.activation_bytes <= sum(size + 80 for size in sizes) + sum(size + 80 for size in sizes)
    assert schedule.activation_bytes >= max(sizes[graph.input], sizes[graph.output])


def test_a_long_chain_of_images_needs_two_of_them() -> None:
    """Of an odd number: else both ends would want the same place, and one needs a third."""
    builder = Builder(Tensor((16, 16, 4)))
    at = builder.add("transpose", [0], perm=(1, 0, 2))
    for index in range(12):
        at = builder.add("transpose", [at], perm=(1, 0, 2) if index % 2 else (0, 2, 1))
        at = builder.add("transpose", [at], perm=(1, 0, 2) if index % 2 else (0, 2, 1))
        at = builder.add("leaky", [at], slope=0.5)
    assert schedule_graph(builder.graph(at).outline, batch_max=1).activation_bytes <= 2 * (4096 + 64)


@pytest.mark.parametrize("batch_max", [1, 2])
@pytest.mark.parametrize("before", [[], ["leaky"], ["join"]])
@pytest.mark.parametrize("behind", [["reshape"], ["transpose", "reshape"], ["leaky", "reshape"], ["join", "reshape"]])
def test_a_part_of_a_tensor_under_another_shape_can_be_the_answer(
    load: Load, before: list[str], behind: list[str], batch_max: int
) -> None:
    builder, at = Builder(Tensor((1, 2, 7))), 0
    for op in [*before, "strided_slice", *behind]:
        shape = builder.tensors[at].shape
        attrs: dict[str, Any] = {
            "leaky": {"slope": -0.5},
            "join": {"axis": 1},
            "strided_slice": {"start": (0, 1, 2), "stop": (1, 2, 6), "step": (1, 1, 1)},
            "transpose": {"perm": (2, 1, 0)},
            "reshape": {"shape": (math.prod(shape),)},
        }[op]
        at = builder.add(op, [at, at] if op == "join" else [at], **attrs)
    graph = builder.graph(at)
    runner, rows = load(compile_graph(graph, batch_max=batch_max)), random_rows(batch_max, 14)
    assert (runner.many(rows) == forward(graph, rows).reshape(batch_max, -1).astype(np.float32)).all()


@pytest.mark.parametrize("batch_max", [2, 40])
def test_rows_of_a_batch_keep_apart(load: Load, batch_max: int) -> None:
    builder = Builder(Tensor((3, 5)))
    at = builder.add("elementwise", [0], activation="relu")
    at = builder.add("reshape", [at], shape=(15,))
    at = builder.add(
        "softmax", [builder.add("add", [at, builder.add("reshape", [0], shape=(15,))], activation="linear")], beta=1.0
    )
    graph = builder.graph(at)
    rows = random_rows(batch_max, 15, seed=1)
    found = load(compile_graph(graph, batch_max=batch_max)).many(rows)
    assert faults(forward(graph, rows).astype(np.float32), found) == ""


def every_operator() -> Graph:
    """One graph with each operator of this kind, in float32 and in 8 bits."""
    builder = Builder(Tensor((4, 6, 8)))
    window: dict[str, Any] = {"kernel": (2, 2), "stride": (2, 2), "pad": (0, 0, 0, 0)}
    q8: dict[str, Any] = {"like": Tensor((1,), "i8", 0.05, 3)}
    at = builder.add("elementwise", [0], activation="tanh")
    at = builder.add("add", [at, builder.add("leaky", [0], slope=0.1)], activation="relu6")
    at = builder.add("mul", [at, builder.add("mean", [at], axes=(0, 1), keep=1)], activation="sigmoid")
    at = builder.add("average_pool", [at], activation="linear", **window)
    at = builder.add("softmax", [builder.add("max_pool", [0], activation="relu", **window)], beta=2.0)
    at = builder.add("resize_nearest", [at], size=(4, 6), align=0, half=1)
    q = builder.add("affine_quantize", [builder.add("transpose", [at], perm=(2, 1, 0))], **q8)
    q = builder.add("add_i8", [q, builder.add("mul_i8", [q, q], low=-128, high=127, **q8)], low=-9, high=99, **q8)
    q = builder.add("lookup_i8", [q], {"table": np.arange(-128, 128).astype(np.int8)}, **q8)
    both = [builder.add(op, [q], low=-128, high=127, **q8, **window) for op in ("average_pool_i8", "max_pool_i8")]
    q = builder.add("mean_i8", [builder.add("join", both, axis=1, **q8)], axes=(1,), keep=0, **q8)
    q = builder.add("softmax_i8", [q], beta=1.0, like=Tensor((1,), "i8", 1 / 256, -128))
    return builder.graph(builder.add("dequantize", [q]))


def test_the_mode_deterministic_holds_no_operation_that_machines_may_choose() -> None:
    for mode, relaxed in (("deterministic", False), ("fast", True)):
        text = emit(schedule_graph(every_operator().outline, batch_max=2, mode=mode), library())
        assert ("relaxed" in text) is relaxed


def test_one_graph_with_every_operator_answers_alike_in_both_modes(load: Load) -> None:
    graph, answers = every_operator(), []
    rows = random_rows(3, graph.tensors[graph.input].size, seed=2) * np.float32(4)
    for mode in ("fast", "deterministic"):
        answers.append(load(compile_graph(graph, batch_max=3, mode=mode)).many(rows))
        np.testing.assert_allclose(answers[-1], forward(graph, rows), atol=2 / 256)
    assert np.abs(answers[0] - answers[1]).max() <= 2 / 256
