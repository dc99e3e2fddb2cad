"""Kernels of TFLite files: 8 bits are LiteRT's reference kernels to the bit, floats are within float32's rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tflite_cases import FORMS, Case, as_held, expected, rows_of
from tflite_files import litert, litert_all, litert_ends

from edgeswarm.compile import compile_graph
from edgeswarm.model.tflite.convert import load as load_tflite

Load = Callable[..., Any]
ROWS = 4
CONVERTED = Path(__file__).resolve().parents[1] / "data" / "tflite"
MODELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "mlperf-tiny"


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("form", "i8"), FORMS, ids=lambda v: v.__name__ if callable(v) else "i8" if v else "f32")
def test_a_kernel_of_an_imported_operator_computes_what_litert_does(load: Load, form: Any, i8: bool, seed: int) -> None:
    case = Case(seed)
    x, y = form(case, i8)
    data = case.net.file([x], [y])
    made = load_tflite(data)
    held, rows = rows_of(case.net, x, seed)
    theirs = expected(data, case.net, y, held)
    runner = load(compile_graph(made.graph, batch_max=len(rows), mode="fast" if seed == 1 else "deterministic"))
    for answers in (np.stack([runner.one(row) for row in rows]), runner.many(rows)):
        apart = np.abs(as_held(case.net, y, answers) - theirs).max()
        if case.net.tensors[y].dtype in ("i8", "u8"):
            assert apart == 0
        else:
            assert apart <= 1e-5 * max(1.0, np.abs(theirs).max())


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.tflite")), ids=lambda path: path.stem)
def test_kernels_of_mlperf_tiny_compute_what_the_reference_kernels_do(load: Load, path: Path) -> None:
    """But for the float32 kws, whose weights of 8 bits LiteRT computes in 8 bits."""
    data = path.read_bytes()
    made = load_tflite(data)
    graph, dice = made.graph, np.random.default_rng(5)
    runner = load(compile_graph(graph, batch_max=1))
    shape = (3, *graph.tensors[graph.input].shape)
    if made.exact:
        q, last = graph.tensors[graph.nodes[0].output], graph.tensors[graph.nodes[-1].inputs[0]]
        held = dice.integers(-128, 128, shape)
        rows = (q.scale * (held - q.zero_point)).astype(np.float32).reshape(3, -1)
        ours = np.stack([runner.one(row) for row in rows]).astype(np.float64)
        assert (np.rint(ours / last.scale) + last.zero_point == litert(data, held).reshape(3, -1)).all()
    else:
        held = dice.normal(size=shape).astype(np.float32)
        ours, theirs = np.stack([runner.one(row) for row in held.reshape(3, -1)]), litert(data, held).reshape(3, -1)
        near = 0.1 if made.notes else 1e-5
        assert np.abs(ours - theirs).max() <= near * np.abs(theirs).max()


@pytest.mark.parametrize("path", sorted(CONVERTED.glob("*.tflite")), ids=lambda path: path.stem)
def test_kernels_of_what_tensorflow_converts_compute_what_litert_does(load: Load, path: Path) -> None:
    """Small Keras models with all that a real converter writes; `tests/data/tflite/make.py` makes them."""
    data = path.read_bytes()
    made, ends = load_tflite(data), litert_ends(data)
    dice, held, rows = np.random.default_rng(6), [], []
    for tensor in ends[0]:
        shape = (ROWS, *tensor["shape"][1:])
        scale, point = tensor["quantization"]
        whole = np.issubdtype(tensor["dtype"], np.integer)
        low = np.iinfo(tensor["dtype"]).min if whole else 0
        held.append(dice.integers(low, low + 256, shape) if whole else dice.normal(size=shape).astype(np.float32))
        real = np.float32(scale) * (held[-1] - point).astype(np.float32) if whole else held[-1]
        rows.append(real.reshape(ROWS, -1))
    runner = load(compile_graph(made.graph, batch_max=ROWS))
    ours = runner.many(np.hstack(rows)).astype(np.float64)
    theirs = litert_all(data, held)
    scale, point = ends[1][0]["quantization"]
    if scale and len(ends[1]) == 1:
        assert made.exact and (np.rint(ours / scale) + point == theirs).all()
    else:
        assert np.abs(ours - theirs).max() <= (1e-6 if made.exact else 1e-5) * np.abs(theirs).max()
