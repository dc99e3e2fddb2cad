"""Tells the service manager how the supervisor is: ready, stopping, reloading, still alive.

The protocol of sd_notify(3): one datagram of KEY=value lines to the socket that NOTIFY_SOCKET names, a path or, with a
leading "@", a name in the abstract space.  Without that variable everything here does nothing, so that the same program
runs under OpenRC, procd, a terminal.  Nothing here raises and nothing waits: a service manager that does not read must
not stop an agent; a datagram that does not fit is dropped and counted.

A beat of the watchdog comes from a task on the event loop.  A loop that hangs does not beat, and the manager ends the
process.  The environment is an argument: the caller reads it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping

from edgeswarm.limits import NOTIFY_PATH_BYTES_MAX, NOTIFY_STATUS_CHARS_MAX, WATCHDOG_S_MIN


class Notifier:
    """address: of NOTIFY_SOCKET, or None: nothing is sent.  watchdog_s: what the manager waits for a beat, or None."""

    def __init__(self, address: bytes | None = None, *, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s if address is not None else None
        self.dropped_count = 0
        self._address = address

    @classmethod
    def of(cls, environ: Mapping[str, str], *, pid: int | None = None) -> Notifier:
        """What the service manager said.  A variable that makes no sense is as good as absent.

        WATCHDOG_PID names another process: then its beats are not ours.  pid: of this process, where a test says so.
        """
        address = _address(environ.get("NOTIFY_SOCKET", ""))
        meant = environ.get("WATCHDOG_PID", "")
        if meant and meant != str(os.getpid() if pid is None else pid):
            return cls(address)
        return cls(address, watchdog_s=_seconds(environ.get("WATCHDOG_USEC", "")))

    @property
    def is_heard(self) -> bool:
        """There is a service manager that wants to know."""
        return self._address is not None

    # --- what is said -------------------------------------------------------------------------------------------------

    def ready(self, status: str = "") -> bool:
        """The start is over, or a reload is: what depends on us may start."""
        return self.send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self.send(*_status(text))

    def stopping(self) -> bool:
        return self.send("STOPPING=1")

    def reloading(self) -> bool:
        """A reload, or a hand-over to another version, has begun; `ready` ends it."""
        return self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def main_pid(self, pid: int) -> bool:
        """The service's main process is this one from now on."""
        return self.send(f"MAINPID={pid}")

    def beat(self) -> bool:
        return self.send("WATCHDOG=1")

    def extend(self, seconds: float) -> bool:
        """A start or a stop takes that much longer, from now on."""
        return self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def send(self, *lines: str) -> bool:
        """One datagram; whether it was taken.  Never raises, never waits."""
        if self._address is None or not lines:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as ours:
                ours.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError:
            self.dropped_count += 1
            return False
        return True

    # --- the watchdog -------------------------------------------------------------------------------------------------

    async def watch(self, alive: Callable[[], bool] = lambda: True) -> None:
        """Beat at half the interval while the event loop turns and `alive()` holds; returns at once without a watchdog.

        Not alive: no beat is sent, and the next look comes after the same time.
        """
        if self.watchdog_s is None:
            return
        while True:
            if alive():
                self.beat()
            await asyncio.sleep(self.watchdog_s / 2)


def _address(text: str) -> bytes | None:
    """Raises nothing: sd_notify(3) knows absolute paths, "@" names, and vsock, which a device has no use for."""
    raw = os.fsencode(text)
    if not raw.startswith((b"/", b"@")) or len(raw) < 2 or len(raw) > NOTIFY_PATH_BYTES_MAX or b"\0" in raw:
        return None
    return b"\0" + raw[1:] if raw.startswith(b"@") else raw


def _seconds(text: str) -> float | None:
    """Microseconds as text -> seconds; None for what is no number, and for what nobody could keep."""
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        return None
    seconds = int(text) / 1e6
    return seconds if seconds >= WATCHDOG_S_MIN else None


def _status(text: str) -> tuple[str, ...]:
    """One line: a text with a line break would be read as another variable."""
    line = " ".join(text.split())[:NOTIFY_STATUS_CHARS_MAX]
    return (f"STATUS={line}",) if line else ()
