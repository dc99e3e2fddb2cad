"""Tables of numbers in files: CSV, JSON lines and .npy, read in batches of bounded memory.

A table is rows of one width, as float32.  Reading is exact: a row of another width, a text, NaN, infinity, or a number
past float32 is an InputError naming file, row (1-based, header not counted), column and what was found.
Invariant: memory is one batch, whatever the file's size.  `tables_out.py` writes them.
CSV: commas, quotes as in RFC 4180; a first line without any number is a header.  JSON lines: an array a line, or an
object with the key `values`.  .npy: numpy's own format, versions 1 to 3, float or integer, shape (rows, width).
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import stat
import sys
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from edgeswarm.errors import InputError, LimitError, LocalError, PermissionDeniedError
from edgeswarm.limits import NPY_HEADER_BYTES_MAX, TABLE_LINE_BYTES_MAX

FORMATS: Final = ("csv", "jsonl", "npy")
NPY_MAGIC: Final = b"\x93NUMPY"


@dataclass(frozen=True, slots=True)
class Batch:
    """rows x width float32, little-endian; `first` is the number of its first row, 1-based.

    progress: how far in the file, in the units of RowReader.size.
    """

    first: int
    rows: int
    payload: bytes
    progress: int


class RowReader(Protocol):
    """A table that is being read."""

    size: int
    """Bytes (CSV, JSON lines) or rows (.npy) to read; 0 when nobody knows."""

    def batches(self, rows_max: int) -> Iterator[Batch]: ...


def format_of(path: str, kind: str | None, *, what: str) -> str:
    """`kind`, or what the file's name says.  Raises LocalError when that says nothing."""
    if kind is not None:
        return kind
    if path == "-":
        return "csv"
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        names = ", ".join(f".{name}" for name in FORMATS)
        raise LocalError(f"{what} {path}: expected a name that ends in {names}, or --{what}-format")
    return suffix


# --- reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def open_rows(path: str, *, width: int, kind: str | None = None) -> Iterator[RowReader]:
    """The table in `path` ("-": standard input), whose rows must have `width` values.

    Raises InputError, LimitError, LocalError, PermissionDeniedError; while reading, InputError and LimitError.
    """
    chosen = format_of(path, kind, what="input")
    if chosen == "npy":
        yield _NpyReader(path, width)
        return
    with _open_input(path) as file:
        reader: RowReader = _CsvReader(file, path, width) if chosen == "csv" else _JsonlReader(file, path, width)
        yield reader


@contextmanager
def _open_input(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; the error of opening is told apart from that of reading
    except PermissionError:
        raise PermissionDeniedError(f"input {path}: may not be read") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", who=path) from None
    with file:
        yield file


class _LineReader(ABC):
    """What CSV and JSON lines share: bounded lines, batches, and where a fault is."""

    def __init__(self, file: BinaryIO, path: str, width: int) -> None:
        self._file = file
        self._who = path
        self._width = width
        self._line = 0
        self._row = 0
        self._row_bytes = 0
        self._read_bytes = 0
        self.size = _size_of(file)

    def batches(self, rows_max: int) -> Iterator[Batch]:
        values, first = array("f"), 1
        for numbers in self._rows():
            values.extend(self._checked(numbers))
            if self._row - first + 1 == rows_max:
                yield Batch(first, rows_max, _little(values), self._read_bytes)
                values, first = array("f"), self._row + 1
        if values:
            yield Batch(first, self._row - first + 1, _little(values), self._read_bytes)

    @abstractmethod
    def _rows(self) -> Iterator[list[float]]:
        """The numbers of each row; counts rows in `_row`, and begins `_row_bytes` anew with each."""

    def _lines(self) -> Iterator[str]:
        """Lines with their ends.  Raises LimitError for a row past the bound, InputError for what is no UTF-8."""
        while line := self._read_line():
            self._line += 1
            self._read_bytes += len(line)
            self._row_bytes += len(line)
            if self._row_bytes > TABLE_LINE_BYTES_MAX:
                raise LimitError(
                    f"{self._who}: line {self._line}: a row has at most {TABLE_LINE_BYTES_MAX} bytes "
                    "(TABLE_LINE_BYTES_MAX)"
                )
            try:
                yield line.decode("utf-8-sig" if self._line == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"line {self._line}: expected UTF-8, found {error.reason}", who=self._who) from None

    def _read_line(self) -> bytes:
        try:
            return self._file.readline(TABLE_LINE_BYTES_MAX + 1)
        except OSError as error:
            raise InputError(f"line {self._line + 1}: cannot be read: {error.strerror}", who=self._who) from None

    def _fault(self, text: str) -> InputError:
        return InputError(f"row {self._row} (line {self._line}): {text}", who=self._who)

    def _checked(self, numbers: list[float]) -> array[float]:
        if len(numbers) != self._width:
            raise self._fault(f"expected {self._width} values, found {len(numbers)}")
        values = array("f", numbers)
        # finite float32 never add up to more than a float64 holds, so a finite sum means finite values
        if not math.isfinite(sum(values)):
            column = next(index for index, value in enumerate(values) if not math.isfinite(value))
            raise self._fault(f"column {column + 1}: expected a finite float32, found {numbers[column]!r}")
        return values


class _CsvReader(_LineReader):
    def _rows(self) -> Iterator[list[float]]:
        begun = False
        try:
            for cells in csv.reader(self._lines(), strict=True):
                self._row_bytes = 0
                if not cells or (len(cells) == 1 and not cells[0].strip()):
                    continue  # an empty line
                if not begun and not any(map(_is_number, cells)):
                    begun = True
                    continue  # the header
                begun = True
                self._row += 1
                try:
                    yield list(map(float, cells))
                except ValueError:
                    column = next(index for index, cell in enumerate(cells) if not _is_number(cell))
                    raise self._fault(f"column {column + 1}: expected a number, found {cells[column][:40]!r}") from None
        except csv.Error as error:
            raise InputError(f"line {self._line}: expected CSV, found {error}", who=self._who) from None


class _JsonlReader(_LineReader):
    def _rows(self) -> Iterator[list[float]]:
        for line in self._lines():
            self._row_bytes = 0
            if not line.strip():
                continue
            self._row += 1
            try:
                tree: Any = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self._fault(f"expected JSON, found {error}") from None
            if isinstance(tree, dict):
                tree = tree.get("values")
            if not isinstance(tree, list):
                raise self._fault('expected an array of numbers, or an object with the key "values"')
            yield [self._number(column, item) for column, item in enumerate(tree, start=1)]

    def _number(self, column: int, item: Any) -> float:
        if type(item) is float:
            return item
        if type(item) is int:
            try:
                return float(item)
            except OverflowError:
                pass  # told below, like everything else that is no float
        raise self._fault(f"column {column}: expected a number, found {json.dumps(item)[:40]}")


class _NpyReader:
    """Mapped into memory, page by page; numpy is imported for this format only."""

    def __init__(self, path: str, width: int) -> None:
        if path == "-":
            raise LocalError("input -: .npy is read from files only; give its name, or another --input-format")
        import numpy

        self._numpy = numpy
        self._who = path
        with _open_input(path) as file:
            shape, fortran, dtype, offset = self._header(file)
        if dtype.kind not in "fiu":
            raise InputError(f"expected float or integer numbers, found the dtype {dtype}", who=path)
        if len(shape) == 1 and width == 1:
            shape = (shape[0], 1)
        if len(shape) != 2 or shape[1] != width:
            raise InputError(f"expected the shape (rows, {width}), found {shape}", who=path)
        self.size = int(shape[0])
        self._rows: Any = None
        if self.size:
            try:
                self._rows = numpy.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
            except (OSError, ValueError, TypeError, OverflowError) as error:
                raise InputError(f"expected {shape} values of {dtype}, found {error}", who=path) from None

    def _header(self, file: BinaryIO) -> tuple[tuple[int, ...], bool, Any, int]:
        """Shape, whether columns lie together, dtype, and where the numbers begin; numpy would believe any length."""
        form = self._numpy.lib.format
        try:
            head = io.BytesIO(file.read(NPY_HEADER_BYTES_MAX))
            if not head.getvalue().startswith(NPY_MAGIC):
                raise InputError("expected a .npy file, found another beginning", who=self._who)
            match form.read_magic(head):
                case (1, 0):
                    shape, fortran, dtype = form.read_array_header_1_0(head)
                case (2, 0) | (3, 0):
                    shape, fortran, dtype = form.read_array_header_2_0(head)
                case version:
                    raise ValueError(f"the version {version}")
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", who=self._who) from None
        except (ValueError, TypeError, SyntaxError, EOFError, RecursionError, MemoryError) as error:
            raise InputError(f"expected a .npy header, found {error}", who=self._who) from None
        return shape, fortran, dtype, head.tell()

    def batches(self, rows_max: int) -> Iterator[Batch]:
        numpy = self._numpy
        for at in range(0, self.size, rows_max):
            with numpy.errstate(over="ignore", invalid="ignore"):
                piece = numpy.ascontiguousarray(self._rows[at : at + rows_max], dtype="<f4")
            finite = numpy.isfinite(piece)
            if not finite.all():
                row, column = (int(index) for index in numpy.argwhere(~finite)[0])
                found = self._rows[at + row, column]
                raise InputError(
                    f"row {at + row + 1}: column {column + 1}: expected a finite float32, found {found}", who=self._who
                )
            yield Batch(at + 1, len(piece), piece.tobytes(), at + len(piece))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _size_of(file: BinaryIO) -> int:
    try:
        found = os.fstat(file.fileno())
    except (OSError, io.UnsupportedOperation):
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _little(values: array[float]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
