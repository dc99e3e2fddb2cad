"""Artefacts on disk, by the SHA-256 of their bytes: DIR/<64 hex digits>/{data,manifest} or {part,bitmap,manifest}.

One thread does the work, a chunk at a time, so neither the loop nor memory feels the size of an artefact.
Invariants: `data` is there only if all of it was checked and synced (written as `part`, fsync, rename); of a `part`
only chunks are counted whose hash was checked, again after each restart (the bitmap says where to look); all together
take at most `quota_bytes`, the longest unused go first, pinned ones and those being fetched never.
Names come from digests only; links and foreign files in DIR are passed over, and never followed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from edgeswarm.core.artefacts import Chunks, Manifest, chunk_bytes_for, manifest_of
from edgeswarm.drivers.artefact_files import (
    GONE,
    Artefact,
    Folder,
    from_hex,
    read_all,
    remove_folder,
    write_whole,
)
from edgeswarm.drivers.files import sync_directory
from edgeswarm.drivers.store import StoreError
from edgeswarm.errors import LimitError, LocalError, RemoteError
from edgeswarm.limits import ARTEFACT_QUOTA_BYTES, ARTEFACTS_MAX

T = TypeVar("T")
_BITMAP_EVERY: Final = 16  # chunks between two writings of the bitmap; it is a hint


@dataclass(slots=True)
class _Entry:
    """used: when it was used last, Unix seconds; open: being fetched; have: the chunks of a part."""

    manifest: Manifest
    whole: bool
    pinned: bool
    used: float
    open: bool = False
    have: Chunks | None = None
    unsaved: int = 0


class ArtefactStore:
    """Open with `await ArtefactStore.open(folder)`."""

    def __init__(self, root: Path, quota_bytes: int, clock: Callable[[], float]) -> None:
        self.root = root
        self.quota_bytes = quota_bytes
        self.evicted = 0
        self.rotten = 0
        """Artefacts given up because a chunk on disk had changed."""
        self._clock = clock
        self._closed = False
        self._entries: dict[bytes, _Entry] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="artefacts")

    @classmethod
    async def open(
        cls, root: Path, *, quota_bytes: int = ARTEFACT_QUOTA_BYTES, clock: Callable[[], float] = time.time
    ) -> ArtefactStore:
        """Look at what is there; half-made remains are removed.  Raises StoreError."""
        store = cls(root, quota_bytes, clock)
        await store._run(store._look)
        return store

    async def close(self) -> None:
        """A second call does nothing."""
        if not self._closed:
            await self._run(self._save_bitmaps)
            self._closed = True
            self._thread.shutdown()

    def _save_bitmaps(self) -> None:
        for digest, entry in self._entries.items():
            if not entry.whole and entry.unsaved:
                self._save_bitmap(digest, entry)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise LocalError(f"artefacts {self.root}: used after close")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            raise StoreError(f"artefacts {self.root}: {error}") from error

    # --- whole artefacts --------------------------------------------------------------------------------------------

    async def add(self, data: bytes, *, pin: bool = False) -> Manifest:
        """Keep `data`.  Raises LimitError where the quota has no room, StoreError."""
        chunk_bytes = chunk_bytes_for(len(data))

        def blocks() -> Iterator[bytes]:
            return (data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes))

        return await self._run(lambda: self._add(blocks, len(data), pin))

    async def add_file(self, path: Path, *, pin: bool = False) -> Manifest:
        """Keep a copy of the file, read twice.  Raises LocalError if it changes meanwhile, LimitError, StoreError."""
        size = path.stat().st_size
        chunk_bytes = chunk_bytes_for(size)

        def blocks() -> Iterator[bytes]:
            with open(path, "rb") as file:
                while block := file.read(chunk_bytes):
                    yield block

        return await self._run(lambda: self._add(blocks, size, pin))

    def _add(self, blocks: Callable[[], Iterator[bytes]], size: int, pin: bool) -> Manifest:
        manifest = manifest_of(blocks(), size)
        entry = self._entries.get(manifest.digest)
        if entry is None or not entry.whole:
            if entry is not None and entry.open:
                raise LocalError(f"artefact {manifest.digest.hex()}: it is being fetched")
            self._use(manifest, b"\0" if manifest.count else b"")
            for index, block in enumerate(blocks()):
                if not manifest.is_chunk(index, block):
                    self._drop(manifest.digest)
                    raise LocalError(f"artefact {manifest.digest.hex()}: the file changes while it is read")
                self._write(manifest.digest, index, block)
            if not self._check(manifest.digest):
                raise LocalError(f"artefact {manifest.digest.hex()}: the file changes while it is read")
        self._touch(manifest.digest)
        if pin:
            self._pin(manifest.digest, True)
        return manifest

    async def get(self, digest: bytes) -> Path | None:
        """The file with the artefact's bytes, if it is here whole; it counts as used."""
        return await self._run(lambda: self._get(digest))

    def _get(self, digest: bytes) -> Path | None:
        entry = self._entries.get(digest)
        if entry is None or not entry.whole:
            return None
        self._touch(digest)
        return Folder(self.root, digest).data

    async def read(self, digest: bytes) -> bytes | None:
        """The artefact's bytes, checked again; None if it is not here whole, or no longer what it was."""

        def work() -> bytes | None:
            path = self._get(digest)
            if path is None:
                return None
            data = read_all(path, self._entries[digest].manifest.size_bytes)
            if hashlib.sha256(data).digest() == digest:
                return data
            self._rot(digest)
            return None

        return await self._run(work)

    def manifest(self, digest: bytes) -> Manifest | None:
        entry = self._entries.get(digest)
        return None if entry is None else entry.manifest

    def held(self, digest: bytes) -> tuple[Manifest, Chunks] | None:
        """What others may be served: of a whole artefact all, of a part what is there."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        return entry.manifest, entry.have or Chunks(entry.manifest.count, b"" if entry.whole else None)

    async def read_chunk(self, digest: bytes, index: int) -> bytes | None:
        """A chunk to serve, checked; None if it is not here.  A whole artefact with a rotten chunk is given up."""

        def work() -> bytes | None:
            entry = self._entries.get(digest)
            if entry is None or not 0 <= index < entry.manifest.count:
                return None
            if not entry.whole and (entry.have is None or index not in entry.have):
                return None
            folder = Folder(self.root, digest)
            size = entry.manifest.size_of(index)
            data = read_all(folder.data if entry.whole else folder.part, size, index * entry.manifest.chunk_bytes)
            if entry.manifest.is_chunk(index, data):
                return data
            if entry.whole:
                self._rot(digest)
            return None

        return await self._run(work)

    # --- fetching ---------------------------------------------------------------------------------------------------

    async def resume(self, digest: bytes) -> tuple[Manifest, bytes] | None:
        """What an earlier fetch left: its manifest and the chunks that are there, each checked now, as on the wire."""

        def work() -> tuple[Manifest, bytes] | None:
            entry = self._entries.get(digest)
            if entry is None or entry.whole:
                return None
            entry.have = self._chunks_on_disk(digest, entry.manifest)
            return (entry.manifest, entry.have.to_bytes()) if entry.have.size else None

        return await self._run(work)

    async def use(self, manifest: Manifest, keep: bytes) -> None:
        """Make ready for chunks of `manifest`; keep: those on disk that hold under it (of the same chunk size).

        Raises LimitError where the quota has no room, LocalError if the artefact is here whole, StoreError.
        """
        await self._run(lambda: self._use(manifest, keep))

    def _use(self, manifest: Manifest, keep: bytes) -> None:
        digest, folder = manifest.digest, Folder(self.root, manifest.digest)
        before = self._entries.get(digest)
        if before is not None and before.whole:
            raise LocalError(f"artefact {digest.hex()}: it is here already")
        self._make_room(manifest.size_bytes, digest)
        folder.make()
        have = Chunks(manifest.count, keep)
        entry = _Entry(manifest, False, before is not None and before.pinned, self._clock(), open=True, have=have)
        self._entries[digest] = entry
        descriptor = os.open(folder.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, manifest.size_bytes)
        finally:
            os.close(descriptor)
        write_whole(folder.manifest, folder.manifest_bytes(manifest))
        self._save_bitmap(digest, entry)

    async def write(self, digest: bytes, index: int, data: bytes) -> None:
        """Put a chunk in its place.  Raises RemoteError if it is not that chunk, StoreError where the disk refuses."""
        await self._run(lambda: self._write(digest, index, data))

    def _write(self, digest: bytes, index: int, data: bytes) -> None:
        entry = self._fetched(digest)
        assert entry.have is not None
        if not entry.manifest.is_chunk(index, data):
            raise RemoteError(f"artefact {digest.hex()}: that is not chunk {index}")
        part = Folder(self.root, digest).part
        descriptor = os.open(part, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            at, rest = index * entry.manifest.chunk_bytes, memoryview(data)
            while rest:
                written = os.pwrite(descriptor, rest, at)
                at, rest = at + written, rest[written:]
        finally:
            os.close(descriptor)
        entry.have.add(index)
        entry.unsaved += 1
        if entry.unsaved >= _BITMAP_EVERY:
            self._save_bitmap(digest, entry)

    async def check(self, digest: bytes) -> bool:
        """Check the whole; True: it is here for good, synced.  False: its manifest lied, and the part stays."""
        return await self._run(lambda: self._check(digest))

    def _check(self, digest: bytes) -> bool:
        entry, folder = self._fetched(digest), Folder(self.root, digest)
        whole = hashlib.sha256()
        with open(folder.part, "rb", opener=folder.opener) as file:
            while block := file.read(entry.manifest.chunk_bytes):
                whole.update(block)
            if whole.digest() != digest:
                return False
            os.fsync(file.fileno())
        os.replace(folder.part, folder.data)
        folder.bitmap.unlink(missing_ok=True)
        sync_directory(folder.path)
        sync_directory(self.root)
        entry.whole, entry.open, entry.have = True, False, None
        self._touch(digest)
        return True

    async def leave(self, digest: bytes) -> None:
        """The fetch is over without success; its chunks stay for another try, until the room is needed."""

        await self._run(lambda: self._leave(digest))

    def _leave(self, digest: bytes) -> None:
        entry = self._entries.get(digest)
        if entry is not None and not entry.whole:
            entry.open = False
            self._save_bitmap(digest, entry)

    def _fetched(self, digest: bytes) -> _Entry:
        entry = self._entries.get(digest)
        if entry is None or entry.whole or entry.have is None:
            raise LocalError(f"artefact {digest.hex()}: it is not being fetched")
        return entry

    def _chunks_on_disk(self, digest: bytes, manifest: Manifest) -> Chunks:
        folder, have = Folder(self.root, digest), Chunks(manifest.count)
        hint = Chunks(manifest.count, read_all(folder.bitmap, -(-manifest.count // 8)) or b"\0")
        for index in range(manifest.count):
            if index in hint:
                data = read_all(folder.part, manifest.size_of(index), index * manifest.chunk_bytes)
                if manifest.is_chunk(index, data):
                    have.add(index)
        return have

    def _save_bitmap(self, digest: bytes, entry: _Entry) -> None:
        assert entry.have is not None
        bits = entry.have.bits.to_bytes(max(1, -(-entry.have.count // 8)), "little")
        write_whole(Folder(self.root, digest).bitmap, bits, synced=False)
        entry.unsaved = 0

    # --- room -------------------------------------------------------------------------------------------------------

    async def pin(self, digest: bytes, pinned: bool = True) -> None:
        """Whether the artefact may be evicted.  Raises LocalError if it is not here."""
        await self._run(lambda: self._pin(digest, pinned))

    def _pin(self, digest: bytes, pinned: bool) -> None:
        entry = self._entries.get(digest)
        if entry is None:
            raise LocalError(f"artefact {digest.hex()}: it is not here")
        pin, entry.pinned = Folder(self.root, digest).pin, pinned
        if pinned:
            write_whole(pin, b"")
        else:
            pin.unlink(missing_ok=True)

    async def remove(self, digest: bytes) -> None:
        """Forget the artefact, pinned or not; a part that is being fetched too."""
        await self._run(lambda: self._drop(digest))

    def artefacts(self) -> list[Artefact]:
        """The longest unused first."""
        rows = [
            Artefact(digest, each.manifest.size_bytes, each.whole, each.pinned, each.used)
            for digest, each in list(self._entries.items())
        ]
        return sorted(rows, key=lambda row: (row.used, row.digest))

    @property
    def bytes_used(self) -> int:
        """Taken by all, parts at their full size."""
        return sum(entry.manifest.size_bytes for entry in list(self._entries.values()))

    def _make_room(self, size: int, keep: bytes) -> None:
        taken = self.bytes_used - (self._entries[keep].manifest.size_bytes if keep in self._entries else 0)
        number = len(self._entries.keys() | {keep})
        free = [digest for digest, each in self._entries.items() if not (each.open or each.pinned or digest == keep)]
        victims = [row for row in self.artefacts() if row.digest in free]
        spare = sum(row.size_bytes for row in victims)
        if taken - spare + size > self.quota_bytes or number - len(victims) > ARTEFACTS_MAX:
            held = f"{taken - spare} of {self.quota_bytes} are pinned or in use"
            raise LimitError(f"artefacts {self.root}: no room for {size} bytes: {held}")
        for row in victims:
            if taken + size <= self.quota_bytes and number <= ARTEFACTS_MAX:
                return
            self._drop(row.digest)
            self.evicted += 1
            taken, number = taken - row.size_bytes, number - 1

    def _drop(self, digest: bytes) -> None:
        if self._entries.pop(digest, None) is not None:
            remove_folder(Folder(self.root, digest).path)

    def _rot(self, digest: bytes) -> None:
        self.rotten += 1
        self._drop(digest)

    def _touch(self, digest: bytes) -> None:
        entry = self._entries[digest]
        entry.used = self._clock()
        os.utime(Folder(self.root, digest).manifest, (entry.used, entry.used))

    def _look(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(self.root.iterdir()):
            if path.name.startswith(GONE):
                remove_folder(path)
                continue
            digest = from_hex(path.name)
            if digest is None or not stat.S_ISDIR(path.lstat().st_mode):
                continue
            folder = Folder(self.root, digest)
            manifest = folder.read_manifest()
            whole = manifest is not None and folder.size_of(folder.data) == manifest.size_bytes
            if manifest is None or not (whole or folder.size_of(folder.part) == manifest.size_bytes):
                remove_folder(path)
                continue
            used, have = folder.manifest.lstat().st_mtime, None if whole else Chunks(manifest.count)
            self._entries[digest] = _Entry(manifest, whole, folder.pin.exists(), used, have=have)
        for row in self.artefacts():  # the quota may have shrunk
            if self.bytes_used > self.quota_bytes and not row.pinned:
                self._drop(row.digest)
                self.evicted += 1
