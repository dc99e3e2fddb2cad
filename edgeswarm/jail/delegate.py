"""A jail whose agents are computed by somebody else's native code: LiteRT, tflite-runtime, a delegate library.

The same life, rings and frames as `worker.Jail`; in the place of compiled wasm the order has a model file (`tflite`),
and says who computes it.  What needs files comes before the first step: the zygote has imported the runtime and run a
model of its own; a delegate's library is loaded by the process that becomes the jail.  The model itself is read under
seccomp stage 1, with its threads, and called twice there; after stage 2 it computes and does nothing else.
Invariants: an agent keeps nothing between calls, so a fault leaves nothing behind; answers are finite, or a fault.
A native call cannot be interrupted: one past its deadline ends the jail, by the supervisor's hand.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from edgeswarm.errors import JailError
from edgeswarm.jail import enter, kernel, trial, wasm, worker
from edgeswarm.jail.agent import AgentSpec, CallFaultError, all_finite
from edgeswarm.jail.frames import FaultCode

_WARM_CALLS: Final = 2
_SINGLE_THREADED: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""numpy comes with the runtimes; a zygote has one thread, and numpy computes nothing here."""


class Runner(Protocol):
    """One model that is ready: packed float32 in, packed float32 out.  Raises JailError or what the runtime raises."""

    def run(self, payload: memoryview) -> bytes: ...


MakeRunner = Callable[[bytes, dict[str, Any], object | None, AgentSpec], Runner]
"""A model file's bytes, the order's `delegate`, its library where it has one, and the widths that are expected."""


class Library:
    """An external delegate: TFLite's plugin interface (external_delegate_interface.h), two functions.

    The runtime's own class makes a ctypes callback for messages, which needs memory to write code to: not in here.
    Raises JailError when the file is no library, is none of a delegate, or makes no delegate.
    """

    def __init__(self, path: str, options: Sequence[Sequence[str]]) -> None:
        """path: absolute.  options: pairs of key and value, what they mean is the library's business."""
        try:
            library = ctypes.CDLL(path)
            create = library.tflite_plugin_create_delegate
        except (OSError, AttributeError) as error:
            raise JailError(f"delegate library {path}: {error}") from None
        keys = (ctypes.c_char_p * len(options))(*[key.encode() for key, _ in options])
        values = (ctypes.c_char_p * len(options))(*[value.encode() for _, value in options])
        create.restype = ctypes.c_void_p
        self._pointer = create(keys, values, ctypes.c_size_t(len(options)), None)
        if not self._pointer:
            raise JailError(f"delegate library {path}: it made no delegate")

    def _get_native_delegate_pointer(self) -> int | None:
        """What `Interpreter(experimental_delegates=...)` asks for."""
        return self._pointer  # type: ignore[no-any-return]


class DelegateAgent:
    """One model in the place of a kernel: what the desk of a jail wants of `agent.Agent`."""

    memory = b""
    dead = ""

    def __init__(self, spec: AgentSpec, runner: Runner, running: memoryview) -> None:
        self.spec = spec
        self.frame_bytes = spec.input.row_bytes
        self.reply_bytes = spec.output.row_bytes
        self._runner = runner
        self._running = running

    def run(self, payload: memoryview) -> bytes:
        """One row.  Raises CallFaultError; the supervisor sees what is being called, and since when."""
        running = self._running
        running[1] = self.spec.slot
        running[0] = time.monotonic_ns()
        try:
            answer = self._runner.run(payload)
        except Exception as error:  # whatever the runtime raises: this call failed, the next may not
            raise CallFaultError(FaultCode.TRAP, f"{type(error).__name__}: {error}") from None
        finally:
            running[0] = 0
        if len(answer) != self.reply_bytes:
            text = f"an answer of {len(answer)} bytes, {self.reply_bytes} expected"
            raise CallFaultError(FaultCode.TRAP, text)
        if not all_finite(answer):
            raise CallFaultError(FaultCode.NON_FINITE, "the output holds NaN or infinity")
        return answer

    def run_rows(self, payload: memoryview, rows: int) -> bytes:
        """Any number of rows, one after the other.  Raises CallFaultError at the first fault; none is answered then."""
        size = self.frame_bytes
        return b"".join([self.run(payload[row * size : (row + 1) * size]) for row in range(rows)])

    run_batch = run_rows

    def stage_weights(self, chunk: memoryview, *, offset: int, last: bool) -> None:
        raise CallFaultError(FaultCode.BAD_FRAME, "a delegate computes with the weights of its model file")

    def set_memory(self, content: memoryview) -> None:
        raise CallFaultError(FaultCode.BAD_FRAME, "a delegate keeps no memory between calls")


class DelegateJail(worker.Jail):
    """Serves models.  `make_runner` is the worker module's."""

    make_runner: MakeRunner

    def __init__(self, order: dict[str, Any], fds: Sequence[int], engine: wasm.Engine) -> None:
        """Load the libraries while there are files; one that is none is a fault of its slot."""
        super().__init__(order, fds, engine)
        self.libraries: dict[int, object] = {}
        self._runners: list[tuple[AgentSpec, Runner]] = []
        self._new_code: list[tuple[int, int]] = []
        before = set(_code_here())
        for tree in order["agents"]:
            path, slot = tree["delegate"].get("library", ""), int(tree["slot"])
            if path:
                try:
                    self.libraries[slot] = Library(path, tree["delegate"].get("options", ()))
                except JailError as error:
                    self.faults[slot] = str(error)[:500]
        self._new_code = [item for item in _code_here() if item not in before] if self.libraries else []

    def prepare(self) -> None:
        """A GPU's driver wants its files, and threads of its own: its models are read here, and called."""
        self._make_runners()

    def load(self) -> None:
        """Read every model, make what computes it, and call it: threads and memory come now or never."""
        self.start_watching(meanwhile=lambda: trial.call(self.engine))
        if not self.order.get("prepares"):
            self._make_runners()
            return
        for spec, runner in self._runners:
            _warm_up(spec, runner)  # the thread that serves is another one than that of `prepare`

    def _make_runners(self) -> None:
        for tree in self.order["agents"]:
            spec = AgentSpec.from_json(tree)
            if spec.slot in self.faults:
                continue
            try:
                model = bytes(self._part(tree["cwasm"]))
                runner = type(self).make_runner(model, tree["delegate"], self.libraries.get(spec.slot), spec)
                _warm_up(spec, runner)
                self._runners.append((spec, runner))
            except Exception as error:  # a model that it cannot compute, no memory: a fault of this slot alone
                text = " ".join(str(error).split())  # runtimes write several lines
                self.faults[spec.slot] = f"{type(error).__name__}: {text}"[:500]

    def code(self) -> list[tuple[int, int]]:
        """The libraries' machine code; the runtime's own was sealed in the zygote."""
        return self._new_code

    def begin(self) -> None:
        for spec, runner in self._runners:
            self.agents[spec.slot] = DelegateAgent(spec, runner, self.shared.running)  # type: ignore[assignment]
        size_bytes = len(self.payload)
        self.payload.release()
        kernel.unmap(self._payload_at, size_bytes)


def _warm_up(spec: AgentSpec, runner: Runner) -> None:
    """What a runtime does at a first call only, and a driver at the first one of a thread, it does now."""
    zeros = memoryview(bytes(spec.input.row_bytes))
    for _ in range(_WARM_CALLS):
        runner.run(zeros)


def _code_here() -> list[tuple[int, int]]:
    """Address and bytes of every executable mapping, but the kernel's own."""
    with open("/proc/self/maps", "rb") as file:
        found = enter.mappings(file.read())
    return [(item.start, item.end - item.start) for item in found if "x" in item.rights and item.name[:2] != "[v"]


def prepare_import() -> None:
    """Before the runtime is imported: it must start no thread in the zygote."""
    for name in _SINGLE_THREADED:
        os.environ[name] = "1"


def start_with(make: MakeRunner) -> worker.Start:
    """What a worker module offers as `start`, for its runtime."""

    class Made(DelegateJail):
        make_runner = staticmethod(make)

    return worker.start_with(Made)
