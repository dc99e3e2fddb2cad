"""How well the vitals network does on recorded rows that it was not trained on, through the runtime's own data path.

Rows go through edgeswarm.stream's pipelines, agent by agent, as in the runtime; the kernels' part is done by the numpy
reference.  A recording is cut into runs as long as the demo, each of which learns on its own first seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import days
import network
import numpy as np
from bursts import Reach
from numpy.typing import NDArray

from edgeswarm import schema
from edgeswarm.agentfile import Header
from edgeswarm.model import Mlp
from edgeswarm.model.reference import forward
from edgeswarm.stream.pipeline import Outcome, Pipeline

F64 = NDArray[np.float64]

RUN_ROWS = 220  # of one run: the demo's 20 s and a little
RUN_STEP_ROWS = 50  # from the start of one run to the start of the next
READY_ROWS = 48  # warm-up, windows and hold: no label comes before
TAIL_ROWS = 25  # after a burst its label may stay for so long: the windows still hold it
BUSY_ROWS, BUSY_PERCENT = 8, 60.0  # mean CPU over so many rows: an unlabelled flag above this was others' load
GROWN_PERCENT = 1.2  # memory above the run's first seconds: likewise


class Agent:
    """One agent's pipeline with the numpy reference in place of its jail."""

    def __init__(self, name: str, model: Mlp, *, reach: Reach | None = None) -> None:
        tree = network.header(name)
        if reach is not None and name == network.AUTOENCODER:
            network.fit_to(tree, reach)
        self.header = schema.decode(tree, Header)
        self.model = model
        sources = len(self.header.wiring.sources)
        self.pipeline = Pipeline(
            self.header.wiring,
            source_widths=[2] * sources,
            frame_width=model.sizes[0],
            output_width=model.sizes[-1],
            name=self.header.name,
        )

    def push(self, index: int, row: Iterable[float]) -> Iterator[Outcome]:
        """Offer a row of source `index`; the outcomes it leads to."""
        self.pipeline.offer(index, tuple(row), 0)
        while (frame := self.pipeline.next_frame()) is not None:
            values = np.frombuffer(frame.payload, "<f4")[None]
            output = forward(self.model, values).astype("<f4").tobytes()
            outcome = self.pipeline.answered(frame.seq, output)
            assert outcome is not None, f"{self.header.name}: frame {frame.seq} was not expected"
            yield outcome


class Vitals:
    """The three agents, wired to each other.  reach: what the scale is fitted to (default: as the header has it)."""

    def __init__(self, models: dict[str, Mlp], *, reach: Reach | None = None) -> None:
        self.autoencoder, self.scorer, self.fuse = (Agent(name, models[name], reach=reach) for name in network.AGENTS)

    def push(self, row: Iterable[float]) -> Outcome | None:
        """The fuse's outcome on one row of vitals; None while windows fill."""
        last = None
        for residual in self.autoencoder.push(0, row):
            assert residual.emit is not None
            list(self.fuse.push(1, residual.emit))
            for scores in self.scorer.push(0, residual.emit):
                assert scores.emit is not None
                for fused in self.fuse.push(0, scores.emit):
                    last = fused
        return last


@dataclass(slots=True)
class Figures:
    """What came out, over all runs.  Rows are tenths of a second."""

    bursts: dict[str, int] = field(default_factory=lambda: {"cpu-burst": 0, "memory-burst": 0})
    found: dict[str, int] = field(default_factory=lambda: {"cpu-burst": 0, "memory-burst": 0})
    delays: list[int] = field(default_factory=list)
    other_label: int = 0  # bursts during which the other burst's label stood for a while
    quiet_rows: int = 0
    false_flags: int = 0  # labels that appeared outside a burst, with no cause in the numbers
    others_load: int = 0  # the same, while the CPU was busy or memory was taken by what nobody labelled

    @property
    def false_flags_per_hour(self) -> float:
        return self.false_flags * 36_000 / max(1, self.quiet_rows)

    def lines(self) -> Iterator[str]:
        for kind, count in self.bursts.items():
            yield f"  {kind:<13} found {self.found[kind]} of {count}"
        if self.delays:
            middle, last = np.percentile(self.delays, [50, 95]) / 10
            yield f"  delay         median {middle:.1f} s, 95 % within {last:.1f} s of the burst's first process"
        yield f"  other label   for a while in {self.other_label} bursts"
        yield (
            f"  false flags   {self.false_flags} in {self.quiet_rows / 600:.1f} min without a labelled burst "
            f"({self.false_flags_per_hour:.1f} an hour)"
        )
        if self.others_load:
            yield f"  others' load  {self.others_load} flags more, while the machine was busy with what nobody labelled"


def run(models: dict[str, Mlp], rows: F64, *, reach: Reach | None = None) -> list[str]:
    """The label that stands after each row of vitals; "" before the first."""
    vitals = Vitals(models, reach=reach)
    labels: list[str] = []
    for row in rows:
        outcome = vitals.push(row)
        labels.append(outcome.decision.label if outcome is not None else (labels[-1] if labels else ""))
    return labels


def runs(recorded: F64) -> Iterator[F64]:
    """Pieces of RUN_ROWS whose first seconds hold no burst that record.py caused."""
    for start in range(0, len(recorded) - RUN_ROWS, RUN_STEP_ROWS):
        piece = recorded[start : start + RUN_ROWS]
        if not piece[:READY_ROWS, 4].any():
            yield piece


def evaluate(models: dict[str, Mlp], pieces: Iterable[F64], *, reach: Reach | None = None) -> Figures:
    """pieces: [rows, 5] each, as recorded: t, cpu_percent, memory_percent, load1, label."""
    figures = Figures()
    for piece in pieces:
        _count(figures, piece, run(models, piece[:, 1:3], reach=reach))
    return figures


def made_up(models: dict[str, Mlp], *, count: int, rows: int, seed: int) -> Figures:
    """On machines that days.py makes up: here every label is known, and every flag outside a burst is false."""
    figures = Figures()
    made = days.make(count, rows, quiet_rows=READY_ROWS, seed=seed)
    for values, labels, unit in zip(made.rows, made.labels, made.unit, strict=True):
        piece = np.column_stack([np.arange(rows) / 10, values, np.zeros(rows), labels])
        reach = Reach(100.0, float(unit) * network.SCALES_OF_A_BURST, 0)
        _count(figures, piece, run(models, values, reach=reach))
    figures.false_flags, figures.others_load = figures.false_flags + figures.others_load, 0
    return figures


def _count(figures: Figures, piece: F64, labels: list[str]) -> None:
    truth = piece[:, 4].astype(int)
    edges = np.flatnonzero(np.diff(truth)) + 1
    near = np.zeros(len(truth), dtype=bool)  # a label here belongs to a burst
    for start, end in zip(edges, [*edges[1:], len(truth)], strict=False):
        kind = network.LABELS[truth[start]]
        if kind == "normal":
            continue
        near[start : end + TAIL_ROWS] = True
        if end == len(truth):
            continue  # cut off by the end of the run
        figures.bursts[kind] += 1
        during = labels[start : end + 5]
        if kind in during:
            figures.found[kind] += 1
            figures.delays.append(during.index(kind))
        figures.other_label += any(label not in (kind, "normal", "") for label in during)
    base = piece[:30, 2].mean()
    for at in range(READY_ROWS, len(truth)):
        if near[at]:
            continue
        figures.quiet_rows += 1
        if labels[at] not in ("normal", "") and labels[at] != labels[at - 1]:
            recent = piece[at - 15 : at + 1]
            busy = max(recent[k : k + BUSY_ROWS, 1].mean() for k in range(17 - BUSY_ROWS)) > BUSY_PERCENT
            grown = recent[:, 2].max() - base > GROWN_PERCENT
            figures.others_load += busy or grown
            figures.false_flags += not (busy or grown)
