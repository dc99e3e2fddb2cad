"""The audit log's files, read: segments and head, for `edgeswarm audit` and for audit.py, which writes them."""

from __future__ import annotations

import calendar
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from edgeswarm.core import audit as core
from edgeswarm.core.audit import Fault, Segment
from edgeswarm.errors import RemoteError
from edgeswarm.limits import AUDIT_BYTES_MAX, AUDIT_LINE_BYTES_MAX, AUDIT_SEGMENTS_MAX
from edgeswarm.wire import cose

HEAD = "head"


def text_of(when: float) -> str:
    """2026-11-21T04:00:00.123Z"""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when)) + f".{int(when * 1000) % 1000:03d}Z"


def paths_of(folder: Path) -> list[Path]:
    """The segments, oldest first."""
    return sorted((path for path in folder.glob("*.jsonl") if path.stem.isdigit()), key=number_of)


def read(folder: Path) -> tuple[list[Segment], bytes | None]:
    """Segments, oldest first, and the head.  Raises RemoteError, LimitError, OSError."""
    head = read_head_file(folder / HEAD)
    paths = paths_of(folder)
    if not paths and head is None:
        raise RemoteError("no audit log is here", who=str(folder))
    if len(paths) > AUDIT_SEGMENTS_MAX + 1:
        raise RemoteError(f"at most {AUDIT_SEGMENTS_MAX} segments, found {len(paths)}", who=str(folder))
    segments = []
    for path in paths:
        with open(path, "rb") as file:
            data = file.read(2 * AUDIT_BYTES_MAX + 1)
        if len(data) > 2 * AUDIT_BYTES_MAX:
            raise RemoteError(f"a segment of at most {2 * AUDIT_BYTES_MAX} bytes", who=str(path))
        segments.append(Segment(path.name, data))
    known = None if head is None else core.read_head(head, cose.check)
    while known is not None and len(segments) > 1 and number_of(Path(segments[1].name)) <= known.first:
        segments.pop(0)  # its removal was under way
    return segments, head


def verify(folder: Path, keys: Collection[bytes] | None = None) -> tuple[Fault | None, int, int]:
    """The first fault, the number of lines, and how many of them nobody has signed yet.

    keys: public keys of the device; None: whoever signed is believed.  A log that is being written is read again while
    that changes what is found.  Raises RemoteError, OSError.
    """
    for attempt in range(5):
        segments, head = read(folder)
        fault = core.verify(segments, head, check=cose.check, keys=keys)
        if fault is None or (segments, head) == read(folder):
            break
        time.sleep(0.1 * (attempt + 1))
    lines = sum(segment.data.count(b"\n") for segment in segments)
    known = None if head is None else core.read_head(head, cose.check)
    last = core.read_line(segments[-1].data[:-1].rpartition(b"\n")[2]) if segments else None
    behind = max(0, last.seq - known.seq) if last is not None and known is not None else 0
    return fault, lines, behind


def entries(folder: Path, after: int = 0) -> Iterator[dict[str, Any]]:
    """The records with a number above `after`, oldest first; what is no line of ours is left out."""
    for path in paths_of(folder):
        with open(path, "rb") as file:
            while data := file.readline(AUDIT_LINE_BYTES_MAX):
                line = core.read_line(data.rstrip(b"\n"))
                if line is not None and line.seq > after and not line.is_checkpoint:
                    yield {"seq": line.seq, **line.tree}


def number_of(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() and len(path.stem) < 18 else 0


def began_at(segment: bytes) -> float:
    """The time of its first line; 0 where it has none."""
    line = core.read_line(segment.partition(b"\n")[0])
    try:
        return 0.0 if line is None else calendar.timegm(time.strptime(line.tree["time"][:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0.0


def read_head_file(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(AUDIT_LINE_BYTES_MAX)
    except FileNotFoundError:
        return None
