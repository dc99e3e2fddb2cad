"""How a typed message becomes CBOR and back: an array `[kind, version, field, field, ...]` in the dataclass's order.

Decides whether an array is a message of a kind, and names the field that is wrong.  A field's type is one of bool, int,
float, str, bytes, Literal of texts, a record (a frozen dataclass; on the wire an array), `tuple[X, ...]`, `X | None`;
its Annotated notes bound it: Num, Chars, Size, Items.  Every int, text, byte string and list has a bound.

Versions: fields are only ever appended.  A message of a newer version is read as far as we know it and the rest is
passed over; a message of an older version lacks trailing fields, which then take their defaults.  A message of our
own version has exactly our fields.
Invariants: decode(encode(m)) == m; encode checks what decode checks, so that nobody sends what nobody takes.
Pure.  Who signed it was decided before.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, Union, dataclass_transform

from edgeswarm import limits
from edgeswarm.errors import CodecError, LocalError
from edgeswarm.wire import codec

T = TypeVar("T")


class MessageError(CodecError):
    """Bytes are not a message of the kind that was expected; the text names the field."""


class UnknownMessageError(MessageError):
    """A message of a kind that this version does not know: a newer peer, or not one of ours."""


# --- notes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Num:
    """Bounds of an int or a float, both inclusive."""

    low: float = 0
    high: float = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Chars:
    """Bounds of a text in characters; pattern: what it matches as a whole."""

    high: int
    low: int = 0
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Size:
    """Bounds of a byte string in bytes."""

    high: int
    low: int = 0


@dataclass(frozen=True, slots=True)
class Items:
    """Most items of a list."""

    high: int
    low: int = 0


Uint = Annotated[int, Num()]
Count = Annotated[int, Num(0, (1 << 32) - 1)]
Ms = Annotated[int, Num(0, limits.DEADLINE_MS_MAX)]
"""A span of time in milliseconds.  Never a time of day: clocks of devices are hours off."""
Real = Annotated[float, Num(-1.8e308, 1.8e308)]
Permille = Annotated[int, Num(0, 1_000_000)]
"""Thousandths: a load of 4 cores of work on 1 core is 4,000."""
DeviceId = Annotated[str, Chars(limits.DEVICE_ID_CHARS_MAX, 1, "[a-z0-9][a-z0-9-]*")]
CellName = Annotated[str, Chars(limits.FLEET_NAME_CHARS_MAX, 1, "[a-z0-9][a-z0-9-]*")]
AgentId = Annotated[str, Chars(64, 1, "[a-z][a-z0-9-]*")]
Word = Annotated[str, Chars(64, 1, "[a-zA-Z0-9][a-zA-Z0-9._:/-]*")]
"""A name in some list of names: a profile, a delegate, a method, a job."""
Line = Annotated[str, Chars(256)]
Text = Annotated[str, Chars(limits.TEXT_CHARS_MAX)]
Digest = Annotated[bytes, Size(32, 32)]
"""A SHA-256."""
Id16 = Annotated[bytes, Size(16, 16)]
"""A random number of 128 bits that names a request or a client."""


# --- kinds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spec:
    """What a kind of message is called on the wire, and the version that this code writes."""

    kind: str
    version: int
    bytes_max: int


MESSAGES: Final[dict[str, type[Any]]] = {}
"""Kind -> class, filled as the modules of this package are imported."""


class Message:
    """Base of every message; `SPEC` is set by the decorator `message`."""

    __slots__ = ()
    SPEC: ClassVar[Spec]


@dataclass_transform(frozen_default=True)
def message(kind: str, *, version: int = 1, bytes_max: int) -> Callable[[type[T]], type[T]]:
    """Class decorator: a frozen, slotted dataclass that is the message `kind`.  bytes_max: of its encoding."""

    def build(cls: type[T]) -> type[T]:
        made: Any = dataclass(frozen=True, slots=True)(cls)
        assert kind not in MESSAGES, f"two messages are called {kind}"
        made.SPEC = Spec(kind, version, bytes_max)
        MESSAGES[kind] = made
        return made  # type: ignore[no-any-return]

    return build


def encode(value: Message) -> bytes:
    """The encoding of a message.  Raises LocalError when a field is out of its bounds."""
    spec = value.SPEC
    row = _row(type(value))
    try:
        tree = row.plain(value, [spec.kind, spec.version])
    except _WrongError as error:
        raise LocalError(f"message {spec.kind}: {error}") from None
    data = codec.dumps(tree)
    if len(data) > spec.bytes_max:
        raise LocalError(f"message {spec.kind}: at most {spec.bytes_max} bytes, found {len(data)}")
    return data


def decode(data: bytes, *, who: str = "", kinds: tuple[type[Message], ...] = ()) -> Message:
    """The message in `data`.

    kinds: the classes that may come here; empty for any.  who: names the sender in errors.
    Raises UnknownMessageError, MessageError, LimitError.
    """
    bytes_max = max(kind.SPEC.bytes_max for kind in kinds) if kinds else limits.CBOR_BYTES_MAX
    tree = codec.loads(data, who=who, bytes_max=bytes_max)
    if not isinstance(tree, list) or len(tree) < 2 or type(tree[0]) is not str or type(tree[1]) is not int:
        raise MessageError("message: expected [kind, version, ...]", who=who)
    kind, version = tree[0], tree[1]
    found = MESSAGES.get(kind)
    if found is None:
        raise UnknownMessageError(f"message: kind {kind!r:.80} is not known here", who=who)
    if kinds and found not in kinds:
        expected = ", ".join(each.SPEC.kind for each in kinds)
        raise MessageError(f"message: expected {expected}, found {kind}", who=who)
    spec: Spec = found.SPEC
    if len(data) > spec.bytes_max:
        raise MessageError(f"message {kind}: at most {spec.bytes_max} bytes, found {len(data)}", who=who)
    if version < 1:
        raise MessageError(f"message {kind}: version: expected 1 or more, found {version}", who=who)
    try:
        value: Message = _row(found).typed(tree, 2, version - spec.version)
    except _WrongError as error:
        raise MessageError(f"message {kind} (version {version}): {error}", who=who) from None
    return value


# --- from hints to functions ----------------------------------------------------------------------------------------


class _WrongError(Exception):
    """A field is wrong; the path grows on the way up."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.path: list[str] = []

    def __str__(self) -> str:
        return f"{'.'.join(reversed(self.path))}: {self.text}" if self.path else self.text


def _wrong(expected: str, found: object) -> _WrongError:
    return _WrongError(f"expected {expected}, found {found!r:.60}")


Typed = Callable[[Any, int], Any]
"""(plain value, versions ahead of ours) -> checked value."""
Plain = Callable[[Any], Any]
_ROWS: Final[dict[type[Any], _Row]] = {}
"""Made when a class is first used: hints cost 100 us to read."""


@dataclass(frozen=True, slots=True)
class _Row:
    """The fields of one dataclass, as functions."""

    made: Callable[..., Any]
    names: tuple[str, ...]
    readers: tuple[Typed, ...]
    writers: tuple[Plain, ...]
    required: int  # fields without a default

    def typed(self, tree: list[Any], start: int, ahead: int) -> Any:
        """ahead: their version less ours: 0 the same, more a newer peer, less an older one."""
        known, found = len(self.readers), len(tree) - start
        least = self.required if ahead < 0 else known
        if found < least or (found > known and ahead <= 0):
            raise _WrongError(f"expected {known} fields, found {found}")
        values: list[Any] = []
        for at in range(min(known, found)):
            try:
                values.append(self.readers[at](tree[start + at], ahead))
            except _WrongError as error:
                error.path.append(self.names[at])
                raise
        return self.made(*values)

    def plain(self, value: Any, tree: list[Any]) -> list[Any]:
        for name, writer in zip(self.names, self.writers, strict=True):
            try:
                tree.append(writer(getattr(value, name)))
            except _WrongError as error:
                error.path.append(name)
                raise
        return tree


def _row(cls: type[Any]) -> _Row:
    row = _ROWS.get(cls)
    if row is None:
        row = _ROWS[cls] = _row_make(cls)
    return row


def _row_make(cls: type[Any]) -> _Row:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)
    pairs = [_compile(hints[field.name], f"{cls.__name__}.{field.name}") for field in fields]
    required = sum(1 for field in fields if field.default is dataclasses.MISSING)
    return _Row(cls, tuple(f.name for f in fields), tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), required)


def _compile(hint: Any, where: str) -> tuple[Typed, Plain]:
    notes: tuple[Any, ...] = ()
    if typing.get_origin(hint) is Annotated:
        notes = hint.__metadata__
        hint = hint.__origin__
    note = notes[-1] if notes else None
    origin = typing.get_origin(hint)
    if origin is Union or origin is types.UnionType:
        return _compile_optional(hint, where)
    if origin is tuple:
        assert isinstance(note, Items), f"{where}: a list needs a bound"
        return _compile_list(typing.get_args(hint)[0], note, where)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _compile_record(hint)
    check = _compile_scalar(hint, note, where)
    return (lambda value, _: check(value)), check


def _compile_scalar(hint: Any, note: Any, where: str) -> Plain:
    if typing.get_origin(hint) is Literal:
        return functools.partial(_check_choice, choices=frozenset(typing.get_args(hint)))
    if hint is bool:
        return _check_bool
    if hint in (int, float):
        assert isinstance(note, Num), f"{where}: a number needs bounds"
        if hint is float:
            return functools.partial(_check_float, low=note.low, high=note.high)
        return functools.partial(_check_int, low=int(note.low), high=int(note.high))
    if hint is bytes:
        assert isinstance(note, Size), f"{where}: a byte string needs a bound"
        return functools.partial(_check_bytes, low=note.low, high=note.high)
    assert hint is str and isinstance(note, Chars), f"{where}: no way to read {hint!r} with {note!r}"
    pattern = re.compile(note.pattern) if note.pattern else None
    return functools.partial(_check_text, low=note.low, high=note.high, pattern=pattern)


def _compile_optional(hint: Any, where: str) -> tuple[Typed, Plain]:
    options = [option for option in typing.get_args(hint) if option is not types.NoneType]
    assert len(options) == 1, f"{where}: a union other than X | None"
    typed, plain = _compile(options[0], where)
    return (
        lambda value, ahead: None if value is None else typed(value, ahead),
        lambda value: None if value is None else plain(value),
    )


def _compile_list(item: Any, note: Items, where: str) -> tuple[Typed, Plain]:
    typed, plain = _compile(item, where)

    def bound(values: Any, kind: type[Any], name: str) -> None:
        if type(values) is not kind:
            raise _wrong(name, values)
        if not note.low <= len(values) <= note.high:
            raise _WrongError(f"expected {note.low} to {note.high} items, found {len(values)}")

    def read(values: Any, ahead: int) -> tuple[Any, ...]:
        bound(values, list, "a list")
        made: list[Any] = []
        try:
            for value in values:
                made.append(typed(value, ahead))
        except _WrongError as error:
            error.path.append(f"[{len(made)}]")
            raise
        return tuple(made)

    def write(values: Any) -> list[Any]:
        bound(values, tuple, "a tuple")
        made: list[Any] = []
        try:
            for value in values:
                made.append(plain(value))
        except _WrongError as error:
            error.path.append(f"[{len(made)}]")
            raise
        return made

    return read, write


def _compile_record(cls: type[Any]) -> tuple[Typed, Plain]:
    row = _row(cls)

    def read(value: Any, ahead: int) -> Any:
        if type(value) is not list:
            raise _wrong("a list of fields", value)
        return row.typed(value, 0, ahead)

    def write(value: Any) -> Any:
        if type(value) is not cls:
            raise _wrong(cls.__name__, value)
        return row.plain(value, [])

    return read, write


def _check_bool(value: Any) -> Any:
    if type(value) is not bool:
        raise _wrong("true or false", value)
    return value


def _check_int(value: Any, *, low: int, high: int) -> Any:
    if type(value) is not int or not low <= value <= high:
        raise _wrong(f"a whole number from {low} to {high}", value)
    return value


def _check_float(value: Any, *, low: float, high: float) -> Any:
    """On the wire a whole number is a float too: 1.0 is written as f9 3c00 and stays a float."""
    if type(value) is not float or not math.isfinite(value) or not low <= value <= high:
        raise _wrong(f"a float from {low} to {high}", value)
    return value


def _check_bytes(value: Any, *, low: int, high: int) -> Any:
    if type(value) is not bytes or not low <= len(value) <= high:
        raise _wrong(f"{low} to {high} bytes", value)
    return value


def _check_text(value: Any, *, low: int, high: int, pattern: re.Pattern[str] | None) -> Any:
    if type(value) is not str or not low <= len(value) <= high:
        raise _wrong(f"text of {low} to {high} characters", value)
    if pattern is not None and pattern.fullmatch(value) is None:
        raise _wrong(f"text that matches {pattern.pattern}", value)
    return value


def _check_choice(value: Any, *, choices: frozenset[str]) -> Any:
    if type(value) is not str or value not in choices:
        raise _wrong(" or ".join(sorted(choices)), value)
    return value
