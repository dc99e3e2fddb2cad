"""Jails without an event loop: for `agent run`, benchmarks and notebooks.  The same zygote, worker and links.

One thread uses a SyncHost and its jails; every call blocks until it is answered or the jail is gone.  Deadlines are
kept while a call waits, which is whenever a frame is in flight.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import select
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from edgeswarm.drivers.cgroup import Groups
from edgeswarm.drivers.jail_cache import CwasmCache, binding_here
from edgeswarm.drivers.jail_compile import CompileLink, compile_error
from edgeswarm.drivers.jail_life import (
    JailExit,
    JailStartError,
    Link,
    end_process,
    private_bytes,
)
from edgeswarm.drivers.jail_link import JailLink, KernelSpec, Reply
from edgeswarm.drivers.jail_order import order_for, why_killed
from edgeswarm.drivers.jail_policy import BUILD_POLICY, OWN_POLICIES, load_policies
from edgeswarm.drivers.jail_sync_life import Process, SyncLife, readable
from edgeswarm.drivers.jail_zygote import Program, ZygoteProcess, choose_tier
from edgeswarm.errors import ConfigError, JailError, JailGoneError, LocalError, TrapError
from edgeswarm.ids import JailId
from edgeswarm.jail.frames import SPIN_ALONE_NS, SPIN_NS, Kind, RingError
from edgeswarm.jail.policy import Policy
from edgeswarm.limits import COMPILE_MS_DEFAULT, JAIL_READY_MS_MAX

_libc = ctypes.CDLL(None)
_PART_WAYS_NS: Final = 2_000_000
"""How often at most the jail is moved off our processor; that costs some 5 us, more when it really has to move."""
_RETRY_S: Final = 0.001


class SyncHost:
    """A zygote of one's own; the arguments are those of `JailHost`."""

    def __init__(
        self,
        *,
        policy_dir: Path,
        cache_dir: Path,
        mac_key: bytes,
        tier: str | None = None,
        program: Program | None = None,
        groups: Groups | None = None,
        policies: Mapping[str, Policy] | None = None,
    ) -> None:
        """policies: in place of those of the folder (`jail_diagnose`)."""
        self._policies = policies or load_policies(policy_dir, own=cache_dir.parent / OWN_POLICIES)
        self.groups = groups or Groups.open(str(cache_dir), may_move=False)
        self.cache = CwasmCache(cache_dir, mac_key, binding_here(policy_digest=self._policies[BUILD_POLICY].digest()))
        self._numbers = itertools.count(1)
        self._processes: dict[int, Process] = {}
        self._jails: list[SyncJail] = []
        self._zygote = ZygoteProcess(program or Program(), tuple(self._policies.values()))
        _HOSTS.add(self)
        try:
            hello = self._await_hello()
            self.tier = choose_tier(hello, tier)
        except BaseException:
            self._zygote.stop()
            raise
        self.layers = {name: (bool(ok), str(detail)) for name, (ok, detail) in hello["layers"].items()}

    def __enter__(self) -> SyncHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _await_hello(self) -> dict[str, Any]:
        self._zygote.socket.settimeout(JAIL_READY_MS_MAX / 1000)
        try:
            message = self._zygote.receive()
        except TimeoutError:
            raise JailError(f"the zygote was not ready within {JAIL_READY_MS_MAX} ms") from None
        if message is None:
            raise JailError(f"the zygote ended before it was ready, with code {self._zygote.process.wait()}")
        self._zygote.socket.setblocking(False)
        hello: dict[str, Any] = message.body["hello"]
        return hello

    def forsake(self) -> None:
        """In a child that this process has forked: the zygote is the parent's.  See `jail_sync_life`."""
        self._zygote.socket.close()

    def close(self) -> None:
        """End every jail, then the zygote."""
        for jail in list(self._jails):
            jail.close()
        self._zygote.stop()
        self.groups.close()

    def compile(self, wasm: bytes, *, deadline_s: float = COMPILE_MS_DEFAULT / 1000) -> bytes:
        """As `JailHost.compile`."""
        found = self.cache.get(wasm)
        if found is not None:
            return found
        link = CompileLink(self.next_id(), wasm)
        life = SyncLife(self, link, BUILD_POLICY)
        within_ms = int(deadline_s * 1000)
        try:
            told = life.become_ready(within_ms=within_ms, judge=None)
            code = link.code(told["compiled"])
        except JailStartError as error:
            raise compile_error(error, within_ms) from None
        finally:
            life.close()
        self.cache.put(wasm, code)
        return code

    def spawn(self, specs: Sequence[KernelSpec], *, policy: str = "strict", ring_bytes: int | None = None) -> SyncJail:
        """A ready jail with these agents.  Raises JailStartError when it does not become ready."""
        jail = SyncJail(self, JailLink(self.next_id(), specs, ring_bytes=ring_bytes), policy)
        self._jails.append(jail)
        return jail

    def next_id(self) -> JailId:
        """A number for one more jail."""
        return JailId(next(self._numbers))

    def order(self, link: Link, policy: str) -> Process:
        """Send an order (called by a jail)."""
        try:
            if policy not in self._policies:
                raise ConfigError(f"sandbox policy: expected one of {', '.join(self._policies)}, found {policy!r}")
            if not self._zygote.send(order_for(link, self._policies[policy], self.tier, self.groups), link.fds):
                raise JailError(f"the zygote {self._zygote.pid} takes no order now")
        except BaseException:
            link.close()
            self.groups.remove(link.id)
            raise
        link.hand_over()
        process = self._processes[link.id] = Process()
        return process

    def why_killed(self, number: int) -> str:
        return why_killed(self.groups, number)

    def forget(self, jail: object, number: int) -> None:
        """It has ended (called by a jail)."""
        self._processes.pop(number, None)
        self.groups.remove(number)
        self._jails = [item for item in self._jails if item is not jail]

    def listen(self, timeout_s: float) -> bool:
        """Take one message of the zygote; False when none came in time, or none can come any more."""
        if not readable(self._zygote.socket.fileno(), timeout_s):
            return False
        message = self._zygote.receive()
        if message is None:
            return False
        body = message.body
        process = self._processes.get(body.get("spawned", body.get("refused", body.get("exited", 0))))
        if process is None:
            for pidfd in message.fds:
                end_process(pidfd)
        elif "spawned" in body:
            process.pid, process.pidfd = body["pid"], message.fds[0]
        elif "exited" in body:
            process.status = (body.get("code"), body.get("signal"))
        else:
            process.refused = body["text"]
        return True


_HOSTS: weakref.WeakSet[SyncHost] = weakref.WeakSet()


def _forsake_all() -> None:
    for host in tuple(_HOSTS):
        host.forsake()


os.register_at_fork(after_in_child=_forsake_all)


class SyncJail:
    """A ready jail.  Made by `SyncHost.spawn`."""

    def __init__(self, host: SyncHost, link: JailLink, policy: str) -> None:
        self._host = host
        self._link = link
        self._seq = 0
        self._life = SyncLife(host, link, policy)
        self._closed = False
        try:
            told = self._life.become_ready(within_ms=JAIL_READY_MS_MAX, judge=link)
        except BaseException:
            self.close()
            raise
        link.loading = False
        self.started_ms = (time.monotonic_ns() - self._life.began_ns) / 1e6
        self.ready: dict[str, Any] = told["ready"]
        self.faults: dict[int, str] = told["faults"]
        """Slots whose agents could not be loaded, and why."""
        self._patience_ms: float = min(spec.deadline_ms for spec in link.specs.values())
        self._may_spin = len(os.sched_getaffinity(0)) > 1
        self._spins = False
        self._parted_ns = -_PART_WAYS_NS
        self._poll = select.poll()
        self._poll.register(link.answers, select.POLLIN)

    def __enter__(self) -> SyncJail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def id(self) -> JailId:
        return self._link.id

    @property
    def pid(self) -> int:
        return self._life.process.pid

    def memory_bytes(self) -> int:
        """Private memory (USS)."""
        return private_bytes(self.pid)

    def call(self, slot: int, payload: bytes | bytearray | memoryview, rows: int = 1) -> bytes:
        """Compute any number of packed float32 rows; returns the packed output rows.

        Frames are sent ahead as far as the ring takes them.  Raises TrapError naming the rows of the first frame that
        faulted (the jail stays usable), JailGoneError when the jail ends, LocalError for other than `rows` rows.
        """
        self._settle()
        self._check_alive()
        step = self._link.rows_max(slot)
        if rows == 1 or rows <= step:
            reply = self._one(slot, payload, rows)
            if reply.kind == Kind.FAULT:
                raise TrapError(_fault_text(reply, 0, rows))
            return reply.payload
        view, size = memoryview(payload).cast("B"), self._link.specs[slot].frame_bytes
        if len(view) != rows * size:
            raise LocalError(f"jail {self.id}: {rows} rows of {size} bytes expected, found {len(view)} bytes")
        answers: dict[int, Reply] = {}
        sent, first_seq = 0, self._seq + 1
        while len(answers) * step < rows:
            while sent < rows:
                part = view[sent * size : min(sent + step, rows) * size]
                if not self._link.submit(slot, self._seq + 1, len(part) // size, part):
                    break
                self._seq += 1
                sent += step
            for reply in self._answers():
                answers[reply.seq - first_seq] = reply
        for index in range(len(answers)):
            if answers[index].kind == Kind.FAULT:
                raise TrapError(_fault_text(answers[index], index * step, min(step, rows - index * step)))
        return b"".join(answers[index].payload for index in range(len(answers)))

    def timed(self, slot: int, payload: bytes | bytearray | memoryview) -> tuple[bytes, int]:
        """The answer to one row, and how long its call took inside the jail, in whole us.  Raises as `call`."""
        self._settle()
        self._check_alive()
        reply = self._one(slot, payload, 1)
        if reply.kind == Kind.FAULT:
            raise TrapError(_fault_text(reply, 0, 1))
        return reply.payload, reply.aux

    def _one(self, slot: int, payload: bytes | bytearray | memoryview, rows: int) -> Reply:
        self._seq += 1
        if not self._link.submit(slot, self._seq, rows, payload):
            raise self._gone("no room in the ring")
        while True:
            for reply in self._answers():
                return reply

    def _settle(self) -> None:
        """Drop the answers to a call that was broken off, by Ctrl-C for one: they must not be taken for later ones."""
        while self._link.in_flight and not self._life.gone:
            self._answers()

    def swap_weights(self, slot: int, weights: bytes) -> None:
        """Replace an agent's weights.  Raises LocalError when they have the wrong size."""
        self._check_alive()
        self._settle()
        self._link.check_weights(slot, weights)
        seq, step = self._link.next_own_seq(), self._link.chunk_bytes()
        for at in range(0, len(weights), step):
            piece, last = weights[at : at + step], at + step >= len(weights)
            while not self._link.send_own(slot, Kind.WEIGHTS, seq, piece, aux=at, last=last):
                if self._ended():
                    raise self._gone("")
                time.sleep(_RETRY_S)  # only chunks are in the ring, which are not answered
        self._acknowledged()

    def set_memory(self, slot: int, content: bytes) -> None:
        """Replace the values that an agent keeps between its calls."""
        self._check_alive()
        self._settle()
        self._link.check_memory(slot, content)
        self._link.send_own(slot, Kind.MEMORY, self._link.next_own_seq(), content)
        self._acknowledged()

    def _acknowledged(self) -> None:
        while True:
            for reply in self._answers():
                if reply.kind == Kind.FAULT:
                    raise TrapError(_fault_text(reply, 0, 0))
                return

    def _answers(self) -> list[Reply]:
        """The answers that come next.  Raises JailGoneError when none can come."""
        began_ns, timeout_ms = time.monotonic_ns(), self._patience_ms
        seen = self._spins and self._link.spin()
        while True:
            looked_ns = time.monotonic_ns()
            if not seen and not self._poll.poll(timeout_ms):
                self._link.forgive(time.monotonic_ns() - looked_ns - int(1e6 * timeout_ms))
                timeout_ms = self._life.judge(self._link) * 1000
                if self._life.gone:
                    raise self._gone("")
            try:
                found = self._link.collect()
            except RingError as error:
                self._life.lie = str(error)
                raise self._gone("") from None
            seen = False  # a hint may lie, or come before its head
            if found:
                waited_ns = time.monotonic_ns() - began_ns
                self._spins = self._may_spin and waited_ns < SPIN_NS
                if self._spins and waited_ns > SPIN_ALONE_NS and began_ns - self._parted_ns > _PART_WAYS_NS:
                    self._parted_ns = began_ns
                    part_ways(self.pid)
                return found
            if self._link.answers_ended:
                raise self._gone("")

    def _check_alive(self) -> None:
        if self._life.gone:
            raise self._gone("")

    def _ended(self) -> bool:
        return self._life.gone or (readable(self._link.control.fileno(), 0) and not self._life.receive())

    def _gone(self, reason: str) -> JailGoneError:
        return JailGoneError(f"jail {self.id}: {self._life.end(reason).text}")

    def kill(self) -> JailExit:
        """SIGKILL, now."""
        return self._life.end("killed")

    def close(self) -> None:
        """End the jail in an orderly way, and wait for it."""
        if not self._closed:
            self._closed = True
            self._life.close()
            self._host.forget(self, self.id)


def part_ways(pid: int) -> None:
    """Move a process off the processor that we run on, once; afterwards it may run anywhere again.

    A pipe wakes its reader on the writer's own processor.  Two processes in lock-step would stay there and take turns,
    each waiting for the other to be through with looking; on processors of their own both look, and neither sleeps.
    """
    everywhere = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(pid, everywhere - {_libc.sched_getcpu()})
        os.sched_setaffinity(pid, everywhere)
    except OSError:
        return  # it is gone, or we may not: then it stays where it is


def _fault_text(reply: Reply, first: int, rows: int) -> str:
    where = f"row {first}" if rows == 1 else f"rows {first} to {first + rows - 1}" if rows else "refused"
    return f"jail {reply.jail_id}, slot {reply.slot}, {where}: {reply.text}"
