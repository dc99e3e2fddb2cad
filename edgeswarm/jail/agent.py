"""One kernel instance inside a jail: its store, its memory seen without copies, its calls without checks.

Each agent has a store of its own, so that a trap, a full memory or a missed deadline stays with it; after any of them
the instance is thrown away and made anew, with the weights it had.
Invariants: every offset that comes from a layout is checked against the memory once, every length that comes in a
frame each time; answers are finite.  The calls and the memory themselves are `wasm.Instance`.
"""

from __future__ import annotations

import array
import time
import zlib
from dataclasses import dataclass
from typing import Any, Final

from edgeswarm.errors import JailError
from edgeswarm.jail import wasm
from edgeswarm.jail.frames import ALIGN_BYTES, FaultCode

_VALUE_BYTES: Final = 4


class CallFaultError(JailError):
    """A call did not answer; the agent is usable again unless it is `dead`."""

    def __init__(self, code: FaultCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Ticks:
    """How often the epoch thread has advanced the engine's epoch: a store's deadline is renewed when it changed."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


@dataclass(frozen=True, slots=True)
class RowsAt:
    """Rows of float32 in linear memory: offset and stride in bytes, width in values."""

    offset: int
    stride: int
    width: int

    @property
    def row_bytes(self) -> int:
        return self.width * _VALUE_BYTES

    def end(self, rows: int) -> int:
        return self.offset + (rows - 1) * self.stride + self.row_bytes


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What the supervisor says about one agent of the jail."""

    slot: int
    name: str
    input: RowsAt
    output: RowsAt
    weights_offset: int
    weights_bytes: int
    batch_max: int
    memory_limit_bytes: int
    deadline_ms: int
    memory_width: int

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> AgentSpec:
        """Raises JailError when a number is missing, negative, or contradicts another."""
        try:
            spec = cls(
                slot=int(tree["slot"]),
                name=str(tree["name"]),
                input=RowsAt(*map(int, tree["input"])),
                output=RowsAt(*map(int, tree["output"])),
                weights_offset=int(tree["weights_offset"]),
                weights_bytes=int(tree["weights_bytes"]),
                batch_max=int(tree["batch_max"]),
                memory_limit_bytes=int(tree["memory_limit_bytes"]),
                deadline_ms=int(tree["deadline_ms"]),
                memory_width=int(tree["memory_width"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise JailError(f"agent of a jail: expected the fields of AgentSpec, found {error!r}") from None
        spec._check()
        return spec

    def _check(self) -> None:
        for name, rows in (("input", self.input), ("output", self.output)):
            if rows.offset < 0 or rows.offset % _VALUE_BYTES or rows.stride % _VALUE_BYTES or rows.width < 1:
                raise JailError(f"agent {self.name}: {name} {rows} is not made of whole float32 values")
            if rows.stride < rows.row_bytes:
                raise JailError(f"agent {self.name}: {name} rows of {rows.row_bytes} bytes overlap in {rows.stride}")
        if min(self.weights_offset, self.weights_bytes, self.memory_width) < 0:
            raise JailError(f"agent {self.name}: weights and memory cannot be negative")
        if self.batch_max < 1 or self.deadline_ms < 1 or self.memory_limit_bytes < 1:
            raise JailError(f"agent {self.name}: batch, deadline and memory limit are at least 1")
        if self.memory_width >= self.input.width or self.memory_width > self.output.width:
            raise JailError(
                f"agent {self.name}: memory of {self.memory_width} values does not fit "
                f"{self.input.width} inputs and {self.output.width} outputs"
            )


class Agent:
    """A kernel with its store.  `running` is the word pair in which the supervisor sees what is being called."""

    def __init__(
        self,
        module: wasm.Module,
        spec: AgentSpec,
        *,
        weights: bytes | memoryview,
        ticks: Ticks,
        running: memoryview,
    ) -> None:
        self.spec = spec
        self._module = module
        self._ticks = ticks
        self._running = running
        self._weights_checksum = 0
        self.frame_bytes = (spec.input.width - spec.memory_width) * _VALUE_BYTES
        self.reply_bytes = spec.output.row_bytes
        self.memory = bytes(spec.memory_width * _VALUE_BYTES)
        self.dead = ""
        self._staged: bytearray | None = None
        self._instantiate()
        if len(weights) != spec.weights_bytes:
            raise JailError(f"agent {spec.name}: weights of {spec.weights_bytes} bytes expected, found {len(weights)}")
        self._write_weights(weights)

    # --- life ---------------------------------------------------------------------------------------------------------

    def _instantiate(self) -> None:
        """A fresh instance; checks once what is never checked again."""
        spec = self.spec
        seen = self._ticks.count
        instance = wasm.Instance(self._module, memory_bytes_max=spec.memory_limit_bytes)
        size_bytes = len(instance.memory)
        for what, end in (
            ("input", spec.input.end(spec.batch_max)),
            ("output", spec.output.end(spec.batch_max)),
            ("weights", spec.weights_offset + spec.weights_bytes),
        ):
            if end > size_bytes:
                instance.close()
                raise JailError(f"kernel of {spec.name}: {what} ends at {end}, past its memory of {size_bytes} bytes")
        self._instance, self._seen_ticks = instance, seen
        self._bytes, self._floats = instance.memory, instance.floats

    def close(self) -> None:
        """Free the instance; using the agent afterwards raises."""
        self._instance.close()

    def _start_anew(self) -> None:
        """After a fault: a fresh instance with the same weights.

        Raises CallFaultError, and leaves the agent `dead`, when the kernel has overwritten its own weights or there
        is no memory for another instance: then only a new jail helps.
        """
        at, size = self.spec.weights_offset, self.spec.weights_bytes
        weights = bytes(self._bytes[at : at + size])
        self.close()
        if zlib.crc32(weights) != self._weights_checksum:
            self.dead = "the kernel has overwritten its own weights"
        else:
            try:
                self._instantiate()
            except JailError as error:
                self.dead = f"no second instance: {error}"
        if self.dead:
            raise CallFaultError(FaultCode.MEMORY, self.dead)
        self._bytes[at : at + size] = weights

    # --- weights and memory -------------------------------------------------------------------------------------------

    def _write_weights(self, weights: bytes | bytearray | memoryview) -> None:
        at = self.spec.weights_offset
        self._bytes[at : at + len(weights)] = weights
        self._weights_checksum = zlib.crc32(weights)

    def stage_weights(self, chunk: memoryview, *, offset: int, last: bool) -> None:
        """Collect new weights; with the last chunk they replace the old ones at once, between two calls.

        Raises CallFaultError at the last chunk when not every byte came, in order; the old weights stay then.
        """
        staged = bytearray() if offset == 0 else self._staged
        rest = self.spec.weights_bytes - offset
        self._staged = None
        if staged is not None and offset == len(staged) and len(chunk) < rest + ALIGN_BYTES:  # the rest is padding
            staged += chunk[:rest]
            self._staged = None if last else staged
        if last:
            if staged is None or len(staged) != self.spec.weights_bytes:
                found = 0 if staged is None else len(staged)
                raise CallFaultError(FaultCode.BAD_FRAME, f"weights: {self.spec.weights_bytes} bytes, got {found}")
            self._write_weights(staged)

    def set_memory(self, content: memoryview) -> None:
        """Replace the values kept between calls."""
        size_bytes = len(self.memory)
        if not size_bytes or len(content) < size_bytes:
            raise CallFaultError(FaultCode.BAD_FRAME, f"memory of {size_bytes} bytes expected, found {len(content)}")
        self.memory = bytes(content[:size_bytes])

    # --- calls --------------------------------------------------------------------------------------------------------

    def run(self, payload: memoryview) -> bytes:
        """One row, packed float32 without the kept memory; returns the packed output row.  Raises CallFaultError."""
        self._guarded(payload, 1, batch=False)
        at = self.spec.output.offset
        answer = bytes(self._bytes[at : at + self.reply_bytes])
        if not all_finite(answer):
            raise CallFaultError(FaultCode.NON_FINITE, "the output holds NaN or infinity")
        if self.memory:
            self.memory = answer[-len(self.memory) :]
        return answer

    def run_batch(self, payload: memoryview, rows: int) -> bytes:
        """1..batch_max packed rows in one call; only for agents without kept memory.  Raises CallFaultError."""
        self._guarded(payload, rows, batch=True)
        answer = self._gather(rows)
        if not all_finite(answer):
            raise CallFaultError(FaultCode.NON_FINITE, "an output row holds NaN or infinity")
        return answer

    def run_rows(self, payload: memoryview, rows: int) -> bytes:
        """Any number of packed rows, in order.

        Raises CallFaultError at the first fault; no row is answered then, and the kept memory is as it was before.
        """
        size, step = self.frame_bytes, self.spec.batch_max
        before = self.memory
        try:
            if before or step == 1:
                return b"".join([self.run(payload[i * size : (i + 1) * size]) for i in range(rows)])
            if rows <= step:
                return self.run_batch(payload, rows)
            return b"".join(
                self.run_batch(payload[first * size : (first + step) * size], min(step, rows - first))
                for first in range(0, rows, step)
            )
        except CallFaultError:
            self.memory = before
            raise

    def warm_up(self) -> None:
        """Call what will be called once with zeros: the first call sets up a signal stack, which is forbidden later."""
        zeros = memoryview(bytes(self.frame_bytes))
        self._guarded(zeros, 1, batch=False)
        if not self.memory and self.spec.batch_max > 1:
            self._guarded(zeros, 1, batch=True)

    def _guarded(self, payload: memoryview, rows: int, *, batch: bool) -> None:
        """One call under the deadline, once more when a late wake-up hit a call that was not to blame."""
        spec, running = self.spec, self._running
        while True:
            if rows > 1:
                self._scatter(payload, rows)
            else:
                at = spec.input.offset
                self._bytes[at : at + self.frame_bytes] = payload
                if self.memory:
                    self._bytes[at + self.frame_bytes : at + spec.input.row_bytes] = self.memory
            if self._seen_ticks != self._ticks.count:
                self._seen_ticks = self._ticks.count
                self._instance.renew_deadline()
            began = time.monotonic_ns()
            running[1] = spec.slot
            running[0] = began
            try:
                trap = self._instance.run_batch(rows) if batch else self._instance.run(rows)
            except wasm.WasmError as error:
                fault = CallFaultError(FaultCode.TRAP, str(error))
            else:
                if not trap:
                    running[0] = 0
                    return
                fault = self._fault_of(trap)
            running[0] = 0
            took_ns = time.monotonic_ns() - began
            self._start_anew()
            if fault.code is not FaultCode.DEADLINE or took_ns * 2 >= spec.deadline_ms * 1_000_000:
                raise fault

    def _fault_of(self, trap: int) -> CallFaultError:
        code = self._module.engine.library.take_trap(trap)
        if code == wasm.TRAP_INTERRUPT:
            return CallFaultError(FaultCode.DEADLINE, "the kernel ran past its deadline")
        return CallFaultError(FaultCode.TRAP, f"the kernel trapped: {wasm.trap_text(code)}")

    def _scatter(self, payload: memoryview, rows: int) -> None:
        """Packed rows into the input region."""
        place, size = self.spec.input, self.frame_bytes
        if place.stride == size:
            self._bytes[place.offset : place.offset + rows * size] = payload
        elif rows <= place.width:
            for row in range(rows):
                at = place.offset + row * place.stride
                self._bytes[at : at + size] = payload[row * size : (row + 1) * size]
        else:  # fewer columns than rows: copy column by column
            values, step, first = payload.cast("f"), place.stride // _VALUE_BYTES, place.offset // _VALUE_BYTES
            for column in range(place.width):
                at = first + column
                self._floats[at : at + (rows - 1) * step + 1 : step] = values[column :: place.width]

    def _gather(self, rows: int) -> bytes:
        """The output region's rows, packed."""
        place = self.spec.output
        size = place.row_bytes
        if place.stride == size:
            return bytes(self._bytes[place.offset : place.offset + rows * size])
        packed = bytearray(rows * size)
        if rows <= place.width:
            for row in range(rows):
                at = place.offset + row * place.stride
                packed[row * size : (row + 1) * size] = self._bytes[at : at + size]
        else:
            values, step = memoryview(packed).cast("f"), place.stride // _VALUE_BYTES
            for column in range(place.width):
                at = place.offset // _VALUE_BYTES + column
                values[column :: place.width] = self._floats[at : at + (rows - 1) * step + 1 : step]
        return bytes(packed)


def all_finite(values: bytes) -> bool:
    """True when no packed float32 is NaN or infinite.

    A non-finite value's top byte is 0x7f or 0xff, which only values beyond 1.7e38 share: those are looked at exactly.
    """
    tops = values[3::4]
    if 0x7F not in tops and 0xFF not in tops:
        return True
    total = sum(array.array("f", values))  # in double: at most 3.4e38 each, cannot overflow by itself
    return total - total == 0.0
