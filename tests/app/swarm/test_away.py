"""A device whose supervisor is replaced by another version says that it is away, and keeps its agents."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from brokers import Mosquitto
from swarm_cells import Fleet, fleet, until

from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import AWAY_MS_MAX
from edgeswarm.wire import codec
from edgeswarm.wire import messages as msg

pytestmark = pytest.mark.e2e


async def known(cell: Fleet) -> None:
    """Everybody is in the cell's state, alive."""

    def look() -> bool:
        states = [one.node.replica.state.devices for one in cell.members.values()]
        return all(set(found) >= set(cell.members) and all(d.alive for d in found.values()) for found in states)

    await until(look, "all are known")


async def silent_for(cell: Fleet, times: float = 1.6) -> None:
    """Longer than a device may be silent that said nothing."""
    [one, *_] = cell.members.values()
    await asyncio.sleep(times * one.node.config.times.health.silent_ms / 1000)


@pytest.mark.parametrize("who", ["a device", "the leader"])
async def test_whoever_says_that_it_is_away_is_not_given_up(broker: Mosquitto, tmp_path: Path, who: str) -> None:
    async with fleet(broker, tmp_path, 3) as cell:
        leader = await cell.leader()
        await known(cell)
        name = next(n for n, one in cell.members.items() if (one is leader) is (who == "the leader"))
        leaves = cell.members.pop(name)
        try:
            await leaves.node.close(leaving=True)
            leader = await cell.leader()
            await silent_for(cell)
            assert leader.node.replica.state.devices[name].alive
            assert not leader.events("device_lost")
        finally:
            await leaves.supervisor.close()


async def test_a_device_that_does_not_come_back_is_given_up_then(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeswarm.app.swarm.node.AWAY_MS_MAX", 2_500)
    async with fleet(broker, tmp_path, 3) as cell:
        leader = await cell.leader()
        await known(cell)
        leaves = cell.members.pop(next(n for n, one in cell.members.items() if one is not leader))
        try:
            await leaves.node.close(leaving=True)
            [lost] = await until(lambda: leader.events("device_lost"), "it is given up")
            assert json.loads(lost)["silent_ms"] >= 2_400
        finally:
            await leaves.supervisor.close()


@pytest.mark.parametrize("ms", [-1, AWAY_MS_MAX + 1, 1 << 40])
def test_nobody_is_waited_for_longer_than_the_bound(ms: int) -> None:
    with pytest.raises(EdgeSwarmError):
        msg.decode(codec.dumps(["away", 1, ms]), who="d2", kinds=(msg.Away,))
