"""A pipeline that is packed and unpacked in the middle of whatever it does goes on as if nothing had happened."""

from __future__ import annotations

import struct
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.agentfile.wiring import ApiSource, DecisionSpec, NormalizeSpec, Queue, ScoreSpec, WindowSpec, Wiring
from edgeswarm.errors import LocalError
from edgeswarm.stream import handover
from edgeswarm.stream.pipeline import Pipeline

JOINS: dict[str, tuple[int, ...]] = {"single": (2,), "zip": (1, 1), "latest": (1, 1)}


def make(
    kind: str = "single", *, rows: int = 3, hop: int = 2, policy: Any = "block", memory_width: int = 1
) -> Pipeline:
    widths = JOINS[kind]
    wiring = Wiring(
        sources=tuple(ApiSource("api", width, queue=Queue(policy, 4)) for width in widths),
        join="zip" if kind == "zip" else "latest",
        window=WindowSpec(rows, hop),
        normalize=NormalizeSpec("zscore", warmup_rows=2),
        score=ScoreSpec("prediction_error"),
        decision=DecisionSpec("threshold", above=1.0, hold=2),
    )
    return Pipeline(
        wiring,
        source_widths=widths,
        frame_width=2 * rows,
        output_width=2,
        memory_width=memory_width,
        in_flight_max=3,
        now_ns=lambda: 0,
        name="a",
    )


def moved(pipeline: Pipeline, *how: Any, **more: Any) -> Pipeline:
    new = make(*how, **more)
    handover.unpack(new, cbor2.loads(cbor2.dumps(handover.pack(pipeline))))
    return new


FIRST = [("offer", index, float(value)) for value in range(12) for index in (0, 1)]
"""What comes before the steps, each offer with a send behind it: frames fly then."""
STEPS = st.one_of(
    st.tuples(st.just("offer"), st.integers(0, 1), st.floats(-1e6, 1e6, width=32)),
    st.tuples(st.just("send"), st.just(0), st.just(0.0)),
    st.tuples(st.just("answer"), st.integers(0, 2), st.floats(-10, 10, width=32)),
    st.tuples(st.just("fault"), st.integers(0, 2), st.just(0.0)),
    st.tuples(st.just("gone"), st.integers(0, 1), st.just(0.0)),
    st.tuples(st.just("not_sent"), st.integers(0, 2), st.just(0.0)),
)


def perform(pipeline: Pipeline, kind: str, step: tuple[str, int, float], at_ns: int) -> object:
    """One step; what is to be seen of it."""
    what, number, value = step
    flying = list(pipeline.flight.in_flight)
    if what == "offer":
        index = number % len(JOINS[kind])
        return pipeline.offer(index, (value,) * JOINS[kind][index], at_ns)
    if what == "send":
        return pipeline.next_frame()
    if what == "gone":
        return pipeline.jail_gone(suspected=bool(number))
    if number >= len(flying):
        return None
    if what == "answer":
        return pipeline.answered(flying[number], struct.pack("<3f", value, value / 2, value + 1))
    if what == "fault":
        return pipeline.faulted(flying[number], "no")
    return pipeline.not_sent(flying[number])


@given(
    kind=st.sampled_from(sorted(JOINS)),
    window=st.sampled_from([(1, 1), (3, 2), (2, 3)]),
    policy=st.sampled_from(["block", "drop_oldest", "latest_only"]),
    steps=st.lists(st.tuples(STEPS, st.booleans()), max_size=60),
)
@settings(deadline=None, max_examples=150)
def test_pipeline_that_moves_does_what_one_that_stays_does(
    kind: str, window: tuple[int, int], policy: str, steps: list[tuple[tuple[str, int, float], bool]]
) -> None:
    more: dict[str, Any] = {"rows": window[0], "hop": window[1], "policy": policy}
    stays, moves = make(kind, **more), make(kind, **more)
    first = [(step, False) for offer in FIRST for step in (offer, ("send", 0, 0.0))]
    for at_ns, (step, move) in enumerate(first + steps):
        if move:
            moves = moved(moves, kind, **more)
            assert handover.pack(moves) == handover.pack(stays)
        assert perform(moves, kind, step, at_ns) == perform(stays, kind, step, at_ns)
    assert moves.tally() == stays.tally() and moves.lost == 0
    assert moves.memory == stays.memory and moves.refused == stays.refused


def test_frames_in_flight_are_not_sent_again_and_seq_goes_on_by_one() -> None:
    old = make(rows=1, hop=1)
    for value in range(5):
        old.offer(0, (float(value), 1.0), value)
    assert [frame.seq for frame in (old.next_frame(), old.next_frame()) if frame] == [1, 2]
    new = moved(old, rows=1, hop=1)
    assert list(new.flight.in_flight) == list(old.flight.in_flight)
    new.offer(0, (9.0, 1.0), 9)
    after = [frame.seq for frame in iter(new.next_frame, None)]
    assert after and after[0] == max(old.flight.in_flight) + 1
    assert not new.flight.again


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"rows": 2}, "window state"),
        ({"kind": "zip"}, "expected sources"),
        ({"memory_width": 2}, "memory: expected 8 bytes"),
    ],
)
def test_state_of_another_pipeline_is_refused(how: dict[str, Any], text: str) -> None:
    with pytest.raises(LocalError, match=text):
        handover.unpack(make(**how), handover.pack(make()))


def test_state_that_breaks_the_law_is_refused() -> None:
    old = make()
    old.offer(0, (1.0, 2.0), 1)
    state = handover.pack(old)
    state["intake"]["queues"][0]["rows"].clear()
    with pytest.raises(LocalError, match="1 rows of the state are nowhere"):
        handover.unpack(make(), state)


def test_pipeline_that_has_begun_takes_nothing_over() -> None:
    begun = make()
    begun.offer(0, (1.0, 2.0), 1)
    with pytest.raises(LocalError, match="before the first row"):
        handover.unpack(begun, handover.pack(make()))
