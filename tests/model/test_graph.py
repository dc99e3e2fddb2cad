"""A graph is checked whole when it is made, and computes what its operators are defined to compute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import InputError, LimitError, ModelError
from edgeswarm.limits import GRAPH_NODES_MAX
from edgeswarm.model import random_mlp, random_rows, reference
from edgeswarm.model.graph import Builder, Graph, Node, Outline, Tensor, evaluate, forward, graph_of
from edgeswarm.model.ops import OPS

DENSE = {"units": 2, "activation": "linear"}
PARAMS = {"weights": np.ones((3, 2), np.float32), "bias": np.zeros(2, np.float32)}


def one(**changes) -> Graph:
    node = replace(Node("dense", (0,), 1, DENSE, PARAMS), **changes)
    return Graph((Tensor((3,)), Tensor((2,))), (node,), 0, 1)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_graph_of_a_network_computes_what_the_network_does(sizes, seed):
    model = random_mlp(sizes, "sigmoid", "softmax", seed)
    rows = random_rows(4, sizes[0], seed)
    graph = graph_of(model)
    assert (forward(graph, rows) == reference.forward(model, rows)).all()
    assert graph.parameters == model.parameters


def test_concat_and_slice_put_values_side_by_side():
    builder = Builder(Tensor((3,)))
    y = builder.add("dense", [0], PARAMS, **DENSE)
    both = builder.add("concat", [0, y, 0])
    graph = builder.graph(builder.add("slice", [both], start=2, stop=6))
    assert forward(graph, [[1, 2, 3]]).tolist() == [[3, 6, 6, 1]]
    assert evaluate(graph, [[1, 2, 3]])[both].tolist() == [[1, 2, 3, 6, 6, 1, 2, 3]]


def test_quantised_values_are_what_their_tensor_says():
    builder = Builder(Tensor((4,)))
    q = builder.add("quantize", [0], like=Tensor((1,), "i8", 0.5, -3))
    graph = builder.graph(builder.add("dequantize", [q]))
    rows = [[0.0, 0.75, 1000.0, -0.3]]
    assert evaluate(graph, rows)[q].tolist() == [[-3, -2, 127, -4]]  # 1.5 - 3: to the even one
    assert forward(graph, rows).tolist() == [[0, 0.5, 65, -0.5]]


def test_params_become_read_only_copies():
    weights = np.ones((3, 2), np.float32)
    graph = one(params={"weights": weights, "bias": np.zeros(2, np.float32)})
    weights[0] = 7
    assert (graph.nodes[0].params["weights"] == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        graph.nodes[0].params["weights"][0] = 1
    assert not graph.outline.nodes[0].params and isinstance(graph.outline, Outline)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"op": "conv9d"}, "expected an operator of dense"),
        ({"inputs": (0, 0)}, "expected 1 to 1 inputs, found 2"),
        ({"inputs": (1,)}, "expected inputs that are computed before it"),
        ({"inputs": (-1,)}, "expected inputs that are computed before it"),
        ({"output": 0}, "expected a tensor of its own to write"),
        ({"output": 2}, "expected a tensor of its own to write"),
        ({"attrs": {"units": 2}}, r"expected the attrs \['activation', 'units'\]"),
        ({"attrs": DENSE | {"units": "2"}}, r"units: expected int, found str"),
        ({"attrs": DENSE | {"units": 0}}, r"units: expected a whole number from 1"),
        ({"attrs": DENSE | {"units": 3}}, r"expected to write f32 \[3\], found f32 \[2\]"),
        ({"attrs": DENSE | {"activation": "swish"}}, "activation: expected one of linear"),
        ({"params": {}}, r"expected params \['bias', 'weights'\], found \[\]"),
        ({"params": PARAMS | {"bias": np.zeros(3, np.float32)}}, r"bias: expected the shape \[2\], found \[3\]"),
        ({"params": PARAMS | {"bias": np.zeros(2)}}, "bias: expected the dtype f32, found float64"),
        ({"params": PARAMS | {"bias": np.float32([1, np.inf])}}, "bias: expected finite numbers"),
    ],
)
def test_nodes_that_do_not_fit_are_refused_by_name(changes, text):
    with pytest.raises(ModelError, match=text):
        one(**changes)


def test_structures_that_do_not_hold_are_refused():
    node = Node("dense", (0,), 1, DENSE, PARAMS)
    tensors = (Tensor((3,)), Tensor((2,)))
    for bad, text in [
        (((*tensors, Tensor((2,))), (node,), 0, 1), "tensor 2: expected a node that writes it"),
        ((tensors, (node,), 0, 0), "expected two of 2 tensors"),
        ((tensors, (node,), 0, 5), "expected two of 2 tensors"),
    ]:
        with pytest.raises(ModelError, match=text):
            Graph(*bad)
    with pytest.raises(LimitError, match="GRAPH_NODES_MAX"):
        Graph(tensors, (node,) * (GRAPH_NODES_MAX + 1), 0, 1)
    with pytest.raises(LimitError, match="KERNEL_WIDTH_MAX"):
        Graph((Tensor((70_000,)), Tensor((1,))), (Node("slice", (0,), 1, {"start": 0, "stop": 1}),), 0, 1)
    with pytest.raises(LimitError, match="AF_SECTION_BYTES_MAX"):
        wide = Node("dense", (0,), 1, DENSE | {"units": 60_000})
        Outline((Tensor((60_000,)), Tensor((60_000,))), (wide,), 0, 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (((),), "axes"),
        (((0,),), "axes"),
        (((1, 1, 1, 1, 1),), "axes"),
        (((2,), "f16"), "dtype"),
        (((2,), "i8", 0.0), "scale"),
        (((2,), "i8", float("nan")), "scale"),
        (((2,), "f32", 2.0), "zero point"),
    ],
)
def test_tensors_that_do_not_exist_are_refused(arguments, text):
    with pytest.raises(ModelError, match=text):
        Tensor(*arguments)
    with pytest.raises(LimitError, match="GRAPH_TENSOR_VALUES_MAX"):
        Tensor((1024, 1025))


def test_rows_of_another_shape_are_refused():
    for rows in ([1, 2, 3], [[1, 2]], [[[1, 2, 3]]]):
        with pytest.raises(InputError, match="expected the shape"):
            forward(one(), rows)


def test_every_operator_names_a_lowering():
    assert all(op.lowering and op.inputs[0] >= 1 for op in OPS.values())
