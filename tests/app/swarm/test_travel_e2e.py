"""An agent that counts goes on counting on another device when its own is killed."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from supervised import header_tree

from edgeswarm import SwarmCoordinator, Task
from edgeswarm.app import builder
from edgeswarm.app.swarm.client import SwarmClient
from edgeswarm.app.swarm.coordinator_fleet import DevFleet
from edgeswarm.drivers import keys
from edgeswarm.model import from_arrays

pytestmark = pytest.mark.e2e


def counter(fleet: DevFleet) -> bytes:
    """Output 1 is fed back as input 1, both outputs are input plus memory."""
    key, _ = keys.load_or_make(fleet.folder / "fleet" / "publisher.key")
    model = from_arrays([np.ones((2, 2), np.float32)], [np.zeros(2, np.float32)])
    tree = header_tree("counter", 2, 2, memory={"width": 1}, wiring={"sources": [{"type": "api", "width": 1}]})
    return builder.build(tree, model, key=key)


async def count(swarm: SwarmCoordinator, times: int) -> list[float]:
    """What it answers to ones.  Rows once asked are not asked again: it may have counted them."""
    job = await swarm.assign_tasks([Task("count", agent="counter", rows=[[1.0]] * times)])
    answers = (await job.result(timeout_s=20))["count"]["answers"]
    return [answer["values"][0] for answer in answers]


async def test_a_checkpoint_travels_with_its_agent() -> None:
    async with SwarmCoordinator.create_swarm(devices=3) as swarm, asyncio.timeout(45):
        fleet = swarm.fleet
        assert fleet is not None
        await swarm.place(counter(fleet))
        assert await count(swarm, 3) == [1.0, 2.0, 3.0]
        home = await swarm.whereis("counter")
        assert home is not None
        client = SwarmClient(fleet.socket(home))
        await client.ask("checkpoint", name="counter")
        while not await committed(client):  # noqa: ASYNC110 - what is asked is another process
            await asyncio.sleep(0.1)
        fleet.kill(home)
        while await swarm.whereis("counter") in (home, None):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert await count(swarm, 2) == [4.0, 5.0]
        there = await swarm.whereis("counter")
        assert there is not None and "checkpoint_brought" in fleet.log(there)


async def committed(client: SwarmClient) -> bool:
    found: dict[str, Any] = await client.call("log", count=20)
    return any("Checkpoint(agent='counter'" in entry["command"] for entry in found["entries"])
