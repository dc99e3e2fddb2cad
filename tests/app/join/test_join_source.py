"""Where a token comes from, that it is seen nowhere else, and by which id a device joins."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

from edgeswarm.app.join import clock, inventory, source
from edgeswarm.errors import ConfigError, LimitError, LocalError
from edgeswarm.wire import token as wire
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.token import TokenError

ISSUER = Signatory.from_seed(bytes(range(32)))
TOKEN = wire.make(("mqtts://127.0.0.1:1",), "plant", ISSUER.public, entropy=bytes(range(24)))
TEXT = wire.text_of(TOKEN)
SECRET = TEXT.rpartition(".")[2]


@pytest.fixture(autouse=True)
def no_boot_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BOOT_FILES", ())


def boot_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "join.toml"
    path.write_text(text)
    return path


def test_token_is_taken_from_argument_stdin_file_or_environment_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text(TEXT + "\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT + "\n"))
    for argument, file, environ, where in (
        (TEXT, None, {}, "command line"),
        ("-", None, {}, "standard input"),
        (None, path, {source.ENVIRONMENT: "rot"}, str(path)),
        (None, None, {source.ENVIRONMENT: TEXT}, source.ENVIRONMENT),
    ):
        found = source.find(argument, file, environ)
        assert found.token == TOKEN and where in found.where
        assert found.seen_by_others is (argument == TEXT)
    with pytest.raises(TokenError, match="expected it once"):
        source.find(TEXT, path, {})
    with pytest.raises(TokenError, match="none given"):
        source.find(None, None, {})


def test_join_toml_of_the_boot_partition_is_found_used_and_blanked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = boot_file(
        tmp_path, f'# by hand\ntoken = "{TEXT}"\nname = "gate-1"\nprofile = "rpi-5"\nlabels = ["line=3"]\n'
    )
    monkeypatch.setattr(source, "BOOT_FILES", (tmp_path / "absent.toml", path))
    found = source.find(None, None, {})
    assert found.token == TOKEN and found.file == path and found.told is not None
    assert (found.told.name, found.told.profile, found.told.labels) == ("gate-1", "rpi-5", ("line=3",))
    assert source.blank(path)
    assert SECRET not in path.read_text() and "# by hand" in path.read_text() and "gate-1" in path.read_text()
    assert source.boot_file() is None
    with pytest.raises(TokenError, match="blank"):
        source.of_file(path)


def test_bad_files_are_told_without_the_secret_in_them(tmp_path: Path) -> None:
    for text, error in (
        (f'token = "{TEXT}"\ncolour = 5\n', ConfigError),
        (f'token = "{TEXT}"\nname = "No Name"\n', ConfigError),
        (f"token = {TEXT}\n", ConfigError),
        (f'token = "{TEXT}\n', ConfigError),
        (f'token = "{TEXT[:-2]}"\n', TokenError),
        ("\xff", ConfigError),
        ("# " + "x" * 10_000, LimitError),
    ):
        path = boot_file(tmp_path, text) if text != "\xff" else tmp_path / "join.toml"
        if text == "\xff":
            path.write_bytes(b"\xff\xfe")
        with pytest.raises(error) as found:
            source.of_file(path)
        assert SECRET[:12] not in str(found.value)
    with pytest.raises(ConfigError):
        source.of_file(tmp_path / "absent")


def test_command_warns_of_a_token_that_others_can_see_and_prints_it_nowhere(tmp_path: Path) -> None:
    """Nothing listens at the token's broker: the command fails, with its own exit code, and keeps the secret."""
    command = [sys.executable, "-m", "edgeswarm", "join", "--state", str(tmp_path / "state"), "--wait", "1"]
    done = subprocess.run(
        [*command, TEXT], env=environment(home=tmp_path), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "seen by everybody" in done.stderr and "no answer within 1 s" in done.stderr
    for text in (done.stdout, done.stderr, *(path.read_text() for path in tmp_path.rglob("*.log"))):
        assert SECRET[:10] not in text
    env = {**environment(home=tmp_path), source.ENVIRONMENT: TEXT}
    done = subprocess.run([*command, "--dry-run"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "seen by everybody" not in done.stderr
    assert not (tmp_path / "state" / "swarm").exists()


def test_id_is_the_host_s_name_and_the_key_and_stays() -> None:
    key, other = b"\xab\xcd\xef" + bytes(29), b"\x12\x34\x56" + bytes(29)
    assert inventory.device_id("", key, host="Gate_1.plant.example") == "gate-1-abcdef"
    assert inventory.device_id("", key, host="gate-1") == inventory.device_id("", key, host="gate-1")
    assert inventory.device_id("", key, host="gate-1") != inventory.device_id("", other, host="gate-1")
    assert inventory.device_id("", key, host="¡¿") == "device-abcdef"
    assert inventory.device_id("", key, host="es-join") == "join-abcdef"
    assert len(inventory.device_id("", key, host="x" * 64)) <= 63
    assert inventory.device_id("gate-1", key) == "gate-1"
    for bad in ("Gate", "-x", "x" * 64, "es-guard", "a/b", "+"):
        with pytest.raises(LocalError, match="--name"):
            inventory.device_id(bad, key)


def test_labels_are_checked_and_sorted() -> None:
    assert inventory.labels(("site=plant", "line=3")) == ("line=3", "site=plant")
    for bad in (("line",), ("=3",), ("line=3", "line=4"), ("line=\x1b",), ("l ine=3",)):
        with pytest.raises(LocalError, match="--label"):
            inventory.labels(bad)


def test_time_floor_only_rises_and_a_clock_below_it_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert clock.floor(tmp_path) == clock.BUILT_S
    clock.keep(tmp_path, clock.BUILT_S + 100)
    clock.keep(tmp_path, 5)
    assert clock.floor(tmp_path) == clock.BUILT_S + 100
    monkeypatch.setattr(clock, "wall", lambda: 12.0)
    assert clock.now(tmp_path) is None
    monkeypatch.setattr(clock, "wall", lambda: clock.BUILT_S + 101.5)
    assert clock.now(tmp_path) == clock.BUILT_S + 101
    for rot in ("", "soon", "9" * 40, "-1"):
        (tmp_path / "clock").write_text(rot)
        assert clock.floor(tmp_path) == clock.BUILT_S


def test_secret_is_not_handed_on_to_what_is_started_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, source.ENVIRONMENT, TEXT)
    assert source.ENVIRONMENT not in source.environ_without_token()


def test_daemon_in_no_cell_loads_nothing_that_joining_needs() -> None:
    heavy = ("paho", "cryptography", "sqlalchemy", "segno", "numpy")
    program = f"import sys, edgeswarm.app.daemon; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
