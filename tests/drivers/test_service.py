"""Installing below an image's root: what is written, twice, and taken away again; what is refused before that."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from images import image, tree

from edgeswarm.assets import asset
from edgeswarm.drivers.service import manager, note
from edgeswarm.drivers.service.image import Image
from edgeswarm.drivers.service.perform import InstallError, Step, identity, perform
from edgeswarm.drivers.service.plan import INITS, NOTE, STATE, Init, Plan, Wish, detect, make
from edgeswarm.drivers.service.remove import remove
from edgeswarm.errors import ConfigError, LocalError

HEAD = '"format": 1, "init": "systemd"'
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


def install(root: Path, init: Init = "systemd", *, force: bool = False, **wishes: object) -> list[Step]:
    wish = Wish(init=init, **wishes)  # type: ignore[arg-type]
    return perform(make(wish), Image(root), program=wish.program, force=force)


def plan_of(init: Init) -> Plan:
    return make(Wish(init=init))


# --- what is there afterwards -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", INITS)
def test_an_image_boots_into_the_supervisor(init: Init, tmp_path: Path) -> None:
    root = image(tmp_path / "r", init)
    assert detect(root) == init
    before = tree(root)
    steps = install(root, init)
    made = {name for name in tree(root) if name not in before}
    script = "etc/systemd/system/edgeswarm.service" if init == "systemd" else "etc/init.d/edgeswarm"
    started_by = {
        "systemd": "etc/systemd/system/multi-user.target.wants/edgeswarm.service",
        "openrc": "etc/runlevels/default/edgeswarm",
        "procd": "etc/rc.d/S95edgeswarm",
        "plain": "etc/rc2.d/S95edgeswarm",
    }[init]
    assert {script, started_by, "etc/edgeswarm/edgeswarm.toml", NOTE.lstrip("/")} <= made
    assert Image(root).at("/" + started_by, follow=True) == (root / script).resolve()
    assert init == "systemd" or os.access(root / script, os.X_OK)
    assert stat.S_IMODE((root / STATE.lstrip("/")).stat().st_mode) == 0o700
    assert [step.outcome for step in steps if step.kind == "command"] in (["left out"], ["left out", "left out"])


@pytest.mark.parametrize("init", INITS)
def test_doing_it_again_changes_nothing(init: Init, tmp_path: Path) -> None:
    root = image(tmp_path / "r", init)
    install(root, init)
    before = tree(root)
    times = {name: (root / name).lstat().st_mtime_ns for name in before}
    steps = install(root, init)
    assert tree(root) == before
    assert {name: (root / name).lstat().st_mtime_ns for name in before} == times
    assert {step.outcome for step in steps} <= {"same", "kept", "left out"}


@pytest.mark.parametrize("init", INITS)
def test_uninstalling_leaves_what_was_there_before(init: Init, tmp_path: Path) -> None:
    root = image(tmp_path / "r", init)
    before = tree(root)
    install(root, init)
    (root / "var/lib/edgeswarm/edgeswarm.db").write_bytes(b"state")
    remove(plan_of(init), Image(root), purge=True)
    after = tree(root)
    after["etc/passwd"] = after["etc/passwd"].rstrip(b"\n")  # type: ignore[union-attr] - it had no last line break
    assert after == before
    assert not (root / "var/lib/edgeswarm").exists()
    assert not (root / "etc/edgeswarm").exists()


def test_uninstalling_keeps_state_settings_and_what_was_changed(tmp_path: Path) -> None:
    root = image(tmp_path / "r")
    install(root)
    unit = root / "etc/systemd/system/edgeswarm.service"
    unit.write_text("# mine\n")
    (root / "var/lib/edgeswarm/keys").mkdir()
    steps = remove(plan_of("systemd"), Image(root))
    kept = {step.what for step in steps if step.outcome in ("kept", "changed")}
    assert {STATE, "/etc/edgeswarm/edgeswarm.toml", "/etc/systemd/system/edgeswarm.service"} <= kept
    assert unit.read_text() == "# mine\n"
    assert (root / "var/lib/edgeswarm/keys").is_dir()
    assert (root / "etc/edgeswarm/edgeswarm.toml").is_file()
    assert not (root / "etc/sysusers.d/edgeswarm.conf").exists()
    assert not (root / "etc/systemd/system/multi-user.target.wants/edgeswarm.service").is_symlink()
    with pytest.raises(LocalError, match="nothing was installed"):
        remove(plan_of("systemd"), Image(root))


def test_a_dry_run_names_everything_and_writes_nothing(tmp_path: Path) -> None:
    root = image(tmp_path / "r")
    before = tree(root)
    plan = plan_of("systemd")
    steps = perform(plan, Image(root), program="/opt/edgeswarm/bin/edgeswarm", dry_run=True)
    assert tree(root) == before
    done = perform(plan, Image(root), program="/opt/edgeswarm/bin/edgeswarm")
    assert [(step.kind, step.what) for step in steps] == [(step.kind, step.what) for step in done]
    before = tree(root)
    remove(plan, Image(root), purge=True, dry_run=True)
    assert tree(root) == before


def test_the_unit_that_is_installed_is_the_one_that_ships(tmp_path: Path) -> None:
    """So that doctor's `verify` holds.  With other paths only the paths differ."""
    root = image(tmp_path / "r")
    install(root)
    shipped = asset("firmware_configs", "linux/systemd/edgeswarm.service").read_text()
    assert (root / "etc/systemd/system/edgeswarm.service").read_text() == shipped
    other = make(Wish(init="systemd", program="/usr/lib/es/bin/edgeswarm", state="/data/es", config="/etc/es.toml"))
    (unit,) = [file.content.decode() for file in other.units]
    assert "ExecStart=/usr/lib/es/bin/edgeswarm run --config /etc/es.toml\n" in unit
    assert "\nReadWritePaths=/data/es\n" in unit
    assert "StateDirectory" not in unit
    assert not [line for line in unit.splitlines() if not line.startswith("#") and "/opt/edgeswarm/bin" in line]
    below = make(Wish(init="systemd", state="/var/lib/es2")).units[0].content.decode()
    assert "\nStateDirectory=es2\nStateDirectoryMode=0700\n" in below


def test_an_update_replaces_what_an_older_installation_wrote(tmp_path: Path) -> None:
    root = image(tmp_path / "r")
    install(root, board="raspberry-pi")
    steps = install(root, program="/usr/lib/es/bin/edgeswarm")
    assert {step.what: step.outcome for step in steps}["/etc/systemd/system/edgeswarm.service"] == "replaced"
    kept = note.read(Image(root), NOTE)
    assert kept is not None
    drop_in = "/etc/systemd/system/edgeswarm.service.d/20-raspberry-pi.conf"
    assert kept.of(drop_in) is not None, "still ours to take away"
    remove(plan_of("systemd"), Image(root), purge=True)
    assert not (root / drop_in.lstrip("/")).exists()


# --- accounts ---------------------------------------------------------------------------------------------------------


@ROOT_ONLY
def test_the_account_is_the_images_own_and_owns_the_state(tmp_path: Path) -> None:
    root = image(tmp_path / "r", "plain")
    install(root, "plain")
    passwd = (root / "etc/passwd").read_text().splitlines()
    assert passwd[:3] == ["root:x:0:0:root:/root:/bin/sh", "# a remark", "mail:x:999:8::/:/bin/false"]
    assert passwd[3] == "edgeswarm:x:998:998:EdgeSwarm supervisor:/var/lib/edgeswarm:/usr/sbin/nologin", "999 is mail's"
    assert (root / "etc/group").read_text().splitlines()[-1] == "edgeswarm:x:998:"
    assert (root / "etc/shadow").read_text().splitlines()[-1] == "edgeswarm:!*:::::::"
    assert stat.S_IMODE((root / "etc/shadow").stat().st_mode) == 0o640
    assert (root / "var/lib/edgeswarm").stat().st_uid == 998


def test_an_image_without_accounts_is_refused_before_the_state_is_made(tmp_path: Path) -> None:
    root = image(tmp_path / "r")
    (root / "etc/passwd").unlink()
    with pytest.raises(LocalError, match=r"/etc/passwd: not there; is .* the root of a machine"):
        install(root)
    assert not (root / "var/lib/edgeswarm").exists()


@ROOT_ONLY
def test_state_of_a_supervisor_that_ran_as_root_is_handed_over_and_no_link_in_it_is_followed(tmp_path: Path) -> None:
    root = image(tmp_path / "r", "plain")
    state = root / "var/lib/edgeswarm"
    (state / "keys").mkdir(parents=True)
    (state / "keys/device.key").write_text("secret")
    outside = tmp_path / "outside"
    outside.write_text("root's")
    (state / "link").symlink_to(outside)
    install(root, "plain")
    assert (state / "keys/device.key").stat().st_uid == 998
    assert outside.stat().st_uid == 0


# --- what is refused --------------------------------------------------------------------------------------------------


def test_somebody_elses_unit_is_not_overwritten(tmp_path: Path) -> None:
    root = image(tmp_path / "r")
    unit = root / "etc/systemd/system/edgeswarm.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("# by hand\n")
    before = tree(root)
    with pytest.raises(LocalError, match=r"/etc/systemd/system/edgeswarm.service: differs .*--force"):
        install(root)
    assert tree(root) == before, "nothing was written, neither account nor folder"
    install(root, force=True)
    unit.write_text(unit.read_text() + "# changed\n")
    with pytest.raises(LocalError, match="no installation wrote it"):
        install(root)


def test_a_folder_that_holds_something_else_does_not_become_the_state(tmp_path: Path) -> None:
    root = image(tmp_path / "r")
    (root / "var/lib/other").mkdir(parents=True)
    (root / "var/lib/other/data").write_text("somebody's")
    for state in ("/var/lib", "/var/lib/other", "/etc"):
        with pytest.raises(LocalError, match="holds something, and nothing of a supervisor"):
            install(root, state=state)
    assert (root / "var/lib/other").stat().st_uid == os.geteuid()


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"program": "bin/edgeswarm"}, "program: expected an absolute path"),
        ({"program": "/opt/a b/edgeswarm"}, "program: expected an absolute path"),
        ({"state": "/var/lib/../../etc"}, "state: expected an absolute path"),
        ({"config": "/etc/x\n[Service]"}, "config: expected an absolute path"),
        ({"program": "/root/.venv/bin/edgeswarm"}, "sees nothing below /root"),
        ({"program": "/home/me/bin/edgeswarm"}, "sees nothing below /home"),
        ({"board": "toaster"}, "board: expected one of raspberry-pi, jetson"),
        ({"init": "plain", "board": "jetson"}, "--board jetson: expected systemd, found plain"),
        ({"init": "openrc", "join_file": "/boot/j"}, "--join-file: expected systemd"),
        ({"init": "procd", "home": "/home/me"}, "--user: expected systemd, found procd"),
        ({"home": "/home/me", "board": "jetson"}, "the machine's, not one user's"),
    ],
)
def test_what_cannot_be_installed_is_refused_with_what_was_expected(wishes: dict[str, str], expected: str) -> None:
    with pytest.raises(LocalError, match=expected):
        make(Wish(**{"init": "systemd", **wishes}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("{}", "format"),
        (
            f'{{{HEAD}, "state": "/s", "program": "/p", "entries": [{{"path": "/etc/../x", "kind": "file"}}]}}',
            "without",
        ),
        (f'{{{HEAD}, "state": "relative", "program": "/p", "entries": []}}', "absolute path"),
        ('{"format": 1, "init": "upstart", "state": "/s", "program": "/p", "entries": []}', "init"),
    ],
)
def test_a_note_that_makes_no_sense_removes_nothing(tmp_path: Path, text: str, expected: str) -> None:
    root = image(tmp_path / "r")
    (root / "etc/edgeswarm").mkdir()
    (root / NOTE.lstrip("/")).write_text(text)
    before = tree(root)
    with pytest.raises((ConfigError, LocalError), match=expected):
        remove(plan_of("systemd"), Image(root), purge=True)
    assert tree(root) == before


def test_a_note_that_is_too_large_or_no_file_is_refused(tmp_path: Path) -> None:
    root = image(tmp_path / "r")
    (root / "etc/edgeswarm").mkdir()
    (root / NOTE.lstrip("/")).write_bytes(b" " * (1 << 20))
    with pytest.raises(LocalError, match="at most"):
        install(root)
    (root / NOTE.lstrip("/")).unlink()
    os.mkfifo(root / NOTE.lstrip("/"))
    with pytest.raises(LocalError, match="expected a file"):
        install(root)


def test_purging_never_removes_a_folder_of_the_system(tmp_path: Path) -> None:
    root = image(tmp_path / "r")
    install(root)
    path = root / NOTE.lstrip("/")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "/etc"}))
    with pytest.raises(LocalError, match="will not be removed as a whole"):
        remove(plan_of("systemd"), Image(root), purge=True)
    assert (root / "etc/passwd").exists()


# --- images -----------------------------------------------------------------------------------------------------------


def test_no_link_of_an_image_leads_out_of_it(tmp_path: Path) -> None:
    """An absolute link of the image means the image; what an installation writes stays inside."""
    root, outside = image(tmp_path / "r"), tmp_path / "outside"
    outside.mkdir()
    (root / "etc/systemd").symlink_to(f"/../..{outside}")
    (root / "etc/edgeswarm").symlink_to(outside)
    (root / "var/lib").symlink_to("../../../../../../../../../srv")
    install(root)
    assert list(outside.iterdir()) == []
    assert (root / "srv/edgeswarm").is_dir()
    inside = root / str(outside).lstrip("/")
    assert (inside / "edgeswarm.toml").is_file()
    assert (inside / "system/edgeswarm.service").is_file()
    (root / "etc/loop").symlink_to("/etc/loop")
    with pytest.raises(LocalError, match="40 links"):
        Image(root).at("/etc/loop/x")


def test_the_keys_of_a_device_are_found_in_an_image(tmp_path: Path) -> None:
    root = image(tmp_path / "r")
    install(root)
    assert identity(Image(root), STATE) == []
    (root / "var/lib/edgeswarm/keys").mkdir()
    (root / "var/lib/edgeswarm/swarm").mkdir()
    assert identity(Image(root), STATE) == [f"{STATE}/keys", f"{STATE}/swarm"]


# --- a machine that runs ----------------------------------------------------------------------------------------------


class Live(Image):
    """An image that commands are run for, as if it were this machine."""

    @property
    def is_live(self) -> bool:
        return True


def test_commands_run_in_order_and_a_restart_only_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)  # no useradd: the files are written
    root, ran = image(tmp_path / "r"), []

    def run(words: tuple[str, ...]) -> tuple[int, str]:
        ran.append(" ".join(words))
        return (1, "not loaded") if "reset-failed" in words else (0, "")

    wish = Wish(init="systemd")
    for expected in ("restart", "start"):
        ran.clear()
        perform(make(wish), Live(root), program=wish.program, run=run)
        assert ran == ["systemctl daemon-reload", f"systemctl {expected} edgeswarm"]
    ran.clear()
    perform(make(Wish(init="systemd", start=False)), Live(root), program=wish.program, run=run)
    assert ran == ["systemctl daemon-reload"]
    ran.clear()
    steps = remove(make(wish), Live(root), run=run)
    assert ran == ["systemctl stop edgeswarm", "systemctl daemon-reload", "systemctl reset-failed edgeswarm"]
    assert [step.outcome for step in steps if step.kind == "command"] == ["done", "done", "failed"]


def test_a_command_that_fails_is_told_and_the_next_try_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    root, wish = image(tmp_path / "r"), Wish(init="openrc")
    with pytest.raises(InstallError, match=r"rc-service edgeswarm restart \(exit 1\): no such service"):
        perform(make(wish), Live(root), program=wish.program, run=lambda words: (1, "no such service"))
    assert note.read(Image(root), NOTE) is not None, "what was written is noted"
    steps = perform(make(wish), Live(root), program=wish.program, run=lambda words: (0, ""))
    assert steps[-1].outcome == "done"


def test_what_the_manager_says_is_passed_on_and_never_guessed() -> None:
    said = "ActiveState=active\nSubState=running\nMainPID=41\nStatusText=gate: ok=1\n"
    running = manager.ask("systemd", run=lambda words: (0, said))
    assert (running.is_running, running.pid, running.details["StatusText"]) == (True, 41, "gate: ok=1")
    assert manager.ask("systemd", run=lambda words: (0, "ActiveState=failed\nMainPID=0")).is_running is False
    assert manager.ask("systemd", run=lambda words: (127, "systemctl: not there")).is_running is None
    assert manager.ask("plain", run=lambda words: (0, "edgeswarm: runs, keeper 17")).pid == 17
    assert manager.ask("plain", run=lambda words: (3, "edgeswarm: does not run")).is_running is False
    assert manager.ask("openrc", run=lambda words: (0, " * status: started")).is_running is True


def test_every_init_system_can_be_found(tmp_path: Path) -> None:
    for init in INITS:
        assert detect(image(tmp_path / init, init)) == init
    both = image(tmp_path / "both", "openrc")
    (both / "sbin/init").symlink_to("/lib/systemd/systemd")
    assert detect(both) == "systemd", "what /sbin/init leads to"
