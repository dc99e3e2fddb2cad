"""Whether a wasm module, from whatever tool, keeps kernel ABI 1: what `agent build --wasm` asks before it ships one.

Checked is the outside: no imports, no start function, one bounded memory, the exports and their types, the layout.
Not checked: that the code is valid (wasmtime does, in the build jail) and right (golden vectors do).
"""

from __future__ import annotations

from edgeswarm.compile import wasm as binary
from edgeswarm.compile.abi import Layout, read_layout
from edgeswarm.errors import KernelError, LimitError
from edgeswarm.limits import KERNEL_MEMORY_BYTES_MAX

EXPORTS = {"run": binary.FunctionType(b"", b""), "run_batch": binary.FunctionType(bytes([binary.I32]), b"")}
_TEXTS = {"run": "() -> ()", "run_batch": "(i32) -> ()"}


def check_module(wasm: bytes, *, who: str = "") -> Layout:
    """The layout of a module that keeps the ABI.  Raises KernelError saying what it lacks, LimitError past a bound."""
    layout = read_layout(wasm, who=who)
    types: list[binary.FunctionType] = []
    functions: list[int] = []
    memories: list[binary.Limits] = []
    exports: dict[str, tuple[int, int]] = {}
    for section in binary.sections(wasm, who=who):
        match section.id:
            case binary.TYPE:
                types = binary.read_types(section.body)
            case binary.FUNCTION:
                functions = binary.read_indices(section.body)
            case binary.MEMORY:
                memories = binary.read_memories(section.body)
            case binary.EXPORT:
                exports = binary.read_exports(section.body)
            case binary.START:
                raise KernelError("start function: expected none: nothing runs before the first call", who=who)
            case _:
                pass  # tables, globals, elements, code and data are the module's own affair
    _check_memory(layout, memories, exports, who)
    for name, wanted in EXPORTS.items():
        kind, index = exports.get(name, (-1, 0))
        if kind != 0 or index >= len(functions) or functions[index] >= len(types):
            raise KernelError(f"export {name!r}: expected a function {_TEXTS[name]}, found none", who=who)
        if types[functions[index]] != wanted:
            raise KernelError(f"export {name!r}: expected the type {_TEXTS[name]}, found another", who=who)
    return layout


def _check_memory(layout: Layout, memories: list[binary.Limits], exports: dict[str, tuple[int, int]], who: str) -> None:
    if len(memories) != 1:
        raise KernelError(f"memory: expected one, found {len(memories)}", who=who)
    exported = sorted(name for name, (kind, _) in exports.items() if kind == 2)
    if exported != ["memory"] or exports["memory"][1] != 0:
        raise KernelError(f"memory: expected one, exported as 'memory', found the exports {exported}", who=who)
    pages, pages_max = memories[0].pages, memories[0].pages_max
    if max(pages, pages_max or 0) * binary.PAGE_BYTES > KERNEL_MEMORY_BYTES_MAX:
        raise LimitError(
            f"{who or 'memory'}: at most {KERNEL_MEMORY_BYTES_MAX} bytes (KERNEL_MEMORY_BYTES_MAX), "
            f"found {pages} to {pages_max} pages"
        )
    if pages_max is not None and pages_max < pages:
        raise KernelError(f"memory: expected at least {pages} pages at most, found {pages_max}", who=who)
    if layout.memory_bytes > pages * binary.PAGE_BYTES:
        raise KernelError(
            f"memory: expected at least the layout's {layout.memory_bytes} bytes from the start, "
            f"found {pages * binary.PAGE_BYTES}",
            who=who,
        )
