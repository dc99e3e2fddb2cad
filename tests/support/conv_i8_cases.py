"""8-bit convolutions and dense layers to try kernels with: graphs of one operator, and what their answers must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeswarm.compile import compile_graph, pack_weights, unpack_graph
from edgeswarm.model.graph import Builder, Graph, Tensor, forward

Load = Callable[..., Any]
SAME = 0.5  # the scale of what is read: every number of it arrives as it is


def made(
    op: str,
    shape: tuple[int, ...],
    *,
    channels: int,
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    pad: tuple[int, int, int, int] = (0, 0, 0, 0),
    zeros: tuple[int, int] = (3, -5),
    clamp: tuple[int, int] = (-128, 127),
    seed: int = 0,
    extreme: bool = False,
    shifts: tuple[int, int] | None = None,
) -> Graph:
    """A graph of one operator between quantize and dequantize.  channels: outputs (depthwise: the multiplier)."""
    rng = np.random.default_rng(seed)
    builder = Builder(Tensor(shape))
    x = builder.add("quantize", [0], like=Tensor(shape, "i8", SAME, zeros[0]))
    count = shape[-1] * channels if op == "depthwise_i8" else channels
    sizes: dict[str, tuple[int, ...]] = {
        "conv2d_i8": (*kernel, shape[-1], channels),
        "depthwise_i8": (*kernel, count),
        "dense_tflite": (int(np.prod(shape)), channels),
        "rows_tflite": (shape[-1], channels),
    }
    size = sizes[op]
    inputs = int(np.prod(size)) // count
    if extreme:
        weights = rng.choice(np.array([-128, -127, 127, 0], np.int8), size)
        bias = rng.choice(np.array([-(2**31), 2**31 - 1, 0, 1, -1, 2**20], np.int64), count)
        multiplier = rng.choice(np.array([0, 2**30, 2**31 - 1, 3 * 2**29, 2**30 + 2**9]), count)
        shift = rng.integers(-31, 31, count)
    else:
        weights = rng.integers(-127, 128, size).astype(np.int8)
        bias = rng.integers(-5000, 5000, count)
        multiplier = rng.integers(2**30, 2**31, count)
        most = int(np.log2(127 * 127 * np.sqrt(inputs) / 64))  # the answers then fill the range
        shift = -rng.integers(max(0, most - 2), most + 2, count)
    if shifts:
        shift = rng.integers(shifts[0], shifts[1] + 1, count)
    if rng.random() < 0.5 and not extreme:  # where the inner rounding meets its ties
        multiplier = multiplier // 2**22 * 2**22
    attrs: dict[str, Any] = {"low": clamp[0], "high": clamp[1]}
    if op in ("dense_tflite", "rows_tflite"):
        attrs["units"] = channels
    else:
        attrs |= {"kernel": kernel, "stride": stride, "dilation": dilation, "pad": pad}
        attrs["multiplier" if op == "depthwise_i8" else "filters"] = channels
    params = {
        "weights": weights,
        "bias": bias.astype(np.int32),
        "multiplier": multiplier.astype(np.int32),
        "shift": shift.astype(np.int32),
    }
    like = Tensor((1,), "i8", 1.0, zeros[1])
    at = builder.add(op, [x], params, like=like, **attrs)
    return builder.graph(builder.add("dequantize", [at]))


def answers(load: Load, graph: Graph, *, rows: int = 2, mode: str = "fast") -> None:
    """The kernel's answers are the definition's to the bit; memory that is not its own may hold anything."""
    rng = np.random.default_rng(7)
    size = graph.tensors[graph.input].size
    q = rng.choice(np.array([-128, 127, 0]), (rows, size)) if rows % 2 else rng.integers(-128, 128, (rows, size))
    x = (q - graph.tensors[graph.nodes[0].output].zero_point) * SAME
    expected = forward(graph, x).astype(np.float32)
    kernel = compile_graph(graph, batch_max=rows, mode=mode)
    runner = load(kernel)
    start, end = runner.layout.regions()["weights"]
    runner.memory[:start] = 0xA5
    runner.memory[end:] = 0xA5
    np.testing.assert_array_equal(runner.many(x), expected)
    np.testing.assert_array_equal(runner.one(x[0]), expected[0])
    assert bytes(runner.memory[start:end]) == kernel.weights
    again = unpack_graph(kernel.weights, graph.outline)
    for before, after in zip(graph.nodes, again.nodes, strict=True):
        for name, value in before.params.items():
            np.testing.assert_array_equal(value, after.params[name])
    assert pack_weights(again, kernel.layout) == kernel.weights
