"""What the benchmarks of consensus ask of every contestant, and how they measure it."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(os.environ.get("EDGESWARM_BENCH_PEERS", ROOT / "build" / "peers"))
VALUE = os.urandom(256)
START_S_MAX = 30.0


class MissingError(Exception):
    """The contestant is not installed; the text says how to get it."""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_for(what: str, ready: Callable[[], bool], seconds: float = START_S_MAX) -> None:
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.005)


class Cluster(ABC):
    """Members as processes of their own, in a folder of their own on the disk; members are numbered from 0."""

    name = ""
    note = ""
    has_broker = False

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="es-bench-", dir=os.environ.get("EDGESWARM_BENCH_DIR")))
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    @abstractmethod
    def start(self, members: int) -> None:
        """Until there is a leader that takes writes."""

    @abstractmethod
    def leader(self) -> int | None:
        """Who leads, as the others see it."""

    @abstractmethod
    def load(self, *, in_flight: int, seconds: float, rate: float = 0.0) -> list[float]:
        """Write 256-byte values to the leader for `seconds`: milliseconds from each write's begin to its answer.

        in_flight: writes under way at most.  rate: begun a second, evenly; then latency counts from the moment that a
        write was due, so that waiting is not left out.  0: as fast as answers come.
        """

    @abstractmethod
    def first_write(self, killed: int, since: float, seconds: float = 20.0) -> float:
        """Milliseconds from `since` (time.perf_counter()) to the first acknowledged write of a client that tries the
        members other than `killed` all the time."""

    @abstractmethod
    def spawn(self, member: int) -> None:
        """Start a member, for the first time or again with the state that it had."""

    @abstractmethod
    def is_whole(self) -> bool:
        """All members are up, and have what the leader has."""

    def signal(self, member: int, number: int) -> float:
        """Returns the moment, in time.perf_counter()."""
        process = self.processes[member]
        at = time.perf_counter()
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()
        return at

    def restart_broker(self) -> float:
        """kill -9 and start of the broker; the moment of the kill."""
        raise MissingError("it has no broker")

    def popen(self, member: int, command: Sequence[str], **options: object) -> None:
        log = (self.folder / f"log-{member}").open("ab")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} if options.pop("pipes", False) else {}
        self.processes[member] = subprocess.Popen(
            list(command), stderr=log, **{"stdin": subprocess.DEVNULL, "stdout": log, **pipes}
        )
        log.close()

    def cpu_s(self) -> float:
        """CPU time of all members that live."""
        import psutil

        times = [
            psutil.Process(process.pid).cpu_times() for process in self.processes.values() if process.poll() is None
        ]
        return sum(one.user + one.system for one in times)

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        texts = [path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("log-*"))]
        return "\n".join(texts)


class PipeCluster(Cluster):
    """Members that take commands as JSON lines on their standard input, and answer on their standard output:
    status, load, first (a write every 5 ms until one is acknowledged: {"at": moment}), stop (ends `first`)."""

    def tell(self, member: int, command: dict[str, Any]) -> None:
        stdin = self.processes[member].stdin
        assert stdin is not None
        stdin.write(json.dumps(command).encode() + b"\n")
        stdin.flush()

    def ask(self, member: int, command: dict[str, Any], timeout_s: float = 30.0) -> Any:
        self.tell(member, command)
        stdout = self.processes[member].stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], timeout_s)
        if not ready:
            raise TimeoutError(f"{self.name}: member {member} does not answer")
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: member {member} ended")
        return json.loads(line)

    def statuses(self) -> dict[int, dict[str, Any]]:
        return {member: self.ask(member, {"op": "status"}) for member in self.processes}

    def writer(self) -> int:
        """Whose process the load runs in."""
        leader = self.leader()
        assert leader is not None
        return leader

    def load(self, *, in_flight: int, seconds: float, rate: float = 0.0) -> list[float]:
        command = {"op": "load", "in_flight": in_flight, "seconds": seconds, "rate": rate}
        found: list[float] = self.ask(self.writer(), command, seconds + 40)
        return found

    def first_write(self, killed: int, since: float, seconds: float = 20.0) -> float:
        rest = [member for member in self.processes if member != killed]
        outs = {self.processes[member].stdout: member for member in rest}
        for member in rest:
            self.tell(member, {"op": "first"})
        found: list[float] = []
        until = time.perf_counter() + seconds
        while outs and time.perf_counter() < until:
            ready, _, _ = select.select(list(outs), [], [], 0.05)
            for out in ready:
                assert out is not None
                at = json.loads(out.readline())["at"]
                del outs[out]
                if at is not None and at > since:
                    found.append(at)
                for member in rest:
                    self.tell(member, {"op": "stop"})
        if not found:
            raise TimeoutError(f"{self.name}: no write within {seconds:g} s")
        return (min(found) - since) * 1000


class Pacer:
    """When the next write is due."""

    def __init__(self, rate: float) -> None:
        self._period = 1 / rate if rate else 0.0
        self._next = time.perf_counter()

    def due(self, now: float) -> float | None:
        """The moment that the write counts from, if one may begin now."""
        if not self._period:
            return now
        if now < self._next:
            return None
        at, self._next = self._next, self._next + self._period
        return at

    def wait_s(self, now: float) -> float:
        return max(0.0, self._next - now) if self._period else 0.05
