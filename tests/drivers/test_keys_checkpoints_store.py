"""Keys, checkpoints and the store: what must be refused is refused, what was written comes back."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.drivers import checkpoints, keys
from edgeswarm.drivers.checkpoints import CheckpointError
from edgeswarm.drivers.store import Deployed, Store
from edgeswarm.errors import ConfigError, LimitError, PermissionDeniedError, RemoteError

MAC = bytes(range(32))


def test_key_is_made_once_with_mode_0600_and_read_back(tmp_path: Path) -> None:
    key, made = keys.load_or_make(tmp_path / "k" / "device.key")
    again, made_again = keys.load_or_make(tmp_path / "k" / "device.key")
    assert (made, made_again) == (True, False) and key == again
    assert os.stat(tmp_path / "k" / "device.key").st_mode & 0o777 == 0o600
    assert key.seed.hex() not in repr(key)


def test_key_that_others_may_read_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    keys.load_or_make(path)
    path.chmod(0o644)
    with pytest.raises(PermissionDeniedError, match="chmod 600"):
        keys.load_or_make(path)


@pytest.mark.parametrize("text", ["", "abc", "z" * 64, "0" * 63, "0" * 65])
def test_file_that_holds_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "device.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="64 hex digits"):
        keys.load_or_make(path)


def test_key_behind_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    keys.load_or_make(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PermissionDeniedError):
        keys.load_or_make(tmp_path / "link")


def test_derived_keys_differ_by_purpose_and_are_stable(tmp_path: Path) -> None:
    key, _ = keys.load_or_make(tmp_path / "device.key")
    assert key.derive("es-cwasm") == key.derive("es-cwasm") != key.derive("es-checkpoint")


def test_trusted_publishers_are_the_pub_files(tmp_path: Path) -> None:
    key, _ = keys.load_or_make(tmp_path / "publisher.key")
    assert keys.trusted(tmp_path / "trust.d") == {}
    keys.trust(tmp_path / "trust.d", key.public, "me")
    assert keys.trusted(tmp_path / "trust.d") == {key.id: key.public}
    (tmp_path / "trust.d" / "junk.pub").write_text("hello")
    with pytest.raises(ConfigError, match=r"junk\.pub"):
        keys.trusted(tmp_path / "trust.d")


STATES = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.binary(max_size=20),
        lambda inner: st.lists(inner, max_size=5),
        max_leaves=10,
    ),
    max_size=5,
)


@given(STATES)
def test_checkpoint_reads_back_what_was_sealed(state: dict[str, Any]) -> None:
    assert checkpoints.unseal(checkpoints.seal(state, MAC), MAC, who="t") == state


@settings(max_examples=200)
@given(STATES, st.data())
def test_any_change_to_a_checkpoint_is_noticed(state: dict[str, Any], data: st.DataObject) -> None:
    sealed = bytearray(checkpoints.seal(state, MAC))
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "key"]))
    if kind == "flip":
        sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del sealed[data.draw(st.integers(0, len(sealed) - 1)) :]
    elif kind == "grow":
        sealed += b"\0"
    with pytest.raises(CheckpointError):
        checkpoints.unseal(bytes(sealed), bytes(32) if kind == "key" else MAC, who="t")


def test_checkpoint_past_its_bound_is_refused() -> None:
    with pytest.raises(LimitError, match="checkpoint"):
        checkpoints.seal({"a": bytes(17 << 20)}, MAC)


def test_a_failed_replacement_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ckpt"
    checkpoints.write(path, checkpoints.seal({"n": 1}, MAC))

    def power_cut(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(OSError, match="power cut"):
        checkpoints.write(path, checkpoints.seal({"n": 2}, MAC))
    assert checkpoints.read(path, MAC) == {"n": 1}
    assert checkpoints.read(tmp_path / "none", MAC) is None


def test_store_finds_its_agents_again_in_order(tmp_path: Path) -> None:
    async def story() -> list[Deployed]:
        store = await Store.open(tmp_path / "x.db")
        for name in "cab":
            await store.put_agent(Deployed(name, "v1", "running"))
        await store.put_agent(Deployed("c", "v2", "stopped"))
        await store.remove_agent("a")
        await store.close()
        store = await Store.open(tmp_path / "x.db")
        found = await store.agents()
        await store.close()
        return found

    assert asyncio.run(story()) == [Deployed("c", "v2", "stopped"), Deployed("b", "v1", "running")]


def test_frames_set_aside_keep_their_bytes_and_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeswarm.drivers.store.SET_ASIDE_FRAMES_MAX", 3)

    async def story() -> list[tuple[int, str, bytes]]:
        store = await Store.open(tmp_path / "x.db")
        for seq in range(5):
            await store.set_aside("a", "v1", seq, "trap", bytes([seq]))
        found = await store.frames_set_aside("a")
        await store.close()
        return found

    assert asyncio.run(story()) == [(2, "trap", b"\2"), (3, "trap", b"\3"), (4, "trap", b"\4")]


@pytest.mark.parametrize("kind", ["garbage", "newer"])
def test_database_that_is_not_ours_is_refused_with_what_to_do(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.db"
    if kind == "garbage":
        path.write_bytes(b"not a database " * 500)
    else:
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version=99")
        database.close()

    async def story() -> None:
        store = await Store.open(path)
        await store.close()

    with pytest.raises(RemoteError, match=r"schema 99|not a database"):
        asyncio.run(story())
