"""Wasm that tries to break out: modules whose kernel misbehaves, and bytes that are no modules.

They go the ordinary way of an order: the supervisor's own check, compilation in a jail of its own, loading, a call.
Each is built here, byte by byte, because a tool would refuse most of them.
    refused   must not be taken by the check, the compiler or the loader
    trap      may be taken, and its call must fault; an answer means that it got what it wanted
    harmless  may be refused or ignored; what it must not do is end a jail or change an answer
Source: WebAssembly core specification 3.0, chapter 5 (binary format).
"""

from __future__ import annotations

import functools
import hashlib
import struct
from dataclasses import dataclass
from typing import Final, Literal

from edgeswarm.compile import abi
from edgeswarm.compile.wasm import MAGIC, custom_section, unsigned

Verdict = Literal["refused", "trap", "harmless"]

INPUT, OUTPUT, WEIGHTS = 0, 65_536, 131_008
LAYOUT: Final = abi.Layout(
    batch_max=1,
    deterministic=True,
    input=abi.Rows(INPUT, 8, 2),
    output=abi.Rows(OUTPUT, 8, 2),
    weights=abi.Weights(WEIGHTS, 4, (1,)),
    memory_bytes=131_072,
    topology=hashlib.sha256(b"probe").hexdigest(),
)
ASK: Final = struct.pack("<2f", 1.0, 0.0)
"""The input for which a kernel here misbehaves."""
ANSWER: Final = struct.pack("<2f", 42.0, 0.0)
"""Of every kernel here that runs to its end."""


@dataclass(frozen=True, slots=True)
class WasmProbe:
    """A module and what must become of it.  bypass: the supervisor's check does not see it, the engine does."""

    name: str
    verdict: Verdict
    module: bytes
    bypass: bool = False


def signed(value: int) -> bytes:
    """Signed LEB128 (5.2.2)."""
    out = bytearray()
    while True:
        low = value & 0x7F
        value >>= 7
        if (value == 0 and not low & 0x40) or (value == -1 and low & 0x40):
            return bytes([*out, low])
        out.append(low | 0x80)


def section(number: int, content: bytes) -> bytes:
    return bytes([number]) + unsigned(len(content)) + content


def i32(value: int) -> bytes:
    return b"\x41" + signed(value)


def body(code: bytes, locals_: bytes = b"\0") -> bytes:
    content = locals_ + code + b"\x0b"
    return unsigned(len(content)) + content


LOAD, STORE, STORE_FLOAT, DROP, UNREACHABLE = b"\x28\x02", b"\x36\x02", b"\x38\x02", b"\x1a", b"\x00"
RIGHT: Final = i32(OUTPUT) + b"\x43" + struct.pack("<f", 42.0) + STORE_FLOAT + b"\0"
"""Store the answer."""
_TYPES: Final = b"\x02" + b"\x60\0\0" + b"\x60\x01\x7f\0"
_NAMES: Final = (b"memory", 2, 0), (b"run", 0, 0), (b"run_batch", 0, 1)


def exports(*rows: tuple[bytes, int, int]) -> bytes:
    return unsigned(len(rows)) + b"".join(unsigned(len(n)) + n + bytes([kind, index]) for n, kind, index in rows)


_LAID: Final = custom_section(abi.SECTION, LAYOUT.to_json())


def module(
    code: bytes,
    *,
    locals_: bytes = b"\0",
    table: bytes = b"",
    memory: bytes = b"\x01\x01\x02\x40",
    elements: bytes = b"",
    data: bytes = b"",
    more: bytes = b"",
    start: bytes = b"",
    layout: bool = True,
    when_asked: bool = False,
) -> bytes:
    """A kernel whose `run` is this code and then the right answer; `run_batch` does nothing.  more: at the end.

    when_asked: the code runs only in a call whose first input is not 0, which the warm-up's is.
    """
    if when_asked:
        code = i32(INPUT) + LOAD + b"\0" + b"\x04\x40" + code + b"\x0b"
    functions = body(code + RIGHT, locals_), body(b"")
    parts = [(1, _TYPES), (3, b"\x02\0\x01"), (4, table), (5, memory), (7, exports(*_NAMES)), (8, start),
             (9, elements), (12, b"\x01" if data[:1] == b"\x01" else b""), (10, b"\x02" + b"".join(functions)),
             (11, data)]  # fmt: skip
    made = MAGIC + b"".join(section(number, content) for number, content in parts if content) + more
    return made + (_LAID if layout else b"")


PLAIN: Final = module(b"")
"""A kernel that only answers."""
_TABLE: Final = b"\x01\x70\0\x04"  # four references to functions
_SECOND: Final = b"\x01\x00" + i32(1) + b"\x0b\x01\x01"  # the table's second entry is run_batch, of type 1
_FAR: Final = 0x7FFF_FFF0


def _call_indirect(index: int, kind: int = 0) -> bytes:
    return i32(index) + b"\x11" + unsigned(kind) + b"\0"


def _traps() -> dict[str, bytes]:
    kernel = functools.partial(module, when_asked=True)
    load, store = LOAD + b"\0" + DROP, i32(1) + STORE + b"\0"
    return {
        "read_past_memory": kernel(i32(131_072) + load),
        "read_far_past_memory": kernel(i32(_FAR) + load),
        "read_at_minus_one": kernel(i32(-1) + load),
        "read_across_the_end": kernel(i32(131_070) + load),
        "read_with_the_largest_offset": kernel(i32(-1) + LOAD + unsigned(0xFFFF_FFFF) + DROP),
        "write_past_memory": kernel(i32(131_072) + store),
        "write_far_past_memory": kernel(i32(_FAR) + store),
        "write_at_minus_one": kernel(i32(-4) + store),
        "fill_past_memory": kernel(i32(131_000) + i32(0) + i32(1_000_000) + b"\xfc\x0b\0"),
        "copy_past_memory": kernel(i32(0) + i32(131_000) + i32(1_000_000) + b"\xfc\x0a\0\0"),
        "copy_from_minus_one": kernel(i32(0) + i32(-1) + i32(64) + b"\xfc\x0a\0\0"),
        "data_past_its_segment": kernel(i32(0) + i32(0) + i32(64) + b"\xfc\x08\0\0", data=b"\x01\x01\x04abcd"),
        "vector_read_past_memory": kernel(i32(131_064) + b"\xfd\0\x04\0" + DROP),
        "stack_overflow": kernel(b"\x10\0"),
        "stack_overflow_of_large_frames": kernel(b"\x10\0", locals_=b"\x01" + unsigned(20_000) + b"\x7e"),
        "call_past_the_table": kernel(_call_indirect(1 << 20), table=_TABLE),
        "call_at_minus_one": kernel(_call_indirect(-1), table=_TABLE),
        "call_to_nothing": kernel(_call_indirect(3), table=_TABLE),
        "call_of_another_type": kernel(_call_indirect(1), table=_TABLE, elements=_SECOND),
        "table_read_past_its_end": kernel(i32(99) + b"\x25\0" + DROP, table=_TABLE),
        "table_write_past_its_end": kernel(i32(99) + b"\xd0\x70\x26\0", table=_TABLE),
        "table_grows_without_bound": kernel(
            b"\xd0\x70" + i32(1 << 24) + b"\xfc\x0f\0" + i32(-1) + b"\x46\x04\x40" + UNREACHABLE + b"\x0b", table=_TABLE
        ),
        "memory_grows_past_its_limit": kernel(i32(62) + b"\x40\0" + i32(-1) + b"\x46\x04\x40" + UNREACHABLE + b"\x0b"),
        "memory_grows_to_4_gib": kernel(
            i32(65_000) + b"\x40\0" + i32(-1) + b"\x46\x04\x40" + UNREACHABLE + b"\x0b", memory=b"\x01\0\x02"
        ),
        "endless_loop": kernel(b"\x03\x40\x0c\0\x0b"),
        "endless_loop_that_stores": kernel(b"\x03\x40" + i32(0) + i32(7) + STORE + b"\0" + b"\x0c\0\x0b"),
        "endless_loop_of_large_fills": kernel(
            b"\x03\x40" + i32(0) + i32(0) + i32(131_072) + b"\xfc\x0b\0" + b"\x0c\0\x0b"
        ),
        "unreachable": kernel(UNREACHABLE),
        "divide_by_zero": kernel(i32(1) + i32(0) + b"\x6d" + DROP),
        "divide_that_overflows": kernel(i32(-(1 << 31)) + i32(-1) + b"\x6d" + DROP),
        "convert_not_a_number": kernel(b"\x43\0\0\xc0\x7f\xa8" + DROP),
    }


def _refused() -> dict[str, bytes]:
    head, rest = PLAIN[:8], PLAIN[8:]
    function = unsigned(len(b"env")) + b"env" + unsigned(4) + b"read" + b"\0\0"
    system = unsigned(22) + b"wasi_snapshot_preview1" + unsigned(9) + b"proc_exit" + b"\0\x01"
    outside = unsigned(3) + b"env" + unsigned(6) + b"memory" + b"\x02\0\x01"
    layout = LAYOUT.to_json()
    return {
        "empty_file": b"",
        "magic_only": head,
        "another_version": head[:4] + b"\x0d\0\x01\0" + rest,
        "machine_code_as_wasm": b"\x7fELF\x02\x01\x01" + bytes(600) + _LAID,
        "cut_in_the_middle": PLAIN[: len(PLAIN) // 2] + _LAID,
        "section_longer_than_the_file": head + b"\x01\xff\xff\xff\x7f" + _LAID,
        "number_that_never_ends": head + b"\x01" + b"\x80" * 64 + _LAID,
        "sections_in_another_order": head + section(3, b"\x02\0\x01") + section(1, _TYPES) + _LAID,
        "section_twice": head + section(1, _TYPES) * 2 + _LAID,
        "unknown_section": module(b"", more=section(77, b"x")),
        "a_million_functions_declared": head + section(1, _TYPES) + section(3, b"\xc0\x84\x3d\0") + _LAID,
        "four_billion_locals": module(b"", locals_=b"\x01\xff\xff\xff\xff\x0f\x7f"),
        "type_confusion": module(b"\x43\0\0\0\0" + LOAD + b"\0" + DROP),
        "stack_underflow": module(DROP),
        "call_of_a_function_that_is_not_there": module(b"\x10\x63"),
        "unknown_instruction": module(b"\xf3\x07"),
        "code_without_end": head
        + section(1, _TYPES)
        + section(3, b"\x02\0\x01")
        + section(10, b"\x02\x02\0\x41")
        + _LAID,
        "imports_a_function": head + section(1, _TYPES) + section(2, b"\x01" + function) + rest[2 + len(_TYPES) :],
        "imports_the_system": head + section(1, _TYPES) + section(2, b"\x01" + system) + rest[2 + len(_TYPES) :],
        "imports_a_memory": head + section(1, _TYPES) + section(2, b"\x01" + outside) + rest[2 + len(_TYPES) :],
        "two_memories": module(b"", memory=b"\x02\x01\x02\x40\0\x01"),
        "memory_of_64_bits": module(b"", memory=b"\x01\x05\x02\x40"),
        "memory_shared_by_threads": module(b"", memory=b"\x01\x03\x02\x40"),
        "memory_of_4_gib_at_once": module(b"", memory=b"\x01\0\x80\x80\x04"),
        "data_outside_memory": module(b"", data=b"\x01\0" + i32(_FAR) + b"\x0b\x04abcd"),
        "element_outside_table": module(b"", table=_TABLE, elements=b"\x01\x00" + i32(99) + b"\x0b\x01\x00"),
        "table_of_four_billion": module(b"", table=b"\x01\x70\0\xff\xff\xff\xff\x0f"),
        "start_that_never_ends": module(b"\x03\x40\x0c\0\x0b", start=b"\0"),
        "start_that_traps": module(UNREACHABLE, start=b"\0"),
        "throws_an_exception": module(b"\x08\0", more=b""),
        "tail_call": module(b"\x12\0"),
        "no_layout": module(b"", layout=False),
        "two_layouts": PLAIN + _LAID,
        "layout_outside_memory": abi_with(layout.replace(b"131008", b"99999936")),
        "layout_of_wide_rows": abi_with(layout.replace(b'"width":2', b'"width":999999999')),
        "layout_that_is_no_json": abi_with(b"\xff{" * 50),
        "layout_nested_deep": abi_with(b"[" * 10_000),
        "layout_with_a_huge_number": abi_with(layout.replace(b'"batch_max":1', b'"batch_max":1' + b"0" * 5_000)),
        "layout_of_another_abi": abi_with(layout.replace(b'"abi":1', b'"abi":2')),
    }


def abi_with(layout: bytes) -> bytes:
    return module(b"", layout=False) + custom_section(abi.SECTION, layout)


def _harmless() -> dict[str, bytes]:
    names = custom_section("name", b"\x01\xff\xff\xff\xff\x0f" + b"\xff" * 64)
    return {
        "custom_section_of_broken_names": module(b"", more=names),
        "custom_section_of_many_names": module(b"", more=custom_section("name", b"\x01\x04\xff\xff\xff\x7f")),
        "custom_section_without_a_name": module(b"", more=section(0, b"\0" + bytes(64))),
        "custom_section_of_zeros": module(b"", more=custom_section("x" * 1000, bytes(100_000))),
        "custom_section_of_debug_data": module(b"", more=custom_section(".debug_info", b"\xff" * 5_000)),
        "custom_section_for_a_linker": module(b"", more=custom_section("dylink.0", b"\x01\x04\xff\xff\xff\x0f")),
        "custom_section_that_looks_like_code": module(b"", more=custom_section(".wasmtime.engine", b"\x7fELF" * 64)),
        "thousands_of_custom_sections": module(b"", more=custom_section("a", b"") * 5_000),
    }


def load_all() -> dict[str, WasmProbe]:
    """Every probe, by name (`wasm_...`)."""
    bypass = {"start_that_traps", "data_outside_memory", "imports_the_system"}
    kinds: tuple[tuple[Verdict, dict[str, bytes]], ...] = (
        ("trap", _traps()),
        ("refused", _refused()),
        ("harmless", _harmless()),
    )
    return {
        f"wasm_{name}": WasmProbe(f"wasm_{name}", verdict, made, bypass=name in bypass)
        for verdict, group in kinds
        for name, made in group.items()
    }


def check(probe: WasmProbe) -> abi.Layout:
    """What the supervisor looks at before it orders a compilation.  Raises KernelError, LimitError."""
    from edgeswarm.compile.check import check_module

    return LAYOUT if probe.bypass else check_module(probe.module)
