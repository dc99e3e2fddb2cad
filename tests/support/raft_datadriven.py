"""Reads data-driven test files: a command line, input lines, `----`, the expected output, a blank line.

    # a comment
    command 1 2 key=value other=(a, b)
    input
    ----
    expected output

An output with blank lines in it stands between `----` `----` twice.  This is the language of etcd's raft data
(quorum, confchange, interaction), read from its files; nothing is executed here.
Also finds those files: EDGESWARM_RAFT_TRANSCRIPTS names a directory of transcripts; EDGESWARM_TEST_DATA, or the
folder `shared/data` beside the checkout, holds `etcd-raft/{quorum,confchange,interaction}`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEPARATOR = "----"
_ARGUMENT = re.compile(r"\s*(?P<key>[^\s=()]+)(?:=(?:\((?P<list>[^()]*)\)|(?P<value>[^\s()]*)))?(?=\s|$)")


class TranscriptError(Exception):
    """A file does not read; the text names file and line."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a file.

    args: key -> its values; a bare word has none.  bare: the bare words, in order.  expected: output lines.
    span: where the output stands in the file, with its separators: line numbers from 0, the last one excluded.
    """

    file: Path
    line: int  # of the command, from 1
    name: str
    args: dict[str, tuple[str, ...]]
    bare: tuple[str, ...]
    input: tuple[str, ...]
    expected: tuple[str, ...]
    span: tuple[int, int]

    @property
    def where(self) -> str:
        """file:line, as editors read it."""
        return f"{self.file}:{self.line}"


def parse_file(path: Path) -> list[Command]:
    """Every command of a file, in order.  Raises TranscriptError."""
    lines = path.read_text(encoding="utf-8").split("\n")
    commands: list[Command] = []
    at = 0
    while at < len(lines):
        text = lines[at].strip()
        at += 1
        if not text or text.startswith("#"):
            continue
        start = at
        while text.endswith("\\") and at < len(lines):  # a command may go on in the next line
            text = f"{text[:-1].strip()} {lines[at].strip()}"
            at += 1
        name, args, bare = parse_command(text, f"{path}:{start}")
        input_lines: list[str] = []
        while at < len(lines) and lines[at].strip() != SEPARATOR:
            input_lines.append(lines[at].strip())
            at += 1
        if at == len(lines):
            raise TranscriptError(
                f"{path}:{start}: expected `{SEPARATOR}` after the command, found the end of the file"
            )
        begin = at
        expected, at = _expected(lines, at + 1, f"{path}:{start}")
        while input_lines and not input_lines[-1]:
            input_lines.pop()
        commands.append(Command(path, start, name, args, bare, tuple(input_lines), expected, (begin, at)))
    return commands


def rewrite(path: Path, outputs: list[tuple[str, ...]]) -> None:
    """Puts new outputs, one a command, into a file; the rest of it stays."""
    lines = path.read_text(encoding="utf-8").split("\n")
    for command, output in reversed(list(zip(parse_file(path), outputs, strict=True))):
        twice = any(not line.strip() for line in output)
        head = [SEPARATOR, SEPARATOR] if twice else [SEPARATOR]
        lines[slice(*command.span)] = [*head, *output, *([SEPARATOR, SEPARATOR] if twice else [])]
    path.write_text("\n".join(lines), encoding="utf-8")


def _expected(lines: list[str], at: int, where: str) -> tuple[tuple[str, ...], int]:
    """(output lines, index of the line behind them)."""
    begin = at
    if at < len(lines) and lines[at].strip() == SEPARATOR:
        begin = at = at + 1
        while at + 1 < len(lines) and not (lines[at].strip() == SEPARATOR == lines[at + 1].strip()):
            at += 1
        if at + 1 >= len(lines):
            raise TranscriptError(f"{where}: expected `{SEPARATOR}` twice at the end of the output")
        return tuple(lines[begin:at]), at + 2
    while at < len(lines) and lines[at].strip():
        at += 1
    return tuple(lines[begin:at]), at


def parse_command(text: str, where: str) -> tuple[str, dict[str, tuple[str, ...]], tuple[str, ...]]:
    """(name, arguments, bare words) of a command line.  Raises TranscriptError."""
    name, _, rest = text.partition(" ")
    args: dict[str, tuple[str, ...]] = {}
    bare: list[str] = []
    at = 0
    while rest[at:].strip():
        match = _ARGUMENT.match(rest, at)
        if match is None:
            raise TranscriptError(f"{where}: expected key, key=value or key=(a,b), found {rest[at:].strip()!r}")
        at = match.end()
        key = match["key"]
        if match["list"] is not None:
            args[key] = (*args.get(key, ()), *filter(None, (part.strip() for part in match["list"].split(","))))
        elif match["value"] is not None:
            args[key] = (*args.get(key, ()), match["value"])
        else:
            args[key] = ()
            bare.append(key)
    return name, args, tuple(bare)


# --- where the files are --------------------------------------------------------------------------------------------


def data_directory(kind: str) -> Path | None:
    """The directory of etcd's files of one kind (quorum, confchange, interaction), or None where there is none."""
    if kind == "interaction":
        named = os.environ.get("EDGESWARM_RAFT_TRANSCRIPTS")
        if named:
            below = Path(named) / kind
            return below if below.is_dir() else Path(named)
    roots = [Path(__file__).resolve().parents[3] / "shared" / "data"]
    if os.environ.get("EDGESWARM_TEST_DATA"):
        roots.insert(0, Path(os.environ["EDGESWARM_TEST_DATA"]))
    for root in roots:
        for directory in (root / "etcd-raft" / kind, root / kind):
            if directory.is_dir():
                return directory
    return None


def data_files(kind: str) -> list[Path]:
    """Its files, sorted; empty where the directory is missing."""
    directory = data_directory(kind)
    if directory is None or not directory.is_dir():
        return []
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.suffix in ("", ".txt"))


def no_data(kind: str) -> str:
    """Why there is nothing to test."""
    names = "EDGESWARM_RAFT_TRANSCRIPTS or EDGESWARM_TEST_DATA" if kind == "interaction" else "EDGESWARM_TEST_DATA"
    return f"no files of etcd-raft/{kind}: set {names}, or put them into ../shared/data/etcd-raft/{kind}"


def first_difference(expected: tuple[str, ...] | list[str], found: tuple[str, ...] | list[str]) -> Iterator[str]:
    """Both outputs side by side as a unified difference, a line each."""
    import difflib

    return difflib.unified_diff(list(expected), list(found), "expected", "found", lineterm="", n=3)
