"""Do our kernels answer as LiteRT's reference kernels do?  Every model of MLPerf Tiny, 1,000 inputs each.

int8: compared in least significant bits of the output; the mark is that none differs.  float32: the largest difference
of a row over the row's largest answer; the mark is 1e-5, but for rows in which ours is within 1e-5 of the model in
float64 and the reference is further from it than ours: those are counted as such.  A file whose weights are of 8 bits
while its values are float32 (kws) is compared on those weights as float32 (`_models.with_float_weights` says why).
Inputs: the ends of the range that the int8 model can hold, noise over it and around its middle, waves
(`_models.rows_of`).  The kernel runs in this process: the jail's own machine code of the file's wasm.

    python bench/models_verify.py [WORD...] [--rows 1000] [--seed 1] [--json]

Ends with 0 when every mark is met, 1 when one is missed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from _models import Case, Loaded, chosen, folder, import_here, input_range, missing, rows_of, with_float_weights

from edgeswarm import agentfile
from edgeswarm.app.cli import agent_opened
from edgeswarm.app.litert_peer import Peer
from edgeswarm.model.graph import Graph, forward

RELATIVE_MAX = 1e-5


@dataclass(frozen=True, slots=True)
class Verdict:
    """differing: how many of `values` are not bit for bit what the reference says.

    lsb: the largest difference in steps of an int8 output, None for float32.  relative: of a row's largest answer.
    beyond: rows past the mark; theirs: those of them that are right in ours, and less so in the reference.
    """

    model: str
    rows: int
    values: int
    differing: int
    lsb: float | None
    relative: float
    worst_row: int
    beyond: tuple[int, ...] = ()
    theirs: int = 0
    note: str = ""

    @property
    def met(self) -> bool:
        return self.lsb == 0 if self.lsb is not None else len(self.beyond) == self.theirs

    def __str__(self) -> str:
        steps = "" if self.lsb is None else f", at most by {self.lsb:g} least significant bits"
        return (
            f"{self.model:<12} {'ok' if self.met else 'MISSED':<7}{self.rows} inputs: {self.differing} of "
            f"{self.values} values differ{steps}; {self.relative:.2e} relative, worst in row {self.worst_row}"
            f"{f'; {len(self.beyond)} rows past the mark, {self.theirs} by the reference' if self.beyond else ''}"
            f"{f'; {self.note}' if self.note else ''}"
        )


def judge(name: str, ours: np.ndarray, reference: np.ndarray, scale: float | None) -> Verdict:
    """Answers of equal shape (rows, values), in float32.  scale: of an int8 output; None for float32."""
    apart = np.abs(ours.astype(np.float64) - reference)
    apart = np.where(np.isnan(apart), np.inf, apart)
    largest = np.maximum(np.abs(reference).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return Verdict(
        model=name,
        rows=len(ours),
        values=ours.size,
        differing=int((ours != reference).sum()),
        lsb=None if scale is None else float(np.round(apart.max() / scale)) if np.isfinite(apart.max()) else np.inf,
        relative=float((apart / largest).max()),
        worst_row=int(apart.max(axis=1).argmax()),
        beyond=tuple(np.flatnonzero((apart / largest).max(axis=1) > RELATIVE_MAX).tolist()),
    )


def explained(verdict: Verdict, ours: np.ndarray, reference: np.ndarray, true: np.ndarray) -> Verdict:
    """With `theirs`.  true: the model in float64 for the rows `beyond`, one row each."""
    rows = list(verdict.beyond)
    largest = np.maximum(np.abs(true).max(axis=1), np.finfo(np.float32).tiny)
    mine = np.abs(ours[rows] - true).max(axis=1) / largest
    other = np.abs(reference[rows] - true).max(axis=1) / largest
    return replace(verdict, theirs=int(((mine <= RELATIVE_MAX) & (mine < other)).sum()))


def verify(case: Case, rows: int, seed: int, file: agentfile.AgentFile | None = None) -> Verdict:
    """Compare the agent file, made here where it is not given."""
    path = folder() / case.file
    if file is None:
        with tempfile.TemporaryDirectory() as scratch:
            file = import_here(path, Path(scratch) / "state")
    kernel, graph = Loaded(file), agent_opened.graph_of_file(file)
    low, high = input_range(case)
    asked = rows_of(kernel.layout.input.width, rows, low, high, seed)
    answers = np.frombuffer(b"".join(kernel.answer(row.tobytes()) for row in asked), np.float32).reshape(rows, -1)
    model = path.read_bytes()
    reference, scale = _reference(model, asked)
    if scale is not None:
        return judge(str(case), answers, reference, scale)
    if (plain := with_float_weights(model)) is None:
        return _judged_float(case, graph, asked, answers, reference)
    floats, _ = _reference(plain, asked)
    ours, theirs = judge("", answers, reference, None).relative, judge("", floats, reference, None).relative
    note = (
        f"weights of 8 bits beside float32: compared with LiteRT's reference kernels on the same weights in float32; "
        f"on the file itself LiteRT rounds values to 8 bits: {ours:.2e} from ours, {theirs:.2e} from its own float32"
    )
    return replace(_judged_float(case, graph, asked, answers, floats), note=note)


def _judged_float(case: Case, graph: Graph, asked: np.ndarray, answers: np.ndarray, reference: np.ndarray) -> Verdict:
    verdict = judge(str(case), answers, reference, None)
    if not verdict.beyond:
        return verdict
    return explained(verdict, answers, reference, forward(graph, asked[list(verdict.beyond)]))


def _reference(model: bytes, rows: np.ndarray) -> tuple[np.ndarray, float | None]:
    """LiteRT's answers, and the scale of an int8 output."""
    with Peer(model, "reference", timeout_s=3600) as peer:
        return peer.answers(rows), peer.output_steps[0] if peer.output_steps else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only models whose name, kind or file holds one of these")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if text := missing():
        print(f"{text}: nothing is compared")
        return 0
    verdicts = []
    for case in chosen(options.words):
        verdict = verify(case, options.rows, options.seed)
        verdicts.append(verdict)
        if not options.json:
            print(verdict, flush=True)
    if options.json:
        print(json.dumps([asdict(verdict) | {"met": verdict.met} for verdict in verdicts], indent=1))
    return 0 if all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
