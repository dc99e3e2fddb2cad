"""What does a call cost beside the kernel?  From Python, in a batch, the deadline's checks, and a runaway's end.

"call" is what the jail's worker does: a prepared, unchecked call of the 4-8-2 net's `run`, kernel included; below it
the same without a kernel, and the kernel without Python.  A batch of 256 copies 256 rows of four numbers in and of two
numbers out with numpy, one call between; below it the worker's own way, from bytes to bytes, with deadline and finite
answers looked at.  Epoch checks: the same kernel compiled with and without them, four instances of each in turn,
because where the weights lie in the cache is worth as much.  Contestants take turns; processor time, median and
quartiles over the rounds.
A runaway kernel spins: "jail" is stopped by the supervisor, whose deadline is 2 ms (a trap; after two deadlines, on a
machine that is too busy, the jail is killed, and another one made), "ticker" by a thread of this process that advances
the epoch every 2 ms with a deadline of two ticks; wall time from the call to its end.

    python bench/calls.py [--rounds 31] [--runaways 50] [--json]

Ends with 0 when every mark is met, 1 when one is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import wasmtime
from _peers_measure import Spread, machine, spread
from _peers_ours import Instance, engine, prepared_rows

from edgeswarm.compile import Kernel, abi, compile_mlp
from edgeswarm.drivers.jail_link import JailLink
from edgeswarm.drivers.jail_sync import SyncHost, SyncJail
from edgeswarm.drivers.jail_zygote import wasmtime_library
from edgeswarm.drivers.jails import KernelSpec
from edgeswarm.errors import JailGoneError, TrapError
from edgeswarm.ids import JailId
from edgeswarm.jail import wasm
from edgeswarm.jail.agent import Agent, AgentSpec, Ticks
from edgeswarm.model import random_mlp

ROOT = Path(__file__).resolve().parents[1]
BATCH = 256
SLICE_NS = 3_000_000
DEADLINE_MS = 2
PLACES = 4
SPINS = """(module (memory (export "memory") 2)
 (func $row (if (f32.ne (f32.load (i32.const 0)) (f32.const 0)) (then (loop $again (br $again)))))
 (func (export "run") (call $row))
 (func (export "run_batch") (param i32) (call $row)))"""
"""Spins unless its input is 0: a jail calls every kernel once before it says ready."""
ONE = np.ones(1, np.float32).tobytes()
SPINS_LAYOUT = abi.Layout(
    batch_max=1,
    deterministic=False,
    input=abi.Rows(0, 16, 1),
    output=abi.Rows(1024, 16, 1),
    weights=abi.Weights(65536, 4, (1,)),
    memory_bytes=131_072,
    topology="0" * 64,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `at_least` and `aim` are the issue's, in the row's unit, less is better."""

    name: str
    unit: str
    found: Spread
    at_least: float | None = None
    aim: float | None = None
    judged: float | None = None
    """What is held against the mark, where it is not the median."""

    @property
    def met(self) -> bool | None:
        if self.at_least is None:
            return None
        return (self.found.median if self.judged is None else self.judged) <= self.at_least


class Worker:
    """A kernel as the jail's worker has it, in this process."""

    def __init__(self, machine_code: wasm.Engine, kernel: Kernel) -> None:
        module = machine_code.compile(kernel.wasm)
        self.instance = wasm.Instance(module, memory_bytes_max=1 << 30)
        memory = np.frombuffer(self.instance.memory, np.uint8)
        self.input, self.output = prepared_rows(memory, kernel)
        link = JailLink(JailId(0), [KernelSpec(0, "mlp", module.serialize(), kernel.layout, kernel.weights)])
        settings = AgentSpec.from_json(link.job["agents"][0])
        link.close()
        self._words = memoryview(bytearray(16)).cast("Q")
        self.agent = Agent(module, settings, weights=kernel.weights, ticks=Ticks(), running=self._words)


def repeated(call: Callable[[], object]) -> Callable[[int], None]:
    def loop(count: int) -> None:
        for _ in range(count):
            call()

    return loop


def timed(contestants: dict[str, tuple[Callable[[int], None], int]], rounds: int) -> dict[str, list[float]]:
    """Nanoseconds a row, in every round: {name: (loop of n calls, rows a call)}."""
    counts = {}
    for name, (loop, _) in contestants.items():
        count = 1
        while True:
            began = time.process_time_ns()
            loop(count)
            took = max(1, time.process_time_ns() - began)
            if took > SLICE_NS // 4:
                break
            count *= 4
        counts[name] = max(1, count * SLICE_NS // took)
    found: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            loop, rows = contestants[name]
            loop(counts[name] // 4 + 1)
            began = time.process_time_ns()
            loop(counts[name])
            found[name].append((time.process_time_ns() - began) / counts[name] / rows)
    return found


def calls(rounds: int) -> list[Row]:
    """A call and a request in a batch, on the 4-8-2 net."""
    kernel = compile_mlp(random_mlp([4, 8, 2], "sigmoid", "sigmoid", seed=1), batch_max=BATCH)
    compiler = wasm.Engine(wasm.Library(wasmtime_library()))
    worker, inside = Worker(compiler, kernel), Instance(engine(), kernel)
    code = '(module (memory (export "memory") 1) (func (export "run")) (func (export "run_batch") (param i32)))'
    nop = wasm.Instance(compiler.compile(bytes(wasmtime.wat2wasm(code))), memory_bytes_max=1 << 20)
    rows = np.random.default_rng(3).random((BATCH, 4), dtype=np.float32)
    answers, frame = np.empty((BATCH, 2), np.float32), memoryview(rows.tobytes())
    run, run_batch, run_nop = worker.instance.run, worker.instance.run_batch, nop.run

    def batch() -> None:
        worker.input[:BATCH] = rows
        run_batch(BATCH)
        answers[:] = worker.output[:BATCH]

    def single(count: int) -> None:
        for _ in range(count):
            run(1)

    def nothing(count: int) -> None:
        for _ in range(count):
            run_nop(1)

    found = timed(
        {
            "call": (single, 1),
            "nop": (nothing, 1),
            "in the kernel": (lambda count: inside.loop(count, 1), 1),
            "batch": (repeated(batch), BATCH),
            "worker's batch": (repeated(lambda: worker.agent.run_batch(frame, BATCH)), BATCH),
        },
        rounds,
    )
    assert np.array_equal(answers, np.frombuffer(worker.agent.run_batch(frame, BATCH), np.float32).reshape(BATCH, 2))
    return [
        Row("call from Python, 4-8-2", "ns", spread(found["call"]), 400, 300),
        Row("   a kernel that does nothing", "ns", spread(found["nop"])),
        Row("   the net in the kernel", "ns", spread(found["in the kernel"])),
        Row("request in a batch of 256, copied", "ns", spread(found["batch"]), 50, 22),
        Row("   by the worker, bytes to bytes", "ns", spread(found["worker's batch"])),
    ]


def epochs(rounds: int) -> list[Row]:
    """The deadline's checks, in percent of the kernel's time without them, on the 784 net."""
    kernel = compile_mlp(random_mlp([784, 128, 64, 32, 10], "sigmoid", "sigmoid", seed=1), batch_max=64)
    instances: dict[str, list[Instance]] = {"on": [], "off": []}
    for _ in range(PLACES):  # in turn, so that neither has the better half of the memory
        instances["on"].append(Instance(engine(), kernel))
        instances["off"].append(Instance(engine(epoch_interruption=False), kernel))
    rows = []
    for batch in (1, 64):
        percent: list[float] = []
        for on, off in zip(instances["on"], instances["off"], strict=True):
            loops = {"on": (looped(on, batch), batch), "off": (looped(off, batch), batch)}
            found = timed(loops, max(2, rounds // PLACES))
            percent += [100 * (a / b - 1) for a, b in zip(found["on"], found["off"], strict=True)]
        rows.append(Row(f"epoch checks, 784 net, batch {batch}", "%", spread(percent), 5, 2))
    return rows


def looped(instance: Instance, batch: int) -> Callable[[int], None]:
    return lambda count: instance.loop(count, batch)


def runaway_in_a_jail(count: int) -> list[float]:
    """Milliseconds from the call to its end: a trap, or where the machine is too busy for that, the jail's."""
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        host = SyncHost(policy_dir=ROOT / "sandbox", cache_dir=Path(folder), mac_key=bytes(32))
        try:
            code = host.compile(bytes(wasmtime.wat2wasm(SPINS)))
            spec = KernelSpec(0, "spins", code, SPINS_LAYOUT, bytes(4), deadline_ms=DEADLINE_MS)
            while len(found) < count:
                with host.spawn([spec]) as jail:
                    while len(found) < count and stopped(jail, found):
                        pass
        finally:
            host.close()
    return found


def stopped(jail: SyncJail, found: list[float]) -> bool:
    """Let it spin, and note how long that took; False when the jail was killed for it."""
    began, lives = time.perf_counter_ns(), True
    try:
        jail.call(0, ONE)
    except (TrapError, JailGoneError) as error:
        took_ms = (time.perf_counter_ns() - began) / 1e6
        lives = isinstance(error, TrapError)
        if "deadline" not in str(error):
            raise
        if lives or took_ms > DEADLINE_MS:  # else it was killed for the call before, which had just been answered
            found.append(took_ms)
    else:
        raise SystemExit("a kernel that spins has answered")
    return lives


def runaway_by_ticker(count: int) -> list[float]:
    """The same with nothing but the engine and a thread that ticks."""
    compiler, stop = wasm.Engine(wasm.Library(wasmtime_library())), threading.Event()
    instance = wasm.Instance(compiler.compile(bytes(wasmtime.wat2wasm(SPINS))), memory_bytes_max=1 << 20)

    def tick() -> None:
        while not stop.wait(DEADLINE_MS / 1000):
            compiler.increment_epoch()

    instance.floats[0] = 1
    thread, found = threading.Thread(target=tick, daemon=True), []
    thread.start()
    try:
        for _ in range(count):
            compiler.library.wasmtime_context_set_epoch_deadline(instance._context, 2)
            began = time.perf_counter_ns()
            trap = instance.run(1)
            found.append((time.perf_counter_ns() - began) / 1e6)
            if not trap or compiler.library.take_trap(trap) != wasm.TRAP_INTERRUPT:
                raise SystemExit("a kernel that spins has answered")
    finally:
        stop.set()
        thread.join()
    return found


def runaways(count: int) -> list[Row]:
    rows = []
    for name, found in (("jail", runaway_in_a_jail(count)), ("ticker", runaway_by_ticker(count))):
        rows.append(Row(f"runaway stopped, {name}: longest", "ms", Spread(max(found), min(found), max(found)), 10))
        rows.append(Row(f"runaway stopped, {name}: median", "ms", spread(found), None, 5))
    return rows


def as_json(row: Row) -> dict[str, object]:
    quartiles = [round(row.found.low, 3), round(row.found.high, 3)]
    return {
        "name": row.name.strip(),
        "unit": row.unit,
        "found": round(row.found.median, 3),
        "quartiles": quartiles,
        "mark": row.at_least,
        "aim": row.aim,
        "met": row.met,
    }


def show(row: Row) -> None:
    mark = f"{row.at_least:g}" if row.at_least is not None else ""
    aim = f"{row.aim:g}" if row.aim is not None else ""
    met = "" if row.met is None else "met" if row.met else "MISSED"
    quartiles = f"{row.found.low:.2f}..{row.found.high:.2f}"
    print(f"{row.name:<38}{row.found.median:>9.2f} {row.unit:<3}{quartiles:>18}{mark:>7}{aim:>6}  {met}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31, help="rounds of all contestants in turn (default 31)")
    parser.add_argument("--runaways", type=int, default=50, help="kernels to stop, each way (default 50)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.rounds < 2 or options.runaways < 2:
        parser.error("expected at least 2 rounds and 2 runaways")
    rows = [*calls(options.rounds), *epochs(options.rounds), *runaways(options.runaways)]
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [as_json(row) for row in rows]}, indent=1))
    else:
        print(f"{machine()}\n{'':<38}{'median':>9} {'':<3}{'quartiles':>18}{'mark':>7}{'aim':>6}")
        for row in rows:
            show(row)
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
