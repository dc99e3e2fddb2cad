"""Every operator of ONNX that is read, over shapes, strides, pads and orders, against ONNX Runtime's answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra onnx is not here: NO ONNX FILE IS TESTED")
pytest.importorskip("onnxruntime", reason="onnxruntime is not here: NO ONNX FILE IS TESTED AGAINST IT")

import onnx
from onnx_files import EACH, Net, answers, grown, rows_of

from edgeswarm.model.graph import forward
from edgeswarm.model.onnx import Imported, imported


def agrees(net: Net, *outputs: str, rows: int = 2, near: float = 2e-5) -> Imported:
    """The float64 definition of the imported graph answers as ONNX Runtime does."""
    data = net.bytes(*outputs)
    made, x = imported(data), rows_of(net.bytes(*outputs), rows)
    wanted = answers(data, x)
    found = forward(made.graph, x)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= near * max(1.0, np.abs(wanted).max())
    return made


def ops(made: Imported) -> list[str]:
    return [node.op for node in made.graph.nodes]


CONVOLUTIONS = [
    {"kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations, "group": group}
    for (kernel, pads), strides, dilations, group in itertools.product(
        [((1, 1), (0, 0, 0, 0)), ((3, 3), (1, 1, 1, 1)), ((3, 2), (0, 1, 2, 0))],
        [(1, 1), (2, 3)],
        [(1, 1), (2, 1)],
        [1, 2, 6],
    )
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution_of_images(case: dict[str, object]) -> None:
    net, kernel, group = Net([1, 6, 9, 8]), case["kernel"], case["group"]
    weights = net.random(12, 6 // group, *kernel)  # type: ignore[operator,misc]
    attrs = {name: case[name] for name in ("strides", "pads", "dilations", "group")}
    net.add("Conv", weights, net.random(12), **attrs)
    assert ("depthwise" in ops(agrees(net))) == (group == 6)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool"])
def test_automatic_padding(auto_pad: str, op: str) -> None:
    net = Net([1, 3, 7, 10])
    if op == "Conv":
        net.add(op, net.random(4, 3, 3, 4), auto_pad=auto_pad, strides=[2, 3])
    else:
        net.add(op, kernel_shape=[3, 4], auto_pad=auto_pad, strides=[2, 3])
    agrees(net)


@pytest.mark.parametrize("dilation,pads", [(1, (0, 0)), (1, (2, 0)), (4, (8, 0)), (2, (9, 9))])
def test_convolution_of_sequences(dilation: int, pads: tuple[int, int]) -> None:
    """(9, 9): more padding than a window covers, which becomes a node."""
    net = Net(["batch", 3, 20])
    net.add("Conv", net.random(5, 3, 3), net.random(5), dilations=[dilation], pads=pads)
    net.add("Relu")
    net.add("Conv", net.random(10, 1, 3), group=5)
    assert ("pad" in ops(agrees(net))) == (pads == (9, 9))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("counted", [0, 1])
def test_pools(op: str, ceil_mode: int, pads: tuple[int, ...], counted: int) -> None:
    for side in (7, 8):
        net = Net([1, 3, side, 9])
        more = {"count_include_pad": counted} if op == "AveragePool" else {}
        if ceil_mode and counted and op == "AveragePool":
            continue  # what padding counts there differs from version to version
        net.add(op, kernel_shape=[3, 2], strides=[2, 2], pads=pads, ceil_mode=ceil_mode, **more)
        agrees(net)


def test_pools_of_sequences_and_over_everything() -> None:
    for op in ("MaxPool", "AveragePool"):
        net = Net([1, 3, 11])
        net.add(op, kernel_shape=[4], strides=[3], pads=[1, 2])
        agrees(net)
    for op in ("GlobalMaxPool", "GlobalAveragePool"):
        for shape in ([1, 3, 11], [1, 3, 4, 5]):
            net = Net(shape)
            net.add(op)
            agrees(net)


@pytest.mark.parametrize("front", ["input", "convolution", "transposed", "shared", "flat"])
@pytest.mark.parametrize("name", EACH)
def test_each_operator_behind_each_other(name: str, front: str) -> None:
    """Behind a convolution an operator may be folded in; behind a value that is read twice it must not be."""
    net = Net([1, 4, 3, 5])
    if front in ("convolution", "shared"):
        net.add("Conv", net.random(4, 4, 1, 1), net.random(4))
    if front == "transposed":
        net.add("Transpose", perm=[0, 2, 1, 3])
        net.add("Relu")
        net.add("Transpose", perm=[0, 2, 1, 3])
    if front == "flat":
        net.add("Conv", net.random(4, 4, 1, 1), net.random(4))
        net.add("Reshape", net.whole(1, 60))
        net.add("Reshape", net.whole(1, 4, 3, 5))
    first = net.last
    EACH[name](net)
    if front == "shared":
        last = net.add("Flatten")
        net.add("Flatten", reads=first)
        net.add("Concat", last, axis=1)
    agrees(net)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("second", [(1, 4, 3, 5), (1, 4, 1, 1), (1, 1, 3, 5)])
def test_pairs_of_values_in_different_orders(op: str, second: tuple[int, ...]) -> None:
    net = Net([1, 4, 3, 5])
    first = net.add("Conv", net.random(4, 4, 1, 1), net.random(4))
    other = net.add("Relu", reads="input")
    axes = [axis for axis, size in enumerate(second) if axis and size == 1]
    other = net.add("ReduceMean", reads=other, axes=axes) if axes else other
    net.add(op, other, reads=first)
    net.add("Relu")
    agrees(net)


def test_concat_and_split_along_each_axis() -> None:
    for axis in (1, 2, 3, -1):
        net = Net([1, 4, 4, 6])
        conv = net.add("Conv", net.random(4, 4, 1, 1))
        net.add("Concat", conv, net.random(1, 4, 4, 6), axis=axis, reads="input")
        net.add("Split", outputs=2, axis=axis)
        net.add("Relu", reads=f"{net.last}_1")
        agrees(net)


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 18, 21])
def test_dense_layers_of_every_opset(opset: int) -> None:
    """Gemm, its scales and orders; Softmax, whose axis means two things; what was an attribute and became an input."""
    net = Net([1, 2, 3, 4], opset)
    net.add("Conv", net.random(3, 2, 1, 1))
    net.add("Flatten", axis=1)
    net.add("Gemm", net.random(5, 36), net.random(5), transB=1, alpha=0.5, beta=2.0)
    net.add(
        "Clip",
        *((net.number(0.0), net.number(6.0)) if opset >= 11 else ()),
        **({} if opset >= 11 else {"min": 0.0, "max": 6.0}),
    )
    net.add("MatMul", net.random(5, 4))
    net.add("Add", net.random(1, 4))
    net.add("Softmax", axis=1)
    made = agrees(net)
    assert ops(made)[-2:] == ["dense", "dense"]
    assert [node.attrs["activation"] for node in made.graph.nodes[-2:]] == ["relu6", "softmax"]
    assert made.opset == opset


def test_a_net_of_images_costs_one_transpose_and_no_more() -> None:
    """Batch normalisation, bias and activations are folded in; the dense weights take the order of the image."""
    net = Net(["N", 3, 12, 12])
    for filters, group in ((8, 1), (8, 8), (16, 1)):
        width = 3 if filters == 8 and group == 1 else 8
        net.add("Conv", net.random(filters, width // group, 3, 3), group=group, pads=[1, 1, 1, 1])
        net.add("BatchNormalization", *(net.random(filters) for _ in range(3)), net.number(np.ones(filters)))
        net.add("Clip", net.number(0.0), net.number(6.0))
    net.add("Flatten")
    net.add("Gemm", net.random(2304, 10, scale=0.02), net.random(10))
    net.add("Softmax")
    made = agrees(net)
    assert ops(made) == ["transpose", "conv2d", "depthwise", "conv2d", "reshape", "dense"]
    assert {node.attrs["activation"] for node in made.graph.nodes[1:4]} == {"relu6"}


def test_transposes_around_a_net_of_another_framework_vanish() -> None:
    """tf2onnx puts one in front and one behind: the rows lie as the kernels want them."""
    net = Net([1, 6, 6, 3])
    net.add("Transpose", perm=[0, 3, 1, 2])
    net.add("Conv", net.random(4, 3, 3, 3), net.random(4))
    net.add("Relu")
    net.add("Transpose", perm=[0, 2, 3, 1])
    assert ops(agrees(net)) == ["conv2d"]


def test_shapes_that_pytorch_computes_are_folded() -> None:
    """x.view(x.size(0), -1) becomes five nodes."""
    net = Net(["N", 2, 3, 4])
    x = net.add("Relu")
    net.add("Shape")
    net.add("Gather", net.number(0, np.int64), axis=0)
    size = net.add("Unsqueeze", net.whole(0))
    shape = net.add("Concat", net.whole(-1), axis=0, reads=size)
    net.add("Reshape", shape, reads=x)
    net.add("Gemm", net.random(24, 3))
    assert ops(agrees(net)) == ["elementwise", "reshape", "dense"]


def test_scales_behind_a_reshape_are_not_those_of_the_layer_in_front() -> None:
    """60 columns of weights, and 15 numbers that would go into them."""
    net = Net(["N", 8])
    net.add("Gemm", net.random(8, 60), net.random(60))
    net.add("Reshape", net.whole(0, 4, 15))
    net.add("Transpose", perm=[0, 2, 1])
    net.add("Mul", net.random(15, 1))
    net.add("Add", net.random(1, 4))
    assert ops(agrees(net))[0] == "dense"


def test_scales_and_shifts_in_a_row_become_one_of_each() -> None:
    """Batch normalisation in front of a convolution, with a Mul and Add behind it as older exporters write them."""
    net = Net(["N", 4, 3, 5])
    net.add("BatchNormalization", *(net.random(4) for _ in range(3)), net.number([0.5, 1, 2, 3]))
    net.add("Mul", net.random(4, 1, 1))
    net.add("Add", net.random(1, 4, 1, 1))
    net.add("Relu")
    net.add("Conv", net.random(4, 4, 3, 3))
    found = ops(agrees(net))
    assert [op for op in found if op not in ("constant", "transpose")] == ["mul", "add", "conv2d"]


def test_pads_that_pytorch_computes_are_folded() -> None:
    """F.pad becomes eight nodes, one of which turns its numbers round."""
    net = Net(["N", 2, 8])
    x = net.last
    zeros = net.add("ConstantOfShape", net.whole(4), reads="", value=onnx.helper.make_tensor("v", 7, [1], [0]))
    net.add("Concat", zeros, axis=0, reads=net.whole(3, 0))
    net.add("Reshape", net.whole(-1, 2))
    net.add("Slice", net.whole(-1), net.whole(-(2**63) + 1), net.whole(0), net.whole(-1))
    net.add("Transpose", perm=[1, 0])
    net.add("Reshape", net.whole(-1))
    pads = net.add("Cast", to=7)
    net.add("Pad", pads, net.number(0.0), reads=x)
    net.add("Conv", net.random(5, 2, 4))
    assert ops(agrees(net)) == ["transpose", "reshape", "conv2d", "reshape", "transpose"]


def test_a_classifier_of_scikit_learn_answers_its_probabilities() -> None:
    """Its converter's file has labels besides, of operators that are not needed."""
    net = Net(["N", 6])
    net.add("Scaler", domain="ai.onnx.ml", offset=[0.5] * 6, scale=[2.0] * 6)
    net.add("MatMul", net.random(6, 9))
    net.add("Add", net.random(9))
    net.add("Relu")
    net.add("MatMul", net.random(9, 3))
    net.add("Add", net.random(3))
    chances = net.add("Softmax")
    labels = net.add("ArgMax", axis=1)
    data, x = net.bytes(labels, chances, dtypes=[7]), rows_of(net.bytes(), 3)
    made = imported(data)
    np.testing.assert_allclose(forward(made.graph, x), answers(data, x, chances), atol=1e-6)
    assert made.notes == ("the agent answers 'v6'; left out: 'v7'",)


@pytest.mark.parametrize("kind", ["SOFTMAX", "LOGISTIC", "NONE"])
def test_a_logistic_regression_of_scikit_learn(kind: str) -> None:
    net, classes = Net(["N", 4]), 3 if kind == "SOFTMAX" else 2
    weights = net.rng.normal(size=(classes, 4)).astype(np.float32)
    weights[-1] = -weights[0] if classes == 2 else weights[-1]
    net.add("Scaler", domain="ai.onnx.ml", offset=[0.5] * 4, scale=[2.0] * 4)
    labels = net.add(
        "LinearClassifier",
        domain="ai.onnx.ml",
        outputs=2,
        classlabels_ints=list(range(classes)),
        coefficients=weights.reshape(-1).tolist(),
        intercepts=[0.5, -0.5, 0.25][:classes],
        post_transform=kind,
    )
    shares = f"{labels}_1"
    if kind != "NONE":
        shares = net.add("Normalizer", domain="ai.onnx.ml", norm="L1", reads=shares)
    data, x = net.bytes(labels, shares, dtypes=[7]), rows_of(net.bytes(), 3)
    made = imported(data)
    np.testing.assert_allclose(forward(made.graph, x), answers(data, x, shares), atol=1e-6)
    assert ops(made) == ["dense"]


def test_a_regression_of_scikit_learn() -> None:
    net = Net(["N", 4])
    net.add("LinearRegressor", domain="ai.onnx.ml", coefficients=[0.5, -1.0, 2.0, 0.25], intercepts=[1.5], targets=1)
    assert ops(agrees(net)) == ["dense"]


@pytest.mark.parametrize("block", range(8))
def test_random_nets_of_branches_and_turns(block: int) -> None:
    """What is folded, shared or only remembered must not be seen from outside."""
    for seed in range(block * 10, block * 10 + 10):
        try:
            agrees(grown(seed), rows=1)
        except AssertionError:
            raise AssertionError(f"seed {seed}") from None
