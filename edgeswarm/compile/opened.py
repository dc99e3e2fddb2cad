"""A kernel opened up: made in this process with each of its steps to be called alone, and every tensor to be read.

For those who look into a model on the operator's machine (`agent show --graph`, `profile`, `debug`); no device runs
such code.  What the steps do, and in which order, is what the agent file's kernel does; only the exports are more.
All of it is about row 0: the steps of `run`.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeswarm.compile.emit import emit
from edgeswarm.compile.kernel import ARCH_DEFAULT, Kernel, compile_graph, pack_weights, schedule_graph
from edgeswarm.compile.library import library
from edgeswarm.errors import InputError, LimitError, TrapError
from edgeswarm.model.graph import Graph
from edgeswarm.model.nodes import DTYPES

Call = Callable[[], None]


class Opened:
    """A graph's kernel in this process.  schedule: its steps.  kernel: what `compile_graph` makes of the same graph."""

    def __init__(self, graph: Graph, *, batch_max: int = 1, mode: str = "fast", arch: str = ARCH_DEFAULT) -> None:
        """Raises LimitError, LocalError as `compile_graph`."""
        import wasmtime

        self.graph = graph
        self.schedule = schedule_graph(graph, batch_max=batch_max, mode=mode, arch=arch)
        self.layout = self.schedule.layout
        wasm = wasmtime.wat2wasm(emit(self.schedule, library(), each_step=True))
        config = wasmtime.Config()
        config.epoch_interruption = True  # as in a jail: it is a part of what a loop costs
        self._engine = wasmtime.Engine(config)
        self._store = wasmtime.Store(self._engine)
        self._store.set_epoch_deadline(1)
        self._exports = wasmtime.Instance(self._store, wasmtime.Module(self._engine, bytes(wasm)), []).exports(
            self._store
        )
        memory: Any = self._exports["memory"]
        size = memory.data_len(self._store)
        address = ctypes.addressof(memory.data_ptr(self._store).contents)
        self.memory: NDArray[np.uint8] = np.frombuffer((ctypes.c_ubyte * size).from_address(address), np.uint8)
        self.load(pack_weights(graph, self.layout))
        self._calls: dict[str, Call] = {}

    def kernel(self) -> Kernel:
        """The kernel that devices get of this graph: to compare with the code of an agent file."""
        layout = self.layout
        mode = "deterministic" if layout.deterministic else "fast"
        return compile_graph(self.graph, batch_max=layout.batch_max, mode=mode, arch=self.schedule.arch)

    def load(self, weights: bytes) -> None:
        """Put packed weights in place."""
        region = self.layout.weights
        self.memory[region.offset : region.offset + region.size] = np.frombuffer(weights, np.uint8)

    def set_input(self, row: ArrayLike) -> None:
        """Raises InputError unless `row` has the input's size."""
        values = np.asarray(row, np.float32).reshape(-1)
        if values.size != self.layout.input.width:
            raise InputError(f"row: expected {self.layout.input.width} values, found {values.size}")
        self._bytes_of(self.graph.input)[:] = values.view(np.uint8)

    def tensor(self, index: int) -> NDArray[Any]:
        """What lies in a tensor's place now, in its own dtype and shape: its values until another tensor takes it."""
        tensor = self.graph.tensors[index]
        return self._bytes_of(index).copy().view(DTYPES[tensor.dtype]).reshape(tensor.shape)

    def _bytes_of(self, index: int) -> NDArray[np.uint8]:
        tensor, place = self.graph.tensors[index], self.schedule.tensors[index]
        size = tensor.size * DTYPES[tensor.dtype].itemsize
        return self.memory[place.offset : place.offset + size]

    def trace(self, row: ArrayLike, *, deadline_s: float) -> list[NDArray[Any]]:
        """Every tensor for this row, each read as soon as its node is done.  Raises InputError, LimitError."""
        found: list[NDArray[Any]] = [np.empty(0)] * len(self.graph.tensors)
        with self.bounded(deadline_s):
            self.set_input(row)
            found[self.graph.input] = self.tensor(self.graph.input)
            step = 0
            for index, node in enumerate(self.graph.nodes):
                while step < len(self.schedule.owners) and self.schedule.owners[step] == index:
                    self.function(f"step_{step}")()
                    step += 1
                found[node.output] = self.tensor(node.output)
        return found

    @contextmanager
    def bounded(self, seconds: float) -> Iterator[None]:
        """Calls in here end by then at the latest: raises LimitError."""
        self._store.set_epoch_deadline(1)
        timer = threading.Timer(seconds, self._engine.increment_epoch)
        timer.daemon = True
        timer.start()
        try:
            yield
        except TrapError as error:
            if "interrupt" in str(error):
                raise LimitError(f"kernel: expected it to be done within {seconds:g} s, found it computing") from None
            raise
        finally:
            timer.cancel()

    def function(self, name: str) -> Call:
        """An export without parameters, such as `run`, as one foreign call.  Raises TrapError; call it in `bounded`."""
        if name not in self._calls:
            self._calls[name] = self._prepared(self._exports[name])
        return self._calls[name]

    def _prepared(self, function: Any) -> Call:
        from wasmtime import Trap, _ffi

        trap = ctypes.POINTER(_ffi.wasm_trap_t)()
        room = (ctypes.c_uint64 * 2)()
        unchecked = ctypes.CDLL(str(_ffi.filename)).wasmtime_func_call_unchecked
        unchecked.restype = ctypes.c_void_p
        arguments = (
            ctypes.cast(self._store._context(), ctypes.c_void_p),
            ctypes.c_void_p(ctypes.addressof(function._func)),
            ctypes.c_void_p(ctypes.addressof(room)),
            ctypes.c_size_t(1),
            ctypes.c_void_p(ctypes.addressof(trap)),
        )

        def call(keep: tuple[object, ...] = (self._store, function, room)) -> None:
            if unchecked(*arguments) or trap:
                text = str(Trap._from_ptr(trap)) if trap else "the call was refused"
                raise TrapError(f"kernel: {text}")

        return call
