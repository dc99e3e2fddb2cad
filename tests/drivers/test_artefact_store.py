"""Artefacts on disk: whole or not there, found again after a restart, within the quota."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeswarm.core.artefacts import Chunks, Manifest, Serve, manifest_of
from edgeswarm.core.artefacts_effects import AskChunks, AskOffer, Check, Done, Effect, Store, Use
from edgeswarm.core.artefacts_fetch import Fetch
from edgeswarm.drivers.artefact_store import ArtefactStore
from edgeswarm.drivers.store import StoreError
from edgeswarm.errors import LimitError, LocalError, RemoteError

CHUNK = 1_000
DATA = random.Random(1).randbytes(10 * CHUNK - 77)


def blocks(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]


def manifest(data: bytes = DATA) -> Manifest:
    return manifest_of(blocks(data), len(data), CHUNK)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ArtefactStore]:
    store = await ArtefactStore.open(tmp_path / "artefacts")
    yield store
    await store.close()


async def reopened(store: ArtefactStore, **named: int) -> ArtefactStore:
    await store.close()
    return await ArtefactStore.open(store.root, **named)  # type: ignore[arg-type]


async def fetch_some(store: ArtefactStore, indexes: list[int], data: bytes = DATA) -> Manifest:
    made = manifest(data)
    await store.use(made, b"\0")
    for index in indexes:
        await store.write(made.digest, index, blocks(data)[index])
    return made


async def test_artefact_is_found_by_its_digest_after_a_restart(store: ArtefactStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA * 20)
    one, two = await store.add(DATA), await store.add_file(tmp_path / "file", pin=True)
    empty = await store.add(b"")
    assert one.digest == hashlib.sha256(DATA).digest() and await store.add(DATA) == one
    again = await reopened(store)
    path = await again.get(two.digest)
    assert path is not None and path.read_bytes() == DATA * 20 and path.parent.name == two.digest.hex()
    assert await again.read(one.digest) == DATA and await again.read(empty.digest) == b""
    assert again.manifest(two.digest) == two and [row.pinned for row in again.artefacts()].count(True) == 1
    assert await again.get(bytes(32)) is None and await again.read_chunk(bytes(32), 0) is None
    assert b"".join([await again.read_chunk(two.digest, n) or b"" for n in range(two.count)]) == DATA * 20
    await again.close()


async def test_artefact_is_whole_only_when_all_was_checked(store: ArtefactStore) -> None:
    made = await fetch_some(store, [3, 1, 9])
    held = store.held(made.digest)
    assert held is not None and held[1].size == 3
    assert await store.get(made.digest) is None and await store.read_chunk(made.digest, 0) is None
    assert await store.read_chunk(made.digest, 9) == blocks(DATA)[9]
    with pytest.raises(RemoteError, match="not chunk 0"):
        await store.write(made.digest, 0, blocks(DATA)[1])
    assert not await store.check(made.digest)
    for index in (0, 2, 4, 5, 6, 7, 8):
        await store.write(made.digest, index, blocks(DATA)[index])
    assert await store.check(made.digest)
    assert await store.read(made.digest) == DATA
    with pytest.raises(LocalError, match="here already"):
        await store.use(made, b"\0")
    with pytest.raises(LocalError, match="not being fetched"):
        await store.write(made.digest, 0, blocks(DATA)[0])


async def test_fetch_goes_on_after_a_restart_with_what_is_sound(store: ArtefactStore) -> None:
    made = await fetch_some(store, [0, 1, 2, 3, 4])
    again = await reopened(store)
    part = again.root / made.digest.hex() / "part"
    with part.open("r+b") as file:
        file.seek(2 * CHUNK)
        file.write(b"rot")
    found = await again.resume(made.digest)
    assert found is not None and found[0] == made
    assert [n for n in range(10) if n in Chunks(10, found[1])] == [0, 1, 3, 4]
    await again.use(*found)
    for index in (2, 5, 6, 7, 8, 9):
        await again.write(made.digest, index, blocks(DATA)[index])
    assert await again.check(made.digest) and await again.read(made.digest) == DATA
    assert await again.resume(made.digest) is None
    await again.close()


async def test_power_cut_before_the_rename_leaves_a_part_to_go_on_with(
    store: ArtefactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await fetch_some(store, list(range(10)))

    def cut(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="power cut"):
        patch.setattr("os.replace", cut)
        await store.check(made.digest)
    again = await reopened(store)
    found = await again.resume(made.digest)
    assert found == (made, b"")
    await again.use(*found)
    assert await again.check(made.digest)
    await again.close()


async def test_half_made_folders_and_strangers_are_cleared_or_passed_over(store: ArtefactStore, tmp_path: Path) -> None:
    made = await store.add(DATA)
    root = store.root
    (root / made.digest.hex() / "data").rename(root / made.digest.hex() / "other")
    for name in ("ab" * 32, "cd" * 32):
        (root / name).mkdir()
    (root / ("cd" * 32) / "manifest").write_bytes(b"junk")
    (root / ("cd" * 32) / "data").write_bytes(b"")
    (root / ".gone-x").mkdir()
    (root / "notes").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / ("ef" * 32)).symlink_to(tmp_path / "elsewhere")
    again = await reopened(store)
    assert again.artefacts() == [] and sorted(path.name for path in root.iterdir()) == ["ef" * 32, "notes"]
    await again.close()


async def test_rotten_chunk_is_not_served_and_its_artefact_given_up(store: ArtefactStore) -> None:
    one, two = await store.add(DATA), await store.add(DATA[1:])
    for made in (one, two):
        path = await store.get(made.digest)
        assert path is not None
        data = bytearray(path.read_bytes())
        data[5_000] ^= 1
        path.write_bytes(data)
    assert await store.read_chunk(one.digest, 0) is None and await store.read(two.digest) is None
    assert store.rotten == 2 and store.artefacts() == []


async def test_link_in_place_of_a_file_is_not_followed(store: ArtefactStore, tmp_path: Path) -> None:
    made = await store.add(DATA)
    (tmp_path / "secret").write_bytes(DATA)
    path = await store.get(made.digest)
    assert path is not None
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(StoreError):
        await store.read(made.digest)


async def test_file_that_changes_while_it_is_read_is_not_kept(
    store: ArtefactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(DATA)
    use = store._use

    def change(made: Manifest, keep: bytes) -> None:
        use(made, keep)
        (tmp_path / "file").write_bytes(DATA[::-1])

    monkeypatch.setattr(store, "_use", change)
    with pytest.raises(LocalError, match="changes while"):
        await store.add_file(tmp_path / "file")
    assert store.artefacts() == []


async def test_full_disk_is_an_error_in_words(store: ArtefactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await fetch_some(store, [0])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="No space left"):
        patch.setattr("os.pwrite", full)
        await store.write(made.digest, 1, blocks(DATA)[1])
    await store.write(made.digest, 1, blocks(DATA)[1])


# --- room ------------------------------------------------------------------------------------------------------------


async def test_longest_unused_goes_first_and_pinned_ones_never(tmp_path: Path) -> None:
    ticks = iter(range(1_000_000, 2_000_000))
    store = await ArtefactStore.open(tmp_path / "a", quota_bytes=300, clock=lambda: float(next(ticks)))
    made = [await store.add(bytes([n]) * 100) for n in range(3)]
    await store.pin(made[0].digest)
    await store.get(made[1].digest)
    await store.add(b"x" * 50)
    assert [row.digest for row in store.artefacts()][:2] == [made[0].digest, made[1].digest]
    assert store.evicted == 1 and await store.get(made[2].digest) is None and store.bytes_used == 250
    await store.add(b"y" * 150)
    assert {row.digest for row in store.artefacts()} >= {made[0].digest} and store.bytes_used <= 300
    with pytest.raises(LimitError, match="no room for 201 bytes: 100 of 300"):
        await store.add(b"z" * 201)
    await store.pin(made[0].digest, False)
    await store.add(b"z" * 300)
    assert store.bytes_used == 300 and len(store.artefacts()) == 1
    with pytest.raises(LocalError, match="not here"):
        await store.pin(made[0].digest)
    await store.close()


async def test_parts_count_and_those_being_fetched_stay(tmp_path: Path) -> None:
    store = await ArtefactStore.open(tmp_path / "a", quota_bytes=len(DATA) + 100)
    made = await fetch_some(store, [0])
    with pytest.raises(LimitError):
        await store.add(b"x" * 101)
    await store.leave(made.digest)
    await store.add(b"x" * 101)
    assert await store.resume(made.digest) is None and store.evicted == 1
    await store.close()
    smaller = await ArtefactStore.open(tmp_path / "a", quota_bytes=100)
    assert smaller.artefacts() == []
    await smaller.close()


async def test_removed_artefact_is_gone(store: ArtefactStore) -> None:
    made = await store.add(DATA, pin=True)
    await store.remove(made.digest)
    await store.remove(made.digest)
    assert store.artefacts() == [] and list(store.root.iterdir()) == []


# --- together --------------------------------------------------------------------------------------------------------


async def test_artefact_travels_from_store_to_store(tmp_path: Path) -> None:
    """Fetch and Serve with real stores on both ends, as a member puts them together; half of the chunks get lost."""
    there = await ArtefactStore.open(tmp_path / "there")
    here = await ArtefactStore.open(tmp_path / "here")
    data = random.Random(5).randbytes(700_000)
    made = await there.add(data)
    clock, rng = 0.0, random.Random(1)
    serve = Serve(1e6, clock)
    held = there.held(made.digest)
    assert held is not None
    serve.hold(*held)
    fetch = Fetch(made.digest, rng=rng, now=clock, bytes_per_s=1e6)

    async def do(effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case AskOffer():
                    await do(fetch.offered("there", made, b"", clock))
                case AskChunks(_, first, count):
                    sends = serve.asked("here", made.digest, first, count, clock)
                    while (wake := serve.wake_at()) is not None:
                        sends += serve.tick(wake)
                    for send in sends:
                        chunk = await there.read_chunk(send.digest, send.index)
                        if chunk is not None and rng.random() < 0.5:
                            await do(fetch.arrived("there", send.index, chunk, clock))
                case Use(used, keep):
                    await here.use(used, keep)
                case Store(index, chunk):
                    await here.write(made.digest, index, chunk)
                    await do(fetch.stored(index, clock))
                case Check():
                    await do(fetch.checked(await here.check(made.digest), clock))

    await do(fetch.start(clock))
    while fetch.over is None:
        wake = fetch.wake_at()
        assert wake is not None
        clock = max(clock, wake)
        await do(fetch.tick(clock))
        await asyncio.sleep(0)
    assert fetch.over == Done() and await here.read(made.digest) == data
    await here.close()
    await there.close()
