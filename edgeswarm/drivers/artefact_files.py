"""The files of one artefact: names made from digests only, no links followed, written whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeswarm.core.artefacts import DIGEST_BYTES, Manifest, ManifestError
from edgeswarm.drivers.files import sync_directory
from edgeswarm.errors import CodecError, LimitError
from edgeswarm.limits import MESSAGE_ITEMS_MAX
from edgeswarm.wire.codec import dumps, loads

_NAME: Final = re.compile(r"[0-9a-f]{64}")
GONE: Final = ".gone-"  # a folder on its way out begins with this
_VERSION: Final = 1
_MANIFEST_BYTES_MAX: Final = MESSAGE_ITEMS_MAX * DIGEST_BYTES + 128


@dataclass(frozen=True, slots=True)
class Artefact:
    """One line of a listing."""

    digest: bytes
    size_bytes: int
    whole: bool
    pinned: bool
    used: float


class Folder:
    """Where the files of an artefact are."""

    __slots__ = ("bitmap", "data", "manifest", "part", "path", "pin")

    def __init__(self, root: Path, digest: bytes) -> None:
        assert len(digest) == DIGEST_BYTES, f"a digest of {len(digest)} bytes"
        self.path = root / digest.hex()
        self.data, self.part = self.path / "data", self.path / "part"
        self.manifest, self.bitmap, self.pin = self.path / "manifest", self.path / "bitmap", self.path / "pin"

    def make(self) -> None:
        self.path.mkdir(mode=0o700, exist_ok=True)

    @staticmethod
    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    @staticmethod
    def size_of(path: Path) -> int:
        """-1 if there is no such file, or it is something else."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            return -1
        return found.st_size if stat.S_ISREG(found.st_mode) else -1

    @staticmethod
    def manifest_bytes(manifest: Manifest) -> bytes:
        whole = [_VERSION, manifest.digest, manifest.size_bytes, manifest.chunk_bytes, b"".join(manifest.chunks)]
        return dumps(whole)

    def read_manifest(self) -> Manifest | None:
        """None if there is none, or not one of this artefact."""
        if not 0 < self.size_of(self.manifest) <= _MANIFEST_BYTES_MAX:
            return None
        try:
            value = loads(read_all(self.manifest, _MANIFEST_BYTES_MAX))
            match value:
                case [int(version), bytes(digest), int(size), int(chunk_bytes), bytes(joined)]:
                    chunks = tuple(joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES))
                    manifest = Manifest(digest, size, chunk_bytes, chunks)
                case _:
                    return None
        except (CodecError, LimitError, ManifestError):
            return None
        return manifest if version == _VERSION and digest.hex() == self.path.name else None


def from_hex(name: str) -> bytes | None:
    """The digest that a folder's name says, None for another name."""
    return bytes.fromhex(name) if _NAME.fullmatch(name) else None


def read_all(path: Path, size: int, at: int = 0) -> bytes:
    """`size` bytes from `at`, fewer at the file's end; none if there is no file."""
    try:
        with open(path, "rb", buffering=0, opener=Folder.opener) as file:
            file.seek(at)
            data = bytearray()
            while len(data) < size and (block := file.read(size - len(data))):
                data += block
            return bytes(data)
    except FileNotFoundError:
        return b""


def write_whole(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Replace `path` by `data`: a power cut leaves the old or the new one.  synced=False: for what is only a hint."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(fresh, "xb", opener=Folder.opener) as file:
        file.write(data)
        if synced:
            file.flush()
            os.fsync(file.fileno())
    os.replace(fresh, path)
    if synced:
        sync_directory(path.parent)


def remove_folder(path: Path) -> None:
    """The name goes first, so that no half is ever taken for a whole."""
    if not path.name.startswith(GONE):
        path = path.replace(path.with_name(f"{GONE}{path.name}-{os.urandom(4).hex()}"))
    shutil.rmtree(path)
