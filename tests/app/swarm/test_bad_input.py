"""Lies, floods and clones at a real broker, against devices inside this loop.  See docs/bad-input.md."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from brokers import Mosquitto
from swarm_cells import Fleet, Stranger, commits, fleet, member, until

from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import AgentSpec, Capabilities, Move
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import codec, cose
from edgeswarm.wire import messages as msg
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.dev_fleet import make_dev_fleet
from edgeswarm.wire.leadership import LeaderCertificate, VoteStatement
from edgeswarm.wire.roster_change import next_roster


def certificate(of: Fleet, term: int, candidate: int, votes: dict[int, bytes], **changes: Any) -> bytes:
    """Signed by whatever keys are given: voter -> seed."""
    names = {"fleet": of.made.fleet, "cell": of.made.cell, "roster_version": 1, **changes}
    statement = VoteStatement(term=term, candidate=candidate, last_index=9, last_term=1, voter=candidate, **names)
    signed = {voter: cose.signer(seed)(statement.by(voter).to_be_signed()) for voter, seed in votes.items()}
    return LeaderCertificate.make(statement, signed).encode()


# --- who leads --------------------------------------------------------------------------------------------------------


async def test_forged_leader_is_refused_by_all_and_the_true_one_is_retained_again(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with fleet(broker, tmp_path, 4, voters=3, start=3) as cell, Stranger(broker.url) as stranger:
        leader = await cell.leader()
        term = leader.node.peer.term_seen
        seeds = cell.made.device_seeds
        foreign = make_dev_fleet(3, entropy=b"\3" * 32, now_s=1_790_000_000).device_seeds
        forged = [
            certificate(cell, term + 5, 2, {2: seeds["d2"]}),  # one vote of three
            certificate(cell, term + 6, 2, {1: foreign["d1"], 2: foreign["d2"]}),  # keys of others
            certificate(cell, term + 7, 4, {1: seeds["d1"], 2: seeds["d2"]}),  # for one who does not vote
            certificate(cell, term + 8, 2, {1: seeds["d1"], 2: seeds["d2"]}, cell="other"),
            certificate(cell, term + 9, 2, {2: seeds["d2"], 4: seeds["d4"]}),  # a vote of one who has none
            certificate(cell, term + 10, 2, {1: seeds["d1"], 2: seeds["d2"]}, roster_version=99),
            b"rubbish",
            b"",
        ]
        for data in forged:
            await stranger.says(cell.topics.leader, data, retain=True)
        assert await commits(cell["d1"]) and await cell.leader() is leader
        assert leader.node.peer.term_seen == term
        assert all(one.node.peer.leader == leader.node.peer.leader for one in cell.members.values())
        heard = await stranger.hears(cell.topics.leader)
        true = leader.node.peer.leader
        assert true is not None
        await until(lambda: heard and heard[-1].payload == true.certificate, "the true certificate is retained again")
        late = cell.members["d4"] = member(cell.states["d4"])
        await late.begin()
        assert await cell.leader() is leader


async def test_certificate_that_comes_before_its_roster_counts_once_that_is_there(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with fleet(broker, tmp_path, 3, start=1) as cell, Stranger(broker.url) as stranger:
        roster, one = cell.made.roster, cell["d1"].node
        fresh = next_roster(roster, created_s=roster.created_s + 1, by=cell.made.operator, voters=[3])
        proof = certificate(cell, 50, 3, {3: cell.made.device_seeds["d3"]}, roster_version=2)
        await until(lambda: one.transport.is_connected)
        await stranger.says(cell.topics.leader, proof, retain=True)
        await until(lambda: cell["d1"].refused.get("content"))
        await stranger.says(cell.topics.roster, fresh.data, retain=True)
        await until(lambda: one.peer.leader is not None and one.peer.leader.device == "d3")
        await until(lambda: one.voter is None, "d1, which has no vote any more, puts its log aside")
        await until((one.folder / "raft.db.retired-1").exists)
        assert not (one.folder / "raft.db").exists()


async def test_forged_rolled_back_and_foreign_rosters_change_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 1) as cell, Stranger(broker.url) as stranger:
        one = await cell.leader()
        first = cell.made.roster
        when = first.created_s + 1
        by = Signatory.from_seed
        good = next_roster(first, created_s=when, by=cell.made.operator, voters=[1])
        await stranger.says(cell.topics.roster, good.data, retain=True)
        await until(lambda: one.node.rosters.current.version == 2)
        forged = [first.data]  # an old one
        for seed in (cell.made.device_seeds["d1"], b"\5" * 32):  # nobody who may sign rosters
            forged.append(next_roster(good, created_s=when, by=by(seed), voters=[1]).data)
        forged.append(next_roster(first, created_s=when + 1, by=cell.made.operator, voters=[1]).data)  # another 2
        other = make_dev_fleet(3, entropy=b"\3" * 32, now_s=first.created_s)
        for _ in range(2):
            step = next_roster(other.roster, created_s=when, by=other.operator, voters=[1])
            forged.append(next_roster(step, created_s=when, by=other.operator, voters=[1]).data)
        forged += [good.data[:-1], b"", b"\x00" * 1000]
        for data in forged:
            await stranger.says(cell.topics.roster, data, retain=True)
        await commits(one)
        assert one.node.rosters.current.data == good.data
        heard = await stranger.hears(cell.topics.roster)
        await until(lambda: heard and heard[-1].payload == good.data, "the true roster is retained again")


async def test_flood_of_forged_last_wills_costs_few_elections_and_nobody_is_given_up(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with fleet(broker, tmp_path, 3) as cell, Stranger(broker.url) as stranger:
        leader = await cell.leader()
        first = leader.node.peer.term_seen
        will = msg.encode(msg.Gone(1))
        for count in range(600):
            for device in (*cell.members, f"x{count}"):
                stranger.transport.publish(cell.topics.gone(device), will, priority=Priority.HIGH, qos=0)
            if count % 50 == 0:
                await asyncio.sleep(0.02)
        await asyncio.sleep(1.0)
        last = await cell.leader()
        await commits(last)
        # the first wills may cost an election each, since they might be true; then none is listened to for a while
        assert last.node.peer.term_seen <= first + 3
        assert all(len(one.node.duties._wills) <= 2 * 3 + 64 for one in cell.members.values())
        assert all(device.alive for device in last.node.replica.state.devices.values())


# --- whose key --------------------------------------------------------------------------------------------------------


async def test_two_devices_with_one_key_are_told_and_alerts_do_not_flood(broker: Mosquitto, tmp_path: Path) -> None:
    """A copy of a state directory: it begins in the same boot, and takes the broker's connection away."""
    async with fleet(broker, tmp_path, 1) as cell:
        one = await cell.leader()
        shutil.copytree(cell.states["d1"], tmp_path / "copy", ignore=shutil.ignore_patterns("run", "*.lock", "raft*"))
        (tmp_path / "copy" / "swarm" / "boot").write_text("0")
        clone = member(tmp_path / "copy")
        await clone.begin()
        try:
            await until(lambda: one.events("device_cloned") and clone.events("device_cloned"), "both tell")
            assert one.node.boot == clone.node.boot
            await asyncio.sleep(0.5)
            assert len(one.events("device_cloned")) == len(clone.events("device_cloned")) == 1
        finally:
            await clone.end()


async def test_key_of_ours_under_another_connection_raises_one_alert(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 1) as cell, Stranger(broker.url) as stranger:
        one = await cell.leader()
        alerts = await stranger.hears(cell.topics.event("critical", "alert"))
        topic = cell.topics.event("low", "health")
        for seq in range(50):
            await stranger.says(topic, cell.seal("d1", topic, b"x", boot=7, seq=seq))
        await until(lambda: alerts)
        assert len(one.events("device_cloned")) == 1 and len(alerts) == 1
        assert '"other_boot":7' in one.events("device_cloned")[0]


# --- orders -----------------------------------------------------------------------------------------------------------


def order(of: Fleet, kind: Any, number: int, by: Signatory, **changes: Any) -> bytes:
    names = {"fleet": of.made.fleet, "cell": of.made.cell, **changes}
    return msg.seal_order(kind(number=number, reason="test"), public=by.public, sign=by.sign, **names)


async def test_orders_of_who_is_no_operator_and_old_orders_stop_nobody(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 1) as cell, Stranger(broker.url) as stranger:
        one = await cell.leader()
        operator, stop, resume = cell.made.operator, msg.SafetyStop, msg.SafetyResume
        for by in (
            cell.made.issuer,
            Signatory.from_seed(cell.made.device_seeds["d1"]),
            Signatory.from_seed(b"\5" * 32),
        ):
            await stranger.says(cell.topics.stop, order(cell, stop, 9, by), retain=True)
        await stranger.says(cell.topics.stop, order(cell, stop, 9, operator, cell="other"), retain=True)
        await commits(one)
        assert not one.node.orders.halted and one.node.orders.number == 0
        first, second = order(cell, stop, 1, operator), order(cell, resume, 2, operator)
        await stranger.says(cell.topics.stop, first, retain=True)
        await until(lambda: one.node.orders.halted)
        await stranger.says(cell.topics.stop, second, retain=True)
        await until(lambda: not one.node.orders.halted)
        for data in (first, first, b"", b"rubbish"):  # replayed, cleared
            await stranger.says(cell.topics.stop, data, retain=True)
        await commits(one)
        assert not one.node.orders.halted and one.node.orders.number == 2
        heard = await stranger.hears(cell.topics.stop)
        await until(lambda: heard and heard[-1].payload == second, "the order in force is retained again")


async def test_damaged_order_on_disk_is_told_and_the_device_starts(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 1, start=0) as cell:
        (cell.states["d1"] / "swarm" / "order").write_bytes(b"\xff" * 100_000)
        cell.members["d1"] = member(cell.states["d1"])
        await cell.members["d1"].begin()
        one = await cell.leader()
        assert one.events("order_refused") and not one.node.orders.halted


# --- who may propose what ---------------------------------------------------------------------------------------------


async def test_nobody_proposes_what_is_the_leader_s_or_another_device_s(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 2, voters=1) as cell:
        leader = await cell.leader()
        other = next(one for one in cell.members.values() if one is not leader)
        await until(lambda: len(leader.node.replica.state.devices) == 2)
        offer = Capabilities()
        refused: list[Any] = [
            cmd.DeviceLost("d1", 1),
            cmd.DeviceBack("d1", 1),
            cmd.ForgetDevice("d1", "me"),
            cmd.Place((Move("a", "d2", 0),)),
            cmd.SetVersion(2),
            cmd.RegisterDevice("d1", 9, offer),
            cmd.FinishTask("job", 0, 1, "d1", b""),
            cmd.SetRoster(2, b"\0" * 32, b"rubbish"),
            cmd.batch([cmd.DeviceLost("d1", 1)]),
            cmd.WithSession(1, 1, 0, cmd.encode(cmd.DeviceLost("d1", 1))),
            cmd.WithSession(1, 1, 0, cmd.batch([cmd.DeviceLost("d1", 1)])),
        ]
        state = leader.node.replica.state
        await until(lambda: state.version == state.supported)  # the leader's own housekeeping is done
        before = leader.node.replica.index
        for command in refused:
            data = command if isinstance(command, bytes) else cmd.encode(command)
            with pytest.raises(EdgeSwarmError):
                await other.node.peer.propose(data)
        for data in (b"", b"\xff" * 40, codec.dumps([1, 99, "x"]), codec.dumps([1] * 50)):
            with pytest.raises(EdgeSwarmError):
                await other.node.peer.propose(data)
        assert leader.node.replica.index == before
        assert await commits(other)


async def test_reader_registers_and_changes_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 1) as cell:
        one = await cell.leader()
        orders = one.node.orders
        role = type(one.node.rosters.current).role
        offer = Capabilities(grants=one.node.reports.capabilities().grants)
        allowed: list[Any] = [cmd.RegisterDevice("d1", 1, offer), cmd.OpenSession("me")]
        refused: list[Any] = [
            cmd.Note("me", "x"),
            cmd.Deploy(AgentSpec("a", b"\0" * 32), 0, "me"),
            cmd.Remove("a", "me"),
        ]
        refused += [cmd.Stop("me", "why"), cmd.Resume("me", "why"), cmd.Drain("d1", True, "me")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(one.node.rosters.current), "role", lambda self, device: "reader")
            for command in allowed:
                orders.check_may_propose("d1", cmd.encode(command))
            for command in refused:
                with pytest.raises(EdgeSwarmError, match="reader"):
                    orders.check_may_propose("d1", cmd.encode(command))
        assert role(one.node.rosters.current, "d1") == "coordinator"
