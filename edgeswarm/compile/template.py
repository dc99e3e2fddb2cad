"""The language of the files in `wasm_kernels/`: WebAssembly text with whole-number parameters, loops and choices.

    @{K * 4}                       a whole-number expression, or a name that stands for text
    @[0.5]                         the same constant in four lanes: (v128.const f32x4 0.5 0.5 0.5 0.5)
    ;;@ for v in 0..panel          the lines up to `;;@ end`, with v = 0, 1, ... panel - 1
    ;;@ if u < unroll - 1          the lines up to `;;@ end` (or `;;@ else`) if it holds
    ;;@ define step                the lines up to `;;@ end`, for `;;@ use step` in this file
    ;;@ use relu a=a@{v} k=@{2*v}  the lines of a `define`, or of another template, with further parameters
    ;; ...                         a comment, dropped

Templates are ours and shipped; their bounds guard against a slip, not against an enemy.  Faults are LocalErrors that
name the template and the line.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType

from edgeswarm.errors import LocalError
from edgeswarm.limits import KERNEL_WASM_BYTES_MAX

Value = int | str
_PIECE = re.compile(r"@\{([^{}]*)\}|@\[([^\[\]]*)\]")
_WORD = re.compile(r"(?:@\{[^{}]*\}|\S)+")
_FOR = re.compile(r"(\w+) in (.+)\.\.(.+)")
_DEPTH_MAX = 8  # uses inside uses: today's deepest chain is 3
_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Add, ast.Sub,
    ast.Mult, ast.FloorDiv, ast.Mod, ast.USub, ast.Not, ast.And, ast.Or, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt,
    ast.GtE,
)  # fmt: skip


@dataclass(slots=True)
class _Text:
    pieces: list[str | CodeType]


@dataclass(slots=True)
class _For:
    name: str
    low: CodeType
    high: CodeType
    body: list[_Node]


@dataclass(slots=True)
class _If:
    test: CodeType
    then: list[_Node]
    otherwise: list[_Node]


@dataclass(slots=True)
class _Use:
    name: _Text
    arguments: list[tuple[str, _Text]]


_Node = _Text | _For | _If | _Use


@dataclass(slots=True)
class Template:
    """One parsed template: `Template.parse(name, source)`, then `render`."""

    name: str
    body: list[_Node]
    defines: dict[str, list[_Node]] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str, source: str) -> Template:
        """Raises LocalError naming the line that does not parse."""
        template = cls(name, [])
        lines = iter(enumerate(source.splitlines(), start=1))
        template.body, _ = template._block(lines, closing=())
        return template

    def render(self, values: Mapping[str, Value], find: Callable[[str], Template]) -> str:
        """The text with `values` put in; `find` gives the template of a `use`.  Raises LocalError."""
        out: list[str] = []
        self._emit(self.body, dict(values), find, out, 0)
        text = "\n".join(out)
        if len(text) > KERNEL_WASM_BYTES_MAX:
            raise LocalError(
                f"template {self.name}: at most {KERNEL_WASM_BYTES_MAX} bytes of text (KERNEL_WASM_BYTES_MAX)"
            )
        return text

    def _emit(
        self, body: list[_Node], values: dict[str, Value], find: Callable[[str], Template], out: list[str], depth: int
    ) -> None:
        for node in body:
            match node:
                case _Text():
                    out.append(self._fill(node, values))
                case _For():
                    inner = dict(values)
                    for value in range(self._number(node.low, values), self._number(node.high, values)):
                        inner[node.name] = value
                        self._emit(node.body, inner, find, out, depth)
                case _If():
                    branch = node.then if self._value(node.test, values) else node.otherwise
                    self._emit(branch, values, find, out, depth)
                case _Use():
                    if depth >= _DEPTH_MAX:
                        raise LocalError(f"template {self.name}: more than {_DEPTH_MAX} uses inside each other")
                    name = self._fill(node.name, values)
                    inner = values | {key: _number_or_text(self._fill(text, values)) for key, text in node.arguments}
                    if name in self.defines:
                        self._emit(self.defines[name], inner, find, out, depth + 1)
                    else:
                        other = find(name)
                        other._emit(other.body, inner, find, out, depth + 1)

    def _fill(self, text: _Text, values: Mapping[str, Value]) -> str:
        return "".join(piece if isinstance(piece, str) else str(self._value(piece, values)) for piece in text.pieces)

    def _value(self, code: CodeType, values: Mapping[str, Value]) -> Value:
        try:
            value = eval(code, {"__builtins__": {}}, dict(values))  # only the nodes of _NODES get this far
        except (NameError, TypeError, ZeroDivisionError) as error:
            raise LocalError(f"template {self.name}: @{{{code.co_filename}}}: {error}") from None
        return int(value) if isinstance(value, bool) else value

    def _number(self, code: CodeType, values: Mapping[str, Value]) -> int:
        value = self._value(code, values)
        if not isinstance(value, int):
            raise LocalError(f"template {self.name}: {code.co_filename}: expected a whole number, found {value!r}")
        return value

    def _block(self, lines: Iterator[tuple[int, str]], closing: tuple[str, ...]) -> tuple[list[_Node], str]:
        """Nodes up to one of the `closing` words (or the end of the file), and that word."""
        nodes: list[_Node] = []
        for number, raw in lines:
            line = raw.strip()
            if not line.startswith(";;@"):
                if line and not line.startswith(";;"):
                    nodes.append(self._text(line, number))
                continue
            word, _, rest = line[3:].strip().partition(" ")
            if word in closing:
                return nodes, word
            if word == "for" and (found := _FOR.fullmatch(rest)):
                low, high = self._code(found[2], number), self._code(found[3], number)
                nodes.append(_For(found[1], low, high, self._block(lines, ("end",))[0]))
            elif word == "if":
                test = self._code(rest, number)
                then, last = self._block(lines, ("else", "end"))
                nodes.append(_If(test, then, self._block(lines, ("end",))[0] if last == "else" else []))
            elif word == "define" and rest:
                self.defines[rest] = self._block(lines, ("end",))[0]
            elif word == "use" and rest:
                name, *pairs = _WORD.findall(rest)
                arguments = [pair.partition("=") for pair in pairs]
                nodes.append(
                    _Use(self._text(name, number), [(key, self._text(value, number)) for key, _, value in arguments])
                )
            else:
                raise LocalError(f"template {self.name}, line {number}: {line!r} is no directive here")
        if closing:
            raise LocalError(f"template {self.name}: expected `;;@ {closing[-1]}`, found the end of the file")
        return nodes, ""

    def _text(self, line: str, number: int) -> _Text:
        pieces: list[str | CodeType] = []
        at = 0
        for found in _PIECE.finditer(line):
            pieces.append(line[at : found.start()])
            if found[1] is not None:
                pieces.append(self._code(found[1], number))
            else:
                pieces.append("(v128.const f32x4" + f" {found[2]}" * 4 + ")")
            at = found.end()
        pieces.append(line[at:])
        return _Text([piece for piece in pieces if piece != ""])

    def _code(self, expression: str, number: int) -> CodeType:
        expression = expression.strip()
        try:
            tree = ast.parse(expression, mode="eval")
        except (SyntaxError, ValueError, RecursionError) as error:
            raise LocalError(f"template {self.name}, line {number}: {expression!r}: {error}") from None
        for node in ast.walk(tree):
            constant = isinstance(node, ast.Constant) and not isinstance(node.value, int | str)
            if constant or not isinstance(node, _NODES):
                raise LocalError(f"template {self.name}, line {number}: {expression!r} is more than whole numbers")
        return compile(tree, expression, "eval")


def _number_or_text(text: str) -> Value:
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else text
