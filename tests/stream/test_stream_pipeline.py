"""The data path of one agent: rows to frames to outcomes, bad rows, dead jails."""

from __future__ import annotations

import array
import math
import struct
from typing import Any

import pytest

from edgeswarm.agentfile.wiring import (
    AgentSource,
    ApiSource,
    DecisionSpec,
    NormalizeSpec,
    Queue,
    ScoreSpec,
    VitalsSource,
    WindowSpec,
    Wiring,
)
from edgeswarm.errors import ConfigError
from edgeswarm.limits import FRAMES_IN_FLIGHT_BYTES_MAX
from edgeswarm.stream.pipeline import Offered, Pipeline

ACCEPTED, FULL, MALFORMED = Offered.ACCEPTED, Offered.FULL, Offered.MALFORMED


def packed(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def make(
    width: int = 1,
    output_width: int = 1,
    *,
    rows: int = 1,
    hop: int = 1,
    policy: str = "block",
    queue_rows: int = 256,
    memory_width: int = 0,
    options: dict[str, Any] | None = None,
    **wiring: Any,
) -> Pipeline:
    source = ApiSource("api", width, queue=Queue(policy, queue_rows))  # type: ignore[arg-type]
    whole = Wiring(sources=(source,), window=WindowSpec(rows, hop), **wiring)
    return Pipeline(
        whole,
        source_widths=[width],
        frame_width=rows * width,
        output_width=output_width,
        memory_width=memory_width,
        **(options or {}),
    )


def feed(pipeline: Pipeline, *values: float, at_ns: int = 0) -> None:
    for value in values:
        assert pipeline.offer(0, (float(value),), at_ns) is ACCEPTED


def seqs(pipeline: Pipeline) -> list[int]:
    found = []
    while (frame := pipeline.next_frame()) is not None:
        found.append(frame.seq)
    return found


def test_row_becomes_a_frame_becomes_an_outcome() -> None:
    pipeline = make(
        2,
        3,
        decision=DecisionSpec("argmax", labels=("a", "b", "c")),
        score=ScoreSpec("max"),
        normalize=NormalizeSpec("fixed", mean=(1.0, 1.0), std=(2.0, 2.0)),
    )
    assert pipeline.offer(0, (3.0, 5.0), 77) is ACCEPTED
    frame = pipeline.next_frame()
    assert frame is not None
    assert (frame.seq, frame.at_ns, frame.row, frame.values) == (1, 77, (1.0, 2.0), (3.0, 5.0))
    assert frame.payload == packed(1.0, 2.0)
    outcome = pipeline.answered(1, packed(0.0, 0.25, 4.0))
    assert outcome is not None
    assert (outcome.seq, outcome.at_ns, outcome.score) == (1, 77, 4.0)
    assert outcome.output == outcome.emit == (0.0, 0.25, 4.0)
    assert (outcome.decision.label, outcome.decision.changed) == ("c", True)
    assert pipeline.lost == 0
    assert pipeline.idle


def test_residual_and_score_of_a_window_compare_what_the_kernel_saw() -> None:
    pipeline = make(2, 4, rows=2, score=ScoreSpec("reconstruction_error"), emit="residual")
    for row in ((1.0, 2.0), (3.0, 4.0)):
        pipeline.offer(0, row, 0)
    assert pipeline.next_frame() is not None
    outcome = pipeline.answered(1, packed(1.0, 0.0, 6.0, 4.0))
    assert outcome is not None
    assert outcome.score == 3.25
    assert outcome.emit == (3.0, 2.0)


def test_prediction_is_measured_against_the_frame_before_only() -> None:
    """The first answer has nothing to be measured by; nor has the one after a frame that was set aside."""
    pipeline = make(score=ScoreSpec("prediction_error"), emit="score", decision=DecisionSpec("threshold", above=1.0))
    feed(pipeline, 1, 2, 3, 4, 5)
    assert seqs(pipeline) == [1, 2, 3, 4, 5]
    first = pipeline.answered(1, packed(5.0))
    second = pipeline.answered(2, packed(3.0))
    assert first is not None
    assert second is not None
    assert (first.score, first.emit) == (None, None)
    assert (second.score, second.decision.flagged) == (9.0, True)  # predicted 5, came 2
    assert pipeline.faulted(3, "trap") is not None
    gap = pipeline.answered(4, packed(7.0))
    last = pipeline.answered(5, packed(7.0))
    assert gap is not None
    assert last is not None
    assert gap.score is None
    assert gap.decision.flagged  # nothing new is known
    assert last.score == 4.0
    assert pipeline.counters.unscored == 2


def test_warm_up_rows_are_counted_not_lost() -> None:
    pipeline = make(normalize=NormalizeSpec("zscore", warmup_rows=3))
    feed(pipeline, 1, 2, 3, 4)
    frame = pipeline.next_frame()
    assert frame is not None
    assert frame.values == (4.0,)
    assert pipeline.counters.warmup == 3
    assert pipeline.lost == 0


def test_memory_comes_with_each_answer_and_stays_out_of_the_output() -> None:
    pipeline = make(1, 2, memory_width=2, score=ScoreSpec("value", index=1))
    feed(pipeline, 1, 2)
    assert [len(pipeline.next_frames(8)) for _ in range(2)] == [1, 1]  # one at a time: each needs the one before
    outcome = pipeline.answered(1, packed(1.0, 2.0, 30.0, 40.0))
    assert outcome is not None
    assert outcome.output == (1.0, 2.0)
    assert pipeline.memory == packed(30.0, 40.0)


def test_agent_without_sources_takes_rows_of_its_kernel() -> None:
    pipeline = Pipeline(Wiring(), source_widths=(), frame_width=3, output_width=1)
    assert pipeline.offer(0, (1.0, 2.0, 3.0), 0) is ACCEPTED
    assert pipeline.next_frame() is not None


def test_several_sources_make_one_row() -> None:
    sources = (VitalsSource("vitals", ("load1",)), AgentSource("agent", "other"))
    pipeline = Pipeline(Wiring(sources=sources, join="zip"), source_widths=(1, 2), frame_width=3, output_width=1)
    pipeline.offer(0, (1.0,), 5)
    assert pipeline.next_frame() is None
    pipeline.offer(1, (2.0, 3.0), 9)
    frame = pipeline.next_frame()
    assert frame is not None
    assert (frame.values, frame.at_ns) == ((1.0, 2.0, 3.0), 9)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Pipeline(Wiring(), source_widths=(2,), frame_width=2, output_width=1), "0 of them, but 1 widths"),
        (lambda: Pipeline(Wiring(), source_widths=(), frame_width=0, output_width=1), "kernel takes 0"),
        (lambda: make(normalize=NormalizeSpec("fixed", mean=(1.0, 2.0), std=(1.0, 2.0))), "mean"),
        (lambda: make(score=ScoreSpec("value", index=4)), "score.index"),
        (lambda: make(decision=DecisionSpec("argmax", labels=("a", "b"))), "labels"),
    ],
)
def test_wiring_that_does_not_fit_the_kernel_is_refused(build: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build()


# --- bad rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ((1.0,), "width"),
        ((1.0, 2.0, 3.0), "width"),
        ((), "width"),
        ((1.0, math.nan), "nan"),
        ((math.inf, 1.0), "infinity"),
        ((-math.inf, math.inf), "infinity"),
        ((1e39, 1.0), "too_large"),
        (("1.0", "2.0"), "type"),
        ((None, 1.0), "type"),
        (None, "type"),
        (7, "type"),
        ((10**400, 1), "too_large"),
        (([1.0], [2.0]), "type"),
    ],
)
def test_bad_row_is_counted_by_kind_told_and_kept_out(row: Any, kind: str) -> None:
    told: list[tuple[str, dict[str, object]]] = []
    pipeline = make(2, options={"on_event": lambda name, /, **fields: told.append((name, fields)), "name": "a"})
    assert pipeline.offer(0, row, 0) is MALFORMED
    assert pipeline.offer(0, row, 0) is MALFORMED
    assert pipeline.counters.malformed == {kind: 2}
    assert told == [("row_malformed", {"agent": "a", "kind": kind, "source": "api"})]
    assert pipeline.next_frame() is None
    assert pipeline.lost == 0


def test_complex_numbers_do_not_get_past_the_frame() -> None:
    pipeline = make(2)
    pipeline.offer(0, (1j, 2j), 0)  # type: ignore[arg-type]
    assert pipeline.next_frame() is None
    assert pipeline.counters.unusable == 1
    assert pipeline.lost == 0


def test_whole_numbers_lists_and_arrays_are_rows_too() -> None:
    pipeline = make(2)
    for row in ([1, 2], array.array("f", [1.0, 2.0]), memoryview(array.array("d", [1.0, 2.0])), (1, 2.0)):
        assert pipeline.offer(0, row, 0) is ACCEPTED
        frame = pipeline.next_frame()
        assert frame is not None
        assert frame.values == (1.0, 2.0)


def test_numbers_as_large_as_float32_are_rows() -> None:
    pipeline = make(2)
    assert pipeline.offer(0, (3e38, -3e38), 0) is ACCEPTED
    assert pipeline.next_frame() is not None


def test_value_that_normalisation_takes_out_of_float32_is_counted() -> None:
    pipeline = make(normalize=NormalizeSpec("fixed", mean=(0.0,), std=(1e-9,), clip=0.0))
    feed(pipeline, 1e38, 1.0)
    frame = pipeline.next_frame()
    assert frame is not None
    assert frame.values == (1.0,)
    assert pipeline.counters.unusable == 1
    assert pipeline.lost == 0


# --- backpressure ---------------------------------------------------------------------------------------------------


def test_blocked_source_is_told_once_when_there_is_room() -> None:
    space: list[int] = []
    pipeline = make(queue_rows=2, options={"on_space": space.append})
    feed(pipeline, 1, 2)
    assert [pipeline.offer(0, (3.0,), 0) for _ in range(2)] == [FULL, FULL]
    assert pipeline.full(0)
    pipeline.next_frame()
    assert space == [0]
    assert not pipeline.full(0)
    pipeline.next_frame()
    assert space == [0]
    assert pipeline.counters.refused == 2
    assert pipeline.lost == 0


def test_flood_is_dropped_counted_and_told_at_a_bounded_rate() -> None:
    told: list[str] = []
    pipeline = make(policy="drop_oldest", queue_rows=4, options={"on_event": lambda name, /, **_: told.append(name)})
    feed(pipeline, *range(1000))
    tally = pipeline.tally()
    assert (tally["rows_in"], tally["dropped"], tally["queued"], tally["lost"]) == (1000, 996, 4, 0)
    assert told == ["rows_dropped"]


def test_frames_in_flight_are_bounded_in_number_and_bytes() -> None:
    pipeline = make(options={"in_flight_max": 2})
    feed(pipeline, 1, 2, 3)
    assert seqs(pipeline) == [1, 2]
    pipeline.answered(1, packed(0.0))
    assert seqs(pipeline) == [3]
    wide = make(60_000, 1)
    assert wide.flight.in_flight_max == FRAMES_IN_FLIGHT_BYTES_MAX // 240_000


# --- answers that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", [b"", b"123", packed(1.0, 2.0), packed(math.nan), packed(math.inf)])
def test_unusable_answer_sets_the_frame_aside(output: bytes) -> None:
    pipeline = make()
    feed(pipeline, 1)
    pipeline.next_frame()
    assert pipeline.answered(1, output) is None
    assert pipeline.counters.set_aside["answer"] == 1
    aside = pipeline.counters.last_set_aside
    assert aside is not None
    assert aside.frame.payload == packed(1.0)
    assert pipeline.lost == 0


def test_answer_to_nothing_is_counted_and_changes_nothing() -> None:
    pipeline = make()
    assert pipeline.answered(9, packed(1.0)) is None
    assert pipeline.counters.unexpected == 1
    feed(pipeline, 1)
    pipeline.next_frame()
    assert pipeline.answered(1, packed(1.0)) is not None
    assert pipeline.answered(1, packed(1.0)) is None
    assert pipeline.lost == 0


def test_fault_sets_the_frame_aside_with_its_bytes_and_the_rest_goes_on() -> None:
    pipeline = make()
    feed(pipeline, 1, 2)
    assert seqs(pipeline) == [1, 2]
    aside = pipeline.faulted(1, "the kernel trapped")
    assert aside is not None
    assert (aside.frame.payload, aside.reason, aside.text) == (packed(1.0), "fault", "the kernel trapped")
    assert pipeline.answered(2, packed(0.0)) is not None
    assert pipeline.faulted(2, "again") is None
    assert pipeline.lost == 0


def test_batch_is_answered_row_by_row() -> None:
    pipeline = make(1, 2)
    feed(pipeline, 1, 2, 3)
    frames = pipeline.next_frames(2)
    assert [frame.seq for frame in frames] == [1, 2]
    outcomes = pipeline.answered_rows(1, 2, packed(1.0, 2.0, 3.0, 4.0))
    assert [outcome.output for outcome in outcomes] == [(1.0, 2.0), (3.0, 4.0)]


def test_batch_that_faults_goes_out_again_one_by_one() -> None:
    pipeline = make()
    feed(pipeline, *range(5))
    assert len(pipeline.next_frames(4)) == 4
    assert pipeline.faulted(1, "trap", rows=4) is None
    for seq in (1, 2, 3, 4):
        assert [frame.seq for frame in pipeline.next_frames(4)] == [seq]
    assert [frame.seq for frame in pipeline.next_frames(4)] == [5]
    assert pipeline.faulted(3, "trap") is not None
    assert pipeline.counters.set_aside["fault"] == 1
    assert pipeline.lost == 0


# --- dead jails -------------------------------------------------------------------------------------------------------


def test_unanswered_frames_go_out_once_more_in_order_before_new_ones() -> None:
    pipeline = make()
    feed(pipeline, 1, 2, 3)
    assert seqs(pipeline) == [1, 2, 3]
    pipeline.answered(1, packed(0.0))
    gone = pipeline.jail_gone()
    assert [frame.seq for frame in gone.again] == [2, 3]
    assert gone.poison is None
    feed(pipeline, 4)
    assert seqs(pipeline) == [2]  # alone: it may be what killed the jail
    pipeline.answered(2, packed(0.0))
    assert seqs(pipeline) == [3, 4]


def test_frame_that_kills_two_jails_is_poison_and_set_aside_with_its_bytes() -> None:
    pipeline = make()
    feed(pipeline, 1, 2)
    seqs(pipeline)
    pipeline.jail_gone()
    assert seqs(pipeline) == [1]
    gone = pipeline.jail_gone()
    assert gone.poison is not None
    assert (gone.poison.frame.seq, gone.poison.frame.payload, gone.poison.reason) == (1, packed(1.0), "poison")
    assert seqs(pipeline) == [2]
    assert pipeline.answered(2, packed(0.0)) is not None
    assert pipeline.counters.set_aside["poison"] == 1
    assert pipeline.lost == 0


def test_innocent_frames_behind_a_poisonous_one_all_get_answers() -> None:
    """Frame 3 of 6 kills every jail that sees it: three deaths later it alone is set aside."""
    pipeline = make()
    feed(pipeline, *range(1, 7))
    deaths, answered = 0, []
    while not pipeline.idle or any(one.queued for one in pipeline.parts.intake.counts()):
        sent = [frame.seq for frame in pipeline.next_frames(4)]
        assert sent
        if 3 in sent:
            deaths += 1
            pipeline.jail_gone()
            continue
        for seq in sent:
            answered.append(seq)
            pipeline.answered(seq, packed(0.0))
    assert answered == [1, 2, 4, 5, 6]
    assert deaths == 3
    assert pipeline.lost == 0


def test_death_through_another_agent_blames_nobody() -> None:
    pipeline = make()
    feed(pipeline, 1, 2)
    for _ in range(5):
        assert seqs(pipeline) == [1, 2]
        assert pipeline.jail_gone(suspected=False).poison is None
    assert pipeline.counters.resent == 10


def test_frame_without_room_in_the_ring_comes_again_first() -> None:
    pipeline = make()
    feed(pipeline, 1, 2)
    frame = pipeline.next_frame()
    assert frame is not None
    pipeline.not_sent(frame.seq)
    assert seqs(pipeline) == [1, 2]
    assert pipeline.lost == 0


def test_death_with_nothing_in_flight_is_nobodys_fault() -> None:
    assert make().jail_gone() == ((), None)


def test_removed_agent_gives_its_held_rows_up_and_says_so() -> None:
    pipeline = make(rows=4, hop=4)
    feed(pipeline, 1, 2, 3)
    assert pipeline.next_frame() is None
    assert pipeline.abandon() == 3
    assert pipeline.abandon() == 0
    assert pipeline.lost == 0
