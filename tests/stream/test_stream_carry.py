"""What a checkpoint keeps, and what a new version takes over."""

from __future__ import annotations

import math
import struct
from typing import Any

import cbor2
import pytest

from edgeswarm.agentfile.wiring import ApiSource, DecisionSpec, NormalizeSpec, WindowSpec, Wiring
from edgeswarm.errors import LocalError
from edgeswarm.limits import SEQ_LIFE
from edgeswarm.stream.pipeline import Pipeline


def make(width: int = 1, *, rows: int = 3, hop: int = 2, memory_width: int = 1, **wiring: Any) -> Pipeline:
    settings: dict[str, Any] = {
        "normalize": NormalizeSpec("zscore", warmup_rows=2),
        "decision": DecisionSpec("threshold", above=1.0, hold=2),
        **wiring,
    }
    whole = Wiring(sources=(ApiSource("api", width),), window=WindowSpec(rows, hop), **settings)
    return Pipeline(
        whole, source_widths=[width], frame_width=rows * width, output_width=1, memory_width=memory_width, name="a"
    )


def answer(score: float, memory: float = 0.0) -> bytes:
    return struct.pack("<2f", score, memory)


def lived() -> Pipeline:
    """A pipeline past its warm-up, with one answer, one unanswered frame, one row held, and one queued."""
    pipeline = make()
    for value in range(9):
        pipeline.offer(0, (float(value),), value)
        if value < 8:
            pipeline.next_frame()
        if value == 4:
            pipeline.answered(1, answer(5.0, 42.0))
    assert [frame.seq for frame in pipeline.flight.frames()] == [2]
    assert pipeline.parts.intake.counts()[0].queued == 1
    return pipeline


def test_checkpoint_goes_through_cbor_and_goes_on_with_what_was_unanswered() -> None:
    old, new = lived(), make()
    new.restore(cbor2.loads(cbor2.dumps(old.state())), now_ns=99)
    again = new.next_frame()
    assert again is not None
    assert (again.seq, again.at_ns) == (2, 99)
    assert again.payload == old.flight.frames()[0].payload
    assert new.memory == struct.pack("<f", 42.0)
    assert not new.normalizer.warming
    assert new.answered(2, answer(5.0)) is not None
    assert new.lost == 0


def test_restart_sees_the_same_window_as_if_it_had_gone_on() -> None:
    old, new = lived(), make()
    new.restore(old.state(), now_ns=0)
    new.next_frame()  # the unanswered one
    new.offer(0, (8.0,), 0)  # which still waits in the old one
    expected, found = old.next_frame(), new.next_frame()
    assert expected is not None
    assert found is not None
    assert found.payload == expected.payload


def test_numbers_of_frames_are_never_used_twice() -> None:
    """The checkpoint may be older than the last frame: the next life counts from a place of its own."""
    old, new = lived(), make()
    new.restore(old.state(), now_ns=0)
    assert new.seq == SEQ_LIFE
    for value in range(4):
        new.offer(0, (float(value),), 0)
    frames = new.next_frames(1) + new.next_frames(1)
    assert [frame.seq for frame in frames] == [2, SEQ_LIFE + 1]
    third = make()
    third.restore(new.state(), now_ns=0)
    assert third.seq == 2 * SEQ_LIFE


def test_state_of_a_fresh_pipeline_restores_to_a_fresh_one() -> None:
    new = make()
    new.restore(make().state(), now_ns=0)
    assert (new.seq, new.held, new.lost) == (0, 0, 0)


def test_restore_comes_before_the_first_row() -> None:
    pipeline = lived()
    with pytest.raises(LocalError, match="before the first row"):
        pipeline.restore(pipeline.state(), now_ns=0)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": None},
        {"seq": -1},
        {"seq": True},
        {"seq": 2**63},
        {"memory": b""},
        {"memory": struct.pack("<f", math.nan)},
        {"memory": None},
        {"normalizer": None},
        {"normalizer": {}},
        {"window": {}},
        {"window": []},
        {"decider": {"kind": "none"}},
        {"held": b""},
        {"held": b"123"},
        {"held": struct.pack("<d", math.inf)},
        {"held": bytes(8 * 10_000)},
        {"held": None},
        {"frames": None},
        {"frames": [[1]]},
        {"frames": [[0, b"x" * 12]]},
        {"frames": [[3, bytes(12)]]},
        {"frames": [["1", bytes(12)]]},
        {"frames": [[1, bytes(12)], [1, bytes(12)]]},
        {"frames": [[1, bytes(11)]]},
        {"frames": [[1, struct.pack("<3f", math.nan, 0, 0)]]},
        {"frames": [[1, bytes(12)]] * 1000},
    ],
)
def test_damaged_checkpoint_is_refused_with_what_is_wrong(change: dict[str, object]) -> None:
    with pytest.raises(LocalError, match="state"):
        make().restore({**lived().state(), **change}, now_ns=0)


def test_checkpoint_of_another_agent_is_refused() -> None:
    with pytest.raises(LocalError, match="state"):
        make(rows=2).restore(lived().state(), now_ns=0)


def test_new_version_takes_everything_over_at_a_frame_boundary() -> None:
    old = lived()
    with pytest.raises(LocalError, match="1 frames of its last version are unanswered"):
        make().adopt(old)
    old.answered(2, answer(5.0, 7.0))
    new = make()
    new.adopt(old)
    assert new.memory == struct.pack("<f", 7.0)
    assert not new.normalizer.warming
    frame = new.next_frame()
    assert frame is not None
    assert frame.seq == 3
    assert frame.values == (8.0,)
    outcome = new.answered(3, answer(0.0))
    assert outcome is not None
    assert outcome.decision.flagged  # two above 1 in a row were seen by the last version
    tally = new.tally()
    assert (tally["rows_in"], tally["answered"], tally["lost"]) == (9, 3, 0)


def test_new_version_with_another_window_windows_held_rows_anew() -> None:
    old = make(normalize=NormalizeSpec(), rows=5, hop=5)
    for value in range(4):
        old.offer(0, (float(value),), value)
    assert old.next_frame() is None
    new = make(normalize=NormalizeSpec(), rows=2, hop=2)
    new.adopt(old)
    frames = [new.next_frames(1), new.next_frames(1)]
    assert [[frame.payload for frame in one] for one in frames] == [
        [struct.pack("<2f", 0.0, 1.0)],
        [struct.pack("<2f", 2.0, 3.0)],
    ]
    assert new.lost == 0


def test_new_version_with_other_sources_has_to_wait_for_the_old_to_drain() -> None:
    with pytest.raises(LocalError, match="drain"):
        make(2).adopt(make(1))


def test_take_over_comes_before_the_first_row() -> None:
    new = make()
    new.offer(0, (1.0,), 0)
    with pytest.raises(LocalError, match="before the first row"):
        new.adopt(make())
