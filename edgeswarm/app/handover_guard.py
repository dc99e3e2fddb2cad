"""What stands between an upgrade and a device without a supervisor: it starts before anything of the new version does.

A supervisor that leaves writes one file in memory (a header of JSON, a body of CBOR), leaves it and the descriptors of
its jails open, and becomes the new program by exec.  `arm` finds it there.  Until `commit` everything that was handed
over stays as it was: the new version works on copies of the descriptors.  So whatever goes wrong before (it raises, it
ends, it does not stand within `start_s`), `back` becomes the old program again, with the same file, and the jails have
noticed nothing.  If that one fails too, `cold` starts it without: the jails end, and come back from their checkpoints.
There is no third try here, so there is no loop; what a service manager does after that is its own affair.

Imports nothing but the standard library: it must work where the new version does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

ENV: Final = "EDGESWARM_HANDOVER"
"""The descriptor of the hand-over."""
ENV_BACK: Final = "EDGESWARM_HANDOVER_BACK"
"""Set where the old version has it back: why."""
ENV_ORPHANS: Final = "EDGESWARM_HANDOVER_ORPHANS"
"""Set for a start without a hand-over that should have had one: children that are to be ended first."""

FORMAT: Final = 1
READS: Final = (1,)
"""Formats that this version takes over.  A version must read its predecessor's."""

_MAGIC: Final = b"ESHAND01"
_LENGTH: Final = struct.Struct("<I")
_HEADER_BYTES_MAX: Final = 1 << 20
_BODY_BYTES_MAX: Final = 512 << 20
_START_S_DEFAULT: Final = 60.0
_ORPHANS_S: Final = 5.0
_WHY_CHARS_MAX: Final = 500


class HandoverError(Exception):
    """The hand-over cannot be read: damaged, or of a format that this version does not know."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the guard must know without understanding the state.

    argv, environ: of the program that left, to become it again.  reads: the formats that it takes back.
    fds, children: what was handed over.  start_s: until the new one stands.  digest: SHA-256 of the body.
    """

    format: int
    argv: list[str]
    environ: dict[str, str]
    reads: list[int]
    version: str
    fds: list[int]
    children: list[int]
    start_s: float
    healthy_s: float
    digest: str = ""


@dataclass(slots=True)
class Guard:
    """fd: of the hand-over's file.  header: None where it cannot be read.  why: this is the old version, which has its
    own hand-over back, because of that."""

    fd: int
    header: Header | None
    why: str = ""
    fault: str = ""
    committed: bool = False

    def body(self) -> bytes:
        """The state.  Raises HandoverError."""
        if self.header is None:
            raise HandoverError(self.fault)
        if self.header.format not in READS:
            known = ", ".join(map(str, READS))
            raise HandoverError(f"expected a hand-over of format {known}, found {self.header.format}")
        return read_body(self.fd, self.header)

    def commit(self) -> None:
        """The new supervisor stands, on copies: there is no way back to this hand-over."""
        self._disarm()
        self.committed = True
        for fd in (self.fd, *(self.header.fds if self.header is not None else ())):
            try:
                os.close(fd)
            except OSError as error:
                say("error", "handover_descriptor", fd=fd, error=str(error))

    def fail(self, why: str) -> NoReturn:
        """Before `commit`: to the old version with what it has handed over; if this is the old one, without."""
        if self.header is None or self.why or self.header.format not in self.header.reads:
            self.cold(why)
        self._disarm()
        say("error", "upgrade_rolled_back", why=why[:_WHY_CHARS_MAX], version=self.header.version)
        environ = {**self.header.environ, ENV: str(self.fd), ENV_BACK: why[:_WHY_CHARS_MAX] or "no reason was given"}
        become(self.header.argv, environ, (self.fd, *self.header.fds))

    def cold(self, why: str) -> NoReturn:
        """Start without the hand-over: what came along is closed, so the jails end; checkpoints bring them back."""
        self._disarm()
        say("error", "handover_given_up", why=why[:_WHY_CHARS_MAX], text="a cold start from the checkpoints")
        header = self.header
        environ = dict(os.environ if header is None else header.environ)
        for name in (ENV, ENV_BACK):
            environ.pop(name, None)
        environ[ENV_ORPHANS] = ",".join(map(str, own_children() if header is None else header.children))
        for name in os.listdir("/proc/self/fd"):  # those of a header that cannot be read, too
            try:
                os.set_inheritable(int(name), int(name) <= 2)
            except OSError:
                pass  # it was the folder's own
        become(own_command() if header is None else header.argv, environ, ())

    def _disarm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


current: Guard | None = None
"""Of this process, from `arm` on."""


def arm(environ: MutableMapping[str, str] | None = None) -> Guard | None:
    """The guard of a process that a hand-over was given to; None for every other start."""
    global current
    environ = os.environ if environ is None else environ
    end_orphans(environ.pop(ENV_ORPHANS, ""))
    number, why = environ.pop(ENV, ""), environ.pop(ENV_BACK, "")
    if not number:
        return None
    try:
        fd = int(number)
        os.fstat(fd)
    except (ValueError, OSError):
        say("error", "handover_given_up", why=f"{ENV}: expected a descriptor, found {number[:40]!r}")
        return None
    guard = Guard(fd, None, why)
    try:
        guard.header = read_header(fd)
    except HandoverError as error:
        guard.fault = str(error)
    start_s = _START_S_DEFAULT if guard.header is None else guard.header.start_s
    if why:  # it has stood before, and there is nobody else
        start_s = max(start_s, _START_S_DEFAULT)
    signal.signal(signal.SIGALRM, lambda *_: guard.fail(f"it did not stand within {start_s:g} s"))
    signal.setitimer(signal.ITIMER_REAL, start_s)
    current = guard
    return guard


def run(start: Callable[[], int]) -> int:
    """`start()` under the guard: its exit code where it was committed, or nothing was handed over."""
    guard = arm()
    if guard is None:
        return start()
    try:
        code = start()
    except BaseException as error:
        if guard.committed:
            raise
        guard.fail(f"{type(error).__name__}: {error}")
    if not guard.committed:
        guard.fail(f"it ended with exit code {code} before it stood")
    return code


# --- the file --------------------------------------------------------------------------------------------------------


def write(header: Mapping[str, Any], body: bytes) -> int:
    """A file in memory with header and body; its descriptor.  Raises HandoverError past the bounds, OSError."""
    text = json.dumps({**header, "digest": hashlib.sha256(body).hexdigest()}).encode()
    if len(text) > _HEADER_BYTES_MAX or len(body) > _BODY_BYTES_MAX:
        raise HandoverError(
            f"hand-over: at most {_HEADER_BYTES_MAX} bytes of header and {_BODY_BYTES_MAX} of state, "
            f"found {len(text)} and {len(body)}"
        )
    fd = os.memfd_create("edgeswarm-handover", os.MFD_CLOEXEC)
    view, at = memoryview(b"".join((_MAGIC, _LENGTH.pack(len(text)), text, body))), 0
    while at < len(view):
        at += os.pwrite(fd, view[at:], at)
    return fd


def read_header(fd: int) -> Header:
    """Raises HandoverError for what is none."""
    try:
        head = os.pread(fd, len(_MAGIC) + _LENGTH.size, 0)
        if head[: len(_MAGIC)] != _MAGIC or len(head) != len(_MAGIC) + _LENGTH.size:
            raise HandoverError("expected a hand-over, found something else")
        (size,) = _LENGTH.unpack_from(head, len(_MAGIC))
        if size > _HEADER_BYTES_MAX:
            raise HandoverError(f"hand-over: a header of at most {_HEADER_BYTES_MAX} bytes expected, found {size}")
        tree = json.loads(os.pread(fd, size, len(head)))
        known = {name: tree[name] for name in Header.__slots__ if name in tree}
        return Header(**known)
    except (OSError, ValueError, TypeError) as error:
        raise HandoverError(f"hand-over: {error}") from None


def read_body(fd: int, header: Header) -> bytes:
    """Raises HandoverError when it is damaged."""
    (size,) = _LENGTH.unpack(os.pread(fd, _LENGTH.size, len(_MAGIC)))
    at, parts = len(_MAGIC) + _LENGTH.size + size, []
    while part := os.pread(fd, 1 << 20, at):
        parts.append(part)
        at += len(part)
    body = b"".join(parts)
    if hashlib.sha256(body).hexdigest() != header.digest:
        raise HandoverError(f"hand-over: {len(body)} bytes of state do not have the digest of the header")
    return body


# --- processes -------------------------------------------------------------------------------------------------------


def own_command() -> list[str]:
    """The command line of this process, such that an exec of it starts the same program again."""
    return [sys.executable, *sys.orig_argv[1:]]


def own_program() -> list[str]:
    """The part of it that stands for `edgeswarm`, without the arguments."""
    if os.path.basename(sys.argv[0]).startswith("af-"):  # another name of one command, which this guard is not in
        return [sys.executable, "-m", "edgeswarm"]
    command = own_command()
    return command[: len(command) - len(sys.argv[1:])]


def own_children() -> list[int]:
    """Process ids of the children of this process's main thread; none where the kernel does not tell."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def become(argv: Sequence[str], environ: Mapping[str, str], fds: Sequence[int]) -> NoReturn:
    """Exec, with these descriptors.  Raises OSError; then they are closed on exec as before."""
    try:
        for fd in fds:
            os.set_inheritable(fd, True)
        os.execve(argv[0], list(argv), dict(environ))
    except OSError:
        for fd in fds:
            os.set_inheritable(fd, False)
        raise


def end_orphans(text: str) -> None:
    """Children of an earlier program of this process that nobody took over: see them end, so that none is left."""
    for word in filter(str.isdigit, text.split(",")):
        pid, until = int(word), time.monotonic() + _ORPHANS_S
        try:
            while os.waitpid(pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > until:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.005)
        except (ChildProcessError, ProcessLookupError):
            continue


def say(level: str, event: str, **fields: object) -> None:
    """One line of the log, as `app.log` writes them."""
    now = time.time()
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
    try:
        sys.stderr.write(json.dumps({"at": at, "level": level, "event": event, **fields}) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # nobody listens
