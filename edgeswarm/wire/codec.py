"""Deterministic CBOR: one value has exactly one encoding, so that what is signed or hashed can be compared as bytes.

RFC 8949 4.2.1 (core deterministic encoding): shortest heads and floats, definite lengths, map keys sorted *bytewise* by
their encoding.  cbor2's `canonical=True` sorts length-first (4.2.3), and its decoder takes whatever is CBOR; a signed
message must be refused unless it is the encoding of what it says, so both directions are here.
Values: None, bool, int (-2^64 .. 2^64-1), finite float, bytes, str, list, dict with keys that are str or int >= 0.
No tags, no other simple values, no NaN, no infinity.
Invariants: loads(dumps(v)) == v (tuples come back as lists); dumps(loads(b)) == b for every b that loads takes; nothing
is allocated for a declared length that the bytes do not hold.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from edgeswarm.errors import CodecError, LimitError, LocalError
from edgeswarm.limits import CBOR_BYTES_MAX, CBOR_DEPTH_MAX, CBOR_ITEMS_MAX

Value = None | bool | int | float | bytes | str | list["Value"] | dict["str | int", "Value"]

_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)  # major types, RFC 8949 3.1
_HEADS: Final = {24: ">B", 25: ">H", 26: ">I", 27: ">Q"}
_FLOATS: Final = {25: ">e", 26: ">f", 27: ">d"}
_BYTES_HEADS: Final = [bytes((_BYTES << 5 | size,)) for size in range(24)]
_UINTS: Final = [bytes((value,)) for value in range(24)]
_LEAST: Final = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}  # smallest argument that needs this head


def dumps(value: object) -> bytes:
    """The encoding of `value`.  Raises LocalError for a value that has none, LimitError past the bounds."""
    out = bytearray()
    _put(out, value, 0)
    if len(out) > CBOR_BYTES_MAX:
        raise LimitError(f"CBOR: at most {CBOR_BYTES_MAX} bytes, found {len(out)}")
    return bytes(out)


def loads(data: bytes | bytearray | memoryview, *, who: str = "", bytes_max: int = CBOR_BYTES_MAX) -> Value:
    """The one value that `data` holds.

    who: names the sender in errors.  Raises CodecError with the offset where `data` is not deterministic CBOR of the
    kinds above, LimitError past bytes_max, CBOR_DEPTH_MAX or CBOR_ITEMS_MAX.
    """
    if len(data) > bytes_max:
        raise LimitError(f"{who or 'CBOR'}: at most {bytes_max} bytes, found {len(data)}")
    reader = _Reader(bytes(data), who)
    value = reader.read(0)
    if reader.at != len(reader.data):
        raise reader.wrong(f"expected the end, found {len(reader.data) - reader.at} bytes more")
    return value


def bytes_head(size: int) -> bytes:
    """The head of a byte string of `size` bytes, for who writes a fixed shape by hand."""
    if size < 24:
        return _BYTES_HEADS[size]
    out = bytearray()
    _put_head(out, _BYTES, size)
    return bytes(out)


def uint(value: int) -> bytes:
    """The encoding of an integer from 0 to 2^64-1."""
    if value < 24:
        return _UINTS[value]
    out = bytearray()
    _put_head(out, _UINT, value)
    return bytes(out)


def read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    """The byte string whose head is at `at`, and the offset behind it.  Raises CodecError."""
    size, start = _read_head(data, at, _BYTES)
    end = start + size
    if end > len(data):
        raise CodecError(f"CBOR at offset {at}: expected {size} bytes, found {len(data) - start}")
    return data[start:end], end


def read_uint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned integer at `at`, and the offset behind it.  Raises CodecError."""
    return _read_head(data, at, _UINT)


def _read_head(data: bytes, at: int, major: int) -> tuple[int, int]:
    """Argument of a head of this major type in its shortest form, and the offset behind it."""
    if at >= len(data) or data[at] >> 5 != major:
        raise CodecError(f"CBOR at offset {at}: expected a head of major type {major}")
    info = data[at] & 31
    if info < 24:
        return info, at + 1
    end = at + 1 + (1 << info - 24) if info < 28 else at
    if not at < end <= len(data):
        raise CodecError(f"CBOR at offset {at}: expected a definite length, all of it")
    argument = int.from_bytes(data[at + 1 : end], "big")
    if argument < _LEAST[info]:
        raise CodecError(f"CBOR at offset {at}: {argument} is not in its shortest form")
    return argument, end


# --- writing --------------------------------------------------------------------------------------------------------


def _put(out: bytearray, value: object, depth: int) -> None:
    if depth > CBOR_DEPTH_MAX:
        raise LimitError(f"CBOR: at most {CBOR_DEPTH_MAX} levels of arrays and maps")
    match value:
        case None:
            out.append(0xF6)
        case bool():
            out.append(0xF5 if value else 0xF4)
        case int():
            if not -(1 << 64) <= value < 1 << 64:
                raise LocalError(f"CBOR: an integer of {value.bit_length()} bits has no encoding here")
            _put_head(out, _UINT if value >= 0 else _NEGATIVE, value if value >= 0 else -1 - value)
        case float():
            out += _float(value)
        case bytes() | bytearray() | memoryview():
            size = value.nbytes if isinstance(value, memoryview) else len(value)
            _put_head(out, _BYTES, size)
            out += value
        case str():
            try:
                encoded = value.encode()
            except UnicodeEncodeError as error:
                raise LocalError(f"CBOR: text with half a surrogate pair has no encoding: {error}") from None
            _put_head(out, _TEXT, len(encoded))
            out += encoded
        case list() | tuple():
            _put_head(out, _ARRAY, len(value))
            for item in value:
                _put(out, item, depth + 1)
        case Mapping():
            _put_map(out, value, depth)
        case _:
            raise LocalError(f"CBOR: {type(value).__name__} has no encoding here")


def _put_map(out: bytearray, value: Mapping[object, object], depth: int) -> None:
    entries: list[tuple[bytes, object]] = []
    for key, item in value.items():
        if isinstance(key, bool) or not (isinstance(key, str) or (isinstance(key, int) and key >= 0)):
            raise LocalError(f"CBOR: map keys are text or integers from 0, found {key!r:.60}")
        encoded = bytearray()
        _put(encoded, key, depth)
        entries.append((bytes(encoded), item))
    _put_head(out, _MAP, len(entries))
    for encoded_key, item in sorted(entries, key=lambda entry: entry[0]):
        out += encoded_key
        _put(out, item, depth + 1)


def _put_head(out: bytearray, major: int, argument: int) -> None:
    if argument < 24:
        out.append(major << 5 | argument)
        return
    info = 27 if argument >= 1 << 32 else 26 if argument >= 1 << 16 else 25 if argument >= 1 << 8 else 24
    out.append(major << 5 | info)
    out += struct.pack(_HEADS[info], argument)


def _float(value: float) -> bytes:
    """The shortest of the three widths that keeps the value, RFC 8949 4.2.1."""
    if value != value or value in (float("inf"), float("-inf")):
        raise LocalError(f"CBOR: expected a finite number, found {value}")
    for info in (25, 26):
        try:
            packed = struct.pack(_FLOATS[info], value)
        except OverflowError:
            continue
        if struct.unpack(_FLOATS[info], packed)[0] == value:
            return bytes((_SIMPLE << 5 | info,)) + packed
    return bytes((_SIMPLE << 5 | 27,)) + struct.pack(">d", value)


# --- reading --------------------------------------------------------------------------------------------------------


class _Reader:
    """Walks the bytes once, front to back."""

    __slots__ = ("at", "data", "items", "who")

    def __init__(self, data: bytes, who: str) -> None:
        self.data = data
        self.who = who
        self.at = 0
        self.items = 0

    def wrong(self, text: str, at: int | None = None) -> CodecError:
        return CodecError(f"CBOR at offset {self.at if at is None else at}: {text}", who=self.who)

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise self.wrong(f"expected {size} bytes, found {len(self.data) - self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def read(self, depth: int) -> Value:
        self.items += 1
        if self.items > CBOR_ITEMS_MAX:
            raise LimitError(f"{self.who or 'CBOR'}: at most {CBOR_ITEMS_MAX} values")
        start = self.at
        head = self.take(1)[0]
        major, info = head >> 5, head & 31
        if major == _SIMPLE:
            return self.read_simple(info, start)
        argument = self.read_argument(info, start)
        match major:
            case 0:
                return argument
            case 1:
                return -1 - argument
            case 2:
                return self.take(argument)
            case 3:
                try:
                    return self.take(argument).decode()
                except UnicodeDecodeError as error:
                    raise self.wrong(f"text is not UTF-8: {error.reason}", start) from None
            case 4 | 5:
                if depth >= CBOR_DEPTH_MAX:
                    raise LimitError(f"{self.who or 'CBOR'}: at most {CBOR_DEPTH_MAX} levels of arrays and maps")
                least = argument if major == _ARRAY else 2 * argument
                if least > len(self.data) - self.at:
                    raise self.wrong(f"expected {least} values, found {len(self.data) - self.at} bytes", start)
                if major == _ARRAY:
                    return [self.read(depth + 1) for _ in range(argument)]
                return self.read_map(argument, depth)
            case _:
                raise self.wrong(f"tags are not taken, found tag {argument}", start)

    def read_argument(self, info: int, start: int) -> int:
        if info < 24:
            return info
        if info not in _HEADS:
            raise self.wrong(f"indefinite and reserved lengths are not taken, found {info}", start)
        argument: int = struct.unpack(_HEADS[info], self.take(1 << info - 24))[0]
        if argument < _LEAST[info]:
            raise self.wrong(f"{argument} is not in its shortest form", start)
        return argument

    def read_simple(self, info: int, start: int) -> Value:
        if info in (20, 21, 22):
            return (False, True, None)[info - 20]
        if info not in _FLOATS:
            raise self.wrong(f"simple values other than false, true, null are not taken, found {info}", start)
        value: float = struct.unpack(_FLOATS[info], self.take(1 << info - 24))[0]
        if value != value or value in (float("inf"), float("-inf")):
            raise self.wrong("expected a finite number, found NaN or infinity", start)
        if len(_float(value)) != self.at - start:
            raise self.wrong(f"{value!r} is not in its shortest form", start)
        return value

    def read_map(self, count: int, depth: int) -> dict[str | int, Value]:
        found: dict[str | int, Value] = {}
        last = b""
        for _ in range(count):
            start = self.at
            key = self.read(depth + 1)
            if isinstance(key, bool) or not (isinstance(key, str) or (isinstance(key, int) and key >= 0)):
                raise self.wrong("map keys are text or integers from 0", start)
            encoded = self.data[start : self.at]
            if encoded <= last:
                raise self.wrong(f"map key {key!r:.60} is out of order or twice", start)
            last = encoded
            found[key] = self.read(depth + 1)
        return found
