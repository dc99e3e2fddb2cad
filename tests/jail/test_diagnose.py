"""The jail that tells instead of dying silently: which call, with the kernel's log or without; no right is gained."""

from __future__ import annotations

import json
import platform
import struct
from pathlib import Path

import forbidden_worker
import jail_kernels as k
import pytest
from click.testing import CliRunner
from supervised import header_tree

from edgeswarm.app import builder
from edgeswarm.app.cli import root
from edgeswarm.drivers import keys
from edgeswarm.drivers.jail_diagnose import diagnose, telling
from edgeswarm.drivers.jail_policy import load_policies
from edgeswarm.drivers.jail_sync import SyncHost
from edgeswarm.drivers.jail_zygote import Program

SUPPORT = str(k.ROOT / "tests" / "support")
FORBIDDEN = struct.pack("<2f", forbidden_worker.FORBIDDEN, 0)


@pytest.fixture
def moody_code(sync_host: SyncHost) -> bytes:
    return sync_host.compile(k.assemble(k.MOODY))


@pytest.mark.e2e
def test_forbidden_call_is_told_by_name_and_not_made(moody_code: bytes, cache_dir: Path) -> None:
    found = diagnose(
        k.moody_spec(moody_code),
        [k.row(k.ADD), k.row(k.TRAP), FORBIDDEN, k.row(k.ADD)],
        policy_dir=k.SANDBOX,
        cache_dir=cache_dir,
        mac_key=k.MAC_KEY,
        program=Program(worker="forbidden_diagnosed", path=(SUPPORT,)),
    )
    assert (found.call, found.ready, found.rows, found.faults) == ("socket", True, 1, 1)
    assert found.number == forbidden_worker.SOCKET[platform.machine()]


@pytest.mark.e2e
def test_agent_that_keeps_the_rules_is_told_as_such(moody_code: bytes, cache_dir: Path) -> None:
    rows = [k.row(k.ADD)] * 3
    found = diagnose(k.moody_spec(moody_code), rows, policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY)
    assert (found.call, found.number, found.ready, found.rows, found.text) == ("", -1, True, 3, "served every row")


@pytest.mark.parametrize("name", ["strict", "build"])
def test_filters_that_tell_allow_nothing_more(name: str) -> None:
    """Instruction by instruction: only KILL_PROCESS is another answer, TRAP, which does not make the call either."""
    whole = load_policies(k.SANDBOX)[name]
    other = telling(whole)
    for before, after in ((whole.stage_1, other.stage_1), (whole.stage_2, other.stage_2)):
        pairs = list(
            zip(struct.iter_unpack("<HBBI", before.program), struct.iter_unpack("<HBBI", after.checked()), strict=True)
        )
        changed = [pair for pair in pairs if pair[0] != pair[1]]
        assert changed
        for old, new in changed:
            assert old == (6, 0, 0, 0x8000_0000)
            assert new == (6, 0, 0, 0x0003_0000)


def test_no_supervisor_can_ask_for_it() -> None:
    users = {
        path.relative_to(k.ROOT).as_posix()
        for path in (k.ROOT / "edgeswarm").rglob("*.py")
        if "jail_diagnose" in (text := path.read_text(encoding="utf-8")) or "diagnose_worker" in text
    }
    assert users <= {
        "edgeswarm/jail/diagnose_worker.py",
        "edgeswarm/drivers/jail_diagnose.py",
        "edgeswarm/drivers/jail_sync.py",
        "edgeswarm/app/cli/sandbox_diagnose.py",
    }


@pytest.mark.e2e
def test_command_says_that_an_agent_file_keeps_the_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = builder.model_of(None, sizes=(4, 8, 2), activation="relu", output_activation="linear")
    publisher, _ = keys.load_or_make(tmp_path / "publisher.key")
    (tmp_path / "a.af").write_bytes(builder.build(header_tree("a", 4, 2, hidden=(8,)), model, key=publisher))
    arguments = ["sandbox", "diagnose", str(tmp_path / "a.af"), "--state", str(tmp_path / "state"), "--json"]
    found = CliRunner().invoke(root.root, arguments)
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["call"] is None
    assert told["rows"] > 0
