"""Other versions of the supervisor to upgrade to: the same program, broken in one place each."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from processes import Daemon, wait_for

from edgeswarm.drivers.control import ControlError
from edgeswarm.errors import RemoteError

GOOD = [sys.executable, "-m", "edgeswarm"]
_RUN = "\nfrom edgeswarm.__main__ import main\nmain()\n"

_CHECKS = "CHECKS = '--check-handover' in sys.argv"
_UNPACK = "import edgeswarm.app.handover_unpack as u"
_LOOP = """
from edgeswarm.app.supervisor import Supervisor
from edgeswarm.core import effects as do
old = Supervisor._perform
async def bad(self, effect):
    if isinstance(effect, do.WriteCheckpoint): raise ValueError('a fault in the loop')
    await old(self, effect)
Supervisor._perform = bad
"""
_SILENT = """
from edgeswarm.app.control_ops import ControlOps
async def bad(self, args): raise RuntimeError('no status')
ControlOps._status = bad
"""

BROKEN: dict[str, tuple[str, str]] = {
    "is none": ("print('hello')\nsys.exit(0)", "did not say"),
    "does not import": ("import edgeswarm.there_is_none", "No module named"),
    "reads another format": (
        "import edgeswarm.app.handover_guard as g\ng.READS = (99,)",
        "format [99], ours is 1",
    ),
    "does not import when it comes to it": (
        "if not CHECKS: sys.modules['edgeswarm.app.daemon'] = None",
        "ModuleNotFoundError",
    ),
    "says that it reads what it does not": (
        "import edgeswarm.app.handover_guard as g\nif not CHECKS: g.READS = (99,)",
        "expected a hand-over of format 99, found 1",
    ),
    "raises while it adopts": (
        f"{_UNPACK}\ndef bad(*_): raise ValueError('a fault of the new version')\nu.Arrival._join = bad",
        "ValueError: a fault of the new version",
    ),
    "ends while it adopts": (f"{_UNPACK}\ndef bad(*_): sys.exit(3)\nu.Arrival._join = bad", "SystemExit: 3"),
    "never stands": (
        f"import asyncio\n{_UNPACK}\nasync def bad(*_): await asyncio.sleep(3600)\nu.Arrival.adopt = bad",
        "did not stand within",
    ),
    "turns in circles": (
        f"{_UNPACK}\ndef bad(*_):\n    while True: pass\nu.Arrival._join = bad",
        "did not stand within",
    ),
    "has a fault in its control loop": (_LOOP, "control_fault: ValueError: a fault in the loop"),
    "does not answer": (_SILENT, "RuntimeError: no status"),
}
"""What is wrong with it -> its first lines, and what is said of it."""

OFTEN = (
    "raises while it adopts",
    "turns in circles",
    "has a fault in its control loop",
)
"""Those of every run; `make soak` has them all."""


def broken(kind: str) -> list[str]:
    code = f"import sys\n{_CHECKS}\n{BROKEN[kind][0]}{_RUN}"
    return [sys.executable, "-c", code]


def upgrade(daemon: Daemon, program: list[str], *, healthy_s: float = 0.2, start_s: float = 30.0) -> dict[str, Any]:
    """Upgrade, and wait until it is decided: the answer of `upgrade_status`, or {"state": "refused", "why"}."""
    try:
        daemon.call("upgrade", program=program, healthy_s=healthy_s, start_s=start_s)
    except ControlError as error:
        return {"state": "refused", "why": str(error)}

    def decided() -> dict[str, Any] | None:
        assert daemon.process.poll() is None, daemon.said()
        try:
            found: dict[str, Any] = daemon.call("upgrade_status")
        except (OSError, RemoteError):  # hung up on by the one who leaves
            return None
        return found if found["state"] in ("healthy", "rolled_back") else None

    result: dict[str, Any] = wait_for(decided, "the upgrade is decided", within_s=60.0)
    return result


def fds(daemon: Daemon) -> int:
    """Open descriptors; the least of several looks, since who asked a moment ago is still being let go."""
    folder, found = f"/proc/{daemon.process.pid}/fd", []
    for _ in range(10):
        found.append(len(os.listdir(folder)))
        time.sleep(0.02)
    return min(found)


COUNTER = """
import sys, time
step_s, number, due_s = float(sys.argv[1]), 0, time.monotonic()
while True:
    number += 1
    print('{"x":%d}' % number, flush=True)
    due_s += step_s
    time.sleep(max(0.0, due_s - time.monotonic()))
"""


def counting(state: Path, *, rate_hz: int = 1000) -> dict[str, Any]:
    """An exec source that says 1, 2, 3, ... for ever."""
    path = state / "counter.py"
    path.write_text(COUNTER)
    return {"type": "exec", "command": [sys.executable, "-I", str(path), str(1 / rate_hz)], "fields": ["x"]}


def settled(seconds: float) -> None:
    """Let rows flow for a while."""
    time.sleep(seconds)
