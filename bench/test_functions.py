"""Single functions under pytest-benchmark: `make bench`, or pytest bench/test_functions.py --benchmark-enable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgeswarm import agentfile, schema
from edgeswarm.agentfile import Header, Section
from edgeswarm.agentfile.wiring import Wiring
from edgeswarm.app.metrics import Histogram
from edgeswarm.compile import compile_mlp, read_layout
from edgeswarm.core import events as ev
from edgeswarm.core.node import Node
from edgeswarm.core.resources import Capacity
from edgeswarm.ids import AgentName, Cause, NetworkName
from edgeswarm.model import random_mlp
from edgeswarm.stream.pipeline import Pipeline

pytestmark = pytest.mark.bench
Benchmark = Callable[..., Any]


def pipeline(width: int) -> Pipeline:
    tree = {
        "sources": [{"type": "api", "width": width}],
        "normalize": {"method": "fixed", "mean": [0.0] * width, "std": [1.0] * width},
        "decision": {"type": "threshold", "above": 1.0},
    }
    wiring = schema.decode(tree, Wiring)
    return Pipeline(wiring, source_widths=[width], frame_width=width, output_width=2)


@pytest.mark.parametrize("width", [2, 784])
def test_pipeline_one_sample(benchmark: Benchmark, width: int) -> None:
    """offer -> next_frame -> answered."""
    path, row, answer = pipeline(width), (0.5,) * width, bytes(8)

    def sample() -> None:
        path.offer(0, row, 0)
        frame = path.next_frame()
        assert frame is not None
        path.answered(frame.seq, answer)

    benchmark(sample)
    assert path.lost == 0


def test_histogram_observe(benchmark: Benchmark) -> None:
    histogram = Histogram()
    benchmark(histogram.observe, 123_456)
    assert histogram.count


def test_node_handles_a_fault(benchmark: Benchmark) -> None:
    node = Node(Capacity(1 << 30, 4.0, 16, 16))
    name, cause = AgentName("a"), Cause("c")
    need = ev.Need(1 << 20, 1 << 20, 0.1, 0.1)
    plan = ev.AgentPlan(name, "x", "p", "strict", False, need, ev.Supervision(NetworkName("n")))
    node.handle(ev.AgentDeployed(plan, cause), 0)
    assert benchmark(node.handle, ev.AgentFaulted(name, "trap", cause), 1.0) == []


def test_agent_file_read(benchmark: Benchmark) -> None:
    """784-128-64-32-10: 0.44 MB of weights, zstd, hash and NaN check included."""
    kernel = compile_mlp(random_mlp((784, 128, 64, 32, 10), "relu", "softmax", 0))
    tree = {"version": "1.0", "name": "a", "neural_config": {"input_size": 784, "output_size": 10}}
    sections = {
        "neural_weights": Section(kernel.weights, "f32", kernel.layout.weights.shape),
        "wasm_kernel": Section(kernel.wasm),
    }
    data = agentfile.build(schema.decode(tree, Header), sections, publisher_key=bytes(32))
    assert benchmark(agentfile.read, data).header.name == "a"


def test_kernel_layout_read(benchmark: Benchmark) -> None:
    wasm = compile_mlp(random_mlp((16, 16, 2), "relu", "linear", 0)).wasm
    assert benchmark(read_layout, wasm).input.width == 16


def test_compile_mlp(benchmark: Benchmark) -> None:
    """Model to wasm; the machine code is made on the device."""
    model = random_mlp((784, 128, 64, 32, 10), "relu", "softmax", 0)
    assert benchmark(compile_mlp, model).wasm
