"""`edgeswarm agent population`: many agents of one file in one jail, ticked for a while: what they cost here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import jailed, output
from edgeswarm.limits import POPULATION_INSTANCES_MAX, POPULATION_PACKED_MAX

if TYPE_CHECKING:
    from edgeswarm.app.population import Population

WARM_TICKS = 3
TICKS_MIN, TICKS_MAX = 5, 1_000_000
FAULTS_SHOWN = 5


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="X.af")
@click.option(
    "--count",
    type=click.IntRange(1, POPULATION_PACKED_MAX),
    default=1_000,
    show_default=True,
    help=f"How many agents; isolated ones at most {POPULATION_INSTANCES_MAX}.",
)
@click.option("--packed", is_flag=True, help="All in one memory, not isolated from each other; feed-forward nets only.")
@click.option("--seconds", type=click.FloatRange(0.05, 600), default=2.0, show_default=True, help="How long to tick.")
@output.state_option
@output.config_option
@output.json_option
def population(
    file: Path,
    count: int,
    packed: bool,
    seconds: float,
    state: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Run COUNT agents of one file in one jail and say what they cost: memory each, ticks a second.

    Every agent gets a row of its own, from the golden vectors or between -1 and 1; one call computes them all.
    Isolated (the default), each has a memory of its own, and one that traps or loops is left out, the others go on.
    Packed, equal nets lie side by side in one memory, four a vector: for millions of agents that trust each other.

    \b
    Examples:
      edgeswarm agent population boid.af --count 10000
      edgeswarm agent population boid.af --count 1000000 --packed --seconds 5
      edgeswarm agent population boid.af --count 1000 --json
    """
    import numpy as np

    from edgeswarm.app.cli.agent_run import bench_input
    from edgeswarm.app.population import Population

    agent, layout = jailed.read_runnable(file, state, config_file)
    isolation = "packed" if packed else "instance"
    width = layout.input.width
    with (
        jailed.open_host(state, config_file) as host,
        Population(agent, count, isolation=isolation, host=host) as agents,
        output.progress(int(seconds * 1000), "ticking", quiet=as_json) as advance,
    ):
        agents.inputs[:] = np.frombuffer(bench_input(agent, width, count), np.float32).reshape(count, width)
        took_ns = _measure(agents, seconds, advance)
        memory, faults = agents.memory(), dict(agents.faults)
        ready_ms, tier = round(agents.started_ms, 1), host.tier
    middle = took_ns[len(took_ns) // 2]
    row = {
        "agent": agent.header.name,
        "isolation": isolation,
        "count": count,
        "tier": tier,
        "ready_ms": ready_ms,
        "ticks": len(took_ns),
        "tick_p50_us": round(middle / 1e3, 1),
        "tick_p99_us": round(took_ns[min(len(took_ns) - 1, len(took_ns) * 99 // 100)] / 1e3, 1),
        "agent_ticks_per_s": round(count / middle * 1e9),
        "memory_bytes": memory,
        "faults": len(faults),
        "first_faults": {str(one): faults[one] for one in sorted(faults)[:FAULTS_SHOWN]},
    }
    output.emit(row, as_json=as_json, text=lambda: _text(row))


def _measure(agents: Population, seconds: float, advance: Any) -> list[int]:
    """Nanoseconds of each tick, sorted."""
    for _ in range(WARM_TICKS):
        agents.tick()
    took_ns: list[int] = []
    began = now = time.perf_counter_ns()
    until, told_ms = began + int(seconds * 1e9), 0
    while (now < until or len(took_ns) < TICKS_MIN) and len(took_ns) < TICKS_MAX:
        agents.tick()
        after = time.perf_counter_ns()
        took_ns.append(after - now)
        now = after
        passed_ms = (min(now, until) - began) // 1_000_000
        if passed_ms - told_ms >= 100:
            advance(passed_ms - told_ms)
            told_ms = passed_ms
    return sorted(took_ns)


def _text(row: dict[str, Any]) -> str:
    memory = row["memory_bytes"]
    kind = "isolated instances" if row["isolation"] == "instance" else "packed into one memory"
    held = f"{output.size(memory['held'])} and {output.size(memory['page_tables'])} of page tables"
    lines = [
        f"agent {row['agent']}: {row['count']:,} agents, {kind}, tier {row['tier']}, ready in {row['ready_ms']} ms",
        f"one tick {row['tick_p50_us']:,} µs (p99 {row['tick_p99_us']:,}), {row['agent_ticks_per_s']:,} agent ticks/s",
        f"memory {held}: {output.size(memory['each'])} an agent, the jail's interpreter included",
    ]
    if row["faults"]:
        lines.append(f"{row['faults']:,} agents without an answer, the first:")
        lines += [f"  agent {agent}: {text}" for agent, text in row["first_faults"].items()]
    return "\n".join(lines)
