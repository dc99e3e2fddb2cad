"""The bundle's launcher: versions on trial, who may turn the link, and the way back without a program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_bundle import PYTHON, install, launch, make, said
from processes import NOBODY, interpreter

from edgeswarm.drivers.service.prefix import Prefix, Trial
from edgeswarm.errors import LocalError, PermissionDeniedError

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "opt" / "edgeswarm"


def two_versions(folder: Path, python: str = os.path.realpath(sys.executable)) -> Path:
    """1.0 and 1.1 are there, 1.0 runs."""
    for version, stage in (("1.0", []), ("1.1", ["--stage"])):
        done = install(make(folder / "made", version), folder / "p", *stage, python=python)
        assert done.returncode == 0, done.stderr
    return folder / "p"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_versions(tmp_path_factory.mktemp("two"))


@pytest.fixture
def two(made_once: Path, prefix: Path) -> Prefix:
    return Prefix(Path(shutil.copytree(made_once, prefix, symlinks=True)))


def test_a_trial_that_is_confirmed_stays(two: Prefix) -> None:
    assert two.begin_trial("1.1") == Trial("1.1", "1.0", 0)
    assert said(launch(two.path, "run"))["version"] == "1.1"
    assert two.trial() == Trial("1.1", "1.0", 1)
    assert not two.confirm("1.0"), "only the version that is on trial may"
    assert two.confirm("1.1")
    assert two.trial() is None
    for _ in range(5):
        assert said(launch(two.path, "run"))["version"] == "1.1"


def test_three_starts_without_a_confirmation_and_the_old_version_runs_again(two: Prefix) -> None:
    """The new one ends with exit 9 each time; nobody is there to help."""
    two.begin_trial("1.1")
    (two.path / "broken-1.1").touch()
    assert [launch(two.path, "run").returncode for _ in range(3)] == [9, 9, 9]
    assert launch(two.path, "status").returncode == 0, "three starts are over for every command"
    done = launch(two.path, "run")
    assert said(done)["version"] == "1.0"
    assert (two.current(), two.trial(), two.lost()) == ("1.0", None, Trial("1.1", "1.0", 3))


def test_only_starts_of_the_daemon_count(two: Prefix) -> None:
    two.begin_trial("1.1")
    for words in (["status"], ["version"], ["run", "--check-handover"], []):
        for _ in range(2):
            assert said(launch(two.path, *words))["version"] == "1.1"
    assert two.trial() == Trial("1.1", "1.0", 0)


@pytest.fixture
def for_everybody() -> Iterator[Prefix]:
    """Of root's, in a place and with an interpreter that another user may read."""
    folder = Path(tempfile.mkdtemp(prefix="es-two-", dir="/tmp"))
    folder.chmod(0o755)
    yield Prefix(two_versions(folder, interpreter(NOBODY)))
    shutil.rmtree(folder)


@ROOT_ONLY
def test_the_daemons_user_counts_but_may_not_turn_the_link(for_everybody: Prefix) -> None:
    """var/ is the daemon's: it counts there, and after three starts takes the old way each time; root then turns it."""
    two = for_everybody
    (two.path / "var").mkdir()
    os.chown(two.path / "var", NOBODY, NOBODY)
    two.begin_trial("1.1")
    assert two.trial_file.stat().st_uid == NOBODY
    for _ in range(3):
        assert said(launch(two.path, "run", user=NOBODY))["version"] == "1.1"
    for _ in range(2):
        done = launch(two.path, "run", user=NOBODY)
        assert said(done)["version"] == "1.0"
        assert "1.1 was started 3 times and never became healthy: 1.0 runs" in done.stderr
    assert two.current() == "1.1"
    assert said(launch(two.path, "status"))["version"] == "1.0"
    assert two.current() == "1.0"


@ROOT_ONLY
def test_only_who_owns_the_tree_may_switch_and_the_daemon_may_confirm(for_everybody: Prefix) -> None:
    two = for_everybody
    (two.path / "var").mkdir()
    os.chown(two.path / "var", NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionDeniedError, match="run it as root"):
            two.switch("1.1")
        os.seteuid(0)
        two.begin_trial("1.1")
        os.seteuid(NOBODY)
        assert two.confirm("1.1")
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    "text",
    [
        "", "1.1", "1.1 1.0", "1.1 1.0 x", "1.1 1.0 12", "1.1 1.1 9", "../1.1 1.0 9", "1.1 ../../tmp 9", "1.0 1.1 9",
        "1.1 1.0 9\n1.1 1.0 9", "1.1 0.9 9", "\x00" * 300, "1.1  1.0 9",
    ],
)  # fmt: skip
def test_launcher_and_program_agree_that_this_is_no_trial(two: Prefix, text: str) -> None:
    two.begin_trial("1.1")
    two.trial_file.write_text(text)
    assert two.trial() is None
    assert said(launch(two.path, "run"))["version"] == "1.1"
    assert two.trial_file.read_text() == text


@pytest.mark.parametrize("attempts", range(10))
def test_launcher_and_program_agree_on_when_a_trial_is_lost(two: Prefix, attempts: int) -> None:
    two.begin_trial("1.1")
    two.trial_file.write_text(f"1.1 1.0 {attempts}\n")
    trial = two.trial()
    assert trial is not None
    assert said(launch(two.path))["version"] == ("1.0" if trial.is_lost else "1.1")


def test_a_trial_is_no_way_to_run_or_write_something_else(two: Prefix, tmp_path: Path) -> None:
    """Whoever holds the daemon's user writes var/: links and pipes there lead nowhere, only `previous` can be named."""
    two.begin_trial("1.1")
    victim = tmp_path / "victim"
    victim.write_text("1.1 1.0 0\n")
    two.trial_file.unlink()
    two.trial_file.symlink_to(victim)
    assert two.trial() is None
    assert said(launch(two.path, "run"))["version"] == "1.1"
    assert victim.read_text() == "1.1 1.0 0\n"
    two.trial_file.unlink()
    os.mkfifo(two.trial_file)
    assert two.trial() is None
    assert said(launch(two.path, "run"))["version"] == "1.1"
    two.trial_file.unlink()
    (two.path / "evil" / "lib").mkdir(parents=True)
    (two.path / "evil" / "bundle.json").write_text("{}")
    two.trial_file.write_text("1.1 evil 9\n")
    assert said(launch(two.path, "run"))["version"] == "1.1"


def test_a_power_cut_between_the_two_steps_of_a_trial_leaves_the_old_version(two: Prefix) -> None:
    (two.path / "var").mkdir()
    two.trial_file.write_text("1.1 1.0 0\n")  # the file is there, the link is not switched
    assert two.trial() is None
    assert said(launch(two.path, "run"))["version"] == "1.0"
    assert two.trial_file.read_text() == "1.1 1.0 0\n", "not counted"
    two.begin_trial("1.1")
    two.switch("1.0")  # rolled back, the file still there: previous names 1.1 now
    assert two.trial() is None
    assert said(launch(two.path, "run"))["version"] == "1.0"


def test_who_begins_anew_as_it_is_means_its_own_version(two: Prefix) -> None:
    """What a hand-over goes back to, after the link was switched."""
    again = said(launch(two.path, "run", "--state", "/x"))["again"]
    two.switch("1.1")
    done = subprocess.run(again, capture_output=True, text=True, env={}, timeout=60)
    assert (said(done)["version"], said(done)["args"]) == ("1.0", ["run", "--state", "/x"])
    assert two.command("1.0")[1:] == again[1:3]
    assert two.command() == [str(two.launcher)]


def test_the_program_refuses_versions_that_are_not_there(two: Prefix) -> None:
    for bad in ("2.0", "../1.0", "", "current"):
        with pytest.raises(LocalError, match="expected one of"):
            two.switch(bad)
        with pytest.raises(LocalError):
            two.begin_trial(bad)
    with pytest.raises(LocalError, match="expected another version than 1.0"):
        two.begin_trial("1.0")
    with pytest.raises(LocalError, match="is in use"):
        two.remove("1.0")
    two.remove("1.1")
    assert two.versions() == ["1.0"]


def test_a_launcher_without_a_version_and_with_another_python_says_so(two: Prefix) -> None:
    path = two.path / "1.0" / "bundle.json"
    path.write_text(path.read_text().replace(f'"unpacked_for": "{PYTHON}"', '"unpacked_for": "3.99"'))
    done = launch(two.path, "version")
    assert (done.returncode, "was unpacked for Python 3.99" in done.stderr) == (2, True)
    (two.path / "current").unlink()
    done = launch(two.path, "version")
    assert (done.returncode, "expected a link to a version" in done.stderr) == (2, True)
