"""Devices that give each other an artefact: real stores, a bus in memory that loses and garbles."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from edgeswarm.core import artefacts_fetch
from edgeswarm.core.artefacts import Manifest
from edgeswarm.drivers import artefact_exchange
from edgeswarm.drivers.artefact_exchange import ArtefactExchange
from edgeswarm.drivers.artefact_store import ArtefactStore
from edgeswarm.errors import LimitError, LocalError, RemoteError

DATA = random.Random(1).randbytes(2_000_000)


class Bus:
    """Topics in memory.  loss, garble: chances for a chunk, loss for requests too."""

    def __init__(self) -> None:
        self.rng = random.Random(2)
        self.loss = self.garble = 0.0
        self.devices: dict[str, Device] = {}
        self.offers = self.chunks = 0
        self.garbler = ""

    def send(self, to: str, sender: str, act: Callable[[ArtefactExchange], None]) -> None:
        for name, device in self.devices.items():
            if name != sender and to in ("", name) and self.rng.random() >= self.loss:
                asyncio.get_running_loop().call_later(self.rng.uniform(0, 0.002), act, device.exchange)


class Device:
    """One device: its store, its exchange, and the exchange's post."""

    def __init__(self, name: str, bus: Bus, store: ArtefactStore) -> None:
        self.name, self.bus, self.store = name, bus, store
        self.listens: set[bytes] = set()
        self.blamed: dict[str, str] = {}
        self.exchange = ArtefactExchange(
            store, self, rng=random.Random(name), fetch_bytes_per_s=1e8, serve_bytes_per_s=1e8
        )

    def listen(self, digest: bytes, on: bool) -> None:
        (self.listens.add if on else self.listens.discard)(digest)

    def ask_offer(self, peer: str, digest: bytes) -> None:
        self.bus.send(peer, self.name, lambda other: other.on_offer_asked(self.name, digest))

    def offer(self, peer: str, manifest: Manifest, have: bytes) -> None:
        self.bus.offers += 1
        fields = manifest.digest, manifest.size_bytes, manifest.chunk_bytes, manifest.chunks, have
        self.bus.send(peer, self.name, lambda other: other.on_offer(self.name, *fields))

    def ask_chunks(self, peer: str, digest: bytes, first: int, count: int) -> None:
        self.bus.send(peer, self.name, lambda other: other.on_chunks_asked(self.name, digest, first, count))

    def send_chunk(self, digest: bytes, index: int, data: bytes, peers: tuple[str, ...]) -> None:
        self.bus.chunks += 1
        if self.bus.rng.random() < self.bus.garble or self.name == self.bus.garbler:
            data = data[:-1] + bytes([data[-1] ^ 1])
        for name, device in self.bus.devices.items():
            if digest in device.listens:
                self.bus.send(name, self.name, lambda other: other.on_chunk(self.name, digest, index, data))

    def blame(self, peer: str, digest: bytes, why: str) -> None:
        self.blamed[peer] = why


@pytest.fixture
async def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bus]:
    monkeypatch.setattr(artefacts_fetch, "ARTEFACT_CHUNK_S", 0.2)
    monkeypatch.setattr(artefacts_fetch, "ARTEFACT_STALL_S", 3.0)
    monkeypatch.setattr(artefacts_fetch, "_OFFER_S", 0.05)
    monkeypatch.setattr(artefact_exchange, "ARTEFACT_OFFER_S", 0.02)
    bus = Bus()
    for name in "abcde":
        bus.devices[name] = Device(name, bus, await ArtefactStore.open(tmp_path / name))
    yield bus
    for device in bus.devices.values():
        await device.exchange.close()
        await device.store.close()


async def test_artefact_reaches_everybody_and_each_piece_is_sent_about_once(bus: Bus) -> None:
    made = await bus.devices["a"].store.add(DATA)
    paths = await asyncio.gather(*(device.exchange.fetch(made.digest) for device in bus.devices.values()))
    assert all(path.read_bytes() == DATA for path in paths)
    assert bus.chunks < 4 * made.count, "what one device asked for, all took"
    assert not any(device.listens for device in bus.devices.values())
    assert await bus.devices["b"].exchange.fetch(made.digest) == paths[1]


async def test_lost_pieces_are_asked_for_again(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts_fetch, "ARTEFACT_STALL_S", 30.0)  # 15 losses in a row of the last chunk do happen
    bus.loss = 0.3
    made = await bus.devices["a"].store.add(DATA)
    paths = await asyncio.gather(*(bus.devices[name].exchange.fetch(made.digest) for name in "bc"))
    assert all(path.read_bytes() == DATA for path in paths)


async def test_liar_is_blamed_and_the_rest_comes_from_others(bus: Bus) -> None:
    bus.garbler = "b"
    made = await bus.devices["a"].store.add(DATA)
    await bus.devices["b"].store.add(DATA)
    await bus.devices["c"].exchange.fetch(made.digest)
    assert bus.devices["c"].blamed.keys() <= {"b"}
    assert await bus.devices["c"].store.read(made.digest) == DATA


async def test_offer_that_no_artefact_has_is_blamed(bus: Bus) -> None:
    device = bus.devices["a"]
    task = asyncio.create_task(device.exchange.fetch(bytes(32)))
    async with asyncio.timeout(30):
        while device.exchange.progress(bytes(32)) is None:  # noqa: ASYNC110 - the disk is asked first
            await asyncio.sleep(0.005)
    device.exchange.on_offer("x", bytes(32), 100, 100, (b"short",), b"")
    device.exchange.on_offer("y", bytes(32), -5, 100, (bytes(32),), b"")
    assert device.blamed.keys() == {"x", "y"}
    device.exchange.on_chunk("x", bytes(32), 0, b"")
    device.exchange.cancel(bytes(32))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_artefact_that_nobody_has_is_an_error_in_words(bus: Bus) -> None:
    with pytest.raises(RemoteError, match="nobody offered it"):
        await bus.devices["a"].exchange.fetch(bytes(32))
    assert bus.devices["a"].exchange.progress(bytes(32)) is None


async def test_fetch_goes_on_after_a_restart(bus: Bus, tmp_path: Path) -> None:
    made = await bus.devices["a"].store.add(DATA)
    device = bus.devices["b"]
    task = asyncio.create_task(device.exchange.fetch(made.digest))
    while (progress := device.exchange.progress(made.digest)) is None or not progress.chunks:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await device.exchange.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(LocalError, match="after close"):
        await device.exchange.fetch(made.digest)
    await device.store.close()
    again = bus.devices["b"] = Device("b", bus, await ArtefactStore.open(tmp_path / "b"))
    await again.exchange.fetch(made.digest)
    assert await again.store.read(made.digest) == DATA


async def test_room_that_is_not_there_ends_the_fetch(bus: Bus) -> None:
    made = await bus.devices["a"].store.add(DATA)
    bus.devices["b"].store.quota_bytes = 1_000
    with pytest.raises(LimitError, match="no room"):
        await bus.devices["b"].exchange.fetch(made.digest)


async def test_requests_for_what_is_gone_send_nothing_and_offers_are_rare(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefact_exchange, "ARTEFACT_OFFER_S", 1_000.0)
    device = bus.devices["a"]
    made = await device.store.add(DATA)
    for name in "bcde" * 5:
        device.exchange.on_offer_asked(name, made.digest)
        device.exchange.on_offer_asked(name, bytes(32))
    assert bus.offers == 1
    await device.store.remove(made.digest)
    device.exchange.on_chunks_asked("b", made.digest, 0, 100)
    device.exchange.on_gone("b")
    await asyncio.sleep(0.05)
    assert bus.chunks == 0


async def test_number_of_fetches_is_bounded(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefact_exchange, "ARTEFACT_FETCHES_MAX", 2)
    exchange = bus.devices["a"].exchange
    tasks = [asyncio.create_task(exchange.fetch(bytes([n]) * 32)) for n in (1, 2, 2)]
    await asyncio.sleep(0)
    with pytest.raises(LimitError, match="at most 2 fetches"):
        await exchange.fetch(bytes([3]) * 32)
    for digest in (1, 2):
        exchange.cancel(bytes([digest]) * 32)
    await asyncio.gather(*tasks, return_exceptions=True)
