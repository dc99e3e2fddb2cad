"""What the benchmarks against peers agree on: the protocol with a contestant, ratios, spreads, and when answers differ.

A contestant is a process that computes one case.  It says `ready NAME...` once it can, then answers line by line:
`answers PATH` writes its float32 answers for all rows of the case and says `ok`; `run WARM COUNT` computes WARM
batches, then COUNT more under the clock, and says `ns CPU WALL` for those; `count WARM COUNT` does the same and
raises SIGUSR2 before and after the COUNT (bench/instructions.py steps through them); the end of its input ends it.
"""

from __future__ import annotations

import os
import platform
import select
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

ANSWER_S = 120.0  # the slowest start (a peer's imports on a busy board) takes some ten seconds
LINE_BYTES_MAX = 4096
TOLERANCE = {"f32": 2e-5, "int8": 0.05}
"""Largest difference to the float64 reference, as a part of the range that the reference's answers span."""


class PeerError(Exception):
    """A contestant that cannot be compared: it died, answered nonsense, or computed something else."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What COUNT batches took: nanoseconds of processor time (all threads) and of wall time."""

    cpu_ns: int
    wall_ns: int


def parse_slice(name: str, line: str) -> Slice:
    """`ns CPU WALL`.  Raises PeerError for anything else, and for times that cannot be."""
    words = line.split()
    if len(words) != 3 or words[0] != "ns" or not all(word.isascii() and word.isdigit() for word in words[1:]):
        raise PeerError(f"{name}: expected 'ns CPU WALL', found {line[:80]!r}")
    found = Slice(int(words[1]), int(words[2]))
    if not 0 < found.cpu_ns < 3_600_000_000_000 or not 0 < found.wall_ns < 3_600_000_000_000:
        raise PeerError(f"{name}: expected times above 0 and below an hour, found {line[:80]!r}")
    return found


def difference(name: str, answers: np.ndarray, expected: np.ndarray, kind: str) -> float:
    """The largest difference, as a part of the range of what was expected.  Raises PeerError past the tolerance."""
    if answers.shape != expected.shape:
        raise PeerError(f"{name}: expected answers of the shape {expected.shape}, found {answers.shape}")
    if not np.isfinite(answers).all():
        raise PeerError(f"{name}: expected finite answers, found {answers[~np.isfinite(answers)][0]}")
    span = float(expected.max() - expected.min())
    if not span > 0:
        raise PeerError(f"{name}: the expected answers are all the same, they show nothing")
    worst = float(np.abs(answers.astype(np.float64) - expected).max()) / span
    if not worst <= TOLERANCE[kind]:
        raise PeerError(f"{name}: answers differ by {worst:.2g} of their range, at most {TOLERANCE[kind]:g} for {kind}")
    return worst


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Raises PeerError for fewer than two values: they have no spread."""
    if len(values) < 2:
        raise PeerError(f"rounds: expected at least 2, found {len(values)}")
    low, middle, high = statistics.quantiles(values, n=4)
    return Spread(middle, low, high)


def ratios(peer: Sequence[float], ours: Sequence[float]) -> Spread:
    """The peer's time over ours, round by round: what slowed both in one round cancels out."""
    if len(peer) != len(ours):
        raise PeerError(f"rounds: expected as many of the peer as of ours, found {len(peer)} and {len(ours)}")
    return spread([a / b for a, b in zip(peer, ours, strict=True)])


@dataclass(slots=True)
class Contestant:
    """A process that computes a case."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()
    says: str = ""
    _process: subprocess.Popen[bytes] | None = None
    _buffer: bytes = b""
    _complaints: IO[bytes] | None = None

    def start(self) -> None:
        """Raises PeerError when it does not become ready."""
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [str(word) for word in self.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, **ONE_THREAD, **self.environment},
            pass_fds=self.pass_fds,
            start_new_session=True,
        )
        line = self._read_line()
        if not line.startswith("ready "):
            raise PeerError(f"{self.name}: expected 'ready ...', found {line[:80]!r}")
        self.says = line.removeprefix("ready ").strip()

    def answers(self, path: Path, shape: tuple[int, int]) -> np.ndarray:
        """All its answers.  Raises PeerError when they are not as many as the shape says."""
        line = self.ask(f"answers {path}")
        if line != "ok":
            raise PeerError(f"{self.name}: expected 'ok', found {line[:80]!r}")
        found = np.fromfile(path, np.float32)
        if found.size != shape[0] * shape[1]:
            raise PeerError(f"{self.name}: expected {shape[0]} x {shape[1]} answers, found {found.size} numbers")
        return found.reshape(shape)

    def run(self, warm: int, count: int) -> Slice:
        return parse_slice(self.name, self.ask(f"run {warm} {count}"))

    def count(self, warm: int, count: int) -> None:
        """What `run` does, marked for a tracer, which answers elsewhere."""
        parse_slice(self.name, self.ask(f"count {warm} {count}"))

    def ask(self, line: str) -> str:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended(error.strerror or "write") from None
        return self._read_line()

    def _read_line(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        fd, until = self._process.stdout.fileno(), time.monotonic() + ANSWER_S
        while b"\n" not in self._buffer:
            if not select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
                raise PeerError(f"{self.name}: no answer within {ANSWER_S:.0f} s")
            part = os.read(fd, LINE_BYTES_MAX)
            if not part:
                raise self._ended("no answer")
            self._buffer += part
            if len(self._buffer) > LINE_BYTES_MAX:
                raise PeerError(f"{self.name}: expected a line of at most {LINE_BYTES_MAX} bytes")
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode("utf-8", "replace")

    def _ended(self, why: str) -> PeerError:
        """What it said before it ended."""
        assert self._process is not None and self._complaints is not None
        status = self._process.wait(10)
        self._complaints.seek(0)
        said = [line for line in self._complaints.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return PeerError(f"{self.name}: {why}: ended with {status}" + (f": {said[-1].strip()[:200]}" if said else ""))

    def close(self) -> None:
        """End it, whatever it does, with what it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                pass  # it died with a line of ours unread
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._complaints is not None:
            self._complaints.close()


ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def take_turns(
    contestants: Sequence[Contestant], batch: int, *, rounds: int, slice_ns: int
) -> tuple[dict[str, list[float]], float]:
    """Nanoseconds a row of every contestant in every round, and the part of all slices that something else disturbed.

    Slices are equally long for all; a quarter of each warms the caches up and is not counted.  The order of the
    contestants turns from round to round.  Time is processor time, so that another program's turn is nobody's fault;
    a slice was disturbed when it took a tenth more by the clock on the wall.
    """
    counts = {one.name: calibrate(one, slice_ns) for one in contestants}
    found: dict[str, list[float]] = {one.name: [] for one in contestants}
    disturbed = 0
    for number in range(rounds):
        turn = number % len(contestants)
        for one in [*contestants[turn:], *contestants[:turn]]:
            count = counts[one.name]
            took = one.run(max(1, count // 4), count)
            found[one.name].append(took.cpu_ns / count / batch)
            disturbed += took.wall_ns > took.cpu_ns * 1.1
    return found, disturbed / (rounds * len(contestants))


def calibrate(one: Contestant, slice_ns: int) -> int:
    """How many batches fill a slice."""
    count = 1
    while True:
        took = max(1, one.run(1, count).cpu_ns)
        if took > slice_ns // 4 or count >= 1 << 24:
            return max(1, min(1 << 24, count * slice_ns // took))
        count *= 4


def machine() -> str:
    about = Path("/proc/cpuinfo").read_text()
    names = [line.split(":", 1)[1].strip() for line in about.splitlines() if line.startswith("model name")]
    model = names[0] if names else platform.machine()
    flags = " with AVX-512" if "avx512f" in about else ""
    cores = len(os.sched_getaffinity(0))
    return f"{model}{flags}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}"
