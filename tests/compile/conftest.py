"""Runs kernels in this process, through wasmtime's checked calls: fine for tests, never for untrusted code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import wasmtime

from edgeswarm.compile import Kernel, Layout, Rows


class Runner:
    """An instance of a kernel with its weights in place."""

    def __init__(self, engine: wasmtime.Engine, wasm: bytes, layout: Layout, weights: bytes) -> None:
        self.layout = layout
        self.store = wasmtime.Store(engine)
        exports = wasmtime.Instance(self.store, wasmtime.Module(engine, wasm), []).exports(self.store)
        memory: Any = exports["memory"]
        self._run: Any = exports["run"]
        self._run_batch: Any = exports["run_batch"]
        address = ctypes.addressof(memory.data_ptr(self.store).contents)
        size = memory.data_len(self.store)
        self.memory = np.frombuffer((ctypes.c_ubyte * size).from_address(address), np.uint8)
        self.set_weights(weights)

    def set_weights(self, weights: bytes) -> None:
        region = self.layout.weights
        self.memory[region.offset : region.offset + region.size] = np.frombuffer(weights, np.uint8)

    def rows(self, place: Rows) -> np.ndarray:
        """A view of a region: float32[batch_max, width]."""
        floats = self.memory[place.offset :][: self.layout.batch_max * place.stride].view(np.float32)
        return floats.reshape(self.layout.batch_max, place.stride // 4)[:, : place.width]

    def one(self, row: np.ndarray) -> np.ndarray:
        self.rows(self.layout.input)[0] = row
        self._run(self.store)
        return self.rows(self.layout.output)[0].copy()

    def many(self, rows: np.ndarray) -> np.ndarray:
        self.rows(self.layout.input)[: len(rows)] = rows
        self.call_batch(len(rows))
        return self.rows(self.layout.output)[: len(rows)].copy()

    def call_batch(self, count: int) -> None:
        self._run_batch(self.store, count)


@pytest.fixture(scope="session")
def load() -> Callable[..., Runner]:
    """load(kernel) or load(wasm, layout, weights) -> Runner."""
    engine = wasmtime.Engine()

    def loaded(kernel: Kernel | bytes, layout: Layout | None = None, weights: bytes = b"") -> Runner:
        if isinstance(kernel, Kernel):
            return Runner(engine, kernel.wasm, kernel.layout, kernel.weights)
        assert layout is not None
        return Runner(engine, kernel, layout, weights)

    return loaded


@pytest.fixture(scope="session")
def load_signed() -> Callable[[Kernel], Runner]:
    """As `load`, on a machine whose relaxed dot product of bytes reads bit 7 of both as a sign."""
    config = wasmtime.Config()
    config.wasm_relaxed_simd_deterministic = True
    engine = wasmtime.Engine(config)

    def loaded(kernel: Kernel) -> Runner:
        return Runner(engine, kernel.wasm, kernel.layout, kernel.weights)

    return loaded
