"""Readers of plain CBOR values: each takes one value and returns the typed one, or raises CodecError.

A record is an array of its fields in their order, no more and no fewer: two versions of the program must never read
one entry in two ways, so what is new is a new kind of command (see `commands`), not a longer array.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any, TypeVar

from edgeswarm.errors import CodecError
from edgeswarm.ids import NAME_PATTERN
from edgeswarm.limits import WHO_BYTES_MAX, WHY_BYTES_MAX

T = TypeVar("T")
E = TypeVar("E", bound=IntEnum)
Reader = Callable[[Any], T]

DEVICE_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
UINT_MAX = (1 << 63) - 1  # what SQLite and every CBOR reader hold


def uint(most: int = UINT_MAX, least: int = 0) -> Reader[int]:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise CodecError(f"expected an integer from {least} to {most}, found {_show(value)}")
        return value

    return read


def flag(value: Any) -> bool:
    if type(value) is not bool:
        raise CodecError(f"expected true or false, found {_show(value)}")
    return value


def text(bytes_max: int) -> Reader[str]:
    """bytes_max: of its UTF-8."""

    def read(value: Any) -> str:
        if type(value) is not str or len(value.encode()) > bytes_max or "\0" in value:
            raise CodecError(f"expected a text of at most {bytes_max} bytes without NUL, found {_show(value)}")
        return value

    return read


def pattern(rule: re.Pattern[str], what: str, *, or_empty: bool = False) -> Reader[str]:
    def read(value: Any) -> str:
        if type(value) is not str or not (rule.fullmatch(value) or (or_empty and not value)):
            raise CodecError(f"expected {what}, found {_show(value)}")
        return value

    return read


def choice(*texts: str) -> Reader[str]:
    def read(value: Any) -> str:
        if type(value) is not str or value not in texts:
            raise CodecError(f"expected one of {', '.join(texts)}, found {_show(value)}")
        return value

    return read


def blob(bytes_max: int) -> Reader[bytes]:
    def read(value: Any) -> bytes:
        if type(value) is not bytes or len(value) > bytes_max:
            raise CodecError(f"expected at most {bytes_max} bytes, found {_show(value)}")
        return value

    return read


def digest(value: Any) -> bytes:
    """A SHA-256, 32 bytes."""
    if type(value) is not bytes or len(value) != 32:
        raise CodecError(f"expected the 32 bytes of a SHA-256, found {_show(value)}")
    return value


def digest_or_empty(value: Any) -> bytes:
    return b"" if value == b"" and type(value) is bytes else digest(value)


def exactly(size: int, what: str) -> Reader[bytes]:
    def read(value: Any) -> bytes:
        if type(value) is not bytes or len(value) != size:
            raise CodecError(f"expected the {size} bytes of a {what}, found {_show(value)}")
        return value

    return read


def optional(reader: Reader[T]) -> Reader[T | None]:
    def read(value: Any) -> T | None:
        return None if value is None else reader(value)

    return read


def many(reader: Reader[T], items_max: int, items_min: int = 0) -> Reader[tuple[T, ...]]:
    def read(value: Any) -> tuple[T, ...]:
        if type(value) is not list or not items_min <= len(value) <= items_max:
            raise CodecError(f"expected a list of {items_min} to {items_max} items, found {_show(value)}")
        return tuple([reader(item) for item in value])

    return read


def ascending(reader: Reader[T], items_max: int) -> Reader[tuple[T, ...]]:
    """A set: each item once, in rising order, so that one set has one encoding."""
    listed = many(reader, items_max)

    def read(value: Any) -> tuple[T, ...]:
        found = listed(value)
        if any(not a < b for a, b in pairwise(found)):  # type: ignore[operator]
            raise CodecError(f"expected items in rising order, each once, found {_show(value)}")
        return found

    return read


def as_set(reader: Reader[str], items_max: int) -> Reader[tuple[str, ...]]:
    """A set as somebody listed it: read in rising order, each item once."""
    listed = many(reader, items_max)

    def read(value: Any) -> tuple[str, ...]:
        return tuple(sorted(set(listed(value))))

    return read


def enum(kind: type[E]) -> Reader[E]:
    values = {int(member): member for member in kind}

    def read(value: Any) -> E:
        if type(value) is not int or value not in values:
            raise CodecError(f"expected one of {sorted(values)}, found {_show(value)}")
        return values[value]

    return read


def record(make: Callable[..., T], *readers: Reader[Any]) -> Reader[T]:
    """An array with one item for each reader."""
    count = len(readers)

    def read(value: Any) -> T:
        if type(value) is not list or len(value) != count:
            raise CodecError(f"expected an array of {count} items, found {_show(value)}")
        return make(*[reader(item) for reader, item in zip(readers, value, strict=True)])

    return read


def plain(value: Any) -> Any:
    """The arrays that `record` reads back: dataclasses and tuples become lists, enums become integers."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, IntEnum):
        return int(value)
    if is_dataclass(value):
        return [plain(getattr(value, field.name)) for field in fields(value)]
    return value


device_id = pattern(DEVICE_PATTERN, "an id of 1 to 63 characters a-z, 0-9, -")
job_id = device_id
agent_id = pattern(NAME_PATTERN, "a name of 1 to 64 characters a-z, 0-9, -, a letter first")
agent_id_or_empty = pattern(NAME_PATTERN, "an agent's name or nothing", or_empty=True)
device_id_or_empty = pattern(DEVICE_PATTERN, "a device's id or nothing", or_empty=True)
who = text(WHO_BYTES_MAX)
why = text(WHY_BYTES_MAX)


def _show(value: Any) -> str:
    if isinstance(value, list | bytes):
        return f"{type(value).__name__} of {len(value)}"
    return repr(value)[:60]
