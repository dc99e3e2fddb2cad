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


def quantised(tensor: Tensor) -> Graph:
    builder = Builder(Tensor((4,)))
    return builder.graph(builder.add("quantize", [0], like=tensor))


def test_input_and_output_are_what_hosts_write_and_read():
    with pytest.raises(ModelError, match="output: expected f32, for hosts know no other"):
        quantised(Tensor((4,), "i8", 0.1))
    builder = Builder(Tensor((4,), "i8", 0.1))
    with pytest.raises(ModelError, match="input: expected f32, for hosts know no other"):
        builder.graph(builder.add("dequantize", [0]))


@pytest.mark.parametrize("dtype", ["i32", "f32"])
def test_8_bit_nodes_write_8_bit_tensors(dtype):
    builder = Builder(Tensor((4,)))
    builder.add("quantize", [0], like=Tensor((4,), dtype))
    with pytest.raises(ModelError, match=rf"expected to write i8 or u7 or u8 \[4\], found {dtype}"):
        builder.graph(builder.add("slice", [0], start=0, stop=1))


def test_concat_and_slice_keep_the_steps_of_what_they_read():
    builder = Builder(Tensor((2,)))
    q = builder.add("quantize", [0], like=Tensor((2,), "i8", 0.5, -3))
    both = builder.add("concat", [q, q])
    last = builder.add("dequantize", [builder.add("slice", [both], start=1, stop=3)])
    assert forward(builder.graph(last), [[1.0, 2.0]]).tolist() == [[2.0, 1.0]]
    builder.tensors[both] = Tensor((4,), "i8", 0.25, -3)
    with pytest.raises(ModelError, match="concat.*: expected to write the scale and zero point that it reads"):
        builder.graph(last)


def sparse(sources, counts) -> Graph:
    params = {"weights": np.ones(4, np.float32), "steepness": np.ones(2, np.float32)}
    params |= {"sources": np.array(sources, np.int32), "counts": np.array(counts, np.int32)}
    builder = Builder(Tensor((3,)))
    return builder.graph(
        builder.add("sparse_fann", [0], params, units=np.int64(2), activation="linear", connections=np.int64(4))
    )


def test_sparse_layers_read_what_is_there():
    assert forward(sparse([0, 1, 2, 3], [1, 3]), [[10.0, 20.0, 30.0]]).tolist() == [[10.0, 51.0]]
    for sources in ([0, 1, 2, 4], [0, 1, 2, -1]):
        with pytest.raises(ModelError, match="node 0 .sparse_fann.: sources: expected 0 to 3"):
            sparse(sources, [1, 3])
    for counts in ([5, -1], [1, 2], [2**31 - 1, 5]):
        with pytest.raises(ModelError, match="counts: expected numbers from 0 that add up to 4 connections"):
            sparse([0, 1, 2, 3], counts)


def test_a_view_of_somebody_elses_weights_is_copied():
    weights = np.ones((3, 2), np.float32)
    view = weights.view()
    view.flags.writeable = False
    graph = one(params={"weights": view, "bias": np.zeros(2, np.float32)})
    weights[0] = np.nan
    assert (graph.nodes[0].params["weights"] == 1).all()


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


def test_operators_of_rows_take_tensors_of_one_axis():
    for op, attrs in (("dense", DENSE), ("concat", {}), ("slice", {"start": 0, "stop": 1})):
        with pytest.raises(ModelError, match=r"expected one axis of f32, found f32 \[3, 1\]"):
            Builder(Tensor((3, 1))).add(op, [0], **attrs)


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
    with pytest.raises(LimitError, match="GRAPH_READS_MAX"):
        wide = [Node("concat", (0,) * 4_096, at, {}) for at in range(1, 6)]
        Graph((Tensor((1,)), *[Tensor((4_096,))] * 5), wide, 0, 5)
    with pytest.raises(LimitError, match="KERNEL_WIDTH_MAX"):
        Graph((Tensor((270_000,)), Tensor((1,))), (Node("slice", (0,), 1, {"start": 0, "stop": 1}),), 0, 1)
    with pytest.raises(LimitError, match="AF_SECTION_BYTES_MAX"):
        wide = Node("dense", (0,), 1, DENSE | {"units": 60_000})
        Outline((Tensor((60_000,)), Tensor((60_000,))), (wide,), 0, 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (((),), "axes"),
        (((0,),), "axes"),
        (((1, 1, 1, 1, 1),), "axes"),
        ((4,), "shape of whole numbers"),
        (((4.5,),), "shape of whole numbers"),
        (((2,), "f16"), "dtype"),
        (((2,), ["i8"]), "dtype"),
        (((2,), "i8", "wide"), "a scale"),
        (((2,), "i8", 1.0, 0.5), "a zero point"),
        (((2,), "i8", 0.0), "scale"),
        (((2,), "i8", float("nan")), "scale"),
        (((2,), "f32", 2.0), "zero point"),
    ],
)
def test_tensors_that_do_not_exist_are_refused(arguments, text):
    with pytest.raises(ModelError, match=text):
        Tensor(*arguments)
    with pytest.raises(LimitError, match="GRAPH_TENSOR_VALUES_MAX"):
        Tensor((2048, 2049))


def test_rows_of_another_shape_are_refused():
    for rows in ([1, 2, 3], [[1, 2]], [[[1, 2, 3]]]):
        with pytest.raises(InputError, match="expected the shape"):
            forward(one(), rows)


def test_every_operator_names_a_lowering():
    assert all(op.lowering and (op.inputs[0] >= 1 or name == "constant") for name, op in OPS.items())
