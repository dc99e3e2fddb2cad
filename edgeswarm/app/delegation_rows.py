"""What a delegate is held against, which files none may compute, and what is told of it.  Pure."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from edgeswarm.app.metrics import Sample
from edgeswarm.app.shelf import Artefact
from edgeswarm.drivers.delegates.contest import WASM, Golden, Score
from edgeswarm.drivers.delegates.hosts import POLICY
from edgeswarm.limits import DELEGATE_CONTEST_INPUTS_MAX

POLICIES: Final = ("strict", POLICY)
"""An agent that asks for another policy has a reason to be confined so, and not otherwise."""
_MADE_UP_ROWS: Final = 8
_MADE_UP_VALUES: Final = 65_536
"""Of all of those rows, one at least: some 20 ms, in which nobody else computes."""


@dataclass(slots=True)
class Record:
    """What is known of one agent whose file brings a model.  runs_on: `wasm` or a delegate's name; why: of that."""

    artefact: str
    runs_on: str = WASM
    why: str = ""
    scores: tuple[Score, ...] = ()
    failures: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    checks: int = 0
    tries: int = 0
    lied: set[str] = field(default_factory=set)
    """Delegates that answered wrongly while they served: left alone until the file or the program is another one."""

    def row(self) -> dict[str, Any]:
        return {
            "runs_on": self.runs_on,
            "why": self.why,
            "us": {score.name: score.us for score in self.scores},
            "out": {score.name: score.why for score in self.scores if score.why},
            "failures": dict(self.failures),
            "frames": self.frames,
            "checks": self.checks,
        }


def why_never(artefact: Artefact) -> str:
    """Why no delegate may compute this agent; nothing when one may."""
    header = artefact.header
    if header.sandbox not in POLICIES:
        return f"its policy is {header.sandbox}, and a delegate's is {POLICY}"
    if header.memory.width:
        return "it keeps memory between its calls"
    if artefact.weights != artefact.file.sections.get("neural_weights", b""):
        return "its weights were swapped: they are not those of its model"
    return ""


def golden_of(artefact: Artefact, share: float) -> Golden:
    """The file's golden rows; where it has none, rows that are made up, whose answers are the kernel's."""
    header = artefact.header
    width_in, width_out = header.neural_config.input_size, header.neural_config.output_size
    golden = artefact.file.sections.get("golden", b"")
    step = 4 * (width_in + width_out)
    count = min(len(golden) // step, DELEGATE_CONTEST_INPUTS_MAX)
    inputs = tuple(golden[row * step : row * step + 4 * width_in] for row in range(count))
    answers = tuple(golden[row * step + 4 * width_in : (row + 1) * step] for row in range(count))
    if not inputs:
        rng = random.Random(1)
        inputs = tuple(
            array("f", (rng.uniform(-1, 1) for _ in range(width_in))).tobytes()
            for _ in range(max(1, min(_MADE_UP_ROWS, _MADE_UP_VALUES // width_in)))
        )
    return Golden(inputs, answers, header.golden.relative, header.golden.absolute, share)


class Checks:
    """Answers of a delegate that serves, beside the kernel's: as far off as in its contest, and no further.

    Where the file has no answers, their range is that of 0 and all that the kernel has answered so far.
    """

    def __init__(self, golden: Golden) -> None:
        self._golden = golden
        self._least = self._greatest = 0.0

    def differ(self, expected: bytes, found: bytes) -> str:
        """What is wrong with the answer found; nothing when it is right."""
        golden = self._golden
        if golden.answers:
            return golden.differ(expected, found, golden.range)
        values = array("f", expected)
        self._least, self._greatest = min(self._least, *values), max(self._greatest, *values)
        return golden.differ(expected, found, self._greatest - self._least)


def samples(agents: list[dict[str, Any]]) -> Iterator[Sample]:
    """Metrics, from the rows of a status."""
    rows = [(one["name"], one["delegate"]) for one in agents if one["delegate"] is not None]
    for name, row in rows:
        for runs_on in sorted({WASM, row["runs_on"], *row["us"]}):
            labels = {"agent": name, "delegate": runs_on}
            yield "edgeswarm_agent_runs_on", "gauge", labels, float(runs_on == row["runs_on"])
    for name, row in rows:
        for kind, count in sorted(row["failures"].items()):
            yield "edgeswarm_agent_delegate_failures_total", "counter", {"agent": name, "kind": kind}, count
    for key in ("frames", "checks"):
        for name, row in rows:
            yield f"edgeswarm_agent_delegate_{key}_total", "counter", {"agent": name}, row[key]
