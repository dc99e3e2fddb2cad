"""Replay of a CSV file: a header line, then a row a line, at the pace that the file or the agent file sets.

The delimiter is the first of comma, semicolon and tab that the header holds.  With a timestamp column rows come at
their distances in time divided by `speed`, else at rate_hz * speed; with speed 0 as fast as the agent takes them.
When the agent holds the replay back, the rest of it is late by as much: it does not catch up in a burst.
A file that is not there, or has not the columns, is looked for again with a growing wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from edgeswarm.agentfile.wiring import CsvSource
from edgeswarm.drivers.sources import Backoff, Offer, Setup, Source
from edgeswarm.drivers.sources_lines import LineSplitter, csv_cells, number
from edgeswarm.errors import LocalError
from edgeswarm.limits import SOURCE_READ_BYTES
from edgeswarm.stream.queue import Row


class CsvReplay(Source):
    """The rows of one file."""

    kind = "csv"

    def __init__(self, spec: CsvSource, setup: Setup, *, path: Path) -> None:
        rate_hz = spec.rate_hz * spec.speed if spec.speed and not spec.timestamp else None
        super().__init__(spec.columns, setup, rate_hz=rate_hz)
        self._path = path
        self._speed = spec.speed
        self._rate_hz = spec.rate_hz
        self._loop = spec.loop
        self._timestamp = spec.timestamp
        self._row_number = 0  # rows handed over in this pass through the file
        self._row_next = 0  # number of the row that is being handed over
        self._skip = 0  # rows of the first pass that were handed over before a restart

    async def give_rows(self, offer: Offer) -> None:
        backoff = Backoff()
        while True:
            rows_before = self.counts.rows
            try:
                with _Lines(self._path) as lines:
                    columns = self._columns(lines)
                    self.counts.opened += 1
                    await self._replay(lines, columns, offer)
            except (OSError, LocalError) as error:
                self.failed("open" if self.counts.rows == rows_before else "read", error)
                self._skip = max(self._skip, self._row_number)
                self.waits()
                await self.clock.sleep(backoff.next_s())
                continue
            if not self._loop:
                return
            self._row_number = self._skip = 0
            if self.counts.rows == rows_before:  # a file without rows, for ever
                await self.clock.sleep(backoff.next_s())
            else:
                backoff.reset()

    async def _replay(self, lines: _Lines, columns: _Columns, offer: Offer) -> None:
        """The rows of one pass, each at its time."""
        self._row_number = self._row_next = 0
        origin_ns, origin_s = self.clock.now_ns(), 0.0  # the replay's zero, in our time and in the file's
        first = True
        for line in lines:
            row, at_s = self._row(line, columns)
            if row is None:
                continue
            self._row_next += 1
            if self._row_next <= self._skip:
                continue
            if self._speed:
                at_s = (self._row_next - 1) / self._rate_hz if at_s is None else at_s
                if first:
                    first, origin_s = False, at_s
                wait_ns = origin_ns + int((at_s - origin_s) / self._speed * 1e9) - self.clock.now_ns()
                if wait_ns > 0:
                    self.rests()
                    await self.clock.sleep(wait_ns / 1e9)
                else:
                    origin_ns -= wait_ns
            await self.give(row, offer)

    def _row(self, line: bytes | None, columns: _Columns) -> tuple[Row | None, float | None]:
        """The row in a line and its time in seconds; a line that is none is counted."""
        if line is None:
            self.malformed("line_too_long")
            return None, None
        text = line.decode(errors="replace").strip("\r")
        if not text.strip():
            return None, None
        cells = csv_cells(text, columns.delimiter)
        if len(cells) != columns.count:
            self.malformed("width", expected=columns.count, found=len(cells))
            return None, None
        at_s = None
        try:
            row = self.row_of([number(cells[index]) for index in columns.indexes])
            if columns.timestamp is not None:
                at_s = seconds(cells[columns.timestamp])
        except ValueError:
            self.malformed("type")
            return None, None
        return row, at_s

    def _columns(self, lines: _Lines) -> _Columns:
        """Where the columns are.  Raises LocalError when one is missing."""
        header = next(iter(lines), b"")
        text = (header or b"").decode("utf-8-sig", errors="replace").strip("\r\n")
        delimiter = next((one for one in ",;\t" if one in text), ",")
        names = [cell.strip() for cell in csv_cells(text, delimiter)]
        wanted = [*self.fields, *([self._timestamp] if self._timestamp else [])]
        for column in wanted:
            if column not in names:
                shown = ", ".join(names)[:200]
                raise LocalError(f"source {self.name}: {self._path}: expected a column {column!r}, found {shown}")
        indexes = tuple(names.index(column) for column in self.fields)
        timestamp = names.index(self._timestamp) if self._timestamp else None
        return _Columns(delimiter, len(names), indexes, timestamp)

    def handed_over(self) -> None:
        super().handed_over()
        self._row_number = self._row_next

    def probe(self) -> None:
        try:
            with _Lines(self._path) as lines:
                self._columns(lines)
        except OSError as error:
            raise LocalError(f"source {self.name}: {self._path}: {error.strerror}") from None

    def state(self, *, unanswered: int = 0) -> dict[str, object] | None:
        return {"kind": self.kind, "row": max(self._row_number, self._skip, unanswered) - unanswered}

    def restore(self, state: Mapping[str, object]) -> None:
        row = state.get("row")
        if state.get("kind") != self.kind or type(row) is not int or row < 0:
            raise LocalError(f"source {self.name}: state: expected a row of a csv source, found {dict(state)!r:.80}")
        self._skip = row


class _Columns:
    """Which cells of a line make the row."""

    def __init__(self, delimiter: str, count: int, indexes: tuple[int, ...], timestamp: int | None) -> None:
        self.delimiter = delimiter
        self.count = count
        self.indexes = indexes
        self.timestamp = timestamp


class _Lines:
    """The lines of a plain file, read in small pieces; None for one that is too long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._iterator = self._read()

    def __enter__(self) -> _Lines:
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def __iter__(self) -> Iterator[bytes | None]:
        return self._iterator

    def _read(self) -> Iterator[bytes | None]:
        splitter = LineSplitter()
        while chunk := os.read(self._file, SOURCE_READ_BYTES):
            for line, _ in splitter.feed(chunk):
                yield line
        last = splitter.flush()
        if last is not None:
            yield last[0]


def seconds(text: str) -> float:
    """A time in seconds since 1970 (or since whenever, when the file counts so).  Raises ValueError."""
    try:
        return number(text)
    except ValueError:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
