"""Questions to oneself, answers that are too large, and a clock that is set."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from brokers import Mosquitto
from swarm_cells import fleet, until

from edgeswarm.app.swarm.control import SwarmControl
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.app.swarm.replica import OutcomeUnknownError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.limits import MQTT_PAYLOAD_BYTES_MAX


async def test_leader_hands_over_when_it_is_asked_itself(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 3) as cell:
        leader = await cell.leader()
        other = next(name for name, one in cell.members.items() if one is not leader)
        await until(lambda: len(leader.node.replica.state.devices) == 3)
        answer = await SwarmControl(leader.node).one["transfer"]({"to": other})
        assert answer["leader"] == other


async def test_answer_beyond_its_bounds_is_told_and_a_set_clock_hides_no_device(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def much(sender: str, body: bytes) -> bytes:
        return bytes(MQTT_PAYLOAD_BYTES_MAX)

    async with fleet(broker, tmp_path, 2, voters=1) as cell:
        one, other = cell["d1"].node, cell["d2"].node
        await cell.leader()
        await until(lambda: one.transport.is_connected and other.transport.is_connected)
        one.peer.methods["much"] = much
        with pytest.raises(CallError):
            await other.peer.call("d1", "much", deadline_s=5.0)
        monkeypatch.setattr("time.time", lambda: 7.0)
        assert 0 <= one.uptime_s < 3_600


async def test_who_asked_a_leader_that_leads_no_more_is_told_at_once(broker: Mosquitto, tmp_path: Path) -> None:
    """Whether the command was applied is unknown: it is neither proposed again nor waited for until the deadline."""
    async with fleet(broker, tmp_path, 2, voters=1) as cell:
        one, other = cell["d1"].node, cell["d2"].node
        await cell.leader()
        await until(lambda: other.peer.leader)
        assert one.voter is not None
        one.voter.loop.close()  # nothing is committed any more
        asked = asyncio.ensure_future(other.peer.propose(cmd.encode(cmd.Note("d2", "x")), deadline_s=60.0))
        while not asked.done():  # others wait there too: which of them is ours, it does not say
            one.replica.give_up("this device leads no more")
            await asyncio.sleep(0.05)
        with pytest.raises(OutcomeUnknownError, match="leads no more"):
            await asyncio.wait_for(asked, 10)
