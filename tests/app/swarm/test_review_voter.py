"""Who is heard as a voter, and what becomes of a voter that breaks."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from brokers import Mosquitto
from swarm_cells import Stranger, fleet, member, until

from edgeswarm.core.cell import commands as cmd
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import codec, raft
from edgeswarm.wire.raft import Entry, EntryType, Message, MessageType
from edgeswarm.wire.roster import Roster


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeswarm.app.swarm.voting.STORE_RETRY_S", 0.1)


def packet(sender: int, to: int, **what: Any) -> bytes:
    return codec.dumps([1, 1, [raft.encode(Message(to=to, sender=sender, **what))]])


async def test_device_that_may_not_vote_neither_proposes_nor_leads_by_raft_packets(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = Roster.role
    monkeypatch.setattr(Roster, "role", lambda self, device: "worker" if device == "d2" else role(self, device))
    async with fleet(broker, tmp_path, 2, voters=1, start=1) as cell, Stranger(broker.url) as stranger:
        leader = await cell.leader()
        term, topic = leader.node.peer.term_seen, cell.topics.raft("d1")
        command = Entry(0, 0, EntryType.NORMAL, bytes(16) + cmd.encode(cmd.Stop("d2", "because")))
        lies = [
            packet(2, 1, type=MessageType.PROP, entries=(command,)),
            packet(2, 1, type=MessageType.HEARTBEAT, term=term + 7),
        ]
        for count, data in enumerate(lies):
            await stranger.says(topic, cell.seal("d2", topic, data, seq=count))
        await until(lambda: leader.refused.get("content", 0) == len(lies))
        await leader.node.propose(cmd.encode(cmd.Note("d1", "still here")))
        assert leader.node.replica.state.stop is None
        assert leader.node.leads and leader.node.peer.term_seen == term


async def test_fault_of_ours_in_a_turn_does_not_leave_half_a_voter(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 1) as cell:
        one = await cell.leader()
        broken = one.node.voter
        assert broken is not None

        def fault(turn: Any) -> None:
            raise ZeroDivisionError("ours")

        broken.member.done = fault
        with suppress(EdgeSwarmError):  # or an earlier turn fell, and the next voter has taken it
            await one.node.propose(cmd.encode(cmd.Note("d1", "lost?")), deadline_s=1.0)
        await until(lambda: one.node.leads and one.node.voter is not broken, "it votes and leads again")
        await one.node.propose(cmd.encode(cmd.Note("d1", "still here")))
        assert one.events("swarm_fault")


async def test_damaged_log_keeps_a_device_from_voting_and_from_nothing_else(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 3) as cell:
        leader = await cell.leader()
        await until(lambda: len(leader.node.replica.state.devices) == 3)
        device = next(name for name, one in cell.members.items() if one is not leader)
        await cell.members[device].end()
        path = cell.states[device] / "swarm" / "raft.db"
        path.write_bytes(b"\xff" * path.stat().st_size)
        ill = cell.members[device] = member(cell.states[device])
        await ill.begin()
        found = ill.events("voter_failed")
        assert found and "raft.db" in str(found[0])
        index, _ = await leader.node.propose(cmd.encode(cmd.Note("d1", "without it")))
        await until(lambda: ill.node.replica.index >= index, "it follows the feed")
        for part in path.parent.glob("raft.db*"):  # while it is a voter, it may not begin with an empty log
            part.rename(part.with_name("old-" + part.name))
        await until(lambda: "it is gone" in str(ill.events("voter_failed")[-1]))
        assert ill.node.voter is None and not path.exists()


async def test_snapshot_is_written_beside_the_loop_and_read_after_a_restart(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeswarm.app.swarm.voter.RAFT_SNAPSHOT_EVERY", 20)
    async with fleet(broker, tmp_path, 1) as cell:
        one = await cell.leader()
        index = 0
        for count in range(45):
            index, _ = await one.node.propose(cmd.encode(cmd.Note("d1", f"note {count}")))
        voter = one.node.voter
        assert voter is not None
        await until(lambda: voter.store.storage.snapshot().index >= 40)
        await one.end()
        again = cell.members["d1"] = member(cell.states["d1"])
        await again.begin()
        await cell.leader()
        await until(lambda: again.node.replica.index > index, "the kept entries, and the new term's own")
        notes = [record.what for record in again.node.replica.state.audit if record.what.startswith("note ")]
        assert notes == [f"note {count}" for count in range(45)]
        assert not again.events("swarm_fault") and not again.events("snapshot_not_kept")
