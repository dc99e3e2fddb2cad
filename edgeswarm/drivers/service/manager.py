"""Asks the service manager: does the supervisor run, what did it log, how far is its unit locked.

Changes nothing but by `restart`.  What a manager cannot say is None or absent, never guessed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeswarm.drivers.service.perform import Runner, run_command
from edgeswarm.drivers.service.plan import NAME, File, Init
from edgeswarm.errors import LocalError
from edgeswarm.limits import INSTALL_COMMAND_S

LOG_FILE = "/var/log/edgeswarm/edgeswarm.log"
_SHOWN = ("ActiveState", "SubState", "MainPID", "NRestarts", "StatusText", "Result", "ExecMainStartTimestamp")
_SCORE = re.compile(r"Overall exposure level for (\S+): ([0-9]+(?:\.[0-9]+)?) (\S+)")


@dataclass(frozen=True, slots=True)
class Running:
    """What the manager says.  is_running: None when it cannot be asked; details: its own words."""

    is_running: bool | None
    pid: int | None
    details: dict[str, str]


def ask(init: Init, *, of_user: bool = False, run: Runner = run_command) -> Running:
    """Whether the service runs."""
    if init == "systemd":
        scope = ("--user",) if of_user else ()
        code, said = run(("systemctl", *scope, "show", f"{NAME}.service", f"--property={','.join(_SHOWN)}"))
        if code != 0:
            return Running(None, None, {"systemctl": said})
        details = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        pid = details.get("MainPID", "0")
        running = details.get("ActiveState") in ("active", "reloading", "activating")
        return Running(running, int(pid) if pid.isdigit() and pid != "0" else None, details)
    words = ("rc-service", NAME, "status") if init == "openrc" else (f"/etc/init.d/{NAME}", "status")
    code, said = run(words)
    if code in (124, 126, 127):
        return Running(None, None, {words[0]: said})
    found = re.search(r"keeper (\d+)", said)
    return Running(code == 0 and "inactive" not in said, int(found[1]) if found else None, {words[0]: said})


def log_words(init: Init, *, lines: int, follow: bool, of_user: bool = False) -> list[str]:
    """The command that shows what the service logged.  Raises LocalError where its program is missing."""
    if init == "systemd":
        scope = ["--user-unit", NAME] if of_user else ["--unit", NAME]
        words = [
            "journalctl",
            *scope,
            "--output=cat",
            "--no-pager",
            f"--lines={lines}",
            *(["--follow"] if follow else []),
        ]
    elif init == "procd":
        words = ["logread", "-e", NAME, *(["-f"] if follow else ["-l", str(lines)])]
    else:
        words = ["tail", "-n", str(lines), *(["-F"] if follow else []), LOG_FILE]
    if shutil.which(words[0]) is None:
        raise LocalError(f"{words[0]}: not there; `edgeswarm logs` asks the supervisor itself")
    return words


def restart(init: Init, *, of_user: bool = False, run: Runner = run_command) -> tuple[int, str]:
    """End it with every jail, and start it again."""
    return run(restart_words(init, of_user=of_user))


def restart_words(init: Init, *, of_user: bool = False) -> tuple[str, ...]:
    if init == "systemd":
        return ("systemctl", *(("--user",) if of_user else ()), "restart", NAME)
    return ("rc-service", NAME, "restart") if init == "openrc" else (f"/etc/init.d/{NAME}", "restart")


def exposure(units: Sequence[File]) -> tuple[float, str] | None:
    """systemd's own score of the unit with its drop-ins, 0.0 (locked) to 10.0, and its word for it.

    None where systemd-analyze is missing, or is too old to score a file.
    """
    program = shutil.which("systemd-analyze")
    if program is None:
        return None
    with tempfile.TemporaryDirectory(prefix="edgeswarm-unit-") as folder:
        for unit in units:
            path = Path(folder) / Path(unit.path).relative_to("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(unit.content)
        (main,) = [unit for unit in units if unit.path.endswith(f"/{NAME}.service")]
        unit_file = str(Path(folder) / Path(main.path).relative_to("/"))
        try:
            done = subprocess.run(
                [program, "security", "--offline=yes", "--no-pager", unit_file],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=INSTALL_COMMAND_S,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
    found = _SCORE.search(done.stdout)
    return (float(found[2]), found[3]) if found else None


def become_owner_of(folder: Path) -> None:
    """Go on as the user who owns `folder`: what root writes into the service's state, the service must be able to read.

    For commands that root runs (`join`, `leave`); does nothing for another user, or where root owns it.  For good:
    this process does not become root again.
    """
    if os.geteuid() != 0 or not folder.is_dir():
        return
    owner = folder.stat()
    if owner.st_uid != 0:
        os.setgroups([])
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
