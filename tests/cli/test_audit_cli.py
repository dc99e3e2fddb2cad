"""`edgeswarm audit`: what it shows, and that nothing that was done to the log is missed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import environment

from edgeswarm.app.audit import Audit, paths_of
from edgeswarm.app.log import Log
from edgeswarm.drivers import keys
from edgeswarm.wire.certificate import Signatory


@pytest.fixture
def written(state: Path) -> Path:
    """A device's log of five lines and its checkpoints."""
    key, _ = keys.load_or_make(state / "keys" / "device.key")
    audit = Audit(state / "audit", Signatory.from_seed(key.seed), Log(stream=None))
    for number in range(4):
        audit.record("agent.deploy", who="uid 0 pid 7", target=f"a{number}", cause="deploy-1")
    audit.record("proposal", who="d2", role="worker", outcome="refused", reason="a worker\x1b[31m may not")
    audit.close()
    return state


def test_show_prints_lines_and_takes_filters(cli, written: Path) -> None:
    shown = cli("audit", "show")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert len(lines) == 5 and "agent.deploy  a0  by uid 0 pid 7  [deploy-1]" in lines[0]
    assert "by d2 (worker)  refused: a worker?[31m may not" in lines[4]
    rows = [json.loads(line) for line in cli("audit", "show", "--json", "--outcome", "refused").out.splitlines()]
    assert [row["action"] for row in rows] == ["proposal"]
    assert len(cli("audit", "show", "--action", "agent.", "-n", 2).out.splitlines()) == 2
    assert len(cli("audit", "show", "--who", "d2", "--since", "1h").out.splitlines()) == 1
    assert cli("audit", "show", "--since", "2099-01-01").out == ""
    assert cli("audit", "show", "--since", "yesterday").code == 2


def test_verify_is_content_with_a_whole_log(cli, written: Path) -> None:
    found = cli("audit", "verify", "--json").json()
    assert found["ok"] and found["lines"] == 7 and found["key_checked"] and found["unsigned"] == 0
    assert "each where and as it was written" in cli("audit", "verify").out


def test_verify_names_the_first_line_that_was_changed(cli, written: Path) -> None:
    path = paths_of(written / "audit")[0]
    path.write_bytes(path.read_bytes().replace(b'"target":"a1"', b'"target":"a9"'))
    done = cli("audit", "verify")
    assert done.code == 5 and f"{path.name}:3: tampered" in done.err
    done = cli("audit", "verify", "--json")
    assert done.code == 5 and json.loads(done.out)["fault"]["line"] == 3
    assert json.loads(done.out)["fault"]["kind"] == "tampered"


def test_verify_finds_a_log_that_another_key_signed(cli, written: Path) -> None:
    key = written / "keys" / "device.key"
    key.write_text("ab" * 32 + "\n")
    done = cli("audit", "verify")
    assert done.code == 5 and "no key of this device" in done.err


def test_copy_is_verified_with_the_key_that_is_named(cli, written: Path, tmp_path: Path) -> None:
    found = cli("audit", "export", tmp_path / "copy", "--json").json()
    assert cli("audit", "verify", "--folder", tmp_path / "copy", "--key", found["keys"][0]).code == 0
    assert "was not checked" in cli("audit", "verify", "--folder", tmp_path / "copy").out
    assert cli("audit", "verify", "--folder", tmp_path / "copy", "--key", "00" * 32).code == 5
    assert cli("audit", "verify", "--folder", tmp_path / "copy", "--key", "xy").code == 2
    assert cli("audit", "export", tmp_path / "copy").code == 2


def test_folder_without_a_log_says_so(cli, state: Path) -> None:
    keys.load_or_make(state / "keys" / "device.key")
    assert cli("audit", "verify").code == 3
    assert cli("audit", "show").code == 2


def test_show_follows(written: Path) -> None:
    command = [sys.executable, "-m", "edgeswarm", "audit", "show", "-f", "--json", "--state", str(written)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(home=written)) as child:
        assert child.stdout is not None
        for _ in range(5):
            child.stdout.readline()
        time.sleep(0.7)
        key, _ = keys.load_or_make(written / "keys" / "device.key")
        audit = Audit(written / "audit", Signatory.from_seed(key.seed), Log(stream=None))
        audit.record("order.stop", who="operator ann")
        audit.close()
        assert json.loads(child.stdout.readline())["action"] == "order.stop"
        child.kill()
