"""A worker and a reader of a real cell that try what they may not: at a real broker, past their own checks."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from brokers import Mosquitto
from swarm_cells import Fleet, Stranger, agent_file, fleet, member, until

from edgeswarm.app.swarm.replica import RejectedError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import AgentSpec, Capabilities, Move, TaskSpec, TaskStatus
from edgeswarm.core.raft.member import PACKET_VERSION
from edgeswarm.drivers import keys
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import codec
from edgeswarm.wire import messages as msg
from edgeswarm.wire.capability import ALL
from edgeswarm.wire.raft import ConfState, Message, MessageType, Snapshot, encode
from edgeswarm.wire.roster_change import new_entry, next_roster
from edgeswarm.wire.roster_form import Entry

WORKER = ("neural.compute",)
DIGEST = bytes(32)


async def regrant(cell: Fleet, entries: dict[str, tuple[Any, tuple[str, ...]]]) -> None:
    """The operator gives these devices another role and other grants; every device that runs has the roster then."""
    leader = await cell.leader()
    now = leader.node.rosters.current
    changed = []
    for device, (role, grants) in entries.items():
        found = now.member(device)
        assert found is not None
        changed.append(new_entry(now, Entry(device, found.entry.number, role, grants, 1), cell.made.operator))
    fresh = next_roster(now, created_s=now.created_s, by=cell.made.operator, entries=changed)
    await leader.node.propose(cmd.encode(cmd.SetRoster(fresh.version, fresh.previous, fresh.data)))
    await until(lambda: all(one.node.rosters.current.version == fresh.version for one in cell.members.values()))


@asynccontextmanager
async def ranks(broker: Mosquitto, folder: Path, **grants: tuple[str, ...]) -> AsyncIterator[Fleet]:
    """d1 leads and may all; d2 is a worker, d3 a reader; grants: of these, instead of the usual."""
    async with fleet(broker, folder, 3, voters=1, start=1) as cell:
        await cell.leader()
        await regrant(cell, {"d2": ("worker", grants.get("d2", WORKER)), "d3": ("reader", grants.get("d3", ()))})
        for device in ("d2", "d3"):
            cell.members[device] = member(cell.states[device])
            await cell[device].begin()
        await until(lambda: set(cell["d1"].node.replica.state.devices) == {"d1", "d2", "d3"}, "all have registered")
        await until(lambda: cell["d1"].node.replica.state.version == 3, "the cell grows to the latest version")
        yield cell


def forbidden(who: str) -> list[cmd.Command]:
    token, rollout = "a" * 13, "0" * 16
    return [
        cmd.Deploy(AgentSpec("mlp", DIGEST), 0, who),
        cmd.Remove("mlp", who),
        cmd.Drain("d1", True, who),
        cmd.Stop(who, "why"),
        cmd.Resume(who, "why"),
        cmd.Checkpoint("mlp", 1, DIGEST),
        cmd.AddToken(token, DIGEST, "coordinator", 9, 1 << 40, False, (), ("deploy",), who),
        cmd.UseToken(token, "new", DIGEST, 1),
        cmd.RevokeToken(token, who),
        cmd.SetLabels("d1", ("room=a",), who),
        cmd.StartRollout(rollout, "mlp", DIGEST, b"", who),
        cmd.AdvanceRollout(rollout, 1, (who,), who),
        cmd.SteerRollout(rollout, "done", b"", "", who),
        cmd.RotateRoot(b"root", who),
        cmd.RegisterDevice(who, 1 << 40, Capabilities(grants=ALL)),
        cmd.Note("d1", "it was d1"),
    ]


async def test_worker_and_reader_put_nothing_into_the_log_that_is_not_theirs(broker: Mosquitto, tmp_path: Path) -> None:
    async with ranks(broker, tmp_path) as cell:
        state = cell["d1"].node.replica.state
        noted = list(state.audit)
        for who, more in (
            ("d2", []),
            ("d3", [cmd.Note("d3", "me"), cmd.SubmitJob("j", "d3", (TaskSpec("t", agent="a"),))]),
        ):
            for command in [*forbidden(who), *more]:
                for data in (cmd.encode(command), cmd.encode(cmd.Batch((cmd.encode(command),)))):
                    with pytest.raises(EdgeSwarmError):  # straight to the leader: their own programs would not ask
                        await cell[who].node.peer.propose(data)
        assert state.audit == noted
        assert not (state.tokens or state.labels or state.rollouts or state.roots or state.agents or state.jobs)
        assert state.devices["d2"].capabilities.grants == WORKER
        assert state.devices["d3"].capabilities.grants == ()
        await cell["d2"].node.propose(cmd.encode(cmd.Note("d2", "it was me")))


async def test_a_stream_and_an_alert_of_who_may_not_are_not_taken(broker: Mosquitto, tmp_path: Path) -> None:
    """Signed with the device's own key, by a program that does not look at the roster."""
    async with ranks(broker, tmp_path) as cell, Stranger(broker.url) as attacker:
        one, heard = cell["d1"], []
        topics = cell.topics
        one.node.post.on(topics.streams("+", "mlp"), lambda letter: heard.append(letter.sender))
        one.node.post.on(topics.events("critical", "alert"), lambda letter: heard.append(letter.sender))
        alert = msg.encode(msg.Alert(device="d3", severity="critical", code="lie", text="all is lost"))
        lies = [(device, topics.stream(device, "mlp"), b"rows") for device in ("d2", "d3")]
        lies += [("d3", topics.event("critical", "alert"), alert)]
        for at, (device, topic, payload) in enumerate(lies):
            before, tries = one.refused.get("content", 0), itertools.count((1 << 40) + (at << 20))

            async def lied(device: str = device, topic: str = topic, payload: bytes = payload, before: int = before,
                           tries: Iterator[int] = tries) -> bool:  # fmt: skip
                """Again and again: the subscription may not be there yet."""
                await attacker.says(topic, cell.seal(device, topic, payload, boot=1 << 30, seq=next(tries)))
                return one.refused.get("content", 0) > before

            await until(lied, f"{topic} of {device} is refused")
        assert heard == []
        await regrant(cell, {"d2": ("worker", (*WORKER, "stream.publish:mlp"))})
        topic = topics.stream("d2", "mlp")
        await attacker.says(topic, cell.seal("d2", topic, b"rows", boot=1 << 30, seq=1 << 41))
        await until(lambda: heard == ["d2"], "what was granted meanwhile is heard")


async def test_a_device_without_compute_is_given_no_work_and_does_none(broker: Mosquitto, tmp_path: Path) -> None:
    async with ranks(broker, tmp_path, d2=()) as cell:
        leader, idle = cell["d1"], cell["d2"]
        publisher, _ = keys.load_or_make(tmp_path / "f" / "fleet" / "publisher.key")
        data = agent_file(publisher, "mlp")
        digest = await leader.node.artefacts.put(data)
        state = leader.node.replica.state
        pinned = AgentSpec("mlp", digest, pin="d2")
        await leader.node.propose(cmd.encode(cmd.Deploy(pinned, 0, "d1")))
        await until(lambda: "mlp" in leader.node.duties.unplaced, "the plan says that there is no device")

        async def placed() -> bool:
            """By a leader that does not look; again where a busy machine made d2 seem lost."""
            try:
                await leader.node.commit(cmd.encode(cmd.Place((Move("mlp", "d2", state.agents["mlp"].epoch),))))
            except RejectedError:
                return False
            return True

        await until(placed, "the log has it on d2")
        await until(lambda: "does not grant neural.compute to d2" in str(idle.events("cell_agent_not_started")))
        assert "mlp" not in idle.node.hosted.running
        task = TaskSpec("t", artefact=digest, input=codec.dumps({"rows": [[1.0, 2.0, 3.0, 4.0]]}), retries_max=0)
        await leader.node.propose(cmd.encode(cmd.SubmitJob("job", "d1", (task,))))
        await until(lambda: state.jobs["job"].runs[0].status is TaskStatus.FINISHED, "d1 does it")
        assert state.jobs["job"].runs[0].device == "d1"
        with pytest.raises(EdgeSwarmError, match="neural.compute"):
            await idle.node.propose(cmd.encode(cmd.SubmitJob("mine", "d2", (task,))))
        with pytest.raises(EdgeSwarmError, match="neural.compute is not granted to d2"):
            await idle.node.peer.call("d1", "task.ask", codec.dumps([["mlp"], [[1.0, 2.0, 3.0, 4.0]]]), deadline_s=5)


@pytest.mark.parametrize("kind", [MessageType.HEARTBEAT, MessageType.APP, MessageType.SNAP, MessageType.TIMEOUT_NOW])
async def test_a_coordinator_without_a_vote_does_not_lead_by_saying_so(
    broker: Mosquitto, tmp_path: Path, kind: MessageType
) -> None:
    """Raw Raft packets, signed with its own key: no term of its invention is taken, no entry, no leader."""
    async with fleet(broker, tmp_path, 4, voters=3, start=1) as cell, Stranger(broker.url) as attacker:
        one = cell["d1"]
        await until(lambda: one.node.transport.is_connected and one.node.voter is not None)
        voter = one.node.voter
        assert voter is not None
        assert cell.made.roster.role("d4") == "coordinator" and not cell.made.roster.is_voter("d4")
        before = one.refused.get("content", 0)
        snapshot = Snapshot(1 << 20, 1 << 20, ConfState((4,)), bytes(8)) if kind is MessageType.SNAP else None
        lie = Message(kind, to=1, sender=4, term=1 << 20, index=1, log_term=1, commit=1, snapshot=snapshot)
        packet = codec.dumps([PACKET_VERSION, 1, [encode(lie)]])
        topic = cell.topics.raft("d1")
        await attacker.says(topic, cell.seal("d4", topic, packet, boot=1 << 30, seq=1 << 40))
        await until(lambda: one.refused.get("content", 0) > before, "the packet is refused")
        assert voter.member.node.raft.term < 1 << 20
        assert voter.member.node.raft.lead != 4
