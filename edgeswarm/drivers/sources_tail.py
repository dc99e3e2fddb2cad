"""Lines that are appended to a file, as `tail -F` sees them: the file may come, go, be rotated and be cut.

A file that is there at the start is followed from its end, one that comes later from its beginning; after a restart,
from the last line whose row was answered, if it is still the same file.
Rotated (another inode under the name): the old file is read to its end, then the new one from its beginning.
Cut (shorter than what was read): read again from its beginning.  A file that is cut and grows past the old position
between two looks cannot be told from one that grew.
Looked at every TAIL_POLL_MS; while the name is gone, with a growing wait.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.sources import Backoff, Offer, Setup
from edgeswarm.drivers.sources_lines import Format, LineSplitter, TextSource
from edgeswarm.errors import LocalError
from edgeswarm.limits import SOURCE_READ_BYTES, TAIL_MARKS_MAX, TAIL_POLL_MS


class Tail(TextSource):
    """The lines of one file name."""

    kind = "tail"

    def __init__(
        self,
        fields: Sequence[str],
        setup: Setup,
        *,
        path: Path,
        format: Format = "jsonl",  # noqa: A002 - the key of the agent file
    ) -> None:
        super().__init__(fields, setup, format=format)
        self._path = path
        self._file: int | None = None
        self._inode = 0
        self._offset = 0  # bytes read of the open file
        self._line_bytes = 0  # of the line that is being handed over
        self._line_at = 0  # where the first line begins that was not handed over
        self._marks: deque[int] = deque(maxlen=TAIL_MARKS_MAX)  # where the lines begin whose rows were handed over
        self._splitter = LineSplitter()
        self._cut_first = False  # the first line began before we looked: it is no row
        self._resume: tuple[int, int] | None = None  # inode, offset
        self._from_start = False  # the name was gone before: what comes is new
        self._gone = False

    async def give_rows(self, offer: Offer) -> None:
        backoff = Backoff()
        self.waits()
        try:
            while True:
                if self._file is None and not self._open():
                    await self.clock.sleep(backoff.next_s())
                    continue
                if await self._read(offer):
                    backoff.reset()
                    continue
                if await self._look(offer):
                    continue
                await self.clock.sleep(backoff.next_s() if self._gone else TAIL_POLL_MS / 1000)
        finally:
            if not self.leaving:
                self._close()

    def _open(self) -> bool:
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self._note_gone(error)
            return False
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            os.close(file)
            self.failed("open", LocalError(f"{self._path}: expected a plain file"))
            return False
        self._file, self._inode = file, found.st_ino
        self._gone = False
        self.counts.opened += 1
        offset = self._first_offset(found)
        os.lseek(file, offset, os.SEEK_SET)
        self._cut_first = offset > 0 and os.pread(file, 1, offset - 1) != b"\n"
        self._begin_at(offset)
        return True

    def _first_offset(self, found: os.stat_result) -> int:
        resume, self._resume = self._resume, None
        if resume is not None:
            return resume[1] if resume[0] == found.st_ino and resume[1] <= found.st_size else 0
        return 0 if self._from_start else found.st_size

    def _begin_at(self, offset: int) -> None:
        self._offset = self._line_at = offset
        self._marks.clear()
        self._splitter.clear()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    async def _read(self, offer: Offer) -> bool:
        """Hand over what came since; False when nothing did."""
        assert self._file is not None
        try:
            chunk = os.read(self._file, SOURCE_READ_BYTES)
        except OSError as error:
            self.failed("read", error)
            self._close()
            return False
        if not chunk:
            return False
        self._offset += len(chunk)
        for line, size in self._splitter.feed(chunk):
            await self._hand_over(line, size, offer)
        return True

    async def _hand_over(self, line: bytes | None, size: int, offer: Offer) -> None:
        row = None if self._cut_first else self.row_from(line)
        self._cut_first = False
        self._line_bytes = size
        if row is None:
            self._line_at += size
        else:
            await self.give(row, offer)

    def handed_over(self) -> None:
        super().handed_over()
        self._marks.append(self._line_at)
        self._line_at += self._line_bytes

    async def _look(self, offer: Offer) -> bool:
        """At the end of the open file: is it still the one under the name?  True when there is more to read at once."""
        if self._file is None:
            return False
        try:
            named = os.stat(self._path)
        except OSError as error:
            self._note_gone(error)
            return False
        self._gone = False
        if named.st_ino != self._inode:
            while await self._read(offer):  # what was written between our last read and the rotation
                pass
            last = self._splitter.flush()
            if last is not None:
                await self._hand_over(*last, offer)
            self.counts.rotated += 1
            self.reporter.report("source_rotated", path=str(self._path))
            self._close()
            self._from_start = True
            return True
        if named.st_size < self._offset:
            self.counts.truncated += 1
            cut_bytes = self._splitter.clear()
            self.reporter.report("source_truncated", path=str(self._path), bytes_dropped=cut_bytes)
            os.lseek(self._file, 0, os.SEEK_SET)
            self._cut_first = False
            self._begin_at(0)
            return True
        return False

    def _note_gone(self, error: OSError) -> None:
        self._from_start = True
        if not self._gone:
            self._gone = True
            self.counts.vanished += 1
            self.reporter.report("source_vanished", path=str(self._path), error=error.strerror or str(error))

    def probe(self) -> None:
        try:
            found = os.stat(self._path)
            os.close(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            raise LocalError(f"source {self.name}: {self._path}: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise LocalError(f"source {self.name}: {self._path}: expected a plain file")

    def parcel(self, packer: Packer) -> dict[str, object]:
        """With the open file: it may be rotated before the next program looks."""
        return {
            **super().parcel(packer),
            "file": None if self._file is None else packer.fd(self._file),
            "inode": self._inode,
            "line_at": self._line_at,
            "flags": [self._cut_first, self._from_start, self._gone],
        }

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self._cut_first, self._from_start, self._gone = parcel["flags"]
        if parcel["file"] is not None:
            self._file, self._inode, self._resume = unpacker.fd(parcel["file"]), parcel["inode"], None
            self._begin_at(os.lseek(self._file, parcel["line_at"], os.SEEK_SET))

    def state(self, *, unanswered: int = 0) -> dict[str, object] | None:
        if self._resume is not None:
            return {"kind": self.kind, "inode": self._resume[0], "offset": self._resume[1]}
        if not self._inode:
            return None
        offset = self._line_at
        if unanswered and self._marks:
            offset = self._marks[-min(unanswered, len(self._marks))]
        return {"kind": self.kind, "inode": self._inode, "offset": offset}

    def restore(self, state: Mapping[str, object]) -> None:
        inode, offset = state.get("inode"), state.get("offset")
        valid = type(inode) is int and type(offset) is int and offset >= 0 and state.get("kind") == self.kind
        if not valid:
            raise LocalError(f"source {self.name}: state: expected inode and offset of a tail, found {state!r:.80}")
        assert isinstance(inode, int) and isinstance(offset, int)
        self._resume = (inode, offset)
