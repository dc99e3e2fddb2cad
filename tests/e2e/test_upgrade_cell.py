"""Devices of a cell are upgraded: what the cell has placed on them runs on in its jail, and nothing moves."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from swarm_cells import Cell, cell, until
from upgrades import GOOD

pytestmark = pytest.mark.e2e


async def upgrade(c: Cell, device: str) -> dict[str, Any]:
    await c.op(device, "upgrade", program=GOOD, healthy_s=0.5)

    async def decided() -> Any:
        found = await c.op(device, "upgrade_status")
        return found if found["state"] in ("healthy", "rolled_back") else None

    found: dict[str, Any] = await until(decided, f"{device} is upgraded")
    return found


async def jail_of(c: Cell, device: str, agent: str) -> int:
    [row] = [row for row in (await c.op(device, "status"))["agents"] if row["name"] == agent]
    return int(row["pid"])


async def answers(c: Cell, device: str, agent: str) -> bool:
    """The agent may run, and does: one row is answered."""
    return bool(await c.op(device, "ask", name=agent, rows=[[1.0, 2.0, 3.0, 4.0]], timeout_s=0.5))


async def in_cell(c: Cell, device: str, agent: str) -> bool:
    return agent in (await c.call(device, "status"))["agents"]


async def test_agents_of_the_cell_stay_in_their_jails_while_their_devices_are_upgraded() -> None:
    async with cell(3) as c:
        leader = await c.wait_leader()
        homes = {}
        for agent in ("one", "two"):
            await c.place(c.agent(agent), by=leader)
            homes[agent] = await c.runs_on(agent, ask=leader)
        pids = {agent: await jail_of(c, device, agent) for agent, device in homes.items()}
        for device in {*homes.values(), leader}:
            found = await upgrade(c, device)
            assert found["state"] == "healthy", found
            for agent in [agent for agent, home in homes.items() if home == device]:
                await until(partial(in_cell, c, device, agent), f"{agent} is the cell's on {device} again")
                await until(partial(answers, c, device, agent), f"{agent} answers")
        leader = await c.wait_leader()
        for agent, device in homes.items():
            assert await c.runs_on(agent, ask=leader) == device
            assert await jail_of(c, device, agent) == pids[agent]
            began = [row for row in c.events(device, "jail_ready") if agent in row["agents"]]
            assert len(began) == 1
        assert not [row for device in c.states for row in c.events(device, "cell_agent_stopped")]
        assert not c.faults()
