"""Attrs and params come out of files of strangers: what does not fit is refused by name, and nothing gets large."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import GRAPH_TENSOR_VALUES_MAX, WINDOW_SIDE_MAX
from edgeswarm.model.graph import Builder, Outline, Tensor, evaluate, forward
from edgeswarm.model.nodes import DTYPES, Node
from edgeswarm.model.ops import OPS
from edgeswarm.model.ops_spatial import same_pad, window_of
from edgeswarm.model.structure import outline_of, structure_of

IMAGE, I8 = Tensor((6, 5, 3)), Tensor((6, 5, 3), "i8", 0.5, -7)
WINDOW = {"kernel": (3, 2), "stride": (2, 1), "pad": (1, 1, 0, 1)}
CONV = WINDOW | {"dilation": (1, 1)}
CLAMP = {"low": -128, "high": 127}
BASES = {
    "conv2d": ([IMAGE], CONV | {"filters": 4, "activation": "relu6"}),
    "depthwise": ([IMAGE], CONV | {"multiplier": 2, "activation": "linear"}),
    "average_pool": ([IMAGE], WINDOW | {"activation": "relu"}),
    "max_pool": ([IMAGE], WINDOW | {"activation": "linear"}),
    "mean": ([IMAGE], {"axes": (0, 1), "keep": 1}),
    "softmax": ([IMAGE], {"beta": 1.0}),
    "add": ([IMAGE, Tensor((1, 5, 1))], {"activation": "relu"}),
    "mul": ([IMAGE, Tensor((1, 1, 3))], {"activation": "linear"}),
    "elementwise": ([IMAGE], {"activation": "tanh"}),
    "leaky": ([IMAGE], {"slope": 0.2}),
    "reshape": ([I8], {"shape": (3, 30)}),
    "transpose": ([I8], {"perm": (2, 0, 1)}),
    "join": ([I8, I8], {"axis": 1}),
    "pad": ([I8], {"pads": (0, 1, 2, 0, 0, 0), "value": -7.0}),
    "strided_slice": ([I8], {"start": (1, 0, 0), "stop": (6, 5, 2), "step": (2, 1, 1)}),
    "resize_nearest": ([I8], {"size": (3, 9), "align": 0, "half": 1}),
    "constant": ([], {"shape": (2, 3), "dtype": "i8"}),
    "conv2d_i8": ([I8], CONV | CLAMP | {"filters": 4}),
    "depthwise_i8": ([I8], CONV | CLAMP | {"multiplier": 2}),
    "dense_tflite": ([I8], CLAMP | {"units": 3}),
    "rows_tflite": ([I8], CLAMP | {"units": 2}),
    "add_i8": ([I8, I8], CLAMP),
    "mul_i8": ([I8, I8], CLAMP),
    "average_pool_i8": ([I8], WINDOW | CLAMP),
    "max_pool_i8": ([I8], WINDOW | CLAMP),
    "mean_i8": ([I8], {"axes": (0, 1), "keep": 0}),
    "softmax_i8": ([I8], {"beta": 1.0}),
    "lookup_i8": ([I8], {}),
    "affine_quantize": ([IMAGE], {}),
}
WRITES = {
    "conv2d": (3, 5, 4),
    "depthwise": (3, 5, 6),
    "average_pool": (3, 5, 3),
    "mean": (1, 1, 3),
    "mean_i8": (3,),
    "rows_tflite": (6, 5, 2),
}
NUMBERS = st.sampled_from([0, -1, 1, 2, 3, 127, -129, 4096, 4097, 2**20, 2**31, 2**63, -(2**63), 2**20000])
ANY = (
    NUMBERS
    | st.lists(NUMBERS, max_size=7).map(tuple)
    | st.sampled_from([(), (1,) * 100_000, (True, True), (1.0, 2.0), ("1", "2"), (None,) * 4, ((1, 1),) * 2])
    | st.floats()
    | st.sampled_from(["", "softmax", "relu", "x" * 10_000, "f32", "i32", True, None])
    | st.lists(st.integers(0, 6), min_size=2, max_size=6).map(tuple)
)


def added(op, inputs, attrs, **more) -> tuple[Builder, int]:
    builder = Builder(IMAGE)
    builder.tensors = list(inputs)
    return builder, builder.add(op, range(len(inputs)), **more, **attrs)


def test_every_operator_of_images_has_a_base_here_that_holds():
    flat = {"dense", "dense_fann", "sparse_fann", "concat", "slice", "quantize", "dense_i8", "dequantize"}
    assert set(BASES) == set(OPS) - flat
    for op, (inputs, attrs) in BASES.items():
        builder, made = added(op, inputs, attrs)
        if op in WRITES:
            assert builder.tensors[made].shape == WRITES[op]
        if not op.endswith(("_i8", "_tflite")) and inputs and inputs[0].dtype == "i8":
            assert builder.tensors[made].zero_point == -7  # what only moves bits keeps the steps


@settings(max_examples=400, deadline=None)
@given(op=st.sampled_from(sorted(name for name, (_, attrs) in BASES.items() if attrs)), data=st.data())
def test_any_attr_is_taken_or_refused_in_a_few_words(op, data):
    inputs, attrs = BASES[op]
    name = data.draw(st.sampled_from(sorted(attrs)))
    changed = attrs | {name: data.draw(ANY)}
    try:
        builder, made = added(op, inputs, changed)
        OPS[op].params(inputs, changed)
        OPS[op].macs(inputs, changed)
    except (ModelError, LimitError) as error:
        assert len(str(error)) < 600
    else:
        assert 1 <= builder.tensors[made].size <= GRAPH_TENSOR_VALUES_MAX
        assert json.dumps(changed[name], allow_nan=False)


@pytest.mark.parametrize(
    ("op", "changes", "text"),
    [
        ("conv2d", {"kernel": (3,)}, "kernel: expected 2 whole numbers from 1 to 4096, found .3."),
        ("conv2d", {"kernel": (0, 2)}, "kernel: expected 2 whole numbers from 1"),
        ("conv2d", {"kernel": (9, 2)}, "kernel: expected one that fits into the height 6 and its padding, found 9"),
        ("conv2d", {"dilation": (1, 7)}, "kernel: expected one that fits into the width 5 and its padding, found 8"),
        ("conv2d", {"stride": (1, 0)}, "stride: expected 2 whole numbers from 1"),
        ("conv2d", {"stride": (1, WINDOW_SIDE_MAX + 1)}, "stride: expected 2 whole numbers from 1"),
        ("conv2d", {"dilation": (True, 1)}, "dilation: expected 2 whole numbers"),
        ("conv2d", {"pad": (3, 0, 0, 0)}, "pad: expected less than the 3 that the kernel covers"),
        ("conv2d", {"pad": (0, -1, 0, 0)}, "pad: expected 4 whole numbers from 0"),
        ("conv2d", {"filters": 0}, "filters: expected a whole number from 1"),
        ("conv2d", {"activation": "softmax"}, "activation: expected one that looks at each value alone"),
        ("depthwise", {"multiplier": 2**22 + 1}, "multiplier: expected a whole number from 1"),
        ("average_pool", {"pad": (0, 0, 0, 2)}, "pad: expected less than the 2"),
        ("mean", {"axes": ()}, "axes: expected at least one"),
        ("mean", {"axes": (1, 0)}, "axes: expected at least one, each once, in order"),
        ("mean", {"axes": (0, 3)}, "axes: expected whole numbers from 0 to 2"),
        ("mean", {"keep": 2}, "keep: expected a whole number from 0 to 1"),
        ("softmax", {"beta": math.nan}, "beta: expected a number from"),
        ("softmax_i8", {"beta": -1.0}, "beta: expected at least 0"),
        ("leaky", {"slope": 1e39}, "slope: expected a number from"),
        ("reshape", {"shape": (3, 31)}, "shape: expected 1 to 4 axes of together 90 values"),
        ("reshape", {"shape": (1, 1, 1, 1, 90)}, "shape: expected 1 to 4 axes"),
        ("transpose", {"perm": (0, 1, 1)}, "perm: expected each axis once"),
        ("join", {"axis": 3}, "axis: expected a whole number from 0 to 2"),
        ("pad", {"pads": (0, 1)}, "pads: expected 6 whole numbers"),
        ("pad", {"value": 0.5}, "value: expected a whole number from -128 to 127 for i8"),
        ("pad", {"value": 128.0}, "value: expected a whole number from -128 to 127 for i8"),
        ("resize_nearest", {"half": 2}, "half: expected a whole number from 0 to 1, found 2"),
        ("strided_slice", {"stop": (7, 5, 2)}, "expected 0 <= start < stop <= 6"),
        ("strided_slice", {"start": (6, 0, 0)}, "expected 0 <= start < stop <= 6"),
        ("strided_slice", {"step": (0, 1, 1)}, "a step of at least 1"),
        ("resize_nearest", {"align": 1}, "align: expected 0 where half is 1"),
        ("constant", {"dtype": "u8"}, "dtype: expected f32 or i8"),
        ("constant", {"shape": (2**21, 3)}, "shape: expected 1 to 4 axes of at most 4194304 values"),
        ("conv2d_i8", {"low": -129}, "low: expected a whole number from -128 to 127"),
        ("dense_tflite", {"low": 5, "high": 4}, "high: expected a whole number from 5 to 127"),
    ],
)
def test_attrs_that_do_not_fit_are_refused_by_name(op, changes, text):
    inputs, attrs = BASES[op]
    with pytest.raises(ModelError, match=text):
        added(op, inputs, attrs | changes)


@pytest.mark.parametrize(
    ("op", "inputs", "text"),
    [
        ("conv2d", [I8], "input: expected f32, found i8"),
        ("conv2d_i8", [IMAGE], "input: expected i8, found f32"),
        ("depthwise", [Tensor((6, 5))], "input: expected the axes height, width, channels"),
        ("resize_nearest", [Tensor((6,))], "input: expected the axes height, width, channels"),
        ("add", [IMAGE, Tensor((5, 3))], "inputs: expected shapes that are equal but for axes of 1"),
        ("mul", [IMAGE, Tensor((2, 5, 3))], "inputs: expected shapes that are equal but for axes of 1"),
        ("join", [I8, Tensor((6, 5, 3), "i8", 0.25, -7)], "join: expected inputs of one dtype, scale and zero point"),
        ("join", [I8, Tensor((5, 5, 3), "i8", 0.5, -7)], "join: expected inputs that differ in axis 1 alone"),
        ("softmax_i8", [Tensor((4096,), "i8")], "softmax_i8: expected at most 4095 values in the last axis"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(op, inputs, text):
    with pytest.raises(ModelError, match=text):
        added(op, inputs, BASES[op][1])


def test_small_files_cannot_ask_for_large_images_or_endless_work():
    """Each of them is a few bytes of JSON; none of them gets as far as an array."""
    one, wide = Tensor((1, 1, 1)), Tensor((1024, 1024, 1))
    side = WINDOW_SIDE_MAX
    attrs = {"filters": 1, "activation": "linear", "kernel": (2, 2), "stride": (side, side), "dilation": (side, side)}
    tracemalloc.start()
    with pytest.raises(LimitError, match="values of an image with its padding"):
        added("conv2d", [one], attrs | {"pad": (side,) * 4})
    with pytest.raises(LimitError, match="GRAPH_TENSOR_VALUES_MAX"):
        added("conv2d", [wide], attrs | {"kernel": (1, 1), "stride": (1, 1), "pad": (0,) * 4, "filters": 2**21})
    with pytest.raises(LimitError, match="GRAPH_TENSOR_VALUES_MAX"):
        added("pad", [one], {"pads": (2**20,) * 6, "value": 0.0})
    heavy = {"kernel": (512, 512), "stride": (1, 1), "dilation": (1, 1), "pad": (255, 256, 255, 256), "multiplier": 1}
    node = Node("depthwise", (0,), 1, heavy | {"activation": "linear"})
    with pytest.raises(LimitError, match="GRAPH_MACS_MAX"):
        Outline((Tensor((256, 256, 1)), Tensor((256, 256, 1)), Tensor((256, 256, 1))), (node, *_again(node)), 0, 2)
    pool = {"kernel": (511, 511), "stride": (1, 1), "pad": (255,) * 4}
    for op, dtype, more in (
        ("average_pool", "f32", {"activation": "linear"}),
        ("max_pool", "f32", {"activation": "linear"}),
        ("average_pool_i8", "i8", {"low": -128, "high": 127}),
        ("max_pool_i8", "i8", {"low": -128, "high": 127}),
    ):  # they multiply nothing, and would take minutes
        tensors = [Tensor((256, 256, 1), dtype) for _ in range(6)]
        inside = [Node(op, (at,), at + 1, pool | more) for at in range(5)]
        ends = [] if dtype == "f32" else [Node("affine_quantize", (6,), 0, {}), Node("dequantize", (5,), 7, {})]
        whole = [*ends[:1], *inside, *ends[1:]]
        edges = [] if dtype == "f32" else [Tensor((256, 256, 1))] * 2
        with pytest.raises(LimitError, match="GRAPH_MACS_MAX"):
            Outline((*tensors, *edges), whole, *((0, 5) if dtype == "f32" else (6, 7)))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def _again(node: Node) -> list[Node]:
    return [Node(node.op, (1,), 2, node.attrs)]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("multiplier", 1, "multiplier: expected 0 or 2.30 to 2.31 - 1"),
        ("multiplier", -(2**31), "multiplier: expected 0 or 2.30 to 2.31 - 1"),
        ("shift", 31, "shift: expected -31 to 30"),
        ("shift", -32, "shift: expected -31 to 30"),
    ],
)
@pytest.mark.parametrize("op", ["conv2d_i8", "depthwise_i8", "dense_tflite", "rows_tflite"])
def test_multipliers_and_shifts_are_those_of_the_format(op, name, value, text):
    with pytest.raises(ModelError, match=text):
        whole_graph(op, {name: value})


def whole_graph(op: str, changes: dict[str, int] | None = None):
    """A graph around the base of `op`, its params all 1; changes: params of another value."""
    inputs, attrs = BASES[op]
    builder, read = Builder(IMAGE), []
    for tensor in inputs:
        at = builder.add("strided_slice", [0], start=(0, 0, 0), stop=tensor.shape, step=(1, 1, 1))
        read.append(builder.add("affine_quantize", [at], like=tensor) if tensor.dtype == "i8" else at)
    params = {}
    for name, param in OPS[op].params(inputs, attrs).items():
        fill = (changes or {}).get(name, 1 << 30 if name == "multiplier" else 1)
        params[name] = np.full(param.shape, fill, DTYPES[param.dtype])
    made = builder.add(op, read, params, **attrs)
    if builder.tensors[made].dtype != "f32":
        made = builder.add("dequantize", [made])
    return builder.graph(made)


@pytest.mark.parametrize("op", [name for name in BASES if name != "constant"])
def test_structures_with_every_operator_are_read_back(op):
    graph = whole_graph(op)
    assert structure_of(outline_of(structure_of(graph))) == structure_of(graph)
    rows = np.random.default_rng(0).normal(size=(2, *IMAGE.shape))
    answers = forward(graph, rows)
    assert answers.shape == (2, graph.tensors[graph.output].size) and np.isfinite(answers).all()
    assert (answers == evaluate(graph, rows)[graph.output].reshape(2, -1)).all()


def test_a_constant_has_as_many_rows_as_the_others():
    builder = Builder(Tensor((2,)))
    q = builder.add(
        "constant", [], {"value": np.int8([[3, -3]])}, like=Tensor((1,), "i8", 0.5, 1), shape=(1, 2), dtype="i8"
    )
    flat = builder.add("dequantize", [builder.add("reshape", [q], shape=(2,))])
    graph = builder.graph(builder.add("join", [0, flat], axis=0))
    assert forward(graph, [[1, 2], [5, 6]]).tolist() == [[1, 2, 1, -2], [5, 6, 1, -2]]
    assert forward(graph, np.empty((0, 2))).shape == (0, 4)


@settings(max_examples=150, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kernel=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    stride=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dilation=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_same_pad_writes_a_place_for_each_stride(sides, kernel, stride, dilation):
    pad = same_pad(sides, kernel, stride, dilation)
    window = window_of(Tensor((*sides, 2)), {"kernel": kernel, "stride": stride, "dilation": dilation, "pad": pad})
    assert (window.height, window.width) == tuple(-(-side // step) for side, step in zip(sides, stride, strict=True))
    assert 0 <= pad[1] - pad[0] <= 1 and 0 <= pad[3] - pad[2] <= 1


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(*[st.integers(1, 9)] * 3),
    kernel=st.tuples(*[st.integers(1, 5)] * 2),
    stride=st.tuples(*[st.integers(1, 3)] * 2),
    seed=st.integers(0, 99),
)
def test_pools_look_at_what_is_inside(sides, kernel, stride, seed):
    """Each place by its own slice of the image."""
    attrs = {"kernel": kernel, "stride": stride, "pad": same_pad(sides[:2], kernel, stride), "activation": "linear"}
    builder = Builder(Tensor(sides))
    average, largest = builder.add("average_pool", [0], **attrs), builder.add("max_pool", [0], **attrs)
    graph = builder.graph(builder.add("join", [average, largest], axis=2))
    image = np.random.default_rng(seed).normal(size=sides) - 5
    values = evaluate(graph, image[None])
    for y, x in np.ndindex(values[average].shape[1:3]):
        top, left = y * stride[0] - attrs["pad"][0], x * stride[1] - attrs["pad"][2]
        part = image[max(top, 0) : top + kernel[0], max(left, 0) : left + kernel[1]]
        assert values[average][0, y, x] == pytest.approx(part.mean(axis=(0, 1)))
        assert (values[largest][0, y, x] == part.max(axis=(0, 1))).all()
