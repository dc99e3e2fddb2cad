"""Every shipped firmware piece is loaded; each kind of check is seen to hold and to fail on a made-up root."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeswarm.assets import asset
from edgeswarm.drivers import firmware
from edgeswarm.errors import ConfigError

LINUX = asset("firmware_configs", "linux")
SYSCTLS = firmware.sysctl_lines((LINUX / "sysctl.d" / "60-edgeswarm.conf").read_text())
TARGETS = ["jetson", "linux", "openrc", "openwrt", "plain", "raspberry-pi", "x86-gateway"]
OPTIONAL = {"user-service", "join-service", "container"}
"""Pieces of linux/ that apply only where somebody installed them, or in a container."""
PIECE = "[[pieces]]\nname = 'x'\nabout = 'y'\n"
VERIFY = "verify=[{type='contains',path='/f',text='t'}]"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine that has everything: each piece was set."""
    fragment = (LINUX / "kernel" / "edgeswarm.config").read_text()
    put(tmp_path, "proc/config.gz", gzip.compress(fragment.encode()))
    for key, value in SYSCTLS.items():
        put(tmp_path, f"proc/sys/{key.replace('.', '/')}", f"{value}\n".encode())
    put(tmp_path, "run/systemd/system/.keep", b"")
    put(tmp_path, "etc/passwd", b"root:x:0:0::/root:/bin/sh\nedgeswarm:x:999:999::/:/usr/sbin/nologin\n")
    put(tmp_path, "etc/systemd/system/edgeswarm.service", (LINUX / "systemd" / "edgeswarm.service").read_bytes())
    put(tmp_path, "etc/systemd/journald.conf.d/60-edgeswarm.conf", (LINUX / "journald/60-edgeswarm.conf").read_bytes())
    put(tmp_path, "proc/sys/kernel/apparmor_restrict_unprivileged_userns", b"1\n")
    put(tmp_path, "etc/apparmor.d/edgeswarm", (LINUX / "apparmor" / "edgeswarm").read_bytes())
    put(tmp_path, "sys/kernel/security/apparmor/profiles", b"firefox (enforce)\nedgeswarm (unconfined)\n")
    return tmp_path


def put(root: Path, name: str, content: bytes) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


def test_every_target_loads_and_names_only_files_that_ship() -> None:
    assert firmware.targets() == TARGETS
    for target in firmware.targets():
        named = {"manifest.toml"}
        for piece in firmware.load(target).pieces:
            named |= {item.file for item in (*piece.steps, *piece.verify) if hasattr(item, "file")}
        folder = asset("firmware_configs", target)
        shipped = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert shipped == named, "each file belongs to a piece"


def test_a_machine_with_everything_set_passes(root: Path) -> None:
    found = firmware.check("linux", root=root)
    optional = {name: found.pop(name).state for name in OPTIONAL}
    assert {name: finding.state for name, finding in found.items()} == dict.fromkeys(found, "ok")
    assert set(optional.values()) == {"not_here"}
    assert all(finding.advice == "" for finding in found.values())


def test_an_empty_machine_gets_advice_for_what_applies(tmp_path: Path) -> None:
    found = firmware.check("linux", root=tmp_path)
    assert {name: finding.state for name, finding in found.items()} == {
        "kernel": "unknown",  # no configuration to read
        "sysctl": "ok",  # none of the keys exists
        "user": "not_here",
        "service": "not_here",
        "apparmor": "not_here",
        "container": "not_here",
        "journal": "not_here",
        "user-service": "not_here",
        "join-service": "not_here",
    }


@pytest.mark.parametrize(
    ("piece", "file", "content", "expected"),
    [
        (
            "kernel",
            "proc/config.gz",
            gzip.compress(b"CONFIG_SECCOMP=y\n", mtime=0),
            "CONFIG_USER_NS: expected y, found n",
        ),
        (
            "kernel",
            "proc/config.gz",
            gzip.compress(b"CONFIG_LEGACY_TIOCSTI=y\n", mtime=0),
            "CONFIG_LEGACY_TIOCSTI: expected n",
        ),
        ("sysctl", "proc/sys/kernel/dmesg_restrict", b"0\n", "kernel.dmesg_restrict: expected 1, found 0"),
        ("user", "etc/passwd", b"root:x:0:0\nnotedgeswarm:x:1:1\n", "no line starts with 'edgeswarm:'"),
        ("service", "etc/systemd/system/edgeswarm.service", b"[Service]\n", "differs from ours"),
        ("apparmor", "etc/apparmor.d/edgeswarm", b"", "differs from ours"),
        ("apparmor", "sys/kernel/security/apparmor/profiles", b"edgeswarmed (enforce)\n", "no line starts with"),
    ],
)
def test_what_differs_is_named_with_the_step_to_set_it(
    root: Path, piece: str, file: str, content: bytes, expected: str
) -> None:
    put(root, file, content)
    found = firmware.check("linux", root=root)
    assert found.pop(piece).state == "missing"
    assert all(finding.state in ("ok", "not_here") for finding in found.values())
    finding = firmware.check("linux", root=root)[piece]
    assert expected in finding.detail
    assert "firmware_configs/linux/" in finding.advice


def test_a_missing_file_is_missing(root: Path) -> None:
    (root / "etc/systemd/system/edgeswarm.service").unlink()
    assert firmware.check("linux", root=root)["service"].detail == "/etc/systemd/system/edgeswarm.service is not there"


def test_a_module_and_a_stricter_value_count_as_set(root: Path) -> None:
    fragment = (LINUX / "kernel" / "edgeswarm.config").read_text().replace("CONFIG_UNIX=y", "CONFIG_UNIX=m")
    put(root, "proc/config.gz", gzip.compress(fragment.encode()))
    put(root, "proc/sys/kernel/unprivileged_bpf_disabled", b"2\n")
    found = firmware.check("linux", root=root)
    assert (found["kernel"].state, found["sysctl"].state) == ("ok", "ok")


def test_nothing_shipped_weakens_a_machine() -> None:
    """No sysctl of user namespaces, ptrace or AppArmor is turned off; kernel lines switch protections on."""
    assert not [key for key in SYSCTLS if "userns" in key or "user_namespaces" in key or "apparmor" in key]
    floors = {"vm.unprivileged_userfaultfd": "0", "dev.tty.legacy_tiocsti": "0"}
    assert {key: value for key, value in SYSCTLS.items() if value == "0"} == floors
    for path in LINUX.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"mitigations=off|nokaslr|selinux=0|apparmor=0|seccomp=0|spectre_v2=off", text), path


def test_every_accepted_value_belongs_to_a_key_of_the_file() -> None:
    for piece in firmware.load("linux").pieces:
        for verify in piece.verify:
            if isinstance(verify, firmware.Sysctl):
                assert set(verify.accept) <= set(SYSCTLS)


def test_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="one of jetson, linux, .*, found 'toaster'"):
        firmware.load("toaster")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pieces = []", "pieces"),
        ("pieces = 3", "pieces"),
        (f"{PIECE}set = []\nverify = []", "pieces\\[0\\].set"),
        (
            f"{PIECE}set=[{{type='install',file='f',to='/f',then='t'}}]\n{VERIFY}",
            "piece x: f: no such file",
        ),
        (
            f"{PIECE}set=[{{type='run',command='rm'}}]\n{VERIFY}",
            "pieces\\[0\\].set\\[0\\].type",
        ),
        (
            f"{PIECE}set=[{{type='merge',file='../../etc/passwd',into='k',then='t'}}]\n{VERIFY}",
            "a path in the folder",
        ),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    put(tmp_path, "board/manifest.toml", text.encode())
    with pytest.raises(ConfigError, match=expected):
        firmware.load("board", tmp_path)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """systemd-analyze verify wants the program to be there, so the copy names one that is."""
    text = (LINUX / "systemd" / "edgeswarm.service").read_text()
    unit = tmp_path / "edgeswarm.service"
    unit.write_text(re.sub(r"(?m)^(Exec\w+)=\S+", r"\1=/bin/true", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_leaves_open_what_a_jail_is_made_of() -> None:
    """Each of these would break a jail at start; the unit's comment says so, and the setting must stay away."""
    settings = dict(
        line.split("=", 1)
        for line in (LINUX / "systemd" / "edgeswarm.service").read_text().splitlines()
        if re.match(r"[A-Z][A-Za-z]+=", line)
    )
    for absent in ("RestrictNamespaces", "MemoryDenyWriteExecute", "ProtectHostname", "ProtectControlGroups"):
        assert absent not in settings
    assert "@mount" not in settings["SystemCallFilter"]
    for present in ("NoNewPrivileges", "ProtectSystem", "ProtectKernelModules", "RestrictSUIDSGID"):
        assert settings[present] in ("yes", "strict")
    assert settings["CapabilityBoundingSet"] == ""


def test_the_unit_starts_what_the_command_line_knows() -> None:
    from edgeswarm.app.cli.daemon import run
    from edgeswarm.app.cli.root import COMMANDS

    unit = (LINUX / "systemd" / "edgeswarm.service").read_text()
    (line,) = re.findall(r"(?m)^ExecStart=(.*)$", unit)
    program, command, *arguments = line.split()
    assert program.endswith("/edgeswarm")
    assert command in COMMANDS
    known = {option for parameter in run.params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("-")} <= known
