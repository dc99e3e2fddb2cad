"""`daemon upgrade`: which program it asks for, and what becomes of a bundle's trial."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeswarm.app.cli import daemon_upgrade, root
from edgeswarm.drivers.service.prefix import MARK, Prefix
from edgeswarm.errors import RemoteError

Told = Callable[..., dict[str, Any]]


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prefix:
    """A bundle's tree with version 1.0 in use and 1.1 beside it."""
    found = Prefix(tmp_path)
    for version in ("1.0", "1.1"):
        (tmp_path / version).mkdir()
        (tmp_path / version / MARK).write_text("{}")
    found.switch("1.0")
    monkeypatch.setattr(Prefix, "of_this_program", classmethod(lambda cls: found))
    return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were asked for; the daemon says that all is well."""
    commands: list[list[str]] = []

    def upgrade(command: list[str], *_: object) -> dict[str, Any]:
        commands.append(command)
        return {"state": "healthy", "before": "1.0", "version": "1.1"}

    monkeypatch.setattr(daemon_upgrade, "_upgrade", upgrade)
    return commands


def run(*arguments: str) -> int:
    return root.run(["daemon", "upgrade", *arguments])


def test_version_of_a_bundle_is_tried_through_the_launcher_and_the_daemon_ends_the_trial(
    prefix: Prefix, asked: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("1.1", "--json") == 0
    assert asked == [[str(prefix.launcher)]]
    assert json.loads(capsys.readouterr().out)["state"] == "healthy"
    trial = prefix.trial()
    assert trial is not None and (trial.new, trial.old) == ("1.1", "1.0")
    assert prefix.confirm("1.1") and prefix.current() == "1.1"  # what the daemon does


def test_version_that_does_not_stay_is_taken_back(prefix: Prefix, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> dict[str, Any]:
        assert prefix.current() == "1.1"
        raise RemoteError("the upgrade was rolled back")

    monkeypatch.setattr(daemon_upgrade, "_upgrade", refused)
    assert run("1.1") == 3
    assert prefix.current() == "1.0" and prefix.trial() is None


@pytest.mark.parametrize("version", ["1.0", "2.0", "../x"])
def test_version_that_is_in_use_or_is_not_there_begins_no_trial(
    prefix: Prefix, asked: list[list[str]], version: str
) -> None:
    assert run(version) == 2
    assert not asked and prefix.current() == "1.0" and prefix.trial() is None


def test_without_a_version_it_is_the_program_that_was_called(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "edgeswarm", "daemon", "upgrade"])
    monkeypatch.setattr(sys, "argv", ["edgeswarm", "daemon", "upgrade"])
    assert run() == 0
    assert run("--program", "/bin/x", "--program", "-y") == 0
    assert asked == [[sys.executable, "-m", "edgeswarm"], ["/bin/x", "-y"]]


def test_version_needs_a_bundle_and_no_program(asked: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("1.1") == 2
    assert "not installed by a bundle" in capsys.readouterr().err
    assert run("1.1", "--program", "/bin/x") == 2
    assert not asked
