"""The support bundle: what helps is in it; no key, token or password is, however it is spelled."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from fleet_index import FakeLink
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.app.cli import root
from edgeswarm.app.fleet import link, support
from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.fleet.init import Wanted, init
from edgeswarm.drivers.pki.sealed import Cost
from edgeswarm.errors import LimitError

PASSPHRASE = "correct horse battery staple"
TOKEN = "es1.oWFha2FsYWxhbGFsYWxhbGFsYQ.abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> FleetFolder:
    """A real FLEET directory with its real keys."""
    path = tmp_path_factory.mktemp("support") / "fleet"
    wanted = Wanted("plant", ("localhost",), bind="127.0.0.1", timing="lan")
    return init(path, wanted, passphrase=PASSPHRASE, now_s=int(time.time()), cost=Cost(1, 8_192))


def spelled(secret: bytes) -> list[str]:
    """As somebody could have logged it."""
    found = [
        secret.hex(),
        secret.hex().upper(),
        base64.b64encode(secret).decode(),
        base64.urlsafe_b64encode(secret).decode(),
    ]
    return found + ([secret.decode()] if secret.isascii() and secret.decode().isprintable() else [])


def keys_of(folder: FleetFolder) -> list[bytes]:
    """Every secret of the directory as raw bytes: seeds in key files, private keys, passwords' hashes."""
    found: list[bytes] = []
    for path in folder.path.rglob("*"):
        if path.is_file() and (path.suffix == ".key" or path.name in ("content.keys", "device.pem")):
            for word in path.read_text().split():
                try:
                    found.append(bytes.fromhex(word))
                except ValueError:
                    found.append(word.encode())
            if "BEGIN PRIVATE KEY" in path.read_text():
                body = "".join(line for line in path.read_text().splitlines() if not line.startswith("-----"))
                found += [base64.b64decode(body), base64.b64decode(body)[-32:]]
    return [one for one in found if len(one) >= 16 and not one.startswith((b"-----", b"edgeswarm-"))]


def opened(data: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        return {one.name: (tar.extractfile(one) or io.BytesIO()).read().decode() for one in tar.getmembers()}


def test_no_secret_of_the_directory_is_in_a_bundle_however_it_is_spelled(fleet: FleetFolder) -> None:
    secrets = keys_of(fleet)
    assert len(secrets) >= 5, "the fleet's keys were not found: the test looks in the wrong place"
    leaks = [f"log line {at}: key {form} end" for at, secret in enumerate(secrets) for form in spelled(secret)]
    live = {"log": [*leaks, f"token {TOKEN}"], "events": [{"text": leak} for leak in leaks], "top": {"x": leaks[0]}}
    (fleet.broker / "mosquitto.log").write_text("\n".join(leaks) + "\nmqtt://ann:hunter2-hunter2@ha.lan\n")
    files = support.collect(fleet, live, f"doctor {leaks[0]}", {"edgeswarm": "0.1.0"})
    data, removed = support.bundle(fleet, files, made_s=1_800_000_000)
    text = gzip.decompress(data)
    for secret in secrets:
        assert secret not in text
        for form in spelled(secret):
            assert form.rstrip("=").encode() not in text
    for word in (TOKEN, "hunter2", PASSPHRASE, "PRIVATE KEY"):
        assert word.encode() not in text
    assert removed >= 2 * len(leaks)
    assert "log line 0: key [removed] end" in opened(data)["edgeswarm-support/controller/log.jsonl"]


@pytest.mark.parametrize(
    "leak",
    [
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ\n-----END PRIVATE KEY-----",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ cut here",
        f"joined with {TOKEN}",
        "es1.oWFha2FsYWxhbGFsYWxhbGFsYQ",
        "password_file=/etc/pw password=MC4CAQ",
        '{"password": "MC4CAQ"}',
        "EDGESWARM_PASSPHRASE=MC4CAQ",
        "bridge_password MC4CAQ",
        "client_secret: MC4CAQ",
        "mqtts://user:MC4CAQ@host:8883",
        "api-key = MC4CAQ",
    ],
)
def test_what_looks_like_a_secret_is_removed(leak: str) -> None:
    redactor = support.Redactor([])
    text = redactor.clean(f"before\n{leak}\nafter")
    assert "MC4CAQ" not in text
    assert "es1." not in text
    assert redactor.count
    assert text.startswith("before")


@given(st.binary(min_size=16, max_size=64), st.text(max_size=20), st.text(max_size=20))
def test_any_secret_is_removed_from_the_midst_of_any_text(secret: bytes, before: str, after: str) -> None:
    for form in (secret.hex(), base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode()):
        assert form.rstrip("=") not in support.Redactor([secret]).clean(f"{before} {form} {after}")


def test_secret_kept_as_hex_is_removed_as_base64_too() -> None:
    seed = bytes(range(32))
    clean = support.Redactor([f"{seed.hex()}\n".encode()]).clean
    assert clean(f"x {base64.b64encode(seed).decode()} y") == "x [removed]= y"


def test_ordinary_text_stays_as_it_is(fleet: FleetFolder) -> None:
    text = (
        '{"event":"device_lost","device":"press-1","artefact":"'
        + "ab" * 32
        + '"}\nlistener 8883\nallow_anonymous false\n'
    )
    redactor = support.Redactor(support.secrets_of(fleet))
    assert redactor.clean(text) == text
    assert redactor.count == 0


def test_bundle_is_bounded(fleet: FleetFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "BUNDLE_BYTES_MAX", 1_000)
    with pytest.raises(LimitError, match="BUNDLE_BYTES_MAX"):
        support.bundle(fleet, {"a": "x" * 2_000}, made_s=0)
    monkeypatch.setattr(support, "BUNDLE_FILE_BYTES_MAX", 10)
    (fleet.broker / "mosquitto.log").write_text("start " * 100 + "the end...")
    assert support.collect(fleet, None, "", {})["broker/mosquitto.log"] == "the end..."


@pytest.mark.parametrize("runs", [True, False])
def test_command_writes_a_bundle_whether_the_controller_runs_or_not(
    fleet: FleetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], runs: bool
) -> None:
    monkeypatch.setattr("edgeswarm.drivers.doctor.examine", lambda: None)
    monkeypatch.setattr("edgeswarm.drivers.doctor.text", lambda report: "tier A")
    monkeypatch.setenv("EDGESWARM_FLEET", str(fleet.path))
    fake: Any = None
    if runs:
        fake = FakeLink(tmp_path, {"controller": ("coordinator", ())})
        monkeypatch.setattr(link, "open_link", fake.open)
    else:
        monkeypatch.setattr("edgeswarm.app.fleet.console.Console.__aenter__", _unreachable)
    target = tmp_path / "b.tar.gz"
    try:
        assert root.run(["fleet", "support-bundle", "-o", str(target), "--json"]) == 0
    finally:
        if fake is not None:
            fake.close()
    told = json.loads(capsys.readouterr().out)
    files = opened(target.read_bytes())
    assert sorted(files) == sorted(f"edgeswarm-support/{name}" for name in told["files"])
    assert files["edgeswarm-support/doctor.txt"] == "tier A\n"
    assert 'fleet = "plant"' in files["edgeswarm-support/fleet.toml"]
    assert ("edgeswarm-support/controller/top.json" in files) == runs
    assert os.stat(target).st_mode & 0o077 == 0


async def _unreachable(self: Any) -> Any:
    raise LimitError("no broker here")
