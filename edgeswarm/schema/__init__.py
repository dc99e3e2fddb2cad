"""Turns a tree of plain values (parsed YAML, TOML, JSON, CBOR) into frozen dataclasses, and back.

Decides whether a tree fits a dataclass, and lists *every* fault with its path and line, not the first one only.
A field is one key.  Its type is one of: bool, int, float, str (or a NewType of them), Literal, a dataclass,
`tuple[X, ...]` (a list), `Mapping[str, X]` (a table with free keys), `X | None`, a union of dataclasses that differ in
their `type` key, or a union of plain types.  `Annotated[X, Range(..), Pattern(..), Length(..), Doc(..)]` narrows it.
A dataclass with a method `faults(self) -> Iterator[tuple[path, text]]` checks across its own keys; it is asked only
once every key of it is right by itself.

Invariants: unknown keys are faults; a missing key without default is a fault; NaN and infinity are never numbers; a
text holds neither NUL nor half a surrogate pair; everything has a bound; `decode(encode(x), type(x)) == x`.
Pure: no file, no clock, no third-party import.  Callers turn SchemaError into ConfigError or AgentFileError.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, is_dataclass
from typing import Any, Final, Literal, TypeVar, Union, cast

from edgeswarm.errors import LocalError
from edgeswarm.limits import FAULTS_MAX, TEXT_CHARS_MAX
from edgeswarm.schema.kinds import (
    NAMES,
    Doc,
    KeyRow,
    Length,
    Pattern,
    Range,
    closest,
    default,
    describe,
    key_path,
    keys_of,
    length,
    one_of,
    parent,
    peel,
    scalar_text,
    show,
    tagged,
    type_text,
)

__all__ = [
    "Doc",
    "Fault",
    "KeyRow",
    "Length",
    "Pattern",
    "Range",
    "SchemaError",
    "decode",
    "describe",
    "encode",
    "encode_whole",
    "fault_at",
    "key_path",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: `path` as in "wiring.sources[0].rate_hz", `line` 1-based where the text's lines are known."""

    path: str
    line: int | None
    text: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.path}: {self.text}" if self.path else f"{where}{self.text}"


class SchemaError(LocalError):
    """A tree does not fit; `faults` holds them all (FAULTS_MAX at most), `where` names the file."""

    def __init__(self, faults: Sequence[Fault], *, where: str = "") -> None:
        self.faults = list(faults)
        self.where = where
        shown = "\n".join(str(fault) for fault in self.faults)
        if len(self.faults) >= FAULTS_MAX:
            shown += "\n... and possibly more"
        super().__init__(f"{where}: {shown}" if where else shown)


def decode(tree: object, kind: type[T], *, where: str = "", lines: Mapping[str, int] | None = None) -> T:
    """`tree` (dicts, lists, plain values) as an instance of the dataclass `kind`.

    where: names the file in the error.  lines: path -> 1-based line; a path that is absent takes its parent's line.
    Raises SchemaError with all faults.
    """
    reader = _Reader(lines or {})
    value = reader.read("", tree, kind)
    if reader.faults:
        raise SchemaError(reader.faults, where=where)
    return cast(T, value)


def encode(value: object) -> dict[str, Any]:
    """The tree of the dataclass instance `value`: keys in field order, without what equals its default."""
    return _encode(value, whole=False)


def encode_whole(value: object) -> dict[str, Any]:
    """The same with every key, for people and for `--json`: also what equals its default."""
    return _encode(value, whole=True)


def fault_at(path: str, text: str, lines: Mapping[str, int]) -> Fault:
    """A fault with the line of `path`, or of the nearest parent whose line is known."""
    probe = path
    while probe and probe not in lines:
        probe = parent(probe)
    return Fault(path, lines.get(probe), text)


def _equal(left: object, right: object) -> bool:
    """Equal and of one type, so that -0.0, 0 and False stay what they are."""
    return type(left) is type(right) and left == right and repr(left) == repr(right)


def _encode(value: object, *, whole: bool) -> dict[str, Any]:
    assert is_dataclass(value) and not isinstance(value, type), f"encode wants a dataclass instance, found {value!r}"
    tree: dict[str, Any] = {}
    for key, (field, _) in keys_of(type(value)).items():
        item = getattr(value, field.name)
        if whole or field.name == "type" or not _equal(item, default(field)):
            tree[key] = _plain(item, whole=whole)
    return tree


def _plain(value: object, *, whole: bool) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _encode(value, whole=whole)
    if isinstance(value, Mapping):
        return {key: _plain(item, whole=whole) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, whole=whole) for item in value]
    return value


# --- reading --------------------------------------------------------------------------------------------------------

_BAD: Final = object()  # what a reader returns after it noted a fault


class _Reader:
    """Walks tree and type together and notes faults."""

    __slots__ = ("faults", "lines")

    def __init__(self, lines: Mapping[str, int]) -> None:
        self.faults: list[Fault] = []
        self.lines = lines

    def fault(self, path: str, text: str) -> object:
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(fault_at(path, text, self.lines))
        return _BAD

    def wrong(self, path: str, expected: str, found: object) -> object:
        return self.fault(path, f"expected {expected}, found {show(found)}")

    def read(self, path: str, tree: object, hint: Any) -> object:
        hint, notes = peel(hint)
        value = self.read_bare(path, tree, hint, notes)
        if value is _BAD or value is None:
            return value
        return self.narrow(path, value, notes)

    def read_bare(self, path: str, tree: object, hint: Any, notes: tuple[Any, ...]) -> object:
        origin = typing.get_origin(hint)
        if isinstance(hint, type) and is_dataclass(hint):
            return self.read_table(path, tree, hint)
        if origin is Literal:
            return self.read_choice(path, tree, typing.get_args(hint))
        if origin is Union or origin is types.UnionType:
            return self.read_union(path, tree, typing.get_args(hint))
        if origin is tuple:
            return self.read_list(path, tree, typing.get_args(hint)[0], notes)
        if origin is not None and issubclass(origin, Mapping):
            return self.read_mapping(path, tree, typing.get_args(hint)[1], notes)
        return self.read_scalar(path, tree, hint, notes)

    def read_scalar(self, path: str, tree: object, hint: Any, notes: tuple[Any, ...]) -> object:
        assert hint in NAMES, f"{path}: the schema cannot read the type {hint!r}"
        if hint is float and type(tree) is int:
            tree = float(tree) if abs(tree) <= 2**53 else tree  # past 2^53 a float is not that number any more
        if type(tree) is not hint or (isinstance(tree, float) and not math.isfinite(tree)):
            return self.wrong(path, scalar_text(hint, notes), tree)
        if isinstance(tree, str):
            if "\0" in tree or any("\ud800" <= char <= "\udfff" for char in tree):
                return self.wrong(path, "text without NUL and without half a surrogate pair", tree)
            if not any(isinstance(note, Length) for note in notes) and len(tree) > TEXT_CHARS_MAX:
                return self.fault(path, f"expected at most {TEXT_CHARS_MAX} characters, found {len(tree)}")
        return tree

    def read_choice(self, path: str, tree: object, choices: tuple[Any, ...]) -> object:
        for choice in choices:
            if type(tree) is type(choice) and tree == choice:
                return choice
        texts = [choice for choice in choices if isinstance(choice, str)]
        meant = closest(tree, texts) if len(choices) > 1 else ""
        return self.fault(path, f"expected {one_of(choices)}, found {show(tree)}{meant}")

    def read_union(self, path: str, tree: object, options: tuple[Any, ...]) -> object:
        if types.NoneType in options:
            if tree is None:
                return None
            options = tuple(option for option in options if option is not types.NoneType)
        if len(options) == 1:
            return self.read(path, tree, options[0])
        by_type = tagged(options)
        if by_type is not None:
            return self.read_tagged(path, tree, by_type)
        kept = self.faults
        for option in options:
            self.faults = []
            value = self.read(path, tree, option)
            clean, self.faults = not self.faults, kept
            if clean:
                return value
        return self.wrong(path, " or ".join(type_text(option) for option in options), tree)

    def read_tagged(self, path: str, tree: object, by_type: Mapping[str, type]) -> object:
        if not isinstance(tree, dict):
            return self.wrong(path, "a table with the key `type`", tree)
        if "type" not in tree:
            return self.fault(key_path(path, "type"), f"missing; expected {one_of(tuple(by_type))}")
        chosen = self.read_choice(key_path(path, "type"), tree["type"], tuple(by_type))
        return _BAD if chosen is _BAD else self.read_table(path, tree, by_type[cast(str, chosen)])

    def read_list(self, path: str, tree: object, item: Any, notes: tuple[Any, ...]) -> object:
        if not isinstance(tree, (list, tuple)):
            return self.wrong(path, "a list", tree)
        high = length(notes).high
        if len(tree) > high:
            return self.fault(path, f"expected at most {high} items, found {len(tree)}")
        items = [self.read(f"{path}[{index}]", value, item) for index, value in enumerate(tree)]
        return _BAD if any(value is _BAD for value in items) else tuple(items)

    def read_mapping(self, path: str, tree: object, item: Any, notes: tuple[Any, ...]) -> object:
        if not isinstance(tree, dict):
            return self.wrong(path, "a table of keys", tree)
        high = length(notes).high
        if len(tree) > high:
            return self.fault(path, f"expected at most {high} keys, found {len(tree)}")
        read: dict[str, object] = {}
        bad = False
        for key, value in tree.items():
            bad |= self.read_scalar(path, key, str, ()) is _BAD
            result = self.read(key_path(path, key), value, item)
            bad |= result is _BAD
            read[str(key)] = result
        return _BAD if bad else read

    def read_table(self, path: str, tree: object, kind: type) -> object:
        if not isinstance(tree, dict):
            return self.wrong(path, "a table of keys", tree)
        keys = keys_of(kind)
        before = len(self.faults)
        known = f"; known: {', '.join(keys)}"
        for name in tree:
            if not isinstance(name, str) or name not in keys:
                self.fault(key_path(path, name), "unknown key" + (closest(name, list(keys)) or known))
        values: dict[str, object] = {}
        for name, (field, hint) in keys.items():
            if name in tree:
                values[field.name] = self.read(key_path(path, name), tree[name], hint)
            elif default(field) is MISSING:
                self.fault(key_path(path, name), f"missing; expected {type_text(hint)}")
        if len(self.faults) > before or any(value is _BAD for value in values.values()):
            return _BAD
        built: Any = kind(**values)
        if hasattr(built, "faults"):
            crossed: Iterator[tuple[str, str]] = built.faults()
            for below, text in crossed:
                self.fault(f"{path}.{below}" if path and below else path or below, text)
        return _BAD if len(self.faults) > before else built

    def narrow(self, path: str, value: object, notes: tuple[Any, ...]) -> object:
        for note in notes:
            if isinstance(note, Range):
                number = cast(float, value)
                if (note.low is not None and number < note.low) or (note.high is not None and number > note.high):
                    return self.wrong(path, note.text(), value)
            elif isinstance(note, Pattern):
                if re.fullmatch(note.regex, cast(str, value)) is None:
                    return self.wrong(path, note.text(), value)
            elif isinstance(note, Length):
                size = len(cast("Sequence[object]", value))
                if not note.low <= size <= note.high:
                    what = "characters" if isinstance(value, str) else "items"
                    return self.fault(path, f"expected {note.text()} {what}, found {size}")
        return value
