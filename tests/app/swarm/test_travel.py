"""Checkpoints as they travel: only a device of the roster, and only for the agent that it names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.app.swarm import travel
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import cose

SEED = bytes(range(32))
KEYS = {b"d1": cose.public_key(SEED)}
AAD = travel.purpose("fleet", "cell", "scorer")
STATE = {"pipeline": {"memory": b"\x00\x00\x80?", "seq": 7}, "sources": {0: {"offset": 9}}}
DATA = travel.pack(STATE, agent="scorer", epoch=3, device="d1", sign=cose.signer(SEED), aad=AAD)


def test_what_one_device_packs_another_unpacks_without_its_sources() -> None:
    assert travel.unpack(DATA, agent="scorer", lookup=KEYS.get, aad=AAD) == {"pipeline": STATE["pipeline"]}


def test_another_agent_cell_or_signer_is_refused() -> None:
    with pytest.raises(EdgeSwarmError):
        travel.unpack(DATA, agent="fuse", lookup=KEYS.get, aad=AAD)
    with pytest.raises(EdgeSwarmError):
        travel.unpack(DATA, agent="scorer", lookup=KEYS.get, aad=travel.purpose("fleet", "other", "scorer"))
    with pytest.raises(EdgeSwarmError):
        travel.unpack(DATA, agent="scorer", lookup=lambda kid: None, aad=AAD)
    with pytest.raises(EdgeSwarmError):
        travel.unpack(DATA, agent="scorer", lookup={b"d1": cose.public_key(bytes(32))}.get, aad=AAD)


@given(at=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused(at: int, flip: int) -> None:
    damaged = bytearray(DATA)
    damaged[at] ^= flip
    with pytest.raises(EdgeSwarmError):
        travel.unpack(bytes(damaged), agent="scorer", lookup=KEYS.get, aad=AAD)


@given(st.integers(0, len(DATA) - 1) | st.binary(max_size=64))
def test_truncated_and_random_bytes_are_refused(what: int | bytes) -> None:
    data = DATA[:what] if isinstance(what, int) else what
    with pytest.raises(EdgeSwarmError):
        travel.unpack(data, agent="scorer", lookup=KEYS.get, aad=AAD)
