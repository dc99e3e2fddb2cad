"""What of a new agent file a device has already: sections of the old one, wherever they lie in it.

A piece is a section with the marker before it.  The plan names the pieces of the new file; those that the old file has
too are laid where the new one wants them, and every chunk that they cover wholly need not be fetched.  What is laid is
checked against the manifest like anything that comes from outside.  Pure.
"""

from __future__ import annotations

import hashlib

from edgeswarm import agentfile
from edgeswarm.agentfile.file import marker
from edgeswarm.core.artefacts import Manifest
from edgeswarm.limits import PLAN_SECTIONS_MAX
from edgeswarm.wire.rollout import SectionPlace


def pieces(data: bytes, *, who: str = "") -> tuple[SectionPlace, ...]:
    """The pieces of an agent file, in their order.  Raises AgentFileError, LimitError."""
    file = agentfile.read(data, who=who, wanted=())
    end = file.body_bytes
    found: list[SectionPlace] = []
    for entry in reversed(file.header.sections):
        size = len(marker(entry.name)) + entry.length
        end -= size
        found.append(SectionPlace(end, size, hashlib.sha256(data[end : end + size]).hexdigest()))
    return tuple(reversed(found))[:PLAN_SECTIONS_MAX]


def chunks_here(manifest: Manifest, wanted: tuple[SectionPlace, ...], old: bytes) -> dict[int, bytes]:
    """Chunks of the new file that `old`, another agent file, holds the bytes of.  Raises as pieces."""
    has = {place.sha256: place for place in pieces(old)}
    ranges: list[tuple[int, bytearray]] = []  # (offset in the new file, bytes), rising, no two that touch
    for place in wanted:
        mine = has.get(place.sha256)
        if mine is None or mine.size_bytes != place.size_bytes:
            continue
        data = old[mine.offset : mine.offset + mine.size_bytes]
        if ranges and ranges[-1][0] + len(ranges[-1][1]) == place.offset:
            ranges[-1][1].extend(data)
        else:
            ranges.append((place.offset, bytearray(data)))
    found: dict[int, bytes] = {}
    for start, run in ranges:
        first = -(-start // manifest.chunk_bytes)
        for index in range(first, manifest.count):
            at = index * manifest.chunk_bytes - start
            data = bytes(run[at : at + manifest.size_of(index)])
            if len(data) < manifest.size_of(index):
                break
            if manifest.is_chunk(index, data):
                found[index] = data
    return found
