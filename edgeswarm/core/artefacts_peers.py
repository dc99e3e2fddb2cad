"""What a fetch (core/artefacts_fetch.py) knows of those whom it asks."""

from __future__ import annotations

from dataclasses import dataclass

from edgeswarm.core.artefacts import Manifest


@dataclass(slots=True)
class Peer:
    """offered: the manifest that it vouched for; bits: its chunks as on the wire; asked: chunks it has not sent yet."""

    offered: Manifest | None = None
    bits: bytes = b""
    asked: int = 0
    silent: int = 0  # requests in a row that it let pass
    heard_at: float = 0.0
    not_before: float = 0.0
    offer_asked: bool = False
    useless: bool = False  # sent what the manifest in use does not name, without having vouched for it


@dataclass(slots=True)
class Asked:
    """A chunk that was asked for, of whom and when (seconds, monotonic)."""

    peer: str
    at: float


def run(wanted: int, start: int, length: int) -> tuple[int, int]:
    """The first run of ones at or after bit `start`, else of all: (first bit, length at most `length`)."""
    ahead = wanted >> start
    base = start if ahead else 0
    ahead = ahead or wanted
    first = (ahead & -ahead).bit_length() - 1
    ahead = ~(ahead >> first)
    return base + first, min(length, (ahead & -ahead).bit_length() - 1)
