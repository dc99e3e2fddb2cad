"""The data path of one agent, without I/O: rows in, frames to the jail, answers to decisions.  `app/pump.py` moves it.

    offer -> [intake: queue policy, join] -> next_frame: [normalise, window] -> jail -> answered: [score, decide, emit]

The law, in rows, true after every call (`lost` is what it misses, and is 0):
    for each source:  rows_in == joined + dropped + queued
    joined + carried == warmup + unusable + held + flying + answered + set_aside + abandoned
where a row belongs to the first frame that closes over it (`Frame.fresh`): `held` rows are in the window and in no
frame yet, `flying` ones in frames that are unanswered, `carried` came with a checkpoint, `abandoned` were held when the
agent was removed.  Rows that `offer` refuses are not in: malformed ones are counted by kind, those that meet a full
`block` queue stay with the caller.
Invariants: no call raises for what a source, a kernel or a jail did; frames are answered once; seq never repeats.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from edgeswarm.agentfile.wiring import Wiring
from edgeswarm.limits import FLOAT32_MAX, FRAMES_IN_FLIGHT_BYTES_MAX, FRAMES_IN_FLIGHT_MAX
from edgeswarm.stream import carry
from edgeswarm.stream.count import Counters
from edgeswarm.stream.decide import Decision
from edgeswarm.stream.flight import Flight, Frame, Gone, SetAside
from edgeswarm.stream.parts import make_parts
from edgeswarm.stream.queue import Row, Sample, row_fault
from edgeswarm.stream.report import OnEvent, Reporter, ignore_event
from edgeswarm.stream.window import ROW_VALUE_BYTES


class Offered(Enum):
    """What became of a row: FULL means that the caller keeps it and holds its source back."""

    ACCEPTED = 0
    FULL = 1
    MALFORMED = 2


ACCEPTED, FULL, MALFORMED = Offered.ACCEPTED, Offered.FULL, Offered.MALFORMED


class Outcome(NamedTuple):
    """One answered frame.  emit: the row of the agent's own stream, None where there is none for this answer."""

    seq: int
    at_ns: int
    output: Row
    emit: Row | None
    score: float | None
    decision: Decision


def _ignore_space(index: int) -> None:
    """The listener of pipelines whose sources are never held back."""


class Pipeline:
    """The data path of one agent.  Not for several threads."""

    __slots__ = (
        "_decide", "_emit", "_last_output", "_last_seq", "_memory_bytes", "_offer", "_pack", "_payload", "_score",
        "_take", "_unpack_output", "_widths", "ahead", "counters", "emit_width", "flight", "frame_bytes",
        "held_samples", "keeps_held", "memory", "name", "normalizer", "on_space", "output_bytes", "parts", "refused",
        "reporter", "seq", "unpack_frame", "window",
    )  # fmt: skip

    def __init__(
        self,
        wiring: Wiring,
        *,
        source_widths: Sequence[int],
        frame_width: int,
        output_width: int,
        memory_width: int = 0,
        name: str = "",
        in_flight_max: int = FRAMES_IN_FLIGHT_MAX,
        now_ns: Callable[[], int] = time.monotonic_ns,
        on_event: OnEvent = ignore_event,
        on_space: Callable[[int], None] = _ignore_space,
    ) -> None:
        """frame_width, output_width: what the kernel takes and gives, without the memory that is fed back.

        source_widths: one for each of wiring.sources.  on_space(index): called once there is room again for a source
        whose row was refused with FULL.  Raises ConfigError when wiring, sources and kernel do not fit together.
        """
        self.parts = parts = make_parts(
            wiring, source_widths=source_widths, frame_width=frame_width, output_width=output_width
        )
        self.name = name
        self.on_space = on_space
        self.reporter = Reporter(on_event, now_ns=now_ns, agent=name)
        self._widths = parts.intake.widths
        self._offer = parts.intake.offer
        self._take = parts.intake.take
        self.normalizer = parts.normalizer
        self.window = parts.window
        self._score = parts.scorer
        self._decide = parts.decider.decide
        self._emit = wiring.emit
        self.emit_width = parts.emit_width
        self._pack = struct.Struct(f"<{parts.intake.width}f").pack
        self.unpack_frame = struct.Struct(f"<{frame_width}f").unpack
        self._unpack_output = struct.Struct(f"<{output_width + memory_width}f").unpack
        self._payload = output_width
        self._memory_bytes = memory_width * ROW_VALUE_BYTES
        self.memory = bytes(self._memory_bytes)
        self.frame_bytes = frame_width * ROW_VALUE_BYTES
        self.output_bytes = (output_width + memory_width) * ROW_VALUE_BYTES
        self.flight = Flight(max(1, min(in_flight_max, FRAMES_IN_FLIGHT_BYTES_MAX // self.frame_bytes)))
        self.counters = Counters()
        self.seq = 0
        self.refused: set[int] = set()  # sources whose row met a full queue, until `on_space` has told them
        self.keeps_held = wiring.window.rows > 1 or wiring.window.hop > 1
        self.held_samples: list[Sample] = []  # the rows in the window that are in no frame yet, as they came
        self.ahead: deque[Sample] = deque()  # joined rows of the last version's window, to be taken before others
        self._last_seq = 0  # the frame of the last answer, and the answer: what a prediction is measured against
        self._last_output: Row | None = None

    # --- rows in -------------------------------------------------------------------------------------------------

    def offer(self, index: int, values: Sequence[float], at_ns: int) -> Offered:
        """A row of source `index` (0-based, as in the wiring), `at_ns` old at its origin."""
        try:
            total = sum(map(abs, values))
            # NaN fails every comparison; a sum within float32 means that each value is
            if len(values) != self._widths[index] or not total <= FLOAT32_MAX:
                kind = row_fault(values, self._widths[index])
                if kind:
                    return self._malformed(index, kind)
            if type(values) is not tuple or type(total) is not float:
                values = tuple(map(float, values))
        except (TypeError, ValueError, OverflowError):
            return self._malformed(index, "type")
        accepted, dropped = self._offer(index, Sample(at_ns, values))
        if dropped:
            self.reporter.report("rows_dropped", kind=self.parts.inlet_names[index])
            return ACCEPTED
        if accepted:
            return ACCEPTED
        self.counters.refused += 1
        self.refused.add(index)
        return FULL

    def full(self, index: int) -> bool:
        """True while a row of source `index` would be refused."""
        return self.parts.intake.full(index)

    def _malformed(self, index: int, kind: str) -> Offered:
        self.counters.malformed[kind] = self.counters.malformed.get(kind, 0) + 1
        self.reporter.report("row_malformed", kind=kind, source=self.parts.inlet_names[index])
        return MALFORMED

    # --- frames out ----------------------------------------------------------------------------------------------

    def next_frame(self) -> Frame | None:
        """The next frame to send: one to be sent again before any new one.  None: nothing to send now."""
        flight = self.flight
        if not flight.open():
            return None
        if flight.again:
            return flight.send_again()
        while (sample := self.ahead.popleft() if self.ahead else self._take()) is not None:
            frame = self._frame_of(sample)
            if frame is not None:
                flight.send(frame)
                if self.refused:
                    self._tell_space()
                return frame
        if self.refused:
            self._tell_space()
        return None

    def next_frames(self, rows_max: int) -> list[Frame]:
        """Up to `rows_max` frames with consecutive seq for one call of the kernel; one at a time where that is due:
        for agents with memory, and while a frame is suspect."""
        frames: list[Frame] = []
        while len(frames) < rows_max:
            frame = self.next_frame()
            if frame is None:
                break
            if frames and frame.seq != frames[-1].seq + 1:
                self.flight.not_sent(frame.seq)
                break
            frames.append(frame)
            if self._memory_bytes or not self.flight.batches(frame.seq):
                break
        return frames

    def not_sent(self, seq: int) -> None:
        """The jail's ring had no room: the frame comes out of `next_frame` again."""
        self.flight.not_sent(seq)

    def _frame_of(self, sample: Sample) -> Frame | None:
        at_ns, values = sample
        counts, normalizer = self.counters, self.normalizer
        try:
            if normalizer.warming:
                self._pack(*values)
            row = normalizer.push(values)
            if row is None:
                counts.warmup += 1
                if not normalizer.warming:
                    self.reporter.report("warmup_finished", rows=normalizer.seen)
                return None
            packed = self._pack(*row)
        except (TypeError, OverflowError, struct.error) as error:
            counts.unusable += 1
            self.reporter.report("row_unusable", reason=str(error))
            return None
        window = self.window
        fresh = window.fresh_next
        payload = window.push(packed)
        if self.keeps_held:
            if payload is None:
                self.held_samples.append(sample)
                return None
            self.held_samples.clear()
        assert payload is not None
        counts.frames += 1
        self.seq = seq = self.seq + 1
        return Frame(seq, at_ns, payload, row, values, fresh)

    def _tell_space(self) -> None:
        full = self.parts.intake.full
        for index in [index for index in self.refused if not full(index)]:
            self.refused.discard(index)
            self.on_space(index)

    # --- answers in ----------------------------------------------------------------------------------------------

    def answered(self, seq: int, output: bytes | memoryview) -> Outcome | None:
        """The kernel's output row for frame `seq`: payload, then memory.  None when it counts for nothing: no such
        frame is in flight, or the row is not `output_bytes` of finite float32 - then the frame is set aside."""
        frame = self.flight.answered(seq)
        counts = self.counters
        if frame is None:
            counts.unexpected += 1
            self.reporter.report("answer_unexpected", seq=seq)
            return None
        try:
            values = self._unpack_output(output)
            total = sum(values)  # of float32 in double: cannot overflow, so it is finite when they all are
        except struct.error:
            total = float("nan")
            values = ()
        if total - total != 0.0:
            self._set_aside(SetAside(frame, "answer", f"expected {self.output_bytes} bytes of finite float32"))
            return None
        if self._memory_bytes:
            self.memory = bytes(output[-self._memory_bytes :])
            values = values[: self._payload]
        counts.answered += 1
        counts.rows_answered += frame.fresh
        return self._outcome(frame, values)

    def answered_rows(self, seq: int, rows: int, output: bytes | memoryview) -> list[Outcome]:
        """The answers to the `rows` frames that went out together from `seq` on."""
        size = self.output_bytes
        view = memoryview(output)
        outcomes = (self.answered(seq + i, view[i * size : (i + 1) * size]) for i in range(rows))
        return [outcome for outcome in outcomes if outcome is not None]

    def _outcome(self, frame: Frame, output: Row) -> Outcome:
        seq, at_ns, payload, row, _, _ = frame
        scorer, counts = self._score, self.counters
        previous = None
        if scorer.needs_previous:
            previous = self._last_output if self._last_seq == seq - 1 else None
            self._last_seq, self._last_output = seq, output
        whole = row
        if scorer.needs_frame and len(payload) > len(row) * ROW_VALUE_BYTES:
            whole = self.unpack_frame(payload)
        score = scorer.score(output, frame=whole, newest=row, previous=previous)
        decision = self._decide(score, output)
        counts.decisions += 1
        counts.unscored += score is None
        counts.changed += decision.changed
        counts.flagged += decision.flagged
        emit: Row | None
        if self._emit == "output":
            emit = output
        elif self._emit == "score":
            emit = None if score is None else (score,)
        else:
            emit = scorer.residual(output, frame=whole, newest=row, previous=previous)
        return Outcome(seq, at_ns, output, emit, score, decision)

    # --- jails that fail -----------------------------------------------------------------------------------------

    def jail_gone(self, *, suspected: bool = True, last_try: bool = False) -> Gone:
        """The jail is dead: what it had not answered comes out of `next_frame` again, in order.

        suspected: False when it was working on another agent's frame, or was ended by us: then no frame is blamed.
        last_try: the blamed frame is not tried again.  Read all its replies before this call.
        """
        gone = self.flight.gone(last_try=last_try) if suspected else Gone(self.flight.recall(), None)
        self.counters.resent += len(gone.again)
        if gone.poison is not None:
            self._set_aside(gone.poison)
        return gone

    def faulted(self, seq: int, text: str, *, rows: int = 1) -> SetAside | None:
        """The kernel faulted on the call of `rows` frames from `seq` on.

        Returns the frame, set aside with its bytes.  None when there were several (they go out again one by one) or
        none.  The memory of an agent is what it was after its last answered row.
        """
        frame = self.flight.faulted(seq, rows)
        if frame is None:
            self.counters.resent += rows if rows > 1 else 0
            return None
        aside = SetAside(frame, "fault", text)
        self._set_aside(aside)
        return aside

    def _set_aside(self, aside: SetAside) -> None:
        counts = self.counters
        counts.set_aside[aside.reason] += 1
        counts.rows_set_aside += aside.frame.fresh
        counts.last_set_aside = aside
        self.reporter.report("frame_set_aside", kind=aside.reason, seq=aside.frame.seq, text=aside.text)

    # --- the whole of it -----------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True when no frame is unanswered: a boundary at which the agent may be swapped."""
        return not (self.flight.in_flight or self.flight.again)

    @property
    def held(self) -> int:
        """Joined rows that are in no frame yet."""
        return self.window.held + len(self.ahead)

    def tally(self) -> dict[str, object]:
        """Every counter, and `lost`; see the law above."""
        flight = self.flight
        return self.counters.tally(
            self.parts.intake.counts(),
            held=self.held,
            flying=flight.rows(),
            in_flight=len(flight.in_flight),
            again=len(flight.again),
        )

    @property
    def lost(self) -> int:
        """Rows that are nowhere in the law: always 0."""
        return self.counters.lost(self.parts.intake.counts(), held=self.held, flying=self.flight.rows())

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps; see `carry.state`."""
        return carry.state(self)

    def restore(self, state: Mapping[str, object], *, now_ns: int) -> None:
        """Go on where `state` stopped; see `carry.restore`."""
        carry.restore(self, state, now_ns=now_ns)

    def adopt(self, last: Pipeline) -> None:
        """Take over from the agent's last version; see `carry.adopt`."""
        carry.adopt(self, last)

    def abandon(self) -> int:
        """Give up what is held for an incomplete frame, for good: the agent is removed.  Returns how many rows."""
        rows = self.held
        if rows:
            self.counters.abandoned += rows
            self.reporter.report("rows_abandoned", rows=rows)
            self.window.clear()
            self.held_samples.clear()
            self.ahead.clear()
        return rows
