"""A jail's life under asyncio, from the order to its end, whatever it is for.

Leaves the decisions (restart, back-off, quarantine) to core, and the frames to `jail_process.Jail`.
Invariants: `ended` is set exactly once, after everything that the jail still said was taken; the process is reaped by
the zygote, which says how it ended; a jail that breaks the protocol is killed and marked for quarantine, as is one
that seccomp ended (SIGSYS).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from edgeswarm.drivers.jail_orphans import orphan_end, zombie_end
from edgeswarm.drivers.kernel_log import forbidden_call
from edgeswarm.errors import JailError
from edgeswarm.ids import JailId
from edgeswarm.jail.frames import RingError

log = logging.getLogger(__name__)

_CONTROL_BYTES_MAX: Final = 256 * 1024
_STATUS_WAIT_S: Final = 0.25
_STATUS_WAITS: Final = 8
"""How long and how often the zygote is waited for to say how a jail ended that is gone."""
_LOG_WAIT_S: Final = 0.02
_CLOSE_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class JailExit:
    """How a jail ended.  code or signal; both None when nobody knows."""

    jail_id: JailId
    pid: int
    code: int | None
    signal: int | None
    sigsys: bool
    quarantine: bool
    """It did what it may not: called what seccomp forbids, or lied in a ring."""
    text: str
    slot: int | None = None
    """The agent whose call was running, by the jail's own word; None when none was."""


class JailStartError(JailError):
    """A jail did not become ready.  `ended` says how it ended; `invalid`, of a compilation, what its module lacks."""

    def __init__(self, text: str, ended: JailExit, *, invalid: str = "") -> None:
        super().__init__(text)
        self.ended = ended
        self.invalid = invalid


class Link(Protocol):
    """The supervisor's end of a jail, as far as its life is concerned."""

    id: JailId
    control: socket.socket
    job: dict[str, Any]
    memory_bytes_max: int
    cpu_cores: float

    @property
    def fds(self) -> tuple[int, ...]: ...

    def hand_over(self) -> None: ...

    def close(self) -> None: ...


class Owner(Protocol):
    """What a jail needs of its host."""

    def why_killed(self, number: JailId) -> str:
        """Why the kernel killed it, where it says so; else nothing."""

    def forget(self, jail: JailLife) -> None:
        """It has ended."""

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run this to its end."""


@dataclass(frozen=True, slots=True)
class _Status:
    code: int | None
    signal: int | None


class JailLife:
    """A jail that was ordered from the zygote."""

    def __init__(self, host: Owner, link: Link, on_exit: Callable[[JailExit], None], *, listens: bool = True) -> None:
        """listens: to what the jail says; else `listen` begins it."""
        self.id = link.id
        self.pid = 0
        self.pidfd = -1
        self.started_ms = 0.0
        """From the request to ready."""
        self.ready: dict[str, Any] = {}
        """What the jail said of its steps: performed, absent, stamps_us."""
        self.faults: dict[int, str] = {}
        """Slots whose agents could not be loaded, and why."""
        self.compiled_bytes = 0
        """Of a jail that compiles."""
        self.late = False
        """It was not ready in time."""
        self._host = host
        self._life = link
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._spawned: asyncio.Future[None] = self._loop.create_future()
        self._status: asyncio.Future[_Status] = self._loop.create_future()
        self._ended: asyncio.Future[JailExit] = self._loop.create_future()
        self._lie = ""
        self._closing = ""
        self._gone = False
        if listens:
            self._loop.add_reader(link.control, self._on_control)

    def listen(self, *, on: bool) -> None:
        """Begin to hear what the jail says, or stop while it is handed over: nothing is lost, it waits in its pipes."""
        if self._gone:
            return
        if on:
            self._loop.add_reader(self._life.control, self._on_control)
        else:
            self._loop.remove_reader(self._life.control)

    @property
    def alive(self) -> bool:
        return not self._gone

    def memory_bytes(self) -> int:
        """Private memory (USS): what ending this jail would give back.  0 when it is gone."""
        return private_bytes(self.pid) if not self._gone else 0

    # --- the beginning ------------------------------------------------------------------------------------------------

    async def become_ready(self, *, began_ns: int, within_ms: int) -> None:
        """Wait until it says that it is ready.  Raises JailStartError."""
        told: dict[str, Any] = {}
        try:
            async with asyncio.timeout(within_ms / 1000):
                told = await asyncio.shield(self._told)
                await asyncio.shield(self._spawned)
        except TimeoutError:
            self.late, told = True, {}
            self._closing = f"not ready within {within_ms} ms"
            self.kill()
        except asyncio.CancelledError:
            self._closing = "cancelled while starting"
            self.kill()
            raise
        if "ready" not in told or self._gone:
            ended = await asyncio.shield(self._ended)
            reason = told.get("failed") or ended.text
            raise JailStartError(f"jail {self.id}: {reason}", ended, invalid=told.get("invalid", ""))
        self.ready, self.faults, self.compiled_bytes = told["ready"], told["faults"], told["compiled"]
        self.started_ms = (time.monotonic_ns() - began_ns) / 1e6

    def _on_control(self) -> None:
        """READY or a refusal once; then only the end of the jail."""
        try:
            text = self._life.control.recv(_CONTROL_BYTES_MAX)
        except BlockingIOError:
            return
        except ConnectionError:
            text = b""
        if not text:
            self._end()
        elif self._told.done():
            self._violated(RingError("a second message on the control socket"))
        else:
            told = parse_told(text)
            if told is None:
                self._violated(RingError("malformed message on the control socket"))
            else:
                self._told.set_result(told)

    def take_process(self, pid: int, pidfd: int) -> None:
        """The zygote has forked it."""
        self.pid = pid
        if self._gone:
            end_process(pidfd)
        else:
            self.pidfd = pidfd
        if not self._spawned.done():
            self._spawned.set_result(None)

    def refused(self, text: str) -> None:
        """The zygote could not fork it."""
        if not self._told.done():
            self._told.set_result({"failed": text})
        self._end()

    def take_status(self, code: int | None, number: int | None) -> None:
        """The zygote has reaped it."""
        if not self._status.done():
            self._status.set_result(_Status(code, number))

    # --- the end ------------------------------------------------------------------------------------------------------

    def _violated(self, error: RingError) -> None:
        """It lied: kill it, and say so at its end."""
        self._lie = self._lie or str(error)
        self.kill()

    def kill(self, reason: str = "killed") -> None:
        """SIGKILL, now.  `on_exit` follows."""
        if self._gone:
            return
        self._closing = self._closing or reason
        if self.pidfd < 0:
            self._life.control.shutdown(socket.SHUT_RDWR)  # not spawned yet: it ends at the end of file
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    async def ended(self) -> JailExit:
        """Wait until it is gone, whoever ends it."""
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        """End the jail in an orderly way, and wait for it."""
        if not self._gone:
            self._closing = self._closing or "closed"
            with contextlib.suppress(OSError):  # it may have ended in this very moment
                self._life.control.shutdown(socket.SHUT_WR)  # its watching thread sees the end of file
            await asyncio.wait((self._ended,), timeout=_CLOSE_WAIT_S)
            self.kill()
        await asyncio.shield(self._ended)

    def _end(self) -> None:
        """The jail's end of the control socket is closed: take what it still answered, then find out how it ended."""
        if self._gone:
            return
        self._drain()
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # whatever is left of it
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self._gone = True
        self._loop.remove_reader(self._life.control)
        self._forsake()
        self._host.keep(self._learn_end())

    def _drain(self) -> None:
        """Take what the jail answered before its end."""

    def _running_slot(self) -> int | None:
        """Whose call was running at its end."""
        return None

    def _forsake(self) -> None:
        """Nothing more will come of it: let go of whoever waits."""

    async def _learn_status(self) -> _Status:
        """From its parent: the zygote, or this process where the zygote died before it."""
        for _ in range(_STATUS_WAITS):  # a zygote that has many to reap on a busy machine takes its time, or dies of it
            if (end := await orphan_end(self.pidfd)) is not None:
                return _Status(*end)
            await asyncio.wait((self._status,), timeout=_STATUS_WAIT_S)
            if self._status.done():
                return self._status.result()
            if (end := zombie_end(self.pidfd)) is not None:  # its new parent, whoever that is, is slow to reap it
                return _Status(*end)
        return _Status(None, None)

    async def _learn_end(self) -> None:
        """Find out how it ended, and tell it."""
        status = await self._learn_status()
        sigsys = status.signal == signal.SIGSYS
        call = await _forbidden_call(self.pid) if sigsys else ""
        reason = self._closing or self._host.why_killed(self.id)
        text = how_it_ended(status.code, status.signal, lie=self._lie, reason=reason, call=call)
        ended = JailExit(
            self.id, self.pid, status.code, status.signal, sigsys, sigsys or bool(self._lie), text, self._running_slot()
        )
        was_ready = bool(self.ready)
        if not self._told.done():
            self._told.set_result({})
        if not self._spawned.done():
            self._spawned.set_result(None)
        self._host.forget(self)
        self._life.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self._ended.set_result(ended)
        log.info("jail_ended", extra={"jail": self.id, "pid": self.pid, "text": ended.text})
        if was_ready:
            self._on_exit(ended)


async def _forbidden_call(pid: int) -> str:
    """By the kernel's log, which is written a little later than the process ends; "" where it does not say."""
    call = forbidden_call(pid)
    if not call:
        await asyncio.sleep(_LOG_WAIT_S)
        call = forbidden_call(pid)
    return call


def how_it_ended(code: int | None, number: int | None, *, lie: str, reason: str, call: str = "") -> str:
    """How a jail ended, in words.  reason: what we did to it, if anything; lie: how it broke the protocol; call: the
    system call for which seccomp ended it, where the kernel tells."""
    if lie:
        return f"broke the protocol: {lie}"
    if number == signal.SIGSYS:
        # wasmtime's handler of a native crash puts back the default one, which stage 2 forbids: that shows here
        crash = ", as a native crash does" if call == "rt_sigaction" else ""
        return f"made a forbidden system call{f': {call}' if call else ''}{crash} (SIGSYS)"
    if reason:
        return reason
    if number is not None:
        return f"ended by signal {number}"
    return "ended, nobody knows how" if code is None else f"ended with code {code}"


def end_process(pidfd: int) -> None:
    """Kill what nobody waits for any more, and close its descriptor."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def private_bytes(pid: int) -> int:
    """Private pages of a process, from smaps_rollup; 0 when it is gone.

    Where that may not be read (a container's root without CAP_SYS_PTRACE): its anonymous pages, those that it shares
    with the zygote included, so more than the truth.
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except PermissionError:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").replace("RssAnon", "Private_Anonymous")
    except OSError:
        return 0
    return 1024 * sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+) kB$", text, re.MULTILINE))


def parse_told(text: bytes) -> dict[str, Any] | None:
    """What a jail says of itself, with the shapes that are relied on; None for anything else."""
    try:
        told = json.loads(text)
        if "failed" in told:
            return {"failed": _text(told["failed"]), "invalid": _text(told.get("invalid", ""))}
        faults = {int(slot): _text(fault)[:500] for slot, fault in told["faults"].items()}
        ready: dict[str, list[Any]] = {
            key: [_text(step) for step in told["ready"][key]] for key in ("performed", "absent")
        }
        ready["stamps_us"] = [[_text(step), int(at_us)] for step, at_us in told["ready"]["stamps_us"]]
        compiled = int(told.get("compiled", 0))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    return {"ready": ready, "faults": faults, "compiled": compiled}


def _text(value: object) -> str:
    """At most 1000 characters, which have a UTF-8 form: JSON can name half a character, and logs could not hold it."""
    return str(value)[:1000].encode("utf-8", "replace").decode("utf-8")
