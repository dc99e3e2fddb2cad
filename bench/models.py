"""The models of MLPerf Tiny beside LiteRT: XNNPACK and its own kernels, one thread each, in turns within one run.

A ratio is LiteRT's time over that of our kernel: the jail's own machine code, called in a process of its own with its
row copied in, from Python, as LiteRT is.  `jail` is what the jail says that a call took, with its checks of rows and
answers; `there and back` a call through the rings.  Printed are medians of the rounds and half the distance of the
quartiles; `at best` is the ratio of what a tenth of each one's rounds is faster than, nearer on a busy machine.
Import is `agent import` as typed, start of the interpreter included; compile is the device's, of wasm to machine code.
Arena: what LiteRT computes in, with its own kernels, and with its reference kernels, which keep no second copy; ours is
what a kernel of one row a call has beside its weights.

    python bench/models.py [WORD...] [--seconds 8] [--json]

Ends with 0 when every mark is met, 1 when one is missed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _models import ROOT, SECTIONS, Beside, Case, chosen, folder, import_model, input_range, missing, rows_of

from edgeswarm import agentfile
from edgeswarm.app.cli import agent_against, agent_opened, jailed
from edgeswarm.app.litert_peer import Peer
from edgeswarm.compile import read_layout, schedule_graph
from edgeswarm.drivers.jail_sync import SyncHost

SECONDS_MAX = 2.0  # for import and compile, together
MEMORY_MAX = 1.5  # of LiteRT's arena
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_tile", "asimd", "asimddp", "i8mm")


def measure(case: Case, seconds: float) -> dict[str, Any]:
    """One row of the table."""
    model = (folder() / case.file).read_bytes()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        out = Path(scratch) / "x.af"
        import_s, import_cpu_s, told = import_model(folder() / case.file, out, Path(scratch) / "state")
        file = agentfile.read(out.read_bytes(), wanted=SECTIONS)
        layout = read_layout(file.section("wasm_kernel"))
        peers = {kind: stack.enter_context(Peer(model, kind)) for kind in ("xnnpack", "builtin")}
        with Peer(model, "reference") as peer:
            arena = {"builtin": peers["builtin"].arena_bytes, "reference": peer.arena_bytes}
        cache = Path(scratch) / "cache"
        host = stack.enter_context(SyncHost(policy_dir=ROOT / "sandbox", cache_dir=cache, mac_key=bytes(32)))
        began = time.perf_counter()
        cwasm = host.compile(file.section("wasm_kernel"))
        compile_s = time.perf_counter() - began
        jail = stack.enter_context(host.spawn([jailed.spec_of(file, layout, cwasm)], ring_bytes=_ring(layout)))
        low, high = input_range(case)
        row = rows_of(layout.input.width, 4, low, high, 1)[3]
        runs = agent_against.contestants_of(jailed.Ready(host, jail, layout), peers, row.tobytes(), layout.input.width)
        runs["process"] = _beside(stack.enter_context(Beside(out.read_bytes(), cwasm)), row.tobytes())
        taken = agent_against.rounds_of(runs, seconds)
        tier = host.tier
    found = {name: agent_against.summary(values) for name, values in taken.items()}
    kernel = found["process"]["median_us"]
    graph = agent_opened.graph_of_file(file)
    ours = schedule_graph(graph.outline, batch_max=1, mode=file.header.kernel.mode).activation_bytes
    return {
        "model": str(case),
        "least": case.least,
        "aim": case.aim,
        "ratio_xnnpack": round(found["xnnpack"]["median_us"] / kernel, 3),
        "ratio_builtin": round(found["builtin"]["median_us"] / kernel, 3),
        "ratio_fast": round(found["xnnpack"]["fast_us"] / found["process"]["fast_us"], 3),
        "ratio_jail": round(found["xnnpack"]["median_us"] / found["kernel"]["median_us"], 3),
        "us": found,
        "rounds": len(taken["kernel"]),
        "tier": tier,
        "import_s": round(import_s, 2),
        "import_cpu_s": round(import_cpu_s, 2),
        "compile_s": round(compile_s, 2),
        "weights_bytes": layout.weights.size,
        "memory_bytes": layout.memory_bytes,
        "activation_bytes": ours,
        "arena_bytes": arena,
        "found": told["found"],
    }


def _ring(layout: Any) -> int:
    frame = jailed.frames.frame_bytes(4 * max(layout.input.width, layout.output.width))
    return max(jailed.RING_BYTES_DEFAULT, 5 * frame + jailed.frames.CONTROL_BYTES)


def _beside(kernel: Beside, row: bytes) -> agent_against.Contestant:
    return lambda calls: (("process", kernel.time_ns(row, calls) / calls / 1e3),)


def missed(row: dict[str, Any]) -> Iterator[str]:
    """Which marks a row of the table does not meet."""
    if row["ratio_xnnpack"] < row["least"]:
        yield f"{row['model']}: {row['ratio_xnnpack']:.2f} of XNNPACK's speed, at least {row['least']}"
    if row["ratio_builtin"] < 1:
        yield f"{row['model']}: {row['ratio_builtin']:.2f} of the speed of LiteRT's own kernels, at least 1"
    if row["import_s"] + row["compile_s"] > SECONDS_MAX:
        yield f"{row['model']}: import {row['import_s']} s, compile {row['compile_s']} s; at most {SECONDS_MAX}"
    if row["activation_bytes"] > MEMORY_MAX * row["arena_bytes"]["builtin"]:
        yield f"{row['model']}: {row['activation_bytes']} bytes, at most {MEMORY_MAX} x {row['arena_bytes']['builtin']}"


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        f"{'model':<12}{'XNNPACK':>18}{'own kernels':>18}{'our kernel':>18}{'jail':>18}{'there and back':>18}"
        f"{'XNNPACK/ours':>14}{'mark':>12}{'own/ours':>10}{'XNNPACK/jail':>14}{'at best':>9}"
    )
    for row in rows:
        cells = "".join(_cell(row["us"][name]) for name in ("xnnpack", "builtin", "process", "kernel", "call"))
        verdict = "" if row["ratio_xnnpack"] >= row["least"] else " MISSED"
        yield (
            f"{row['model']:<12}{cells}{row['ratio_xnnpack']:>14.2f}{row['least']:>7}/{row['aim']:<4}"
            f"{row['ratio_builtin']:>10.2f}{row['ratio_jail']:>14.2f}{row['ratio_fast']:>9.2f}{verdict}"
        )
    yield ""
    yield (
        f"{'model':<12}{'import s':>9}{'of it CPU':>10}{'compile s':>10}{'weights':>10}{'activations':>12}"
        f"{'arena own':>11}{'arena ref':>11}{'ours/own':>9}{'ours/ref':>9}"
    )
    for row in rows:
        arena, ours = row["arena_bytes"], row["activation_bytes"]
        yield (
            f"{row['model']:<12}{row['import_s']:>9.2f}{row['import_cpu_s']:>10.2f}{row['compile_s']:>10.2f}"
            f"{row['weights_bytes']:>10}{ours:>12}{arena['builtin']:>11}{arena['reference']:>11}"
            f"{ours / arena['builtin']:>9.2f}{ours / arena['reference']:>9.2f}"
        )


def _cell(one: dict[str, float]) -> str:
    return f"{one['median_us']:>11.1f} ±{one['noise_us']:<5.1f}"


def processor() -> str:
    """Its name, and which of the vector extensions that matter here it has."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    facts = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    has = " ".join(flag for flag in FLAGS if flag in flags) or "no vector extension that is looked for"
    return f"{facts.get('model name', platform.machine())}: {has}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only models whose name, kind or file holds one of these")
    parser.add_argument("--seconds", type=float, default=8.0, help="of measuring, for each model (default 8)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if text := missing():
        print(f"{text}: nothing is compared")
        return 0
    rows = [measure(case, options.seconds) for case in chosen(options.words)]
    faults = [text for row in rows for text in missed(row)]
    if options.json:
        print(json.dumps({"processor": processor(), "rows": rows, "missed": faults}, indent=1))
    else:
        print(f"µs of one row, one thread; {processor()} (all of which XNNPACK may use; wasm has vectors of 128 bits)")
        print("\n".join([*table(rows), "", *(faults or ["every mark is met"])]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
