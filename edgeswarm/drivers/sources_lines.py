"""Bytes to lines to rows, for the sources that are text; and `jsonl`, which reads them from standard input.

A line ends with \\n (a \\r before it does not count).  Lines over LINE_BYTES_MAX are thrown away up to their end and
counted, whatever chunks they come in.
csv: numbers in the order of the fields; a line that repeats the fields' names is a header and skipped.
jsonl: an object with the fields as keys, or an array in their order.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.sources import Offer, Setup, Source
from edgeswarm.errors import LocalError
from edgeswarm.limits import LINE_BYTES_MAX, SOURCE_READ_BYTES
from edgeswarm.stream.queue import Row

Line = tuple[bytes | None, int]
"""A line without its end, or None for one that was too long; and how many bytes it took, its end included."""
Format = Literal["csv", "jsonl"]


class LineSplitter:
    """Chunks in, lines out; keeps at most `bytes_max` of a line that is not complete."""

    __slots__ = ("_bytes_max", "_rest", "_skipped")

    def __init__(self, bytes_max: int = LINE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._rest = b""
        self._skipped = 0  # bytes of an over-long line that were thrown away so far

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that `chunk` completes."""
        first, *more = chunk.split(b"\n")
        if not more:
            self._keep(first)
            return []
        self._keep(first)
        lines = [self._take()]
        rest = more.pop()
        lines += [(line, len(line) + 1) if len(line) <= self._bytes_max else (None, len(line) + 1) for line in more]
        self._keep(rest)
        return lines

    def flush(self) -> Line | None:
        """The last line, which had no end; None when there is none."""
        if not self._rest and not self._skipped:
            return None
        line, size = self._take()
        return line, size - 1

    def state(self) -> list[object]:
        """What is incomplete, for `restore`."""
        return [self._rest, self._skipped]

    def restore(self, state: Sequence[Any]) -> None:
        self._rest, self._skipped = state

    def clear(self) -> int:
        """Forget what is incomplete; returns how many bytes that was."""
        size = len(self._rest) + self._skipped
        self._rest, self._skipped = b"", 0
        return size

    def _keep(self, part: bytes) -> None:
        if self._skipped:
            self._skipped += len(part)
        elif len(self._rest) + len(part) > self._bytes_max:
            self._skipped = len(self._rest) + len(part)
            self._rest = b""
        else:
            self._rest += part

    def _take(self) -> Line:
        line: Line = (None, self._skipped + 1) if self._skipped else (self._rest, len(self._rest) + 1)
        self._rest, self._skipped = b"", 0
        return line


class TextSource(Source):
    """A source of lines: what they mean, and what they may not."""

    def __init__(
        self,
        fields: Sequence[str],
        setup: Setup,
        *,
        format: Format = "jsonl",  # noqa: A002 - the key of the agent file
    ) -> None:
        super().__init__(fields, setup)
        self._parse = self._parse_csv if format == "csv" else self._parse_jsonl
        self._left: list[Line] = []  # lines that were read and not given when the source was handed over

    def row_from(self, line: bytes | None) -> Row | None:
        """The row in a line; None for a blank line, a header, and for one that is malformed, which is counted."""
        if line is None:
            self.malformed("line_too_long", bytes_max=LINE_BYTES_MAX)
            return None
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            self.malformed("text")
            return None
        return self._parse(text) if text else None

    async def give_lines(self, lines: Sequence[Line], offer: Offer) -> None:
        """Hand the rows of these lines over.  Those that are left when the source is stopped are counted and told."""
        for index, (line, _) in enumerate(lines):
            row = self.row_from(line)
            if row is None:
                continue
            before = self.counts.rows
            try:
                await self.give(row, offer)
            except asyncio.CancelledError:
                if self.leaving:
                    self._left = list(lines[index + self.counts.rows - before :])
                    raise
                unread = len(lines) - index - (self.counts.rows - before)
                self.counts.unread += unread
                if unread:
                    self.reporter.report("source_unread", lines=unread)
                raise

    async def give_left(self, offer: Offer) -> None:
        """The lines that an earlier program had read."""
        lines, self._left = self._left, []
        await self.give_lines(lines, offer)

    def parcel(self, packer: Packer) -> dict[str, object]:
        return {**super().parcel(packer), "left": [list(line) for line in self._left]}

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self._left = [(line, size) for line, size in parcel["left"]]

    def _parse_jsonl(self, text: str) -> Row | None:
        try:
            item = json.loads(text)
        except (ValueError, RecursionError):
            self.malformed("json")
            return None
        return self.row_in(item)

    def row_in(self, item: object) -> Row | None:
        """The row in a decoded object or array; None for one that is malformed, which is counted."""
        if isinstance(item, dict):
            try:
                values = [item[field] for field in self.fields]
            except KeyError as error:
                self.malformed("field", missing=str(error))
                return None
        elif isinstance(item, list):
            values = item
        else:
            self.malformed("type")
            return None
        for value in values:
            if type(value) is not float and type(value) is not int:
                self.malformed("type")
                return None
        try:
            return self.row_of([float(value) for value in values])
        except OverflowError:
            self.malformed("too_large")
            return None

    def _parse_csv(self, text: str) -> Row | None:
        cells = csv_cells(text)
        try:
            return self.row_of([number(cell) for cell in cells])
        except ValueError:
            if [cell.strip() for cell in cells] != list(self.fields):
                self.malformed("type")
            return None


def csv_cells(text: str, delimiter: str = ",") -> list[str]:
    """The cells of one line; quotes are understood, line ends inside them are not."""
    if '"' not in text:
        return text.split(delimiter)
    try:
        return next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error:
        return [text]


def number(cell: str) -> float:
    """The number in a cell.  Raises ValueError; "1_000", which Python would take, is none."""
    if "_" in cell:
        raise ValueError(cell)
    return float(cell)


async def read_some(fd: int, size: int = SOURCE_READ_BYTES) -> bytes:
    """The next bytes of a pipe, terminal, socket or file; b"" at its end.  Leaves the descriptor's flags alone, since
    standard input is shared with others.  Raises OSError."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(fd, readable.set)
    except PermissionError:  # epoll does not take plain files and /dev/null: they are always readable
        await asyncio.sleep(0)
        return os.read(fd, size)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return await read_some(fd, size)


class StdinLines(TextSource):
    """JSON lines from standard input, until its end."""

    kind = "jsonl"

    def __init__(self, fields: Sequence[str], setup: Setup, *, fd: int = 0) -> None:
        super().__init__(fields, setup)
        self._fd = fd
        self._splitter = LineSplitter()
        self._over = False  # it has ended, or failed for good
        self._resumed = False

    async def give_rows(self, offer: Offer) -> None:
        splitter = self._splitter
        self.counts.opened += not self._resumed
        self.waits()
        await self.give_left(offer)
        if self._over:
            return
        while True:
            try:
                chunk = await read_some(self._fd)
            except OSError as error:
                self.failed("read", error)
                self._over = True
                return
            lines = splitter.feed(chunk)
            self._over = not chunk
            if not chunk and (last := splitter.flush()) is not None:
                lines = [last]
            await self.give_lines(lines, offer)
            if not chunk:
                return

    def parcel(self, packer: Packer) -> dict[str, object]:
        """Standard input itself goes along by being standard input."""
        return {**super().parcel(packer), "part": self._splitter.state(), "over": self._over}

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self._splitter.restore(parcel["part"])
        self._over, self._resumed = parcel["over"], True

    def probe(self) -> None:
        try:
            os.fstat(self._fd)
        except OSError as error:
            raise LocalError(f"source {self.name}: standard input: {error.strerror}") from None
