"""A mosquitto that outlived who ran it: killed -9, a controller takes no leave of its broker.

Each that is run here carries in its environment whose it is.  One whose owner is gone still holds the ports and the
retained messages' file; it is ended, gently, before another one starts.  One that somebody else runs (a service,
another terminal) is left alone.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from edgeswarm.limits import BROKER_STOP_S

MARK = "EDGESWARM_BROKER_OF"


def mark() -> str:
    """Names this process among all that ever had its number."""
    return f"{os.getpid()}.{_started(os.getpid())}"


def end_orphan(pid_file: Path, config: Path) -> int:
    """End the orphan with this configuration, and wait for it; its process id, 0 where there is none.  Blocking."""
    try:
        pid = int(pid_file.read_text()[:20])
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return 0
    owner = next((item.decode()[len(MARK) + 1 :] for item in environ if item.startswith(MARK.encode() + b"=")), "")
    if os.fsencode(config) not in words or not owner or _lives(owner):
        return 0
    started, end = _started(pid), time.monotonic() + BROKER_STOP_S
    number = signal.SIGTERM
    while _started(pid) == started:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            return 0
        number = signal.SIGKILL if time.monotonic() > end else signal.SIGTERM
        time.sleep(0.05)
    return pid


def _lives(owner: str) -> bool:
    pid, _, started = owner.partition(".")
    return pid.isdigit() and _started(int(pid)) == started


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; "" where it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
