"""Tables of numbers into files: CSV, JSON lines and .npy, row after row, in bounded memory.

Invariant: a file appears under its name when it is whole, and only then; what could not be finished is removed (a
process that is killed leaves NAME.PID.part).
CSV has no header line, so that every line is a row.  Nine digits a number bring back the same float32.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from edgeswarm.app.cli.tables import NPY_MAGIC, format_of
from edgeswarm.errors import LocalError, PermissionDeniedError

NPY_HEADER_BYTES: Final = 128
"""Room for any number of rows, so that the shape can be filled in at the end."""
_ITEM_BYTES: Final = 4


class RowWriter(Protocol):
    """A table that is being written."""

    def write(self, payload: bytes, rows: int) -> None:
        """payload: rows x width float32, little-endian.  Raises LocalError when the disk takes no more."""


@contextmanager
def create_rows(path: str, *, width: int, kind: str | None = None) -> Iterator[RowWriter]:
    """A new table in `path` ("-": standard output).  The file appears, whole, when all went well, and only then."""
    chosen = format_of(path, kind, what="output")
    if path == "-" or (os.path.exists(path) and not os.path.isfile(path)):
        if chosen == "npy":
            raise LocalError(f"output {path}: .npy is written to files only; use --output-format csv or jsonl")
        with _open_special(path) as file:
            yield _WRITERS[chosen](file, path, width)
        return
    draft = f"{path}.{os.getpid()}.part"
    try:
        with _open_output(draft, path) as file:
            writer = _WRITERS[chosen](file, path, width)
            yield writer
            writer.finish()
        os.replace(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)


def _open_output(draft: str, path: str) -> BinaryIO:
    try:
        return open(draft, "wb", buffering=0)  # a batch is one write, and closing has nothing left to fail with
    except PermissionError:
        raise PermissionDeniedError(f"output {path}: may not be written") from None
    except OSError as error:
        raise LocalError(f"output {path}: {error.strerror}") from None


@contextmanager
def _open_special(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdout.buffer
        return
    with _open_output(path, path) as file:
        yield file


class _Writer:
    def __init__(self, file: BinaryIO, path: str, width: int) -> None:
        self._file = file
        self._path = path
        self._width = width
        self._rows = 0

    def write(self, payload: bytes, rows: int) -> None:
        assert len(payload) == rows * self._width * _ITEM_BYTES, f"{len(payload)} bytes for {rows} rows"
        self._rows += rows
        self._put(self._encode(payload))

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
            self._file.flush()
        except BrokenPipeError:
            raise  # whoever read it has gone away: no fault of the output
        except OSError as error:
            raise LocalError(f"output {self._path}: {error.strerror} after {self._rows} rows") from None

    def _encode(self, payload: bytes) -> bytes:
        return payload

    def finish(self) -> None:
        """What can be written only when everything else is."""

    def _split(self, payload: bytes) -> Iterator[list[str]]:
        values = array("f", payload)
        if sys.byteorder == "big":
            values.byteswap()
        texts = ["-0.0" if text == "-0" else text for text in map("{:.9g}".format, values)]  # JSON's -0 is an integer
        return (texts[at : at + self._width] for at in range(0, len(texts), self._width))


class _CsvWriter(_Writer):
    def _encode(self, payload: bytes) -> bytes:
        return "".join(",".join(row) + "\n" for row in self._split(payload)).encode()


class _JsonlWriter(_Writer):
    def _encode(self, payload: bytes) -> bytes:
        return "".join(f"[{', '.join(row)}]\n" for row in self._split(payload)).encode()


class _NpyWriter(_Writer):
    """Format version 1.0; the header is written last, because it holds the number of rows."""

    def __init__(self, file: BinaryIO, path: str, width: int) -> None:
        super().__init__(file, path, width)
        self._put(bytes(NPY_HEADER_BYTES))

    def finish(self) -> None:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self._rows}, {self._width}), }}"
        room = NPY_HEADER_BYTES - len(NPY_MAGIC) - 4
        header = text.ljust(room - 1) + "\n"
        self._file.seek(0)
        self._put(NPY_MAGIC + b"\x01\x00" + room.to_bytes(2, "little") + header.encode("ascii"))


_WRITERS: Final[dict[str, type[_Writer]]] = {"csv": _CsvWriter, "jsonl": _JsonlWriter, "npy": _NpyWriter}
