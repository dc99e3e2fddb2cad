"""Artefacts: what is in one, and who is served which piece when.  Pure.

An artefact is named by the SHA-256 of its bytes.  It travels in chunks, each checked by its own SHA-256 from a
manifest; a manifest comes from a peer and is believed only until the whole has been checked (core/artefacts_fetch.py).
Chunks go to a topic that everybody who wants the artefact listens to: one that is asked for by several is sent once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from edgeswarm.errors import LimitError, RemoteError
from edgeswarm.limits import (
    ARTEFACT_AGAIN_S,
    ARTEFACT_BYTES_MAX,
    ARTEFACT_CHUNK_BYTES_MAX,
    ARTEFACT_PIECE_BYTES,
    ARTEFACT_SERVE_CHUNKS_MAX,
    ARTEFACT_SERVE_PEER_CHUNKS_MAX,
    MESSAGE_ITEMS_MAX,
)

DIGEST_BYTES: Final = 32


class ManifestError(RemoteError):
    """A manifest that no artefact can have."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artefact consists of.

    digest: SHA-256 of the whole; chunks: SHA-256 of each chunk, all of chunk_bytes but the last.
    Invariants: len(chunks) == ceil(size_bytes / chunk_bytes) <= MESSAGE_ITEMS_MAX.
    """

    digest: bytes
    size_bytes: int
    chunk_bytes: int
    chunks: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.size_bytes <= ARTEFACT_BYTES_MAX:
            raise ManifestError(f"manifest: at most {ARTEFACT_BYTES_MAX} bytes, found {self.size_bytes}")
        if not 1 <= self.chunk_bytes <= ARTEFACT_CHUNK_BYTES_MAX:
            raise ManifestError(f"manifest: chunks of 1 to {ARTEFACT_CHUNK_BYTES_MAX} bytes, found {self.chunk_bytes}")
        expected = -(-self.size_bytes // self.chunk_bytes)
        if len(self.chunks) != expected or expected > MESSAGE_ITEMS_MAX:
            found = len(self.chunks)
            raise ManifestError(f"manifest: expected {expected} chunks, at most {MESSAGE_ITEMS_MAX}, found {found}")
        if any(len(each) != DIGEST_BYTES for each in (self.digest, *self.chunks)):
            raise ManifestError(f"manifest: a digest is not {DIGEST_BYTES} bytes")

    @property
    def count(self) -> int:
        """How many chunks."""
        return len(self.chunks)

    def size_of(self, index: int) -> int:
        """Bytes of a chunk; 0 <= index < count."""
        return min(self.chunk_bytes, self.size_bytes - index * self.chunk_bytes)

    def is_chunk(self, index: int, data: bytes) -> bool:
        """Whether `data` is that chunk."""
        return (
            0 <= index < len(self.chunks)
            and len(data) == self.size_of(index)
            and hashlib.sha256(data).digest() == self.chunks[index]
        )


def chunk_bytes_for(size_bytes: int) -> int:
    """The chunk size for an artefact.  Raises LimitError past ARTEFACT_BYTES_MAX."""
    if size_bytes > ARTEFACT_BYTES_MAX:
        raise LimitError(f"artefact: at most {ARTEFACT_BYTES_MAX} bytes, found {size_bytes}")
    chunk_bytes = ARTEFACT_PIECE_BYTES
    while chunk_bytes * MESSAGE_ITEMS_MAX < size_bytes:
        chunk_bytes *= 2
    return chunk_bytes


def manifest_of(blocks: Iterable[bytes], size_bytes: int, chunk_bytes: int = 0) -> Manifest:
    """The manifest of an artefact that is read block by block; each block but the last is one chunk long.

    chunk_bytes: 0 takes chunk_bytes_for(size_bytes).
    """
    whole = hashlib.sha256()
    chunks = []
    for block in blocks:
        whole.update(block)
        chunks.append(hashlib.sha256(block).digest())
    return Manifest(whole.digest(), size_bytes, chunk_bytes or chunk_bytes_for(size_bytes), tuple(chunks))


# --- which chunks ---------------------------------------------------------------------------------------------------


class Chunks:
    """A set of chunk numbers below `count`; on the wire a bit each, lowest first, and no bytes at all for "all"."""

    __slots__ = ("bits", "count", "size")

    def __init__(self, count: int, bits: bytes | None = None) -> None:
        """bits: None is no chunk, else as on the wire; what is missing at its end is not in the set."""
        self.count = count
        mask = (1 << count) - 1
        self.bits = 0 if bits is None else mask if bits == b"" else int.from_bytes(bits, "little") & mask
        self.size = self.bits.bit_count()

    def __contains__(self, index: int) -> bool:
        return bool(self.bits >> index & 1)

    def add(self, index: int) -> None:
        """0 <= index < count."""
        if index not in self:
            self.bits |= 1 << index
            self.size += 1

    def is_full(self) -> bool:
        return self.size == self.count

    def to_bytes(self) -> bytes:
        """As on the wire; never empty unless every chunk is there."""
        return b"" if self.is_full() else self.bits.to_bytes(-(-self.count // 8), "little")


# --- how fast -------------------------------------------------------------------------------------------------------


class TokenBucket:
    """Bytes that may flow: `per_s` a second, at most `burst` saved up.  Starts full."""

    __slots__ = ("_at", "_level", "burst", "per_s")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self.per_s, self.burst = per_s, burst
        self._level, self._at = burst, now

    def take(self, size: float, now: float) -> bool:
        """Whether `size` may flow now; more than the burst may when the bucket is full, and leaves a debt."""
        self._level = min(self.burst, self._level + max(0.0, now - self._at) * self.per_s)
        self._at = max(self._at, now)
        if self._level < min(size, self.burst):
            return False
        self._level -= size
        return True

    def ready_at(self, size: float) -> float:
        """When take(size) will say yes: a millisecond later, so that no rounding wakes anybody too early."""
        return self._at + max(0.0, min(size, self.burst) - self._level) / self.per_s + 0.001


# --- serving --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Read this chunk and publish it.  peers: who asked."""

    digest: bytes
    index: int
    peers: tuple[str, ...]


class Serve:
    """Chunks that others asked for, one after the other, no faster than `bytes_per_s`, peers in turn.

    Invariants: at most ARTEFACT_SERVE_CHUNKS_MAX chunks wait, at most ARTEFACT_SERVE_PEER_CHUNKS_MAX for one peer.
    """

    def __init__(self, bytes_per_s: float, now: float) -> None:
        self._bucket = TokenBucket(bytes_per_s, max(bytes_per_s / 4, ARTEFACT_CHUNK_BYTES_MAX), now)
        self._held: dict[bytes, tuple[Manifest, Chunks]] = {}
        self._queues: OrderedDict[str, OrderedDict[tuple[bytes, int], None]] = OrderedDict()
        self._wanted: dict[tuple[bytes, int], set[str]] = {}
        self.sent = 0
        self.sent_bytes = 0
        self.refused = 0
        """Chunks asked for that we do not have, or that found the queue full."""
        self.spared = 0
        """Chunks asked for that had just been sent to everybody."""
        self._lately: dict[tuple[bytes, int], float] = {}

    def __len__(self) -> int:
        return len(self._wanted)

    def hold(self, manifest: Manifest, have: Chunks) -> None:
        """`have` is looked at when a request comes: a fetch under way may serve what it has."""
        self._held[manifest.digest] = manifest, have

    def drop(self, digest: bytes) -> None:
        """The artefact is gone; what waits of it too."""
        self._held.pop(digest, None)
        for key in [key for key in self._wanted if key[0] == digest]:
            self._done(key)

    def asked(self, peer: str, digest: bytes, first: int, count: int, now: float) -> list[SendChunk]:
        """A request came; chunks to send now."""
        manifest, have = self._held.get(digest, (None, None))
        if manifest is None or have is None or first < 0 or count < 1:
            self.refused += 1
            return self.tick(now)
        if len(self._lately) >= ARTEFACT_SERVE_CHUNKS_MAX:
            self._lately = {key: at for key, at in self._lately.items() if at + ARTEFACT_AGAIN_S > now}
        queue = self._queues.setdefault(peer, OrderedDict())
        for index in range(first, min(first + count, manifest.count)):
            key = digest, index
            if self._lately.get(key, -ARTEFACT_AGAIN_S) + ARTEFACT_AGAIN_S > now and key not in self._wanted:
                self.spared += 1  # it went to all who listen, and who asks listens
                continue
            full = len(queue) >= ARTEFACT_SERVE_PEER_CHUNKS_MAX
            if index not in have or full or (key not in self._wanted and len(self) >= ARTEFACT_SERVE_CHUNKS_MAX):
                self.refused += 1
                continue
            queue[key] = None
            self._wanted.setdefault(key, set()).add(peer)
        if not queue:
            del self._queues[peer]
        return self.tick(now)

    def gone(self, peer: str) -> None:
        """The peer has left: what only it wanted is not sent."""
        for key in self._queues.pop(peer, {}):
            wanted = self._wanted[key]
            wanted.discard(peer)
            if not wanted:
                del self._wanted[key]

    def tick(self, now: float) -> list[SendChunk]:
        """Chunks that may be sent now."""
        sends: list[SendChunk] = []
        while self._queues:
            peer, queue = next(iter(self._queues.items()))
            key = next(iter(queue))
            size = self._held[key[0]][0].size_of(key[1])
            if not self._bucket.take(size, now):
                break
            sends.append(SendChunk(*key, tuple(sorted(self._wanted[key]))))
            self.sent += 1
            self.sent_bytes += size
            self._lately[key] = now
            self._done(key)
            if peer in self._queues:
                self._queues.move_to_end(peer)
        return sends

    def wake_at(self) -> float | None:
        """When tick() will have something; None: nothing waits."""
        if not self._queues:
            return None
        digest, index = next(iter(next(iter(self._queues.values()))))
        return self._bucket.ready_at(self._held[digest][0].size_of(index))

    def _done(self, key: tuple[bytes, int]) -> None:
        for peer in self._wanted.pop(key):
            queue = self._queues[peer]
            del queue[key]
            if not queue:
                del self._queues[peer]
