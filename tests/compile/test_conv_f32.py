"""Float convolutions as kernels against the float64 definition: any kernel, stride, dilation, padding, channels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_graph, faults, pack_weights, unpack_graph
from edgeswarm.compile.conv_image import SCRATCH_BYTES, image_of
from edgeswarm.compile.kernel import schedule_graph
from edgeswarm.compile.lower_winograd import WinogradStep, tiles_of
from edgeswarm.model import random_rows
from edgeswarm.model.graph import Builder, Graph, Tensor, forward

MODES = ("fast", "deterministic")


def convolution(
    op: str, shape: tuple[int, int, int], *, out: int, activation: str = "relu", seed: int = 1, **window
) -> Graph:
    """One convolution.  out: filters of a conv2d, the multiplier of a depthwise one."""
    random = np.random.default_rng(seed)
    kernel = window["kernel"]
    channels = out if op == "conv2d" else shape[2] * out
    weights = (*kernel, shape[2], out) if op == "conv2d" else (*kernel, channels)
    scale = np.float32(1 / np.sqrt(np.prod(kernel) * (shape[2] if op == "conv2d" else 1)))
    params = {
        "weights": random.normal(size=weights).astype(np.float32) * scale,
        "bias": random.normal(size=channels).astype(np.float32),
    }
    attrs = {"stride": (1, 1), "dilation": (1, 1), "pad": (0, 0, 0, 0), "activation": activation} | window
    attrs["filters" if op == "conv2d" else "multiplier"] = out
    builder = Builder(Tensor(shape))
    return builder.graph(builder.add(op, [0], params, **attrs))


def agrees(load, graph: Graph, *, mode: str = "fast", arch: str = "x86-64", batch_max: int = 1) -> np.ndarray:
    """Answers within the tolerance, whatever lay in memory, and on the second call what they were on the first."""
    runner = load(compile_graph(graph, batch_max=batch_max, mode=mode, arch=arch))
    start, end = runner.layout.regions()["weights"]
    runner.memory[:start] = 0xFF
    runner.memory[end:] = 0xFF
    rows = random_rows(2, graph.tensors[graph.input].size, seed=3)
    answers = np.stack([runner.one(row) for row in rows])
    assert faults(forward(graph, rows).astype(np.float32), answers) == ""
    assert (runner.one(rows[0]) == answers[0]).all()
    if batch_max > 1:
        assert (runner.many(rows) == answers).all()
    return answers


@st.composite
def convolutions(draw) -> Graph:
    op = draw(st.sampled_from(["conv2d", "depthwise"]))
    kernel, stride = [tuple(draw(st.integers(1, most)) for _ in range(2)) for most in (4, 3)]
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 3), (2, 2)]))
    spread = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    pad = draw(st.one_of(st.just((0, 0, 0, 0)), st.tuples(*[st.integers(0, spread[i // 2] - 1) for i in range(4)])))
    sides = [max(1, spread[i] - pad[2 * i] - pad[2 * i + 1]) + draw(st.integers(0, 7)) for i in range(2)]
    channels = draw(st.one_of(st.integers(1, 9), st.sampled_from([16, 31, 70])))
    out = draw(st.one_of(st.integers(1, 20), st.sampled_from([32, 45]))) if op == "conv2d" else draw(st.integers(1, 3))
    activation = draw(st.sampled_from(["linear", "relu", "relu6", "leaky_relu", "sigmoid"]))
    return convolution(
        op, (*sides, channels), out=out, activation=activation, kernel=kernel, stride=stride, dilation=dilation, pad=pad
    )


@settings(max_examples=50, deadline=None)
@given(graph=convolutions(), mode=st.sampled_from(MODES), arch=st.sampled_from(["x86-64", "aarch64"]))
def test_convolutions_of_any_shape_agree_with_the_reference(load, graph, mode, arch):
    agrees(load, graph, mode=mode, arch=arch, batch_max=2)
    kernel = compile_graph(graph, batch_max=1)
    again = unpack_graph(kernel.weights, graph.outline)
    for name, array in graph.nodes[0].params.items():
        assert (again.nodes[0].params[name] == array).all()
    assert pack_weights(again, kernel.layout) == kernel.weights


SHAPES = {
    "keyword, first": ("conv2d", (49, 10, 1), 64, {"kernel": (10, 4), "stride": (2, 2), "pad": (4, 5, 1, 1)}),
    "keyword, depthwise": ("depthwise", (25, 5, 64), 1, {"kernel": (3, 3), "pad": (1, 1, 1, 1)}),
    "keyword, pointwise": ("conv2d", (25, 5, 64), 64, {"kernel": (1, 1)}),
    "image, in chunks": ("conv2d", (32, 32, 16), 16, {"kernel": (3, 3), "pad": (1, 1, 1, 1)}),
    "image, stride 2": ("conv2d", (32, 32, 16), 32, {"kernel": (3, 3), "stride": (2, 2), "pad": (0, 1, 0, 1)}),
    "image, shortcut": ("conv2d", (32, 32, 16), 32, {"kernel": (1, 1), "stride": (2, 2)}),
    "image, deep": ("conv2d", (8, 8, 64), 64, {"kernel": (3, 3), "pad": (1, 1, 1, 1)}),
    "visual, depthwise stride 2": (
        "depthwise",
        (24, 24, 32),
        1,
        {"kernel": (3, 3), "stride": (2, 2), "pad": (0, 1, 0, 1)},
    ),
    "visual, few pixels": ("conv2d", (3, 3, 128), 256, {"kernel": (1, 1)}),
    "as a dense layer": ("conv2d", (7, 7, 5), 10, {"kernel": (7, 7)}),
    "one filter, prime depth": ("conv2d", (4, 5, 211), 1, {"kernel": (2, 1)}),
    "a long filter along time": ("conv2d", (300, 1, 3), 4, {"kernel": (129, 1), "pad": (128, 0, 0, 0)}),
    "a depthwise kernel in loops": ("depthwise", (40, 45, 6), 1, {"kernel": (9, 40), "pad": (8, 0, 3, 3)}),
    "a depthwise kernel of one column after the other": (
        "depthwise",
        (6, 5, 3),
        4,
        {"kernel": (6, 5), "dilation": (1, 1)},
    ),
    "a multiplier of 40": ("depthwise", (5, 4, 1), 40, {"kernel": (2, 2), "pad": (1, 0, 0, 1)}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SHAPES)
def test_convolutions_of_known_nets_agree_with_the_reference(load, name, mode):
    op, shape, out, window = SHAPES[name]
    agrees(load, convolution(op, shape, out=out, **window), mode=mode)


@pytest.mark.parametrize("pixels", [1, 3, 5, 8])
@pytest.mark.parametrize("filters", [1, 9, 16, 23])
def test_pixels_and_outputs_that_tiles_leave_over_are_computed(load, pixels, filters):
    agrees(load, convolution("conv2d", (pixels, 1, 21), out=filters, kernel=(1, 1)))
    if pixels == 5:
        agrees(load, convolution("conv2d", (pixels, 1, 258), out=filters, kernel=(1, 1), activation="relu6"))


def test_padding_takes_a_small_scratch_not_the_image():
    """A large image goes through the scratch a few rows at a time, and no row is forgotten."""
    graph = convolution("conv2d", (60, 60, 16), out=4, kernel=(3, 3), pad=(1, 1, 1, 1))
    image = image_of(graph.outline, 0)
    assert image.padded and image.scratch_bytes <= SCRATCH_BYTES
    assert 1 < image.rows < 60


@pytest.mark.parametrize("op", ["conv2d", "depthwise"])
def test_nan_reaches_the_pixels_whose_kernel_covers_it_and_no_others(load, op):
    graph = convolution(op, (6, 7, 4), out=4 if op == "conv2d" else 1, kernel=(3, 3), pad=(1, 1, 1, 1))
    runner = load(compile_graph(graph, batch_max=1))
    row = random_rows(1, 6 * 7 * 4)[0]
    clean = runner.one(row).reshape(6, 7, 4)
    row.reshape(6, 7, 4)[2, 6, 1] = np.nan
    found = runner.one(row).reshape(6, 7, 4)
    reached = np.zeros((6, 7, 4), bool)
    reached[1:4, 5:, slice(None) if op == "conv2d" else 1] = True
    assert (np.isnan(found) == reached).all()
    assert (found[~reached] == clean[~reached]).all()


WINOGRAD = {
    "rows in chunks": ((32, 32, 16), 16, (1, 1, 1, 1)),
    "weights in groups": ((8, 8, 64), 64, (1, 1, 1, 1)),
    "no padding, a row at a time": ((30, 34, 8), 8, (0, 0, 0, 0)),
    "padding on one side": ((7, 12, 12), 24, (2, 1, 0, 2)),
    "weights in groups, rows in chunks": ((28, 30, 72), 48, (1, 1, 1, 1)),
    "one row of tiles": ((2, 24, 8), 8, (1, 1, 2, 2)),
}


@pytest.mark.parametrize("name", WINOGRAD)
def test_small_kernels_by_tiles_agree_with_the_reference(load, name):
    """Answers of 2 x 2 outputs at once: within the tolerance, also for values much larger than their differences."""
    shape, filters, pad = WINOGRAD[name]
    graph = convolution("conv2d", shape, out=filters, kernel=(3, 3), pad=pad, activation="linear")
    assert isinstance(schedule_graph(graph.outline).steps[0], WinogradStep)
    agrees(load, graph)
    rows = random_rows(1, graph.tensors[0].size) + np.float32(100)
    answers, expected = load(compile_graph(graph, batch_max=1)).one(rows[0]), forward(graph, rows)[0]
    assert np.abs(answers - expected).max() <= 3e-6 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("shape", "filters", "window"),
    [
        ((9, 8, 8), 8, {"kernel": (3, 3), "pad": (1, 1, 1, 1)}),  # an odd number of rows
        ((8, 8, 6), 8, {"kernel": (3, 3), "pad": (1, 1, 1, 1)}),  # channels that fill no vector
        ((8, 8, 8), 12, {"kernel": (3, 3), "pad": (1, 1, 1, 1)}),  # outputs that fill no panel
        ((8, 8, 8), 8, {"kernel": (3, 3), "pad": (1, 1, 1, 1), "stride": (2, 2)}),
        ((4, 6, 8), 8, {"kernel": (3, 3), "pad": (1, 1, 1, 1)}),  # too few to repay the weights' transform
        ((8, 8, 256), 256, {"kernel": (3, 3), "pad": (1, 1, 1, 1)}),  # too large a scratch
    ],
)
def test_what_tiles_do_not_suit_is_computed_directly(shape, filters, window):
    assert tiles_of(image_of(convolution("conv2d", shape, out=filters, **window).outline, 0)) is None


def test_the_deterministic_mode_keeps_the_order_of_its_sums():
    shape, filters, pad = WINOGRAD["rows in chunks"]
    graph = convolution("conv2d", shape, out=filters, kernel=(3, 3), pad=pad)
    assert not isinstance(schedule_graph(graph.outline, mode="deterministic").steps[0], WinogradStep)


def test_layers_of_equal_shape_share_their_code():
    def size(layers: int) -> int:
        builder, at, random = Builder(Tensor((6, 6, 16))), 0, np.random.default_rng(1)
        for _ in range(layers):
            params = {
                "weights": random.normal(size=(1, 1, 16, 16)).astype(np.float32),
                "bias": np.zeros(16, np.float32),
            }
            window = {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "pad": (0, 0, 0, 0)}
            at = builder.add("conv2d", [at], params, filters=16, activation="relu", **window)
        return len(compile_graph(builder.graph(at), batch_max=1).wasm)

    assert size(4) < size(2) + 200  # bytes: a function would be 3,000
