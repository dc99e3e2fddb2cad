"""Replays over a restart of ours, and what of it lies on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from brokers import Mosquitto
from swarm_cells import Stranger, fleet, member, until

from edgeswarm.core.cell import commands as cmd
from edgeswarm.wire import messages as msg


async def test_what_came_before_a_restart_is_refused_after_it(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 2, voters=1, start=1) as cell, Stranger(broker.url) as stranger:
        topic = cell.topics.inbox("d1")
        ask = msg.encode(msg.Request(b"1" * 16, "propose", 5_000, cmd.encode(cmd.Note("d2", "once"))))
        said = [cell.seal("d2", topic, ask, boot=boot, seq=3) for boot in (1, 2)]

        def notes() -> int:
            return sum(record.who == "d2" for record in cell["d1"].node.replica.state.audit)

        await cell.leader()
        for count, data in enumerate(said, 1):
            await stranger.says(topic, data)
            await until(lambda count=count: notes() == count)
        term = cell["d1"].node.peer.term_seen
        await cell["d1"].end()
        tree = json.loads((cell.states["d1"] / "swarm" / "heard").read_text())
        assert tree["senders"] == {"d2": [2, 3]} and tree["term"] == term

        cell.members["d1"] = member(cell.states["d1"])
        await cell["d1"].begin()
        await cell.leader()
        assert cell["d1"].node.peer.term_seen > term
        await until(lambda: cell["d1"].node.transport.is_connected)
        for data in said:
            await stranger.says(topic, data)
        await until(lambda: cell["d1"].refused.get("replay") == 2)
        assert notes() == 2


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"first": "other", "term": 9, "senders": {"d2": [9, 9]}}']
)
async def test_file_that_does_not_read_or_is_of_another_fleet_changes_nothing(tmp_path: Path, data: bytes) -> None:
    class Nowhere:
        url = "mqtt://127.0.0.1:1"

    async with fleet(Nowhere(), tmp_path, 1, start=0) as cell:
        (cell.states["d1"] / "swarm" / "heard").write_bytes(data)
        one = cell.members["d1"] = member(cell.states["d1"])
        await one.begin()
        assert not one.node.post.replay.export() and one.node.peer.term_seen <= 3
