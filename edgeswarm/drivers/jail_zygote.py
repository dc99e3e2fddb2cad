"""Starts the zygote by exec and speaks its protocol; used by the asyncio host and by the blocking one alike.

The zygote is another program: `python -I -S` with the package's own folder on its path, so that neither the
environment nor a site folder has a say in what runs with the supervisor's rights.
This process never loads wasmtime: it only looks up where its library lies.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeswarm.drivers.handover import HandedProcess
from edgeswarm.errors import JailError, JailGoneError, TierError
from edgeswarm.jail.policy import TIERS, Policy, Tier, to_json
from edgeswarm.limits import ZYGOTE_MESSAGE_BYTES_MAX

WORKER: Final = "edgeswarm.jail.worker"
_BOOT: Final = (
    "import sys; n = int(sys.argv[1]); sys.path[:0] = sys.argv[2:2 + n]; del sys.argv[1:2 + n]; "
    "from edgeswarm.jail import sharing; sharing.import_early(); from edgeswarm.jail.zygote import main; main()"
)
_ENVIRONMENT: Final = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",  # the epoch thread then shares the heap that is there
}
_DESCRIPTORS_MAX: Final = 4
_NO_ROOM: Final = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
_STOP_SECONDS_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Program:
    """What the zygote is started with.  worker and path: tests put a probe in the worker's place; nobody else does."""

    worker: str = WORKER
    path: tuple[str, ...] = ()

    def command(self, fd: int) -> list[str]:
        folders = [*self.path, str(Path(__file__).resolve().parents[2])]
        head = [sys.executable, "-I", "-S", "-c", _BOOT, str(len(folders)), *folders]
        return [*head, "--socket", str(fd), "--library", wasmtime_library(), "--worker", self.worker]


def wasmtime_library() -> str:
    """Path of libwasmtime in the installed wasmtime package.  Raises JailError when either is missing."""
    spec = importlib.util.find_spec("wasmtime")
    if spec is None or spec.origin is None:
        raise JailError("wasmtime is not installed for this Python; pip install wasmtime")
    machine = platform.machine()
    library = Path(spec.origin).parent / f"linux-{machine}" / "_libwasmtime.so"
    if not library.is_file():  # on armv7 and riscv64 pip installs a wheel that holds a Windows DLL only
        raise JailError(
            f"the wasmtime package holds no library for linux-{machine} ({library}); jails run on x86_64 and aarch64"
        )
    return str(library)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the zygote, with the descriptors that came along; who takes it closes them."""

    body: dict[str, Any]
    fds: tuple[int, ...]


class ZygoteProcess:
    """A running zygote.  `socket` is SEQPACKET: readable when a message waits, at its end when the zygote is gone."""

    def __init__(self, program: Program, policies: Sequence[Policy], *, version: str = "") -> None:
        """Raises JailError when it cannot be started."""
        self.version = version
        try:
            self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise JailError(f"zygote: {error}") from None
        with theirs:
            for end in (self.socket, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * ZYGOTE_MESSAGE_BYTES_MAX)
            try:
                self.process: subprocess.Popen[bytes] | HandedProcess = subprocess.Popen(
                    program.command(theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    cwd="/",
                    env=_ENVIRONMENT,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Ctrl-C in a terminal is the supervisor's to handle
                )
            except OSError as error:
                self.socket.close()
                raise JailError(f"zygote: {error}") from None
        for policy in policies:
            self.send({"order": "policy", "policy": to_json(policy)})

    @classmethod
    def of(cls, pid: int, descriptor: int, *, version: str) -> ZygoteProcess:
        """One that an earlier program of this process has started; the descriptor is this object's from now on."""
        zygote = cls.__new__(cls)
        zygote.socket = socket.socket(fileno=descriptor)
        zygote.process, zygote.version = HandedProcess(pid), version
        return zygote

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, order: dict[str, Any], fds: Sequence[int] = ()) -> bool:
        """False: it has so many orders to take that there is no room for this one now.

        Raises JailGoneError when the zygote is gone, JailError when the order is too large.
        """
        text = json.dumps(order).encode("utf-8")
        if len(text) > ZYGOTE_MESSAGE_BYTES_MAX:
            raise JailError(f"order for the zygote: {len(text)} bytes, at most {ZYGOTE_MESSAGE_BYTES_MAX}")
        try:
            socket.send_fds(self.socket, [text], list(fds))
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            raise JailGoneError(f"zygote {self.pid} does not take orders: {error.strerror}") from None
        return True

    def receive(self) -> Message | None:
        """The next message; None when the zygote is gone, or was killed for a malformed one.

        Raises BlockingIOError on a non-blocking socket.
        """
        try:
            text, fds, _, _ = socket.recv_fds(self.socket, ZYGOTE_MESSAGE_BYTES_MAX, _DESCRIPTORS_MAX)
        except ConnectionError:
            return None
        message = parse_message(text, tuple(fds)) if text else None
        if text and message is None:
            close_all(fds)
            self.process.kill()  # whatever speaks there, it is our zygote no more
        return message

    def _hang_up(self) -> None:
        """Also for a child that a user's program has forked, which holds the socket as well."""
        with contextlib.suppress(OSError):  # it hung up first
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    async def ended(self) -> None:
        """As `stop`, for who must not wait."""
        self._hang_up()
        deadline = time.monotonic() + _STOP_SECONDS_MAX
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
            await asyncio.sleep(0.002)

    def stop(self) -> None:
        """Close the socket, at which the zygote kills what it has forked and ends; wait for that."""
        self._hang_up()
        try:
            self.process.wait(_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def parse_message(text: bytes, fds: tuple[int, ...]) -> Message | None:
    """What a zygote says, with the shapes that are relied on; None for anything else."""
    try:
        body = json.loads(text)
        if "hello" in body:
            tier, layers = body["hello"]["tier"], body["hello"]["layers"]
            found = {str(name): [bool(ok), str(detail)[:1000]] for name, (ok, detail) in layers.items()}
            right = tier in TIERS and {"wasmtime", "seccomp"} <= found.keys() and not fds
            return Message({"hello": {"tier": tier, "layers": found}}, ()) if right else None
        numbers = {key: body[key] for key in ("spawned", "refused", "exited", "pid", "code", "signal") if key in body}
        if any(type(value) is not int or not 0 <= value < 1 << 31 for value in numbers.values()):
            return None
        match sorted(numbers):
            case ["pid", "spawned"] if len(fds) == 1 and numbers["pid"]:
                return Message(numbers, fds)
            case ["refused"] if not fds:
                return Message({**numbers, "text": str(body["text"])[:1000]}, ())
            case ["code", "exited", "pid"] | ["exited", "pid", "signal"] if not fds:
                return Message(numbers, ())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    return None


def choose_tier(hello: Mapping[str, Any], wanted: str | None) -> Tier:
    """The tier that jails get: what the machine offers, or the weaker one that was asked for.

    Raises TierError when the machine offers less than was asked for, or no seccomp at all (D); JailError when
    libwasmtime does not do what jails rely on.
    """
    works, found = hello["layers"]["wasmtime"]
    if not works:
        raise JailError(f"wasmtime: {found}")
    offered: Tier = hello["tier"]
    if offered == "D":
        detail = hello["layers"]["seccomp"][1]
        raise TierError(f"this machine offers no seccomp filters ({detail}): nothing can be jailed; tier D")
    if wanted is None:
        return offered
    if wanted not in TIERS[:3]:
        raise TierError(f"tier: expected A, B or C, found {wanted!r}")
    if TIERS.index(offered) > TIERS.index(wanted):
        raise TierError(f"tier {wanted} was asked for, this machine offers {offered}")
    return wanted


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
