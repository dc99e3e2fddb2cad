"""A jail's life without an event loop, from the order to its end: what `jail_life` is to asyncio.

A program may fork (multiprocessing does).  Jails stay with the process that made them: in the child they are gone, its
copies of their descriptors are closed, and whatever it does, they serve on in the parent.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
import weakref
from typing import Any, Final, Protocol

from edgeswarm.drivers.jail_life import JailExit, JailStartError, Link, how_it_ended, parse_told
from edgeswarm.drivers.jail_link import JailLink
from edgeswarm.drivers.kernel_log import forbidden_call
from edgeswarm.limits import JAIL_READY_MS_MAX

_CONTROL_BYTES_MAX: Final = 256 * 1024
_STATUS_WAIT_S: Final = 0.25
_STATUS_WAITS: Final = 8
"""As in `jail_life`: a busy zygote takes its time to say how a jail ended, and SIGSYS must not go unnoticed."""


class Process:
    """What the zygote says of one jail."""

    def __init__(self) -> None:
        self.pid = 0
        self.pidfd = -1
        self.refused = ""
        self.status: tuple[int | None, int | None] | None = None
        """(code, signal) once it is reaped."""


class Owner(Protocol):
    """What a jail needs of its host."""

    def order(self, link: Link, policy: str) -> Process:
        """Send an order to the zygote."""

    def listen(self, timeout_s: float) -> bool:
        """Take one message of the zygote."""

    def why_killed(self, number: int) -> str:
        """Why the kernel killed it, where it says so; else nothing."""

    def forget(self, jail: object, number: int) -> None:
        """It has ended."""


class SyncLife:
    """A jail from the order to its end."""

    def __init__(self, host: Owner, link: Link, policy: str) -> None:
        self.began_ns = time.monotonic_ns()
        self.gone = False
        self.reason = ""
        self.lie = ""
        self._host = host
        self._life = link
        self.process = host.order(link, policy)
        _LIVES.add(self)

    def become_ready(self, *, within_ms: int, judge: JailLink | None) -> dict[str, Any]:
        """What it says when it is ready.  Raises JailStartError."""
        until = time.monotonic() + within_ms / 1000
        told: dict[str, Any] = {}
        while not self.gone:
            timeout_s = until - time.monotonic() if judge is None else min(until - time.monotonic(), self.judge(judge))
            if readable(self._life.control.fileno(), max(timeout_s, 0)):
                text = self.receive()
                if text:
                    told = parse_told(text) or {"failed": "malformed message on the control socket"}
                break
            if time.monotonic() >= until:
                self.end(f"not ready within {within_ms} ms")
        while not self.process.pid and not self.process.refused and self._host.listen(_STATUS_WAIT_S):
            pass
        if "ready" not in told:
            ended = self.end("")
            raise JailStartError(
                f"jail {self._life.id}: {self.process.refused or told.get('failed') or ended.text}",
                ended,
                invalid=told.get("invalid", ""),
            )
        return told

    def judge(self, link: JailLink) -> float:
        """Poke or kill what is past its deadline; returns the seconds until the next look."""
        now = time.monotonic_ns()
        verdict = link.judge(now)
        if verdict is None:
            return JAIL_READY_MS_MAX / 1000
        if verdict.kill:
            self.end("killed: no answer two deadlines long")
        elif verdict.poke:
            link.poke()
        return max(verdict.at_ns - now, 100_000) / 1e9

    def receive(self) -> bytes:
        try:
            return self._life.control.recv(_CONTROL_BYTES_MAX)
        except (BlockingIOError, ConnectionError):
            return b""

    def end(self, reason: str) -> JailExit:
        """Kill it if it lives, and learn how it ended."""
        self.reason = self.reason or reason
        if not self.gone:
            self.gone = True
            if self.process.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.process.pidfd, signal.SIGKILL)
            with contextlib.suppress(OSError):
                self._life.control.shutdown(socket.SHUT_RDWR)
            waits = 0
            while self.process.status is None and waits < _STATUS_WAITS:
                waits += not self._host.listen(_STATUS_WAIT_S)
        code, number = self.process.status or (None, None)
        sigsys = number == signal.SIGSYS
        reason = self.reason or self._host.why_killed(self._life.id)
        call = forbidden_call(self.process.pid) if sigsys else ""
        text = how_it_ended(code, number, lie=self.lie, reason=reason, call=call)
        quarantine = sigsys or bool(self.lie)
        return JailExit(self._life.id, self.process.pid, code, number, sigsys, quarantine, text)

    def close(self) -> None:
        if not self.gone:
            with contextlib.suppress(OSError):
                self._life.control.shutdown(socket.SHUT_WR)
            until = time.monotonic() + 4 * _STATUS_WAIT_S
            while self.process.status is None and time.monotonic() < until and self._host.listen(_STATUS_WAIT_S):
                pass
        self.end("closed")
        if self.process.pidfd >= 0:
            os.close(self.process.pidfd)
            self.process.pidfd = -1
        self._host.forget(self, self._life.id)
        self._life.close()

    def forsake(self) -> None:
        """In a child that this process has forked: it is the parent's, and stays as it is."""
        self.gone, self.reason = True, "it belongs to the process that this one was forked from"
        if self.process.pidfd >= 0:
            os.close(self.process.pidfd)
            self.process.pidfd = -1
        with contextlib.suppress(BufferError):  # an array still looks at its memory
            self._life.close()


_LIVES: weakref.WeakSet[SyncLife] = weakref.WeakSet()


def _forsake_all() -> None:
    for life in tuple(_LIVES):
        life.forsake()


os.register_at_fork(after_in_child=_forsake_all)


def readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
