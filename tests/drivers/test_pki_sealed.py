"""Keys under a passphrase."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.drivers import keys
from edgeswarm.drivers.pki import sealed
from edgeswarm.drivers.pki.sealed import Cost, WrongPassphraseError
from edgeswarm.errors import ConfigError, EdgeSwarmError, LocalError, PermissionDeniedError

CHEAP = Cost(1, 8_192)
PASS = "correct horse battery"
SEED = bytes(range(32))


def saved(tmp_path: Path) -> Path:
    path = tmp_path / "root.key"
    sealed.save_key(path, SEED, PASS, cost=CHEAP)
    return path


def test_sealed_key_opens_with_its_passphrase_and_no_other(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert sealed.load_key(path, lambda: PASS).seed == SEED
    for wrong in ("correct horse batterz", PASS + " ", "", PASS.upper()):
        with pytest.raises(WrongPassphraseError, match="passphrase is wrong"):
            sealed.load_key(path, lambda wrong=wrong: wrong)  # type: ignore[misc]


def test_sealed_file_is_its_owner_s_and_tells_nothing_of_the_seed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SEED.hex().encode() not in path.read_bytes() and SEED not in path.read_bytes()
    path.chmod(0o640)
    with pytest.raises(PermissionDeniedError, match="0600"):
        sealed.load_key(path, lambda: PASS)


def test_plain_key_of_a_device_is_read_too_and_asks_for_nothing(tmp_path: Path) -> None:
    key, _ = keys.load_or_make(tmp_path / "device.key")
    assert sealed.load_key(tmp_path / "device.key", None) == key


def test_nobody_to_ask_is_told(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="nobody to ask"):
        sealed.load_key(saved(tmp_path), None)


@given(passphrase=st.text(min_size=8, max_size=40), secret=st.binary(max_size=100))
@settings(max_examples=20, deadline=None)
def test_unseal_gives_back_what_was_sealed(passphrase: str, secret: bytes) -> None:
    try:
        text = sealed.seal(secret, passphrase, cost=CHEAP)
    except UnicodeEncodeError:
        return  # a lone surrogate cannot be typed
    assert sealed.unseal(text, passphrase, who="x") == secret


def test_one_letter_typed_in_two_ways_is_one_passphrase() -> None:
    assert sealed.unseal(sealed.seal(b"x", "schl\u00fcssel", cost=CHEAP), "schlu\u0308ssel", who="x") == b"x"


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    good = saved(tmp_path).read_bytes()
    for at in range(len(good)):
        for other in (b"0", b"f", b"A", b"\n"):
            bad = good[:at] + other + good[at + 1 :]
            if bad == good:
                continue
            with pytest.raises(EdgeSwarmError):
                sealed.unseal(bad, PASS, who="x")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("argon2id 1 99999999999 " + "0" * 32, "at most 20 passes"),  # a file must not take a machine's memory
        ("argon2id 9999 8192 " + "0" * 32, "at most 20 passes"),
        ("argon2id 1 64 " + "0" * 32, "8192 to"),
        ("argon2i 1 8192 " + "0" * 32, "line 2: expected"),
        ("argon2id 1 8192 " + "0" * 30, "line 2: expected"),
        ("argon2id 01 8192 " + "0" * 32, "line 2: expected"),
        ("argon2id 1 8192 " + "0" * 32 + "\nx", "three lines"),
    ],
)
def test_cost_out_of_bounds_and_malformed_files_are_refused(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        sealed.unseal(f"edgeswarm-sealed 1\n{line}\n{'A' * 80}\n".encode(), PASS, who="x")


@pytest.mark.parametrize("body", ["", "A", "====", "A" * 40, "not base64!"])
def test_box_that_is_none_is_refused(body: str) -> None:
    with pytest.raises(ConfigError, match="line 3"):
        sealed.unseal(f"edgeswarm-sealed 1\nargon2id 1 8192 {'0' * 32}\n{body}\n".encode(), PASS, who="x")


@pytest.mark.parametrize("data", [b"", b"junk", b"0" * 63, b"0" * 5_000, b"edgeswarm-sealed 2\n"])
def test_file_that_is_no_key_is_told_with_its_path(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "k"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=str(path)):
        sealed.load_key(path, lambda: PASS)
    with pytest.raises(ConfigError, match="is not there"):
        sealed.load_key(tmp_path / "absent", None)


def test_link_in_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(saved(tmp_path))
    with pytest.raises(PermissionDeniedError):
        sealed.load_key(tmp_path / "link", lambda: PASS)


@pytest.mark.parametrize("passphrase", ["", "seven77", "x" * 1_025])
def test_passphrase_out_of_its_bounds_is_refused(passphrase: str) -> None:
    with pytest.raises(LocalError, match="8 to 1024 characters"):
        sealed.seal(b"x", passphrase, cost=CHEAP)


def test_another_passphrase_leaves_one_whole_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    sealed.save_key(path, SEED, "another passphrase", cost=CHEAP)
    assert sealed.load_key(path, lambda: "another passphrase").seed == SEED
    assert os.listdir(tmp_path) == ["root.key"]


def test_secret_too_long_or_short_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="32 bytes"):
        sealed.save_key(tmp_path / "k", b"x" * 31, PASS, cost=CHEAP)
    (tmp_path / "k").write_bytes(sealed.seal(b"x" * 31, PASS, cost=CHEAP))
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(ConfigError, match="expected a seed of 32 bytes"):
        sealed.load_key(tmp_path / "k", lambda: PASS)
