"""The two commands and what stands behind them: make's targets, .ci/setup and .ci/run, tried on copies with stubs.

A stub is a small program put first in PATH; nothing is installed, and the real .venv is left alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROMISED = "setup demo check test sim e2e bench soak kernels wheel seccomp golden help".split()
CLOSING = "===== 12 passed, 1 skipped in 3.21s ====="


def run(
    command: list[str], where: Path, *, path: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "EDGESWARM", "PYTHON"))}
    env["PATH"] = f"{path}:{env['PATH']}" if path else env["PATH"]
    return subprocess.run(command, cwd=where, env=env | environment, capture_output=True, text=True, timeout=60)


def stub(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The set-up's files in a path with a space, without a .venv."""
    folder = tmp_path / "a clone"
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder)
    return folder


# --- make -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", PROMISED)
def test_target_exists(target: str) -> None:
    done = run(["make", "-n", target], ROOT)
    assert done.returncode == 0, done.stderr


def test_help_is_the_default_and_lists_every_promised_target() -> None:
    done = run(["make"], ROOT)
    assert done.stdout == run(["make", "help"], ROOT).stdout
    listed = re.findall(r"(?m)^  make (\S+) +\S", done.stdout)
    assert set(PROMISED) <= set(listed)


def test_every_script_that_make_names_is_there() -> None:
    text = (ROOT / "Makefile").read_text()
    named = re.findall(r"(?m)^\t.*?(?:\$\(PY\)|@) ?(\.?[a-z_]+/[a-z_/]+(?:\.py)?)", text)
    assert {".ci/setup", ".ci/bench", "sandbox/build_filters.py"} <= set(named)
    assert [name for name in named if not name.startswith(".venv") and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("script", [".ci/setup", ".ci/run", ".ci/bench"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    first = (ROOT / script).read_text().splitlines()[0]
    shell = "bash" if "bash" in first else "sh"
    assert os.access(ROOT / script, os.X_OK)
    assert run([shell, "-n", script], ROOT).stderr == ""


# --- .ci/setup --------------------------------------------------------------------------------------------------------


def test_an_ordinary_user_without_venv_gets_one_command(copy: Path, tmp_path: Path) -> None:
    """Bare Debian: python3 is new enough, has neither venv nor pip, and only root can install them."""
    bin_ = tmp_path / "bin"
    answers = "*ensurepip*|*virtualenv*) exit 1;; *sys.executable*) echo /usr/bin/python3;;"
    stub(bin_, "python3", f'case "$*" in {answers} esac')
    stub(bin_, "id", "echo 1000")
    stub(bin_, "apt-get", "echo called >&2; exit 99")
    stub(bin_, "sudo", "exit 99")
    done = run([str(copy / ".ci" / "setup"), "demo"], tmp_path, path=bin_)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "setup:     sudo sh -c 'apt-get update && apt-get install -y python3-venv'"
    assert "called" not in done.stderr
    assert not (copy / ".venv").exists()


def test_an_old_python_is_named(copy: Path, tmp_path: Path) -> None:
    old = stub(tmp_path / "bin", "old", "exit 1")
    done = run([".ci/setup", "demo"], copy, PYTHON=str(old))
    assert (done.returncode, done.stderr) == (1, f"setup: PYTHON={old}: expected a Python 3.11 or later\n")


def test_an_unknown_kind_is_refused(copy: Path) -> None:
    done = run([".ci/setup", "everything"], copy)
    assert done.returncode == 1
    assert "expected demo or test, found 'everything'" in done.stderr


def test_set_up_happens_once_and_again_when_the_project_changed(copy: Path, tmp_path: Path) -> None:
    """The interpreter is a stub that notes what it is asked for; `-m venv` makes a .venv that holds the stub."""
    log = tmp_path / "log"
    fake = stub(
        tmp_path / "bin",
        "fake",
        f'echo "$@" >>"{log}"\n'
        'case "$*" in *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; *) exit 0;; esac',
    )

    def set_up(kind: str) -> list[str]:
        log.write_text("")
        done = run([".ci/setup", kind], copy, PYTHON=str(fake))
        assert done.returncode == 0, done.stderr
        return [line for line in log.read_text().splitlines() if "install" in line]

    assert any("--editable .[build,broker,fleet]" in line for line in set_up("demo"))
    assert set_up("demo") == []
    assert any("--editable .[dev]" in line for line in set_up("test"))
    assert set_up("test") == []
    assert set_up("demo") == [], "what the tests need holds what the demo needs"
    with open(copy / "pyproject.toml", "a") as file:
        file.write("# changed\n")
    assert len(set_up("demo")) == 1
    moved = copy.rename(copy.with_name("moved"))
    done = run([".ci/setup", "demo"], moved, PYTHON=str(fake))
    assert "making .venv anew" in done.stderr


def test_a_failed_install_leaves_no_stamp(copy: Path, tmp_path: Path) -> None:
    fake = stub(
        tmp_path / "bin",
        "fake",
        'case "$*" in *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; *"pip install"*) exit 1;; esac',
    )
    done = run([".ci/setup", "demo"], copy, PYTHON=str(fake))
    assert done.returncode == 1
    assert "pip could not install edgeswarm[build,broker,fleet]" in done.stderr
    assert not list((copy / ".venv").glob(".setup-demo"))


def test_constraints_hold_what_is_installed_here() -> None:
    """The versions that CI tests are the versions that a clone installs."""
    pinned = re.findall(r"(?m)^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / ".ci" / "constraints.txt").read_text())
    assert len(pinned) > 30
    freeze = run([sys.executable, "-m", "pip", "freeze", "--disable-pip-version-check"], ROOT).stdout.lower()
    installed = dict(line.split("==") for line in freeze.splitlines() if "==" in line)
    differ = [f"{name}: {installed[name.lower()]}, not {version}" for name, version in pinned
              if installed.get(name.lower(), version) != version]  # fmt: skip
    assert differ == []


# --- .ci/run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("check", "test", "expected"), [(0, 0, 0), (0, 2, 1), (2, 0, 1), (2, 2, 1)])
def test_ci_ends_with_pytests_closing_line_and_the_right_code(
    copy: Path, tmp_path: Path, check: int, test: int, expected: int
) -> None:
    stub(
        tmp_path / "bin",
        "make",
        f'case "$1" in check) exit {check};; test) echo "{CLOSING}"; [ "$CI" = true ] || exit 9;'
        f' read -r line && exit 8; [ {test} = 0 ] || echo "make: *** [test] Error {test}" >&2; exit {test};; esac',
    )
    done = run([str(copy / ".ci" / "run")], tmp_path, path=tmp_path / "bin")
    assert done.returncode == expected
    assert done.stdout.splitlines()[-1] == CLOSING
    assert ("make test failed" in done.stdout) == (test != 0)
    assert ("make check failed" in done.stdout) == (check != 0)
