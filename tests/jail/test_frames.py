"""The ring: everything that is put comes out, in order, whatever the sizes; and no lie of either side is believed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgeswarm.jail import frames
from edgeswarm.jail.frames import Kind, Reader, RingError, Writer

CAPACITY = 512


def ring(capacity: int = CAPACITY) -> tuple[Writer, Reader, memoryview, memoryview]:
    view = memoryview(bytearray(capacity))
    cell = memoryview(bytearray(8)).cast("Q")
    return Writer(view, cell), Reader(view, cell), view, cell


def told(head: int) -> bytes:
    return struct.pack("<Q", head)


class RingMachine(RuleBasedStateMachine):
    """A ring against a plain list: put, tell, take and release in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.writer, self.reader, self.view, self.cell = ring()
        self.waiting: list[tuple[int, int, int, int, int, bytes]] = []
        self.told = 0
        self.seq = 0

    @rule(size=st.integers(0, 200), slot=st.integers(0, 65535), aux=st.integers(0, 2**32 - 1))
    def put(self, size: int, slot: int, aux: int) -> None:
        self.seq += 1
        payload = bytes((self.seq + i) % 256 for i in range(size))
        before = self.writer.head
        head = self.writer.put(slot, Kind.RUN, self.seq, 3, aux, payload)
        if head is None:
            assert self.writer.head == before
            # a frame of up to half the ring always fits into an empty one
            assert frames.frame_bytes(size) > CAPACITY // 2 or before != self.cell[0]
        else:
            assert head == self.writer.head > before
            self.waiting.append((slot, Kind.RUN, self.seq, 3, aux, payload))

    @rule()
    def tell(self) -> None:
        self.reader.admit(told(self.told) + told(self.writer.head))
        self.told = len(self.waiting)

    @rule()
    def take_all(self) -> None:
        while (frame := self.reader.take()) is not None:
            header, payload = frame
            slot, kind, seq, rows, aux, content = self.waiting.pop(0)
            self.told -= 1
            assert header == (frames.frame_bytes(len(content)), slot, kind, seq, rows, aux)
            assert bytes(payload[: len(content)]) == content
        assert self.told <= 0 or self.reader.position == self.reader.head
        self.told = max(self.told, 0)

    @rule()
    def release(self) -> None:
        self.reader.release()

    @invariant()
    def positions_agree(self) -> None:
        assert self.cell[0] == self.reader.tail <= self.reader.position <= self.reader.head <= self.writer.head
        assert self.writer.head - self.reader.tail <= CAPACITY


class TestRing(RingMachine.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


# the machine tells heads twice; the last one counts, and an old one before it does no harm


@settings(max_examples=200)
@given(st.binary(min_size=0, max_size=CAPACITY), st.integers(0, CAPACITY // 8), st.binary(max_size=24))
def test_a_reader_survives_any_bytes_and_any_head(content: bytes, words: int, heads: bytes) -> None:
    """It answers with frames inside the ring, with nothing, or with RingError; never with anything else."""
    _, reader, view, _ = ring()
    view[: len(content)] = content
    for message in (heads, told(8 * words)):
        try:
            reader.admit(message)
            while (frame := reader.take()) is not None:
                header, payload = frame
                assert header[0] == len(payload) + frames.HEADER_BYTES
                assert len(payload) <= CAPACITY
            assert reader.position <= reader.head
        except RingError:
            return


@settings(max_examples=200)
@given(st.integers(0, 2**64 - 1), st.integers(0, 8))
def test_a_writer_believes_no_impossible_tail(tail: int, count: int) -> None:
    writer, _, _, cell = ring()
    for seq in range(count):
        writer.put(0, Kind.RUN, seq, 1, 0, bytes(8))
    cell[0] = tail
    if tail % 8 == 0 and tail <= writer.head:
        assert writer.tail() == tail
    else:
        with pytest.raises(RingError, match="tail between"):
            writer.put(0, Kind.RUN, 99, 1, 0, b"")


def test_a_tail_that_goes_back_is_a_lie() -> None:
    writer, _, _, cell = ring()
    writer.put(0, Kind.RUN, 1, 1, 0, bytes(100))
    cell[0] = 64
    assert writer.tail() == 64
    cell[0] = 32
    with pytest.raises(RingError, match="tail between 64"):
        writer.tail()


@pytest.mark.parametrize("heads", [b"", b"1234567", told(8) + b"x", told(12), told(CAPACITY + 8), told(2**64 - 8)])
def test_impossible_heads_are_refused(heads: bytes) -> None:
    _, reader, _, _ = ring()
    with pytest.raises(RingError, match="head"):
        reader.admit(heads)


def test_a_head_that_goes_back_is_a_lie() -> None:
    writer, reader, _, _ = ring()
    writer.put(0, Kind.RUN, 1, 1, 0, bytes(8))
    reader.admit(told(writer.head))
    with pytest.raises(RingError, match="head between 32"):
        reader.admit(told(24))


def test_what_was_taken_back_was_never_there() -> None:
    writer, reader, _, _ = ring()
    before = writer.head
    writer.put(0, Kind.RUN, 1, 1, 0, b"first")
    writer.take_back(before)
    writer.put(0, Kind.RUN, 2, 1, 0, b"second")
    reader.admit(told(writer.head))
    frame = reader.take()
    assert frame is not None
    assert frame[0][3] == 2
    assert reader.take() is None


def test_the_two_rings_and_the_words_of_a_jail_do_not_overlap() -> None:
    memory = bytearray(frames.shared_bytes(1000))
    shared = frames.Shared(memoryview(memory))
    for mark, part in enumerate(
        (shared.tail_to_jail, shared.tail_from_jail, shared.hint_to_jail, shared.hint_from_jail), start=1
    ):
        part[0] = mark * 0x0101_0101_0101_0101
    shared.running[0] = shared.running[1] = 5 * 0x0101_0101_0101_0101
    shared.to_jail[:] = b"\6" * len(shared.to_jail)
    shared.from_jail[:] = b"\7" * len(shared.from_jail)
    counts = [memory.count(mark) for mark in range(1, 8)]
    assert counts == [8, 8, 8, 8, 16, 496, 496]
    shared.release()
    with pytest.raises(ValueError, match="released"):
        shared.to_jail[0]


@pytest.mark.parametrize("size", [0, 8, 44, 47])
def test_a_ring_too_small_or_odd_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="ring"):
        Writer(memoryview(bytearray(size)), memoryview(bytearray(8)).cast("Q"))
    with pytest.raises(ValueError, match="no room"):
        frames.Shared(memoryview(bytearray(frames.CONTROL_BYTES + size)))


def test_spinning_ends_by_itself_and_at_once_when_the_hint_differs() -> None:
    hint = memoryview(bytearray(8)).cast("Q")
    pauses: list[int] = []
    assert not frames.spin(hint, 0, lambda: pauses.append(1))
    assert pauses
    hint[0] = 8
    assert frames.spin(hint, 0, lambda: pauses.clear())
    assert pauses


def test_the_fence_for_arm_is_callable_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames.platform, "machine", lambda: "aarch64")
    fence = frames._make_fence()
    fence()
    fence()
