"""The audit log of this device on disk: DIR/audit/<first line's number>.jsonl, and `head`.  The chain is core/audit.py.

`record` may be called from any thread; it neither waits nor raises: what it is told goes into a bounded queue, and one
thread of its own writes it.  What the disk does not take is counted and logged, and the count is written later.
A write is on disk before the head names it, so a head that names what is not there tells of lines that were removed.
Invariants: one writer a folder (the supervisor's lock on its state directory); lines are only ever appended.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgeswarm.app.audit_files import (
    HEAD,
    began_at,
    entries,
    number_of,
    paths_of,
    read,
    read_head_file,
    text_of,
    verify,
)
from edgeswarm.app.log import Log
from edgeswarm.core import audit as core
from edgeswarm.core.audit import Outcome, Record
from edgeswarm.drivers.files import sync_directory, write_whole
from edgeswarm.limits import (
    AUDIT_AGE_S_MAX,
    AUDIT_BYTES_MAX,
    AUDIT_CHECKPOINT_LINES,
    AUDIT_SEGMENT_BYTES,
    AUDIT_SEGMENT_S,
    AUDIT_SEGMENTS_MAX,
    AUDIT_WAITING_MAX,
)
from edgeswarm.wire import cose
from edgeswarm.wire.certificate import Signatory

__all__ = ["HEAD", "Audit", "entries", "paths_of", "read", "text_of", "verify"]
_TOLD_S = 60.0  # a disk that stays full is logged once a minute


class Audit:
    """signer: the device's key.  clock: seconds since 1970.  Close it, or the last lines lack their checkpoint."""

    def __init__(
        self,
        folder: Path,
        signer: Signatory,
        log: Log,
        *,
        clock: Callable[[], float] = time.time,
        segment_bytes: int = AUDIT_SEGMENT_BYTES,
        segment_s: float = AUDIT_SEGMENT_S,
        bytes_max: int = AUDIT_BYTES_MAX,
        age_s_max: float = AUDIT_AGE_S_MAX,
    ) -> None:
        self.folder, self.log = folder, log
        self.kid_of: Callable[[str], str] = lambda who: ""
        """The id of the key that `who` signs with, where this device knows it; set by who has a roster."""
        self.lost = 0  # lines that neither the queue nor the disk took, and that no line tells of yet
        self._signer, self._clock = signer, clock
        self._segment_bytes, self._segment_s = segment_bytes, segment_s
        self._bytes_max, self._age_s_max = bytes_max, age_s_max
        self._waiting: deque[tuple[float, Record]] = deque()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit")
        self._draining = self._closed = False
        self._open = False
        self._path = folder / "none"
        self._began = 0.0  # time of the segment's first line
        self._size = 0
        self._first = self._seq = 0
        self._prev = core.GENESIS
        self._unsigned = 0  # lines since the last checkpoint
        self._told = 0.0

    # --- what is told -------------------------------------------------------------------------------------------------

    def record(
        self,
        action: str,
        *,
        who: str,
        role: str = "",
        capability: str = "",
        target: str = "",
        outcome: Outcome = "ok",
        reason: str = "",
        cause: str = "",
    ) -> None:
        """One line.  action: what was done, as `agent.deploy`; who: a device, an operator, a user of this machine."""
        try:
            kid = self.kid_of(who)
        except Exception:  # whoever set it: the line is worth more than the key id
            kid = ""
        self._put(Record(action, who, kid, role, capability, target, outcome, reason, cause))

    def new_signer(self, signer: Signatory) -> None:
        """The device's key has changed: sign with this one from the next line on."""
        self._put(Record("audit.key", "edgeswarm", target=signer.kid.decode()), signer)

    def _put(self, record: Record, signer: Signatory | None = None) -> None:
        with self._lock:
            if self._closed or len(self._waiting) >= AUDIT_WAITING_MAX:
                self.lost += 1
                return
            self._waiting.append((self._clock(), record))
            if signer is not None:
                self._next_signer = signer
            if self._draining:
                return
            self._draining = True
        try:
            self._thread.submit(self._drain)
        except RuntimeError:  # the interpreter is going down
            self._draining = False

    _next_signer: Signatory | None = None

    def open(self) -> None:
        """Begin a run: repair what a power cut left, and write the checkpoint that starts it.  Does not wait."""
        self._put(Record("audit.open", "edgeswarm"))

    def close(self) -> None:
        """Write what waits and the last checkpoint; waits for the disk.  May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._thread.submit(self._finish).result()
        self._thread.shutdown()

    def flush(self) -> None:
        """Returns once all that was told until now is on disk, or counted as lost."""
        self._thread.submit(lambda: None).result()

    # --- the writer's thread ------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        while True:
            with self._lock:
                taken = list(self._waiting)
                self._waiting.clear()
                signer, self._next_signer = self._next_signer, None
                if not taken:
                    self._draining = False
                    return
            try:
                if not self._open:
                    taken = self._begin() + taken
                self._write(taken, "lines")
                if signer is not None:
                    self._sign_with(signer)
                self._retain()
            except OSError as error:
                self._failed(len(taken), error)
            except Exception as error:  # a fault of ours must not end the thread
                self.lost += len(taken)
                self.log.crash("audit_fault", error)

    def _finish(self) -> None:
        try:
            self._drain()
            if self._open:
                self._write([], "close")
        except OSError as error:
            self._failed(0, error)

    def _failed(self, count: int, error: OSError) -> None:
        with self._lock:
            self.lost += count
        self._open = False  # what was written of it is looked at anew
        if self._clock() - self._told >= _TOLD_S:
            self._told = self._clock()
            self.log.error("audit_not_written", lost=self.lost, error=str(error))

    def _sign_with(self, signer: Signatory) -> None:
        self._write([], "key")  # the old key's last word
        self._signer = signer
        self._write([], "key")

    def _begin(self) -> list[tuple[float, Record]]:
        """Find the last line, cut off what is torn, and say what is not as it should be."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found: list[str] = []
        paths = paths_of(self.folder)
        head_data = read_head_file(self.folder / HEAD)
        head = None if head_data is None else core.read_head(head_data, cose.check)
        if head is not None:
            for path in [path for path in paths if number_of(path) < head.first][: len(paths) - 1]:
                path.unlink()
                paths.remove(path)
        self._first = number_of(paths[0]) if paths else 1
        self._seq, self._prev = 0, core.GENESIS
        while paths:
            path = paths[-1]
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                found.append(f"{path.name}: cut off {len(data) - len(whole)} bytes of a line that was not whole")
                os.truncate(path, len(whole))
            if not whole:
                path.unlink()
                paths.pop()
                continue
            last = whole[:-1].rpartition(b"\n")[2]
            line = core.read_line(last)
            self._seq = line.seq if line is not None else number_of(path) + whole.count(b"\n") - 1
            self._prev = core.line_hash(last)
            if line is None:
                found.append(f"{path.name}: its last line is none of an audit log")
            self._path, self._size, self._began = path, len(whole), began_at(whole)
            break
        if head is None and (self._seq or head_data is not None):
            found.append("the head was not here" if head_data is None else "the head's signature did not hold")
        elif head is not None and head.seq > self._seq:
            found.append(f"lines {self._seq + 1} to {head.seq} were not here")
            self._seq = head.seq  # the gap stays to be seen
        elif head is not None and head.seq < self._seq:
            found.append(f"lines {head.seq + 1} to {self._seq} were not signed when this device stopped")
        self._open = True
        self._unsigned = 0
        if not paths:
            self._new_segment("start")
        else:
            self._append([core.checkpoint_line("start", **self._next())])
        now = self._clock()
        return [(now, Record("audit.repair", "edgeswarm", outcome="failed", reason=text)) for text in found]

    def _write(self, taken: list[tuple[float, Record]], why: str) -> None:
        """Lines, on disk; then the head."""
        with self._lock:
            lost, self.lost = self.lost, 0
        if lost:
            reason = f"{lost} lines before this one were lost: the disk was full, or too many came at once"
            taken = [(self._clock(), Record("audit.lost", "edgeswarm", outcome="failed", reason=reason)), *taken]
        try:
            for at in range(0, len(taken), AUDIT_CHECKPOINT_LINES):
                lines = []
                for when, record in taken[at : at + AUDIT_CHECKPOINT_LINES]:
                    lines.append(core.record_line(record, **self._place(when)))
                    self._count(lines[-1])
                self._unsigned += len(lines)
                if self._unsigned >= AUDIT_CHECKPOINT_LINES:
                    lines.append(core.checkpoint_line("lines", **self._next()))
                    self._count(lines[-1])
                    self._unsigned = 0
                self._append(lines, counted=True)
                if self._size >= self._segment_bytes or self._clock() - self._began > self._segment_s:
                    self._new_segment("segment")
            if why != "lines":
                self._append([core.checkpoint_line(why, **self._next())])
                self._unsigned = 0
        except OSError:
            with self._lock:
                self.lost += lost
            raise
        self._write_head()

    def _place(self, when: float) -> dict[str, Any]:
        return {"seq": self._seq + 1, "prev": self._prev, "time": text_of(when)}

    def _next(self) -> dict[str, Any]:
        """What a checkpoint takes."""
        return {**self._place(self._clock()), "public": self._signer.public, "sign": self._signer.sign}

    def _count(self, line: bytes) -> None:
        self._seq += 1
        self._prev = core.line_hash(line)

    def _append(self, lines: list[bytes], *, counted: bool = False) -> None:
        if not lines:
            return
        for line in () if counted else lines:
            self._count(line)
        data = b"".join(line + b"\n" for line in lines)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            written = os.write(descriptor, data)
            if written < len(data):
                raise OSError(28, "the disk took a part of it")
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._size += len(data)

    def _new_segment(self, why: str) -> None:
        """Its first line names the last hash, and is signed."""
        line = core.checkpoint_line(why, **self._next())
        self._path = self.folder / core.segment_name(self._seq + 1)
        if not self._seq:
            self._first = 1
        self._size, self._began, self._unsigned = 0, self._clock(), 0
        self._append([line])
        sync_directory(self.folder)

    def _write_head(self) -> None:
        signer = self._signer
        line = core.head_line(
            first=self._first, seq=self._seq, hash_=self._prev, public=signer.public, sign=signer.sign
        )
        write_whole(self.folder / HEAD, line + b"\n")

    def _retain(self) -> None:
        """Remove the oldest segments that are beyond the bounds; the head says so first."""
        paths = paths_of(self.folder)
        total = sum(path.stat().st_size for path in paths)
        gone: list[Path] = []
        while len(paths) > 1:  # a segment ended when the next one began, and that is its last write
            oldest = paths[0].stat()
            old = self._clock() - oldest.st_mtime > self._age_s_max
            if total <= self._bytes_max and not old and len(paths) <= AUDIT_SEGMENTS_MAX:
                break
            total -= oldest.st_size
            gone.append(paths.pop(0))
        if gone:
            self._first = number_of(paths[0])
            self._write_head()
            for path in gone:
                path.unlink()
