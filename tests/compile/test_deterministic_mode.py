"""The deterministic mode keeps its promise: one definition of the bits, kept by every tile, and committed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.assets import asset
from edgeswarm.compile import compile_mlp, schedule_mlp
from edgeswarm.compile.bits import forward_bits
from edgeswarm.compile.emit import emit
from edgeswarm.compile.library import library
from edgeswarm.errors import InputError
from edgeswarm.model import ACTIVATIONS, Dense, Mlp, random_mlp, random_rows, reference

GOLDEN = json.loads(asset("wasm_kernels", "golden/dense_f32.json").read_text())


def floats(words: str) -> np.ndarray:
    return np.array([int(word, 16) for word in words.split()], np.uint32).view(np.float32)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    hidden=st.sampled_from(ACTIVATIONS),
    output=st.sampled_from(ACTIVATIONS),
    scale=st.sampled_from([1e-39, 1e-3, 1.0, 50.0, 1e37]),
    arch=st.sampled_from(["x86-64", "aarch64"]),
)
def test_kernels_give_the_bits_of_the_definition(load, sizes, hidden, output, scale, arch):
    net = random_mlp(sizes, hidden, output, seed=sum(sizes))
    rows = random_rows(34, sizes[0], seed=3) * np.float32(scale)
    rows[1, 0], rows[2, 0], rows[3, 0], rows[4] = np.nan, np.inf, -np.inf, -0.0
    rows[5].view(np.uint32)[:] = 0xFFC12345  # a NaN with a sign and a payload
    runner = load(compile_mlp(net, batch_max=34, mode="deterministic", arch=arch))
    bits = forward_bits(net, rows)
    assert same_bits(runner.many(rows), bits)
    for index in (0, 5, 33):
        assert same_bits(runner.one(rows[index]), bits[index])


@pytest.mark.parametrize("case", GOLDEN["networks"], ids=lambda case: "-".join(map(str, case["sizes"]))[:30])
def test_kernels_give_the_committed_bits(load, case):
    sizes, count = case["sizes"], case["rows"]
    net = random_mlp(sizes, case["activation"], case["output_activation"], case["seed"])
    rows = random_rows(count, sizes[0], case["seed"])
    expected = np.stack([floats(words) for words in case["bits"]])
    runner = load(compile_mlp(net, mode="deterministic"))
    assert same_bits(runner.many(rows), expected)
    assert np.abs(reference.forward(net, rows) - expected).max() < 1e-5
    assert expected[0][:4] == pytest.approx(case["first_values"], abs=1e-6)


@pytest.mark.parametrize("case", GOLDEN["activations"], ids=lambda case: case["activation"])
def test_activations_give_the_committed_bits(load, case):
    width = 4 if case["activation"] == "softmax" else 1
    net = Mlp((Dense(np.eye(width), np.full(width, -0.0), case["activation"]),))
    rows = floats(case["inputs"]).reshape(-1, width)
    assert np.isnan(rows).any() and np.isinf(rows).any() and len(rows) >= 4
    runner = load(compile_mlp(net, mode="deterministic"))
    assert same_bits(runner.many(rows).ravel(), floats(case["bits"]))


def test_committed_bits_are_those_of_the_definition():
    spec = importlib.util.spec_from_file_location("write_golden", Path(__file__).with_name("write_golden.py"))
    assert spec is not None and spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.path().read_text() == writer.text(), "run tests/compile/write_golden.py and read the diff"


def test_text_holds_no_relaxed_operation_in_this_mode_only():
    for activation in ACTIVATIONS:
        net = random_mlp([9, 20, 5], activation, activation)
        text = {mode: emit(schedule_mlp(net, mode=mode), library()) for mode in ("fast", "deterministic")}
        assert "relaxed" in text["fast"]
        assert "relaxed" not in text["deterministic"]


def test_definition_refuses_rows_of_another_type_or_width():
    for rows in (np.zeros((2, 3)), np.zeros((2, 2), np.float32), np.zeros(3, np.float32)):
        with pytest.raises(InputError, match=r"expected float32 of the shape \(n, 3\)"):
            forward_bits(random_mlp([3, 1]), rows)
