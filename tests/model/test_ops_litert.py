"""Operators compute what LiteRT's reference kernels compute: whole numbers to the bit, floats to float32's rounding.

Each case is a file of one operator with shapes, scales and zero points by chance, and the same node made here.  What an
importer makes of such files: `tests/model/tflite/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeswarm.model.fixed_point import quantize_multiplier
from edgeswarm.model.graph import Builder, Node, Tensor, forward
from edgeswarm.model.ops import OPS
from edgeswarm.model.ops_shapes import mean_shape
from edgeswarm.model.ops_spatial import same_pad, window_of
from tests.support.tflite_files import NONE, RELU, RELU6, SAME, VALID, Net, litert

CASES = 6
"""Of each operator; each with several rows."""
ACTIVATIONS = {NONE: "linear", RELU: "relu", RELU6: "relu6"}


def single(value: float) -> float:
    return float(np.float32(value))


class Case:
    """One operator: its file, and its node here."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.net = Net()
        self.params: dict[str, Any] = {}

    def whole(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def sides(self, count: int, high: int = 8) -> tuple[int, ...]:
        return tuple(self.whole(1, high) for _ in range(count))

    def scale(self, low: float = -3, high: float = 0) -> float:
        return single(10 ** self.random.uniform(low, high))

    def quantised(self, shape: tuple[int, ...], scale: float | None = None) -> Tensor:
        return Tensor(shape, "i8", self.scale() if scale is None else single(scale), self.whole(-128, 127))

    def q(self, *shape: int) -> np.ndarray:
        return self.random.integers(-128, 128, shape).astype(np.int8)

    def values(self, tensor: Tensor, rows: int = 6) -> np.ndarray:
        if tensor.dtype == "i8":
            return self.q(rows, *tensor.shape)
        return self.random.normal(0, 3, (rows, *tensor.shape)).astype(np.float32)

    def of(self, tensor: Tensor, **more: Any) -> int:
        """The file's tensor, with a batch axis of 1."""
        steps = {"scale": tensor.scale, "zero_point": tensor.zero_point} if tensor.dtype == "i8" else {}
        return self.net.tensor((1, *tensor.shape), tensor.dtype, **steps, **more)

    def clamp(self, output: Tensor) -> tuple[int, dict[str, int]]:
        """A fused activation, as the file and as the node says it."""
        fused = int(self.random.choice([NONE, RELU, RELU6]))
        low, high = -128, 127
        if fused != NONE:
            low = output.zero_point
        if fused == RELU6:
            high = min(127, output.zero_point + math.floor(single(np.float32(6) / np.float32(output.scale)) + 0.5))
        return fused, {"low": low, "high": high}

    def same(self, op: str, code: str, inputs: list[Tensor], output: Tensor, attrs: dict[str, Any], **options: Any):
        """Both compute the same of the same rows; inputs after the first are constants in the file."""
        rows = [self.values(inputs[0]), *[np.repeat(self.values(tensor, 1), 6, 0) for tensor in inputs[1:]]]
        read = [self.of(inputs[0])] + [
            self.of(tensor, data=row[:1]) for tensor, row in zip(inputs[1:], rows[1:], strict=True)
        ]
        self.check(op, rows, inputs, output, attrs, code, read, **options)

    def check(self, op, rows, inputs, output, attrs, code, read, **options):
        made = OPS[op].infer(inputs, attrs)
        assert made.shape == output.shape and output.dtype in made.dtypes
        node = Node(op, tuple(range(len(inputs))), len(inputs), attrs, self.params)
        ours = OPS[op].reference(node, inputs, output, [row.astype(np.float64) for row in rows])
        written = self.of(output)
        self.net.op(code, read, [written], **options)
        theirs = litert(self.net.file([read[0]], [written]), rows[0]).reshape(ours.shape).astype(np.float64)
        if output.dtype == "i8":
            assert (ours == theirs).all(), (op, attrs, inputs, output)
        else:
            assert np.abs(ours - theirs).max() <= 2e-6 * max(1.0, np.abs(ours).max()), (op, attrs, inputs)


def conv(case: Case, deep: bool, i8: bool) -> None:
    h, w, c = case.sides(3)
    attrs: dict[str, Any] = {"kernel": case.sides(2, 3), "stride": case.sides(2, 3), "dilation": (1, 1)}
    if case.whole(0, 2) == 0:
        attrs["dilation"] = case.sides(2, 3)
    spread = [(k - 1) * d + 1 for k, d in zip(attrs["kernel"], attrs["dilation"], strict=True)]
    valid = spread[0] <= h and spread[1] <= w and case.whole(0, 1)
    attrs["pad"] = (0,) * 4 if valid else same_pad((h, w), attrs["kernel"], attrs["stride"], attrs["dilation"])
    read = case.quantised((h, w, c)) if i8 else Tensor((h, w, c))
    window, many = window_of(read, attrs), case.whole(1, 4)
    channels = c * many if deep else many
    shape = (window.height, window.width, channels)
    output = case.quantised(shape, read.scale * 10 ** case.random.uniform(-2, 2)) if i8 else Tensor(shape)
    attrs["multiplier" if deep else "filters"] = many
    full = (*attrs["kernel"], channels) if deep else (*attrs["kernel"], c, channels)
    fused, clamp = case.clamp(output)
    attrs |= clamp if i8 else {"activation": ACTIVATIONS[fused]}
    x = case.of(read)
    scales = np.float32([case.scale() for _ in range(channels)])
    if i8:
        weights, bias = np.maximum(case.q(*full), -127), case.random.integers(-30000, 30000, channels).astype(np.int32)
        factors = np.array([quantize_multiplier(read.scale * float(s) / output.scale) for s in scales], np.int32)
        case.params |= {"multiplier": factors[:, 0], "shift": factors[:, 1]}
    else:
        weights = case.random.normal(size=full).astype(np.float32)
        bias = case.random.normal(size=channels).astype(np.float32)
    case.params |= {"weights": weights, "bias": bias}
    held = weights[None] if deep else weights.transpose(3, 0, 1, 2)
    steps = {"scale": scales, "zero_point": [0] * channels, "axis": 3 if deep else 0} if i8 else {}
    more = {"scale": scales.astype(np.float64) * read.scale, "zero_point": [0] * channels} if i8 else {}
    kernel = case.net.constant(held, read.dtype, **steps)
    summand = case.net.constant(bias, "i32" if i8 else "f32", **more)
    options = {"DepthMultiplier": many} if deep else {}
    case.check(
        ("depthwise" if deep else "conv2d") + ("_i8" if i8 else ""),
        [case.values(read)],
        [read],
        output,
        attrs,
        "DEPTHWISE_CONV_2D" if deep else "CONV_2D",
        [x, kernel, summand],
        Padding=VALID if valid else SAME,
        StrideH=attrs["stride"][0],
        StrideW=attrs["stride"][1],
        DilationHFactor=attrs["dilation"][0],
        DilationWFactor=attrs["dilation"][1],
        FusedActivationFunction=fused,
        **options,
    )


def dense(case: Case, deep: bool, i8: bool) -> None:
    """deep: one scale for each unit."""
    width, units = case.whole(1, 80), case.whole(1, 30)
    read = case.quantised((width,))
    output = case.quantised((units,), read.scale * 10 ** case.random.uniform(-2, 2))
    scales = np.float32([case.scale() for _ in range(units if deep else 1)])
    products = [float(s) * read.scale if deep else single(s * np.float32(read.scale)) for s in scales]
    factors = np.array([quantize_multiplier(product / output.scale) for product in products] * (units // len(products)))
    weights = np.maximum(case.q(width, units), -127)
    bias = case.random.integers(-30000, 30000, units).astype(np.int32)
    case.params |= {"weights": weights, "bias": bias}
    case.params |= {"multiplier": factors[:, 0].astype(np.int32), "shift": factors[:, 1].astype(np.int32)}
    fused, attrs = case.clamp(output)
    none = [0] * len(scales)
    files = [
        case.of(read),
        case.net.constant(weights.T, "i8", scale=scales, zero_point=none),
        case.net.constant(bias, "i32", scale=products, zero_point=none),
    ]
    rows = [case.values(read, 100)]  # one rounding instead of two shows in a value of a thousand
    case.check(
        "dense_tflite",
        rows,
        [read],
        output,
        attrs | {"units": units},
        "FULLY_CONNECTED",
        files,
        FusedActivationFunction=fused,
    )


def pool(case: Case, largest: bool, i8: bool) -> None:
    h, w, c = case.sides(3)
    attrs: dict[str, Any] = {"kernel": case.sides(2, 4), "stride": case.sides(2, 4)}
    valid = attrs["kernel"][0] <= h and attrs["kernel"][1] <= w and case.whole(0, 1)
    attrs["pad"] = (0,) * 4 if valid else same_pad((h, w), attrs["kernel"], attrs["stride"])
    read = case.quantised((h, w, c)) if i8 else Tensor((h, w, c))
    window = window_of(read, attrs)
    output = Tensor((window.height, window.width, c), read.dtype, read.scale, read.zero_point)
    fused, clamp = case.clamp(output)
    name = "max_pool" if largest else "average_pool"
    case.same(
        name + ("_i8" if i8 else ""),
        name.upper() + "_2D",
        [read],
        output,
        attrs | (clamp if i8 else {"activation": ACTIVATIONS[fused]}),
        Padding=VALID if valid else SAME,
        FilterHeight=attrs["kernel"][0],
        FilterWidth=attrs["kernel"][1],
        StrideH=attrs["stride"][0],
        StrideW=attrs["stride"][1],
        FusedActivationFunction=fused,
    )


def pair(case: Case, product: bool, i8: bool) -> None:
    shape = case.sides(case.whole(1, 3), 5)
    shapes = [shape, tuple(1 if case.whole(0, 2) == 0 else side for side in shape)]
    if case.whole(0, 1):
        shapes.reverse()
    inputs = [case.quantised(one) if i8 else Tensor(one) for one in shapes]
    output = case.quantised(shape, max(t.scale for t in inputs) * 10 ** case.random.uniform(-1, 1)) if i8 else None
    output = output or Tensor(shape)
    fused, clamp = case.clamp(output)
    attrs = clamp if i8 else {"activation": ACTIVATIONS[fused]}
    name = "mul" if product else "add"
    case.same(name + ("_i8" if i8 else ""), name.upper(), inputs, output, attrs, FusedActivationFunction=fused)


def mean(case: Case, keep: bool, i8: bool) -> None:
    shape = case.sides(case.whole(1, 3), 12)
    axes = tuple(axis for axis in range(len(shape)) if case.whole(0, 1)) or (0,)
    read = case.quantised(shape) if i8 else Tensor(shape)
    attrs = {"axes": axes, "keep": int(keep)}
    made = mean_shape([read], attrs)
    output = case.quantised(made, read.scale * 10 ** case.random.uniform(-1.5, 1)) if i8 else Tensor(made)
    files = [case.of(read), case.net.constant(np.add(axes, 1))]
    rows = [case.values(read)]
    case.check("mean_i8" if i8 else "mean", rows, [read], output, attrs, "MEAN", files, KeepDims=keep)


def softmax(case: Case, sharp: bool, i8: bool) -> None:
    shape = case.sides(case.whole(1, 3), 20)
    read = case.quantised(shape, case.scale(-1, 1) if sharp else case.scale(-3, -1)) if i8 else Tensor(shape)
    output = Tensor(shape, "i8", 1 / 256, -128) if i8 else Tensor(shape)
    beta = float(case.random.choice([1.0, 0.5, 3.25]))
    case.same("softmax_i8" if i8 else "softmax", "SOFTMAX", [read], output, {"beta": beta}, Beta=beta)


def resize(case: Case, align: bool, i8: bool) -> None:
    h, w, c = case.sides(3)
    read, size = case.quantised((h, w, c)) if i8 else Tensor((h, w, c)), case.sides(2, 20)
    half = 0 if align else case.whole(0, 1)
    output = Tensor((*size, c), read.dtype, read.scale, read.zero_point)
    case.check(
        "resize_nearest",
        [case.values(read)],
        [read],
        output,
        {"size": size, "align": int(align), "half": half},
        "RESIZE_NEAREST_NEIGHBOR",
        [case.of(read), case.net.constant(size)],
        AlignCorners=align,
        HalfPixelCenters=bool(half),
    )


FORMS: list[Callable[[Case, bool, bool], None]] = [conv, dense, pool, pair, mean, softmax, resize]


@pytest.mark.parametrize("seed", range(CASES))
@pytest.mark.parametrize("kind", [False, True])
@pytest.mark.parametrize(
    ("form", "i8"),
    [(form, i8) for form in FORMS for i8 in (False, True) if i8 or form is not dense],  # dense in float: test_graph.py
    ids=lambda value: "" if isinstance(value, bool) else value.__name__,
)
def test_an_operator_computes_what_the_reference_kernel_does(form, kind, i8, seed):
    form(Case(seed), kind, i8)


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_operators_compute_what_the_reference_kernels_do_in_a_thousand_cases(form):
    for seed in range(CASES, CASES + 250):
        for i8 in (False, True) if form is not dense else (True,):
            for kind in (False, True):
                form(Case(seed), kind, i8)


@pytest.mark.parametrize("seed", range(CASES))
def test_floats_become_whole_numbers_as_there(seed):
    """Halves away from 0 among them, and what lies beyond the range."""
    case = Case(seed)
    output = case.quantised((300,))
    rows = (case.random.normal(size=(3, 300)) * output.scale * 80).astype(np.float32)
    rows[0] = np.float32(output.scale) * (case.random.integers(-130, 130, 300) + 0.5).astype(np.float32)
    rows[1, :4] = 0.0, -0.0, 1e6, -1e6
    case.check("affine_quantize", [rows], [Tensor((300,))], output, {}, "QUANTIZE", [case.of(Tensor((300,)))])


def test_halves_and_what_has_no_place_go_where_the_definition_says():
    builder = Builder(Tensor((6,)))
    q = builder.add("affine_quantize", [0], like=Tensor((6,), "i8", 0.5, 3))
    graph = builder.graph(builder.add("dequantize", [q]))
    rows = [[0.25, -0.25, 0.75, np.nan, np.inf, -np.inf]]
    assert (forward(graph, rows) / 0.5 + 3).tolist() == [[4, 2, 5, -128, 127, -128]]
