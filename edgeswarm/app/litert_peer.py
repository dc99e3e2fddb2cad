"""LiteRT in a process of its own, to be measured beside our kernels: one thread, one interpreter, rows in float32.

Not a jail: for the operator's machine, on a model of their own (`agent bench --against litert`).  A process of its own,
because what crashes there is native code that reads a file.
Kinds: `xnnpack` is what `Interpreter(model)` gives, `builtin` the same without the XNNPACK delegate, `reference` the
kernels that define what a model answers.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgeswarm.errors import JailError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("xnnpack", "builtin", "reference")
_RESOLVERS = {"xnnpack": "AUTO", "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}
READY_S = 60.0
"""For starting, importing and preparing the model: a cold disk takes a while."""


class Peer:
    """An interpreter ready to answer.  Raises JailError when LiteRT is not there, refuses the model, or dies."""

    def __init__(self, model: bytes, kind: str, *, timeout_s: float = READY_S) -> None:
        context = multiprocessing.get_context("spawn")
        self._kind, self._timeout_s = kind, timeout_s
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, model, kind), daemon=True)
        self._process.start()
        theirs.close()
        try:
            ready = self._receive()
        except BaseException:
            self.close()
            raise
        self.version: str = ready["version"]
        self.arena_bytes: int = ready["arena_bytes"]
        self.input_steps: tuple[float, int] | None = ready["steps"][0]
        """Scale and zero point of an int8 input; None for float32."""
        self.output_steps: tuple[float, int] | None = ready["steps"][1]

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def answers(self, rows: NDArray[Any]) -> NDArray[Any]:
        """float32[n, outputs] for float32[n, inputs]; an int8 model is asked, and answers, in float32."""
        found: NDArray[Any] = self._ask(("answers", rows))
        return found

    def time_ns(self, row: NDArray[Any], calls: int) -> int:
        """Of that many invocations on one row, without copying it in and out."""
        found: int = self._ask(("time", row, calls))
        return found

    def close(self) -> None:
        self._pipe.close()
        self._process.join(1.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, what: tuple[Any, ...]) -> Any:
        try:
            self._pipe.send(what)
        except OSError:
            raise self._gone() from None
        return self._receive()

    def _receive(self) -> Any:
        try:
            if not self._pipe.poll(self._timeout_s):
                raise JailError(f"LiteRT ({self._kind}): no answer within {self._timeout_s:g} s")
            found = self._pipe.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if isinstance(found, str):
            raise JailError(f"LiteRT ({self._kind}): {found}")
        return found

    def _gone(self) -> JailError:
        self._process.join(1.0)
        return JailError(f"LiteRT ({self._kind}): its process ended with {self._process.exitcode}")


def covered(spans: list[tuple[int, int]]) -> int:
    """How many places lie in at least one of the spans (from, to).  LiteRT has more than one arena, far apart."""
    count, reached = 0, 0
    for at, end in sorted(spans):
        count += max(0, end - max(at, reached))
        reached = max(reached, end)
    return count


def _serve(pipe: Connection, model: bytes, kind: str) -> None:
    """The other process: told what went wrong as text, anything else is an answer."""
    try:
        serve = _Serving(model, kind)
        pipe.send({"version": serve.version, "arena_bytes": serve.arena_bytes(), "steps": serve.steps()})
        while True:
            what, *arguments = pipe.recv()
            pipe.send(serve.answers(*arguments) if what == "answers" else serve.time_ns(*arguments))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


class _Serving:
    def __init__(self, model: bytes, kind: str) -> None:
        from importlib.metadata import version

        import numpy as np
        from ai_edge_litert import interpreter as litert

        self.np, self.version, self.model = np, version("ai-edge-litert"), model
        resolver = getattr(litert.OpResolverType, _RESOLVERS[kind])
        self.interpreter = litert.Interpreter(
            model_content=model, num_threads=1, experimental_op_resolver_type=resolver
        )
        self.interpreter.allocate_tensors()
        self.inputs, self.outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()

    def arena_bytes(self) -> int:
        """Bytes in which tensors lie that are computed: those outside of the model's own bytes."""
        np, spans = self.np, []
        first = np.frombuffer(self.model, np.uint8).__array_interface__["data"][0]
        for details in self.interpreter.get_tensor_details():
            try:
                tensor = self.interpreter.tensor(details["index"])()
            except ValueError:  # it has no memory of its own
                continue
            at = tensor.__array_interface__["data"][0]
            if not first <= at < first + len(self.model):
                spans.append((at, at + tensor.nbytes))
            del tensor  # no view may live while the interpreter runs
        return covered(spans)

    def steps(self) -> list[tuple[float, int] | None]:
        """Of the first input and the first output."""
        return [
            None if self._is_float(one) else tuple(one["quantization"]) for one in (self.inputs[0], self.outputs[0])
        ]

    def _is_float(self, details: dict[str, Any]) -> bool:
        return bool(details["dtype"] == self.np.float32)

    def answers(self, rows: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self.np.vstack([self._answer(row) for row in rows])
        return found

    def time_ns(self, row: NDArray[Any], calls: int) -> int:
        self._put(row)
        invoke: Callable[[], None] = self.interpreter.invoke
        invoke()  # brings caches back: others computed meanwhile
        began = time.perf_counter_ns()
        for _ in range(calls):
            invoke()
        return time.perf_counter_ns() - began

    def _put(self, row: NDArray[Any]) -> None:
        """A row holds the inputs one behind the other, in the file's order, as an agent's rows do."""
        np, at = self.np, 0
        for details in self.inputs:
            size = math.prod(int(side) for side in details["shape"])
            part, at = row[at : at + size], at + size
            if not self._is_float(details):
                scale, zero = details["quantization"]
                scaled = part.astype(np.float32) / np.float32(scale)
                whole = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)) + zero
                held = np.iinfo(details["dtype"])
                part = np.clip(whole, held.min, held.max).astype(details["dtype"])
            self.interpreter.set_tensor(details["index"], part.reshape(details["shape"]))
        if at != len(row):
            raise ValueError(f"expected {at} values, found {len(row)}")

    def _answer(self, row: NDArray[Any]) -> NDArray[Any]:
        self._put(row)
        self.interpreter.invoke()
        return self.np.concatenate([self._read(details) for details in self.outputs])

    def _read(self, details: dict[str, Any]) -> NDArray[Any]:
        found: NDArray[Any] = self.interpreter.get_tensor(details["index"]).reshape(-1)
        if not self._is_float(details):
            scale, zero = details["quantization"]
            found = self.np.float32(scale) * (found.astype(self.np.float32) - self.np.float32(zero))
        return found
