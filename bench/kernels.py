"""How fast is a generated kernel beside numpy?  Microseconds a row, one thread, batches of 1, 64 and 256.

The kernel is called in this process through wasmtime's unchecked C call with everything prepared (what the jail's
worker does); numpy computes the same network in float32 with preallocated arrays.  All contestants take turns within
one run; printed are the median of the rounds and, as noise, half the distance of the quartiles.

    python bench/kernels.py [--rounds 31] [--json]
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy loads it: one thread against one thread

import argparse
import ctypes
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import wasmtime
from wasmtime import _ffi

from edgeswarm.compile import Kernel, compile_mlp, faults
from edgeswarm.model import Mlp, random_mlp, random_rows, reference

NETWORKS = {"784-128-64-32-10": [784, 128, 64, 32, 10], "4-8-3": [4, 8, 3]}
BATCHES = (1, 64, 256)
ROUND_NS = 2_000_000  # each contestant computes for about this long in each round


class _Value(ctypes.Union):
    """wasmtime_val_raw_t: 16 bytes."""

    _fields_ = (("i64", ctypes.c_int64), ("v128", ctypes.c_uint8 * 16))


class Prepared:
    """A kernel instance whose calls cost one foreign call each."""

    def __init__(self, engine: wasmtime.Engine, kernel: Kernel) -> None:
        self.layout = kernel.layout
        self.store = wasmtime.Store(engine)
        self.store.set_epoch_deadline(1 << 40)
        self.exports = wasmtime.Instance(self.store, wasmtime.Module(engine, kernel.wasm), []).exports(self.store)
        memory: Any = self.exports["memory"]
        address = ctypes.addressof(memory.data_ptr(self.store).contents)
        self.memory = np.frombuffer((ctypes.c_ubyte * memory.data_len(self.store)).from_address(address), np.uint8)
        weights = self.layout.weights
        self.memory[weights.offset : weights.offset + weights.size] = np.frombuffer(kernel.weights, np.uint8)

    def rows(self, place: Any) -> np.ndarray:
        floats = self.memory[place.offset :][: self.layout.batch_max * place.stride].view(np.float32)
        return floats.reshape(self.layout.batch_max, place.stride // 4)[:, : place.width]

    def call(self, batch: int) -> Callable[[], None]:
        function: Any = self.exports["run" if batch == 1 else "run_batch"]
        values = (_Value * 1)()
        values[0].i64 = batch
        trap = ctypes.c_void_p(0)
        unchecked = ctypes.CDLL(str(_ffi.filename)).wasmtime_func_call_unchecked
        unchecked.restype = ctypes.c_void_p
        arguments = (
            ctypes.cast(self.store._context(), ctypes.c_void_p),
            ctypes.c_void_p(ctypes.addressof(function._func)),
            ctypes.c_void_p(ctypes.addressof(values)),
            ctypes.c_size_t(1),
            ctypes.c_void_p(ctypes.addressof(trap)),
        )

        def run(keep: tuple[object, ...] = (self, function, values, trap)) -> None:
            unchecked(*arguments)
            assert not trap.value

        return run


def numpy_forward(model: Mlp, rows: np.ndarray) -> tuple[Callable[[], None], np.ndarray]:
    """The network in float32 numpy, sigmoid throughout, into preallocated arrays."""
    buffers = [np.empty((len(rows), layer.outputs), np.float32) for layer in model.layers]

    def run() -> None:
        x = rows
        for layer, out in zip(model.layers, buffers, strict=True):
            np.matmul(x, layer.weights, out=out)
            np.add(out, layer.bias, out=out)
            np.negative(out, out=out)
            np.exp(out, out=out)
            np.add(out, np.float32(1), out=out)
            np.divide(np.float32(1), out, out=out)
            x = out

    return run, buffers[-1]


def measure(contestants: dict[str, Callable[[], None]], rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds a row, contestants taking turns: {name: {median, noise}}."""
    calls, samples = {}, {name: [] for name in contestants}  # type: dict[str, int], dict[str, list[float]]
    for name, run in contestants.items():
        run()
        start = time.perf_counter_ns()
        run()
        calls[name] = max(1, ROUND_NS // max(1, time.perf_counter_ns() - start))
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter_ns()
            for _ in range(calls[name]):
                run()
            samples[name].append((time.perf_counter_ns() - start) / calls[name] / rows / 1000)
    out = {}
    for name, values in samples.items():
        low, middle, high = statistics.quantiles(values, n=4)
        out[name] = {"median": middle, "noise": (high - low) / 2}
    return out


def bench(rounds: int) -> list[dict[str, Any]]:
    config = wasmtime.Config()
    config.epoch_interruption = True  # as in a jail
    engine = wasmtime.Engine(config)
    table = []
    for network, sizes in NETWORKS.items():
        model = random_mlp(sizes, "sigmoid", "sigmoid", seed=1)
        rows = random_rows(max(BATCHES), sizes[0], seed=2)
        expected = reference.forward(model, rows).astype(np.float32)
        prepared = {mode: Prepared(engine, compile_mlp(model, mode=mode)) for mode in ("fast", "deterministic")}
        for batch in BATCHES:
            contestants: dict[str, Callable[[], None]] = {}
            contestants["numpy"], out = numpy_forward(model, rows[:batch].copy())
            for mode, kernel in prepared.items():
                kernel.rows(kernel.layout.input)[:] = rows
                contestants[mode] = kernel.call(batch)
            found = measure(contestants, batch, rounds)
            for mode, kernel in prepared.items():
                assert not (text := faults(expected[:batch], kernel.rows(kernel.layout.output)[:batch])), (
                    f"{mode}: {text}"
                )
            assert not faults(expected[:batch], out)
            operations = 2 * sum(layer.weights.size for layer in model.layers)
            table.append(
                {
                    "network": network,
                    "batch": batch,
                    **{f"{name}_us": round(value["median"], 4) for name, value in found.items()},
                    **{f"{name}_noise_us": round(value["noise"], 4) for name, value in found.items()},
                    "fast_gflops": round(operations / found["fast"]["median"] / 1000, 1),
                    "numpy_over_fast": round(found["numpy"]["median"] / found["fast"]["median"], 2),
                }
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31, help="rounds of all contestants in turn (default 31)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    table = bench(max(2, options.rounds))
    if options.json:
        print(json.dumps({"machine": platform.machine(), "numpy": np.__version__, "rows": table}, indent=1))
        return
    print(f"µs a row, one thread, {platform.machine()}, numpy {np.__version__}; ± half the quartile distance")
    print(f"{'network':<18}{'batch':>6}{'numpy':>18}{'fast':>18}{'deterministic':>18}{'GFLOP/s':>9}{'numpy/fast':>11}")
    for row in table:
        cells = "".join(
            f"{row[f'{name}_us']:>10.3f} ±{row[f'{name}_noise_us']:<6.3f}"
            for name in ("numpy", "fast", "deterministic")
        )
        print(f"{row['network']:<18}{row['batch']:>6}{cells}{row['fast_gflops']:>9.1f}{row['numpy_over_fast']:>10.1f}x")


if __name__ == "__main__":
    main()
