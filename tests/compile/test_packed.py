"""Packed populations: every agent's answer is the reference's for its own weights, at any widths and any count."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.compile.packed import (
    LANES,
    PackedKernel,
    PackedLayer,
    compile_packed,
    emit_packed,
    fill_weights,
    lay_out,
    model_of,
    read_weights,
    stacked,
    write_weights,
)
from edgeswarm.errors import InputError, LimitError, LocalError
from edgeswarm.limits import POPULATION_PACKED_MAX
from edgeswarm.model import Dense, Mlp, random_mlp, random_rows, reference
from edgeswarm.model.activations import ACTIVATIONS

ENGINE = wasmtime.Engine()


class Memory:
    """A packed population in this process."""

    def __init__(self, kernel: PackedKernel) -> None:
        self.layout = layout = kernel.layout
        self.store = wasmtime.Store(ENGINE)
        exports = wasmtime.Instance(self.store, wasmtime.Module(ENGINE, kernel.wasm), []).exports(self.store)
        memory: Any = exports["memory"]
        self._run: Any = exports["run"]
        address = ctypes.addressof(memory.data_ptr(self.store).contents)
        self.bytes = np.frombuffer((ctypes.c_ubyte * memory.data_len(self.store)).from_address(address), np.uint8)
        self.weights = self.floats(layout.weights_offset, layout.groups, layout.group_bytes // 4)
        self.inputs = self.floats(layout.input_offset, layout.count, layout.inputs)
        self.outputs = self.floats(layout.output_offset, layout.count, layout.outputs)

    def floats(self, offset: int, rows: int, width: int) -> np.ndarray:
        return self.bytes[offset : offset + 4 * rows * width].view(np.float32).reshape(rows, width)

    def run(self, rows: np.ndarray) -> np.ndarray:
        self.inputs[:] = rows
        self._run(self.store)
        return self.outputs.copy()


def population(sizes: list[int], activations: tuple[str, ...], count: int, *, seed: int = 0) -> list[Mlp]:
    """Agents of one net, each with weights of its own."""
    rng = np.random.default_rng(seed)

    def layer(number: int) -> Dense:
        shape = (sizes[number], sizes[number + 1])
        weights = rng.standard_normal(shape) / np.sqrt(shape[0])
        return Dense(weights.astype(np.float32), rng.standard_normal(shape[1]) / 4, activations[number])

    return [Mlp(tuple(layer(number) for number in range(len(activations)))) for _ in range(count)]


def stack(models: list[Mlp]) -> list[tuple[np.ndarray, np.ndarray]]:
    parts = [stacked(model) for model in models]
    return [
        (np.concatenate([part[i][0] for part in parts]), np.concatenate([part[i][1] for part in parts]))
        for i in range(len(models[0].layers))
    ]


def answers(models: list[Mlp], rows: np.ndarray) -> np.ndarray:
    return np.array([reference.forward(model, rows[i : i + 1])[0] for i, model in enumerate(models)])


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_agent_answers_as_the_reference_does_with_its_own_weights(activation: str, mode: str) -> None:
    models = population([5, 9, 3], (activation, activation), 11)
    memory = Memory(compile_packed(models[0], 11, mode=mode))
    write_weights(memory.weights, memory.layout, stack(models))
    rows = random_rows(11, 5, 2)
    found, expected = memory.run(rows), answers(models, rows)
    if activation.startswith(("threshold", "sigmoid_stepwise")):  # steps: a sum beside one may fall on either side
        assert np.mean(np.abs(found - expected) < 1e-4) > 0.9
    else:
        assert np.abs(found - expected).max() < 1e-5


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=4),
    st.integers(1, 70),
    st.sampled_from(["relu", "linear", "softmax"]),
    st.integers(0, 1000),
)
def test_any_widths_and_any_count_are_right(sizes: list[int], count: int, last: str, seed: int) -> None:
    """Widths around the panels' and the unrolled loops' edges, counts around groups' and blocks'."""
    activations = ("tanh",) * (len(sizes) - 2) + (last,)
    models = population(sizes, activations, count, seed=seed)
    memory = Memory(compile_packed(models[0], count))
    write_weights(memory.weights, memory.layout, stack(models))
    rows = random_rows(count, sizes[0], seed)
    assert np.abs(memory.run(rows) - answers(models, rows)).max() < 2e-5
    number = seed % count
    back = model_of(read_weights(memory.weights, memory.layout, number), activations)
    for found, expected in zip(back.layers, models[number].layers, strict=True):
        assert (found.weights == expected.weights).all()
        assert (found.bias == expected.bias).all()


def test_blocks_that_do_not_divide_the_count_are_right() -> None:
    models = population([4, 8, 2], ("sigmoid", "sigmoid"), 1)
    memory = Memory(compile_packed(models[0], 1_001))
    assert memory.layout.groups % memory.layout.block_groups
    fill_weights(memory.weights, memory.layout, stacked(models[0]))
    rows = random_rows(1_001, 4, 3)
    assert np.abs(memory.run(rows) - reference.forward(models[0], rows)).max() < 1e-6


def test_one_agents_weights_and_row_change_nobody_elses_answer() -> None:
    models = population([4, 8, 2], ("tanh", "tanh"), 10)
    memory = Memory(compile_packed(models[0], 10, mode="deterministic"))
    write_weights(memory.weights, memory.layout, stack(models))
    rows = random_rows(10, 4, 3)
    before = memory.run(rows)
    other = population([4, 8, 2], ("tanh", "tanh"), 1, seed=9)[0]
    write_weights(memory.weights, memory.layout, stacked(other), first=6)
    rows[6] = np.nan
    after = memory.run(rows)
    others = [i for i in range(10) if i != 6]
    assert (after[others] == before[others]).all()
    assert np.isnan(after[6]).all()


def test_the_steepness_is_in_the_weights() -> None:
    layer = Dense(np.ones((2, 2)), np.zeros(2), "tanh", steepness=0.5)
    memory = Memory(compile_packed(Mlp((layer,)), 3))
    fill_weights(memory.weights, memory.layout, stacked(Mlp((layer,))))
    assert np.allclose(memory.run(np.ones((3, 2), np.float32)), np.tanh(1.0))


@given(st.integers(1, 200), st.integers(1, 200))
def test_panels_hold_every_output_once(inputs: int, outputs: int) -> None:
    layer = PackedLayer(inputs, outputs, "relu", 0)
    assert layer.panels * layer.width + layer.last == outputs
    assert 1 <= layer.width <= 7
    assert layer.last < layer.width or layer.last == 0


def test_the_code_does_not_depend_on_weights() -> None:
    one, two = (random_mlp([4, 8, 2], "relu", "linear", seed) for seed in (1, 2))
    assert compile_packed(one, 100).wasm == compile_packed(two, 100).wasm


def test_a_million_agents_are_256_bytes_each() -> None:
    layout = lay_out(random_mlp([4, 8, 2], "relu", "linear", 0), 1_000_000)
    assert layout.memory_bytes / layout.count == pytest.approx(4 * (58 + 4 + 2), rel=0.001)
    assert layout.groups * LANES >= layout.count


def test_what_passes_a_bound_or_does_not_fit_is_refused() -> None:
    small, large = random_mlp([4, 8, 2], "relu", "linear", 0), random_mlp([200, 100, 2], "relu", "linear", 0)
    for model, count, text in (
        (small, 0, "POPULATION_PACKED_MAX"),
        (small, POPULATION_PACKED_MAX + 1, "POPULATION_PACKED_MAX"),
        (large, 1, "POPULATION_PARAMETERS_MAX"),
        (random_mlp([30, 30, 30], "relu", "linear", 0), 1_000_000, "POPULATION_PACKED_BYTES_MAX"),
    ):
        with pytest.raises(LimitError, match=text):
            lay_out(model, count)
    layout = lay_out(small, 8)
    with pytest.raises(LocalError, match="fast, deterministic"):
        emit_packed(layout, "quick")
    region = np.zeros((layout.groups, layout.group_bytes // 4), np.float32)
    good = stacked(small)
    for layers, first in (
        (good[:1], 0),
        ([good[1], good[0]], 0),
        ([(good[0][0], good[0][1][:, :3]), good[1]], 0),
        ([(good[0][0].astype(np.float64), good[0][1]), good[1]], 0),
        ([(good[0][0] * np.float32(np.nan), good[0][1]), good[1]], 0),
        (good, 8),
        (good, -1),
    ):
        with pytest.raises(InputError):
            write_weights(region, layout, layers, first=first)
    assert not region.any()
