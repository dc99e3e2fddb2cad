"""Scores to decisions: what an agent says about the world, and when it changes its mind.

`none`        no decision: the label stays empty
`argmax`      the label of the largest output
`threshold`   flagged when the score is above `above` or below `below`
`hysteresis`  flagged from the score reaching `high` until it reaches `low`
`change`      flagged when the score has moved by `delta` or more since the last time it did (or since the first score)
Every type but `none` can ask for `hold` equal verdicts in a row before the decision follows them.
Labels of the flagging types: (calm, flagged), by default ("normal", "anomaly").
Invariants: `changed` is True exactly when the label differs from the last decision's; a missing score changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.stream.queue import Row

DecisionKind = Literal["none", "argmax", "threshold", "hysteresis", "change"]


class Decision(NamedTuple):
    """What was decided on one answer.  score: None where the agent has none for this answer."""

    label: str
    score: float | None
    changed: bool
    flagged: bool


class Decider:
    """Decisions of one agent, in the order of its answers."""

    __slots__ = (
        "_above", "_below", "_candidate", "_candidate_count", "_delta", "_high", "_hold", "_labels", "_low",
        "_reference", "_verdict", "kind", "outputs",
    )  # fmt: skip

    def __init__(
        self,
        kind: DecisionKind,
        *,
        outputs: int,
        labels: Sequence[str] = (),
        above: float | None = None,
        below: float | None = None,
        high: float | None = None,
        low: float | None = None,
        delta: float | None = None,
        hold: int = 1,
    ) -> None:
        """outputs: width of an answer.  Raises ConfigError when a number that `kind` needs is missing or absurd."""
        self.kind = kind
        self.outputs = outputs
        self._hold = hold
        self._above = math.inf if above is None else above
        self._below = -math.inf if below is None else below
        self._high = self._low = self._delta = 0.0
        if hold < 1:
            raise ConfigError(f"decision.hold: expected 1 or more, found {hold}")
        if kind == "threshold" and above is None and below is None:
            raise ConfigError("decision threshold: expected `above` or `below`, found neither")
        if kind == "hysteresis":
            if high is None or low is None or not low < high:
                raise ConfigError(f"decision hysteresis: expected low < high, found low {low}, high {high}")
            self._high, self._low = high, low
        if kind == "change":
            if delta is None or not delta > 0.0:
                raise ConfigError(f"decision change: expected delta > 0, found {delta}")
            self._delta = delta
        self._labels = _labels(kind, outputs, labels)
        self._verdict = -1 if kind == "argmax" else 0  # index of the label that stands; -1: none yet
        self._candidate = self._verdict  # the verdict that wants to stand, seen this often in a row:
        self._candidate_count = 0
        self._reference: float | None = None

    @property
    def label(self) -> str:
        """The label that stands."""
        return self._labels[self._verdict] if self._verdict >= 0 else ""

    def decide(self, score: float | None, output: Row) -> Decision:
        """The decision on one answer."""
        kind = self.kind
        if kind == "none":
            return Decision("", score, changed=False, flagged=False)
        if kind == "argmax":
            verdict = output.index(max(output))
        elif score is None:
            return Decision(self.label, None, changed=False, flagged=self._verdict > 0)
        elif kind == "threshold":
            verdict = 1 if score > self._above or score < self._below else 0
        elif kind == "hysteresis":
            verdict = self._decide_hysteresis(score)
        else:
            verdict = self._decide_change(score)
        changed = False
        if verdict == self._verdict:
            self._candidate_count = 0
        else:
            changed = self._follow(verdict)
        if changed and kind == "change" and verdict:
            self._reference = score
        return Decision(self.label, score, changed, kind != "argmax" and self._verdict > 0)

    def _follow(self, verdict: int) -> bool:
        """Let `verdict` stand once it was seen `hold` times in a row.  True when it stands from now on."""
        if verdict != self._candidate or not self._candidate_count:
            self._candidate, self._candidate_count = verdict, 0
        self._candidate_count += 1
        if self._candidate_count < self._hold:
            return False
        self._verdict, self._candidate_count = verdict, 0
        return True

    def _decide_hysteresis(self, score: float) -> int:
        if score >= self._high:
            return 1
        return 0 if score <= self._low else self._verdict

    def _decide_change(self, score: float) -> int:
        if self._reference is None:
            self._reference = score
        moved = abs(score - self._reference) >= self._delta
        if moved and self._verdict == 1:
            self._reference = score  # still moving: measure the next step from here
        return 1 if moved else 0

    def state(self) -> dict[str, object]:
        """What `restore` takes."""
        return {
            "kind": self.kind,
            "labels": len(self._labels),
            "verdict": self._verdict,
            "candidate": self._candidate,
            "candidate_count": self._candidate_count,
            "reference": self._reference,
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on where `state` stopped.  Raises LocalError, with nothing changed, when it does not fit this decider."""
        shape = (state.get("kind"), state.get("labels"))
        if shape != (self.kind, len(self._labels)):
            raise LocalError(f"decider state: expected kind, labels {(self.kind, len(self._labels))}, found {shape}")
        verdict, candidate, count = state.get("verdict"), state.get("candidate"), state.get("candidate_count")
        lowest = -1 if self.kind == "argmax" else 0
        for value in (verdict, candidate):
            if type(value) is not int or not lowest <= value < max(1, len(self._labels)):
                raise LocalError(f"decider state: expected the index of a label, found {value!r}")
        if type(count) is not int or not 0 <= count < self._hold:
            raise LocalError(f"decider state: expected less than {self._hold} in a row, found {count!r}")
        reference = state.get("reference")
        if reference is not None and (type(reference) not in (int, float) or not math.isfinite(_float(reference))):
            raise LocalError(f"decider state: reference: expected a finite number, found {reference!r}")
        assert isinstance(verdict, int) and isinstance(candidate, int)
        self._verdict, self._candidate, self._candidate_count = verdict, candidate, count
        self._reference = None if reference is None else _float(reference)


def _labels(kind: DecisionKind, outputs: int, labels: Sequence[str]) -> tuple[str, ...]:
    if kind == "none":
        return ()
    if kind == "argmax":
        if labels and len(labels) != outputs:
            raise ConfigError(f"decision.labels: expected one for each of {outputs} outputs, found {len(labels)}")
        return tuple(labels) or tuple(map(str, range(outputs)))
    if labels and len(labels) != 2:
        raise ConfigError(f"decision.labels: expected 2 (calm, flagged), found {len(labels)}")
    return tuple(labels) or ("normal", "anomaly")


def _float(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)
