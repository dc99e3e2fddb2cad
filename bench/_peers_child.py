"""A contestant of bench/peers.py as a process; _peers_measure.py has the protocol.

    python bench/_peers_child.py KIND CASE.npz

KIND is ours, ours-python, numpy, onnxruntime, onnxruntime-int8, litert or litert-int8.  Runs under the Python that has
what it needs: those of other packages in build/peers/venv, which knows nothing of this project.
CASE.npz: activations (one a layer), w0, b0, w1, b1 ..., rows, batch, kind.
"""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np

Loop = Callable[[int], None]


class Case:
    """What is to be computed, as arrays."""

    def __init__(self, path: str) -> None:
        with np.load(path) as arrays:
            self.activations = [str(name) for name in arrays["activations"]]
            self.weights = [arrays[f"w{index}"] for index in range(len(self.activations))]
            self.biases = [arrays[f"b{index}"] for index in range(len(self.activations))]
            self.rows = arrays["rows"]
            self.batch = int(arrays["batch"])
            self.kind = str(arrays["kind"])

    @property
    def outputs(self) -> int:
        return int(self.weights[-1].shape[1])


class Backend:
    """`loop(n)` computes the first batch n times; `answer(rows)` computes one batch of rows."""

    says = ""

    def __init__(self, case: Case) -> None:
        raise AssertionError("a backend has a constructor of its own")

    def loop(self, count: int) -> None:
        raise AssertionError

    def answer(self, rows: np.ndarray) -> np.ndarray:
        raise AssertionError


class Numpy(Backend):
    """float32 in preallocated arrays."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.rows = case.rows[: case.batch].copy()
        self.buffers = [np.empty((case.batch, weights.shape[1]), np.float32) for weights in case.weights]
        self.says = f"numpy {np.__version__}"

    def loop(self, count: int) -> None:
        for _ in range(count):
            self.once()

    def once(self) -> None:
        x, one = self.rows, np.float32(1)
        case = self.case
        for weights, bias, name, out in zip(case.weights, case.biases, case.activations, self.buffers, strict=True):
            np.matmul(x, weights, out=out)
            np.add(out, bias, out=out)
            if name == "sigmoid":
                np.negative(out, out=out)
                np.exp(out, out=out)
                np.add(out, one, out=out)
                np.divide(one, out, out=out)
            elif name == "relu":
                np.maximum(out, np.float32(0), out=out)
            x = out

    def answer(self, rows: np.ndarray) -> np.ndarray:
        self.rows[:] = rows
        self.once()
        return self.buffers[-1]


def backend(kind: str, case: Case) -> Backend:
    """Imports what only that contestant needs."""
    if kind == "numpy":
        return Numpy(case)
    if kind in ("ours", "ours-python"):
        import _peers_ours

        return _peers_ours.Ours(case) if kind == "ours" else _peers_ours.OursFromPython(case)
    if kind.startswith("onnxruntime"):
        import _peers_onnx

        return _peers_onnx.OnnxRuntime(case, int8=kind.endswith("-int8"))
    if kind.startswith("litert"):
        import _peers_litert

        return _peers_litert.LiteRt(case, int8=kind.endswith("-int8"))
    raise SystemExit(f"kind: expected ours, ours-python, numpy, onnxruntime[-int8] or litert[-int8], found {kind!r}")


def all_answers(contestant: Backend, case: Case) -> np.ndarray:
    """Every row of the case; the loop computes the first batch afterwards, so that comes last as well."""
    step = case.batch
    parts = [contestant.answer(case.rows[first : first + step]).copy() for first in range(0, len(case.rows), step)]
    contestant.answer(case.rows[:step])
    return np.concatenate(parts).astype(np.float32)


def serve(contestant: Backend, case: Case, answer_to: Any) -> None:
    """Answer line by line until the input ends."""
    gc.disable()  # it comes when it likes
    for line in sys.stdin:
        words = line.split()
        if words[0] in ("run", "count"):
            marks = words[0] == "count"
            warm, count = int(words[1]), int(words[2])
            contestant.loop(warm)
            if marks:
                signal.raise_signal(signal.SIGUSR2)
            cpu, wall = time.process_time_ns(), time.perf_counter_ns()
            contestant.loop(count)
            cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
            if marks:
                signal.raise_signal(signal.SIGUSR2)
            print("ns", cpu, wall, file=answer_to, flush=True)
        else:
            all_answers(contestant, case).tofile(line.split(maxsplit=1)[1].strip())
            print("ok", file=answer_to, flush=True)


def main() -> None:
    answer_to, sys.stdout = sys.stdout, sys.stderr  # what a peer prints by itself is no answer
    case = Case(sys.argv[2])
    contestant = backend(sys.argv[1], case)
    all_answers(contestant, case)
    print("ready", contestant.says, file=answer_to, flush=True)
    serve(contestant, case, answer_to)


if __name__ == "__main__":
    main()
