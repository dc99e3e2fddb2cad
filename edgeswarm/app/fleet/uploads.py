"""Agent files that operators bring, piece by piece, until they are whole and of the hash that was said.

Invariants: at most ROLLOUT_UPLOADS_MAX at one time, each of AF_FILE_BYTES_MAX at most; pieces come in order; what is
not what its SHA-256 says never leaves here; an upload without a piece for ROLLOUT_UPLOAD_S is dropped.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeswarm.errors import LimitError, LocalError, RemoteError
from edgeswarm.limits import AF_FILE_BYTES_MAX, ROLLOUT_PIECE_BYTES, ROLLOUT_UPLOAD_S, ROLLOUT_UPLOADS_MAX


@dataclass(slots=True)
class _Upload:
    path: Path
    size: int
    at: float
    have: int = 0
    hash: Any = field(default_factory=hashlib.sha256)


class Uploads:
    """folder: emptied at the start; whoever was in the middle begins again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uploads: dict[bytes, _Upload] = {}
        self._lock = threading.RLock()  # pieces are written in threads
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        with self._lock:
            for digest in list(self._uploads):
                self.drop(digest)

    def drop(self, digest: bytes) -> None:
        with self._lock:
            found = self._uploads.pop(digest, None)
            if found is not None:
                found.path.unlink(missing_ok=True)

    def piece(self, digest: bytes, size: int, offset: int, data: bytes, who: str) -> int | Path:
        """One more piece: where the next one begins, or the whole file.  offset 0 begins.

        Raises RemoteError (out of order, wrong hash), LimitError, LocalError where the disk refuses.
        """
        now = time.monotonic()
        if len(digest) != 32 or not 0 < size <= AF_FILE_BYTES_MAX:
            raise LimitError(f"upload: expected a SHA-256 and 1 to {AF_FILE_BYTES_MAX} bytes, found {size}")
        if not 0 < len(data) <= ROLLOUT_PIECE_BYTES:
            raise LimitError(f"upload: expected pieces of 1 to {ROLLOUT_PIECE_BYTES} bytes, found {len(data)}")
        with self._lock:
            for old in [key for key, one in self._uploads.items() if now - one.at > ROLLOUT_UPLOAD_S]:
                self.drop(old)
            try:
                return self._piece(digest, size, offset, data, who, now)
            except OSError as error:
                self.drop(digest)
                raise LocalError(f"upload: {self._folder}: {error}") from error

    def _piece(self, digest: bytes, size: int, offset: int, data: bytes, who: str, now: float) -> int | Path:
        found = self._uploads.get(digest)
        if found is None:
            if len(self._uploads) >= ROLLOUT_UPLOADS_MAX:
                raise LimitError(f"upload: at most {ROLLOUT_UPLOADS_MAX} at one time")
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = self._uploads[digest] = _Upload(self._folder / digest.hex(), size, now)
            found.path.unlink(missing_ok=True)
        if size != found.size or offset + len(data) > size:
            raise RemoteError(f"upload: expected {found.size} bytes in all, found {offset + len(data)}", who=who)
        if offset != found.have:
            return found.have  # said twice, or lost: from there on
        with open(found.path, "ab") as file:
            file.write(data)
        found.hash.update(data)
        found.have, found.at = found.have + len(data), now
        if found.have < size:
            return found.have
        if found.hash.digest() != digest:
            self.drop(digest)
            raise RemoteError(
                f"upload: expected SHA-256 {digest.hex()[:12]}, found {found.hash.hexdigest()[:12]}", who=who
            )
        return found.path
