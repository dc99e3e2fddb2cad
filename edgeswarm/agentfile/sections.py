"""Bytes of one section: stored as they are or as one zstd frame (RFC 8878), and checked on the way out.

Decides whether stored bytes are what the section table says.  Invariants: never more memory than `raw_length` and one
zstd window, however a frame lies; what is refused for its declared size is refused before a byte is expanded.
"""

from __future__ import annotations

import hashlib
import math
import sys
from array import array
from typing import Literal

from edgeswarm.agentfile.file import Section
from edgeswarm.agentfile.header import SectionEntry, SectionName
from edgeswarm.errors import AgentFileError, LimitError
from edgeswarm.limits import (
    AF_EXPANSION_RATIO_MAX,
    AF_SECTION_BYTES_MAX,
    AF_ZSTD_WINDOW_BYTES_MAX,
    KERNEL_WASM_BYTES_MAX,
)

ZSTD_LEVEL = 9  # fixed, so that builds are reproducible; higher ones take seconds and gain 1 % on kernels
_WORTH_STORING = 0.95  # zstd is used when it saves at least a twentieth
_WASM_START = b"\0asm\1\0\0\0"  # WebAssembly core specification, 5.5.16
_FLOATS_AT_ONCE = 65_536

Encoding = Literal["none", "zstd"]


def store(name: SectionName, section: Section, *, encoding: Encoding | None = None) -> tuple[SectionEntry, bytes]:
    """The table's row for `section`, and the bytes to store.  encoding: None takes zstd where it is worth it."""
    raw = section.raw
    if len(raw) > AF_SECTION_BYTES_MAX:
        raise LimitError(f"section {name}: at most {AF_SECTION_BYTES_MAX} bytes, found {len(raw)}")
    stored, used = raw, "none"
    if encoding != "none" and raw:
        import zstandard

        packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False, threads=0).compress(raw)
        worth = encoding == "zstd" or len(packed) <= len(raw) * _WORTH_STORING
        if worth and len(raw) <= len(packed) * AF_EXPANSION_RATIO_MAX:
            stored, used = packed, "zstd"
    entry = SectionEntry(
        name=name,
        length=len(stored),
        sha256=hashlib.sha256(stored).hexdigest(),
        raw_length=len(raw),
        encoding="zstd" if used == "zstd" else "none",
        dtype=section.dtype,
        shape=section.shape,
    )
    return entry, stored


def load(entry: SectionEntry, stored: bytes, *, who: str, offset: int) -> bytes:
    """The decoded bytes of a section whose stored bytes have the right length and hash.

    offset: of the stored bytes in the file.  Raises AgentFileError, LimitError.
    """
    raw = stored if entry.encoding == "none" else _expand(entry, stored, who=who, offset=offset)
    check_content(entry.name, raw, dtype=entry.dtype, who=who, offset=offset)
    return raw


def check_declared(entry: SectionEntry, *, who: str, offset: int = 0) -> None:
    """Raises LimitError when the table's row alone says that this is a bomb or too large a kernel.

    offset: where the sections begin in the file.
    """
    where = f"{who or 'agent file'}: offset {offset}: section {entry.name}"
    if entry.encoding == "zstd" and entry.raw_length > entry.length * AF_EXPANSION_RATIO_MAX:
        bound = f"at most {AF_EXPANSION_RATIO_MAX} times the stored {entry.length} bytes"
        raise LimitError(f"{where}: {bound}, found raw_length {entry.raw_length}")
    if entry.name == "wasm_kernel" and entry.raw_length > KERNEL_WASM_BYTES_MAX:
        raise LimitError(f"{where}: at most {KERNEL_WASM_BYTES_MAX} bytes, found raw_length {entry.raw_length}")


def check_content(name: str, raw: bytes, *, dtype: str | None, who: str, offset: int | None = None) -> None:
    """Raises AgentFileError for a kernel that is not wasm, and for NaN or infinity, with its index."""
    if name == "wasm_kernel" and not raw.startswith(_WASM_START):
        text = f"section wasm_kernel: expected a wasm module, found {raw[:8].hex() or 'nothing'}"
        raise AgentFileError(text, who=who, offset=offset)
    if dtype == "f32":
        found = first_not_finite(raw)
        if found is not None:
            index, value = found
            text = f"section {name}: expected finite numbers, found {value} at index {index}"
            raise AgentFileError(text, who=who, offset=offset)


def first_not_finite(raw: bytes) -> tuple[int, float] | None:
    """Index and value of the first NaN or infinity among little-endian float32 values; None when all are finite."""
    view = memoryview(raw)
    for start in range(0, len(raw), 4 * _FLOATS_AT_ONCE):
        values = array("f")
        values.frombytes(view[start : start + 4 * _FLOATS_AT_ONCE])
        if sys.byteorder == "big":
            values.byteswap()
        if not math.isfinite(sum(values)):  # float32 sums cannot overflow a double: only NaN and infinity get here
            for index, value in enumerate(values):
                if not math.isfinite(value):
                    return start // 4 + index, value
    return None


def _expand(entry: SectionEntry, stored: bytes, *, who: str, offset: int) -> bytes:
    """One zstd frame that states its size, raw_length, and decodes to it; nothing after it."""
    import zstandard

    where = f"section {entry.name}: zstd"
    try:
        size = zstandard.frame_content_size(stored)
        if size != entry.raw_length:
            found = "none" if size < 0 else size
            text = f"{where}: expected a frame that states {entry.raw_length} bytes, found {found}"
            raise AgentFileError(text, who=who, offset=offset)
        # the size is stated, so the output is one allocation of raw_length; a window is only held for broken frames
        machine = zstandard.ZstdDecompressor(max_window_size=AF_ZSTD_WINDOW_BYTES_MAX)
        raw: bytes = machine.decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise AgentFileError(f"{where}: {error}", who=who, offset=offset) from None
    if len(raw) != entry.raw_length:
        raise AgentFileError(f"{where}: expected {entry.raw_length} bytes, found {len(raw)}", who=who, offset=offset)
    return raw
