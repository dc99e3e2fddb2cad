"""Whether SQLite's write-ahead log was damaged where it had been synced.

SQLite reads a write-ahead log up to the first frame whose checksum fails and drops the rest in silence.  After a power
cut that is right: only the last transaction can be torn, and nobody was promised it.  After rot in the middle it would
lose transactions that were acknowledged.  With synchronous=FULL a transaction is synced before the next one is written:
so if a broken frame is followed by the end of its transaction *and* by the end of another one, the broken frame had
been on disk, and the database is refused.  What this cannot see: damage to the last transaction, which looks torn.
Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final

_HEADER: Final = struct.Struct(">IIIIIIII")  # magic, version, page size, checkpoint, salts 1 and 2, checksums 1 and 2
_FRAME: Final = struct.Struct(">IIIIII")  # page, pages of the database (commit) or 0, salts 1 and 2, checksums 1 and 2
_MAGIC: Final = 0x377F0682  # its lowest bit: checksums are big-endian
_VERSION: Final = 3_007_000
_MASK: Final = 0xFFFFFFFF


class WalDamagedError(Exception):
    """What is wrong; the caller knows the file."""


def check_wal(path: Path) -> int:
    """The number of whole frames in the log at `path`; 0 where there is none.  Raises WalDamagedError, OSError."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return 0  # cut before its first frame: nothing in it was synced
        magic, version, page_bytes, _, salt_1, salt_2, sum_1, sum_2 = _HEADER.unpack(head)
        words = struct.Struct(">II" if magic & 1 else "<II")
        known = magic & ~1 == _MAGIC and version == _VERSION and 512 <= page_bytes <= 65_536
        if not known or _checksum(words, head[:24], (0, 0)) != (sum_1, sum_2):
            if file.read(_FRAME.size):
                raise WalDamagedError("its header is broken, but frames follow")
            return 0
        return _check_frames(file, page_bytes, (salt_1, salt_2), words, (sum_1, sum_2))


def _check_frames(
    file: BinaryIO, page_bytes: int, salts: tuple[int, int], words: struct.Struct, running: tuple[int, int]
) -> int:
    """Frames up to the first broken one.  running: the checksum goes on from frame to frame."""
    whole = 0
    ends_behind = 0  # transactions that end at the broken frame or behind it
    broken = False
    while len(frame := file.read(_FRAME.size + page_bytes)) == _FRAME.size + page_bytes:
        page, commit, salt_1, salt_2, sum_1, sum_2 = _FRAME.unpack_from(frame)
        ours = (salt_1, salt_2) == salts and page > 0
        if not broken:
            if ours:
                running = _checksum(words, frame[_FRAME.size :], _checksum(words, frame[:8], running))
            if ours and running == (sum_1, sum_2):
                whole += 1
                continue
            broken = True
        if ours and commit:
            ends_behind += 1
            if ends_behind > 1:
                raise WalDamagedError(f"frame {whole + 1} is broken, but later transactions were synced")
    return whole


def _checksum(words: struct.Struct, data: bytes, start: tuple[int, int]) -> tuple[int, int]:
    """SQLite's checksum of `data`, whose length is a multiple of 8."""
    s, t = start
    for a, b in words.iter_unpack(data):
        s = (s + a + t) & _MASK
        t = (t + b + s) & _MASK
    return s, t
