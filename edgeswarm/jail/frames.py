"""Frames between the supervisor and a jail, and the two rings of shared memory that carry them.  Pure: no I/O.

One memory holds both directions.  A ring has one writer and one reader; frames never wrap around its end, so that a
payload is always one contiguous view.  Positions count bytes from the ring's birth and never go back.
    reader.tail <= writer.head <= reader.tail + capacity
The *head* is not in the shared memory: the writer sends it through a pipe, 8 bytes a time, and the reader takes the
last one it finds there.  So a wake-up and its position cannot come apart, the kernel orders the payload before it on
every architecture, and each side holds only its own end of the pipe.  (An eventfd is one object for both sides: a
jail could fill it and block the supervisor's write.)  The *tail* is in the shared memory, written by the reader only;
a stale one costs room, never correctness.  A copy of the head is there too, as a hint to a reader that spins.

Whoever reads here distrusts what is written there: every header is copied before it is checked, every length, head
and tail is checked against the reader's own numbers, and RingError says which lie was told.
"""

from __future__ import annotations

import _thread
import platform
import struct
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from edgeswarm.errors import JailError

HEADER: Final = struct.Struct("<IHHQII")
HEADER_BYTES: Final = HEADER.size
ALIGN_BYTES: Final = 8
HEAD: Final = struct.Struct("<Q")
FAULT_TEXT_BYTES_MAX: Final = 104
"""So that the smallest reply slot, 128 bytes, always holds a fault."""

CONTROL_BYTES: Final = 4096
"""First page of the shared memory: tails, hints, and what the jail is doing, each on a cache line of its own."""
_TAIL_TO_JAIL, _TAIL_FROM_JAIL, _RUNNING, _HINT_TO_JAIL, _HINT_FROM_JAIL = 0, 8, 16, 24, 32  # indices of 64-bit words

SPIN_NS: Final = 100_000
"""How long a reader looks at the hint before it sleeps, if its last wait was as short: two processes in lock-step then
skip the wake-ups, 5 to 25 us each.  A stream of less than 10,000 frames a second never spins."""
SPIN_ALONE_NS: Final = 20_000
"""After that much of it, let others run in between."""

_LENGTH: Final = struct.Struct("<I")
_SKIP: Final = 0xFFFF_FFFF
"""Where a frame's length would stand: the rest of the ring is unused, go on at its start."""


class RingError(JailError):
    """The other side of a ring broke the protocol."""


class Kind(IntEnum):
    """What a frame says; those from the jail have the high bit.  `aux` of a REPLY: how long its call took, in us."""

    RUN = 0x01
    WEIGHTS = 0x02
    MEMORY = 0x03
    PING = 0x04
    REPLY = 0x81
    FAULT = 0x82
    ACK = 0x83


class FaultCode(IntEnum):
    """`aux` of a FAULT frame."""

    TRAP = 1
    DEADLINE = 2
    MEMORY = 3
    BAD_FRAME = 4
    NON_FINITE = 5


Header = tuple[int, int, int, int, int, int]
"""Of every frame: length (header and payload, in bytes, a multiple of 8), slot, kind, seq, rows, aux."""


def padded(size_bytes: int) -> int:
    return (size_bytes + ALIGN_BYTES - 1) & -ALIGN_BYTES


def frame_bytes(payload_bytes: int) -> int:
    """What a frame with such a payload takes of a ring."""
    return padded(HEADER_BYTES + payload_bytes)


def _make_fence() -> Callable[[], None]:
    """A full memory barrier, for architectures that reorder stores (arm); x86 does not.

    Releasing one lock and taking another is a store-release before a load-acquire, which no later or earlier access
    passes (Armv8 reference manual, B2.3.11); the interpreter has no other way to say it.  The locks are not of the
    threading module: that one, once imported, has work to do after every fork, and each jail is two forks away.
    """
    if platform.machine() in ("x86_64", "i686"):
        return lambda: None
    first, second = _thread.allocate_lock(), _thread.allocate_lock()

    def fence() -> None:
        first.acquire()
        first.release()
        second.acquire()
        second.release()

    return fence


fence: Final = _make_fence()


class Writer:
    """The writing end.  `cell` is the one 64-bit word of shared memory in which the reader says how far it is."""

    __slots__ = ("_cell", "_tail", "_view", "capacity", "head")

    def __init__(self, view: memoryview, cell: memoryview) -> None:
        if len(view) % ALIGN_BYTES or len(view) < 2 * HEADER_BYTES:
            raise ValueError(f"a ring is a multiple of {ALIGN_BYTES} bytes and holds two frames, found {len(view)}")
        self._view = view
        self._cell = cell
        self._tail = 0
        self.capacity = len(view)
        self.head = 0

    def tail(self) -> int:
        """How far the reader is.  Raises RingError when it claims what it cannot have read, or takes back a claim."""
        tail: int = self._cell[0]
        if tail != self._tail:
            if not self._tail < tail <= self.head or tail % ALIGN_BYTES:
                raise RingError(f"ring: tail between {self._tail} and {self.head} expected, found {tail}")
            self._tail = tail
        return tail

    def put(
        self, slot: int, kind: int, seq: int, rows: int, aux: int, payload: bytes | bytearray | memoryview
    ) -> int | None:
        """Write a whole frame; returns the new head, of which the reader has to be told.

        None with nothing changed when the ring is too full.
        """
        size_bytes = len(payload)
        length = (HEADER_BYTES + size_bytes + ALIGN_BYTES - 1) & -ALIGN_BYTES
        head, capacity, view = self.head, self.capacity, self._view
        offset = head % capacity
        skip = capacity - offset if offset + length > capacity else 0
        if head + skip + length - self.tail() > capacity:
            return None
        if skip:
            _LENGTH.pack_into(view, offset, _SKIP)
            offset = 0
        HEADER.pack_into(view, offset, length, slot, kind, seq, rows, aux)
        offset += HEADER_BYTES
        view[offset : offset + size_bytes] = payload
        self.head = head = head + skip + length
        return head

    def take_back(self, head: int) -> None:
        """Forget what was put since `head`, none of which the reader was told."""
        self.head = head


class Reader:
    """The reading end.  A taken payload stays in place until `release`."""

    __slots__ = ("_cell", "_view", "capacity", "head", "position", "tail")

    def __init__(self, view: memoryview, cell: memoryview) -> None:
        self._view = view
        self._cell = cell
        self.capacity = len(view)
        self.head = 0
        self.tail = 0
        self.position = 0

    def admit(self, told: bytes) -> None:
        """Take note of the heads that came through the pipe.  Raises RingError when the last one cannot be."""
        if not told or len(told) % HEAD.size:
            raise RingError(f"ring: heads of {HEAD.size} bytes expected, found {len(told)} bytes")
        head: int = HEAD.unpack_from(told, len(told) - HEAD.size)[0]
        if not self.head <= head <= self.tail + self.capacity or head % ALIGN_BYTES:
            raise RingError(f"ring: head between {self.head} and {self.tail + self.capacity} expected, found {head}")
        self.head = head

    def take(self) -> tuple[Header, memoryview] | None:
        """The next frame, with its payload (padding included) in place; None at the head."""
        while self.position < self.head:
            offset = self.position % self.capacity
            rest = self.capacity - offset
            if _LENGTH.unpack_from(self._view, offset)[0] == _SKIP:
                if self.position + rest > self.head:
                    raise RingError(f"ring: skip of {rest} bytes passes the head")
                self.position += rest
                continue
            if rest < HEADER_BYTES:
                raise RingError(f"ring: a frame begins {rest} bytes before the end")
            header: Header = HEADER.unpack_from(self._view, offset)
            length = header[0]
            if length < HEADER_BYTES or length % ALIGN_BYTES or length > rest:
                raise RingError(f"ring: frame length of {HEADER_BYTES} to {rest} expected, found {length}")
            if self.position + length > self.head:
                raise RingError(f"ring: a frame of {length} bytes passes the head")
            self.position += length
            return header, self._view[offset + HEADER_BYTES : offset + length]
        return None

    def release(self) -> None:
        """Give the room of everything taken so far back to the writer."""
        fence()
        self.tail = self.position
        self._cell[0] = self.tail


class Shared:
    """The shared memory of one jail, seen from either side."""

    __slots__ = (
        "_words",
        "from_jail",
        "hint_from_jail",
        "hint_to_jail",
        "running",
        "tail_from_jail",
        "tail_to_jail",
        "to_jail",
        "view",
    )

    def __init__(self, view: memoryview) -> None:
        """view: bytes of the whole memory, as `shared_bytes` sized it."""
        half = (len(view) - CONTROL_BYTES) // 2
        if half < 2 * HEADER_BYTES or half % ALIGN_BYTES:
            raise ValueError(f"shared memory of {len(view)} bytes has no room for two rings")
        self.view = view
        self._words = view[:CONTROL_BYTES].cast("Q")
        self.tail_to_jail, self.tail_from_jail, self.hint_to_jail, self.hint_from_jail = (
            self._words[at : at + 1] for at in (_TAIL_TO_JAIL, _TAIL_FROM_JAIL, _HINT_TO_JAIL, _HINT_FROM_JAIL)
        )
        self.running = self._words[_RUNNING : _RUNNING + 2]
        """[monotonic ns at which the call in progress began or 0, its slot]: the jail's claim, never trusted far."""
        self.to_jail = view[CONTROL_BYTES : CONTROL_BYTES + half]
        self.from_jail = view[CONTROL_BYTES + half : CONTROL_BYTES + 2 * half]

    def release(self) -> None:
        """Let go of the memory."""
        words = (self.tail_to_jail, self.tail_from_jail, self.hint_to_jail, self.hint_from_jail, self.running)
        for part in (*words, self.to_jail, self.from_jail, self._words, self.view):
            part.release()


def spin(hint: memoryview, head: int, pause: Callable[[], None]) -> bool:
    """Wait a moment for the hint to differ from the head that is known; True when it does.

    pause: gives the processor to whoever else is to run on it, which may be the writer.  Not at once: two processes
    that always make way for each other stay on one processor and take turns, which costs 10 us a round trip.
    """
    began = time.monotonic_ns()
    while hint[0] == head:
        waited_ns = time.monotonic_ns() - began
        if waited_ns > SPIN_NS:
            return False
        if waited_ns > SPIN_ALONE_NS:
            pause()
    return True


def shared_bytes(ring_bytes: int) -> int:
    """Size of the shared memory for two rings of `ring_bytes` together."""
    return CONTROL_BYTES + 2 * (ring_bytes // 2 & -ALIGN_BYTES)
