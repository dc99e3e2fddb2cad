"""Manifests, sets of chunks, token buckets, and serving chunks in turn."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core.artefacts import (
    Chunks,
    Manifest,
    ManifestError,
    SendChunk,
    Serve,
    TokenBucket,
    chunk_bytes_for,
    manifest_of,
)
from edgeswarm.errors import LimitError
from edgeswarm.limits import (
    ARTEFACT_BYTES_MAX,
    ARTEFACT_CHUNK_BYTES_MAX,
    ARTEFACT_SERVE_CHUNKS_MAX,
    ARTEFACT_SERVE_PEER_CHUNKS_MAX,
    KIB,
    MESSAGE_ITEMS_MAX,
)

D = bytes(32)
CHUNK = 100


def manifest(count: int, name: int = 0) -> Manifest:
    return manifest_of([bytes([name]) * CHUNK for _ in range(count)], count * CHUNK, CHUNK)


def test_manifest_names_whole_and_pieces() -> None:
    data = random.Random(1).randbytes(250)
    made = manifest_of([data[:100], data[100:200], data[200:]], 250, 100)
    assert made.digest == hashlib.sha256(data).digest() and made.count == 3
    assert [made.size_of(index) for index in range(3)] == [100, 100, 50]
    assert made.is_chunk(2, data[200:]) and not made.is_chunk(1, data[200:]) and not made.is_chunk(3, b"")


@pytest.mark.parametrize(
    ("size", "chunk", "chunks"),
    [
        (-1, 100, ()),
        (ARTEFACT_BYTES_MAX + 1, 100, ()),
        (100, 0, (D,)),
        (100, ARTEFACT_CHUNK_BYTES_MAX + 1, (D,)),
        (100, 100, ()),
        (100, 100, (D, D)),
        (101, 100, (D,)),
        (100, 100, (b"short",)),
        (MESSAGE_ITEMS_MAX + 1, 1, (D,) * (MESSAGE_ITEMS_MAX + 1)),
    ],
)
def test_manifest_that_no_artefact_has_is_refused(size: int, chunk: int, chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(ManifestError):
        Manifest(D, size, chunk, chunks)


def test_chunks_grow_with_the_artefact_so_that_one_offer_names_them_all() -> None:
    assert chunk_bytes_for(0) == 64 * KIB == chunk_bytes_for(64 * KIB * MESSAGE_ITEMS_MAX)
    assert chunk_bytes_for(64 * KIB * MESSAGE_ITEMS_MAX + 1) == 128 * KIB
    assert chunk_bytes_for(ARTEFACT_BYTES_MAX) == ARTEFACT_CHUNK_BYTES_MAX
    with pytest.raises(LimitError):
        chunk_bytes_for(ARTEFACT_BYTES_MAX + 1)


@given(count=st.integers(0, 70), numbers=st.sets(st.integers(0, 69)))
def test_set_of_chunks_travels_as_bits(count: int, numbers: set[int]) -> None:
    chunks = Chunks(count)
    numbers = {number for number in numbers if number < count}
    for number in numbers:
        chunks.add(number)
        chunks.add(number)
    again = Chunks(count, chunks.to_bytes())
    assert {n for n in range(80) if n in again} == numbers and again.size == len(numbers)
    assert again.is_full() == (len(numbers) == count)


def test_bits_beyond_the_last_chunk_and_missing_ones_mean_nothing() -> None:
    assert Chunks(3, b"\xff\xff").bits == 7 and Chunks(20, b"\x01").bits == 1
    assert Chunks(3, b"").is_full() and not Chunks(3).size


@given(takes=st.lists(st.tuples(st.floats(0, 10), st.floats(1, 300)), max_size=60))
def test_no_more_flows_than_the_rate_and_one_burst(takes: list[tuple[float, float]]) -> None:
    bucket, now, flowed = TokenBucket(100.0, 150.0, 5.0), 5.0, 0.0
    for wait, size in takes:
        now += wait
        if not bucket.take(size, now):
            assert bucket.ready_at(size) > now
            now = bucket.ready_at(size)
            assert bucket.take(size, now)
        flowed += size
    assert flowed <= 150.0 + 100.0 * (now - 5.0) + 150.0 + 1e-6


def test_clock_that_goes_back_gives_no_tokens() -> None:
    bucket = TokenBucket(100.0, 100.0, 50.0)
    assert bucket.take(100.0, 50.0) and not bucket.take(1.0, 10.0) and not bucket.take(20.0, 50.1)
    assert bucket.take(20.0, 50.2)


# --- serving ---------------------------------------------------------------------------------------------------------


def serving(rate: float, *held: Manifest) -> Serve:
    serve = Serve(rate, 0.0)
    for each in held:
        serve.hold(each, Chunks(each.count, b""))
    return serve


def drain(serve: Serve, now: float = 0.0) -> list[SendChunk]:
    sends: list[SendChunk] = []
    while (wake := serve.wake_at()) is not None:
        now = max(now, wake)
        sends += serve.tick(now)
    return sends


def test_asked_for_chunks_are_sent_and_others_are_not() -> None:
    held = manifest(10)
    serve = serving(1e6, held)
    assert serve.asked("a", held.digest, 8, 5, 0.0) == [SendChunk(held.digest, n, ("a",)) for n in (8, 9)]
    assert serve.asked("a", b"x" * 32, 0, 1, 0.0) == [] == serve.asked("a", held.digest, -1, 1, 0.0)
    assert serve.asked("a", held.digest, 0, 0, 0.0) == [] and serve.refused == 3
    assert serve.wake_at() is None


def test_only_what_is_there_is_served_and_a_fetch_under_way_serves_more_and_more() -> None:
    held, have = manifest(4), Chunks(4)
    serve = Serve(1e6, 0.0)
    serve.hold(held, have)
    assert serve.asked("a", held.digest, 0, 4, 0.0) == [] and serve.refused == 4
    have.add(2)
    assert [each.index for each in serve.asked("a", held.digest, 0, 4, 0.0)] == [2]


def test_rate_is_kept_and_peers_take_turns() -> None:
    held = manifest(64)
    serve = serving(CHUNK * 10.0, held)
    serve._bucket.burst = serve._bucket._level = CHUNK
    sends = serve.asked("a", held.digest, 0, 20, 0.0) + serve.asked("b", held.digest, 40, 3, 0.0)
    at = {send.index: 0.0 for send in sends}
    while (wake := serve.wake_at()) is not None:
        for send in serve.tick(wake):
            at[send.index] = wake
    assert list(at)[:7] == [0, 1, 40, 2, 41, 3, 42] or list(at)[:7] == [0, 40, 1, 41, 2, 42, 3]
    assert max(at.values()) >= (23 - 1) * 0.1


def test_chunk_that_several_ask_for_is_sent_once_to_all() -> None:
    held = manifest(5)
    serve = serving(1.0, held)
    serve._bucket._level = 0.0
    for peer in "cab":
        assert serve.asked(peer, held.digest, 0, 5, 0.0) == []
    assert len(serve) == 5
    assert drain(serve) == [SendChunk(held.digest, n, ("a", "b", "c")) for n in range(5)]


def test_queue_is_bounded_for_each_peer_and_for_all() -> None:
    held = manifest(4_000)
    serve = serving(1.0, held)
    serve._bucket._level = 0.0
    for number in range(100):
        serve.asked(f"p{number}", held.digest, number * 40, 256, 0.0)
        assert len(serve._queues.get(f"p{number}", {})) <= ARTEFACT_SERVE_PEER_CHUNKS_MAX
    assert len(serve) == ARTEFACT_SERVE_CHUNKS_MAX and serve.refused > 0


def test_peer_that_left_and_artefact_that_is_gone_are_not_sent() -> None:
    one, two = manifest(3, 1), manifest(3, 2)
    serve = serving(1.0, one, two)
    serve._bucket._level = 0.0
    serve.asked("a", one.digest, 0, 3, 0.0)
    serve.asked("b", one.digest, 1, 1, 0.0)
    serve.asked("b", two.digest, 0, 2, 0.0)
    serve.gone("a")
    serve.gone("a")
    serve.drop(two.digest)
    assert drain(serve) == [SendChunk(one.digest, 1, ("b",))] and not serve._queues and not serve._wanted


@given(
    acts=st.lists(
        st.tuples(
            st.sampled_from("ask gone drop tick".split()), st.sampled_from("abc"), st.integers(0, 30), st.integers(1, 9)
        ),
        max_size=60,
    )
)
def test_any_run_of_requests_leaves_the_books_in_order(acts: list[tuple[str, str, int, int]]) -> None:
    """What waits is what some peer waits for, and all of it is sent in the end."""
    held = manifest(30)
    serve = serving(CHUNK * 5.0, held)
    serve._bucket.burst = serve._bucket._level = CHUNK
    for number, (kind, peer, first, count) in enumerate(acts):
        if kind == "ask":
            serve.asked(peer, held.digest, first, count, number * 0.1)
        elif kind == "gone":
            serve.gone(peer)
        elif kind == "drop":
            serve.drop(held.digest)
            serve.hold(held, Chunks(held.count, b""))
        else:
            serve.tick(number * 0.1)
        waiting = {(key, name) for name, queue in serve._queues.items() for key in queue}
        assert waiting == {(key, name) for key, names in serve._wanted.items() for name in names}
        assert all(serve._queues.values())
    expected = len(serve)
    assert len(drain(serve, 100.0)) == expected and len(serve) == 0
