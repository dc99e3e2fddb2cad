"""No row is ever lost: random lives of a pipeline, with the law checked after every step.

A model beside the pipeline knows which readings went in and which came back answered, dropped, learnt from or set
aside.  Rules: rows of each source (good and bad), frames out one by one and in batches, answers in any order and broken
ones, faults, deaths of jails, full rings, checkpoints into a new process, swaps to a new version.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgeswarm.agentfile.wiring import ApiSource, DecisionSpec, NormalizeSpec, Queue, WindowSpec, Wiring
from edgeswarm.stream.flight import Frame
from edgeswarm.stream.pipeline import Offered, Pipeline

ANSWER = struct.pack("<f", 0.5)


class Life(RuleBasedStateMachine):
    """One agent's life."""

    @initialize(
        policies=st.lists(st.sampled_from(["block", "drop_oldest", "latest_only"]), min_size=1, max_size=3),
        queue_rows=st.integers(1, 4),
        join=st.sampled_from(["latest", "zip"]),
        rows=st.integers(1, 4),
        hop=st.integers(1, 5),
        warmup=st.integers(0, 3),
    )
    def begin(self, policies: list[str], queue_rows: int, join: str, rows: int, hop: int, warmup: int) -> None:
        self.sources = tuple(
            ApiSource("api", 1, id=f"s{i}", queue=Queue(policy, queue_rows))  # type: ignore[arg-type]
            for i, policy in enumerate(policies)
        )
        self.join = join
        self.warmup = warmup
        self.pipeline = self.make(rows, hop)
        self.sent: list[int] = []  # seq in flight, in order
        self.seen: set[int] = set()  # seq that were answered or set aside
        self.number = 0
        self.offered = [0] * len(policies)
        self.refused = 0
        self.malformed = 0

    def make(self, rows: int, hop: int) -> Pipeline:
        normalize = NormalizeSpec("zscore", self.warmup) if self.warmup else NormalizeSpec()
        wiring = Wiring(
            sources=self.sources,
            join=self.join,  # type: ignore[arg-type]
            window=WindowSpec(rows, hop),
            normalize=normalize,
            decision=DecisionSpec("threshold", above=1.0),
        )
        width = len(self.sources)
        arguments: dict[str, Any] = {"frame_width": width * rows, "output_width": 1, "in_flight_max": 6}
        return Pipeline(wiring, source_widths=[1] * width, **arguments)

    def note(self, frames: list[Frame]) -> None:
        for frame in frames:
            assert frame.seq not in self.seen
            assert frame.seq not in self.sent
            assert not self.sent or frame.seq > self.sent[-1]
            self.sent.append(frame.seq)

    def done(self, seq: int) -> None:
        self.sent.remove(seq)
        self.seen.add(seq)

    @rule(index=st.integers(0, 2), bad=st.sampled_from([None, None, None, math.nan, math.inf, "x"]))
    def offer(self, index: int, bad: Any) -> None:
        index %= len(self.sources)
        self.number += 1
        what = self.pipeline.offer(index, (float(self.number),) if bad is None else (bad,), self.number)
        assert (what is Offered.MALFORMED) == (bad is not None)
        self.offered[index] += what is Offered.ACCEPTED
        self.refused += what is Offered.FULL
        self.malformed += what is Offered.MALFORMED

    @rule(batch=st.integers(1, 4))
    def send(self, batch: int) -> None:
        self.note(self.pipeline.next_frames(batch))

    @rule()
    def ring_is_full(self) -> None:
        frame = self.pipeline.next_frame()
        if frame is not None:
            self.pipeline.not_sent(frame.seq)

    @precondition(lambda self: self.sent)
    @rule(place=st.integers(0, 5), broken=st.booleans())
    def answer(self, place: int, broken: bool) -> None:
        seq = self.sent[place % len(self.sent)]
        outcome = self.pipeline.answered(seq, b"" if broken else ANSWER)
        assert (outcome is None) == broken
        self.done(seq)

    @rule(seq=st.integers(0, 5))
    def answer_twice(self, seq: int) -> None:
        if seq not in self.sent:
            assert self.pipeline.answered(seq, ANSWER) is None

    @precondition(lambda self: self.sent)
    @rule()
    def fault(self) -> None:
        seq = self.sent[0]
        aside = self.pipeline.faulted(seq, "trap")
        assert aside is not None
        self.done(seq)

    @precondition(lambda self: len(self.sent) > 1 and self.sent[1] == self.sent[0] + 1)
    @rule()
    def batch_faults(self) -> None:
        assert self.pipeline.faulted(self.sent[0], "trap", rows=2) is None
        del self.sent[:2]
        if self.sent:  # the others fly on; what went back comes before them only when they are done
            for seq in list(self.sent):
                assert self.pipeline.answered(seq, ANSWER) is not None
                self.done(seq)

    @rule(suspected=st.booleans())
    def jail_dies(self, suspected: bool) -> None:
        gone = self.pipeline.jail_gone(suspected=suspected)
        if gone.poison is not None:
            assert gone.poison.frame.seq == self.sent[0]
            self.seen.add(self.sent.pop(0))
        assert [frame.seq for frame in gone.again] == self.sent
        self.sent.clear()

    @rule()
    def power_cut_right_after_a_checkpoint(self) -> None:
        """A new process goes on: unanswered frames come again first; queued rows would be read again."""
        state = self.pipeline.state()
        unanswered = [frame.seq for frame in self.pipeline.flight.frames()]
        window = self.pipeline.parts.wiring.window
        self.pipeline = self.make(window.rows, window.hop)
        self.pipeline.restore(state, now_ns=1)
        assert [frame.seq for frame in self.pipeline.flight.frames()] == unanswered
        self.sent.clear()
        self.offered = [0] * len(self.sources)
        self.refused = self.malformed = 0

    @precondition(lambda self: self.pipeline.idle)
    @rule(rows=st.integers(1, 4), hop=st.integers(1, 5))
    def swap(self, rows: int, hop: int) -> None:
        successor = self.make(rows, hop)
        successor.adopt(self.pipeline)
        self.pipeline = successor

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "pipeline"):
            return
        tally: dict[str, Any] = self.pipeline.tally()
        assert tally["lost"] == self.pipeline.lost == 0
        assert [one["rows_in"] for one in tally["sources"]] == self.offered
        assert tally["refused"] == self.refused
        assert sum(tally["malformed"].values()) == self.malformed
        assert tally["in_flight"] == len(self.sent)
        assert list(self.pipeline.flight.in_flight) == self.sent
        assert not self.seen & {frame.seq for frame in self.pipeline.flight.frames()}
        for one in tally["sources"]:
            assert one["queued"] <= 4
            assert one["rows_in"] == one["joined"] + one["dropped"] + one["queued"]
        known = ("warmup", "unusable", "held", "flying", "rows_answered", "rows_set_aside", "abandoned")
        assert tally["joined"] + tally["carried"] == sum(tally[name] for name in known)


Life.TestCase.settings = settings(
    max_examples=120, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLife = Life.TestCase
