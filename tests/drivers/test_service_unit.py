"""The unit: how far systemd says it is locked, with every drop-in; the script for machines without systemd."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import wait_for

from edgeswarm.assets import asset
from edgeswarm.drivers.service import manager
from edgeswarm.drivers.service.plan import BOARDS, File, Wish, make

EXPOSURE_MAX = 2.4
"""It is 2.3; it was 3.0 before PrivateUsers, ProtectProc and four groups of system calls more."""
EXPOSURE_MAX_BOARD = 2.8
"""With devices open."""
NEEDS_ANALYZE = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def units(**wishes: str) -> list[File]:
    plan = make(Wish(init="systemd", **wishes))  # type: ignore[arg-type]
    return [item for item in plan.items if isinstance(item, File) and "/systemd/" in item.path]


@NEEDS_ANALYZE
@pytest.mark.parametrize("board", ["", *BOARDS])
def test_exposure_stays_below_its_bound(board: str) -> None:
    score = manager.exposure(units(board=board) if board else units())
    assert score is not None
    assert 0.5 < score[0] <= (EXPOSURE_MAX_BOARD if board else EXPOSURE_MAX)
    assert score[1] == "OK"


@NEEDS_ANALYZE
def test_a_unit_with_less_scores_worse() -> None:
    """The score is read, not made up."""
    (unit,) = units()
    bare = re.sub(rb"(?m)^(Private|Protect|SystemCall|Capability|NoNew).*\n", b"", unit.content)
    score = manager.exposure([File(unit.path, bare)])
    assert score is not None
    assert score[0] > 5


def test_without_systemd_analyze_there_is_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert manager.exposure(units()) is None


def test_every_directive_left_out_has_its_reason_in_the_unit() -> None:
    text = asset("firmware_configs", "linux/systemd/edgeswarm.service").read_text()
    settings = set(re.findall(r"(?m)^([A-Z][A-Za-z]+)=", text))
    reasons = text.partition("Left open on purpose")[2]
    for name in (
        "RestrictNamespaces", "ProtectHostname", "MemoryDenyWriteExecute", "ProtectControlGroups", "PrivateNetwork",
        "IPAddressDeny", "ProcSubset",
    ):  # fmt: skip
        assert name not in settings
        assert name in reasons
    assert {"PrivateUsers", "ProtectProc", "RemoveIPC", "WatchdogSec", "NotifyAccess"} <= settings
    assert re.search(r"(?m)^Type=notify$", text)


# --- the plain script -------------------------------------------------------------------------------------------------

PROGRAM = """#!/bin/sh
echo "start $$ $(id -un) $*" >> {log}
[ "$1" = daemon ] && exit 0
trap 'echo term >> {log}; exit 0' TERM
if [ -e {fails} ]; then exit 3; fi
while :; do sleep 0.05; done
"""


class Plain:
    """The shipped script with its paths below a folder, and a program that notes what happens to it."""

    def __init__(self, folder: Path) -> None:
        user = pwd.getpwuid(os.geteuid()).pw_name
        self.log, self.fails, self.pidfile = folder / "noted", folder / "fails", folder / "pid"
        program = folder / "program"
        program.write_text(PROGRAM.format(log=self.log, fails=self.fails))
        program.chmod(0o755)
        text = asset("firmware_configs", "plain/edgeswarm.sh").read_text()
        for name, value in (
            ("program", program), ("state", folder / "state"), ("user", user), ("pidfile", self.pidfile),
            ("runtime", folder / "runtime"), ("log", folder / "log" / "log"), ("log_bytes_max", 100), ("stop_s", 10),
        ):  # fmt: skip
            text, count = re.subn(rf"(?m)^{name}=.*$", f'{name}="{value}"', text)
            assert count == 1, name
        self.script = folder / "edgeswarm"
        self.script.write_text(text.replace("wait_s=2\n", "wait_s=0\n").replace("wait_s * 2", "0"))
        self.script.chmod(0o755)

    def run(self, word: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(self.script), word], capture_output=True, text=True, timeout=60)

    def noted(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Plain]:
    made = Plain(tmp_path)
    yield made
    made.run("stop")
    assert not made.pidfile.exists()


def starts(plain: Plain) -> list[str]:
    return [line for line in plain.noted() if line.startswith("start")]


def test_the_script_starts_keeps_and_stops_the_supervisor(plain: Plain, tmp_path: Path) -> None:
    assert plain.run("status").returncode == 3
    assert plain.run("start").returncode == 0
    wait_for(lambda: len(starts(plain)) == 1, "it was started")
    pid = int(starts(plain)[0].split()[1])
    assert "run --config /etc/edgeswarm/edgeswarm.toml" in starts(plain)[0]
    assert plain.run("status").returncode == 0
    assert "runs already" in plain.run("start").stdout
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(starts(plain)) == 2, "it was started again")
    assert plain.run("reload").returncode == 0
    assert "daemon upgrade --config /etc/edgeswarm/edgeswarm.toml" in starts(plain)[-1]
    assert plain.run("status").returncode == 0, "a reload ends nothing"
    assert plain.run("stop").returncode == 0
    assert plain.noted()[-1] == "term"
    assert plain.run("status").returncode == 3
    assert oct((tmp_path / "state").stat().st_mode & 0o777) == "0o700"


def test_a_stale_pid_file_stops_nobody_else(plain: Plain) -> None:
    """The number was given to another process since."""
    with subprocess.Popen(["sleep", "60"]) as stranger:
        plain.pidfile.write_text(f"{stranger.pid}\n")
        assert plain.run("status").returncode == 3
        assert plain.run("stop").returncode == 0
        assert stranger.poll() is None
        stranger.kill()
    for text in ("", "-1", "1; rm -rf /", "99999999999"):
        plain.pidfile.write_text(text)
        assert plain.run("status").returncode == 3


def test_what_keeps_failing_is_started_later_and_later_and_stops_at_once(plain: Plain) -> None:
    plain.fails.touch()
    plain.run("start")
    wait_for(lambda: len(starts(plain)) >= 2, "it was tried again")
    assert plain.run("stop").returncode == 0


def test_the_script_names_what_it_expected(plain: Plain) -> None:
    done = plain.run("sideways")
    assert (done.returncode, done.stderr) == (
        1, "edgeswarm: expected start, stop, restart, reload or status, found 'sideways'\n"
    )  # fmt: skip
    (plain.script.parent / "program").chmod(0o644)
    assert "not there, or not to be executed" in plain.run("start").stderr
