"""8-bit ONNX files as ONNX Runtime's quantiser writes them: a pair of roundings around each operator."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra onnx is not here: NO ONNX FILE IS TESTED")
pytest.importorskip("onnxruntime", reason="onnxruntime is not here: NO ONNX FILE IS TESTED AGAINST IT")

from onnx_files import Net, Quantised, answers, rows_of

from edgeswarm.errors import ModelError
from edgeswarm.model.graph import forward
from edgeswarm.model.onnx import imported


def steps_apart(net: Net, scale: float, rows: int = 20) -> tuple[float, float, list[str]]:
    """By how many steps answers differ from ONNX Runtime's at most, the share of them that do, and the operators."""
    data = net.bytes()
    made, x = imported(data), rows_of(data, rows)
    apart = np.abs(forward(made.graph, x) - answers(data, x)) / scale
    return float(apart.max()), float((apart > 0.01).mean()), [node.op for node in made.graph.nodes]


LAYERS = ("conv2d_i8", "depthwise_i8", "dense_tflite", "add_i8", "mul_i8", "max_pool_i8", "average_pool_i8", "mean_i8")


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("op", LAYERS)
def test_each_layer_becomes_an_8_bit_one_and_differs_by_one_step_at_most(
    op: str, kind: type, per_channel: bool
) -> None:
    net, zero = Quantised([1, 4, 6, 6]), 0 if kind is np.int8 else 128
    net.round(0.03, zero + 3, kind)
    x, after = net.last, (0.047, zero - 20)
    if op == "conv2d_i8":
        weights = net.weights(8, 4, 3, 3, axis=0 if per_channel else None)
        net.add("Conv", weights, net.random(8, scale=0.1), reads=x, pads=[1, 1, 1, 1])
        net.add("Relu")
    elif op == "depthwise_i8":
        weights = net.weights(4, 1, 3, 3, axis=0 if per_channel else None)
        net.add("Conv", weights, reads=x, group=4, pads=[0, 0, 1, 1], strides=[2, 1])
        net.add("Clip", net.number(0.0), net.number(6.0))
    elif op == "dense_tflite":
        net.add("Flatten", reads=x)
        flat = net.last
        net.add("Gemm", net.weights(144, 10, axis=1 if per_channel else None), net.random(10), reads=flat)
        after = (0.4, zero + 4)
    elif op in ("add_i8", "mul_i8"):
        net.add("Slice", net.whole(0), net.whole(1), net.whole(1), reads=x)
        net.round(0.03, zero + 3, kind)
        net.add("Add" if op == "add_i8" else "Mul", x)
        net.add("Relu")
    elif op == "mean_i8":
        net.add("GlobalAveragePool")
    else:
        net.add("MaxPool" if op == "max_pool_i8" else "AveragePool", kernel_shape=[3, 2], strides=[2, 1])
        after = (0.03, zero + 3)
    net.round(*after, kind)
    apart, share, ops = steps_apart(net, after[0])
    assert [one for one in ops if one.endswith("_i8") or one == "dense_tflite" or one == "dequantize"] == [
        op,
        "dequantize",
    ]
    assert apart <= 1.01
    assert share < (0.1 if op == "average_pool_i8" else 0.02)  # halves: to even there, away from 0 here


def test_what_moves_values_moves_whole_numbers() -> None:
    net = Quantised([1, 4, 6, 6])
    net.round(0.03, 3)
    x = net.last
    net.add("Slice", net.whole(1), net.whole(3), net.whole(2))
    net.add("Pad", net.whole(0, 0, 1, 0, 0, 0, 3, 0), net.number(0.0))
    net.add("Transpose", perm=[0, 1, 3, 2])
    net.add("Reshape", net.whole(1, 4, 6, 6))
    net.add("Concat", x, axis=1)
    net.round(0.03, 3)
    apart, share, ops = steps_apart(net, 0.03)
    assert (apart < 0.01, share) == (True, 0)
    assert (ops[0], ops[-1], ops.count("dequantize"), ops.count("affine_quantize")) == (
        "affine_quantize",
        "dequantize",
        1,
        1,
    )


def test_a_whole_net_of_8_bits_has_one_rounding_of_floats_and_one_way_back() -> None:
    net = Quantised([1, 3, 8, 8])
    net.round(0.03, 3)
    x = net.last
    net.add("Conv", net.weights(8, 3, 3, 3, axis=0), net.random(8, scale=0.1), reads=x, pads=[1, 1, 1, 1])
    net.add("Relu")
    net.round(0.05, -128)
    x = net.last
    net.add("Conv", net.weights(8, 1, 3, 3, axis=0), net.random(8, scale=0.1), reads=x, group=8, pads=[1, 1, 1, 1])
    net.round(0.04, -5)
    net.add("Add", x)
    net.round(0.08, -20)
    net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.round(0.08, -20)
    x = net.add("Flatten")
    net.add("Gemm", net.weights(128, 10, axis=1), net.random(10), reads=x)
    net.round(0.5, 4)
    apart, _, ops = steps_apart(net, 0.5)
    assert ops == [
        "affine_quantize", "transpose", "conv2d_i8", "depthwise_i8", "add_i8", "max_pool_i8", "reshape",
        "dense_tflite", "dequantize",
    ]  # fmt: skip
    assert apart < 3  # a step of a layer in front is worth more behind


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Relu", "LeakyRelu"])
def test_functions_of_one_number_become_tables(op: str) -> None:
    net = Quantised([1, 40])
    net.round(0.02, 7)
    net.add(op)
    net.round(0.01, -9)
    apart, share, ops = steps_apart(net, 0.01)
    assert ops == ["affine_quantize", "lookup_i8", "dequantize"]
    assert (apart, share) == (pytest.approx(0, abs=0.01), 0)


def test_what_has_no_8_bit_form_is_computed_in_float_between_the_steps() -> None:
    net = Quantised([1, 4, 6])
    net.round(0.02, 7)
    net.add("Softmax", axis=1)
    net.round(1 / 256, -128)
    net.add("Mul", net.number(0.7))
    net.round(1 / 300, -128)
    apart, share, ops = steps_apart(net, 1 / 300)
    between = ["dequantize", "softmax", "affine_quantize", "dequantize", "mul", "affine_quantize", "dequantize"]
    assert [op for op in ops if op not in ("transpose", "constant")] == ["affine_quantize", *between]
    assert apart <= 1.01
    assert share < 0.05


def test_a_value_that_is_read_before_it_is_quantised_stays_a_float_as_well() -> None:
    net = Quantised([1, 6])
    net.round(0.02, 0)
    x = net.last
    y = net.add("MatMul", net.weights(6, 5, axis=1), reads=x)
    net.round(0.1, 3)
    net.add("Add", y)
    apart, _, ops = steps_apart(net, 1.0)
    assert apart < 1e-3
    assert ("dense" in ops, "dense_tflite" in ops) == (True, False)  # not twice


@pytest.mark.parametrize("place", ["in front", "behind", "pool", "moved", "two sums"])
def test_what_stands_between_is_not_forgotten(place: str) -> None:
    """A scale folded into float weights, or another grid behind what keeps its own: the 8-bit form would be wrong."""
    net = Quantised([1, 4, 6])
    net.round(0.03, 3)
    if place in ("in front", "behind"):
        net.add("Flatten")
        net.add("Mul", net.number(np.linspace(0.5, 2, 24))) if place == "in front" else None
        x = net.last
        net.add("Gemm", net.weights(24, 5, axis=1), net.random(5), reads=x)
        net.add("Mul", net.number([0.5, 1, 2, 3, 4])) if place == "behind" else None
        net.round(0.2, 3)
    elif place == "two sums":
        net.add("Add", net.number([0.123, 0.4, 0.777, 0.05, 0.06, 0.0701]))
        x = net.last
        held = net.number(np.arange(-3, 3), np.int8), net.number(0.5), net.number(0, np.int8)
        net.add("Add", net.add("DequantizeLinear", *held, reads=""), reads=x)
        net.round(0.05, -7)
    elif place == "pool":
        net.add("MaxPool", kernel_shape=[2])
        net.round(0.05, -7)
    else:
        net.add("Reshape", net.whole(1, 6, 4))
        net.round(0.05, -7)
    step = 0.2 if place in ("in front", "behind") else 0.05
    apart, share, _ = steps_apart(net, step)
    assert (apart <= 1.01, share < 0.05) == (True, True)


def test_quantised_operators_of_the_other_kind_are_refused_with_what_can_be_done() -> None:
    net = Net([1, 4])
    net.add("DynamicQuantizeLinear", outputs=3)
    with pytest.raises(ModelError, match="node 0 .DynamicQuantizeLinear.*QuantFormat.QDQ"):
        imported(net.bytes())
    net = Quantised([1, 4])
    net.add("QuantizeLinear", net.number(0.1), net.number(0, np.int8))
    with pytest.raises(ModelError, match="output .*expected float, found 8 bits"):
        imported(net.bytes())


@pytest.mark.parametrize(
    "scale,zero,kind",
    [(0.0, 0, np.int8), (-0.1, 0, np.int8), (np.nan, 0, np.int8), (0.1, 0, np.int32), (1e-45, 0, np.int8)],
)
def test_wrong_steps_are_refused(scale: float, zero: int, kind: type) -> None:
    net = Quantised([1, 4])
    net.round(scale, zero, kind)
    with pytest.raises(ModelError, match="node 0 .QuantizeLinear"):
        imported(net.bytes())


class Readings:
    """Calibration data for ONNX Runtime's quantiser."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(1)
        self._rows = iter([{"input": rng.normal(size=shape).astype(np.float32)} for _ in range(8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rows, None)


def image_net() -> Net:
    net = Net([1, 3, 12, 12])
    net.add("Conv", net.random(8, 3, 3, 3, scale=0.3), net.random(8, scale=0.1), pads=[1, 1, 1, 1], strides=[2, 2])
    first = net.add("Relu")
    net.add("Conv", net.random(8, 1, 3, 3, scale=0.3), net.random(8, scale=0.1), pads=[1, 1, 1, 1], group=8)
    net.add("Clip", net.number(0.0), net.number(6.0))
    net.add("Conv", net.random(8, 8, 1, 1, scale=0.3), net.random(8, scale=0.1))
    net.add("Add", first)
    net.add("GlobalAveragePool")
    net.add("Flatten")
    net.add("Gemm", net.random(5, 8), net.random(5), transB=1)
    return net


def dense_net() -> Net:
    net = Net([1, 20])
    for width, after in ((20, 32), (32, 4)):
        net.add("MatMul", net.random(width, after, scale=0.3))
        net.add("Add", net.random(after))
        net.add("Relu" if after == 32 else "Sigmoid")
    return net


@pytest.mark.parametrize("make", [image_net, dense_net])
@pytest.mark.parametrize(("activations", "weights"), [("QInt8", "QInt8"), ("QUInt8", "QInt8"), ("QUInt8", "QUInt8")])
def test_files_of_the_quantiser_itself(make, activations: str, weights: str, tmp_path) -> None:
    """Whole numbers throughout, where weights are symmetric; else floats between the roundings, and as near."""
    from onnxruntime import quantization

    net, files = make(), (tmp_path / "float.onnx", tmp_path / "whole.onnx")
    files[0].write_bytes(net.bytes())
    quantization.quantize_static(
        str(files[0]),
        str(files[1]),
        Readings(tuple(int(side) for side in net.shape)),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType[activations],
        weight_type=quantization.QuantType[weights],
        per_channel=weights == "QInt8",
    )
    data = files[1].read_bytes()
    made, rows = imported(data), rows_of(data, 20)
    wanted = answers(data, rows)
    step = np.abs(np.diff(np.unique(wanted))).min()
    assert np.abs(forward(made.graph, rows) - wanted).max() <= 3.01 * step
    ops = [node.op for node in made.graph.nodes]
    if weights == "QInt8":
        assert (ops.count("affine_quantize"), ops.count("dequantize")) == (1, 1)
    else:
        assert ops.count("affine_quantize") > 1
