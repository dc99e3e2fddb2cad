"""The data plane's driver: moves frames between sources, pipelines, jails and sinks.  Takes no decision of its own.

One `AgentFlow` per deployed agent.  Decisions (window, normalise, score, decide, queue policy, what is sent again) are
the pipeline's; this module only says when: a row came, an answer came, a jail came, a jail went.
Invariants: frames of one agent enter its jail in order; an agent that is paused (but for its probe), detached,
switching, or held up by a reader with a full `block` queue sends none.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeswarm.app.metrics import Histogram
from edgeswarm.errors import InputError, JailGoneError, TrapError
from edgeswarm.ids import AgentName
from edgeswarm.stream.bucket import TokenBucket
from edgeswarm.stream.flight import Frame, SetAside
from edgeswarm.stream.pipeline import FULL, MALFORMED, Outcome, Pipeline
from edgeswarm.stream.queue import Row, row_fault
from edgeswarm.stream.turns import Share


class Port(Protocol):
    """What the pump needs of a jail (`drivers.jails.Jail`)."""

    @property
    def alive(self) -> bool: ...

    def submit(self, slot: int, seq: int, rows: int, payload: bytes) -> bool: ...


class Sink(Protocol):
    """What the pump needs of a sink (`drivers.sinks`)."""

    @property
    def kind(self) -> str: ...

    def counts(self) -> dict[str, int]: ...

    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...

    async def closed(self) -> None: ...


class Follower(Protocol):
    """Somebody who follows the agent's answers, until None: the agent is removed.  Must not block."""

    def __call__(self, record: dict[str, Any] | None) -> None: ...


class Turns(Protocol):
    """Says when this flow may use its jail (`app.turns.Keeper`).  unsent: of what was admitted last; always False."""

    def admit(self, slot: int, /) -> bool: ...

    def unsent(self, slot: int, /) -> bool: ...

    def share(self, slot: int, /) -> Share | None: ...


class Export(Protocol):
    """Takes each row of the agent's stream, and its time.monotonic_ns(), away from this device.  Must not block."""

    def __call__(self, row: Row, at_ns: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Reader:
    """Another agent's source number `index` that reads this agent's stream."""

    flow: AgentFlow
    index: int


@dataclass(slots=True, eq=False)
class _Asked:
    """A row of `ask`: the `ordinal`-th that source 0 took; seq: its frame, once there is one."""

    ordinal: int
    answer: asyncio.Future[Outcome | None]
    seq: int = 0


@dataclass(slots=True, eq=False)
class AgentFlow:
    """Everything the data plane keeps of one agent.

    on_fault(name, why): one call failed.  on_probed(name): the probe of a half-open breaker was answered.
    on_set_aside(name, aside): a frame that nobody could answer.
    """

    name: AgentName
    pipeline: Pipeline
    on_fault: Callable[[AgentName, str], None]
    on_probed: Callable[[AgentName], None]
    on_set_aside: Callable[[AgentName, SetAside], None]
    version: str = ""
    sinks: list[Sink] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    exports: list[Export] = field(default_factory=list)
    writers: list[AgentFlow] = field(default_factory=list)  # the agents whose streams this one reads
    hooks_before: list[Callable[[Frame], None]] = field(default_factory=list)
    hooks_after: list[Callable[[Outcome], None]] = field(default_factory=list)
    latency: Histogram = field(default_factory=Histogram)
    port: Port | None = None
    turns: Turns | None = None  # where it shares its jail, or may use less than a core
    put_off: bool = False  # by `turns`, until they wake it
    bandwidth: TokenBucket | None = None  # of what leaves the device
    slot: int = 0
    paused: bool = False
    probing: bool = False
    switching: bool = False
    silent: bool = False  # its workflow has no `send_output`: answers are decided on and go nowhere
    faults: int = 0
    last: Outcome | None = None
    _held: deque[tuple[Reader, Row, int]] = field(default_factory=deque)  # rows that a full `block` reader refused
    _asked: deque[_Asked] = field(default_factory=deque)  # rows of `ask` that are in no frame yet, oldest first
    _waiters: dict[int, asyncio.Future[Outcome | None]] = field(default_factory=dict)  # by the frame's seq
    _room: list[asyncio.Future[None]] = field(default_factory=list)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    # --- rows in --------------------------------------------------------------------------------------------------

    async def offer(self, index: int, row: Sequence[float], at_ns: int) -> bool:
        """One row of source `index`; waits while a `block` queue is full.  False: malformed, counted and told."""
        offered = await self._offer(index, row, at_ns)
        self.send()
        return offered

    async def _offer(self, index: int, row: Sequence[float], at_ns: int) -> bool:
        while (offered := self.pipeline.offer(index, row, at_ns)) is FULL:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(room)
            await room
        return offered is not MALFORMED

    def has_space(self) -> None:
        """The pipeline has room again for somebody whose row it had refused."""
        waiting, self._room = self._room, []
        for room in waiting:
            if not room.done():
                room.set_result(None)
        for writer in self.writers:
            writer.release()

    def send(self) -> None:
        """Send what may be sent.  Called after every change that could allow more."""
        port = self.port
        if port is None or self.switching or self._held or self.put_off:
            return
        pipeline = self.pipeline
        if self.paused and not (self.probing and not pipeline.flight.in_flight):
            return
        while (frame := pipeline.next_frame()) is not None:
            if self._asked:
                self._match(frame)
            for hook in self.hooks_before:
                hook(frame)
            if not self._submit(port, frame):
                pipeline.not_sent(frame.seq)  # goes out after the next answer, or in the next jail
                break
            if self.paused:
                break
        else:
            if self._asked:
                self._match(None)

    def _submit(self, port: Port, frame: Frame) -> bool:
        """False: put off, and woken in its time; or no room in the ring; or the jail is dead, its exit on the way."""
        turns, slot = self.turns, self.slot
        if turns is not None:
            self.put_off = not turns.admit(slot)
            if self.put_off:
                return False
        try:
            sent = port.submit(slot, frame.seq, 1, frame.payload)
        except JailGoneError:
            sent = False
        return sent or (turns is not None and turns.unsent(slot))

    def _match(self, frame: Frame | None) -> None:
        """Rows of `ask` that have been taken: the last one completed `frame`, those before it completed none."""
        first = self.pipeline.parts.intake.counts()[0]
        taken = first.joined + first.dropped
        while self._asked and self._asked[0].ordinal <= taken:
            asked = self._asked.popleft()
            if frame is not None and asked.ordinal == taken:
                asked.seq = frame.seq
                self._waiters[frame.seq] = asked.answer
            elif not asked.answer.done():
                asked.answer.set_result(None)

    # --- answers --------------------------------------------------------------------------------------------------

    def answered(self, seq: int, output: bytes) -> None:
        """The jail answered frame `seq`."""
        now_ns = time.monotonic_ns()
        before = self.pipeline.counters.last_set_aside
        outcome = self.pipeline.answered(seq, output)
        if outcome is None:
            aside = self.pipeline.counters.last_set_aside
            if aside is not None and aside is not before:
                self._failed(aside)
            return  # else: answered before its jail died, and sent again; the second answer counts for nothing
        self.last = outcome
        self.latency.observe(now_ns - outcome.at_ns)
        for hook in self.hooks_after:
            hook(outcome)
        if (self.sinks or self.followers) and not self.silent:
            self._tell(outcome, now_ns)
        if (self.readers or self.exports) and outcome.emit is not None and not self.silent:
            self._pass_on(outcome.emit, outcome.at_ns)
        waiter = self._waiters.pop(seq, None) if self._waiters else None
        if waiter is not None and not waiter.done():
            waiter.set_result(outcome)
        if self.probing:
            self.probing = False
            self.on_probed(self.name)
        self._after_answer()

    def faulted(self, seq: int, why: str, *, rows: int = 1) -> None:
        """The kernel failed on frame `seq`: the frame is set aside with its bytes, the agent goes on."""
        aside = self.pipeline.faulted(seq, why, rows=rows)
        if aside is not None:
            self._failed(aside)

    def _failed(self, aside: SetAside) -> None:
        self.faults += 1
        self.probing = False
        self.on_set_aside(self.name, aside)
        waiter = self._waiters.pop(aside.frame.seq, None)
        if waiter is not None and not waiter.done():
            waiter.set_exception(TrapError(f"agent {self.name}: frame {aside.frame.seq}: {aside.text}"))
        self.on_fault(self.name, aside.text)
        self._after_answer()

    def _after_answer(self) -> None:
        self.send()
        if not self.pipeline.flight.in_flight:
            self._idle.set()

    def _tell(self, outcome: Outcome, now_ns: int) -> None:
        decision = outcome.decision
        record = {
            "agent": self.name,
            "version": self.version,
            "seq": outcome.seq,
            "at": round(time.time() - (now_ns - outcome.at_ns) / 1e9, 6),
            "latency_us": (now_ns - outcome.at_ns) // 1000,
            "label": decision.label,
            "score": outcome.score,
            "flagged": decision.flagged,
            "changed": decision.changed,
            "values": list(outcome.output if outcome.emit is None else outcome.emit),
        }
        for sink in self.sinks:
            sink.write(record)
        for follower in self.followers:
            follower(record)

    def _pass_on(self, row: Row, at_ns: int) -> None:
        for export in self.exports:
            export(row, at_ns)
        for reader in self.readers:
            if self._held or reader.flow.pipeline.offer(reader.index, row, at_ns) is FULL:
                self._held.append((reader, row, at_ns))
            else:
                reader.flow.send()

    def release(self) -> None:
        """A reader has room again: pass on what it had refused, then go on sending."""
        while self._held:
            reader, row, at_ns = self._held[0]
            if reader.flow.pipeline.offer(reader.index, row, at_ns) is FULL:
                return
            self._held.popleft()
            reader.flow.send()
        self.send()

    def forget_reader(self, flow: AgentFlow, index: int | None = None) -> list[tuple[Row, int]]:
        """An agent reads this stream no more, or not at its source `index`: the rows that were held for it."""

        def is_it(reader: Reader) -> bool:
            return reader.flow is flow and index in (None, reader.index)

        self.readers = [reader for reader in self.readers if not is_it(reader)]
        gone = [(row, at_ns) for reader, row, at_ns in self._held if is_it(reader)]
        self._held = deque(item for item in self._held if not is_it(item[0]))
        return gone

    def inherit(self, last: AgentFlow) -> None:
        """Who follows it, and the rows that its readers had no room for, from the agent's last life."""
        self.followers = last.followers
        self._held = last._held

    def end_followers(self) -> None:
        """The agent is removed."""
        for follower in self.followers:
            follower(None)

    # --- jails come and go ----------------------------------------------------------------------------------------

    def attach(self, port: Port, slot: int) -> None:
        """From now on frames go to this slot; those a dead jail left unanswered go first."""
        self.port, self.slot = port, slot
        self.switching = self.put_off = False
        self.send()

    def jail_died(self) -> None:
        """The control plane will detach it: until then nobody waits for an answer."""
        self._idle.set()

    def detach(self, *, suspected: bool, last_try: bool = False) -> None:
        """The jail is gone: what it had not answered goes out once more, or is set aside as poison.

        suspected: the jail was working on this agent's oldest frame.  last_try: and that is not tried again.
        """
        if self.port is None:
            return
        self.port = None
        gone = self.pipeline.jail_gone(suspected=suspected, last_try=last_try)
        if gone.poison is not None:
            self.on_set_aside(self.name, gone.poison)
            waiter = self._waiters.pop(gone.poison.frame.seq, None)
            if waiter is not None and not waiter.done():
                waiter.set_exception(JailGoneError(f"agent {self.name}: {gone.poison.text}"))
        self._idle.set()

    async def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; False when it took longer than timeout_s."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.port is not None and self.port.alive and self.pipeline.flight.in_flight:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def give_up(self, why: str) -> None:
        """The agent is closed: nobody will answer those who still ask."""
        waiting = [*(asked.answer for asked in self._asked), *self._waiters.values()]
        self._asked.clear()
        self._waiters.clear()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(JailGoneError(f"agent {self.name}: {why}"))

    def pause(self) -> None:
        """Send nothing until `resume`, but the one frame of a `probe`."""
        self.paused, self.probing = True, False

    def probe(self) -> None:
        self.probing = True
        self.send()

    def resume(self) -> None:
        self.paused = self.probing = False
        self.send()

    # --- the API's way in -----------------------------------------------------------------------------------------

    async def ask(self, row: Sequence[float], timeout_s: float) -> Outcome | None:
        """Offer one row to source 0 and wait for the answer of the frame that it completes.

        None when it completes none (warm-up, window not full, dropped by the queue's policy).
        Raises InputError for a malformed row, TrapError, JailGoneError, TimeoutError.
        """
        asked = _Asked(0, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(timeout_s):
                if not await self._offer(0, row, time.monotonic_ns()):
                    width = self.pipeline.parts.intake.widths[0]
                    raise InputError(f"agent {self.name}: expected {width} finite float32 values, {_found(row, width)}")
                asked.ordinal = self.pipeline.parts.intake.counts()[0].rows_in
                self._asked.append(asked)
                self.send()
                return await asked.answer
        finally:
            self._waiters.pop(asked.seq, None)
            if asked in self._asked:
                self._asked.remove(asked)


def _found(row: Sequence[float], width: int) -> str:
    """What is wrong with a row, in words; its numbers stay out of it: they may be anything, and of any length."""
    try:
        return f"found {row_fault(row, width) or 'no numbers'} ({len(row)} values)"
    except (TypeError, ValueError, OverflowError):
        return f"found {type(row).__name__} with something else than numbers"
