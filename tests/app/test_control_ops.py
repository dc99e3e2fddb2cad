"""Every op of the control socket over a real socket: its answer, and what it says to wrong arguments."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cbor2
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from supervised import Bench, until

from edgeswarm.app.control_ops import ControlOps
from edgeswarm.drivers.control import ControlClient, ControlError, ControlServer, pack
from edgeswarm.ids import AgentName
from edgeswarm.limits import ASK_ROWS_MAX, CONTROL_CLIENTS_MAX

ONE = ("ping status deploy swap weights stop start remove checkpoint ask metrics config shutdown").split()
MANY = ("logs", "top", "stream")


class Desk:
    """A served supervisor, asked from threads as the command line does it."""

    def __init__(self, bench: Bench, path: Path) -> None:
        self.bench = bench
        self.ended = asyncio.Event()
        self.ops = ControlOps(bench.supervisor, self.ended.set)
        self.path = path
        self.threads = ThreadPoolExecutor(4)

    async def call(self, op: str, **args: Any) -> Any:
        def blocking() -> Any:
            with ControlClient(self.path, timeout_s=20) as client:
                return client.call(op, **args)

        return await asyncio.get_running_loop().run_in_executor(self.threads, blocking)

    async def follow(self, op: str, count: int, **args: Any) -> list[Any]:
        def blocking() -> list[Any]:
            with ControlClient(self.path, timeout_s=20) as client:
                items = client.follow(op, **args)
                return list(itertools.islice(items, count))

        return await asyncio.get_running_loop().run_in_executor(self.threads, blocking)


@pytest_asyncio.fixture
async def desk(bench: Bench) -> AsyncIterator[Desk]:
    desk = Desk(bench, bench.state / "run" / "t.sock")
    server = ControlServer(desk.path, desk.ops.answer)
    await server.start()
    yield desk
    await server.close()
    desk.threads.shutdown()


async def test_life_of_an_agent_over_the_socket(desk: Desk) -> None:
    [row] = await desk.call("deploy", files=[{"who": "a.af", "data": desk.bench.mlp()}])
    assert (row["name"], row["status"]) == ("a", "running")
    [answer, nothing] = [
        (await desk.call("ask", name="a", rows=[[0.1] * 4]))[0],
        await desk.call("ask", name="a", rows=[]),
    ]
    assert set(answer) == {"label", "score", "flagged", "values"} and nothing == []
    version = desk.bench.mlp(sizes=(4, 16, 2), agent_version="2.0.0")
    assert (await desk.call("swap", name="a", data=version))["status"] == "swapped"
    size = desk.bench.supervisor.shelf.current(AgentName("a")).layout.weights.size
    assert (await desk.call("weights", name="a", data=bytes(size)))["status"] == "weights_swapped"
    assert (await desk.call("ask", name="a", rows=[[1, 2, 3, 4]]))[0]["values"] == [0.0, 0.0]
    assert await desk.call("checkpoint", name="a") == {"name": "a", "status": "checkpointed"}
    assert (desk.bench.state / "agents" / "a.checkpoint").exists()
    assert await desk.call("stop", name="a") == {"name": "a", "status": "stopped"}
    assert await desk.call("start", name="a") == {"name": "a", "status": "running"}
    assert await desk.call("remove", name="a") == {"name": "a", "status": "removed"}
    assert (await desk.call("status"))["agents"] == []


async def test_what_the_supervisor_says_of_itself(desk: Desk) -> None:
    await desk.call("deploy", files=[{"who": "a.af", "data": desk.bench.mlp()}])
    ping, status = await desk.call("ping"), await desk.call("status")
    assert set(ping) == {"version", "device", "pid", "tier", "degraded", "uptime_s"}
    [agent], [jail] = status["agents"], status["jails"]
    assert agent["jail"] == jail["jail"] and agent["pid"] == jail["pid"] and jail["agents"] == ["a"]
    assert {"network", "version", "artefact", "publisher", "restarts", "faults", "counters", "latency"} <= set(agent)
    assert status["totals"] == {"rows_in": 0, "decisions": 0, "dropped": 0, "rows_set_aside": 0, "lost": 0}
    assert jail["memory_bytes"] > 1 << 16 and status["rss_bytes"] > 1 << 20
    assert "edgeswarm_agent_running" in (await desk.call("metrics"))["text"]
    assert (await desk.call("config"))["limits.memory_mb"] == {"value": 1024, "origin": "profile default"}
    assert await desk.call("shutdown") == {}
    await asyncio.wait_for(desk.ended.wait(), 5)


async def test_logs_top_and_stream_are_followed(desk: Desk) -> None:
    await desk.call("deploy", files=[{"who": "a.af", "data": desk.bench.mlp()}])
    [line] = await desk.follow("logs", 10, lines=1)
    assert json.loads(line)["event"]
    assert await desk.follow("logs", 10, lines=0) == []
    following = asyncio.create_task(desk.follow("logs", 1, lines=0, follow=True))
    await until(lambda: desk.bench.supervisor.log.ring.followers)
    desk.bench.supervisor.log.info("something_new")
    assert json.loads((await following)[0])["event"] == "something_new"
    await until(lambda: not desk.bench.supervisor.log.ring.followers)  # the one who left is forgotten
    [first, second] = await desk.follow("top", 2, interval_s=0)
    assert second["uptime_s"] > first["uptime_s"]
    streaming = asyncio.create_task(desk.follow("stream", 2, name="a"))
    flow = desk.bench.supervisor.flows.flows[AgentName("a")]
    await until(lambda: flow.followers)
    for _ in range(2):
        await flow.offer(0, (0.1,) * 4, 0)
    assert [record["seq"] for record in await streaming] == [1, 2]
    await until(lambda: not flow.followers)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("fly", {}, "op: expected one of ping, status, .* found 'fly'"),
    ("deploy", {}, "files: missing"),
    ("deploy", {"files": "x"}, "files: expected list, found str"),
    ("deploy", {"files": ["x"]}, "files: expected maps of who and data"),
    ("deploy", {"files": [{"who": "x"}]}, "data: missing"),
    ("deploy", {"files": [{"who": "x.af", "data": b""}]}, "x.af"),
    ("deploy", {"files": [{"who": "x.af", "data": "text"}]}, "data: expected bytes, found str"),
    ("swap", {"name": "a"}, "data: missing"),
    ("swap", {"name": "a", "data": b"junk"}, "swap"),
    ("weights", {"name": "a", "data": b"123"}, "agent a: weights: expected .* bytes, found 3"),
    ("weights", {"name": "b", "data": b"123"}, "agent b: it is in no jail"),
    ("stop", {}, "name: missing"),
    ("stop", {"name": 5}, "name: expected str, found int"),
    ("stop", {"name": "b"}, "agent b: no agent of that name is deployed"),
    ("start", {"name": "b"}, "agent b: no agent of that name is deployed"),
    ("start", {"name": "a"}, "agent a: it is running already"),
    ("remove", {"name": "b"}, "agent b: no agent of that name is deployed"),
    ("checkpoint", {"name": "b"}, "agent b: no agent of that name"),
    ("ask", {"name": "a"}, "rows: missing"),
    ("ask", {"name": "a", "rows": [[1.0]]}, "agent a: expected 4 finite float32 values, found width"),
    ("ask", {"name": "a", "rows": [None]}, "agent a: expected 4 finite"),
    ("ask", {"name": "a", "rows": [[10**5000, 0, 0, 0]]}, "agent a: expected 4 finite"),
    ("ask", {"name": "a", "rows": [], "timeout_s": "long"}, "timeout_s: expected float, found str"),
    ("ask", {"name": "b", "rows": [[1.0]]}, "agent b: no agent of that name"),
    ("ask", {"name": "a", "rows": [[0.0] * 4] * (ASK_ROWS_MAX + 1)}, f"at most {ASK_ROWS_MAX} rows in one request"),
    ("logs", {"lines": "all"}, "lines: expected int, found str"),
    ("top", {"interval_s": None}, "interval_s: expected float, found NoneType"),
    ("stream", {"name": "b"}, "agent b: no agent of that name"),
    ("stream", {}, "name: missing"),
]


async def test_wrong_arguments_are_told_by_key_and_the_agent_goes_on(desk: Desk) -> None:
    await desk.call("deploy", files=[{"who": "a.af", "data": desk.bench.mlp()}])
    for op, args, text in WRONG:
        with pytest.raises(ControlError, match=text):
            await desk.call(op, **args)
    assert (await desk.call("ask", name="a", rows=[[0.0] * 4]))[0] is not None


async def test_numbers_that_are_no_time_do_not_hang_the_one_who_asks(desk: Desk) -> None:
    await desk.call("deploy", files=[{"who": "a.af", "data": desk.bench.mlp()}])
    desk.bench.supervisor.flows.pause(AgentName("a"))
    for timeout_s in (0, -1.0):
        with pytest.raises(ControlError, match="no answer within"):
            await desk.call("ask", name="a", rows=[[0.0] * 4], timeout_s=timeout_s)
    with pytest.raises(ControlError, match="timeout_s: expected a number, found nan"):
        await desk.call("ask", name="a", rows=[[0.0] * 4], timeout_s=float("nan"))
    with pytest.raises(ControlError, match="interval_s: expected a number, found inf"):
        await desk.follow("top", 1, interval_s=float("inf"))
    desk.bench.supervisor.flows.resume(AgentName("a"))


async def test_clients_that_leave_a_quiet_stream_make_room_for_others(desk: Desk) -> None:
    """More than may be connected at one time; nothing ever happens on the stream that they follow."""
    await desk.call("deploy", files=[{"who": "a.af", "data": desk.bench.mlp()}])
    flow = desk.bench.supervisor.flows.flows[AgentName("a")]
    for _ in range(CONTROL_CLIENTS_MAX + 5):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(desk.path))
            client.sendall(pack({"op": "stream", "args": {"name": "a"}}))
            await until(lambda: flow.followers)
        await until(lambda: not flow.followers)
    assert (await desk.call("ping"))["pid"]


async def test_request_that_comes_while_something_is_followed_is_answered_after_it(desk: Desk) -> None:
    def blocking() -> list[Any]:
        with ControlClient(desk.path, timeout_s=20) as client:
            client._socket.sendall(pack({"op": "logs", "args": {"lines": 1}}) + pack({"op": "ping", "args": {}}))
            return [client._receive() for _ in range(3)]

    line, end, ping = await asyncio.get_running_loop().run_in_executor(desk.threads, blocking)
    assert line["more"] and end == {"ok": True, "result": None} and ping["result"]["tier"]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["name", "rows", "data", "files", "who", "timeout_s", "lines", "follow"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([op for op in ONE if op != "shutdown"]), st.dictionaries(NAMES, ANY, max_size=4))
async def test_any_arguments_are_answered_or_refused_by_name(desk: Desk, op: str, args: dict[str, Any]) -> None:
    """Nothing but errors of ours leaves an op, so that nobody's connection is cut for a wrong argument."""
    from edgeswarm.errors import EdgeSwarmError

    try:
        answer: Any = await desk.ops.answer(op, args)  # type: ignore[misc]
    except EdgeSwarmError as error:
        assert str(error)
    else:
        assert cbor2.dumps(answer)
