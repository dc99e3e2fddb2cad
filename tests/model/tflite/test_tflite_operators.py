"""What is imported computes what the reference kernels of LiteRT do: 8 bits to the bit, floats to a rounding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tflite_cases import FORMS, Case, as_held, expected, requantize, rows_of
from tflite_files import RELU, SAME, Net, litert

from edgeswarm.model.graph import forward
from edgeswarm.model.tflite.convert import OPERATORS, Converted, load

SEEDS = range(4)


def check(net: Net, inputs: Sequence[int], outputs: Sequence[int], seed: int = 0) -> Converted:
    """Both compute the same of random rows."""
    data = net.file(inputs, outputs)
    made = load(data, who="made by a test")
    held, rows = rows_of(net, inputs[0], seed)
    theirs = expected(data, net, outputs[0], held)
    ours = as_held(net, outputs[0], forward(made.graph, rows))
    assert ours.shape == theirs.shape
    apart = np.abs(ours - theirs).max()
    if net.tensors[outputs[0]].dtype in ("i8", "u8"):
        assert made.exact and apart == 0, (apart, net.ops, net.tensors)
    else:
        assert apart <= 1e-5 * max(1.0, np.abs(theirs).max()), (apart, net.ops, net.tensors)
    return made


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("form", "i8"), FORMS, ids=lambda v: v.__name__ if callable(v) else "i8" if v else "f32")
def test_an_imported_operator_computes_what_the_reference_kernel_does(form: Any, i8: bool, seed: int) -> None:
    case = Case(seed)
    x, y = form(case, i8)
    made = check(case.net, [x], [y], seed)
    assert made.exact == (i8 or form is requantize)


# --- several ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_convolutions_beside_each_other_are_added_and_averaged(seed: int) -> None:
    """A residual block in 8 bits, with scales of its own everywhere."""
    case = Case(seed)
    channels, filters, side = case.whole(1, 8), case.whole(1, 8), case.whole(3, 9)
    x = case.tensor((1, side, side, channels), True)
    branches = []
    for kernel in (3, 1):
        read = case.weights((filters, kernel, kernel, channels), True, read=x, axis=0, channels=filters)
        branches.append(case.tensor((1, side, side, filters), True, scale=case.scale(-1, 1)))
        options = {"Padding": SAME, "StrideH": 1, "StrideW": 1, "FusedActivationFunction": RELU}
        case.net.op("CONV_2D", [x, *read], [branches[-1]], version=3, **options)
    total = case.tensor((1, side, side, filters), True, scale=case.scale(-1, 1))
    case.net.op("ADD", branches, [total], version=2)
    y = case.tensor((1, filters), True, scale=case.scale(-1, 1))
    case.net.op("MEAN", [total, case.net.constant([1, 2])], [y], version=2, KeepDims=False)
    check(case.net, [x], [y], seed)


def test_shapes_that_the_model_computes_are_known_while_importing() -> None:
    """Keras' Flatten without a fixed batch: SHAPE, STRIDED_SLICE, PACK, RESHAPE."""
    case = Case(0)
    net = case.net
    x = net.tensor((1, 4, 3, 2), signature=(-1, 4, 3, 2))
    shape = net.tensor((4,), "i32")
    net.op("SHAPE", [x], [shape])
    batch = net.tensor((), "i32")
    cut = [net.constant([n]) for n in (0, 1, 1)]
    net.op("STRIDED_SLICE", [shape, *cut], [batch], ShrinkAxisMask=1)
    rest = net.constant(24)
    wanted = net.tensor((2,), "i32")
    net.op("PACK", [batch, rest], [wanted], ValuesCount=2, Axis=0)
    flat = net.tensor((1, 1), signature=(-1, -1))
    net.op("RESHAPE", [x, wanted], [flat])
    y = net.tensor((1, 24), signature=(-1, 24))
    net.op("RELU", [flat], [y])
    made = load(net.file([x], [y]))
    assert [node.op for node in made.graph.nodes] == ["reshape", "elementwise"]
    rows = case.random.normal(size=(3, 24))
    assert (forward(made.graph, rows) == np.maximum(rows, 0)).all()


def test_weights_of_float16_become_float32_while_importing() -> None:
    case = Case(1)
    net = case.net
    x, half = net.tensor((1, 6)), net.constant(case.random.normal(size=(5, 6)).astype(np.float16), "f16")
    full = net.tensor((5, 6))
    net.op("DEQUANTIZE", [half], [full], version=3)
    y = net.tensor((1, 5))
    net.op("FULLY_CONNECTED", [x, full], [y])
    assert [node.op for node in check(net, [x], [y]).graph.nodes] == ["dense"]


def test_weights_of_8_bits_beside_floats_are_computed_in_float32_and_it_is_said() -> None:
    case = Case(2)
    net = case.net
    held = case.random.integers(-127, 128, (5, 6))
    x, weights, y = net.tensor((1, 6)), net.constant(held, "i8", scale=0.02), net.tensor((1, 5))
    net.op("FULLY_CONNECTED", [x, weights], [y], version=3)
    made = load(net.file([x], [y]))
    assert not made.exact and any("less exact" in note for note in made.notes)
    rows = case.random.normal(size=(3, 6))
    expected = rows @ (held.T * np.float64(np.float32(0.02)))
    assert np.abs(forward(made.graph, rows) - expected).max() < 1e-6
    theirs = litert(net.file([x], [y]), rows[:, None]).reshape(3, 5)
    assert np.abs(theirs - expected).max() < 0.05 * np.abs(expected).max()


def test_several_inputs_and_outputs_are_one_row_each() -> None:
    net = Net()
    a, b = net.tensor((1, 2, 3)), net.tensor((1, 3))
    total, scaled = net.tensor((1, 2, 3)), net.tensor((1, 3))
    net.op("ADD", [a, b], [total])
    net.op("MUL", [b, net.constant([2.0], "f32")], [scaled])
    made = load(net.file([a, b], [scaled, total]))
    row = np.arange(9.0)
    expected = [12, 14, 16, *(row[:6].reshape(2, 3) + row[6:]).ravel()]
    assert forward(made.graph, row[None])[0].tolist() == expected


def test_operators_that_no_answer_needs_are_left_out() -> None:
    net = Net()
    x, y, aside = net.tensor((1, 3)), net.tensor((1, 3)), net.tensor((1, 3))
    net.op("RELU", [x], [y])
    net.op("CUSTOM", [x], [aside], custom="Mystery")
    made = load(net.file([x], [y]))
    assert dict(made.operators) == {"RELU": 1}


def test_a_scale_that_changes_where_bits_are_moved_is_what_the_file_says() -> None:
    """RESHAPE copies bits whatever they stand for, as LiteRT does."""
    net = Net()
    x = net.tensor((1, 4), "i8", scale=0.5, zero_point=3)
    y = net.tensor((1, 2, 2), "i8", scale=0.25, zero_point=-1)
    net.op("RESHAPE", [x, net.constant([1, 2, 2])], [y])
    check(net, [x], [y])


def test_the_page_names_every_operator() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "tflite.md").read_text()
    table = page.partition("## What is taken")[2].partition("## What it computes")[0]
    assert set(re.findall(r"`([A-Z0-9_]+)`", table)) == set(OPERATORS)


@pytest.mark.parametrize("name", ["LOGISTIC", "TANH"])
def test_values_halfway_between_two_steps_go_where_litert_puts_them(name: str) -> None:
    """A scale that is a power of 2 brings 1/128, whose logistic is 128.5 steps but for 3 in a million."""
    for scale in (1 / 64, 1 / 128, 1 / 256, 1 / 512):
        for point in (-128, 0, 127):
            net = Net()
            x = net.tensor((1, 256), "i8", scale=scale, zero_point=point)
            written = (1 / 256, -128) if name == "LOGISTIC" else (1 / 128, 0)
            y = net.tensor((1, 256), "i8", scale=written[0], zero_point=written[1])
            net.op(name, [x], [y], version=2)
            data, held = net.file([x], [y]), np.arange(-128, 128).reshape(1, 1, 256)
            rows = np.float32(scale) * (held.reshape(1, 256) - point).astype(np.float32)
            ours = forward(load(data).graph, rows) / written[0] + written[1]
            assert (ours.reshape(-1) == litert(data, held).reshape(-1)).all()
