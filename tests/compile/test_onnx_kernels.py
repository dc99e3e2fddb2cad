"""Kernels of ONNX files and of streamed nets: what the imported graph means is what its kernel computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra onnx is not here: NO KERNEL OF AN ONNX FILE IS TESTED")
pytest.importorskip("onnxruntime", reason="onnxruntime is not here: NO KERNEL OF AN ONNX FILE IS TESTED AGAINST IT")

from onnx_files import Net, Quantised, answers, grown, rows_of

from edgeswarm.compile import compile_graph
from edgeswarm.model.graph import forward
from edgeswarm.model.onnx import imported
from edgeswarm.model.streaming import streamed

Load = Callable[..., Any]


@pytest.mark.parametrize("block", range(4))
def test_kernels_of_random_nets_answer_as_onnx_runtime(load: Load, block: int) -> None:
    for seed in range(block * 12, block * 12 + 12):
        data = grown(seed).bytes()
        rows = rows_of(data, 2)
        kernel = compile_graph(imported(data).graph, batch_max=2, mode=("fast", "deterministic")[seed % 2])
        wanted = answers(data, rows)
        assert np.abs(load(kernel).many(rows) - wanted).max() <= 3e-5 * max(1.0, np.abs(wanted).max()), seed


def test_kernels_of_8_bit_files_have_the_bits_of_their_graph(load: Load) -> None:
    net = Quantised([1, 3, 8, 8])
    net.round(0.03, 3)
    x = net.last
    net.add("Conv", net.weights(8, 3, 3, 3, axis=0), net.random(8, scale=0.1), reads=x, pads=[1, 1, 1, 1])
    net.add("Relu")
    net.round(0.05, -128)
    net.add("Sigmoid")
    net.round(1 / 256, -128)
    x = net.add("Flatten")
    net.add("Gemm", net.weights(512, 10, axis=1), net.random(10), reads=x)
    net.round(0.1, 4)
    graph, rows = imported(net.bytes()).graph, rows_of(net.bytes(), 5)
    runner = load(compile_graph(graph, batch_max=1))
    found = np.stack([runner.one(row) for row in rows])
    assert (found == forward(graph, rows).astype(np.float32)).all()
    assert np.abs(found - answers(net.bytes(), rows)).max() <= 0.201


@pytest.mark.parametrize("frames", [1, 4])
def test_kernels_of_streamed_nets_keep_what_they_need_in_the_row(load: Load, frames: int) -> None:
    """The memory that comes back is the memory that the next call reads, many times over."""
    net = Net([1, 3, 32])
    for dilation, channels in ((1, 3), (2, 6), (4, 6)):
        net.add("Pad", net.whole(0, 0, 2 * dilation, 0, 0, 0))
        net.add("Conv", net.random(6, channels, 3, scale=0.4), net.random(6), dilations=[dilation])
        net.add("Tanh")
    net.add("Gather", net.number(-1, np.int64), axis=2)
    data = net.bytes()
    made = streamed(imported(data).graph, frames)
    runner = load(compile_graph(made.graph, batch_max=1))
    x = np.random.default_rng(4).normal(size=(3, 72)).astype(np.float32)
    memory = np.zeros(made.memory, np.float32)
    for last in range(frames, 73, frames):
        row = runner.one(np.concatenate([x[:, last - frames : last].reshape(-1), memory]))
        answer, memory = row[: -made.memory], row[-made.memory :]
        if last >= 32:
            wanted = answers(data, x[:, last - 32 : last].reshape(1, -1))[0]
            np.testing.assert_allclose(answer, wanted, atol=2e-6)
