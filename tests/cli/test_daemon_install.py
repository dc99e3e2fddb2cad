"""`edgeswarm daemon`: what it shows, what it does below an image's root, what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from images import image, tree
from processes import NOBODY, ROOT, command_line

from edgeswarm.app.cli import daemon_service
from edgeswarm.drivers.service import manager

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image(tmp_path / "r")


def test_a_dry_run_shows_every_file_with_its_content_and_every_command(cli, root: Path) -> None:
    before = tree(root)
    done = cli("daemon", "install", "--root", root, "--dry-run", "--board", "jetson")
    assert done.code == 0
    assert tree(root) == before
    found = cli("daemon", "install", "--root", root, "--dry-run", "--board", "jetson", "--json").json()
    contents = {step["what"]: step["content"] for step in found["steps"] if "content" in step}
    cli("daemon", "install", "--root", root, "--board", "jetson").json  # noqa: B018
    for path, content in contents.items():
        assert (root / path.lstrip("/")).read_text() == content
        assert path in done.out
        assert all(line.strip() in done.out for line in content.splitlines())
    assert {"/etc/systemd/system/edgeswarm.service", "/etc/edgeswarm/edgeswarm.toml"} <= set(contents)
    commands = [step["what"] for step in found["steps"] if step["kind"] == "command"]
    assert commands == ["systemctl daemon-reload", "systemctl restart edgeswarm"]
    if shutil.which("systemd-analyze"):
        assert 1 < found["exposure"]["score"] < 3
        assert f"systemd-analyze security: {found['exposure']['score']} of 10" in done.out


def test_install_and_uninstall_of_an_image(cli, root: Path) -> None:
    before = tree(root)
    made = cli("daemon", "install", "--root", root, "--json").json()
    assert (made["init"], made["program"], made["state"]) == (
        "systemd", "/opt/edgeswarm/bin/edgeswarm", "/var/lib/edgeswarm",
    )  # fmt: skip
    assert any("install a bundle" in hint for hint in made["hints"])
    gone = cli("daemon", "uninstall", "--root", root, "--purge", "--json").json()
    assert "removed" in {step["outcome"] for step in gone["steps"]}
    after = tree(root)
    after["etc/passwd"] = after["etc/passwd"].rstrip(b"\n")
    assert after == before
    done = cli("daemon", "uninstall", "--root", root)
    assert done.code == 2
    assert "nothing was installed" in done.err


def test_an_image_with_keys_is_refused_because_every_copy_would_be_one_device(cli, root: Path) -> None:
    assert cli("daemon", "install", "--root", root, "--image").code == 0
    (root / "var/lib/edgeswarm/keys").mkdir()
    (root / "var/lib/edgeswarm/keys/device.key").write_text("secret")
    before = tree(root)
    done = cli("daemon", "install", "--root", root, "--image")
    assert done.code == 2
    assert "an image must hold no keys" in done.err
    assert "/var/lib/edgeswarm/keys" in done.err
    assert tree(root) == before
    assert cli("daemon", "install", "--root", root).code == 0, "only --image looks"


def test_a_file_for_joining_becomes_a_unit(cli, root: Path) -> None:
    cli("daemon", "install", "--root", root, "--join-file", "/boot/efi/edgeswarm/join.toml")
    unit = (root / "etc/systemd/system/edgeswarm-join.service").read_text()
    assert "LoadCredential=join.toml:/boot/efi/edgeswarm/join.toml\n" in unit
    assert "/boot/firmware" not in unit


def test_the_join_unit_calls_what_the_command_line_knows(cli, root: Path) -> None:
    from edgeswarm.app.cli.join import join

    cli("daemon", "install", "--root", root, "--join-file", "/boot/x/join.toml")
    unit = (root / "etc/systemd/system/edgeswarm-join.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = line.split()
    assert words[1] == "join"
    assert {word for word in words if word.startswith("--")} <= {opt for one in join.params for opt in one.opts}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--program", "edgeswarm"], "program: expected an absolute path"),
        (["--program", "/root/x/edgeswarm"], "ProtectHome"),
        (["--init", "plain", "--board", "jetson"], "expected systemd, found plain"),
        (["--user"], "an image has no user"),
        (["--init", "upstart"], "upstart"),
        (["--board", "toaster"], "toaster"),
    ],
)
def test_what_makes_no_sense_is_refused_with_exit_2(cli, root: Path, options: list[str], expected: str) -> None:
    before = tree(root)
    done = cli("daemon", "install", "--root", root, *options)
    assert done.code == 2
    assert expected in done.err
    assert tree(root) == before


@ROOT_ONLY
def test_an_ordinary_user_is_told_about_sudo_and_about_user() -> None:
    for command in ("install", "uninstall"):
        done = command_line("daemon", command, "--init", "systemd", user=NOBODY)
        assert done.returncode in (2, 4)
        if command == "install":
            assert done.returncode == 4
            assert "only root may install a service" in done.stderr
            assert "--user" in done.stderr
    done = command_line("daemon", "restart", user=NOBODY)
    assert (done.returncode, "only root may restart" in done.stderr) == (4, True)
    shown = command_line("daemon", "install", "--user", "--init", "systemd", "--dry-run", user=NOBODY)
    assert shown.returncode == 0
    assert "/.config/systemd/user/edgeswarm.service" in shown.stdout
    assert "systemctl --user restart edgeswarm" in shown.stdout


def test_root_needs_no_service_of_its_own(cli) -> None:
    if os.geteuid() == 0:
        assert "expected an ordinary user, found root" in cli("daemon", "install", "--user", "--init", "systemd").err


def test_status_says_what_the_manager_says(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        manager, "ask", lambda init, of_user: manager.Running(True, 17, {"StatusText": "gate\x1b[31m: listens"})
    )
    done = cli("daemon", "status")
    assert done.code == 0
    assert "runs, pid 17" in done.out
    assert "\x1b" not in done.out, "a manager's words are no orders to a terminal"
    monkeypatch.setattr(manager, "ask", lambda init, of_user: manager.Running(None, None, {"systemctl": "not there"}))
    done = cli("daemon", "status", "--json")
    assert done.code == 8


def test_logs_are_shown_for_people_or_as_they_are(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    line = '{"at":"2026-11-21T10:00:00.000Z","level":"info","event":"supervisor_started","pid":7}'
    monkeypatch.setattr(manager, "log_words", lambda *args, **kwargs: ["printf", "%s\\n", line, "no JSON"])
    assert cli("daemon", "logs", "--json").out.splitlines() == [line, "no JSON"]
    shown = cli("daemon", "logs").out.splitlines()
    assert "supervisor_started" in shown[0]
    assert "pid=7" in shown[0]
    assert "no JSON" in shown[1]


def test_the_words_of_each_manager() -> None:
    for init in ("openrc", "plain"):
        assert manager.log_words(init, lines=5, follow=True)[:3] == ["tail", "-n", "5"]
    assert manager.restart_words("systemd", of_user=True) == ("systemctl", "--user", "restart", "edgeswarm")
    assert manager.restart_words("openrc") == ("rc-service", "edgeswarm", "restart")
    assert manager.restart_words("procd") == ("/etc/init.d/edgeswarm", "restart")


def test_nothing_to_restart_is_said(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_service, "look", lambda of_user: {"installed": False, "init": "plain"})
    if os.geteuid() == 0:
        assert "nothing is installed here" in cli("daemon", "restart").err


def test_an_image_is_installed_by_a_python_that_has_none_of_our_packages(root: Path) -> None:
    """A bundle for another machine cannot load its own libraries here: installing into an image needs none of them."""
    import click

    site = str(Path(click.__file__).parents[1])
    code = (
        "import sys; sys.path[:0] = sys.argv.pop(1).split(':')\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('cbor2', 'psutil', 'nacl', 'yaml', 'wasmtime', 'zstandard'):\n"
        "            raise ImportError(name + ' is of another machine')\n"
        "sys.meta_path.insert(0, No())\n"
        "from edgeswarm.__main__ import main; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, f"{ROOT}:{site}", "daemon", "install", "--root", str(root)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (root / "etc/systemd/system/edgeswarm.service").exists()


@ROOT_ONLY
def test_root_goes_on_as_the_owner_of_the_state(tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.mkdir()
    code = (
        "import os, sys; from pathlib import Path; from edgeswarm.drivers.service.manager import become_owner_of\n"
        "become_owner_of(Path(sys.argv[1])); print(os.getuid(), os.geteuid(), os.getgid(), os.getgroups())"
    )

    def who() -> str:
        done = subprocess.run([sys.executable, "-c", code, str(state)], capture_output=True, text=True, cwd=ROOT)
        return done.stdout.strip()

    assert who().startswith("0 0 0")
    os.chown(state, NOBODY, NOBODY)
    assert who() == f"{NOBODY} {NOBODY} {NOBODY} []"
