"""JSON lines in a file that is rotated: `path` becomes `path`.1 at `rotate_bytes`, .1 becomes .2, up to `keep`.

Lines are whole: a line that is half written when the disk is full is completed later, one of an earlier life gets its
end before the first new line, and no line is in two files.  A file that somebody moved or removed is begun anew.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.quota import Account, QuotaError
from edgeswarm.drivers.sinks import Outbox, Sink, SinkSetup, outbox_counts
from edgeswarm.limits import SINK_RECORD_BYTES_MAX, SINK_RETRY_MS


class JsonlSink(Sink):
    """Lines in one file.  A disk or a quota that is full, a folder that is gone: the records wait in the outbox, and
    are tried again every SINK_RETRY_MS.

    account: where its files' sizes are counted, and claimed before a line is begun.
    """

    def __init__(
        self,
        setup: SinkSetup,
        *,
        path: Path,
        rotate_bytes: int,
        keep: int,
        when: str = "always",
        account: Account | None = None,
    ) -> None:
        super().__init__("jsonl", setup, when=when)
        self._account = account
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._outbox = Outbox()
        self._file: int | None = None
        self._size = 0
        self._inode = 0
        self._due_ns = 0  # when to try again after a failure, and when to look whether the file is still there
        self._failing = False
        self.rotated = 0
        self._recount()

    def write_line(self, line: bytes) -> None:
        self.note_dropped(self._outbox.push(line), "disk")
        due = self.now_ns() >= self._due_ns
        if due:
            self._look()
        if due or not self._failing:
            self.flush()

    def _look(self) -> None:
        """Somebody may have moved or removed the file: then begin a new one."""
        self._due_ns = self.now_ns() + int(SINK_RETRY_MS * 1e6)
        if self._file is None:
            return
        try:
            gone = os.stat(self._path).st_ino != self._inode
        except OSError:
            gone = True
        if gone:
            os.close(self._file)
            self._file = None
            self._recount()

    def flush(self) -> None:
        outbox = self._outbox
        try:
            while outbox:
                if self._file is not None and self._size >= self._rotate_bytes:
                    self._rotate()
                if self._file is None:
                    self._open()
                assert self._file is not None
                written = os.write(self._file, self._claimed(outbox.head(max(1, min(1 << 16, self._rotate_bytes)))))
                self._size += written
                outbox.sent(written)
                self._found(self._path.name, self._size)
        except (OSError, QuotaError) as error:
            self._failing = True
            self._due_ns = self.now_ns() + int(SINK_RETRY_MS * 1e6)
            self.note_failed(error.strerror or "write" if isinstance(error, OSError) else "quota", error)
            return
        if self._failing:
            self._failing = False
            self.reporter.report("sink_recovered", path=str(self._path))

    def _claimed(self, chunk: bytes) -> bytes:
        """As much of the chunk as there is room for: whole lines, or the beginning of one that fits as a whole.

        Raises QuotaError when not even the next line does.
        """
        if self._account is None:
            return chunk
        whole = len(chunk)
        if not chunk.endswith(b"\n"):
            whole = self._outbox.head(SINK_RECORD_BYTES_MAX).index(b"\n") + 1
        try:
            self._account.claim(self._path.name, self._size + whole)
        except QuotaError:
            first = chunk.index(b"\n") + 1 if b"\n" in chunk else whole
            if first == whole:
                raise
            self._account.claim(self._path.name, self._size + first)
            return chunk[:first]
        return chunk

    def _found(self, name: str, size_bytes: int) -> None:
        if self._account is not None:
            self._account.found(name, size_bytes)

    def _recount(self) -> None:
        """The sizes of the file and the older ones, as they are on disk."""
        if self._account is None:
            return
        for path in (self._path, *(self._numbered(number) for number in range(1, self._keep + 1))):
            try:
                found = os.lstat(path)
            except OSError:
                self._found(path.name, 0)
            else:
                self._found(path.name, found.st_size if stat.S_ISREG(found.st_mode) else 0)

    def _open(self) -> None:
        """Append to what is there; a half line of an earlier life gets its end first."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        file = os.open(self._path, flags, 0o640)
        try:
            found = os.fstat(file)
            size = found.st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                size += os.write(file, b"\n")
        except OSError:
            os.close(file)
            raise
        self._outbox.restart()
        self._file, self._inode, self._size = file, found.st_ino, size

    def _rotate(self) -> None:
        """Only between two lines, so that no line is in two files."""
        if self._outbox.partial or self._file is None:
            return
        os.close(self._file)
        self._file = None
        if self._keep:
            for number in range(self._keep - 1, 0, -1):
                older = self._numbered(number)
                if older.exists():
                    os.replace(older, self._numbered(number + 1))
            os.replace(self._path, self._numbered(1))
        else:
            os.unlink(self._path)
        self.rotated += 1
        self._recount()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def counts(self) -> dict[str, int]:
        return {**outbox_counts(self._outbox, self.failed), "rotated": self.rotated}

    async def parcel(self, packer: Packer) -> dict[str, Any]:
        """With the open file, so that a line that is out in part is completed."""
        file = None if self._file is None else [packer.fd(self._file), self._inode, self._size]
        return {**await super().parcel(packer), "outbox": self._outbox.state(), "file": file, "rotated": self.rotated}

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self._outbox.restore(parcel["outbox"])
        self.rotated = parcel["rotated"]
        if parcel["file"] is not None:
            number, self._inode, self._size = parcel["file"]
            self._file = unpacker.fd(number)

    def close(self) -> None:
        self.flush()
        self.note_dropped(self._outbox.clear(), "closed")
        if self._file is not None:
            os.close(self._file)
            self._file = None
