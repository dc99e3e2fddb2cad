"""YAML of an agent file's header: text to a plain tree whose lines are known, and a plain tree to text.

Reads a small part of YAML 1.2: one document of tables, lists and scalars; scalars by the core schema (10.3.2), so `no`
is a text and `1e3` a number.  Anchors, aliases, tags, directives and second documents are refused: they make one text
mean several things, or a short text mean a huge tree.  PyYAML's events are used, not its composer, which recurses.
Writes one form only, so that the same tree gives the same bytes on every machine and with every PyYAML.
Invariants: parse(emit(tree)).tree == tree; nesting, nodes and numbers have bounds; no text is executed or resolved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgeswarm.errors import AgentFileError, LimitError
from edgeswarm.limits import AF_YAML_DEPTH_MAX, AF_YAML_NODES_MAX
from edgeswarm.schema import key_path

_NULL: Final = re.compile(r"~|null|Null|NULL|")
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]+")
_OCTAL: Final = re.compile(r"0o[0-7]+")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NUMBER_CHARS_MAX = 64  # of one number: 17 digits, sign and exponent make a double; Python's int() is quadratic


@dataclass(frozen=True, slots=True)
class Parsed:
    """A tree of dicts, lists and scalars.  lines: path (as `schema` writes it) -> 1-based line of the file."""

    tree: Any
    lines: Mapping[str, int]


def parse(text: str, *, who: str, first_line: int = 1) -> Parsed:
    """The one document in `text`, whose first line is the file's line `first_line`.

    Raises AgentFileError with the line, LimitError past AF_YAML_DEPTH_MAX or AF_YAML_NODES_MAX.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        events = loader(text)
        try:
            return _Composer(events, who, first_line).document()
        finally:
            events.dispose()
    except yaml.reader.ReaderError as error:
        line = first_line + text.count("\n", 0, error.position)
        raise AgentFileError(f"YAML: {error.reason}", who=who, line=line) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = first_line + (min(mark.line, text.count("\n")) if mark is not None else 0)
        raise AgentFileError(f"YAML: {error.problem or error.context}", who=who, line=line) from None
    except ValueError as error:  # PyYAML without libyaml: an escape past U+10FFFF
        raise AgentFileError(f"YAML: {error}", who=who, line=first_line) from None


class _Composer:
    """Takes the loader's events one by one and builds the tree."""

    __slots__ = ("events", "first_line", "lines", "nodes", "who")

    def __init__(self, events: Any, who: str, first_line: int) -> None:
        self.events = events
        self.who = who
        self.first_line = first_line
        self.lines: dict[str, int] = {}
        self.nodes = 0

    def line(self, event: Any) -> int:
        return self.first_line + int(event.start_mark.line)

    def wrong(self, text: str, event: Any) -> AgentFileError:
        return AgentFileError(f"YAML: {text}", who=self.who, line=self.line(event))

    def document(self) -> Parsed:
        import yaml

        self.events.get_event()  # StreamStart
        event = self.events.get_event()
        if isinstance(event, yaml.StreamEndEvent):
            raise self.wrong("expected a table of keys, found nothing", event)
        if event.version is not None or event.tags:
            raise self.wrong("directives are not taken", event)
        tree = self.node("", 0, self.first_line)
        self.events.get_event()  # DocumentEnd
        event = self.events.get_event()
        if not isinstance(event, yaml.StreamEndEvent):
            raise self.wrong("expected one document, found a second", event)
        return Parsed(tree, self.lines)

    def node(self, path: str, depth: int, line: int, event: Any = None) -> Any:
        """The value that begins with `event` (or with the next one).  line: what `lines` says for `path`."""
        import yaml

        event = event or self.events.get_event()
        self.nodes += 1
        if self.nodes > AF_YAML_NODES_MAX:
            raise LimitError(f"{self.who}: line {self.line(event)}: at most {AF_YAML_NODES_MAX} keys and values")
        if isinstance(event, yaml.AliasEvent):
            raise self.wrong(f"aliases are not taken, found *{event.anchor:.60}", event)
        if event.anchor is not None:
            raise self.wrong(f"anchors are not taken, found &{event.anchor:.60}", event)
        if event.tag is not None:
            raise self.wrong(f"tags are not taken, found {event.tag:.60}", event)
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if depth >= AF_YAML_DEPTH_MAX:
            raise LimitError(
                f"{self.who}: line {self.line(event)}: at most {AF_YAML_DEPTH_MAX} levels of tables and lists"
            )
        if isinstance(event, yaml.SequenceStartEvent):
            return list(self.items(path, depth, line))
        return self.table(path, depth)

    def items(self, path: str, depth: int, line: int) -> Iterator[Any]:
        import yaml

        index = 0
        while not isinstance(event := self.events.get_event(), yaml.SequenceEndEvent):
            below, here = f"{path}[{index}]", self.line(event)
            if here != line:  # else the list's own line says it: a long vector costs no entries
                self.lines[below] = here
            yield self.node(below, depth + 1, here, event)
            index += 1

    def table(self, path: str, depth: int) -> dict[Any, Any]:
        import yaml

        found: dict[Any, Any] = {}
        seen: dict[Any, int] = {}
        while not isinstance(event := self.events.get_event(), yaml.MappingEndEvent):
            line = self.line(event)
            if not isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
                raise self.wrong("expected a key, found a table or a list", event)
            key = self.node(path, depth, line, event)
            if key in seen:
                raise self.wrong(f"the key {key!r:.80} is there twice, first in line {seen[key]}", event)
            seen[key] = line
            below = key_path(path, key)
            self.lines[below] = line
            found[key] = self.node(below, depth + 1, line)
        return found

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if not event.implicit[0]:  # quoted, or a block
            return text
        if _NULL.fullmatch(text):
            return None
        if text in _BOOL:
            return _BOOL[text]
        if text[0] not in "-+.0123456789":
            return text
        is_int, is_float = _INT.fullmatch(text), _FLOAT.fullmatch(text)
        octal, hexadecimal = _OCTAL.fullmatch(text), _HEX.fullmatch(text)
        if not (is_int or is_float or octal or hexadecimal):
            return float(text.lstrip("+").replace(".", "", 1)) if _NOT_FINITE.fullmatch(text) else text
        if len(text) > _NUMBER_CHARS_MAX:
            raise self.wrong(f"a number has at most {_NUMBER_CHARS_MAX} characters, found {len(text)}", event)
        if is_int:
            return int(text)
        if is_float:
            return float(text)
        return int(text[2:], 8 if octal else 16)


# --- writing --------------------------------------------------------------------------------------------------------

_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./+-]*")
_RESERVED: Final = frozenset("null true false yes no on off y n".split())  # also to readers of YAML 1.1
_UNPRINTABLE: Final = re.compile(
    '["\\\\]|[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]'
)


def emit(tree: Mapping[str, Any]) -> str:
    """`tree` as YAML, ending in a newline: tables as blocks, lists of scalars in one line."""
    return "".join(f"{line}\n" for line in _table(tree))


def _table(tree: Mapping[str, Any]) -> Iterator[str]:
    for key, value in tree.items():
        name = _text(key)
        if isinstance(value, Mapping) and value:
            yield f"{name}:"
            yield from (f"  {line}" for line in _table(value))
        elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
            yield f"{name}:"
            for item in value:
                assert isinstance(item, Mapping), f"{key}: a list holds tables or scalars"
                first, *rest = _table(item)
                yield f"  - {first}"
                yield from (f"    {line}" for line in rest)
        else:
            yield f"{name}: {_flow(value)}"


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_flow(item) for item in value)}]"
    if isinstance(value, Mapping):
        assert not value, "tables are written as blocks"
        return "{}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")  # YAML 1.1 wants the point
    return str(value) if isinstance(value, int) else _text(value)


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    return f'"{_UNPRINTABLE.sub(_escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char in '"\\':
        return f"\\{char}"
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char)
    return named or (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")
