"""`edgeswarm agent bench --against litert`: the same model in LiteRT beside the kernel in its jail, one thread each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.app.cli import common, output
from edgeswarm.errors import LocalError, ModelError

if TYPE_CHECKING:
    from edgeswarm.agentfile import AgentFile
    from edgeswarm.app.cli.jailed import Ready
    from edgeswarm.app.litert_peer import Peer

ROUND_NS = 2_000_000  # each contestant computes for about this long in each round: some are left alone by all else
ROUNDS_MIN = 5
CALLS_MAX = 10_000
COMPARED_ROWS = 16
Contestant = Callable[[int], tuple[tuple[str, float], ...]]
"""Takes a number of calls, and gives names with microseconds a call."""
KINDS = {"xnnpack": "LiteRT, XNNPACK", "builtin": "LiteRT, its own kernels"}


def model_of(path: Path, model: Path | None) -> bytes:
    """The .tflite file: of --model, else the one that the agent file carries.

    Raises LocalError where there is none, or no LiteRT.
    """
    from edgeswarm import agentfile
    from edgeswarm.limits import MODEL_FILE_BYTES_MAX

    if find_spec("ai_edge_litert") is None:
        raise LocalError("this needs ai_edge_litert: pip install 'edgeswarm[delegates]'")
    if model is not None:
        return common.read_file(model, bytes_max=MODEL_FILE_BYTES_MAX, bound="MODEL_FILE_BYTES_MAX", error=ModelError)
    found = agentfile.read(common.read_agent_file(path), who=str(path), wanted=["tflite"])
    if "tflite" not in found.sections:
        raise LocalError(f"{path}: expected the section tflite, found none: --model X.tflite names the model")
    return found.sections["tflite"]


def measure(ready: Ready, file: AgentFile, model: bytes, inputs: bytes, seconds: float) -> dict[str, Any]:
    """Microseconds of one row, contestants in turns; and how far their answers are apart."""
    from edgeswarm.app.litert_peer import Peer

    width = ready.layout.input.width
    with ExitStack() as stack:
        peers = {kind: stack.enter_context(Peer(model, kind)) for kind in KINDS}
        apart = {kind: _apart(ready, peer, inputs, width, file) for kind, peer in peers.items()}
        runs = contestants_of(ready, peers, inputs[: 4 * width], width)
        taken = rounds_of(runs, seconds)
        version = next(iter(peers.values())).version
    found: dict[str, Any] = {name: summary(values) for name, values in taken.items()}
    kernel = found["kernel"]["median_us"]
    for kind in KINDS:
        found[kind] |= {"ratio": round(found[kind]["median_us"] / kernel, 3), "difference": apart[kind]}
    return {"litert": version, "rounds": len(taken["kernel"]), "contestants": found}


def contestants_of(ready: Ready, peers: dict[str, Peer], payload: bytes, width: int) -> dict[str, Contestant]:
    """`kernel` and `call` of ours, and each peer by its kind."""
    import numpy as np

    row = np.frombuffer(payload, "<f4").reshape(width)

    def ours(calls: int) -> tuple[tuple[str, float], ...]:
        ready.jail.timed(0, payload)  # brings caches back
        inside, began = [], time.perf_counter_ns()
        for _ in range(calls):
            inside.append(ready.jail.timed(0, payload)[1])
        there_and_back = (time.perf_counter_ns() - began) / calls / 1e3
        inside.sort()
        middle = inside[calls // 4 : calls - calls // 4]
        return ("kernel", sum(middle) / len(middle) + 0.5), ("call", there_and_back)  # they are whole us, cut off

    def theirs(kind: str, peer: Peer) -> Contestant:
        return lambda calls: ((kind, peer.time_ns(row, calls) / calls / 1e3),)

    return {"kernel": ours} | {kind: theirs(kind, peer) for kind, peer in peers.items()}


def rounds_of(runs: dict[str, Contestant], seconds: float) -> dict[str, list[float]]:
    calls = {}
    for name, run in runs.items():
        run(3)
        began = time.perf_counter_ns()
        run(3)
        calls[name] = max(1, min(CALLS_MAX, 3 * ROUND_NS // max(1, time.perf_counter_ns() - began)))
    taken: dict[str, list[float]] = {}
    until, rounds = time.monotonic() + seconds, 0
    while rounds < ROUNDS_MIN or time.monotonic() < until:
        for name, run in runs.items():
            for key, value in run(calls[name]):
                taken.setdefault(key, []).append(value)
        rounds += 1
    return taken


def _apart(ready: Ready, peer: Peer, inputs: bytes, width: int, file: AgentFile) -> float:
    """The largest difference of an answer on the first rows.  Raises ModelError for a model of other widths."""
    import numpy as np

    rows = np.frombuffer(inputs, "<f4").reshape(-1, width)[:COMPARED_ROWS]
    found = peer.answers(rows)
    ours = np.frombuffer(ready.jail.call(0, rows.tobytes(), len(rows)), "<f4").reshape(len(rows), -1)
    if found.shape != ours.shape:
        raise ModelError(
            f"the model: expected {ours.shape[1]} outputs as of {file.header.name}, found {found.shape[1]}"
        )
    return float(np.abs(found - ours).max())


def summary(values: list[float]) -> dict[str, Any]:
    """Median, half the distance of the quartiles, and what a tenth of the rounds is faster than."""
    low, middle, high = statistics.quantiles(values, n=4)
    fast = statistics.quantiles(values, n=10)[0]
    return {"median_us": round(middle, 3), "noise_us": round((high - low) / 2, 3), "fast_us": round(fast, 3)}


def text(found: dict[str, Any]) -> str:
    """The table."""
    contestants = found["contestants"]
    names = {"kernel": "our kernel, in its jail", "call": "the same, there and back"} | KINDS
    cells = []
    for key, name in names.items():
        one = contestants[key]
        ratio = f"{one['ratio']:.2f}" if "ratio" in one else ""
        apart = f"{one['difference']:.3g}" if "difference" in one else ""
        cells.append((name, f"{one['median_us']:,.2f} ±{one['noise_us']:.2f}", ratio, apart))
    header = ("one row, one thread", "p50 µs", "times our kernel", "answers apart")
    return (
        f"{output.table(header, cells, right=(1, 2, 3))}\n"
        f"LiteRT {found['litert']}, in turns, {found['rounds']} rounds; XNNPACK uses what this processor has"
    )
