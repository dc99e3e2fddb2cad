"""What the replicated state and the leader's decisions cost on one core: commands applied, snapshots, plans, health.

A cell of 1,000 devices and 5,000 agents; best of five where nothing is changed by the doing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from edgeswarm.core import health
from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell.state import CellState
from edgeswarm.core.cell.types import AgentSpec, Assignment, Capabilities, Move, Needs, TaskSpec, Want
from edgeswarm.core.placement import TaskChooser, plan, rebalance

DEVICES, AGENTS, MB = 1_000, 5_000, 1 << 20
OFFERS = (
    Capabilities("rpi-5", "B", "aarch64", 2048 * MB, 3500, 256, ("wasm",)),
    Capabilities("x86-gateway", "A", "x86_64", 8192 * MB, 8000, 256, ("litert", "wasm")),
    Capabilities("rpi-zero-2w", "C", "aarch64", 192 * MB, 3000, 64, ("wasm",), ("temp",)),
)


def needs(number: int) -> Needs:
    sensors = ("temp",) if number % 33 == 0 else ()
    return Needs(
        tier_min="C" if sensors else "CBA"[number % 3],
        memory_bytes=(number % 7 + 1) * MB,
        cpu_milli=number % 50 * 10,
        sensors=sensors,
    )


def once(work: Callable[[], object]) -> float:
    """Seconds of CPU: what else the machine does is left out."""
    started = time.process_time()
    work()
    return time.process_time() - started


def best(work: Callable[[], object]) -> float:
    return min(once(work) for _ in range(5))


def show(what: str, figure: str) -> None:
    print(f"{what:<72} {figure:>16}", flush=True)


def apply_all(state: CellState, entries: list[bytes]) -> None:
    for index, data in enumerate(entries, state.index + 1):
        state.apply(index, 1, data)


def main() -> None:
    state = CellState()
    entries = [c.encode(c.RegisterDevice(f"d{i:04}", 1, OFFERS[i % 3])) for i in range(DEVICES)]
    entries += [c.encode(c.Deploy(AgentSpec(f"a{i:04}", bytes(32), needs(i)), 0, "bench")) for i in range(AGENTS)]
    seconds = once(lambda: apply_all(state, entries))
    show("commands applied: register a device, deploy an agent", f"{len(entries) / seconds:,.0f} /s")

    found = plan(state.devices.values(), state.agents.values())
    assert len(found.moves) == AGENTS
    seconds = best(lambda: plan(state.devices.values(), state.agents.values()))
    show(f"plan: {AGENTS:,} agents on {DEVICES:,} devices from nothing", f"{seconds * 1e3:.1f} ms")
    moves = [c.encode(c.Place((Move(move.agent, move.device, move.epoch),))) for move in found.moves]
    moves += [c.encode(c.Desire((Want(f"a{i:04}", b"1" * 32),), "bench")) for i in range(AGENTS)]
    seconds = once(lambda: apply_all(state, moves))
    show("commands applied: place an agent, switch its artefact", f"{len(moves) / seconds:,.0f} /s")
    dead = [replace(one, alive=one.id != "d0004") for one in state.devices.values()]
    moved = len(plan(dead, state.agents.values()).moves)
    seconds = best(lambda: plan(dead, state.agents.values()))
    show(f"plan: one device dies, {moved} agents move", f"{seconds * 1e3:.1f} ms")
    seconds = best(lambda: rebalance(state.devices.values(), state.agents.values()))
    show("rebalance: nothing worth a move", f"{seconds * 1e3:.1f} ms")

    def choose() -> None:
        chooser = TaskChooser(state.devices.values(), load={}, busy={})
        for number in range(1_000):
            chooser.choose(needs(number))

    show("devices chosen for 1,000 tasks", f"{best(choose) * 1e3:.1f} ms")
    snapshot = state.to_snapshot()
    show(f"snapshot: freeze ({len(snapshot):,} bytes)", f"{best(state.freeze) * 1e3:.2f} ms")
    show("snapshot: encode", f"{best(state.to_snapshot) * 1e3:.0f} ms")
    show("snapshot: check and restore", f"{best(lambda: CellState.from_snapshot(snapshot)) * 1e3:.0f} ms")

    tasks = tuple(TaskSpec(f"t{i}", agent="a0000", after=(i - 1,) if i else ()) for i in range(4_096))
    chain = [c.encode(c.SubmitJob("chain", "bench", tasks))]
    for index in range(len(tasks)):
        chain.append(c.encode(c.AssignTasks((Assignment("chain", index, 1, "d0000"),))))
        chain.append(c.encode(c.FinishTask("chain", index, 1, "d0000", b"done")))
    seconds = once(lambda: apply_all(state, chain))
    show("commands applied: assign and finish a chain of 4,096 tasks", f"{len(chain) / seconds:,.0f} /s")

    listener = health.Health(health.LAN)
    for number in range(DEVICES):
        listener.watch(f"d{number}", 0, alive=True)
    heard = due = 0.0
    for turn in range(1, 101):
        now = turn * health.LAN.status_ms
        heard += once(lambda: [listener.heard(f"d{i}", 1, turn, now) for i in range(DEVICES)])  # noqa: B023
        due += once(lambda: listener.due(now))  # noqa: B023
    show("health: one message", f"{heard / 100 / DEVICES * 1e6:.1f} µs")
    show(f"health: {DEVICES:,} devices looked after for a second (lan)", f"{due / 100 * 4 * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
