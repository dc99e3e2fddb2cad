"""8 bits of floats: the kernel gives what a division in float32 gives, at and beside each threshold and at the ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeswarm.compile import compile_graph
from edgeswarm.model.graph import Builder, Tensor, forward


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
@pytest.mark.parametrize("zero", [-128, -127, 3, 127])
@pytest.mark.parametrize("scale", [1.0, 0.5, 1 / 255, 0.0235, 3e-5, 2.0**-90, 7e30])
def test_every_threshold_of_a_division(load: Callable[..., Any], scale: float, zero: int, mode: str) -> None:
    halves = (np.arange(-300, 300) + 0.5) * float(np.float32(scale))
    near = halves.astype(np.float32).view(np.int32)[:, None] + np.arange(-3, 4, dtype=np.int32)
    ends = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1e-45], np.float32)
    x = np.concatenate([near.view(np.float32).reshape(-1), ends])
    builder = Builder(Tensor((len(x),)))
    made = builder.add("affine_quantize", [0], like=Tensor((1,), "i8", scale, zero))
    graph = builder.graph(builder.add("dequantize", [made]))
    found = load(compile_graph(graph, mode=mode)).one(x)
    with np.errstate(over="ignore"):  # 3e38 by a small scale
        wanted = forward(graph, x[None])[0]
    np.testing.assert_array_equal(np.rint(found / scale), np.rint(wanted / scale))
