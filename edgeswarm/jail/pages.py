"""Pages of descriptors laid over parts of a mapping that is there already: how agents share what they do not write.

Only address arithmetic and mmap(2); whoever calls owns the mapping below and knows that nobody looks at it meanwhile.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final, NamedTuple

PAGE: Final = mmap.PAGESIZE
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE
_NO_RIGHTS: Final = 0
_MAP_FIXED: Final = 0x10
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p


class Span(NamedTuple):
    """Bytes from first to before end, both multiples of PAGE."""

    first: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.first


def around(first: int, end: int) -> Span:
    """The pages that hold these bytes."""
    return Span(first // PAGE * PAGE, -(-end // PAGE) * PAGE)


def within(first: int, end: int) -> Span:
    """The pages that hold nothing but these bytes; empty where there is none."""
    low = -(-first // PAGE) * PAGE
    return Span(low, max(low, end // PAGE * PAGE))


def joined(spans: list[Span]) -> list[Span]:
    """The same pages as few spans, in order, none empty."""
    found: list[Span] = []
    for span in sorted(span for span in spans if span.size):
        if found and span.first <= found[-1].end:
            found[-1] = Span(found[-1].first, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


def without(span: Span, others: list[Span]) -> list[Span]:
    """The parts of `span` that lie in none of the others, which are in order."""
    found, at = [], span.first
    for other in others:
        if other.end <= at or other.first >= span.end:
            continue
        found.append(Span(at, other.first))
        at = other.end
    found.append(Span(at, span.end))
    return [part for part in found if part.size > 0]


def lay_over(address: int, size_bytes: int, fd: int, offset: int, *, shared: bool) -> None:
    """Replace the pages at an address by those of a descriptor, readable and writable.

    shared: writes go to the descriptor's memory; else a page is copied when it is first written.
    """
    flags = _MAP_FIXED | (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
    _map(address, size_bytes, _READ_WRITE, flags, fd, offset)


def give_back(address: int, size_bytes: int) -> None:
    """Replace the pages at an address by nothing: they are freed, their addresses stay taken."""
    _map(address, size_bytes, _NO_RIGHTS, _MAP_FIXED | mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)


def _map(address: int, size_bytes: int, rights: int, flags: int, fd: int, offset: int) -> None:
    found = _libc.mmap(
        ctypes.c_void_p(address),
        ctypes.c_size_t(size_bytes),
        ctypes.c_int(rights),
        ctypes.c_int(flags),
        ctypes.c_int(fd),
        ctypes.c_long(offset),
    )
    if found != address:
        number = ctypes.get_errno()
        raise OSError(number, f"mmap: {os.strerror(number)}")
