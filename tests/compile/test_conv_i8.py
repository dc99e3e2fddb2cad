"""8-bit convolutions and dense layers: kernels give what TFLite's arithmetic gives, to the bit, whatever the shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conv_i8_cases import answers, made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.compile.lower_conv_i8 import rows_of, scratch_bytes
from edgeswarm.compile.pack_conv_i8 import factors_of, pack
from edgeswarm.compile.pack_short import short_factors, thresholds
from edgeswarm.compile.shape_conv_i8 import FLAG, shape_of
from edgeswarm.model import fixed_point
from edgeswarm.model.graph import Graph

Load = Callable[..., Any]
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """Kernels, strides, dilations and paddings, and an image that they fit."""
    out: dict[str, Any] = {}
    kernel, stride, dilation, pad, sides = [], [], [], [], []
    for _ in range(2):
        size, gap = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        spread = (size - 1) * gap + 1
        before, after = draw(st.integers(0, spread - 1)), draw(st.integers(0, spread - 1))
        sides.append(max(1, spread - before - after) + draw(st.integers(0, 8)))
        kernel.append(size)
        dilation.append(gap)
        stride.append(draw(st.integers(1, 3)))
        pad += [before, after]
    out["shape"] = (*sides, draw(st.integers(1, 19)))
    out |= {"kernel": tuple(kernel), "stride": tuple(stride), "dilation": tuple(dilation), "pad": tuple(pad)}
    out["zeros"] = draw(st.sampled_from([(-128, -128), (127, 127), (0, 0), (3, -5), (-128, 40), (-7, 127)]))
    zero = out["zeros"][1]
    out["clamp"] = draw(st.sampled_from([(-128, 127), (zero, 127), (zero, min(127, zero + 30)), (-10, max(-10, 5))]))
    out["seed"] = draw(st.integers(0, 1 << 16))
    out["extreme"] = draw(st.booleans())
    return out


@QUICK
@given(windows(), st.sampled_from([1, 2, 3, 4, 5, 8, 13, 16, 17, 21, 37]), st.integers(1, 3))
def test_convolutions_of_any_shape(load: Load, window: dict[str, Any], channels: int, rows: int) -> None:
    shape = window.pop("shape")
    answers(load, made("conv2d_i8", shape, channels=channels, **window), rows=rows)


@QUICK
@given(windows(), st.sampled_from([1, 1, 1, 2, 3, 9]), st.integers(1, 3))
def test_depthwise_convolutions_of_any_shape(load: Load, window: dict[str, Any], channels: int, rows: int) -> None:
    shape = window.pop("shape")
    answers(load, made("depthwise_i8", shape, channels=channels, **window), rows=rows)


@QUICK
@given(st.integers(1, 150), st.integers(1, 70), st.booleans(), st.integers(0, 1 << 16), st.integers(1, 3))
def test_dense_layers_of_any_shape(load: Load, inputs: int, units: int, extreme: bool, seed: int, rows: int) -> None:
    clamp = (-128, 127) if seed % 2 else (-5, 127)
    answers(load, made("dense_tflite", (inputs,), channels=units, extreme=extreme, seed=seed, clamp=clamp), rows=rows)
    many = made("rows_tflite", (rows, 2, inputs), channels=units, extreme=extreme, seed=seed, clamp=clamp)
    answers(load, many, rows=rows)


CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "kws first": ("conv2d_i8", (49, 10, 1), {"channels": 64, "kernel": (10, 4), "stride": (2, 2), "pad": (4, 5, 1, 1)}),
    "pointwise": ("conv2d_i8", (25, 5, 64), {"channels": 64, "clamp": (-5, 127)}),
    "tiles": ("conv2d_i8", (17, 13, 16), {"channels": 16, "kernel": (3, 3), "pad": (1, 1, 1, 1), "clamp": (-5, 127)}),
    "tiles of few": ("conv2d_i8", (6, 6, 24), {"channels": 16, "kernel": (3, 3)}),
    "tiles of many": ("conv2d_i8", (8, 30, 64), {"channels": 80, "kernel": (3, 3), "pad": (2, 0, 0, 2)}),
    "many steps": ("conv2d_i8", (6, 6, 62), {"channels": 20, "kernel": (3, 3), "pad": (1, 1, 1, 1)}),
    "strided": ("conv2d_i8", (16, 16, 16), {"channels": 32, "stride": (2, 2)}),
    "wide kernel": ("conv2d_i8", (4, 90, 3), {"channels": 5, "kernel": (2, 70), "dilation": (2, 1)}),
    "dilated many": ("conv2d_i8", (12, 12, 24), {"channels": 6, "kernel": (3, 3), "dilation": (2, 3)}),
    "depthwise": ("depthwise_i8", (25, 5, 64), {"channels": 1, "kernel": (3, 3), "pad": (1, 1, 1, 1)}),
    "depthwise strided": (
        "depthwise_i8",
        (24, 24, 16),
        {"channels": 1, "kernel": (3, 3), "stride": (2, 2), "pad": (0, 1, 0, 1), "clamp": (-5, 127)},
    ),
    "depthwise large": ("depthwise_i8", (12, 70, 9), {"channels": 1, "kernel": (11, 60), "pad": (5, 5, 20, 20)}),
    "depthwise of one": ("depthwise_i8", (20, 10, 1), {"channels": 8, "kernel": (10, 8), "pad": (4, 5, 3, 4)}),
    "depthwise of many": ("depthwise_i8", (5, 5, 3), {"channels": 20, "kernel": (2, 2)}),
    "every other place": ("conv2d_i8", (9, 7, 16), {"channels": 21, "stride": (2, 2)}),
    "every other row": ("conv2d_i8", (8, 5, 32), {"channels": 8, "stride": (3, 1)}),
    "every third column": ("conv2d_i8", (4, 13, 48), {"channels": 16, "stride": (1, 3)}),
    "dense of an image": ("dense_tflite", (4, 5, 6), {"channels": 130}),
    "dense long": ("dense_tflite", (640,), {"channels": 128, "clamp": (-5, 127)}),
}


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
@pytest.mark.parametrize("name", CASES)
def test_shapes_of_known_nets(load: Load, name: str, mode: str) -> None:
    op, shape, given_ = CASES[name]
    for seed in range(2):
        answers(load, made(op, shape, seed=seed, **given_), mode=mode)


@QUICK
@given(
    st.integers(4, 12),
    st.integers(4, 19),
    st.sampled_from([16, 32, 80]),
    st.sampled_from([3, 5, 8, 12, 16, 24, 32, 48]),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.booleans(),
    st.integers(0, 1 << 16),
)
def test_convolutions_by_transforms(
    load: Load, height: int, width: int, channels: int, inputs: int, pad: tuple[int, ...], extreme: bool, seed: int
) -> None:
    """Any size of image and all margins of a 3 x 3 kernel, with the largest numbers that the sums can hold."""
    sides = [max(4, side + 2 - pad[2 * axis] - pad[2 * axis + 1]) for axis, side in enumerate((height, width))]
    window = {"kernel": (3, 3), "pad": pad, "zeros": [(3, -5), (-128, -128), (127, 0)][seed % 3]}
    graph = made("conv2d_i8", (*sides, inputs), channels=channels, extreme=extreme, seed=seed, **window)
    assert shape_of(graph, 1).winograd
    answers(load, graph, rows=1 + seed % 2)


@QUICK
@given(
    st.sampled_from([(4, 4), (7, 7), (8, 7), (4, 19), (11, 12), (15, 16), (8, 25)]),
    st.sampled_from([(16, 16), (16, 128), (24, 48), (32, 16), (32, 64)]),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
    st.booleans(),
    st.integers(0, 1 << 16),
)
def test_convolutions_of_every_other_place_by_transforms(
    load: Load,
    made_of: tuple[int, int],
    channels: tuple[int, int],
    pad: tuple[int, ...],
    over: tuple[int, int],
    extreme: bool,
    seed: int,
) -> None:
    """made_of: sides of what comes out; over: places of the input that no output reads."""
    sides = [2 * made_of[axis] + 1 - pad[2 * axis] - pad[2 * axis + 1] + over[axis] for axis in range(2)]
    window = {"kernel": (3, 3), "stride": (2, 2), "pad": pad, "zeros": [(3, -5), (-128, -128), (127, 0)][seed % 3]}
    graph = made("conv2d_i8", (*sides, channels[0]), channels=channels[1], extreme=extreme, seed=seed, **window)
    assert shape_of(graph, 1).winograd
    assert graph.tensors[graph.nodes[1].output].shape[:2] == made_of
    answers(load, graph, rows=1 + seed % 2)


def test_an_output_that_is_always_the_same_keeps_its_layer_fast(load: Load) -> None:
    """Channels that training left without weights, with a bias beyond 2^21 and a shift to match, as vww has them."""
    graph = made("conv2d_i8", (5, 4, 32), channels=16, seed=5)
    node = graph.nodes[1]
    params = {name: value.copy() for name, value in node.params.items()}
    params["weights"][..., 3:6] = 0
    params["weights"][..., 6] //= 64
    params["bias"][3:7] = 2**30 + 64, -(2**30), 2**31 - 1, -99174816
    params["shift"][3:7] = -27, -24, -25, -22
    nodes = (graph.nodes[0], replace(node, params=params), graph.nodes[2])
    graph = Graph(graph.tensors, nodes, graph.input, graph.output)
    at = graph.nodes[1]
    assert not np.frombuffer(pack(shape_of(graph, 1), at.params), "<i4", 1, FLAG)[0]
    answers(load, graph)


def test_shifts_that_only_whole_numbers_hold(load: Load) -> None:
    """Sums of more than 2^21 and shifts of more than 12: floats are refused, and the answers are right all the same."""
    graph = made("conv2d_i8", (3, 3, 512), channels=8, kernel=(3, 3), shifts=(-16, -13), seed=3)
    params = graph.nodes[1].params
    around = np.abs(params["weights"].astype(np.int64)).sum(axis=(0, 1, 2)) * 131
    assert not factors_of(params["multiplier"], params["shift"], -around, around)[1].all()
    answers(load, graph)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(-(2**31), 2**31 - 1),
    st.one_of(st.integers(2**30, 2**31 - 1), st.integers(1, 511).map(lambda k: 2**30 + k * 2**21), st.just(0)),
    st.integers(-31, 30),
)
def test_floats_hold_sums_exactly_where_they_say_so(total: int, multiplier: int, shift: int) -> None:
    """The arithmetic of requantise.wat on the numbers that are hardest for it: at and beside an answer's threshold."""
    for low in (1, 1 << 10, 1 << 20, 1 << 30):
        about = total // low
        sums = np.arange(about - 3, about + 4)
        half = np.arange(-6, 7)
        near = np.rint((half + 0.5) * 2.0 ** (31 - shift) / max(multiplier, 1))
        sums = np.unique(np.concatenate([sums, *(near + by for by in (-1, 0, 1))]))
        sums = sums[np.abs(sums) < 2.0**31].astype(np.int64)
        for value in sums:
            for once in (False, True):
                numbers = np.array([multiplier]), np.array([shift])
                most = np.array([abs(value)])
                (factor, grid, away), exact = factors_of(*numbers, -most, most, once=once)
                if not exact:
                    continue
                p = np.float64(value) * factor[0]
                found = [np.rint((p + grid[0]) + np.copysign(away[0], value))]
                if value >= 0:
                    found.append(np.rint(p + (grid[0] + away[0])))
                scaled = fixed_point.scaled_once if once else fixed_point.scaled
                expected = np.clip(scaled(np.array([value]), multiplier, shift)[0], -400, 400)
                assert {np.clip(one, -400, 400) for one in found} == {expected}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(2**30, 2**31 - 1), st.integers(-14, 0)), min_size=1, max_size=8),
    st.integers(1, 1 << 22),
    st.sampled_from([(255, 0), (127, 128), (0, 255), (30, 0)]),
    st.booleans(),
    st.integers(0, 1 << 16),
)
def test_short_factors_agree_on_every_sum(
    numbers: list[tuple[int, int]], reach: int, tops: tuple[int, int], fused: bool, seed: int
) -> None:
    """Checked at all thresholds and at random sums: what float32 gives is what whole numbers give."""
    multiplier, shift = (np.array(column, np.int64) for column in zip(*numbers, strict=True))
    ends = np.full(len(numbers), reach)
    (factor, addend), exact = short_factors(multiplier, shift, -ends, ends, tops, fused=fused)
    sums = np.random.default_rng(seed).integers(-reach, reach + 1, (3000, len(numbers)))
    near = [sign * (thresholds(multiplier, shift, 255, sign) + by) for sign in (1, -1) for by in (-1, 0)]
    sums = np.concatenate([sums, np.clip(np.concatenate(near), -reach, reach)])
    product = sums.astype(np.float32) * factor
    found = np.trunc(product + (np.copysign(addend, product) if tops[1] else addend))
    right = np.clip(fixed_point.scaled(sums, multiplier, shift), -tops[1], tops[0])
    assert ((np.clip(found, -tops[1], tops[0]) == right) | ~exact).all()
    if fused:  # in one operation of the machine, which rounds once
        whole = sums.astype(np.float32).astype(np.longdouble) * factor
        found = np.trunc((whole + (np.copysign(addend, sums) if tops[1] else addend)).astype(np.float32))
        assert ((np.clip(found, -tops[1], tops[0]) == right) | ~exact).all()


def test_short_factors_are_found_for_what_nets_have() -> None:
    multiplier = np.random.default_rng(1).integers(1 << 30, 1 << 31, 200)
    ends = np.full(200, 1 << 18)
    for fused in (False, True):
        _, exact = short_factors(multiplier, np.full(200, -7), -ends, ends, (255, 0), fused=fused)
        assert exact.mean() > 0.9
    bias = np.array([2**30 + 64, 3, -(2**30), 77])  # never anything else: the addend alone
    for tops, answers_ in (((255, 0), [4, 0, 0, 0]), ((127, 128), [4, 0, -4, 0])):
        (factor, addend), exact = short_factors(np.full(4, 2**30), np.full(4, -27), bias, bias, tops)
        assert exact.all() and not factor.any()
        product = bias.astype(np.float32) * factor
        found = np.trunc(product + (np.copysign(addend, product) if tops[1] else addend))
        assert found.tolist() == answers_


@pytest.mark.parametrize("op", ["conv2d_i8", "depthwise_i8"])
def test_scratch_is_a_few_rows_not_the_image(op: str) -> None:
    channels = 16 if op == "conv2d_i8" else 1
    graph = made(op, (48, 48, 16), channels=channels, kernel=(3, 3), pad=(1, 1, 1, 1))
    shape = shape_of(graph, 1)
    assert scratch_bytes(shape, rows_of(shape)) < 30_000 < 2 * graph.tensors[2].size
