"""Operators, deaths, faults and floods at random, all at once: nothing hangs, nothing is lost, the table is sound."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from typing import Any

import pytest
from supervised import Bench, until

from edgeswarm.errors import EdgeSwarmError
from edgeswarm.ids import AgentName

NAMES = ("a", "b", "c", "bad")
STEPS, TOGETHER = 60, 4
SLOW_S = 30.0


class Monkey:
    """seed decides everything but the timing."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.random = random.Random(seed)
        self.done: list[str] = []
        self.version = 1
        self.ended = 0

    def file(self, name: str) -> bytes:
        """b reads a; bad traps above 0.5; c writes a file; some agents share a jail."""
        self.version += 1
        version = f"{self.version}.0.0"
        strategy = "one_for_all" if name == "c" else "one_for_one"
        network = self.random.choice(["n", name])
        supervision = {"network": network, "strategy": strategy, "backoff_ms": 10.0, "restarts_max": 50}
        more: dict[str, Any] = {"supervision": supervision, "agent_version": version}
        hidden = self.random.randint(4, 12)
        if name == "bad":
            return self.bench.bad("trap", **more)
        if name == "b":
            policy = self.random.choice(["block", "drop_oldest", "latest_only"])
            source = {"type": "agent", "agent": "a", "queue": {"policy": policy, "rows": 4}}
            return self.bench.mlp("b", (2, hidden, 2), wiring={"sources": [source]}, **more)
        rows = self.random.choice([1, 2, 3])
        wiring: dict[str, Any] = {"sources": [{"type": "api", "width": 4}], "window": {"rows": rows, "hop": rows}}
        if name == "c":
            wiring["sinks"] = [{"type": "jsonl", "path": self.random.choice(["one", "two"])}]
            more["capabilities"] = ["file_sink"]
        return self.bench.mlp(name, (4 * rows, hidden, 2), wiring=wiring, **more)

    async def step(self) -> None:
        supervisor, name = self.bench.supervisor, self.random.choice(NAMES)
        act = self.random.choice(["deploy"] * 3 + ["swap"] * 2 + ["ask"] * 5 + "kill stop start remove save".split())
        self.done.append(f"{act} {name}")
        try:
            match act:
                case "deploy":
                    await supervisor.deploy([("t", self.file(name))])
                case "swap":
                    await supervisor.swap(name, "t", self.file(name))
                case "ask":
                    width = 1 if name == "bad" else 4
                    rows = [[self.random.random()] * width for _ in range(20)]
                    asked = (supervisor.ask(name, row, 0.3) for row in rows)
                    await asyncio.gather(*asked, return_exceptions=True)
                case "kill":
                    for jail in list(supervisor.jails.values()):
                        os.kill(jail.pid, signal.SIGKILL)
                case "stop":
                    await supervisor.stop(name)
                case "start":
                    await supervisor.start_agent(name)
                case "remove":
                    await supervisor.remove(name)
                case "save":
                    await supervisor.flows.checkpoint(AgentName(name))
        except (EdgeSwarmError, ProcessLookupError):
            pass  # refused: that is an answer
        self.ended += 1
        supervisor.node.check()
        assert all(flow.pipeline.lost == 0 for flow in supervisor.flows.flows.values())


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_random_lives_end_with_a_table_that_is_sound_and_no_row_lost(bench: Bench, seed: int) -> None:
    monkey = Monkey(bench, seed)

    async def run() -> None:
        for _ in range(STEPS // TOGETHER):
            await monkey.step()

    async with asyncio.timeout(SLOW_S):
        await asyncio.gather(*(run() for _ in range(TOGETHER)))
    assert monkey.ended == STEPS
    agents = bench.supervisor.node.table.agents
    settled = {"running", "paused", "stopped", "failed"}
    await until(lambda: {agent.status.value for agent in agents.values()} <= settled)
    assert not bench.events("control_fault") and not bench.events("task_fault"), monkey.done
    for name, agent in agents.items():
        if agent.status.value == "running" and name in ("a", "c"):
            flow = bench.supervisor.flows.flows[name]
            await until(lambda: flow.pipeline.idle)  # noqa: B023
    await bench.supervisor.close()
    bench.supervisor = bench.make()
    await bench.supervisor.start()
    assert set(bench.supervisor.node.table.agents) == set(agents)
