"""What goes wrong around a device of a cell: control socket, disk, clock, broker, files.  See docs/bad-input.md."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from brokers import Mosquitto, amqtt, free_port
from swarm_cells import agent_file, commits, fleet, member, until

from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.control import SwarmControl
from edgeswarm.app.swarm.replica import RejectedError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.errors import EdgeSwarmError, LocalError

# --- the control socket -----------------------------------------------------------------------------------------------


async def test_hostile_requests_to_the_control_socket_are_refused_by_name(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 1) as cell:
        one = await cell.leader()
        control = SwarmControl(one.node)
        bad: list[tuple[str, dict[str, Any]]] = [
            ("whereis", {}),
            ("whereis", {"agent": 5}),
            ("whereis", {"agent": "no-such"}),
            ("whereis", {"agent": "x" * 100_000}),
            ("place", {"data": b""}),
            ("place", {"data": b"\0" * 100_000}),
            ("place", {"data": "text"}),
            ("place", {"data": agent_file(one.publisher, "fits"), "near": [1]}),
            ("place", {"data": agent_file(one.publisher, "fits"), "near": ["x"] * 5000}),
            ("place", {"data": agent_file(one.publisher, "fits"), "pin": "X" * 5000}),
            ("remove", {"agent": "no-such"}),
            ("remove", {"agent": "\0" * 5000}),
            ("transfer", {"to": "nobody"}),
            ("transfer", {"to": 3}),
            ("order", {"data": b"rubbish"}),
            ("order", {"data": b"\0" * 1_000_000}),
            ("log", {"count": "x"}),
        ]
        for what, args in bad:
            with pytest.raises(EdgeSwarmError):
                await control.one[what](args)
        for count in (-(1 << 70), 0, 1 << 70):
            assert len((await control.one["log"]({"count": count}))["entries"]) >= 1
        assert await commits(one)
        assert not one.events("swarm_fault")


async def test_clients_that_watch_and_leave_take_nothing_from_the_others(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 2, voters=1) as cell:
        leader = await cell.leader()
        watches = [SwarmControl(leader.node).many["watch"]({}) for _ in range(3)]
        firsts = [asyncio.ensure_future(anext(watch)) for watch in watches]
        await asyncio.sleep(0.1)
        await commits(leader)
        assert {(await first)["event"] for first in firsts} <= {
            "Noted",
            "DeviceUp",
            "VersionChanged",
            "agent.lifecycle",
            "leader",
        }
        for watch in watches:
            await watch.aclose()  # type: ignore[attr-defined]
        before = leader.node.duties.health.heard_at("d2")
        await until(lambda: leader.node.duties.health.heard_at("d2") != before, "d2 is heard still")
        assert not leader.node.peer.on_leader[3:]


# --- disk, clock, broker ----------------------------------------------------------------------------------------------


async def test_voter_whose_disk_is_full_stops_voting_and_comes_back(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeswarm.app.swarm.voting.STORE_RETRY_S", 0.2)
    async with fleet(broker, tmp_path, 3) as cell:
        leader = await cell.leader()
        ill = next(one for one in cell.members.values() if one is not leader)
        store = ill.node.voter.store  # type: ignore[union-attr]
        save = store.save_soon

        def full(hard: Any, entries: Any, snapshot: Any, done: Any) -> None:
            asyncio.get_running_loop().call_soon(done, LocalError("database or disk is full"))

        monkeypatch.setattr(store, "save_soon", full)
        await commits(leader, "one")
        await until(lambda: ill.events("voter_failed"))
        await until(lambda: ill.node.voter is not None and ill.node.voter.store is not store, "it votes again")
        index = await commits(leader, "two")
        await until(lambda: ill.node.replica.index >= index)
        assert ill.node.replica.state.to_snapshot() == leader.node.replica.state.to_snapshot() or await until(
            lambda: ill.node.replica.state.to_snapshot() == leader.node.replica.state.to_snapshot()
        )
        assert not ill.events("swarm_fault") and save


async def test_full_disk_does_not_end_what_stops_agents(broker: Mosquitto, tmp_path: Path) -> None:
    """The list of the cell's agents cannot be written; the loop that fences them goes on."""
    async with fleet(broker, tmp_path, 1) as cell:
        one = await cell.leader()
        hosted = one.node.hosted
        control = SwarmControl(one.node)
        await control.one["place"]({"data": agent_file(one.publisher, "mlp")})
        await until(lambda: "mlp" in hosted.running)
        with pytest.MonkeyPatch.context() as patch:

            def full(*_: Any, **__: Any) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr("edgeswarm.app.swarm.hosted.write_whole", full)
            await control.one["remove"]({"agent": "mlp"})
            await until(lambda: "mlp" not in hosted.running)
            await until(lambda: one.events("cell_agent_not_stopped"), "what could not be written is told")
        await control.one["place"]({"data": agent_file(one.publisher, "other")})
        await until(lambda: "other" in hosted.running, "the loop goes on")


async def test_clock_that_is_hours_off_changes_nothing(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the cell is decided by the wall clock: no lease, no election, no life."""
    import time

    async with fleet(broker, tmp_path, 3) as cell:
        leader = await cell.leader()
        real = time.time
        for hours in (-30, 500):
            monkeypatch.setattr(time, "time", lambda hours=hours: real() + hours * 3600)
            assert await commits(leader)
            await asyncio.sleep(0.4)
            assert all(one.node.lease.held for one in cell.members.values())
        assert await cell.leader() is leader


async def test_what_waits_for_a_broker_that_is_gone_is_bounded_and_the_cell_goes_on_after_it(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with fleet(broker, tmp_path, 1) as cell:
        one = await cell.leader()
        broker.close()
        await until(lambda: not one.node.transport.is_connected)
        topic = cell.topics.event("critical", "alert")
        for _ in range(30_000):
            one.node.post.send(topic, b"x" * 900, priority=Priority.HIGH, qos=1)
        await asyncio.sleep(0.3)
        stats = one.node.transport.stats()
        assert sum(sum(kinds.values()) for kinds in stats["dropped"].values()) + stats["stored_offline"] > 10_000
        await broker.start()
        await until(lambda: one.node.transport.is_connected)
        assert await commits(one)


async def test_cell_works_on_a_broker_that_speaks_3_1_1_only(tmp_path: Path) -> None:
    async with amqtt() as broker, fleet(broker, tmp_path, 2, voters=1) as cell:
        leader = await cell.leader()
        other = next(one for one in cell.members.values() if one is not leader)
        index = await commits(other)
        await until(lambda: other.node.replica.index >= index)
        assert leader.node.transport.stats()["brokers"][0]["protocol"] == 4
        assert not leader.events("device_cloned") and not other.events("device_cloned")


async def test_key_that_is_not_the_roster_s_is_refused_at_the_start(tmp_path: Path) -> None:
    class Nowhere:
        url = f"mqtt://127.0.0.1:{free_port()}"

    async with fleet(Nowhere(), tmp_path, 1, start=0) as cell:
        (cell.states["d1"] / "keys" / "device.key").write_bytes((b"\6" * 32).hex().encode() + b"\n")
        with pytest.raises(LocalError, match="not the roster's for device d1"):
            await member(cell.states["d1"]).begin()


async def test_faults_of_the_cell_s_files_are_told_with_their_path(tmp_path: Path) -> None:
    class Nowhere:
        url = f"mqtt://127.0.0.1:{free_port()}"

    async with fleet(Nowhere(), tmp_path, 1, start=0) as cell:
        state = cell.states["d1"]
        base = state / "swarm"
        for path, data in (
            (base / "cell.toml", b"\xff\xfe"),
            (base / "cell.toml", b'fleet = "A B"\n'),
            (base / "cell.toml", b"x" * 10_000_000),
            (base / "boot", b"many"),
            (base / "rosters" / "1.cbor", b"rubbish"),
        ):
            kept = path.read_bytes() if path.exists() else b""
            path.write_bytes(data)
            with pytest.raises(EdgeSwarmError, match=path.name):
                await member(state).begin()
            path.write_bytes(kept) if kept else path.unlink()
        assert cell_config.load(state).device == "d1"


async def test_rejected_command_is_told_with_its_reason(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 1) as cell:
        one = await cell.leader()
        with pytest.raises(RejectedError):
            await one.node.propose(cmd.encode(cmd.Remove("nobody", "test")))
