"""Checkpoints as they travel: only a device of the roster, and only for the agent that it names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.app.log import Log
from edgeswarm.app.swarm import travel
from edgeswarm.app.swarm.artefacts import Artefacts
from edgeswarm.core.cell.types import AgentSpec, AgentState
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import cose
from edgeswarm.wire.capability import granted

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


async def test_what_an_agent_remembers_is_of_those_who_may_have_it_only(tmp_path: Path) -> None:
    """memory.access: a device without it neither sends nor brings a checkpoint, and nobody believes one of it."""
    grants: dict[str, tuple[str, ...]] = {"d1": ("memory.access@scorer",), "d2": ("neural.compute",), "d3": ()}
    roles = {"d1": "worker", "d2": "worker", "d3": "coordinator"}
    log = Log(stream=None)

    def may(capability: str, agent: str = "", *, device: str = "d1") -> bool:
        return granted(grants.get(device, ()), capability, agent)

    current = SimpleNamespace(role=roles.get)
    state = SimpleNamespace(agents={"scorer": AgentState(AgentSpec("scorer", bytes(32)), 1, checkpoint=b"\1" * 32)})
    node: Any = SimpleNamespace(
        folder=tmp_path,
        may=may,
        log=log,
        config=SimpleNamespace(device="d1"),
        rosters=SimpleNamespace(current=current, lookup=lambda device: b"key of " + device.encode()),
        replica=SimpleNamespace(state=state),
    )
    found = travel.Travel(node)
    assert found._key_of("scorer", b"d1") == b"key of d1"
    for agent, device in (("scorer", b"d2"), ("scorer", b"d3"), ("other", b"d1"), ("scorer", b"d9")):
        assert found._key_of(agent, device) is None
    assert found._granted("scorer")
    grants["d1"] = ()
    assert [found._granted("scorer") for _ in range(3)] == [False] * 3
    assert len([line for line in log.ring.lines if "checkpoint_not_granted" in line]) == 1, "told once"

    store = Artefacts(node)
    store._check_readable("d2", bytes(32))  # an agent file is for all
    store._check_readable("d3", b"\1" * 32)  # a coordinator keeps it for the others
    with pytest.raises(EdgeSwarmError, match="checkpoint of scorer: memory.access is not granted"):
        store._check_readable("d2", b"\1" * 32)
    grants["d2"] = ("memory.access",)
    store._check_readable("d2", b"\1" * 32)
