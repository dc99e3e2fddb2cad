"""Where rows come from: what every source has in common, and which driver serves which declaration.

A source's `run` hands rows to `offer` and lives until its data ends or its task is cancelled.  It never raises for what
the world does: a stall, a vanished file, a bad line, a child that dies is counted by kind, told through `on_event` at a
bounded rate, and tried again with a growing wait.  `probe` is the other way to ask: it raises what is wrong right now.
Backpressure is `await offer(...)`: while it waits, the source reads nothing.
Invariants: a row given to `offer` has `width` finite float32 values; a source hands over at most SOURCE_ROWS_BURST rows
before the loop goes round; nothing a source keeps grows without bound.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgeswarm.agentfile import wiring
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.profiles import Network
from edgeswarm.drivers.secrets import SECRETS
from edgeswarm.errors import CapabilityError, ConfigError, LocalError
from edgeswarm.limits import (
    FLOAT32_MAX,
    SOURCE_LOOK_MS,
    SOURCE_RETRY_MS,
    SOURCE_RETRY_MS_MAX,
    SOURCE_ROWS_BURST,
    SOURCE_STALL_MS,
    SOURCE_STALL_PERIODS,
)
from edgeswarm.stream.queue import Row, row_fault
from edgeswarm.stream.report import OnEvent, Reporter, ignore_event

Offer = Callable[[Row, int], Awaitable[None]]
"""Takes a row and its time.monotonic_ns(); waits while the agent's queue holds its sources back."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as the sources see it; tests bring their own."""

    now_ns: Callable[[], int] = time.monotonic_ns
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True)
class Setup:
    """What every source is given: its name in events, whom to tell them, and the time."""

    name: str
    on_event: OnEvent = ignore_event
    clock: Clock = field(default_factory=Clock)


@dataclass(slots=True)
class SourceCounts:
    """All since the source was made.

    rows: those that were taken.  malformed: lines that are no row, by kind.  unread: lines that were read and taken by
    nobody when the source was stopped.  late: ticks left out because the one before took too long.
    vanished: times the source went away; opened: times it was (re)opened; failed: reads and opens that failed.
    """

    rows: int = 0
    malformed: dict[str, int] = field(default_factory=dict)
    stalls: int = 0
    vanished: int = 0
    opened: int = 0
    failed: int = 0
    late: int = 0
    unread: int = 0
    rotated: int = 0
    truncated: int = 0


class Source(ABC):
    """One source of one agent."""

    kind: str = ""

    def __init__(self, fields: Sequence[str], setup: Setup, *, rate_hz: float | None = None) -> None:
        """rate_hz: rows a second that the source promises, where it does; a stall is measured by it."""
        self.fields: Final = tuple(fields)
        self.width: Final = len(self.fields)
        self.name: Final = setup.name
        self.counts = SourceCounts()
        self.clock: Final = setup.clock
        self.reporter = Reporter(setup.on_event, now_ns=self.clock.now_ns, source=self.name)
        self._stall_ns = int(1e9 * SOURCE_STALL_PERIODS / rate_hz) if rate_hz else int(1e6 * SOURCE_STALL_MS)
        self._waiting_since_ns: int | None = None  # None: not running, or held back by the agent
        self._stalled = False
        self._burst = 0
        self._timer: asyncio.TimerHandle | None = None
        self.leaving = False
        """Set before `run` is cancelled for a hand-over: what is read and not given, and what runs, is kept for
        `parcel`."""
        self.kept: Row | None = None  # of a paced source: read, and not given when it was handed over

    async def run(self, offer: Offer) -> None:
        """Hand over rows until the data ends; a stall is looked for meanwhile."""
        self._look_for_stall()
        try:
            await self.give_rows(offer)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _look_for_stall(self) -> None:
        self.check(self.clock.now_ns())
        self._timer = asyncio.get_running_loop().call_later(SOURCE_LOOK_MS / 1000, self._look_for_stall)

    @abstractmethod
    async def give_rows(self, offer: Offer) -> None:
        """What `run` does, for each kind of source."""

    @abstractmethod
    def probe(self) -> None:
        """Raise LocalError with what keeps this source from giving rows right now."""

    def state(self, *, unanswered: int = 0) -> dict[str, object] | None:
        """Where to go on after a restart, so that the last `unanswered` of the rows that were taken come again, and
        the one that waits to be taken; None: the source cannot go back."""
        return None

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on where `state` says, before `run`.  Raises LocalError when it is not a state of this source."""
        raise LocalError(f"source {self.name}: a {self.kind} source has no position to go on from")

    def parcel(self, packer: Packer) -> dict[str, object]:
        """After `run` was cancelled with `leaving` set: everything, for a source of the same declaration in the next
        program of this process.  Unlike `state` it may hold descriptors, and loses and repeats nothing."""
        return {"counts": dataclasses.asdict(self.counts), "state": self.state(), "kept": self.kept}

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        """Go on where `parcel` says, before `run`.  Raises LocalError, KeyError, TypeError, OSError."""
        for name, value in parcel["counts"].items():
            if hasattr(self.counts, name):
                setattr(self.counts, name, value)
        self.kept = None if parcel["kept"] is None else tuple(parcel["kept"])
        if parcel["state"] is not None:
            self.restore(parcel["state"])

    def check(self, now_ns: int) -> None:
        """Count and tell a stall."""
        since_ns = self._waiting_since_ns
        if since_ns is None or self._stalled or now_ns - since_ns < self._stall_ns:
            return
        self._stalled = True
        self.counts.stalls += 1
        self.reporter.report("source_stalled", after_ms=(now_ns - since_ns) // 1_000_000, rows=self.counts.rows)

    # --- for the drivers ---------------------------------------------------------------------------------------------

    def waits(self) -> None:
        """The source is asked for data from now on: a stall is measured from here."""
        if self._waiting_since_ns is None:
            self._waiting_since_ns = self.clock.now_ns()

    def rests(self) -> None:
        """The source is not asked for data: nothing to stall."""
        self._waiting_since_ns = None

    async def give(self, row: Row, offer: Offer) -> None:
        """Hand one row over."""
        now_ns = self.clock.now_ns()
        if self._stalled:
            self._stalled = False
            self.reporter.report("source_resumed", after_ms=(now_ns - (self._waiting_since_ns or now_ns)) // 1_000_000)
        self._waiting_since_ns = None
        await offer(row, now_ns)
        self.handed_over()
        self._burst += 1
        if self._burst >= SOURCE_ROWS_BURST:
            self._burst = 0
            await asyncio.sleep(0)
        self._waiting_since_ns = self.clock.now_ns()

    def handed_over(self) -> None:
        """The row of `give` was taken: from here on it is no longer this source's, and what `state` says is past it."""
        self.counts.rows += 1

    def row_of(self, values: Sequence[float]) -> Row | None:
        """The values as a row; None when they are none, which is counted and told."""
        if len(values) == self.width and sum(map(abs, values)) <= FLOAT32_MAX:
            return tuple(values)
        kind = row_fault(values, self.width)
        if not kind:
            return tuple(values)
        self.malformed(kind)
        return None

    def malformed(self, kind: str, **fields: object) -> None:
        """Count and tell a line or reading that is no row."""
        self.counts.malformed[kind] = self.counts.malformed.get(kind, 0) + 1
        self.reporter.report("source_malformed", kind=kind, **fields)

    def failed(self, what: str, error: Exception) -> None:
        """Count and tell a read or an open that failed."""
        self.counts.failed += 1
        self.reporter.report("source_failed", kind=what, error=str(error))


class Backoff:
    """Waits that double from SOURCE_RETRY_MS to SOURCE_RETRY_MS_MAX until something works again."""

    def __init__(self) -> None:
        self._next_ms = SOURCE_RETRY_MS

    def next_s(self) -> float:
        wait_ms = self._next_ms
        self._next_ms = min(wait_ms * 2, SOURCE_RETRY_MS_MAX)
        return wait_ms / 1000

    def reset(self) -> None:
        self._next_ms = SOURCE_RETRY_MS


async def paced(source: Source, rate_hz: float, read: Callable[[], Row | None], offer: Offer) -> None:
    """Give what `read` returns `rate_hz` times a second, for ever.  Ticks that are missed are left out and counted."""
    clock, period_ns = source.clock, int(1e9 / rate_hz)
    due_ns = clock.now_ns()
    source.waits()
    while True:
        row, source.kept = source.kept or read(), None
        if row is not None:
            before = source.counts.rows
            try:
                await source.give(row, offer)
            except asyncio.CancelledError:
                if source.leaving and source.counts.rows == before:
                    source.kept = row
                raise
        due_ns += period_ns
        behind_ns = clock.now_ns() - due_ns
        if behind_ns > 0:
            missed = behind_ns // period_ns
            source.counts.late += missed
            due_ns += missed * period_ns
        await clock.sleep(max(0.0, (due_ns - clock.now_ns()) / 1e9))


def resolved(path: str, base_dir: Path) -> Path:
    """A path of an agent file: relative ones are below `base_dir`."""
    return base_dir / path  # an absolute path stays what it is


def make_source(
    spec: wiring.Source,
    *,
    base_dir: Path,
    capabilities: Collection[str],
    on_event: OnEvent = ignore_event,
    clock: Clock | None = None,
    network: Network | None = None,
    stdin_fd: int = 0,
    iio_root: Path = Path("/sys/bus/iio/devices"),
) -> Source:
    """The driver of a declared source.  Does no I/O.

    base_dir: where relative paths and commands start, and the folder secrets/ is.  stdin_fd: what `jsonl` reads.
    network: what the device allows; absent: what the default profile does.
    Raises CapabilityError if the agent lacks the capability, ConfigError for fields that do not exist, and for `agent`
    and `api`, which have no driver: their rows come from the pump.
    """
    setup = Setup(spec.id or spec.type, on_event, clock or Clock())
    match spec:
        case wiring.VitalsSource():
            from edgeswarm.drivers.sources_vitals import Vitals

            return Vitals(spec.fields, setup, rate_hz=spec.rate_hz)
        case wiring.CsvSource():
            from edgeswarm.drivers.sources_csv import CsvReplay

            _need("file_source", spec, capabilities)
            return CsvReplay(spec, setup, path=resolved(spec.path, base_dir))
        case wiring.JsonlSource():
            from edgeswarm.drivers.sources_lines import StdinLines

            return StdinLines(spec.fields, setup, fd=stdin_fd)
        case wiring.TailSource():
            from edgeswarm.drivers.sources_tail import Tail

            _need("file_source", spec, capabilities)
            return Tail(spec.fields, setup, path=resolved(spec.path, base_dir), format=spec.format)
        case wiring.IioSource():
            from edgeswarm.drivers.sources_iio import Iio

            return Iio(spec.channels, setup, device=spec.device, root=iio_root, rate_hz=spec.rate_hz)
        case wiring.ExecSource():
            from edgeswarm.drivers.sources_exec import ExecLines

            _need("exec_source", spec, capabilities)
            return ExecLines(spec.fields, setup, command=spec.command, cwd=base_dir, format=spec.format)
        case wiring.MqttSource():
            from edgeswarm.drivers.source_mqtt import MqttSource

            _need("mqtt_source", spec, capabilities)
            if not (network or Network()).mqtt:
                raise CapabilityError("source mqtt: not allowed by this device's profile (network.mqtt)")
            return MqttSource(spec, setup, secrets=base_dir / SECRETS)
        case wiring.AgentSource() | wiring.ApiSource():
            raise ConfigError(f"source {spec.type}: its rows come from the pump, it has no driver")


def _need(capability: str, spec: wiring.Source, capabilities: Collection[str]) -> None:
    if capability not in capabilities:
        raise CapabilityError(f"source {spec.type}: needs the capability {capability}; add it to `capabilities`")
