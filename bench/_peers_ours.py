"""Our kernels as a contestant: set up as in a jail, computed over and over by a driver module, so that the time is the
kernel's and no caller's; or called from Python once a batch, which is what a caller sees."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import wasmtime
from _peers_child import Backend, Case

from edgeswarm.compile import Kernel, compile_mlp
from edgeswarm.compile.lower_i8 import compile_i8
from edgeswarm.drivers.jail_zygote import wasmtime_library
from edgeswarm.jail import wasm
from edgeswarm.jail.engine import SETTINGS
from edgeswarm.model import Dense, Mlp
from edgeswarm.model.calibrate import Samples, choose

DRIVER = """
(module
  (import "kernel" "run" (func $run))
  (import "kernel" "run_batch" (func $run_batch (param i32)))
  (func (export "runs") (param $n i32)
    (loop $again
      (call $run)
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "batches") (param $n i32) (param $rows i32)
    (loop $again
      (call $run_batch (local.get $rows))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
"""


def model_of(case: Case) -> Mlp:
    layers = zip(case.weights, case.biases, case.activations, strict=True)
    return Mlp(tuple(Dense(weights, bias, name) for weights, bias, name in layers))


def kernel_of(case: Case) -> tuple[Kernel, str]:
    """The kernel, and in a word how.  int8: as `agent build --quantize int8` does, calibrated with the case's rows;
    the path is the one that its error allows."""
    model, batch_max = model_of(case), max(64, case.batch)
    if case.kind == "f32":
        return compile_mlp(model, batch_max=batch_max), "float32"
    found, _ = choose(model, Samples(case.rows))
    return compile_i8(found, batch_max=batch_max), f"int8, path {found.path}"


def engine(**changes: bool | int | str) -> wasmtime.Engine:
    """With the settings of a jail's engine, but for `changes`."""
    config = wasmtime.Config()
    library = wasm.Library(wasmtime_library())
    address = ctypes.addressof(config.ptr().contents)
    for name, value in {**SETTINGS, **changes}.items():
        library.set(address, name, value)
    return wasmtime.Engine(config)


def prepared_rows(memory: np.ndarray, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """Puts the weights into a kernel's memory; returns its input and output rows, without copies."""
    layout, found = kernel.layout, []
    weights = layout.weights
    memory[weights.offset : weights.offset + weights.size] = np.frombuffer(kernel.weights, np.uint8)
    for place in (layout.input, layout.output):
        floats = memory[place.offset :][: layout.batch_max * place.stride].view(np.float32)
        found.append(floats.reshape(layout.batch_max, place.stride // 4)[:, : place.width])
    return found[0], found[1]


def unchecked(store: wasmtime.Store, function: Any, width: int) -> Callable[..., None]:
    """A call of whole numbers without wasmtime-py's wrapping, which takes more instructions than a small kernel."""
    values, trap = (ctypes.c_uint64 * (2 * width))(), ctypes.c_void_p(0)  # wasmtime_val_raw_t is 16 bytes
    call = wasm.Library(wasmtime_library()).call
    context = ctypes.cast(store._context(), ctypes.c_void_p)
    target = ctypes.c_void_p(ctypes.addressof(function._func))
    places = ctypes.c_void_p(ctypes.addressof(values)), ctypes.c_size_t(width), ctypes.c_void_p(ctypes.addressof(trap))

    def run(*numbers: int, _keep: object = (store, function)) -> None:
        for index, number in enumerate(numbers):
            values[2 * index] = number
        if call(context, target, *places) or trap.value:
            raise RuntimeError("a kernel trapped")

    return run


class Instance:
    """A kernel and the driver that calls it, in one store."""

    def __init__(self, machine: wasmtime.Engine, kernel: Kernel) -> None:
        self.store = wasmtime.Store(machine)
        self.store.set_epoch_deadline(1 << 40)
        instance = wasmtime.Instance(self.store, wasmtime.Module(machine, kernel.wasm), [])
        self.exports = instance.exports(self.store)
        driver = wasmtime.Instance(
            self.store, wasmtime.Module(machine, DRIVER), [self.exports["run"], self.exports["run_batch"]]
        ).exports(self.store)
        self._runs = unchecked(self.store, driver["runs"], 1)
        self._batches = unchecked(self.store, driver["batches"], 2)
        memory: Any = self.exports["memory"]
        self.input, self.output = prepared_rows(np.frombuffer(memory.get_buffer_ptr(self.store), np.uint8), kernel)

    def loop(self, count: int, batch: int) -> None:
        if batch == 1:
            self._runs(count)
        else:
            self._batches(count, batch)


class Ours(Backend):
    def __init__(self, case: Case) -> None:
        self.batch = case.batch
        kernel, how = kernel_of(case)
        self.instance = Instance(engine(), kernel)
        self.says = f"ours, in the kernel, {how}, wasmtime {version('wasmtime')}"

    def loop(self, count: int) -> None:
        self.instance.loop(count, self.batch)

    def answer(self, rows: np.ndarray) -> np.ndarray:
        self.instance.input[: self.batch] = rows
        self.loop(1)
        return self.instance.output[: self.batch]


class OursFromPython(Backend):
    """Called as the jail's worker calls it."""

    def __init__(self, case: Case) -> None:
        kernel, how = kernel_of(case)
        self.batch = case.batch
        machine = wasm.Engine(wasm.Library(wasmtime_library()))
        self.instance = wasm.Instance(machine.compile(kernel.wasm), memory_bytes_max=1 << 30)
        self.input, self.output = prepared_rows(np.frombuffer(self.instance.memory, np.uint8), kernel)
        self.says = f"ours, one call from Python each, {how}"

    def loop(self, count: int) -> None:
        run, rows = self.instance.run if self.batch == 1 else self.instance.run_batch, self.batch
        for _ in range(count):
            run(rows)

    def answer(self, rows: np.ndarray) -> np.ndarray:
        self.input[: self.batch] = rows
        self.loop(1)
        return self.output[: self.batch]
