"""The folders that are kept for one agent, DIR/volumes/<agent>/<volume>: files with plain names, within its quota.

The agent itself never sees them: the supervisor reads and writes for it.  Invariants: the account holds the size of
every file that is there, exactly, from `open` on; a file is whole or not there; nothing outside the folder is ever
touched, whatever lies in it: names are plain, links are not followed, what is no regular file is refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeswarm.drivers.quota import AGENT_DATA, TEMP_WORKSPACE, Quota
from edgeswarm.errors import LocalError
from edgeswarm.limits import VOLUME_FILE_BYTES_MAX, VOLUME_FILES_MAX

FOLDERS: Final = (AGENT_DATA, TEMP_WORKSPACE)
"""The volumes that are folders; model_cache is the device's code cache, where an agent's code is counted."""
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_DRAFT: Final = ".draft"


class VolumeError(LocalError):
    """A name that no file of a volume may have, or something there that is no file of ours."""


class Volume:
    """One folder.  `open` makes it, removes what was half-written, and counts."""

    def __init__(self, folder: Path, name: str, quota: Quota) -> None:
        self.folder = folder
        self.name = name
        self.quota = quota

    def open(self, *, emptied: bool = False) -> None:
        """Raises VolumeError where a link or a file is in the folder's place, OSError."""
        if emptied and not self.folder.is_symlink():
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._opened() as handle, os.scandir(handle) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    continue  # none of ours
                if entry.name.endswith(_DRAFT):
                    os.unlink(entry.name, dir_fd=handle)
                elif entry.is_file(follow_symlinks=False):
                    self.quota.found(self.name, entry.name, entry.stat(follow_symlinks=False).st_size)

    def path(self, name: str) -> Path:
        """Where a file of this name is kept.  Raises VolumeError."""
        return self.folder / check_name(self.name, name)

    def names(self) -> list[str]:
        """The files there, sorted."""
        with self._opened() as handle, os.scandir(handle) as entries:
            return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))

    def read(self, name: str) -> bytes:
        """Raises VolumeError, FileNotFoundError, OSError for a link."""
        check_name(self.name, name)
        with self._opened() as handle:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=handle)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise VolumeError(f"{self.name}/{name}: expected a file, found something else")
                return file.read(VOLUME_FILE_BYTES_MAX)

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, or make it: after a power cut the old one is there or the new one.

        Raises VolumeError, QuotaError, OSError: then the old file is as it was, or, where the disk fails at the very
        end, the new one is there.
        """
        check_name(self.name, name)
        if not self.quota.size(self.name, name) and len(self.names()) >= VOLUME_FILES_MAX:
            raise VolumeError(f"{self.name}: at most {VOLUME_FILES_MAX} files (VOLUME_FILES_MAX)")
        if len(data) > VOLUME_FILE_BYTES_MAX:
            raise VolumeError(f"{self.name}/{name}: at most {VOLUME_FILE_BYTES_MAX} bytes, found {len(data)}")
        self.quota.claim(self.name, name, len(data))
        try:
            with self._opened() as handle:
                self._write(handle, name, data)
        except BaseException:
            self.quota.found(self.name, name, self._size(name))
            raise

    def _write(self, handle: int, name: str, data: bytes) -> None:
        draft = name + _DRAFT
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=handle)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600, dir_fd=handle)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.replace(draft, name, src_dir_fd=handle, dst_dir_fd=handle)
            os.fsync(handle)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=handle)
            raise

    def _size(self, name: str) -> int:
        """Of the file as it lies there; 0 for what is none."""
        with contextlib.suppress(OSError):
            found = (self.folder / name).lstat()
            return found.st_size if stat.S_ISREG(found.st_mode) else 0
        return 0

    def remove(self, name: str) -> None:
        """One file; it may be gone already.  Raises VolumeError."""
        check_name(self.name, name)
        with self._opened() as handle, contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=handle)
        self.quota.found(self.name, name, 0)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise VolumeError(f"{self.folder}: expected a folder of ours: {error.strerror}") from None
        try:
            yield handle
        finally:
            os.close(handle)


def check_name(volume: str, name: str) -> str:
    """The name, if a file of a volume may have it.  Raises VolumeError."""
    if not _NAME.fullmatch(name) or name.endswith(_DRAFT) or ".." in name:
        raise VolumeError(f"{volume}: expected a name of letters, digits, ., _ and - (1 to 100), found {name[:100]!r}")
    return name


def split(path: str) -> tuple[str, str] | None:
    """(volume, name) of a path as an agent file writes it, `agent_data/answers.jsonl`; None: it is in no volume.

    Raises VolumeError for a path below a volume that is no plain name.
    """
    volume, slash, name = path.partition("/")
    if not slash or volume not in FOLDERS:
        return None
    return volume, check_name(volume, name)
