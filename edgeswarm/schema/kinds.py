"""What a field's type may say (Range, Pattern, Length, Doc), how such types are taken apart, and their words.

Leaves the walk through a tree to `edgeswarm.schema`.  Pure.
"""

from __future__ import annotations

import functools
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any, Final, Literal, Union, cast

from edgeswarm.limits import LIST_ITEMS_MAX

NAMES: Final = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, both inclusive; None leaves that side open.  `unit` is for people: "MB", "Hz", "ms"."""

    low: float | None = None
    high: float | None = None
    unit: str = ""

    def text(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.low is None:
            return f"at most {self.high}{unit}" if self.high is not None else f"any{unit}"
        return f"at least {self.low}{unit}" if self.high is None else f"{self.low} to {self.high}{unit}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text must match `regex` as a whole; `meaning` says so in words: "a name: a-z, 0-9, -"."""

    regex: str
    meaning: str = ""

    def text(self) -> str:
        return self.meaning or f"text that matches {self.regex}"


@dataclass(frozen=True, slots=True)
class Length:
    """Bounds of a text (characters), a list (items) or a table (keys), both inclusive."""

    low: int = 0
    high: int = LIST_ITEMS_MAX

    def text(self) -> str:
        return f"{self.low} to {self.high}" if self.low else f"at most {self.high}"


@dataclass(frozen=True, slots=True)
class Doc:
    """One sentence on what a key means; the tables in docs/ are made from it."""

    text: str


# --- types ----------------------------------------------------------------------------------------------------------


@functools.cache
def keys_of(kind: type) -> dict[str, tuple[Field[Any], Any]]:
    """Key -> (field, its resolved type); `field(metadata={"key": "from"})` renames a key that Python cannot spell."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.metadata.get("key", field.name): (field, hints[field.name]) for field in fields(cast(Any, kind))}


def peel(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type inside Annotated and NewType, and all notes on the way."""
    notes: tuple[Any, ...] = ()
    while True:
        if typing.get_origin(hint) is Annotated:
            hint, *more = typing.get_args(hint)
            notes += tuple(more)
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        else:
            return hint, notes


def tagged(options: tuple[Any, ...]) -> dict[str, type] | None:
    """`type` value -> dataclass, when every option is a dataclass with a Literal `type`; else None."""
    found: dict[str, type] = {}
    for option in options:
        if not (isinstance(option, type) and is_dataclass(option) and "type" in keys_of(option)):
            return None
        hint, _ = peel(keys_of(option)["type"][1])
        found.update(dict.fromkeys(typing.get_args(hint), option))
    return found


def default(field: Field[Any]) -> object:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def length(notes: tuple[Any, ...]) -> Length:
    return next((note for note in notes if isinstance(note, Length)), Length())


# --- words ----------------------------------------------------------------------------------------------------------


def show(value: object) -> str:
    """`value` for an error text: its kind where that says more, at most 60 characters."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"a table of {len(value)} keys"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = repr(value[:64] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def show_key(key: object) -> str:
    """A key for a path: as written when it is plain, else as `show` puts it."""
    return key if isinstance(key, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key) else show(key)


def type_text(hint: Any) -> str:
    """A type in words, as error texts and the tables of docs/ put it."""
    hint, notes = peel(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return one_of(arguments)
    if origin is Union or origin is types.UnionType:
        rest = [option for option in arguments if option is not types.NoneType]
        by_type = tagged(tuple(rest))
        return f"a table of type {', '.join(by_type)}" if by_type else " or ".join(type_text(option) for option in rest)
    if origin is tuple:
        return f"a list of {length(notes).text()} items, each {type_text(arguments[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return f"a table of {length(notes).text()} keys, each {type_text(arguments[1])}"
    return scalar_text(hint, notes) if hint in NAMES else "a table of keys"


def scalar_text(hint: Any, notes: tuple[Any, ...]) -> str:
    for note in notes:
        if isinstance(note, Range):
            return f"{NAMES[hint]}, {note.text()}"
        if isinstance(note, Pattern):
            return note.text()
    bound = next((note for note in notes if isinstance(note, Length)), None)
    return f"{NAMES[hint]}, {bound.text()} characters" if bound else NAMES[hint]


def one_of(choices: Sequence[object]) -> str:
    words = [_choice(choice) for choice in choices]
    return words[0] if len(words) == 1 else f"one of {', '.join(words)}"


def _choice(choice: object) -> str:
    """A choice as it is written; a text that looks like a number, in quotes."""
    if isinstance(choice, str):
        return f'"{choice}"' if choice[:1].isdigit() else choice
    return repr(choice).lower()


def closest(found: object, known: Sequence[str]) -> str:
    """What to add to "found x": the word that was probably meant, if one is close."""
    import difflib  # only errors need it

    close = difflib.get_close_matches(found[:64], known, n=1) if isinstance(found, str) else []
    return f"; did you mean {close[0]}?" if close else ""


def key_path(path: str, key: object) -> str:
    """The path of `key` below `path`: what a `lines` map must be keyed by."""
    shown = show_key(key)
    return f"{path}.{shown}" if path else shown


def parent(path: str) -> str:
    cut = max(path.rfind("."), path.rfind("["))
    return path[:cut] if cut > 0 else ""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key of a dataclass for the tables in docs/: `default` is "" for a required key."""

    path: str
    kind: str
    default: str
    text: str


def describe(kind: type, path: str = "") -> Iterator[KeyRow]:
    """Every key below the dataclass `kind`, in order, its own row first and then its keys."""
    for key, (field, hint) in keys_of(kind).items():
        here = key_path(path, key)
        bare, notes = peel(hint)
        text = next((note.text for note in notes if isinstance(note, Doc)), "")
        yield KeyRow(here, type_text(hint), default_text(default(field)), text)
        yield from _describe_below(bare, here)


def _describe_below(bare: Any, path: str) -> Iterator[KeyRow]:
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    if isinstance(bare, type) and is_dataclass(bare):
        yield from describe(bare, path)
    elif origin is tuple:
        yield from _describe_below(peel(arguments[0])[0], f"{path}[]")
    elif origin is Union or origin is types.UnionType:
        by_type = tagged(tuple(option for option in arguments if option is not types.NoneType))
        for option in arguments:
            label = "|".join(tag for tag, kind in (by_type or {}).items() if kind is option)
            yield from _describe_below(peel(option)[0], f"{path}({label})" if label else path)


def default_text(value: object) -> str:
    """A default in words, "" for a required key."""
    if value is MISSING:
        return ""
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{}" if not value else "its defaults"
    return "its defaults" if is_dataclass(value) else str(value) or '""'
