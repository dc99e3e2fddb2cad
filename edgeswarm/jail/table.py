"""Many instances of one kernel in one store, and a driver that calls them all in one call.

Each instance has a linear memory of its own, so a trap, a loop or a write out of bounds is one agent's alone: the
driver's memory says whose, the others go on behind it.  An agent that faulted is left out (its place in the table
holds an idle function) until `reset` puts a fresh instance there.
Pages: the spans that the supervisor reads and writes (inputs, outputs) are pages of the shared memory; whole pages of
weights are those of the payload, copied when an agent writes to them; the rest is the instance's own.
Invariants: the store lives as long as the process; every agent is called once a tick, or is reported, or was left out
before; what a deadline interrupts is the agent that was found running twice, else it is run again.
"""

from __future__ import annotations

import ctypes
from array import array
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from edgeswarm.errors import JailError
from edgeswarm.jail import kernel, pages, wasm
from edgeswarm.jail.frames import FaultCode
from edgeswarm.jail.pages import PAGE, Span

_FUNCREF: Final = 5
_EXTERN_OF: Final = 8
_EXTERN_BYTES: Final = 64
_FUNC_BYTES: Final = 16
_INSTANCE_BYTES: Final = 64
_AT, _END, _THROUGH = 0, 1, 2  # words of the driver's memory
_TABLE_MAX: Final = 1024  # elements of an agent's own tables


class Fault(NamedTuple):
    """One agent that did not finish its tick.  trap: wasmtime's code, as `wasm.trap_text` reads it."""

    agent: int
    code: FaultCode
    trap: int


@dataclass(frozen=True, slots=True)
class TableSpec:
    """What the supervisor says of a population.

    spans: pages of an agent's memory that lie in the shared memory, one behind the other, from `spans_at` + agent *
    their size.  weights_at: where the payload holds the weights, with the same place within a page as weights_offset.
    filled: the supervisor has written the spans already.
    """

    name: str
    count: int
    spans: tuple[Span, ...]
    spans_at: int
    weights_offset: int
    weights_bytes: int
    weights_at: int
    memory_bytes: int
    memory_limit_bytes: int
    resets_max: int
    filled: bool

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> TableSpec:
        """Raises JailError when a number is missing, negative, or contradicts another."""
        numbers = ("count", "spans_at", "weights_offset", "weights_bytes", "weights_at", "memory_bytes")
        try:
            spec = cls(
                name=str(tree["name"]),
                spans=tuple(Span(int(first), int(end)) for first, end in tree["spans"]),
                memory_limit_bytes=int(tree["memory_limit_bytes"]),
                resets_max=int(tree["resets_max"]),
                filled=bool(tree["filled"]),
                **{name: int(tree[name]) for name in numbers},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise JailError(f"population: expected the fields of TableSpec, found {error!r}") from None
        places = [0, *(place for span in spec.spans for place in span)]
        if places != sorted(places) or any(place % PAGE for place in (*places, spec.spans_at)):
            raise JailError(f"population {spec.name}: spans of whole pages in order expected, found {spec.spans}")
        if min(spec.spans_at, spec.weights_offset, spec.weights_bytes, spec.weights_at, spec.resets_max) < 0:
            raise JailError(f"population {spec.name}: sizes and places cannot be negative")
        if spec.count < 1 or not 0 < spec.memory_bytes <= spec.memory_limit_bytes:
            raise JailError(f"population {spec.name}: at least one agent, with memory within its limit, expected")
        if (spec.weights_at - spec.weights_offset) % PAGE or places[-1] > spec.memory_bytes:
            raise JailError(f"population {spec.name}: weights or spans do not lie where pages can be laid")
        return spec

    @property
    def stride(self) -> int:
        """Bytes of one agent's spans in the shared memory."""
        return sum(span.size for span in self.spans)


class Table:
    """A population in its store."""

    def __init__(
        self,
        agent: wasm.Module,
        driver: wasm.Module,
        spec: TableSpec,
        *,
        weights: memoryview,
        shared_fd: int,
        payload_fd: int,
    ) -> None:
        """Instantiates every agent.  Raises WasmError or JailError when the kernel or the memory does not suffice."""
        self.spec = spec
        self._library = library = agent.engine.library
        self._agent, self._driver_module = agent, driver
        self._shared_fd, self._payload_fd = shared_fd, payload_fd
        self._weights = weights
        self._store: int = library.wasmtime_store_new(agent.engine.address, None, None)
        self._context: int = library.wasmtime_store_context(self._store)
        self.renew_deadline()
        self._found = ctypes.create_string_buffer(_EXTERN_BYTES)
        self._value = ctypes.create_string_buffer(32)  # wasmtime_val_t
        self._value[0] = bytes([_FUNCREF])
        self._bases = array("Q", bytes(8 * spec.count))
        self._resets = 0
        self.left_out: set[int] = set()
        self._make_driver()
        self._plan_pages()
        for index in range(spec.count):
            self._make_agent(index)

    # --- making -------------------------------------------------------------------------------------------------------

    def _limit(self, memory_bytes: int, elements: int) -> None:
        most = self.spec.count + self.spec.resets_max + 2  # the driver, and the instance that is only looked at
        self._library.wasmtime_store_limiter(self._store, memory_bytes, elements, most, most, most)

    def _instantiate(self, module: wasm.Module) -> Any:
        library = self._library
        instance, trap = ctypes.create_string_buffer(_INSTANCE_BYTES), ctypes.c_void_p(0)
        at = ctypes.addressof(instance)
        library.check(library.wasmtime_instance_new(self._context, module.address, None, 0, at, ctypes.addressof(trap)))
        if trap.value:
            raise wasm.WasmError(f"its start trapped: {wasm.trap_text(library.take_trap(trap.value))}")
        return instance

    def _export(self, instance: Any, name: bytes) -> int:
        """Where the export lies, until the next one is looked up."""
        at = ctypes.addressof(self._found)
        here = ctypes.addressof(instance)
        if not self._library.wasmtime_instance_export_get(self._context, here, name, len(name), at):
            raise wasm.WasmError(f"no export {name.decode()}")
        return at + _EXTERN_OF

    def _make_driver(self) -> None:
        library, count = self._library, self.spec.count
        self._limit(PAGE * 16, count)
        driver = self._instantiate(self._driver_module)
        base = library.wasmtime_memory_data(self._context, self._export(driver, b"memory"))
        self.words = kernel.view(base, 3 * 4, writable=True).cast("I")
        self._idle = ctypes.string_at(self._export(driver, b"idle"), _FUNC_BYTES)
        self._run = ctypes.create_string_buffer(ctypes.string_at(self._export(driver, b"run"), _FUNC_BYTES))
        self._table = ctypes.create_string_buffer(ctypes.string_at(self._export(driver, b"agents"), 32))
        before = ctypes.c_uint64(0)
        self._set_value(self._idle)
        library.check(
            library.wasmtime_table_grow(
                self._context,
                ctypes.addressof(self._table),
                count,
                ctypes.addressof(self._value),
                ctypes.addressof(before),
            )
        )
        self._limit(self.spec.memory_limit_bytes, _TABLE_MAX)

    def _set_value(self, function: bytes) -> None:
        ctypes.memmove(ctypes.addressof(self._value) + _EXTERN_OF, function, _FUNC_BYTES)

    def _place(self, index: int, function: bytes) -> None:
        """Put a function into the driver's table."""
        library = self._library
        self._set_value(function)
        at = ctypes.addressof(self._value)
        library.check(library.wasmtime_table_set(self._context, ctypes.addressof(self._table), index, at))

    def _plan_pages(self) -> None:
        """Which pages of weights can be shared, and what has to be copied beside them; by looking at one instance.

        Where the pages that hold the weights hold nothing else, all of them; else those within.
        """
        spec = self.spec
        first, end = spec.weights_offset, spec.weights_offset + spec.weights_bytes
        base = self._memory_of(self._instantiate(self._agent))
        memory = kernel.view(base, spec.memory_bytes, writable=False)
        spans = list(spec.spans)
        hull = pages.around(first, end)
        beside = bytes(memory[hull.first : first]) + bytes(memory[end : min(hull.end, spec.memory_bytes)])
        alone = hull.end <= spec.memory_bytes and not any(beside)
        shared = pages.without(hull if alone else pages.within(first, end), spans)
        self.shared_weights = shared if spec.weights_bytes else []
        self._initial: list[tuple[int, bytes]] = []
        """What every fresh instance gets written: offset and bytes."""
        for span in spans if not spec.filled else []:
            content = bytearray(memory[span.first : span.end])
            low, high = max(first, span.first), min(end, span.end)
            if low < high:
                content[low - span.first : high - span.first] = self._weights[low - first : high - first]
            trimmed = content.lstrip(b"\0")
            if trimmed:
                self._initial.append((span.first + len(content) - len(trimmed), bytes(trimmed.rstrip(b"\0"))))
        covered = pages.joined([*spans, *self.shared_weights])
        for part in _gaps(first, end, covered):
            self._initial.append((part[0], bytes(self._weights[part[0] - first : part[1] - first])))
        memory.release()
        pages.give_back(base, spec.memory_bytes)

    def _memory_of(self, instance: Any) -> int:
        """The address of its memory.  Raises JailError when it is smaller than its layout says."""
        library, at = self._library, self._export(instance, b"memory")
        size_bytes = library.wasmtime_memory_data_size(self._context, at)
        if size_bytes < self.spec.memory_bytes:
            raise JailError(
                f"kernel of {self.spec.name}: memory of {self.spec.memory_bytes} bytes expected, found {size_bytes}"
            )
        base: int = library.wasmtime_memory_data(self._context, at)
        return base

    def _make_agent(self, index: int) -> None:
        spec = self.spec
        instance = self._instantiate(self._agent)
        base = self._memory_of(instance)
        at = spec.spans_at + index * spec.stride
        for span in spec.spans:
            pages.lay_over(base + span.first, span.size, self._shared_fd, at, shared=True)
            at += span.size
        to_payload = spec.weights_at - spec.weights_offset
        for span in self.shared_weights:
            pages.lay_over(base + span.first, span.size, self._payload_fd, to_payload + span.first, shared=False)
        for offset, content in self._initial:
            ctypes.memmove(base + offset, content, len(content))
        self._bases[index] = base
        self._place(index, ctypes.string_at(self._export(instance, b"run"), _FUNC_BYTES))

    # --- calls --------------------------------------------------------------------------------------------------------

    def renew_deadline(self) -> None:
        """The next tick of the engine's epoch interrupts, those that were do not."""
        self._library.wasmtime_context_set_epoch_deadline(self._context, 1)

    def call(self, first: int, end: int) -> int:
        """Call the agents from first to before end; returns the address of a trap, or 0."""
        library, words = self._library, self.words
        words[_AT], words[_END], words[_THROUGH] = first, end, first
        unused, trap = ctypes.c_uint64(0), ctypes.c_void_p(0)
        error = library.call(
            ctypes.c_void_p(self._context),
            ctypes.c_void_p(ctypes.addressof(self._run)),
            ctypes.c_void_p(ctypes.addressof(unused)),
            ctypes.c_size_t(0),
            ctypes.c_void_p(ctypes.addressof(trap)),
        )
        if error:
            library.check(error)
        return trap.value or 0

    def position(self) -> int:
        """The agent that is under way, for the thread that keeps the deadlines."""
        at: int = self.words[_AT]
        return at

    def tick(self, blamed: Blame) -> list[Fault]:
        """Every agent that is not left out, once; those that faulted, in order, are left out from now on."""
        faults: list[Fault] = []
        at, end = 0, self.spec.count
        blamed.begin()
        while at < end:
            trap = self.call(at, end)
            if not trap:
                break
            code = self._library.take_trap(trap)
            at, through = self.words[_AT], self.words[_THROUGH]
            if code == wasm.TRAP_INTERRUPT:
                self.renew_deadline()
                if through > at:  # between two agents: nobody's
                    at = through
                    continue
                if not blamed.is_for(at):  # the one it was meant for had just finished
                    continue
            faults.append(Fault(at, FaultCode.DEADLINE if code == wasm.TRAP_INTERRUPT else FaultCode.TRAP, code))
            self.leave_out(at)
            at += 1
        blamed.end()
        return faults

    def leave_out(self, index: int) -> None:
        self._place(index, self._idle)
        self.left_out.add(index)

    # --- one agent ----------------------------------------------------------------------------------------------------

    def reset(self, index: int) -> None:
        """A fresh instance in this place, with the weights that the population began with; inputs are zero.

        Raises JailError when this jail has made as many as it may.
        """
        spec = self.spec
        if self._resets >= spec.resets_max:
            raise JailError(f"population {spec.name}: {spec.resets_max} agents were made anew, no more in this jail")
        self._resets += 1
        old = self._bases[index]
        if not spec.filled:
            for span in spec.spans:
                ctypes.memset(old + span.first, 0, span.size)
        self._make_agent(index)
        pages.give_back(old, pages.around(0, spec.memory_limit_bytes).size)  # grown or not: behind it lies nothing
        self.left_out.discard(index)

    def weights_of(self, index: int) -> memoryview:
        """An agent's weights in place; the first write to a page that is shared makes it the agent's own."""
        return kernel.view(self._bases[index] + self.spec.weights_offset, self.spec.weights_bytes, writable=True)

    def warm_up(self) -> None:
        """One call of nothing: the first call of a thread sets up a signal stack, which is forbidden later."""
        self.call(0, 0)


class Blame:
    """Which agent a deadline is about: the one that was under way at two pokes of one tick.

    `poked` is called by the thread that keeps the deadlines, all else by the one that ticks.
    """

    def __init__(self) -> None:
        self._tick = 0
        self._seen: tuple[int, int] | None = None
        self._agent: tuple[int, int] | None = None
        self._running = False

    def begin(self) -> None:
        self._tick += 1
        self._running = True

    def end(self) -> None:
        self._running = False

    def poked(self, position: int) -> bool:
        """True when the agent at this position was there at the poke before, and has to be interrupted."""
        here = (self._tick, position)
        if not self._running:
            return False
        if here == self._seen:
            self._agent = here
            return True
        self._seen = here
        return False

    def is_for(self, agent: int) -> bool:
        return self._agent == (self._tick, agent)


def _gaps(first: int, end: int, spans: list[Span]) -> list[tuple[int, int]]:
    """The bytes from first to before end that no span covers."""
    found, at = [], first
    for span in spans:
        if span.first > at:
            found.append((at, min(span.first, end)))
        at = max(at, span.end)
        if at >= end:
            break
    if at < end:
        found.append((at, end))
    return [(low, high) for low, high in found if low < high]
