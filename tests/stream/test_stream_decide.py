"""Scores and decisions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.stream.decide import Decider
from edgeswarm.stream.score import Scorer, emit_width


def verdicts(decider: Decider, scores: list[float | None]) -> list[tuple[bool, bool]]:
    return [decider.decide(score, (0.0,))[2:4] for score in scores]


def test_value_and_max_are_what_they_say() -> None:
    output = (1.0, 5.0, 3.0)
    shape = {"rows": 1, "width": 2, "output_width": 3}
    for kind, index, expected in (("value", 2, 3.0), ("max", 0, 5.0)):
        scorer = Scorer(kind, index=index, **shape)  # type: ignore[arg-type]
        assert scorer.score(output, frame=(0.0, 0.0), newest=(0.0, 0.0), previous=None) == expected


def test_reconstruction_error_is_the_mean_square_over_the_whole_frame() -> None:
    scorer = Scorer("reconstruction_error", index=0, rows=2, width=2, output_width=4, emit="residual")
    frame, output = (1.0, 2.0, 3.0, 4.0), (1.0, 0.0, 6.0, 4.0)
    assert scorer.score(output, frame=frame, newest=frame[2:], previous=None) == (4.0 + 9.0) / 4
    assert scorer.residual(output, frame=frame, newest=frame[2:], previous=None) == (3.0, 2.0)


def test_prediction_error_compares_the_last_output_with_the_newest_row() -> None:
    scorer = Scorer("prediction_error", index=0, rows=4, width=2, output_width=2, emit="residual")
    assert scorer.needs_previous
    assert not scorer.needs_frame
    arguments = {"frame": (), "newest": (1.0, 5.0), "previous": (2.0, 2.0)}
    assert scorer.score((9.0, 9.0), **arguments) == (1.0 + 9.0) / 2  # type: ignore[arg-type]
    assert scorer.residual((9.0, 9.0), **arguments) == (1.0, 3.0)  # type: ignore[arg-type]
    first = {"frame": (), "newest": (1.0, 5.0), "previous": None}
    assert scorer.score((9.0, 9.0), **first) is None  # type: ignore[arg-type]
    assert scorer.residual((9.0, 9.0), **first) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "extra", "text"),
    [
        ("value", {"index": 3}, "index"),
        ("reconstruction_error", {"output_width": 2}, "4 outputs"),
        ("prediction_error", {"output_width": 4}, "2 outputs"),
        ("max", {"output_width": 3, "emit": "residual"}, "residual"),
    ],
)
def test_score_that_the_widths_do_not_allow_is_refused(kind: str, extra: dict[str, object], text: str) -> None:
    shape = {"index": 0, "rows": 2, "width": 2, "output_width": 2, **extra}
    with pytest.raises(ConfigError, match=text):
        Scorer(kind, **shape)  # type: ignore[arg-type]


def test_width_of_the_own_stream() -> None:
    assert [emit_width(emit, width=3, output_width=7) for emit in ("output", "score", "residual")] == [7, 1, 3]  # type: ignore[arg-type]


def test_none_decides_nothing() -> None:
    assert Decider("none", outputs=1).decide(3.0, (3.0,)) == ("", 3.0, False, False)


def test_argmax_names_the_largest_output_and_says_when_it_changes() -> None:
    decider = Decider("argmax", outputs=3, labels=("a", "b", "c"))
    answers = [decider.decide(1.0, output) for output in ((0.0, 2.0, 1.0), (0.0, 2.0, 1.0), (3.0, 2.0, 3.0))]
    assert [(one.label, one.changed, one.flagged) for one in answers] == [
        ("b", True, False),
        ("b", False, False),
        ("a", True, False),
    ]


def test_argmax_without_labels_says_the_index() -> None:
    assert Decider("argmax", outputs=2).decide(None, (0.0, 1.0)).label == "1"


def test_threshold_flags_above_and_below() -> None:
    decider = Decider("threshold", outputs=1, above=2.0, below=-2.0)
    assert verdicts(decider, [2.0, 2.1, 3.0, 0.0, -2.1]) == [
        (False, False),
        (True, True),
        (False, True),
        (True, False),
        (True, True),
    ]


def test_hysteresis_stays_between_low_and_high() -> None:
    decider = Decider("hysteresis", outputs=1, high=5.0, low=2.0, labels=("ok", "hot"))
    labels = [decider.decide(score, (0.0,)).label for score in (4.9, 5.0, 3.0, 2.1, 2.0, 4.9)]
    assert labels == ["ok", "hot", "hot", "hot", "ok", "ok"]


def test_change_flags_each_move_by_delta_since_the_last() -> None:
    decider = Decider("change", outputs=1, delta=1.0)
    assert [flagged for _, flagged in verdicts(decider, [0.0, 0.9, 1.0, 1.5, 2.1, 3.1, 3.0])] == [
        False,
        False,
        True,
        False,
        True,
        True,
        False,
    ]


def test_hold_wants_equal_verdicts_in_a_row() -> None:
    decider = Decider("threshold", outputs=1, above=1.0, hold=3)
    scores: list[float | None] = [2.0, 2.0, 0.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0]
    flagged = [flag for _, flag in verdicts(decider, scores)]
    assert flagged == [False, False, False, False, False, True, True, True, False]


def test_missing_score_changes_nothing() -> None:
    decider = Decider("threshold", outputs=1, above=1.0)
    assert verdicts(decider, [2.0, None, 2.0]) == [(True, True), (False, True), (False, True)]


@pytest.mark.parametrize(
    ("kind", "extra", "text"),
    [
        ("threshold", {}, "above"),
        ("hysteresis", {"high": 1.0}, "low < high"),
        ("hysteresis", {"high": 1.0, "low": 1.0}, "low < high"),
        ("hysteresis", {"high": math.nan, "low": 1.0}, "low < high"),
        ("change", {}, "delta"),
        ("change", {"delta": 0.0}, "delta"),
        ("threshold", {"above": 1.0, "hold": 0}, "hold"),
        ("threshold", {"above": 1.0, "labels": ("a", "b", "c")}, "labels"),
        ("argmax", {"labels": ("a", "b")}, "labels"),
    ],
)
def test_decision_without_its_numbers_is_refused(kind: str, extra: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Decider(kind, outputs=3, **extra)  # type: ignore[arg-type]


KINDS = {
    "threshold": {"above": 1.0, "below": -1.0},
    "hysteresis": {"high": 1.0, "low": 0.0},
    "change": {"delta": 0.7},
    "argmax": {},
}


@given(
    kind=st.sampled_from(sorted(KINDS)),
    hold=st.integers(1, 3),
    outputs=st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), max_size=30),
    cut=st.integers(0, 30),
)
def test_changed_is_true_exactly_when_the_label_differs_also_over_a_restart(
    kind: str, hold: int, outputs: list[tuple[float, float]], cut: int
) -> None:
    def make() -> Decider:
        return Decider(kind, outputs=2, hold=hold, **KINDS[kind])  # type: ignore[arg-type]

    whole, parted = make(), make()
    label = whole.label
    for index, output in enumerate(outputs):
        if index == cut:
            state, parted = parted.state(), make()
            parted.restore(state)
        decision = whole.decide(output[0], output)
        assert decision == parted.decide(output[0], output)
        assert decision.changed == (decision.label != label)
        label = decision.label


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "change"},
        {"labels": 3},
        {"verdict": 2},
        {"verdict": -1},
        {"verdict": True},
        {"candidate": None},
        {"candidate_count": 2},
        {"candidate_count": -1},
        {"reference": math.inf},
        {"reference": "1"},
    ],
)
def test_malformed_state_of_a_decider_is_refused(change: dict[str, object]) -> None:
    decider = Decider("threshold", outputs=1, above=1.0, hold=2)
    with pytest.raises(LocalError, match="decider state"):
        decider.restore({**decider.state(), **change})
