"""What a fetch wants done (core/artefacts_fetch.py), and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeswarm.core.artefacts import Manifest


@dataclass(frozen=True, slots=True)
class AskOffer:
    """Ask the peer, or everybody ("") for an offer with the manifest."""

    peer: str


@dataclass(frozen=True, slots=True)
class AskChunks:
    """Ask the peer for chunks first .. first + count - 1."""

    peer: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Use:
    """This manifest is in use from here on; keep: the chunks on disk that hold under it.  Comes before any Store.

    seeded: chunks that count as stored, because the driver has their bytes from elsewhere and writes them now.
    """

    manifest: Manifest
    keep: bytes
    seeded: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Store:
    """Write the chunk, which was checked, then call stored() or store_failed()."""

    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Check:
    """All chunks are stored: check the digest of the whole, then call checked()."""


@dataclass(frozen=True, slots=True)
class Blame:
    """The peer broke a rule and is not asked again for this artefact."""

    peer: str
    why: str


@dataclass(frozen=True, slots=True)
class Done:
    """The artefact is here, whole and checked."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The fetch is over; what is stored stays for another try."""

    why: str


Effect = AskOffer | AskChunks | Use | Store | Check | Blame | Done | Failed


@dataclass(frozen=True, slots=True)
class Progress:
    """chunks, bytes: stored, of the manifest in use (0 of 0 until there is one)."""

    chunks: int = 0
    chunks_total: int = 0
    bytes: int = 0
    bytes_total: int = 0
    peers: int = 0
    blamed: dict[str, str] = field(default_factory=dict)
