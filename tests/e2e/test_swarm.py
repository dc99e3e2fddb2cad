"""Stories of a cell: real devices as processes of their own, one real broker."""

from __future__ import annotations

import asyncio
import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from processes import command_line
from swarm_cells import Cell, Stranger, cell, until

from edgeswarm.app.cli import root
from edgeswarm.drivers.mqtt.transport import Priority

pytestmark = pytest.mark.e2e


async def note(c: Cell, device: str, text: str) -> int:
    return int((await c.call(device, "note", text=text))["index"])


async def notes(c: Cell, device: str) -> list[str]:
    """What the audit of this device's copy says."""
    rows = (await c.call(device, "log", count=1000))["audit"]
    return [row["what"] for row in rows if not row["what"].startswith(("deploy", "remove"))]


def runs(c: Cell, agent: str) -> list[tuple[str, str, str]]:
    """(when, device, began | ended) of the agent's copies, by the devices' logs, in order of time."""
    rows = [
        (row["at"], device, what)
        for device in c.states
        for event, what in (("cell_agent_runs", "began"), ("cell_agent_stopped", "ended"))
        for row in c.events(device, event)
        if row["agent"] == agent
    ]
    return sorted(rows)


def assert_one_copy(c: Cell, agent: str, *, frozen: tuple[str, ...] = ()) -> None:
    """At no time did two devices run the agent.  frozen: were killed or hung, so that their logs do not say the end."""
    holder = ""
    for at, device, what in runs(c, agent):
        if what == "ended":
            holder = "" if holder == device else holder
            continue
        assert holder in ("", device) or holder in frozen, f"{at}: {agent} on {holder} and {device}"
        holder = device


async def test_leader_that_is_killed_hung_or_asked_hands_over_and_nothing_committed_is_lost() -> None:
    async with cell(5) as c:
        leader = await c.wait_leader()
        await c.place(c.agent("mlp"))
        said = [f"note {number}" for number in range(20)]
        for number, text in enumerate(said):
            await note(c, f"d{1 + number % 5}", text)

        c.kill(leader)
        second = await c.wait_leader(beside=(leader,))
        assert second != leader
        await note(c, second, "after the kill")
        assert await notes(c, second) == [*said, "after the kill"]
        c.start(leader)
        await until(lambda: _same(c), "the killed one has caught up")

        home = await c.runs_on("mlp", ask=second)
        c.stop(second)
        third = await c.wait_leader(beside=(second,))
        assert third != second
        if home == second:
            await c.runs_on("mlp", ask=third, beside=(second,))
        await note(c, third, "while it hung")
        c.cont(second)
        await until(lambda: _leader_of(c, second, third), "the old leader follows")
        assert (await notes(c, second))[-1] == "while it hung"

        target = next(device for device in c.states if device != third)
        done = await c.call(second, "transfer", to=target)
        assert done["leader"] == target and await c.wait_leader() == target
        assert_one_copy(c, "mlp", frozen=(leader, second))
        assert not c.faults()


async def _same(c: Cell) -> bool:
    rows = await asyncio.gather(*(c.call(device, "status") for device in c.states))
    return len({row["applied"] for row in rows}) == 1 and all(row["lease"] for row in rows)


async def _leader_of(c: Cell, device: str, leader: str) -> bool:
    row = await c.call(device, "status")
    return bool(row["leader"] == leader and not row["leads"] and row["lease"])


async def test_agents_of_a_device_that_hangs_or_is_cut_off_move_and_do_not_run_twice() -> None:
    async with cell(3, proxies=True) as c:
        leader = await c.wait_leader()
        away = next(device for device in c.states if device != leader)
        await c.place(c.agent("mlp"), pin="")
        home = await c.runs_on("mlp", ask=leader)
        for hinder, release in ((lambda d: c.links[d].cut(), lambda d: c.links[d].heal()), (c.stop, c.cont)):
            away = home
            hinder(away)
            others = tuple(device for device in c.states if device != away)
            await c.wait_leader(among=others)
            home = await c.runs_on("mlp", ask=others[0], beside=(away,))
            release(away)
            await until(partial(_comes_back, c, away, home), "it is back, without the agent")
            await until(lambda: c.wait_leader())
        assert_one_copy(c, "mlp", frozen=(away,))  # it stopped its copy before it went on
        assert not c.faults()


async def _comes_back(c: Cell, device: str, home: str) -> bool:
    row = await c.call(device, "status")
    alive = {one["device"]: one["state"] for one in (await c.call(home, "members"))["members"]}
    return row["lease"] and "mlp" not in row["agents"] and alive[device] == "alive"


@pytest.mark.parametrize("kept", [True, False], ids=["retained kept", "retained lost"])
async def test_cell_goes_on_when_its_broker_restarts(kept: bool, tmp_path: Path) -> None:
    options = ("persistence true", f"persistence_location {tmp_path}/", "autosave_interval 1") if kept else ()
    async with cell(4, voters=3, options=options) as c:
        await c.wait_leader()
        await note(c, "d4", "before")
        if kept:
            c.broker.kill(signal.SIGTERM)
            await c.broker.start()
        else:
            await c.broker.restart()
        await until(lambda: all(len(c.events(device, "broker_connected")) > 1 for device in c.states))
        await until(lambda: note(c, "d4", "after"))  # asked between two leaders it may be there twice
        await until(lambda: _same(c))
        # a device that knows nothing finds roster and leader on the broker, and a stranger can check them
        c.kill("d4")
        c.start("d4")
        await c.wait_leader()  # d4 too; which one it is may have changed: voters on a busy machine elect again
        await until(lambda: _same(c))
        assert list(dict.fromkeys(await notes(c, "d4"))) == ["before", "after"] and not c.faults()


async def test_safety_stop_reaches_all_while_low_traffic_saturates_the_broker() -> None:
    async with cell(3) as c, Stranger(c.broker.url) as stranger:
        await c.wait_leader()
        for name in ("one", "two"):
            await c.place(c.agent(name))
        await c.runs_on("one", ask="d1")
        await c.runs_on("two", ask="d1")
        flood = asyncio.create_task(_flood(c, stranger))
        await asyncio.sleep(0.5)
        key = c.folder / "f" / "fleet" / "operator.key"
        options = ("--operator-key", key, "--state", c.states["d2"], "--json")
        done = await asyncio.to_thread(command_line, "swarm", "stop", "--reason", "test", *options)
        assert done.returncode == 0, done.stderr
        for device in c.states:
            await until(partial(c.events, device, "safety_stop"))
            status = await c.call(device, "status")
            assert status["stopped"] and status["stop_number"] == 1
        await until(lambda: _agents(c, []))
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
        c.kill("d3", signal.SIGTERM)
        c.start("d3")
        await until(lambda: _halted(c, "d3"), "who comes later obeys too")
        done = await asyncio.to_thread(command_line, "swarm", "resume", "--reason", "well", *options)
        assert done.returncode == 0, done.stderr
        await until(lambda: _agents(c, ["one", "two"]))
        assert not c.faults()


async def _halted(c: Cell, device: str) -> bool:
    return bool((await c.call(device, "status"))["stopped"])


async def _agents(c: Cell, wanted: list[str]) -> bool:
    rows = await asyncio.gather(*(c.call(device, "status") for device in c.states))
    return sorted(agent for row in rows for agent in row["agents"]) == wanted


async def _flood(c: Cell, stranger: Stranger) -> None:
    """Nobody's messages on every topic that devices listen to in bulk, as fast as the broker takes them."""
    topics = [c.topics.event("low", "metrics"), c.topics.streams("d1", "one"), c.topics.event("low", "health")]
    while True:
        for topic in topics:
            for _ in range(40):
                stranger.transport.publish(topic, b"x" * 4_000, priority=Priority.LOW, qos=0)
        await asyncio.sleep(0.005)


async def test_voters_grow_from_one_to_five_and_a_new_version_swaps_where_it_runs() -> None:
    async with cell(5, voters=1) as c:
        await c.wait_leader()
        await until(lambda: _voters(c, 5), "five voters")
        leader = await c.wait_leader()
        c.kill(leader)
        second = await c.wait_leader(beside=(leader,))
        assert (await c.call(second, "status"))["raft"]["voters"] == [1, 2, 3, 4, 5]
        await c.place(c.agent("mlp"), by=second)
        home = await c.runs_on("mlp", ask=second)
        old = (await c.call(second, "whereis", agent="mlp"))["artefact"]
        await c.place(c.agent("mlp", hidden=12), by=second)
        new = (await c.call(second, "whereis", agent="mlp"))["artefact"]
        assert new != old
        await until(lambda: [row for row in c.events(home, "cell_agent_runs") if row["artefact"] == new[:12]])
        assert await c.runs_on("mlp", ask=second) == home and not c.faults()


async def _voters(c: Cell, count: int) -> bool:
    rows = await asyncio.gather(*(c.call(device, "status") for device in c.states))
    raft = [row.get("raft") for row in rows]
    return all(one and len(one["voters"]) == count and not one["joint"] for one in raft)


async def test_recovery_after_a_lost_quorum_goes_on_with_one_and_the_others_follow(tmp_path: Path) -> None:
    """Four devices, three vote, two of those burn.  What is left: a voter, and a learner."""
    async with cell(4, voters=3) as c:
        await c.wait_leader()
        for number in range(5):
            await note(c, "d4", f"note {number}")
        await until(lambda: _same(c))
        for device in ("d1", "d2"):
            c.kill(device)
        c.kill("d3", signal.SIGTERM)
        key = c.folder / "f" / "fleet" / "operator.key"
        command = ("swarm", "recover", "--reason", "fire", "--operator", "jo", "--state", c.states["d3"], "--json")
        asked = await asyncio.to_thread(command_line, *command, "--operator-key", key)
        assert asked.returncode == 2 or asked.returncode == 1, asked
        wrong = c.folder / "f" / "fleet" / "issuer.key"
        refused = await asyncio.to_thread(command_line, *command, "--operator-key", wrong, "--yes")
        assert refused.returncode not in (0, 1), refused
        done = await asyncio.to_thread(command_line, *command, "--operator-key", key, "--yes")
        assert done.returncode == 0, done.stderr
        c.start("d3")
        assert await c.wait_leader(among=("d3", "d4")) == "d3"
        rows = [await c.call(device, "status") for device in ("d3", "d4")]
        assert rows[0]["raft"]["voters"] == [3] or len(rows[0]["raft"]["voters"]) == 3
        assert {row["roster_version"] for row in rows} >= {2} or min(row["roster_version"] for row in rows) >= 2
        proof = tmp_path / "leader.cert"
        await asyncio.to_thread(command_line, "swarm", "leader", "-o", proof, "--state", c.states["d4"])
        checked = await asyncio.to_thread(
            command_line, "swarm", "verify-leader", proof, "--dir", c.states["d4"], "--json"
        )
        assert checked.returncode == 0 and json.loads(checked.stdout)["leader"] == "d3", checked
        await note(c, "d4", "after the fire")
        assert not c.events("d3", "voters_grow"), "who burned is counted on again"
        found = await notes(c, "d4")
        assert [f"note {number}" for number in range(5)] == found[:5] and found[-1] == "after the fire"
        assert any("recovered from a lost quorum: fire" in line for line in found)
        # one that was thought lost comes back with its old log, against the rules: it is led, and leads nobody
        c.start("d2")
        await until(lambda: _leader_of(c, "d2", "d3"), "d2 follows")
        await until(lambda: c.events("d2", "voter_retired"))
        assert await notes(c, "d2") == await notes(c, "d4")
        assert not c.faults()


async def test_voter_with_a_corrupt_log_says_what_to_read_and_does_not_vote_while_the_others_go_on() -> None:
    async with cell(3) as c:
        await c.wait_leader()
        c.kill("d3")
        path = c.states["d3"] / "swarm" / "raft.db"
        path.with_name("raft.db-wal").unlink(missing_ok=True)
        data = bytearray(path.read_bytes())
        data[100:] = b"\x5a" * (len(data) - 100)
        path.write_bytes(data)
        c.start("d3")
        await until(lambda: c.events("d3", "voter_failed"))
        assert "docs/recovery.md" in c.events("d3", "voter_failed")[0]["error"]
        index = await note(c, "d1", "still here")

        async def follows() -> bool:
            row = await c.call("d3", "status")
            return row["applied"] >= index and not row["votes"]

        await until(follows, "it follows, and does not vote")
        assert "Traceback" not in c.log("d3")


async def test_voter_whose_disk_is_full_says_so_and_votes_again_when_there_is_room() -> None:
    """RLIMIT_FSIZE stands for a full disk: writes past it fail.  A leader could not say what became of a command."""
    import resource

    async with cell(3) as c:
        full = "d2" if await c.wait_leader() == "d3" else "d3"
        pid = c.processes[full].pid
        soft = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, soft[1]))
        for number in range(40):
            await note(c, "d1", f"note {number} " + "x" * 200)
        await until(lambda: c.events(full, "voter_failed"))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, soft)
        await until(lambda: _voters(c, 3), "it votes again")
        await until(lambda: _same(c))
        assert len(await notes(c, full)) == 40 and not c.faults()


async def test_every_command_of_swarm_answers_in_text_and_json_and_by_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with cell(3) as c:
        await c.wait_leader()
        file = tmp_path / "mlp.af"
        file.write_bytes(c.agent("mlp"))
        state = ("--state", c.states["d2"])

        def told(*words: Any) -> tuple[int, str, str]:
            capsys.readouterr()
            code = root.run([str(word) for word in ("swarm", *words)])
            return code, *capsys.readouterr()

        def ask(*words: Any, code: int = 0) -> Any:
            """In both forms: what the JSON says, or the error's text."""
            plain, machine = told(*words), told(*words, "--json")
            assert plain[0] == machine[0] == code, (words, plain, machine)
            return json.loads(machine[1]) if code == 0 else plain[2]

        code, placed, _ = told("place", file, *state, "--json")
        assert code == 0 and json.loads(placed)[0]["agent"] == "mlp"
        home = await c.runs_on("mlp", ask="d1")
        assert (ask("whereis", "mlp", *state))["device"] == home
        assert [row["agent"] for row in (ask("whereis", *state))["agents"]] == ["mlp"]
        assert (ask("status", *state))["device"] == "d2"
        assert len((ask("members", *state))["members"]) == 3
        assert len((ask("topology", *state))["devices"]) == 3
        assert (ask("log", "-n", "5", *state))["entries"]
        leader = (ask("leader", "-o", tmp_path / "cert", *state))["leader"]
        assert (ask("verify-leader", tmp_path / "cert", "--dir", c.folder / "f"))["leader"] == leader
        assert "no agent of that name" in ask("whereis", "nobody", *state, code=2)
        damaged = bytearray((tmp_path / "cert").read_bytes())
        damaged[-1] ^= 1
        (tmp_path / "cert").write_bytes(damaged)
        ask("verify-leader", tmp_path / "cert", "--dir", c.folder / "f", code=3)
        leads = ask("transfer", "d3", *state)
        assert leads["leader"] == "d3" and "expected a voter" in ask("transfer", "nobody", *state, code=2)
        key = ("--operator-key", c.folder / "f" / "fleet" / "operator.key")
        assert told("stop", "--reason", "a test", *key, *state, "--json")[0] == 0
        assert ask("status", *state)["stopped"]
        assert told("stop", "--reason", "a test", "--operator-key", tmp_path / "none", *state)[0] == 2
        assert told("resume", "--reason", "well", *key, *state, "--json")[0] == 0
        assert told("remove", "mlp", *state, "--json")[0] == 0
        assert told("remove", "mlp", *state)[0] not in (0, 1)
        assert told("status", "--state", tmp_path / "nowhere")[0] not in (0, 1)
        assert not c.faults()
