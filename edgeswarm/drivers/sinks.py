"""Where answers go: one JSON object a line, to standard output, a rotated file, a local socket, a command.

`write` never blocks, never raises for what the world does, and never grows without bound: what a slow, full or broken
sink does not take waits in an `Outbox`, the oldest record goes first when that is full, and every one that goes is
counted.  A write that fails is counted (`failed`), told at a bounded rate (`sink_failed`), and tried again later.
Invariants: records leave in order, whole lines only; written + dropped + waiting == accepted, for every outbox.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeswarm.agentfile import wiring
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.profiles import Network
from edgeswarm.drivers.quota import Account
from edgeswarm.drivers.secrets import SECRETS
from edgeswarm.errors import CapabilityError
from edgeswarm.limits import SINK_BYTES_MAX, SINK_RECORD_BYTES_MAX, SINK_RECORDS_MAX
from edgeswarm.stream.report import OnEvent, Reporter, ignore_event

PIPE_CHUNK_BYTES: Final = select.PIPE_BUF
"""A pipe that polls writable takes so much without blocking."""


class Outbox:
    """Lines that wait to be written, bounded in number and bytes; the oldest goes when there are too many."""

    __slots__ = ("_bytes", "_bytes_max", "_lines", "_sent", "accepted", "dropped", "written")

    def __init__(self, bytes_max: int = SINK_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._sent = 0  # bytes of the first line that are out: that line cannot be dropped any more
        self.accepted = 0
        self.dropped = 0
        self.written = 0

    def push(self, line: bytes) -> int:
        """Take a line in; returns how many were dropped to make room."""
        self._lines.append(line)
        self._bytes += len(line)
        self.accepted += 1
        dropped = 0
        while len(self._lines) > SINK_RECORDS_MAX or self._bytes > self._bytes_max:
            index = 1 if self._sent else 0
            if index >= len(self._lines):
                break
            self._bytes -= len(self._lines[index])
            del self._lines[index]
            dropped += 1
        self.dropped += dropped
        return dropped

    def head(self, bytes_max: int) -> bytes:
        """The next bytes to be written, from as many lines as fit."""
        lines = self._lines
        if not lines:
            return b""
        first = lines[0][self._sent :] if self._sent else lines[0]
        if len(first) >= bytes_max or len(lines) == 1:
            return first[:bytes_max]
        parts, size = [first], len(first)
        for index in range(1, len(lines)):
            size += len(lines[index])
            if size > bytes_max:
                break
            parts.append(lines[index])
        return b"".join(parts)

    def sent(self, size: int) -> None:
        """`size` bytes of the head are out."""
        size += self._sent
        while self._lines and size >= len(self._lines[0]):
            line = self._lines.popleft()
            size -= len(line)
            self._bytes -= len(line)
            self.written += 1
        self._sent = size

    def take(self, count: int) -> list[bytes]:
        """The first `count` lines, or all: they are the caller's from now on, who counts them as written or dropped."""
        lines = [self._lines.popleft() for _ in range(min(count, len(self._lines)))]
        self._bytes -= sum(map(len, lines))
        return lines

    def state(self) -> list[Any]:
        """Everything, for `restore` in the next program."""
        return [list(self._lines), self._sent, self.accepted, self.dropped, self.written]

    def restore(self, state: Sequence[Any]) -> None:
        lines, self._sent, self.accepted, self.dropped, self.written = state
        self._lines = deque(lines)
        self._bytes = sum(map(len, lines))

    @property
    def partial(self) -> bool:
        """True while a line is out in part."""
        return self._sent > 0

    def restart(self) -> None:
        """The other end is a new one: a line that is partly out is written again from its beginning."""
        self._sent = 0

    def clear(self) -> int:
        """Drop everything; returns how many lines that were."""
        count = len(self._lines)
        self._lines.clear()
        self._bytes = self._sent = 0
        self.dropped += count
        return count

    def __len__(self) -> int:
        return len(self._lines)


@dataclass(frozen=True, slots=True)
class SinkSetup:
    """What every sink is given.  agent: whose answers these are, in events.

    begins: at once; else it does nothing before `unpack` and `begin`.
    """

    agent: str
    on_event: OnEvent = ignore_event
    now_ns: Callable[[], int] = time.monotonic_ns
    begins: bool = True


class Sink(ABC):
    """One sink of one agent."""

    def __init__(self, kind: str, setup: SinkSetup, *, when: str) -> None:
        self.kind: Final = kind
        self.reporter = Reporter(setup.on_event, now_ns=setup.now_ns, agent=setup.agent, sink=kind)
        self.now_ns: Final = setup.now_ns
        self.failed = 0
        self._changes_only = when == "decision_changed"

    def write(self, record: dict[str, Any]) -> None:
        """Take one answer: it is written now, soon, or dropped and counted.

        With `when: decision_changed` a record whose "changed" is not true is passed over.
        """
        if self._changes_only and not record.get("changed"):
            return
        try:
            line = encode(record)
        except (TypeError, ValueError, RecursionError) as error:
            self.note_failed("record", error)
            return
        if len(line) > SINK_RECORD_BYTES_MAX:
            self.note_failed("record_too_long", ValueError(f"{len(line)} bytes, at most {SINK_RECORD_BYTES_MAX}"))
            return
        self.write_line(line)

    @abstractmethod
    def write_line(self, line: bytes) -> None:
        """The same for a line that is encoded already, its end included."""

    @abstractmethod
    def flush(self) -> None:
        """Try to write what waits."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """accepted, written, dropped, waiting, failed."""

    @abstractmethod
    def close(self) -> None:
        """Write what can be written at once, drop the rest (counted and told), free everything."""

    async def closed(self) -> None:  # noqa: B027 - most have nothing to wait for
        """Returns once what `close` began is over: at once, but for commands."""

    async def parcel(self, packer: Packer) -> dict[str, Any]:
        """In place of `close`: what waits, and what is open, for a sink of the same declaration in the next program of
        this process.  It writes nothing more."""
        return {"failed": self.failed}

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        """Go on where `parcel` says, before the first `write`; `begin` follows.  Raises KeyError, LocalError,
        OSError."""
        self.failed = parcel["failed"]

    def begin(self) -> None:
        """After `unpack`: from now on write what waits."""
        self.flush()

    def note_failed(self, what: str, error: Exception) -> None:
        """Count and tell a write that failed."""
        self.failed += 1
        text = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self.reporter.report("sink_failed", kind=what, error=text, failed=self.failed)

    def note_dropped(self, count: int, why: str) -> None:
        """Tell records that were dropped; the outbox has counted them."""
        if count:
            self.reporter.report("sink_dropped", kind=why, records=count)


def encode(record: dict[str, Any]) -> bytes:
    """A record as one line.  Raises ValueError for NaN and infinity, which JSON has not."""
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"


class Writer:
    """Moves an outbox into a descriptor whenever that takes something, without blocking and without a task.

    polls: ask before each write (standard output, whose flags are shared with others and stay as they are).
    on_error(error): the descriptor is of no use any more; the writer has let go of it.  on_empty: all is out.
    """

    __slots__ = ("_on_error", "_polls", "_waiting", "fd", "on_empty", "outbox")

    def __init__(self, outbox: Outbox, fd: int, *, polls: bool, on_error: Callable[[OSError], None]) -> None:
        self.outbox = outbox
        self.fd = fd
        self._polls = polls
        self.on_empty: Callable[[], object] | None = None
        self._on_error = on_error
        self._waiting = False

    def flush(self) -> None:
        """Write as much as the descriptor takes now; the loop calls again when it takes more."""
        outbox = self.outbox
        size_max = PIPE_CHUNK_BYTES if self._polls else 1 << 16
        try:
            while outbox:
                if self._polls and not _writable(self.fd):
                    self._wait()
                    return
                outbox.sent(os.write(self.fd, outbox.head(size_max)))
        except BlockingIOError:
            self._wait()
            return
        except OSError as error:
            self.stop()
            self._on_error(error)
            return
        self.stop()
        if self.on_empty is not None:
            self.on_empty()

    def stop(self) -> None:
        """Do not wait for the descriptor any more."""
        if self._waiting:
            self._waiting = False
            asyncio.get_running_loop().remove_writer(self.fd)

    def _wait(self) -> None:
        if self._waiting:
            return
        try:
            asyncio.get_running_loop().add_writer(self.fd, self.flush)
        except (RuntimeError, PermissionError):
            return  # no loop, or nothing epoll knows: the next write tries again
        self._waiting = True


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


class StdoutSink(Sink):
    """Lines on standard output.  When nobody reads there any more, records are dropped and counted."""

    def __init__(self, setup: SinkSetup, *, when: str = "always", fd: int = 1) -> None:
        super().__init__("stdout", setup, when=when)
        self._outbox = Outbox()
        self._writer = Writer(self._outbox, fd, polls=True, on_error=self._broken)
        self._closed = False

    def write_line(self, line: bytes) -> None:
        dropped = self._outbox.push(line)
        if self._closed:
            dropped += self._outbox.clear()
        else:
            self._writer.flush()
        self.note_dropped(dropped, "closed" if self._closed else "slow")

    def flush(self) -> None:
        if not self._closed:
            self._writer.flush()

    def _broken(self, error: OSError) -> None:
        self.note_failed(error.strerror or "write", error)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # a full disk is tried again at the next record
            self._closed = True
            self.note_dropped(self._outbox.clear(), "closed")

    def counts(self) -> dict[str, int]:
        return outbox_counts(self._outbox, self.failed)

    async def parcel(self, packer: Packer) -> dict[str, Any]:
        """Standard output itself goes along by being standard output."""
        self._writer.stop()
        return {**await super().parcel(packer), "outbox": self._outbox.state(), "closed": self._closed}

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self._outbox.restore(parcel["outbox"])
        self._closed = parcel["closed"]

    def close(self) -> None:
        self.flush()
        self._writer.stop()
        self._closed = True
        self.note_dropped(self._outbox.clear(), "closed")


def outbox_counts(outbox: Outbox, failed: int) -> dict[str, int]:
    """An outbox in numbers."""
    return {
        "accepted": outbox.accepted,
        "written": outbox.written,
        "dropped": outbox.dropped,
        "waiting": len(outbox),
        "failed": failed,
    }


def make_sink(
    spec: wiring.Sink,
    *,
    agent: str,
    base_dir: Path,
    runtime_dir: Path,
    capabilities: Collection[str],
    on_event: OnEvent = ignore_event,
    now_ns: Callable[[], int] = time.monotonic_ns,
    network: Network | None = None,
    stdout_fd: int = 1,
    begins: bool = True,
    account: Account | None = None,
) -> Sink:
    """The driver of a declared sink, open where that can fail for good.  Needs a running loop.

    base_dir: where relative paths and commands start, and the folder secrets/ is.  runtime_dir: where sockets are, as
    `<name>.sock`.  network: absent: as the default profile has it.  begins: see SinkSetup.  account: of its files.
    Raises CapabilityError if the agent lacks the capability, LocalError for a socket that cannot be there.
    """
    setup = SinkSetup(agent, on_event, now_ns, begins)
    match spec:
        case wiring.StdoutSink():
            return StdoutSink(setup, when=spec.when, fd=stdout_fd)
        case wiring.JsonlSink():
            from edgeswarm.drivers.jsonl_sink import JsonlSink

            _need("file_sink", spec, capabilities)
            path, rotate_bytes = base_dir / spec.path, int(spec.rotate_mb * 1e6)
            return JsonlSink(
                setup, path=path, rotate_bytes=rotate_bytes, keep=spec.keep, when=spec.when, account=account
            )
        case wiring.SocketSink():
            from edgeswarm.drivers.socket_sink import SocketSink

            return SocketSink(setup, path=runtime_dir / f"{spec.name}.sock", when=spec.when)
        case wiring.ExecSink():
            from edgeswarm.drivers.exec_sink import ExecSink

            _need("exec_sink", spec, capabilities)
            return ExecSink(setup, command=spec.command, cwd=base_dir, when=spec.when)
        case wiring.MqttSink():
            from edgeswarm.drivers.sink_mqtt import MqttSink

            _need("mqtt_sink", spec, capabilities)
            _allow("mqtt", spec, (network or Network()).mqtt)
            return MqttSink(setup, spec, secrets=base_dir / SECRETS)
        case wiring.WebhookSink():
            from edgeswarm.drivers.sink_webhook import WebhookSink

            _need("webhook_sink", spec, capabilities)
            _allow("webhooks", spec, (network or Network()).webhooks)
            private = (network or Network()).private_webhooks
            return WebhookSink(setup, spec, secrets=base_dir / SECRETS, private=private)


def _need(capability: str, spec: wiring.Sink, capabilities: Collection[str]) -> None:
    if capability not in capabilities:
        raise CapabilityError(f"sink {spec.type}: needs the capability {capability}; add it to `capabilities`")


def _allow(key: str, spec: wiring.Sink, allowed: bool) -> None:
    if not allowed:
        raise CapabilityError(f"sink {spec.type}: not allowed by this device's profile (network.{key})")
