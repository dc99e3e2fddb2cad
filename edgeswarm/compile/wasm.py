"""A small reader and writer of the WebAssembly binary format: as much of it as checking and labelling a kernel takes.

Modules are untrusted.  Every count is bounded before a loop runs over it, every length is checked against the end of
what holds it; only KernelError and LimitError come out.  Code is not validated here: wasmtime does that, in a jail.
Source: WebAssembly core specification 3.0, chapter 5 (binary format).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeswarm.errors import KernelError, LimitError
from edgeswarm.limits import KERNEL_WASM_BYTES_MAX, KERNEL_WASM_ITEMS_MAX

MAGIC = b"\0asm\x01\0\0\0"
PAGE_BYTES = 65_536
CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START = range(9)
I32 = 0x7F
_VALUE_TYPES = frozenset((0x7F, 0x7E, 0x7D, 0x7C, 0x7B, 0x70, 0x6F))  # i32 i64 f32 f64 v128 funcref externref
_SECTION_ID_MAX = 13  # 12 data count, 13 tag


class Reader:
    """A cursor over `data[at:end]`; every read past the end is a KernelError that names the offset."""

    __slots__ = ("at", "data", "end", "who")

    def __init__(self, data: bytes, at: int, end: int, who: str) -> None:
        self.data, self.at, self.end, self.who = data, at, end, who

    def fail(self, text: str) -> KernelError:
        return KernelError(f"wasm, offset {self.at}: {text}", who=self.who)

    def byte(self) -> int:
        if self.at >= self.end:
            raise self.fail("expected a byte, found the end")
        self.at += 1
        return self.data[self.at - 1]

    def u32(self) -> int:
        """An unsigned LEB128 of at most 32 bits (5.2.2)."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value > 0xFFFF_FFFF:
                    break
                return value
        raise self.fail("expected a LEB128 of at most 32 bits")

    def count(self, what: str) -> int:
        """The length of a vector, bounded by KERNEL_WASM_ITEMS_MAX."""
        value = self.u32()
        if value > KERNEL_WASM_ITEMS_MAX:
            raise LimitError(
                f"{self.who or 'wasm'}: at most {KERNEL_WASM_ITEMS_MAX} {what} (KERNEL_WASM_ITEMS_MAX), found {value}"
            )
        return value

    def take(self, size: int) -> bytes:
        if size > self.end - self.at:
            raise self.fail(f"expected {size} bytes, found {self.end - self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def name(self) -> str:
        try:
            return self.take(self.u32()).decode()
        except UnicodeDecodeError:
            raise self.fail("expected a name in UTF-8") from None

    def done(self) -> None:
        if self.at != self.end:
            raise self.fail(f"expected the end of the section, found {self.end - self.at} bytes more")


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a module: its id, its custom name (else ""), where it starts, and a Reader over its content."""

    id: int
    name: str
    start: int
    body: Reader


@dataclass(frozen=True, slots=True)
class FunctionType:
    params: bytes
    results: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of a memory in pages of 64 KiB; pages_max is None where the module declares none."""

    pages: int
    pages_max: int | None


def sections(wasm: bytes, *, who: str = "") -> Iterator[Section]:
    """The module's sections in order.  Raises KernelError if it is no module, LimitError past the bounds."""
    if len(wasm) > KERNEL_WASM_BYTES_MAX:
        raise LimitError(
            f"{who or 'wasm'}: at most {KERNEL_WASM_BYTES_MAX} bytes (KERNEL_WASM_BYTES_MAX), found {len(wasm)}"
        )
    if wasm[: len(MAGIC)] != MAGIC:
        raise KernelError("wasm: expected a core module of version 1, found other first bytes", who=who)
    reader, seen = Reader(wasm, len(MAGIC), len(wasm), who), set()
    for _ in range(KERNEL_WASM_ITEMS_MAX):
        if reader.at == reader.end:
            return
        start, kind, size = reader.at, reader.byte(), reader.u32()
        if kind > _SECTION_ID_MAX or (kind != CUSTOM and kind in seen):
            raise reader.fail(f"section id {kind}: unknown, or seen before")
        if size > reader.end - reader.at:
            raise reader.fail(f"section of {size} bytes: only {reader.end - reader.at} are left")
        seen.add(kind)
        body = Reader(wasm, reader.at, reader.at + size, who)
        reader.at += size
        yield Section(kind, body.name() if kind == CUSTOM else "", start, body)
    raise LimitError(f"{who or 'wasm'}: at most {KERNEL_WASM_ITEMS_MAX} sections (KERNEL_WASM_ITEMS_MAX)")


def read_types(body: Reader) -> list[FunctionType]:
    """Section 1: function types of numbers, vectors and plain references; others are refused."""
    types = []
    for _ in range(body.count("types")):
        if body.byte() != 0x60:
            raise body.fail("expected a function type")
        signature = []
        for _ in range(2):
            values = body.take(body.count("values"))
            if not _VALUE_TYPES.issuperset(values):
                raise body.fail("expected value types i32, i64, f32, f64, v128, funcref or externref")
            signature.append(values)
        types.append(FunctionType(signature[0], signature[1]))
    body.done()
    return types


def read_indices(body: Reader) -> list[int]:
    """Section 3: for each function the index of its type."""
    indices = [body.u32() for _ in range(body.count("functions"))]
    body.done()
    return indices


def read_memories(body: Reader) -> list[Limits]:
    """Section 5: plain 32-bit memories; shared ones, 64-bit ones and other page sizes are refused."""
    memories = []
    for _ in range(body.count("memories")):
        flags = body.byte()
        if flags not in (0, 1):
            raise body.fail(f"memory: expected an unshared 32-bit memory of 64 KiB pages, found the flags {flags:#x}")
        pages = body.u32()
        memories.append(Limits(pages, body.u32() if flags else None))
    body.done()
    return memories


def read_exports(body: Reader) -> dict[str, tuple[int, int]]:
    """Section 7: name -> (kind, index); kinds are 0 function, 1 table, 2 memory, 3 global, 4 tag."""
    exports: dict[str, tuple[int, int]] = {}
    for _ in range(body.count("exports")):
        name = body.name()
        if name in exports:
            raise body.fail(f"export {name!r}: named twice")
        exports[name] = (body.byte(), body.u32())
    body.done()
    return exports


def unsigned(value: int) -> bytes:
    """LEB128 of a whole number >= 0 (5.2.2)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def custom_section(name: str, content: bytes) -> bytes:
    """The bytes of a custom section (5.5.3), to be put behind any other section."""
    body = unsigned(len(name.encode())) + name.encode() + content
    return bytes([CUSTOM]) + unsigned(len(body)) + body


def without_custom(wasm: bytes, *names: str) -> bytes:
    """The module without its custom sections of these names."""
    out = bytearray(MAGIC)
    for section in sections(wasm):
        if section.id != CUSTOM or section.name not in names:
            out += wasm[section.start : section.body.end]
    return bytes(out)
