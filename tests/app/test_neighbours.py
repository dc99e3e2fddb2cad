"""Agents that read each other: one that stops, fails or comes back never stops the others; no row goes unseen."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from supervised import Bench, until

from edgeswarm.app.control_loop import Refused
from edgeswarm.errors import LimitError
from edgeswarm.ids import AgentName

A, B = AgentName("a"), AgentName("b")


def reads(name: str, rows: int = 2, policy: str = "block") -> dict[str, Any]:
    return {"sources": [{"type": "agent", "agent": name, "queue": {"policy": policy, "rows": rows}}]}


async def feed(bench: Bench, rows: int, name: AgentName = A) -> None:
    flow = bench.supervisor.flows.flows[name]
    for _ in range(rows):
        await flow.offer(0, (0.1, 0.2, 0.3, 0.4), 0)


@pytest.mark.parametrize("end", ["stop", "fail"])
async def test_reader_that_is_gone_holds_nobody_back(bench: Bench, end: str) -> None:
    """While it is only late, it does: that is what `block` declares."""
    supervision = {"network": "n2", "restarts_max": 0}
    reader = bench.mlp("b", (2, 4, 2), wiring=reads("a"), isolation="own-jail", supervision=supervision)
    await bench.supervisor.deploy([("t", bench.mlp()), ("t", reader)])
    bench.supervisor.flows.pause(B)
    feeding = asyncio.create_task(feed(bench, 900))
    await asyncio.sleep(0.1)
    assert not feeding.done()
    if end == "stop":
        await bench.supervisor.stop("b")
    else:
        os.kill(bench.supervisor.jails[bench.supervisor.node.table.agents[B].jail or 0].pid, signal.SIGKILL)  # type: ignore[index]
        await until(lambda: bench.supervisor.status[B][0] == "failed")
    await feeding
    await until(lambda: bench.tally("a")["answered"] == 900)
    events = [json.loads(line) for line in bench.events("rows_discarded")]
    assert sum(event["count"] for event in events) >= 2 and {event["agent"] for event in events} == {"b"}
    assert await bench.supervisor.start_agent("b") == "running"  # and it reads again
    await feed(bench, 50)
    await until(lambda: bench.tally("b")["answered"] == 50)


async def test_writer_that_stops_and_starts_finds_its_readers_and_followers_again(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp()), ("t", bench.mlp("b", (2, 4, 2), wiring=reads("a")))])
    followed: list[dict[str, Any]] = []

    async def follow() -> None:
        async for record in bench.supervisor.stream("a"):
            followed.append(record)

    following = asyncio.create_task(follow())
    await feed(bench, 20)
    await until(lambda: len(followed) == 20)
    await bench.supervisor.stop("a")
    await bench.supervisor.start_agent("a")
    await feed(bench, 20)
    await until(lambda: len(followed) == 40 and bench.tally("b")["answered"] == 40)
    await bench.supervisor.remove("b")
    await bench.supervisor.remove("a")
    await following  # it ends with its agent


async def test_version_that_reads_another_stream_reads_it_from_the_cut_over_on(bench: Bench) -> None:
    files = [bench.mlp(), bench.mlp("c"), bench.mlp("b", (2, 4, 2), wiring=reads("a"))]
    await bench.supervisor.deploy([("t", data) for data in files])
    await feed(bench, 10)
    await bench.supervisor.swap("b", "t", bench.mlp("b", (2, 4, 2), wiring=reads("c"), agent_version="2.0.0"))
    await feed(bench, 10)
    await feed(bench, 7, AgentName("c"))
    await until(lambda: bench.tally("b")["answered"] == 17)
    assert [reader.flow.name for reader in bench.supervisor.flows.flows[A].readers] == []


async def test_version_with_other_sinks_writes_to_them_and_no_more_to_the_old_ones(bench: Bench) -> None:
    def to(*paths: str) -> dict[str, Any]:
        sinks = [{"type": "jsonl", "path": path} for path in paths]
        return {"sources": [{"type": "api", "width": 4}], "sinks": sinks}

    def lines(path: str) -> list[str]:
        found = [json.loads(line) for line in (bench.state / path).read_text().splitlines()]
        return [record["version"] for record in found]

    can = ["file_sink"]
    await bench.supervisor.deploy([("t", bench.mlp(wiring=to("one", "two"), capabilities=can))])
    await feed(bench, 2)
    await until(lambda: bench.tally("a")["answered"] == 2)
    version = bench.mlp(wiring=to("two", "three"), capabilities=can, agent_version="2.0.0")
    await bench.supervisor.swap("a", "t", version)
    await feed(bench, 1)
    await until(lambda: bench.tally("a")["answered"] == 3)
    assert (lines("one"), lines("two"), lines("three")) == (["1.0.0"] * 2, ["1.0.0", "1.0.0", "2.0.0"], ["2.0.0"])


async def test_version_whose_sink_cannot_be_opened_is_refused_and_the_old_sinks_go_on(bench: Bench) -> None:
    socket = {"type": "socket", "name": "s"}
    api = {"type": "api", "width": 4}
    await bench.supervisor.deploy([("t", bench.mlp("b", wiring={"sources": [api], "sinks": [socket]}))])
    wiring = {"sources": [api], "sinks": [{"type": "jsonl", "path": "one"}]}
    await bench.supervisor.deploy([("t", bench.mlp(wiring=wiring, capabilities=["file_sink"]))])
    with pytest.raises(Refused, match="swap_failed: swap: sink socket: .*another sink or supervisor listens there"):
        await bench.supervisor.swap(
            "a", "t", bench.mlp(wiring={"sources": [api], "sinks": [socket]}, agent_version="2.0.0")
        )
    await feed(bench, 3)
    await until(lambda: bench.tally("a")["answered"] == 3)
    assert len((bench.state / "one").read_text().splitlines()) == 3


async def test_version_with_another_file_to_replay_goes_over_to_it(bench: Bench) -> None:
    def replay(path: str) -> dict[str, Any]:
        (bench.state / path).write_text("x,y,z,w\n" + "1,2,3,4\n" * 20)
        return {"sources": [{"type": "csv", "path": path, "columns": ["x", "y", "z", "w"], "speed": 0.0}]}

    can = ["file_source"]
    await bench.supervisor.deploy([("t", bench.mlp(wiring=replay("one.csv"), capabilities=can))])
    await until(lambda: bench.tally("a")["answered"] == 20)
    version = bench.mlp(wiring=replay("two.csv"), capabilities=can, agent_version="2.0.0")
    await bench.supervisor.swap("a", "t", version)
    await until(lambda: bench.tally("a")["answered"] == 40)


async def test_sink_that_cannot_be_opened_fails_its_agent_and_no_other(bench: Bench) -> None:
    wiring = {"sources": [{"type": "api", "width": 4}], "sinks": [{"type": "socket", "name": "s"}]}
    await bench.supervisor.deploy([("t", bench.mlp(wiring=wiring))])
    text = f"agent b: failed: sink socket: {bench.state}/run/s.sock: another sink or supervisor listens there"
    with pytest.raises(Refused, match=text):
        supervision = {"network": "n"}
        await bench.supervisor.deploy(
            [
                ("t", bench.mlp("b", wiring=wiring, supervision=supervision)),
                ("t", bench.mlp("c", supervision=supervision)),
            ]
        )
    assert {name: status for name, (status, _) in bench.supervisor.status.items()} == {"a": "running", "c": "running"}
    assert await bench.supervisor.ask("c", [0.0] * 4, 5.0) is not None


async def test_agent_of_which_nothing_fits_any_more_is_told_at_the_next_start(bench: Bench) -> None:
    """Its upstream's file is damaged while the supervisor is down: both are told, the third runs."""
    files = [bench.mlp(), bench.mlp("b", (2, 4, 2), wiring=reads("a")), bench.mlp("c")]
    await bench.supervisor.deploy([("t", data) for data in files])
    await bench.supervisor.close()
    [path] = Path(bench.state / "agents").glob("a.*.af")
    path.write_bytes(path.read_bytes()[:-100])
    bench.supervisor = bench.make()
    await bench.supervisor.start()
    assert {name: status for name, (status, _) in bench.supervisor.status.items()} == {"b": "failed", "c": "running"}
    assert "its source agent 'a' does not exist" in bench.supervisor.status[B][1]
    [line] = bench.events("agent_not_resumed")[:1]
    assert '"agent":"a"' in line and str(path) in line
    assert await bench.supervisor.deploy([("t", bench.mlp("d"))])  # b's trouble is b's alone
    assert await bench.supervisor.deploy([("t", bench.mlp())])
    assert await bench.supervisor.start_agent("b") == "running"


async def test_more_faults_than_the_control_inbox_holds_lose_no_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.supervisor.deploy([("t", bench.bad("trap"))])
    post = bench.supervisor.post

    def full(event: Any) -> None:
        if type(event).__name__ == "AgentFaulted":
            raise LimitError("control inbox: at most 4096 events wait")
        post(event)

    monkeypatch.setattr(bench.supervisor, "post", full)
    flow = bench.supervisor.flows.flows[AgentName("bad")]
    for index in range(60):
        await flow.offer(0, (float(index % 2),), 0)
    await until(lambda: flow.pipeline.idle)
    tally = bench.tally("bad")
    assert (tally["answered"], tally["rows_set_aside"], tally["lost"]) == (30, 30, 0)
