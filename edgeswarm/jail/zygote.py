"""The pre-warmed process that jails are forked from; started by exec, never forked from the supervisor.

Single-threaded, imports what a jail needs, makes the engine, compiles and deserialises nothing.  Takes orders as JSON
with descriptors on one SEQPACKET socket, and tells there what became of each jail:
    -> {"order": "jail", "id", "policy", "tier", "memory_bytes", "groups", "job"} + descriptors of worker.FDS
    <- {"spawned": id, "pid"} + pidfd | {"refused": id, "text"}
    <- {"exited": id, "pid", "code" | "signal"}
An order that it does not understand is dropped: nothing that comes over the socket ends it but the socket's end.
It is the parent of every jail (as subreaper: the process between is gone by then) and learns how one ended; the jails
that outlive it are the supervisor's (`drivers/jail_orphans.py`).
When the socket closes or the process that started it ends, the supervisor is gone: it kills every jail and ends.  (A
child that a user's program has forked holds the socket as well, and may live on.)
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import mmap
import os
import select
import signal
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Protocol

from edgeswarm import limits
from edgeswarm.errors import JailError
from edgeswarm.jail import enter, kernel, plan, policy, sharing, tiers, trial, wasm

UID_FIRST: Final = 300_000
"""Jails of a root supervisor run as users of their own, from here on; nobody's where those are not mapped."""
UIDS: Final = 65_536
UID_NOBODY: Final = 65_534
_DESCRIPTORS_MAX: Final = 16
_GROUPS_MAX: Final = 256
"""Folders of cgroups remembered before those that are gone are sorted out."""
_NUMBER_MAX: Final = 2**31 - 1
_TRIAL_BYTES_MAX: Final = 256 * 1024
_SIZE: Final = struct.Struct("<I")


class Worker(Protocol):
    """What a worker module offers; `edgeswarm.jail.worker` is the one, tests put probes in its place."""

    FDS: tuple[str, ...]

    def start(
        self, job: dict[str, Any], fds: list[int], engine_: Any, steps: tuple[plan.Step, ...], forked: Any
    ) -> NoReturn: ...


@dataclass(slots=True)
class Zygote:
    """host: the supervisor's socket.  jails: process id -> jail id, of those not yet reaped."""

    host: socket.socket
    worker: Worker
    engine: Any
    tried: dict[str, tiers.Tried]
    policies: dict[str, policy.Policy] = field(default_factory=dict)
    jails: dict[int, int] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    """Folders of cgroups of its jails; the supervisor removes them, and the zygote when the supervisor is gone."""

    def tell(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self.host, [json.dumps(message).encode("utf-8")], list(fds))
        except ConnectionError:
            self.end()

    def serve(self) -> NoReturn:
        """Take orders until the supervisor is gone."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.tell({"hello": {"tier": tiers.tier_of(self.tried), "layers": tiers.to_json(self.tried)}})
        poll = select.poll()
        poll.register(self.host, select.POLLIN)
        poll.register(woken, select.POLLIN)
        gone = watch_parent()
        if gone >= 0:
            poll.register(gone, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == woken:
                    os.read(woken, 4096)
                    self.reap()
                elif fd == gone:
                    self.end()
                else:
                    self.take_order()

    def take_order(self) -> None:
        try:
            text, fds, _, _ = socket.recv_fds(self.host, limits.ZYGOTE_MESSAGE_BYTES_MAX, _DESCRIPTORS_MAX)
        except ConnectionError:
            text, fds = b"", []
        if not text:
            self.end()
        try:
            order = json.loads(text)
            if order["order"] == "policy":
                found = policy.from_json(order["policy"])
                self.policies[found.name] = found
            else:
                self.spawn(order, list(fds))
        except Exception as error:  # whatever was wrong with it, the next one may be right
            os.write(2, f"zygote: an order was dropped: {error!r}\n".encode("utf-8", "replace")[:1000])
        finally:
            for fd in fds:
                os.close(fd)

    def spawn(self, order: dict[str, Any], fds: list[int]) -> None:
        """Fork the process that becomes the jail, and tell the supervisor its id."""
        number = int(order["id"])
        if not 0 <= number <= _NUMBER_MAX:
            raise JailError(f"number of a jail: 0 to {_NUMBER_MAX} expected, found {number}")
        try:
            chosen = self.policies.get(order["policy"])
            if chosen is None:
                raise JailError(f"policy {order['policy']}: never sent")
            steps = plan.make_plan(
                chosen,
                order["tier"],
                run_as=user_of(number),
                memory_bytes=int(order["memory_bytes"]),
                doors=tuple(map(str, order.get("groups", ()))),
                namespaces_too=self.tried["namespaces"].ok and not self.tried["landlock"].ok,
                prepares=bool(order["job"].get("prepares")),
            )
            self.remember(order.get("groups", ()))
            report, told = os.pipe()
            try:
                child = os.fork()
            except OSError:  # no more processes: refused as often as asked, so nothing may be left of it
                os.close(report)
                os.close(told)
                raise
        except Exception as error:  # a field of the order, or the kernel: the supervisor hears it either way
            self.tell({"refused": number, "text": str(error) or type(error).__name__})
            return
        if child == 0:
            self.become_jail(order, fds, steps, told)
        os.close(told)
        text = os.read(report, 64)  # from the process between; nothing when the child itself becomes the jail
        os.close(report)
        pid = int(text) if text else child
        self.jails[pid] = number
        try:
            pidfd = os.pidfd_open(pid)  # cannot be another process: only we reap it, later
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            self.tell({"refused": number, "text": str(error)})
            return
        self.tell({"spawned": number, "pid": pid}, (pidfd,))
        os.close(pidfd)

    def become_jail(self, order: dict[str, Any], fds: list[int], steps: tuple[plan.Step, ...], told: int) -> NoReturn:
        """In the child: from here to the end of the process."""
        try:
            signal.set_wakeup_fd(-1)
            sharing.default_signal(signal.SIGCHLD)

            def forked(pid: int) -> NoReturn:
                os.write(told, b"%d" % pid)
                os._exit(0)

            self.worker.start(order["job"], fds, self.engine, steps, forked)
        finally:
            os._exit(99)

    def reap(self) -> None:
        """Tell how jails ended; the processes between are reaped without a word."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            number = self.jails.pop(pid, None)
            if number is None:
                continue
            how = os.waitstatus_to_exitcode(status)
            end = {"code": how} if how >= 0 else {"signal": -how}
            self.tell({"exited": number, "pid": pid} | end)

    def remember(self, doors: Iterable[str]) -> None:
        """Groups of one more jail; those that the supervisor has removed are forgotten now and then."""
        if len(self.groups) > _GROUPS_MAX:
            self.groups = {folder for folder in self.groups if os.path.isdir(folder)}
        self.groups |= {os.path.dirname(str(door)) for door in doors}

    def end(self) -> NoReturn:
        """The supervisor is gone: nothing may outlive it, its jails' groups included."""
        for pid in self.jails:
            os.kill(pid, signal.SIGKILL)
        if self.groups:
            for pid in self.jails:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
            for folder in self.groups:
                with contextlib.suppress(OSError):  # gone already; or busy, and the next start of its owner removes it
                    os.rmdir(folder)
        os._exit(0)


def user_of(number: int) -> tuple[int, int] | None:
    """Which user a jail runs as: None when we are no root ourselves."""
    if os.geteuid() != 0:
        return None
    wanted = UID_FIRST + number % UIDS
    mapped = all(is_mapped(id_map, wanted) for id_map in _id_maps())
    return (wanted, wanted) if mapped else (UID_NOBODY, UID_NOBODY)


@functools.cache
def _id_maps() -> tuple[str, str]:
    """Of the user namespace we are in; each is written once in its life (user_namespaces(7))."""
    with open("/proc/self/uid_map", encoding="ascii") as uids, open("/proc/self/gid_map", encoding="ascii") as gids:
        return uids.read(), gids.read()


def is_mapped(id_map: str, wanted: int) -> bool:
    """True when an id exists in the user namespace that has this uid_map."""
    for line in id_map.splitlines():
        first, _, count = map(int, line.split())
        if first <= wanted < first + count:
            return True
    return False


def watch_parent() -> int:
    """A descriptor that is readable once the process that started this one has ended; -1 where it cannot be seen."""
    try:
        return os.pidfd_open(os.getppid())
    except OSError:  # it is gone, as the socket says soon; or in another process namespace
        return -1


def forget_signals() -> None:
    """What a program does with its signals goes on past an exec: one that ignores or blocks the end of its children
    would leave us without any."""
    for number in (signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _nothing(_signal: int, _frame: object) -> None:
    """SIGCHLD only has to interrupt poll."""


def _try_library(engine: wasm.Engine, user: tuple[int, int] | None) -> tiers.Tried:
    """In a child, which leaves what it has compiled for the jails' first call: nothing is compiled in here."""
    with mmap.mmap(-1, _TRIAL_BYTES_MAX) as room:
        tried = tiers.in_child(lambda: trial.try_library(engine, keep=lambda code: _keep(room, code)), user)
        (size_bytes,) = _SIZE.unpack_from(room)
        engine.trial = room[_SIZE.size : _SIZE.size + size_bytes]
    return tried


def _keep(room: mmap.mmap, code: bytes) -> None:
    room[: _SIZE.size + len(code)] = _SIZE.pack(len(code)) + code


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="edgeswarm.jail.zygote")
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the SEQPACKET socket")
    parser.add_argument("--library", required=True, help="path of libwasmtime")
    parser.add_argument("--worker", default="edgeswarm.jail.worker", help="module that runs inside the jails")
    chosen = parser.parse_args()
    forget_signals()
    host = socket.socket(fileno=chosen.socket)
    host.set_inheritable(False)
    kernel.set_child_subreaper()
    worker: Any = importlib.import_module(chosen.worker)
    engine = wasm.Engine(wasm.Library(chosen.library))
    user = user_of(0)
    tried = tiers.try_layers(user) | {"wasmtime": _try_library(engine, user)}
    getattr(worker, "seal_own_code", enter.seal_own_code)()  # `probe_unsealed` leaves it out, to measure what it stops
    zygote = Zygote(host, worker, engine, tried)
    sharing.settle()
    zygote.serve()


if __name__ == "__main__":
    main()
