"""Weights alone where only they changed: what of a new agent file is here already, and a fetch that many share."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from supervised import header_tree

from edgeswarm import agentfile
from edgeswarm.app import builder
from edgeswarm.core.artefacts import Chunks, Manifest, Serve, manifest_of
from edgeswarm.core.artefacts_effects import AskChunks, AskOffer, Store, Use
from edgeswarm.core.artefacts_fetch import Fetch
from edgeswarm.core.rollout.pieces import chunks_here, pieces
from edgeswarm.drivers import keys
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import ARTEFACT_AGAIN_S, ARTEFACT_QUIET_S, ARTEFACT_SPREAD_S

SECTIONS = ("wasm_kernel", "neural_weights")


def manifest(data: bytes, chunk_bytes: int = 512) -> Manifest:
    blocks = (data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes))
    return manifest_of(blocks, len(data), chunk_bytes)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Two versions with other weights, and a header that is longer by some bytes; the kernel is the same."""
    folder: Path = tmp_path_factory.mktemp("pieces")
    publisher, _ = keys.load_or_make(folder / "k")

    def file(version: str, seed: int) -> bytes:
        tree = header_tree("pump", 4, 2, hidden=(32,), agent_version=version)
        model = builder.model_of(None, sizes=(4, 32, 2), activation="relu", output_activation="linear", seed=seed)
        return builder.build(tree, model, key=publisher)

    old, new = file("1.0.9", 1), file("1.0.10", 2)
    kernels, weights = ([agentfile.read(data).section(name) for data in (old, new)] for name in SECTIONS)
    assert kernels[0] == kernels[1] and weights[0] != weights[1]
    return old, new


def test_pieces_are_where_the_plan_says(files: tuple[bytes, bytes]) -> None:
    for data in files:
        found = pieces(data)
        assert found and [one.offset for one in found] == sorted(one.offset for one in found)
        for one in found:
            piece = data[one.offset : one.offset + one.size_bytes]
            assert piece.startswith(b"\n---BINARY_SECTION:")
            assert hashlib.sha256(piece).hexdigest() == one.sha256


def test_chunks_that_the_old_file_holds_are_found_wherever_they_lie(files: tuple[bytes, bytes]) -> None:
    old, new = files
    wanted = manifest(new)
    found = chunks_here(wanted, pieces(new), old)
    assert 0 < len(found) < wanted.count  # the kernel, and neither the header nor the weights
    assert all(wanted.is_chunk(index, data) for index, data in found.items())


def test_plan_that_lies_about_the_pieces_seeds_nothing_wrong(files: tuple[bytes, bytes]) -> None:
    """Places that are not those of the new file: what would be laid there is not what the manifest names."""
    old, new = files
    wanted = manifest(new)
    for index, data in chunks_here(wanted, pieces(old), old).items():
        assert wanted.is_chunk(index, data)
    with pytest.raises(EdgeSwarmError):
        chunks_here(wanted, pieces(new), b"no agent file")


def test_fetch_asks_only_for_what_is_not_here(files: tuple[bytes, bytes]) -> None:
    old, new = files
    wanted = manifest(new)
    here = chunks_here(wanted, pieces(new), old)
    fetch = Fetch(wanted.digest, rng=random.Random(1), now=0.0, seed=lambda _: here)
    fetch.start(0.0)
    effects = fetch.offered("p", wanted, b"", 0.1)
    assert isinstance(effects[0], Use) and set(effects[0].seeded) == set(here)
    asked = {i for one in effects if isinstance(one, AskChunks) for i in range(one.first, one.first + one.count)}
    assert asked and not asked & set(here)


def chunk(wanted: Manifest, data: bytes, index: int) -> bytes:
    return data[index * wanted.chunk_bytes : index * wanted.chunk_bytes + wanted.size_of(index)]


def test_who_shares_waits_first_and_then_listens_while_others_ask(files: tuple[bytes, bytes]) -> None:
    _, new = files
    wanted = manifest(new)
    fetch = Fetch(wanted.digest, rng=random.Random(2), now=0.0, shared=("v1", "v2"))
    assert fetch.start(0.0) == []  # not even a call for offers: the first voter is asked by name
    assert [type(one) for one in fetch.offered("v1", wanted, b"", 0.1)] == [Use]
    now = 0.2
    effects = fetch.arrived("v1", 0, chunk(wanted, new, 0), now)  # somebody else asked for it
    assert [type(one) for one in effects] == [Store]
    assert fetch.tick(now + ARTEFACT_QUIET_S * 0.9) == []
    later = fetch.tick(max(now + 3 * ARTEFACT_QUIET_S, 1.5 * ARTEFACT_SPREAD_S) + 0.1)
    assert any(isinstance(one, AskChunks) and one.peer == "v1" for one in later)


def test_junk_from_a_peer_holds_nobody_off(files: tuple[bytes, bytes]) -> None:
    _, new = files
    wanted = manifest(new)
    fetch = Fetch(wanted.digest, rng=random.Random(3), now=0.0, shared=("v1",))
    fetch.start(0.0)
    fetch.offered("v1", wanted, b"", 0.1)
    end = 1.5 * ARTEFACT_SPREAD_S + 0.1
    for step in range(100):
        fetch.arrived("stranger", step % wanted.count, b"junk", end * step / 100)
    assert any(isinstance(one, AskChunks) for one in fetch.tick(end))


def test_all_who_share_ask_the_same_peer_for_the_same_chunks(files: tuple[bytes, bytes]) -> None:
    _, new = files
    wanted = manifest(new)
    asked = set()
    for seed in range(20):
        fetch = Fetch(wanted.digest, rng=random.Random(seed), now=0.0, shared=("v2", "v1"))
        fetch.start(0.0)
        for peer in random.Random(seed).sample(["v1", "v2", "w1", "w2"], 4):
            fetch.offered(peer, wanted, b"", 0.1)
        first = next(one for one in fetch.tick(10.0) if not isinstance(one, AskOffer))
        asked.add(first)
    assert len(asked) == 1 and all(isinstance(one, AskChunks) and one.peer == "v2" for one in asked)


def test_chunk_that_went_to_all_is_not_sent_again_at_once(files: tuple[bytes, bytes]) -> None:
    _, new = files
    wanted = manifest(new)
    serve = Serve(1e9, 0.0)
    serve.hold(wanted, Chunks(wanted.count, b""))
    assert len(serve.asked("a", wanted.digest, 0, 4, 0.0)) == 4
    assert serve.asked("b", wanted.digest, 0, 4, 0.1) == [] and serve.spared == 4
    assert len(serve.asked("b", wanted.digest, 0, 4, ARTEFACT_AGAIN_S + 0.2)) == 4
