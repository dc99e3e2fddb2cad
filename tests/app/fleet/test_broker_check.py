"""`fleet broker check` finds nothing wrong with what we write, and finds what somebody broke."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest
from hardened import Hardened, make

from edgeswarm.app.cli import root
from edgeswarm.app.fleet import broker_check, broker_guard, broker_probes
from edgeswarm.app.fleet.broker_check import Row
from edgeswarm.drivers.broker_fleet_client import RefusedError
from edgeswarm.drivers.pki import x509


@pytest.fixture
def hardened(tmp_path: Path) -> Hardened:
    return make(tmp_path, {"c1": "coordinator", "w1": "worker"}, start_devices=True)


async def rows_of(hardened: Hardened) -> list[Row]:
    async with hardened.broker():
        return await asyncio.to_thread(broker_check.check, hardened.folder, hardened.roster)


def wrong(rows: list[Row]) -> set[str]:
    return {row.name for row in rows if not row.ok}


async def test_probes_find_an_access_list_that_grants_all(hardened: Hardened) -> None:
    for name in ("acl", "acl-join"):
        (hardened.files / name).write_text("pattern readwrite #\npattern readwrite $CONTROL/#\n")
    found = wrong(await rows_of(hardened))
    assert {
        "a device publishes another's status",
        "a worker publishes to a voter",
        "a worker publishes a roster",
        "a device listens to join topics",
        "a device listens to #, another's inbox",
        "a device tells the broker's plugin",
        "a newcomer publishes under another token",
        "a newcomer publishes on a device's topic",
        "a certificate whose device is in no roster publishes",
    } <= found


async def test_probes_find_a_configuration_without_its_locks(
    hardened: Hardened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No revocation list, TLS 1.2, no plugin, no bounds."""
    monkeypatch.setattr(broker_probes, "BROKER_PROBE_S", 0.5)  # what does not happen is waited for
    monkeypatch.setattr(broker_guard, "BROKER_PROBE_S", 0.5)
    path = hardened.files.config
    out = ("crlfile", "plugin", "plugin_opt", "max_packet_size", "tls_version")
    lines = [line for line in path.read_text().splitlines() if not line.startswith(out)]
    path.write_text("\n".join(lines) + "\n")
    assert wrong(await rows_of(hardened)) >= {
        "a revoked certificate",
        "TLS 1.2",
        "sessions of a revoked device are ended",
        "a packet beyond the limit",
    }


def test_nothing_passes_while_nobody_listens(hardened: Hardened) -> None:
    rows = broker_check.check(hardened.folder, hardened.roster)
    assert wrong(rows) == {row.name for row in rows}
    assert all(row.found.startswith("cannot be tried") for row in rows)


async def test_broker_as_we_write_it_passes_every_probe_and_the_command_says_so(
    hardened: Hardened, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fleet", "broker", "check", "--fleet", str(hardened.folder.path)]
    assert await asyncio.to_thread(root.run, command) == 1
    assert "0 of 33 as they must be" in capsys.readouterr().out
    async with hardened.broker():
        code = await asyncio.to_thread(root.run, [*command, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [row for row in found["rows"] if not row["ok"]] == [] and len(found["rows"]) == 33
    assert found["ok"] and code == 0


def test_config_is_printed_without_the_bridge_s_secret_and_written_anew(
    hardened: Hardened, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--fleet", str(hardened.folder.path))
    secret = next(line for line in hardened.files.join_config.read_text().splitlines() if "local_clientid" in line)
    assert root.run(["fleet", "broker", "config", *where]) == 0
    out = capsys.readouterr().out
    assert "per_listener_settings true" in out and secret not in out
    (hardened.files / "acl").unlink()
    assert root.run(["fleet", "broker", "config", "--write", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == ["acl"]


def test_unit_names_the_fleet_and_refuses_names_that_systemd_would_read_otherwise(
    hardened: Hardened, capsys: pytest.CaptureFixture[str]
) -> None:
    assert root.run(["fleet", "broker", "unit", "--fleet", "/srv/plant"]) == 0
    assert "fleet broker run --fleet /srv/plant\n" in capsys.readouterr().out
    assert root.run(["fleet", "broker", "unit", "--fleet", "/srv/a b"]) == 2


async def test_run_brings_the_files_up_to_date_and_ends_with_a_signal(hardened: Hardened) -> None:
    """An expired revocation list would keep everybody out: it is signed anew before mosquitto starts."""
    now_s = int(time.time())
    expired = x509.make_crl(hardened.issuer.key.seed, hardened.issuer.pem, [], now_s - 400 * 86_400, days=30)
    (hardened.files / "crl.pem").write_bytes(expired)
    command = [sys.executable, "-m", "edgeswarm", "fleet", "broker", "run", "--fleet", str(hardened.folder.path)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    lines = []
    try:
        async with asyncio.timeout(30):
            while b'"broker_runs"' not in (line := await process.stderr.readline()):
                assert line, lines
                lines.append(line)
        session = await asyncio.to_thread(hardened.session, "w1")
        session.close()
    finally:
        process.terminate()
        _, rest = await process.communicate()
    assert process.returncode == 0, (lines, rest)
    with pytest.raises(RefusedError, match="no connection"):
        hardened.session("w1")
