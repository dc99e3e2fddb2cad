"""Kernels of imported nets against libfann's own answers, through the compiler."""

from __future__ import annotations

import numpy as np
import pytest
from fann_nets import ANSWERED, answers, net_bytes

from edgeswarm.compile import compile_graph, compile_mlp, unpack_graph
from edgeswarm.errors import ModelError
from edgeswarm.model import Mlp, graph
from edgeswarm.model.fann import exact
from edgeswarm.model.fann.convert import convert
from edgeswarm.model.fann.exact_net import exact_graph
from edgeswarm.model.fann.parse import parse
from edgeswarm.model.graph import Builder, Graph, Tensor


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
@pytest.mark.parametrize("name", ANSWERED)
def test_a_kernel_answers_as_libfann_does(name: str, mode: str, load) -> None:
    """To 1e-6 of the largest answer."""
    net = parse(net_bytes(name))
    rows, expected = answers(name, net.inputs)
    made = convert(net, scaled=net.scaled)
    kernel = (compile_mlp if isinstance(made.model, Mlp) else compile_graph)(made.model, mode=mode)
    found = load(kernel).many(rows)
    worst = float(np.abs(found - expected).max())
    sensitive = name == "thyroid_cascade2_final"  # a weight of 945 behind a cosine: libfann's own are off by 9e-6
    assert worst <= 1e-6 * max(1.0, float(np.abs(expected).max())) or (sensitive and worst < 2e-5)


def exact_of(name: str) -> tuple[Graph, np.ndarray, np.ndarray]:
    net = parse(net_bytes(name))
    made = exact_graph(net)
    assert made is not None
    return made, *answers(name, net.inputs)


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
@pytest.mark.parametrize("name", [name for name in ANSWERED if "scaled" not in name])
def test_libfanns_own_arithmetic_gives_its_bits(name: str, mode: str, load) -> None:
    made, rows, expected = exact_of(name)
    runner = load(compile_graph(made, mode=mode))
    assert (graph.forward(made, rows) == expected).all()
    assert (runner.many(rows) == expected).all()
    assert (runner.one(rows[-1]) == expected[-1]).all()


@pytest.mark.parametrize("name", ["shortcut", "sparse"])
def test_packed_weights_come_back_and_nan_stays_nan(name: str, load) -> None:
    made, rows, _ = exact_of(name)
    kernel = compile_graph(made)
    again = unpack_graph(kernel.weights, made.outline)
    for one, other in zip(made.nodes, again.nodes, strict=True):
        assert all((one.params[key] == other.params[key]).all() for key in one.params)
    broken = rows.copy()
    broken[0, 0], broken[1, 1] = np.nan, np.inf
    found = load(kernel).many(broken)
    assert np.isnan(found[0]).all() or name == "sparse"  # not every output hears of every input
    assert (found[2:] == load(kernel).many(rows)[2:]).all()


def test_exponential_and_sine_of_large_sums_round_as_doubles_do(load) -> None:
    """Through one neuron each: e^x from underflow to overflow, sin and cos over the range in which FANN holds sums."""
    x = np.concatenate([np.linspace(-700, 700, 2001), np.linspace(-4, 4, 1999)]).astype(np.float32)[:, None]
    for activation in exact.FUNCTIONS:
        builder = Builder(Tensor((1,)))
        one = np.float32([1.0])
        params = {"weights": one[None], "bias": one - 1, "steepness": one / 8}
        y = builder.add("dense_fann", [0], params, units=1, activation=activation, bias=1)
        made = builder.graph(y)
        found = load(compile_graph(made, batch_max=4000)).many(x)
        assert (found == graph.forward(made, x)).all(), activation


@pytest.mark.parametrize("inputs", range(1, 10))
def test_layers_of_every_width_sum_in_libfanns_order(inputs: int, load) -> None:
    """Odd connections and fours, whole and partial panels, the bias first, last and between."""
    rng = np.random.default_rng(inputs)
    rows = rng.uniform(-1, 1, (7, inputs)).astype(np.float32)
    for units, bias in [(1, inputs), (3, 0), (4, inputs // 2), (9, inputs)]:
        builder = Builder(Tensor((inputs,)))
        params = {name: rng.uniform(-2, 2, shape).astype(np.float32) for name, shape in
                  [("weights", (inputs, units)), ("bias", (units,))]}  # fmt: skip
        params["steepness"] = rng.uniform(0.1, 2, units).astype(np.float32)
        made = builder.graph(builder.add("dense_fann", [0], params, units=units, activation="tanh", bias=bias))
        assert (load(compile_graph(made)).many(rows) == graph.forward(made, rows)).all()


def test_a_sparse_region_that_is_none_is_refused() -> None:
    made, _, _ = exact_of("sparse")
    weights, rng = compile_graph(made).weights, np.random.default_rng(1)
    for place, value in [(0, 10**9), (0, -1), (8, 3), (8, -4), (8, 10**8), (0, 0)]:
        broken = bytearray(weights)
        broken[place : place + 4] = int(value).to_bytes(4, "little", signed=True)
        with pytest.raises(ModelError):
            unpack_graph(bytes(broken), made.outline)
    for _ in range(200):
        noise = bytearray(weights)
        noise[rng.integers(len(noise))] = rng.integers(256)
        try:
            unpack_graph(bytes(noise), made.outline)
        except ModelError:
            continue
