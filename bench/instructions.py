"""How many instructions does a row cost?  A figure that a busy machine cannot change, beside peers.py's times.

Each contestant of peers.py is stepped through, one instruction at a time (ptrace), on the real processor: whatever
instruction set it chooses is what is counted.  Counted is what more batches take: N + M of them less N, by M; what is
left of chance is some 20 instructions.  A step costs some 20 µs here, so only cases of one row are counted.
Instructions are not time: an AVX-512 instruction does the work of four of ours, and a repeated string instruction
counts at each repetition.

Tried first: valgrind (callgrind, lackey) has no AVX-512, so ONNX Runtime, LiteRT and numpy take other code in it than
on the processor, and Cranelift compiles for what it finds; the processor's own counters (perf_event) are not passed
into virtual machines like this one.

    python bench/instructions.py [--only WORD] [--json]

Ends with 0, or with 2 when a contestant fails.  Needs gcc and the permission to trace a child.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _peers_measure import Contestant, PeerError, difference, machine
from peers import LARGE, TINY, Spec, available, contestants_of, run_cases, show_head, write_case

HERE = Path(__file__).resolve().parent
SPECS = [
    Spec(LARGE, "f32", "sigmoid", 1),
    Spec(LARGE, "int8", "relu", 1),
    Spec(TINY, "f32", "sigmoid", 1),
]
WARM = 50
UNCOUNTED = 100


def compile_stepper(folder: Path) -> Path | str:
    """The program that steps and counts, or why there is none."""
    if not shutil.which("gcc"):
        return "gcc is not installed (apt-get install gcc)"
    done = subprocess.run(
        ["gcc", "-O2", str(HERE / "_step.c"), "-o", str(folder / "step")], capture_output=True, text=True
    )
    if done.returncode:
        return f"gcc: {done.stderr.strip().splitlines()[-1]}"
    tried = subprocess.run([folder / "step", folder / "tried", "true"], capture_output=True, text=True)
    return f"tracing is not permitted: {tried.stderr.strip()}" if tried.returncode else folder / "step"


def last_count(name: str, text: str, lines: int) -> int:
    """The count in the last of so many lines.  Raises PeerError when there are not as many, or it is no number."""
    found = text.split("\n")
    if len(found) != lines + 1 or found[-1] or not (found[-2].isascii() and found[-2].isdigit()):
        raise PeerError(f"{name}: expected {lines} lines of counts, found {text[-80:]!r}")
    return int(found[-2])


def count(one: Contestant, counts: Path, *, more: int) -> float:
    """Instructions of a batch: what `more` of them on top take, by their number."""
    found: list[int] = []
    base = 1 if one.name == "ours" else 0  # the first batch of ours carries the call of the driver
    for _ in range(UNCOUNTED):  # Python settles on faster code meanwhile, and in the first of the counts
        one.run(1, base)
    for batches in (base, base, base + more):
        one.count(WARM, batches)
        found.append(last_count(one.name, counts.read_text(), len(found) + 1))
    if found[2] <= found[1]:
        raise PeerError(f"{one.name}: expected more instructions for more batches, found {found[1]}, then {found[2]}")
    return (found[2] - found[1]) / more


def run_case(spec: Spec, commands: dict[str, list[str | Path]], stepper: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        stem, expected = write_case(spec, Path(name))
        for one in contestants_of(spec, stem, commands):
            counts = Path(name) / f"counts-{one.name}"
            one.command = [stepper, counts, *one.command]
            try:
                one.start()
                kind = "f32" if one.name in ("libfann", "onnxruntime") else spec.kind
                difference(one.name, one.answers(Path(name) / "answers", expected.shape), expected, kind)
                found = count(one, counts, more=8 if spec.sizes == TINY else 1)
                rows.append({"contestant": one.name, "says": one.says, "instructions": round(found)})
            finally:
                one.close()
    for row in rows:
        row["ratio"] = round(row["instructions"] / rows[0]["instructions"], 2)
    return {"case": spec.name, "rows": rows}


def show(spec: Spec, found: dict[str, Any]) -> None:
    print(f"\n{found['case']}")
    for row in found["rows"]:
        print(f"  {row['contestant']:<18}{row['instructions']:>12,}{row['ratio']:>9.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stepper = compile_stepper(Path(folder))
        if isinstance(stepper, str):
            print(f"instructions: {stepper}", file=sys.stderr)
            return 2
        commands, absent = available(Path(folder))
        if not options.json:
            show_head("instructions a row; ratio: the peer's over ours", absent)
        cases, failed = run_cases(
            SPECS, options.only, lambda spec: run_case(spec, commands, stepper), None if options.json else show
        )
    if options.json:
        print(json.dumps({"machine": machine(), "absent": absent, "cases": cases}, indent=1))
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
