"""Bytes or an open file to an AgentFile, in bounded memory; every fault says the line or the offset.

Decides whether the bytes are an agent file of format 1 as docs/agent-file.md has it.  Invariants: nothing is allocated
for a declared length before the file is known to hold it (or, where its size is unknown, piece by piece as it comes);
no error but AgentFileError (with SignatureError) and LimitError leaves here, save the file's OSError.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import BinaryIO, Final, get_args

from edgeswarm import schema
from edgeswarm.agentfile import sections, yamltext
from edgeswarm.agentfile.file import MAGIC, MARKER_START, SIGNATURE, AgentFile, Signature, marker
from edgeswarm.agentfile.header import Header, SectionEntry, SectionName
from edgeswarm.agentfile.signature import parse_signature
from edgeswarm.errors import AgentFileError, LimitError
from edgeswarm.limits import (
    AF_FILE_BYTES_MAX,
    AF_HEADER_BYTES_MAX,
    AF_READ_BYTES,
    AF_SIGNATURE_BYTES_MAX,
    AF_TEXT_SECTIONS_BYTES_MAX,
)

_MARKER: Final = re.compile(rb"\n---BINARY_SECTION:([a-z_]{1,32})---\n")
_FIRST_LINE: Final = re.compile(rb"%EdgeSwarm-AF ([0-9]{1,9})\r?\n")


def read(source: BinaryIO | bytes, *, who: str = "", wanted: Collection[str] | None = None) -> AgentFile:
    """The agent file in `source`, from where it stands to its end.

    who: names the file in errors.  wanted: names of the sections to keep; the others are checked against their hash and
    let go (None: keep all).  Raises AgentFileError, SignatureError (a malformed one; `verify` checks it), LimitError.
    """
    file = _Input(io.BytesIO(source) if isinstance(source, bytes) else source, who)
    warnings: list[str] = []
    header_bytes, first_line = _read_header_bytes(file, warnings)
    header = parse_header(header_bytes, who=who, first_line=first_line, warnings=warnings)
    found: dict[str, bytes] = {}
    unlisted: dict[str, bytes] = {}
    if header.sections:
        found = dict(_read_sections(file, header.sections, wanted))
        body_bytes = file.offset
        signature = _read_signature(file)
    else:
        body_bytes, unlisted, signature = _read_unlisted(file, warnings)
    return AgentFile(
        header=header,
        sections=MappingProxyType(found),
        signature=signature,
        warnings=tuple(warnings),
        header_bytes=header_bytes,
        unlisted=MappingProxyType(unlisted),
        body_bytes=body_bytes,
        size_bytes=file.offset,
        sha256=file.sha256.hexdigest(),
        who=who,
    )


def parse_header(
    header_bytes: bytes, *, who: str = "", first_line: int = 1, warnings: list[str] | None = None
) -> Header:
    """The YAML of a header, decoded and checked.

    first_line: line of the file where it begins.  warnings: takes what is informational only.
    Raises AgentFileError with the line of the first fault and all faults in its text, LimitError.
    """
    try:
        text = header_bytes.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + header_bytes.count(b"\n", 0, error.start)
        raise AgentFileError(f"the header is not UTF-8: {error.reason}", who=who, line=line) from None
    if text.startswith("\ufeff"):
        raise AgentFileError("expected YAML, found a byte order mark; save the file without", who=who, line=first_line)
    parsed = yamltext.parse(text, who=who, first_line=first_line)
    header = decode_header(parsed.tree, parsed.lines, who=who, first_line=first_line)
    if warnings is not None and header.runtime is not None:
        line = parsed.lines.get("runtime", first_line)
        warnings.append(f"line {line}: runtime: informational only; this runtime needs none of it")
    return header


def decode_header(tree: object, lines: Mapping[str, int], *, who: str, first_line: int | None) -> Header:
    """A plain tree as a Header.  first_line: of what has no line of its own; None where there is no file.

    Raises AgentFileError with the first fault's line and all faults in its text.
    """
    try:
        return schema.decode(tree, Header, lines=lines)
    except schema.SchemaError as error:
        first, *more = error.faults
        text = f"{first.path}: {first.text}" if first.path else first.text
        text += "".join(f"\n{fault}" for fault in more)
        raise AgentFileError(text, who=who, line=first.line if first.line is not None else first_line) from None


# --- the parts, front to back ---------------------------------------------------------------------------------------


def _read_header_bytes(file: _Input, warnings: list[str]) -> tuple[bytes, int]:
    """The YAML bytes, and the line of the file where they begin."""
    header = file.take_until(MARKER_START, len(MAGIC) + AF_HEADER_BYTES_MAX)
    if not header.startswith(b"%"):
        warnings.append(f"line 1: expected {MAGIC.decode().strip()!r}, found none; read as format 1")
        return header, 1
    if header.startswith(MAGIC):
        return header[len(MAGIC) :], 2
    found = _FIRST_LINE.match(header)
    if found is None:
        start = header.split(b"\n", 1)[0][:40]
        raise AgentFileError(f"expected {MAGIC.decode().strip()!r}, found {start!r}", who=file.who, line=1)
    what = "a carriage return" if found[1] == b"1" else f"format {found[1].decode()}"
    raise AgentFileError(f"expected {MAGIC.decode().strip()!r}, found {what}", who=file.who, line=1)


def _read_sections(
    file: _Input, table: tuple[SectionEntry, ...], wanted: Collection[str] | None
) -> Iterator[tuple[str, bytes]]:
    for entry in table:
        sections.check_declared(entry, who=file.who, offset=file.offset)
    kept = [entry for entry in table if wanted is None or entry.name in wanted]
    raw_bytes = sum(entry.raw_length for entry in kept)
    if raw_bytes > AF_FILE_BYTES_MAX:
        raise file.past(f"sections: at most {AF_FILE_BYTES_MAX} bytes decoded, found {raw_bytes}")
    asked = sum(len(marker(entry.name)) + entry.length for entry in table)
    if file.left is not None and asked > file.left:
        text = f"the section table asks for {asked} bytes, the file has {file.left}: it was cut, or a length is wrong"
        raise AgentFileError(text, who=file.who, offset=file.offset)
    for entry in table:
        _take_marker(file, entry.name)
        offset = file.offset
        keep = entry in kept
        digest, stored = hashlib.sha256(), bytearray()
        if keep and file.left is not None:
            piece = file.take(entry.length, f"section {entry.name}")
            digest.update(piece)
        else:
            for piece in file.take_pieces(entry.length, f"section {entry.name}"):
                digest.update(piece)
                if keep:
                    stored += piece
            piece = bytes(stored)
        if digest.hexdigest() != entry.sha256:
            text = f"section {entry.name}: expected SHA-256 {entry.sha256}, found {digest.hexdigest()}"
            raise AgentFileError(text, who=file.who, offset=offset)
        if keep:
            yield entry.name, sections.load(entry, piece, who=file.who, offset=offset)


def _take_marker(file: _Input, name: str) -> None:
    expected, offset = marker(name), file.offset
    found = file.take_up_to(len(expected))
    if found == expected:
        return
    shown = "the end of the file" if not found else repr(found[:40])
    raise AgentFileError(f"expected the marker of section {name}, found {shown}", who=file.who, offset=offset)


def _read_signature(file: _Input) -> Signature | None:
    """What follows the last section: nothing, or the signature."""
    offset, expected = file.offset, marker(SIGNATURE)
    found = file.take_up_to(len(expected))
    if not found:
        return None
    if found != expected:
        text = f"expected the end or the section signature, found {found[:40]!r}: not in the table, or a wrong length"
        raise AgentFileError(text, who=file.who, offset=offset)
    message = file.take_up_to(AF_SIGNATURE_BYTES_MAX + 1)
    if len(message) > AF_SIGNATURE_BYTES_MAX:
        raise file.past(f"section signature: at most {AF_SIGNATURE_BYTES_MAX} bytes, found more")
    return parse_signature(message, who=file.who, offset=offset + len(expected))


def _read_unlisted(file: _Input, warnings: list[str]) -> tuple[int, dict[str, bytes], Signature | None]:
    """Sections of a file without a table: each runs to the next marker, and is kept as text that nothing uses."""
    offset = file.offset
    rest = file.take_up_to(AF_TEXT_SECTIONS_BYTES_MAX + 1)
    if len(rest) > AF_TEXT_SECTIONS_BYTES_MAX:
        limit = f"at most {AF_TEXT_SECTIONS_BYTES_MAX} bytes"
        raise file.past(f"sections without a table: {limit}, found more; list them under `sections`")
    found: dict[str, bytes] = {}
    marks = list(_MARKER.finditer(rest))
    if rest and (not marks or marks[0].start() != 0):
        raise AgentFileError(f"expected a section's marker, found {rest[:40]!r}", who=file.who, offset=offset)
    ends = [mark.start() for mark in marks[1:]] + [len(rest)]
    for mark, end in zip(marks, ends, strict=False):
        name = mark[1].decode("ascii")
        if name not in (*get_args(SectionName), SIGNATURE):
            names = ", ".join(get_args(SectionName))
            text = f"section {name}: unknown; expected one of {names}"
            raise AgentFileError(text, who=file.who, offset=offset + mark.start())
        if name in found:
            raise AgentFileError(f"section {name}: there twice", who=file.who, offset=offset + mark.start())
        found[name] = rest[mark.end() : end]
    message = found.pop(SIGNATURE, None)
    if message is not None and found:
        text = f"section {next(iter(found))}: not in the table `sections`, so the signature does not cover it"
        raise AgentFileError(text, who=file.who, offset=offset)
    if message is not None:
        at = offset + marks[0].end()
        return offset, {}, parse_signature(message, who=file.who, offset=at)
    warnings.append("no table `sections`: the file describes an agent, and carries no kernel to run")
    warnings.extend(
        f"section {name}: {len(text)} bytes of text without a table: not used" for name, text in found.items()
    )
    return file.offset, found, None


# --- input ----------------------------------------------------------------------------------------------------------


class _Input:
    """A file read once, front to back.  offset: from where it stood at first.  left: bytes to its end, where known."""

    __slots__ = ("_end", "_file", "_pending", "offset", "sha256", "who")

    def __init__(self, file: BinaryIO, who: str) -> None:
        self._file = file
        self._pending = b""
        self._end: int | None = None
        self.who = who
        self.offset = 0
        self.sha256 = hashlib.sha256()
        if file.seekable():
            start = file.tell()
            self._end = file.seek(0, io.SEEK_END) - start
            file.seek(start)
            if self._end > AF_FILE_BYTES_MAX:
                raise self._too_long(self._end)

    def past(self, text: str) -> LimitError:
        """A bound was passed here."""
        return LimitError(f"{self.who or 'agent file'}: offset {self.offset}: {text}")

    def _too_long(self, found: int) -> LimitError:
        return self.past(f"an agent file has at most {AF_FILE_BYTES_MAX} bytes, found {found} or more")

    @property
    def left(self) -> int | None:
        return None if self._end is None else self._end - self.offset

    def _used(self, data: bytes) -> bytes:
        self.offset += len(data)
        if self.offset > AF_FILE_BYTES_MAX:
            raise self._too_long(self.offset)
        self.sha256.update(data)
        return data

    def _more(self, size: int) -> bytes:
        """At least one byte and at most `size`, or nothing at the end; not yet counted as used."""
        if self._pending:
            piece, self._pending = self._pending[:size], self._pending[size:]
            return piece
        return self._file.read(size)

    def take_up_to(self, size: int) -> bytes:
        """`size` bytes, or as many as there are."""
        pieces: list[bytes] = []
        while size and (piece := self._more(min(size, AF_READ_BYTES))):
            pieces.append(piece)
            size -= len(piece)
        return self._used(b"".join(pieces))

    def take_pieces(self, size: int, what: str) -> Iterator[bytes]:
        """Exactly `size` bytes, in pieces of AF_READ_BYTES at most.  Raises AgentFileError at the end of the file."""
        offset, missing = self.offset, size
        while missing:
            piece = self._more(min(missing, AF_READ_BYTES))
            if not piece:
                text = f"{what}: expected {size} bytes, the file ends after {size - missing}"
                raise AgentFileError(text, who=self.who, offset=offset)
            missing -= len(piece)
            yield self._used(piece)

    def take(self, size: int, what: str) -> bytes:
        """Exactly `size` bytes of a file that is known to hold them, in one allocation where the file allows it."""
        offset = self.offset
        pieces: list[bytes] = []
        while size and (piece := self._more(size)):
            pieces.append(piece)
            size -= len(piece)
        if size:
            raise AgentFileError(f"{what}: the file became shorter while it was read", who=self.who, offset=offset)
        return self._used(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def take_until(self, mark: bytes, size_max: int) -> bytes:
        """All bytes before `mark`, or to the end; `mark` stays.  Raises LimitError past size_max."""
        held = bytearray()
        while True:
            piece = self._file.read(min(AF_READ_BYTES, 65_536))
            start = max(0, len(held) - len(mark) + 1)
            held += piece
            at = held.find(mark, start)
            size = at if at >= 0 else len(held)
            if size > size_max:
                raise self.past(f"header: at most {AF_HEADER_BYTES_MAX} bytes, found more")
            if at >= 0 or not piece:
                self._put_back(bytes(held[size:]))
                return self._used(bytes(held[:size]))

    def _put_back(self, rest: bytes) -> None:
        if self._end is None:
            self._pending = rest
        else:
            self._file.seek(-len(rest), io.SEEK_CUR)  # so that a section is one read and one allocation
