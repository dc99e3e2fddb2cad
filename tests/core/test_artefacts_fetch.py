"""Fetching from peers that lose, repeat, garble and lie: the right bytes come out, or a clear failure."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.core.artefacts import Chunks, Manifest, manifest_of
from edgeswarm.core.artefacts_effects import AskChunks, AskOffer, Blame, Check, Done, Effect, Failed, Store, Use
from edgeswarm.core.artefacts_fetch import Fetch
from edgeswarm.limits import ARTEFACT_ASK_CHUNKS_MAX, ARTEFACT_PEER_CHUNKS, ARTEFACT_STALL_S, ARTEFACT_WINDOW_CHUNKS

CHUNK = 50


def blocks(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]


def manifest(data: bytes, digest: bytes | None = None) -> Manifest:
    """digest: another one makes it a lie."""
    true = manifest_of(blocks(data), len(data), CHUNK)
    return true if digest is None else Manifest(digest, len(data), CHUNK, true.chunks)


@dataclass
class Peer:
    """kind: honest | garbler (bad chunks) | forger (another artefact's chunks) | silent | mute (no manifest)."""

    name: str
    kind: str
    data: bytes
    offers: Manifest | None
    have: Chunks

    def answer(self, index: int, rng: random.Random) -> bytes | None:
        if self.kind == "silent" or index not in self.have:
            return None
        return rng.randbytes(CHUNK) if self.kind == "garbler" else blocks(self.data)[index]


@dataclass
class World:
    """A network and a disk on virtual time, around one fetch."""

    fetch: Fetch
    peers: dict[str, Peer]
    rng: random.Random
    loss: float = 0.0
    repeat: float = 0.0
    garble: float = 0.0
    now: float = 0.0
    disk: dict[int, bytes] = field(default_factory=dict)
    used: Manifest | None = None
    blamed: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    _events: list[tuple[float, int, Callable[[], list[Effect]]]] = field(default_factory=list)
    _order: Any = field(default_factory=count)

    def later(self, delay: float, event: Callable[[], list[Effect]]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), event))

    def travel(self, event: Callable[[], list[Effect]]) -> None:
        for _ in range(2 if self.rng.random() < self.repeat else 1):
            if self.rng.random() >= self.loss:
                self.later(self.rng.uniform(0.001, 0.3), event)

    def offer(self, peer: Peer) -> None:
        self.travel(lambda: self.fetch.offered(peer.name, peer.offers, peer.have.to_bytes(), self.now))

    def send(self, peer: Peer, index: int) -> None:
        data = peer.answer(index, self.rng)
        if data is None:
            return
        if self.rng.random() < self.garble:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.travel(lambda: self.fetch.arrived(peer.name, index, data, self.now))

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case AskOffer(name):
                    for peer in self.peers.values():
                        if name in ("", peer.name) and self.rng.random() >= self.loss:
                            self.offer(peer)
                case AskChunks(name, first, length):
                    assert 1 <= length <= ARTEFACT_ASK_CHUNKS_MAX
                    self.asked += length
                    if self.rng.random() >= self.loss:
                        for index in range(first, first + length):
                            self.send(self.peers[name], index)
                case Use(used, keep):
                    self.used = used
                    kept = Chunks(used.count, keep)
                    self.disk = {index: data for index, data in self.disk.items() if index in kept}
                    assert all(used.is_chunk(index, data) for index, data in self.disk.items())
                    assert len(self.disk) == kept.size
                case Store(index, data):
                    assert self.used is not None and self.used.is_chunk(index, data)
                    self.later(self.rng.uniform(0, 0.05), lambda index=index, data=data: self.store(index, data))  # type: ignore[misc]
                case Check():
                    self.later(0.1, lambda: self.fetch.checked(self.whole() == self.fetch.digest, self.now))
                case Blame(name, why):
                    assert name not in self.blamed
                    self.blamed[name] = why
                case Done() | Failed():
                    assert effect is self.fetch.over is effects[-1]
        assert len(self.fetch._storing) <= ARTEFACT_WINDOW_CHUNKS
        assert len(self.fetch._asked) + len(self.fetch._storing) <= 2 * ARTEFACT_WINDOW_CHUNKS
        for name, known in self.fetch._peers.items():
            assert 0 <= known.asked <= ARTEFACT_PEER_CHUNKS
            assert known.asked == sum(each.peer == name for each in self.fetch._asked.values())

    def store(self, index: int, data: bytes) -> list[Effect]:
        self.disk[index] = data
        return self.fetch.stored(index, self.now)

    def whole(self) -> bytes:
        return hashlib.sha256(b"".join(data for _, data in sorted(self.disk.items()))).digest()

    def run(self, until_s: float = 100_000.0) -> Done | Failed:
        self.do(self.fetch.start(self.now))
        for _ in range(200_000):
            if self.fetch.over is not None:
                return self.fetch.over
            wake = self.fetch.wake_at()
            if self._events and (wake is None or self._events[0][0] <= wake):
                self.now, _, event = heapq.heappop(self._events)
                self.do(event())
            else:
                assert wake is not None, "nobody would ever wake it"
                assert wake > self.now or self._events or self.now == 0, "it would be woken for ever"
                self.now = max(self.now, wake)
                self.do(self.fetch.tick(self.now))
            assert self.now < until_s
        raise AssertionError("it does not end")


def world(data: bytes, kinds: list[str], seed: int, *, rate: float = 1e6, **faults: float) -> World:
    rng = random.Random(seed)
    true = manifest(data)
    other = rng.randbytes(len(data))
    nearly = data[:-1] + bytes([data[-1] ^ 1]) if data else b""
    peers = {}
    for number, kind in enumerate(kinds):
        have = Chunks(true.count, b"")
        holds, offers = data, true
        if kind == "part":
            have = Chunks(true.count)
            for index in range(true.count):
                if rng.random() < 0.5:
                    have.add(index)
        elif kind == "forger":
            holds, offers = other, manifest(other, true.digest)
        elif kind == "nearly":
            holds, offers = nearly, manifest(nearly, true.digest)
        elif kind == "silent forger":
            kind, offers = "silent", manifest(rng.randbytes(len(data)), true.digest)
        peers[f"{number} {kind}"] = Peer(f"{number} {kind}", kind, holds, None if kind == "mute" else offers, have)
    fetch = Fetch(true.digest, rng=random.Random(seed + 1), now=0.0, bytes_per_s=rate)
    return World(fetch, peers, rng, **faults)


def fetched(w: World) -> bytes:
    return b"".join(data for _, data in sorted(w.disk.items()))


DATA = random.Random(7).randbytes(40 * CHUNK - 13)


def test_artefact_comes_from_one_peer() -> None:
    w = world(DATA, ["honest"], 1)
    assert w.run() == Done() and fetched(w) == DATA
    assert w.asked == 40, "nothing is asked for twice"
    assert w.fetch.progress().bytes == len(DATA) == w.fetch.progress().bytes_total


def test_empty_artefact_needs_its_manifest_only() -> None:
    w = world(b"", ["honest"], 1)
    assert w.run() == Done() and w.asked == 0


def test_pieces_come_from_several_peers() -> None:
    w = world(DATA, ["part"] * 8, 2)
    assert w.run() == Done() and fetched(w) == DATA


def test_peer_that_did_not_send_its_manifest_serves_once_another_one_did() -> None:
    w = world(DATA, ["mute", "honest"], 3, loss=0.2)
    w.peers["1 honest"].have = Chunks(40)  # knows what is in it, and has none of it
    assert w.run() == Done() and fetched(w) == DATA


def test_peer_that_sends_a_wrong_chunk_is_blamed_and_the_chunk_fetched_elsewhere() -> None:
    w = world(DATA, ["garbler", "honest", "garbler"], 4)
    assert w.run() == Done() and fetched(w) == DATA
    assert set(w.blamed) <= {"0 garbler", "2 garbler"} != set()
    assert all("is not what its manifest says" in why for why in w.blamed.values())


def test_forged_manifest_is_found_out_at_the_end_and_the_true_one_taken() -> None:
    for seed in range(10):
        w = world(DATA, ["forger", "forger", "honest"], seed)
        assert w.run() == Done() and fetched(w) == DATA
        assert not any("honest" in name for name in w.blamed)


def test_chunks_that_both_manifests_name_are_not_fetched_twice() -> None:
    asked = set()
    for seed in range(10):
        w = world(DATA, ["nearly", "nearly", "honest"], seed)
        assert w.run() == Done() and fetched(w) == DATA
        asked.add(w.asked)
    assert asked == {40, 41}


def test_manifest_whose_vouchers_are_silent_gives_way_to_another() -> None:
    w = world(DATA, ["silent forger", "silent forger", "honest"], 6)
    assert w.run() == Done() and fetched(w) == DATA and w.now < ARTEFACT_STALL_S


def test_room_for_manifests_is_made_by_those_that_led_nowhere() -> None:
    w = world(DATA, ["silent forger"] * 6 + ["forger"] * 3 + ["honest"], 7)
    result = w.run()
    assert (result == Done() and fetched(w) == DATA) or isinstance(result, Failed)


def test_fetch_that_nobody_answers_fails_and_says_so() -> None:
    w = world(DATA, [], 8)
    assert w.run() == Failed("nobody offered it for 120 s")
    w = world(DATA, ["silent"], 8)
    result = w.run()
    assert isinstance(result, Failed) and "40 of 40 chunks missing" in result.why
    w = world(DATA, ["garbler"], 8)
    result = w.run()
    assert isinstance(result, Failed) and "0 garbler chunk" in result.why
    w = world(DATA, ["forger"], 8)
    result = w.run()
    assert isinstance(result, Failed) and "vouched for a manifest" in result.why


def test_disk_that_refuses_ends_the_fetch() -> None:
    fetch = Fetch(bytes(32), rng=random.Random(1), now=0.0)
    assert fetch.store_failed("no room", 1.0) == [Failed("the disk refused: no room")]
    assert fetch.tick(2.0) == [] and fetch.wake_at() is None


def test_fetch_goes_on_where_an_earlier_one_ended() -> None:
    w = world(DATA, ["honest"], 9)
    have = Chunks(40)
    for index in range(0, 40, 2):
        have.add(index)
        w.disk[index] = blocks(DATA)[index]
    w.fetch = Fetch(manifest(DATA).digest, rng=random.Random(1), now=0.0, manifest=manifest(DATA), have=have.to_bytes())
    assert w.run() == Done() and fetched(w) == DATA and w.asked == 20


def test_resumed_fetch_with_a_forged_manifest_on_disk_finds_the_true_one() -> None:
    w = world(DATA, ["honest"], 10)
    other = random.Random(3).randbytes(len(DATA))
    forged = manifest(other, manifest(DATA).digest)
    w.disk[0] = blocks(other)[0]
    have = Chunks(40)
    have.add(0)
    w.fetch = Fetch(forged.digest, rng=random.Random(1), now=0.0, manifest=forged, have=have.to_bytes())
    assert w.run() == Done() and fetched(w) == DATA


def test_rate_is_kept() -> None:
    w = world(DATA, ["honest"] * 3, 11)
    w.fetch._bucket.per_s, w.fetch._bucket.burst, w.fetch._bucket._level = 200.0, 100.0, 100.0
    assert w.run() == Done() and fetched(w) == DATA
    assert w.now >= (len(DATA) - 100) / 200.0


def test_peer_that_leaves_and_comes_back_is_asked_again() -> None:
    true = manifest(DATA)
    fetch = Fetch(true.digest, rng=random.Random(1), now=0.0)
    fetch.start(0.0)
    asks = [effect for effect in fetch.offered("a", true, b"", 1.0) if isinstance(effect, AskChunks)]
    assert sum(ask.count for ask in asks) == ARTEFACT_PEER_CHUNKS
    assert not [effect for effect in fetch.gone("a", 2.0) if isinstance(effect, AskChunks)]
    assert [effect for effect in fetch.offered("a", true, b"", 3.0) if isinstance(effect, AskChunks)]


def test_offers_of_other_artefacts_and_chunks_of_strangers_change_nothing() -> None:
    true = manifest(DATA)
    fetch = Fetch(true.digest, rng=random.Random(1), now=0.0)
    fetch.start(0.0)
    assert fetch.arrived("x", 0, b"", 0.5) == []
    assert fetch.offered("a", manifest(b"other" * 100), b"", 1.0) == []
    fetch.offered("a", true, b"", 1.0)
    for index in (-1, 40, 1 << 70, 0):
        assert fetch.arrived("x", index, b"junk", 1.0) == []
    good = fetch.arrived("x", 0, blocks(DATA)[0], 1.0)
    assert good[0] == Store(0, blocks(DATA)[0]), "whoever sends the right bytes is welcome"


# --- law -------------------------------------------------------------------------------------------------------------

KINDS = ["honest", "part", "mute", "garbler", "forger", "nearly", "silent", "silent forger"]


@settings(max_examples=150, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), max_size=10),
    length=st.integers(0, 70 * CHUNK),
    seed=st.integers(0, 1 << 32),
    loss=st.sampled_from([0.0, 0.05, 0.3, 0.9]),
    repeat=st.sampled_from([0.0, 0.3]),
    garble=st.sampled_from([0.0, 0.0, 0.02]),
    rate=st.sampled_from([500.0, 1e4, 1e7]),
)
def test_any_network_gives_the_right_bytes_or_a_clear_failure(
    kinds: list[str], length: int, seed: int, loss: float, repeat: float, garble: float, rate: float
) -> None:
    data = random.Random(seed).randbytes(length)
    w = world(data, kinds, seed, rate=rate, loss=loss, repeat=repeat, garble=garble)
    result = w.run()
    if isinstance(result, Done):
        assert fetched(w) == data
    else:
        assert result.why
    if not garble:
        assert not any("honest" in name or "part" in name or "mute" in name for name in w.blamed)
    liars = len({"forger", "nearly", "silent forger"} & set(kinds))
    if "honest" in kinds and not garble and loss <= 0.05 and kinds.count("silent forger") + liars <= 3:
        assert result == Done()


@pytest.mark.soak
def test_any_network_soak() -> None:
    for seed in range(3_000):
        rng = random.Random(seed)
        kinds = [rng.choice(KINDS) for _ in range(rng.randint(0, 12))]
        test_any_network_gives_the_right_bytes_or_a_clear_failure.hypothesis.inner_test(  # type: ignore[attr-defined]
            kinds, rng.randint(0, 70 * CHUNK), seed, rng.choice([0.0, 0.05, 0.3, 0.9]), rng.choice([0.0, 0.3]),
            rng.choice([0.0, 0.0, 0.02]), rng.choice([500.0, 1e4, 1e7]),
        )  # fmt: skip
