"""Boards and init systems: each piece, once set as its `set` says, is found by `verify`; scripts and units parse."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from edgeswarm import schema
from edgeswarm.app.join.source import BOOT_FILES, JoinFile
from edgeswarm.assets import asset
from edgeswarm.drivers import firmware

BOARDS = ("jetson", "raspberry-pi", "x86-gateway")
INITS = ("openrc", "openwrt", "plain")
FOLDER = asset("firmware_configs")
SCRIPTS = ("openrc/edgeswarm.initd", "openrc/edgeswarm.confd", "openwrt/edgeswarm.init", "plain/edgeswarm.sh")
MERGED = {  # where the files of `merge` steps end up
    "cmdline.txt": "proc/cmdline",
    "config.txt": "boot/firmware/config.txt",
}


def put(root: Path, name: str, content: bytes) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


def set_all(root: Path, target: str) -> None:
    """What whoever builds an image does: every step of every piece; and an account, which is no file."""
    put(root, "etc/passwd", b"root:x:0:0::/:/bin/sh\nedgeswarm:x:999:999::/:/bin/false\n")
    put(root, "run/systemd/system/.keep", b"")
    for piece in firmware.load(target).pieces:
        if piece.when is not None:
            (root / piece.when.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        for step in piece.steps:
            content = (FOLDER / target / step.file).read_bytes()
            if isinstance(step, firmware.Install):
                put(root, step.to.lstrip("/"), content)
            elif step.file == "cmdline.txt":
                put(root, MERGED[step.file], b"console=tty1 cgroup_disable=memory root=/dev/mmcblk0p2 " + content)
            else:
                put(root, MERGED[step.file], b"[all]\n" + content)


@pytest.mark.parametrize("target", [*BOARDS, *INITS])
def test_what_was_set_is_found(target: str, tmp_path: Path) -> None:
    set_all(tmp_path, target)
    found = firmware.check(target, root=tmp_path)
    assert {name: finding.state for name, finding in found.items()} == dict.fromkeys(found, "ok"), found


@pytest.mark.parametrize("target", [*BOARDS, *INITS])
def test_each_piece_that_is_damaged_is_found_missing_alone(target: str, tmp_path: Path) -> None:
    """Every file that a `verify` looks at is emptied once; only its piece complains, and says how to set it."""
    set_all(tmp_path, target)
    for piece in firmware.load(target).pieces:
        for verify in piece.verify:
            assert not isinstance(verify, (firmware.Kconfig, firmware.Sysctl))
            path = tmp_path / verify.path.lstrip("/")
            before = path.read_bytes()
            path.write_bytes(b"")
            found = firmware.check(target, root=tmp_path)
            assert found[piece.name].state == "missing"
            assert f"firmware_configs/{target}/" in found[piece.name].advice
            path.write_bytes(before)
    assert all(finding.state == "ok" for finding in firmware.check(target, root=tmp_path).values())


def test_a_machine_is_checked_against_what_it_is(tmp_path: Path) -> None:
    assert firmware.here(root=tmp_path) == ["linux"]
    put(tmp_path, "proc/device-tree/model", b"Raspberry Pi 5 Model B Rev 1.0\0")
    assert firmware.here(root=tmp_path) == ["linux", "raspberry-pi"]
    put(tmp_path, "proc/device-tree/model", b"NVIDIA Jetson Orin Nano Developer Kit\0")
    put(tmp_path, "run/openrc/softlevel", b"default\n")
    assert firmware.here(root=tmp_path) == ["linux", "jetson", "openrc"]
    put(tmp_path, "proc/device-tree/model", b"Some Raspberry Pie\0")
    assert firmware.here(root=tmp_path) == ["linux", "openrc"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"quiet cgroup_memory=1 cgroup_enable=memory", "ok"),
        (b"quiet cgroup_enable=memory", "expected cgroup_memory=1 as well"),
        (b"cgroup_enable=memoryx cgroup_memory=1", "expected cgroup_enable=memory as well"),
        (b"cgroup_enable=memory\ncgroup_memory=1", "as well"),
        (b"", "expected cgroup_enable=memory cgroup_memory=1 as well"),
    ],
)
def test_words_stand_in_one_line_and_whole(tmp_path: Path, line: bytes, expected: str) -> None:
    put(tmp_path, "proc/cmdline", line + b"\n")
    finding = firmware.check("raspberry-pi", root=tmp_path)["cgroup-memory"]
    assert expected in (finding.state, finding.detail) or expected in finding.detail


def test_a_join_file_of_a_board_is_one_and_holds_no_token(tmp_path: Path) -> None:
    for board in BOARDS:
        told = schema.decode(tomllib.loads((FOLDER / board / "join.toml").read_text()), JoinFile, where=board)
        assert told.token == ""
        text = re.sub(r"(?m)^# (name|profile|labels) =", r"\1 =", (FOLDER / board / "join.toml").read_text())
        assert schema.decode(tomllib.loads(text), JoinFile, where=board).profile, "also with every key in it"
        (where,) = [p.to for piece in firmware.load(board).pieces for p in piece.steps if p.file == "join.toml"
                    and isinstance(p, firmware.Install)]  # fmt: skip
        assert Path(where) in BOOT_FILES, "join looks there"


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("shell", ["dash", "busybox", "bash", "shellcheck"])
def test_scripts_parse(name: str, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not here")
    words = {
        "dash": ["dash", "-n"],
        "busybox": ["busybox", "ash", "-n"],
        "bash": ["bash", "--posix", "-n"],
        "shellcheck": ["shellcheck", "-s", "dash", "-e", "SC2034,SC3043"],
    }[shell]
    done = subprocess.run([*words, str(FOLDER / name)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("board", ["", "raspberry-pi", "jetson"])
def test_systemd_accepts_every_unit_with_its_drop_ins(board: str, tmp_path: Path) -> None:
    """verify wants programs that are there, and says nothing to a unit without fault."""
    for name in ("edgeswarm.service", "edgeswarm-join.service"):
        text = (FOLDER / "linux" / "systemd" / name).read_text().replace("/opt/edgeswarm/bin/edgeswarm", "/bin/true")
        (tmp_path / name).write_text(text)
    if board:
        put(tmp_path, "edgeswarm.service.d/20-board.conf", (FOLDER / board / "systemd" / "devices.conf").read_bytes())
    units = [str(path) for path in tmp_path.glob("*.service")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
