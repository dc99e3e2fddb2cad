"""The generated kernels beside what a user would pick instead: libfann, ONNX Runtime, LiteRT (XNNPACK), numpy.

Each contestant is a process of its own, one thread, with the same weights and inputs.  Its answers for 64 rows are
compared with the float64 reference first (f32: 2e-5 of the answers' range, int8: 5 %); one that differs ends the
benchmark.  Then they take turns with equally long warm slices of processor time, and a ratio is the peer's time over
ours of the same round: printed are the median and the quartiles over the rounds.

Ours is the time in the kernel: a driver in wasm calls it over and over; so does a loop in C with `fann_run`, which
takes one row at a time.  ONNX Runtime (input and output bound once) and LiteRT are called from Python, for they have no
other loop; "ours-python" is our kernel called from Python once a batch.  An int8 case compares with the peers' float32
too: libfann has nothing else (its fixed point is for machines without floats), and the issue's marks are against it.
relu: libfann 2.2 has none.  Its linear_piece, min(max(x, 0), 1), is the same function while nothing passes 1, and the
relu nets' weights are so small that nothing does (checked on every row).

Below a float case stands what the machine allows: WebAssembly's vectors have 128 bits, and a row cannot take less than
their multiply-adds do at their peak, so a ratio past that is not to be had on this processor.

    python bench/peers.py [--only WORD] [--rounds 33] [--slice-ms 4] [--json]

Ends with 0 when every mark is met, 1 when one is missed, 2 when answers differ or a contestant fails.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from _peers_measure import Contestant, PeerError, difference, machine, ratios, spread, take_turns

from edgeswarm.model import Dense, Mlp, reference

HERE = Path(__file__).resolve().parent
PEERS_PYTHON = HERE.parent / "build/peers/venv/bin/python"
ROWS = 64
GENERATIONS = 3
FANN_ACTIVATIONS = {"linear": 0, "sigmoid": 3, "relu": 12}  # 12 is linear_piece, see above
LARGE, WIDE, SMALL, TINY = [784, 128, 64, 32, 10], [512, 1024, 1024, 256], [128, 64, 32, 16], [4, 8, 3]
FLOAT_PEERS = ("libfann", "onnxruntime", "litert", "numpy", "ours-python")
INT8_PEERS = ("libfann", "onnxruntime", "onnxruntime-int8", "litert-int8", "ours-python")


@dataclass(frozen=True, slots=True)
class Spec:
    """A case, its peers, and what the issue asks for: peer -> (at least, aim)."""

    sizes: list[int]
    kind: str
    activation: str
    batch: int
    marks: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{'-'.join(map(str, self.sizes))} {self.kind} {self.activation} batch {self.batch}"

    @property
    def peers(self) -> tuple[str, ...]:
        return INT8_PEERS if self.kind == "int8" else FLOAT_PEERS

    def model(self) -> Mlp:
        """sigmoid throughout; relu with a linear last layer, and weights so small that nothing in it passes 1."""
        rng = np.random.default_rng(5)
        scale = 0.3 if self.activation == "relu" else 1.0
        layers = []
        for index, (before, after) in enumerate(pairwise(self.sizes), start=1):
            last = index == len(self.sizes) - 1
            weights = rng.standard_normal((before, after)) * scale / np.sqrt(before)
            name = "linear" if last and self.activation == "relu" else self.activation
            bias = rng.standard_normal(after) * 0.1
            layers.append(Dense(weights.astype(np.float32), bias.astype(np.float32), name))
        return Mlp(tuple(layers))


SPECS = [
    Spec(LARGE, "f32", "sigmoid", 1, {"libfann": (6, 7.5), "onnxruntime": (1.3, 1.5)}),
    Spec(LARGE, "int8", "sigmoid", 1, {"libfann": (17, 20), "onnxruntime": (3.5, 4.2)}),
    Spec(LARGE, "int8", "relu", 1, {"libfann": (17, 20), "onnxruntime": (3.5, 4.2)}),
    Spec(LARGE, "f32", "sigmoid", 64, {"libfann": (6.5, 9), "onnxruntime": (0.25, 0.45)}),
    Spec(LARGE, "f32", "relu", 64, {"libfann": (8.5, 11), "onnxruntime": (0.25, 0.45)}),
    Spec(WIDE, "int8", "relu", 1, {"libfann": (20, 25)}),
    Spec(SMALL, "f32", "sigmoid", 1, {"onnxruntime": (6, 8)}),
    Spec(TINY, "f32", "sigmoid", 1),
]


def write_case(spec: Spec, folder: Path) -> tuple[Path, np.ndarray]:
    """CASE.npz for Python, CASE.bin for C; returns the common stem's path and the reference's answers."""
    model = spec.model()
    rows = np.random.default_rng(6).random((ROWS, spec.sizes[0]), dtype=np.float32)
    if spec.activation == "relu":
        values: np.ndarray = rows
        for index, layer in enumerate(model.layers[:-1]):
            values = reference.forward(Mlp((layer,)), values)
            if values.max() >= 1:
                raise PeerError(f"{spec.name}: layer {index} gives {values.max():.2f}, where linear_piece is not relu")
    stem = folder / "case"
    arrays: dict[str, Any] = {f"w{index}": layer.weights for index, layer in enumerate(model.layers)}
    arrays |= {f"b{index}": layer.bias for index, layer in enumerate(model.layers)}
    names = np.array(model.activations)
    np.savez(f"{stem}.npz", activations=names, rows=rows, batch=spec.batch, kind=spec.kind, **arrays)
    head = [len(spec.sizes), *spec.sizes, *(FANN_ACTIVATIONS[name] for name in model.activations), ROWS, spec.batch]
    with Path(f"{stem}.bin").open("wb") as file:
        np.array(head, "<u4").tofile(file)
        for layer in model.layers:
            np.vstack([layer.weights, layer.bias]).T.astype("<f4").tofile(file)
        rows.astype("<f4").tofile(file)
    return stem, reference.forward(model, rows)


def compile_fann(folder: Path) -> Path | str:
    """The program that loops fann_run, or why there is none."""
    if not shutil.which("gcc"):
        return "gcc is not installed (apt-get install gcc libfann-dev)"
    command = ["gcc", "-O2", str(HERE / "_peers_fann.c"), "-o", str(folder / "peers_fann"), "-lfann", "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), "gcc failed")
        return f"libfann-dev is not installed, or not usable ({reason.strip()})"
    return folder / "peers_fann"


def peak_gflops(folder: Path) -> float | None:
    """What 128-bit multiply-adds can give here; None where that cannot be tried."""
    if not shutil.which("gcc") or platform.machine() != "x86_64":
        return None
    command = ["gcc", "-O2", "-mfma", str(HERE / "_peak.c"), "-o", str(folder / "peak")]
    if subprocess.run(command, capture_output=True).returncode:
        return None
    done = subprocess.run([folder / "peak"], capture_output=True, text=True)
    return float(done.stdout) if not done.returncode else None


def available(folder: Path) -> tuple[dict[str, list[str | Path]], dict[str, str]]:
    """How to start each contestant (the case's path follows), and why the others are absent."""
    child = HERE / "_peers_child.py"
    commands: dict[str, list[str | Path]] = {
        name: [sys.executable, child, name] for name in ("ours", "ours-python", "numpy")
    }
    absent = {}
    program = compile_fann(folder)
    if isinstance(program, Path):
        commands["libfann"] = [program]
    else:
        absent["libfann"] = program
    for package, imports, kinds in (
        ("onnxruntime", "import onnx, onnxruntime", ("onnxruntime", "onnxruntime-int8")),
        ("ai-edge-litert", "import ai_edge_litert.interpreter, flatbuffers", ("litert", "litert-int8")),
    ):
        test = [str(PEERS_PYTHON), "-c", imports]
        there = PEERS_PYTHON.exists() and not subprocess.run(test, capture_output=True).returncode
        for kind in kinds:
            if there:
                commands[kind] = [PEERS_PYTHON, child, kind]
            else:
                absent[kind] = f"{package} is not in build/peers/venv (`make bench` installs it)"
    return commands, absent


def contestants_of(spec: Spec, stem: Path, commands: dict[str, list[str | Path]]) -> list[Contestant]:
    return [
        Contestant(name, [*commands[name], f"{stem}{'.bin' if name == 'libfann' else '.npz'}"])
        for name in ("ours", *spec.peers)
        if name in commands
    ]


def run_case(spec: Spec, commands: dict[str, list[str | Path]], rounds: int, slice_ns: int) -> dict[str, Any]:
    """Each of three generations of processes takes a third of the rounds: where the weights happen to lie in the cache
    is worth some percent, and stays so for as long as a process lives."""
    times: dict[str, list[float]] = {}
    disturbed, worst = 0.0, {}
    with tempfile.TemporaryDirectory() as name:
        stem, expected = write_case(spec, Path(name))
        for _ in range(GENERATIONS):
            contestants = contestants_of(spec, stem, commands)
            try:
                for one in contestants:
                    one.start()
                    kind = "f32" if one.name in ("libfann", "onnxruntime") else spec.kind
                    answers = one.answers(Path(name) / "answers", expected.shape)
                    worst[one.name] = difference(one.name, answers, expected, kind)
                found, part = take_turns(
                    contestants, spec.batch, rounds=max(1, rounds // GENERATIONS), slice_ns=slice_ns
                )
            finally:
                for one in contestants:
                    one.close()
            disturbed += part / GENERATIONS
            for contestant, values in found.items():
                times.setdefault(contestant, []).extend(values)
    rows: list[dict[str, Any]] = []
    for one in contestants:
        took, ratio = spread(times[one.name]), ratios(times[one.name], times["ours"])
        mark = spec.marks.get(one.name)
        rows.append(
            {
                "contestant": one.name,
                "says": one.says,
                "us_a_row": round(took.median / 1000, 4),
                "us_quartiles": [round(took.low / 1000, 4), round(took.high / 1000, 4)],
                "ratio": round(ratio.median, 3),
                "ratio_quartiles": [round(ratio.low, 3), round(ratio.high, 3)],
                "difference": float(f"{worst[one.name]:.2g}"),
                "mark": list(mark) if mark else None,
                "met": None if mark is None else ratio.median >= mark[0],
            }
        )
    operations = 2 * sum(before * after for before, after in pairwise(spec.sizes))
    for row in rows:
        row["gops"] = round(operations / row["us_a_row"] / 1000, 1)
    return {"case": spec.name, "disturbed": round(disturbed, 3), "operations": operations, "rows": rows}


def ceiling(spec: Spec, found: dict[str, Any], peak: float | None) -> str:
    """What the machine allows at most, in a sentence; nothing for int8, which has no such bound."""
    if peak is None or spec.kind != "f32" or not spec.marks:
        return ""
    least_us = found["operations"] / peak / 1000
    most = [f"{row['contestant']} {row['us_a_row'] / least_us:.1f}" for row in found["rows"] if row["mark"]]
    return f"128-bit multiply-adds alone take {least_us:.2f} µs here ({peak:.0f} GFLOP/s): at most {', '.join(most)}"


def show(found: dict[str, Any], most: str) -> None:
    print(f"\n{found['case']}   ({found['disturbed']:.0%} of the slices disturbed)")
    head = f"  {'':<18}{'µs a row':>10}{'quartiles':>18}{'GOP/s':>7}{'ratio':>8}{'quartiles':>15}"
    print(f"{head}{'mark':>7}{'aim':>6}  {'':<7}differs")
    for row in found["rows"]:
        quartiles, times = (f"{low:.2f}..{high:.2f}" for low, high in (row["ratio_quartiles"], row["us_quartiles"]))
        mark = "{:>7g}{:>6g}".format(*row["mark"]) if row["mark"] else f"{'':>13}"
        met = "" if row["met"] is None else "met" if row["met"] else "MISSED"
        print(
            f"  {row['contestant']:<18}{row['us_a_row']:>10.3f}{times:>18}"
            f"{row['gops']:>7.1f}{row['ratio']:>8.2f}{quartiles:>15}{mark}  {met:<7}{row['difference']:.0e}"
        )
    if most:
        print(f"  {most}")


def show_head(what: str, absent: Mapping[str, str]) -> None:
    print(f"{machine()}\n{what}")
    for name, why in absent.items():
        print(f"absent: {name}: {why}")


def run_cases(
    specs: Sequence[Spec],
    only: str,
    run: Callable[[Spec], dict[str, Any]],
    show: Callable[[Spec, dict[str, Any]], None] | None,
) -> tuple[list[dict[str, Any]], bool]:
    """What was found of each case whose name holds `only`, shown as it comes; and whether one failed, which is said."""
    cases, failed = [], False
    for spec in specs:
        if only not in spec.name:
            continue
        try:
            cases.append(run(spec))
        except PeerError as error:
            print(f"{spec.name}: {error}", file=sys.stderr)
            failed = True
            continue
        if show is not None:
            show(spec, cases[-1])
    return cases, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    parser.add_argument("--rounds", type=int, default=33, help="rounds of all contestants in turn (default 33)")
    parser.add_argument("--slice-ms", type=float, default=4.0, help="how long one computes before the next (default 4)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.rounds < 2 or not 0.1 <= options.slice_ms <= 1000:
        parser.error("expected at least 2 rounds, and slices of 0.1 to 1000 ms")
    with tempfile.TemporaryDirectory() as folder:
        commands, absent = available(Path(folder))
        peak = peak_gflops(Path(folder))
        if not options.json:
            show_head("one thread each; ratio: the peer's time over ours", absent)
        cases, failed = run_cases(
            SPECS,
            options.only,
            lambda spec: run_case(spec, commands, options.rounds, int(options.slice_ms * 1e6)),
            None if options.json else lambda spec, found: show(found, ceiling(spec, found, peak)),
        )
    rows = [row for found in cases for row in found["rows"]]
    status = 2 if failed else int(any(row["met"] is False for row in rows))
    if not options.json:
        print("\n" + "\n".join(sorted({f"{row['contestant']}: {row['says']}" for row in rows})))
    else:
        print(json.dumps({"machine": machine(), "peak_gflops": peak, "absent": absent, "cases": cases}, indent=1))
    return status


if __name__ == "__main__":
    sys.exit(main())
