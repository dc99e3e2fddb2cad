"""A real cell works through the hardened broker, with mutual TLS, each device in its role."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from hardened import Hardened, make
from swarm_cells import Member, agent_file, until

from edgeswarm.app.swarm.control import SwarmControl
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers import keys
from edgeswarm.wire.certificate import Role


def says_all(hardened: Hardened) -> None:
    """mosquitto tells whom it denies what only among its debug words."""
    path = hardened.files.config
    path.write_text(path.read_text() + f"log_type debug\nlog_dest file {hardened.files.data / 'log'}\n")


def refusals(hardened: Hardened) -> list[str]:
    lines = (hardened.files.data / "log").read_text(errors="replace").splitlines()
    assert any("PUBLISH from" in line for line in lines)
    return [line for line in lines if "Denied PUBLISH" in line]


async def test_cell_of_all_roles_works_and_the_broker_denies_it_nothing(tmp_path: Path) -> None:
    """Three coordinators elect a leader, a worker gets an agent and runs it, a reader follows; a coordinator goes and
    the others know at once.  Nothing of that is refused: then the access list would lack a topic."""
    roles: dict[str, Role] = dict.fromkeys(("c1", "c2", "c3"), "coordinator")
    hardened = make(tmp_path, {**roles, "w1": "worker", "r1": "reader"}, start_devices=True)
    publisher, _ = keys.load_or_make(tmp_path / "publisher.key")
    says_all(hardened)
    async with hardened.broker(), AsyncExitStack() as stack:
        members: dict[str, Member] = {}
        for device, state in hardened.states.items():
            keys.trust(state / "trust.d", publisher.public, "test")
            members[device] = await Member(state).begin()
            stack.push_async_callback(members[device].end)

        def leader() -> Member | None:
            named = {one.node.peer.leader and one.node.peer.leader.device for one in members.values()}
            return members.get(named.pop() or "") if len(named) == 1 else None

        first = await until(leader, "one leader that all five know")
        await members["w1"].node.propose(cmd.encode(cmd.Note("w1", "a worker asks the leader")))
        placed = await SwarmControl(members["c1"].node).one["place"](
            {"data": agent_file(publisher, "mlp"), "pin": "w1", "who": "test"}
        )
        await until(lambda: "mlp" in members["w1"].supervisor.flows.flows, "the agent came to the worker and runs")
        await until(lambda: members["r1"].node.replica.index >= placed["index"], "the reader follows")
        device = first.node.config.device
        await members.pop(device).end()
        stack.pop_all()
        for one in members.values():
            stack.push_async_callback(one.end)
        await until(lambda: (found := leader()) is not None and found is not first, "another leads")
        for name, one in members.items():
            assert not [key for key in one.refused if key != "unknown_sender"], (name, one.refused)
    denied = [line for line in refusals(hardened) if "event/critical/alert" not in line]
    assert denied == []


async def test_worker_that_speaks_as_a_voter_is_denied_by_the_broker(tmp_path: Path) -> None:
    hardened = make(tmp_path, {"c1": "coordinator", "w1": "worker", "r1": "reader"})
    topics = hardened.topics
    forbidden = {
        "w1": [topics.raft("c1"), topics.feed, topics.leader, topics.roster, topics.status("c1"), topics.gone("c1"),
               topics.desired("w1"), topics.stream("c1", "mlp"), f"es/1/plant/join/{'a' * 13}/n/answer",
               "es/1/plant/other/stop", "es/1/other/main/stop", "$CONTROL/dynamic-security/v1"],
        "r1": [topics.raft("c1"), topics.inbox("w1"), topics.stop, topics.event("critical", "alert"),
               topics.artifact("0" * 64, 0), topics.stream("r1", "mlp"), topics.roster],
        "c1": [topics.status("w1"), topics.gone("w1"), topics.stream("w1", "mlp"), "$CONTROL/dynamic-security/v1"],
    }  # fmt: skip
    allowed = {
        "w1": [topics.status("w1"), topics.inbox("c1"), topics.event("low", "health"), topics.stream("w1", "mlp")],
        "r1": [topics.status("r1"), topics.inbox("c1"), topics.event("low", "health"), topics.controller],
        "c1": [topics.raft("w1"), topics.feed, topics.leader, f"es/1/plant/join/{'a' * 13}/n/answer"],
    }

    def say() -> None:
        for device, topics_denied in forbidden.items():
            with hardened.session(device) as session:
                for topic in topics_denied:
                    assert session.publish(topic, b"x") == 135, (device, topic)
                for topic in allowed[device]:
                    assert session.publish(topic, b"x") in (0, 16), (device, topic)

    async with hardened.broker():
        await asyncio.to_thread(say)
