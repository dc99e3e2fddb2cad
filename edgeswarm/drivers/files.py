"""What a power cut must not halve or undo: a file that is replaced, a name in a directory."""

from __future__ import annotations

import os
from pathlib import Path


def sync_directory(folder: Path) -> None:
    """Returns once what was made, renamed or removed in `folder` is on disk.  Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data`, on disk before this returns; its folders are made, for us alone.  Raises OSError."""
    for folder in reversed([each for each in path.parents if not each.exists()]):
        folder.mkdir(exist_ok=True, mode=0o700)
    fresh = path.with_name(path.name + ".new")
    # a link there is not ours: root writes in folders of a service's user, who must not lead it elsewhere
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
    sync_directory(path.parent)
