"""Sinks with somebody at the other end: readers of a socket, and a command."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sink_told import Told, balanced, numbers

from edgeswarm.drivers.exec_sink import ExecSink
from edgeswarm.drivers.socket_sink import SocketSink
from edgeswarm.errors import LocalError
from edgeswarm.limits import SINK_RECORDS_MAX, SOCKET_READERS_MAX

# --- sockets ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(path: Path, told: Told) -> AsyncIterator[SocketSink]:
    sink = SocketSink(told.setup, path=path)
    try:
        yield sink
    finally:
        sink.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for is on both sides of a socket
            await asyncio.sleep(0.001)


async def connect(path: Path, sink: SocketSink) -> socket.socket:
    reader = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    reader.connect(str(path))
    reader.setblocking(False)
    count = sink.readers
    await until(lambda: sink.readers > count)
    return reader


def drain(reader: socket.socket) -> bytes:
    data = b""
    while True:
        try:
            chunk = reader.recv(1 << 16)
        except BlockingIOError:
            return data
        if not chunk:
            return data
        data += chunk


async def test_every_reader_gets_every_record_from_when_it_came(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    async with served(path, Told()) as sink:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        sink.write({"seq": 0})  # nobody is there
        first = await connect(path, sink)
        sink.write({"seq": 1})
        second = await connect(path, sink)
        sink.write({"seq": 2})
        assert numbers(drain(first)) == [1, 2]
        assert numbers(drain(second)) == [2]
        first.close()
        await until(lambda: sink.readers == 1)
        sink.write({"seq": 3})
        assert numbers(drain(second)) == [3]
        balanced(sink)
        second.close()
    assert not path.exists()


async def test_slow_reader_loses_the_oldest_counted_and_the_fast_one_nothing(tmp_path: Path) -> None:
    told = Told()
    path = tmp_path / "s.sock"
    async with served(path, told) as sink:
        slow, fast = await connect(path, sink), await connect(path, sink)
        fast_data = b""
        for seq in range(5000):
            sink.write({"seq": seq, "pad": "x" * 300})
            if seq % 50 == 0:
                fast_data += drain(fast)
        fast_data += drain(fast)
        assert numbers(fast_data) == list(range(5000))
        slow_data = b""
        while True:
            await asyncio.sleep(0.001)
            more = drain(slow)
            if not more:
                break
            slow_data += more
        found = numbers(slow_data)
        assert found == sorted(set(found))
        assert found[0] == 0
        assert found[-1] == 4999
        assert sink.counts()["dropped"] == 5000 - len(found) > 0
        balanced(sink)
        assert "sink_dropped" in told.names
        slow.close()
        fast.close()


async def test_readers_may_send_leave_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    async with served(path, Told()) as sink:
        for _ in range(3):
            reader = await connect(path, sink)
            reader.send(b"hello" * 100)
            await asyncio.sleep(0.002)
            sink.write({"seq": 1})
            assert numbers(drain(reader)) == [1]
            reader.close()
            sink.write({"seq": 2})  # into a connection that is gone
            await until(lambda: sink.readers == 0)
        balanced(sink)


async def test_number_of_readers_is_bounded(tmp_path: Path) -> None:
    told = Told()
    path = tmp_path / "s.sock"
    async with served(path, told) as sink:
        readers = [await connect(path, sink) for _ in range(SOCKET_READERS_MAX)]
        extra = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        extra.connect(str(path))
        await until(lambda: sink.refused == 1)
        assert extra.recv(10) == b""
        for reader in (*readers, extra):
            reader.close()
    assert "sink_reader_refused" in told.names


async def test_dead_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(path))
    dead.close()
    async with served(path, Told()):
        with pytest.raises(LocalError, match="listens there"):
            SocketSink(Told().setup, path=path)
        assert path.exists()


async def test_place_where_no_socket_can_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path, text in (
        (tmp_path / "file", "expected nothing or a socket"),
        (tmp_path / "none" / "s.sock", "No such file"),
        (tmp_path / ("x" * 120), "at most 107 bytes"),
    ):
        with pytest.raises(LocalError, match=text):
            SocketSink(Told().setup, path=path)
    assert (tmp_path / "file").read_text() == "mine"


# --- commands ---------------------------------------------------------------------------------------------------------


async def test_command_gets_every_record_and_time_to_finish(tmp_path: Path) -> None:
    told = Told()
    sink = ExecSink(told.setup, command=("/bin/sh", "-c", "cat > got; echo done >> got"), cwd=tmp_path)
    for seq in range(2000):
        sink.write({"seq": seq, "pad": "x" * 50})
        if seq % 100 == 0:
            await asyncio.sleep(0)
    await until(lambda: sink.counts()["waiting"] == 0)
    sink.close()
    await asyncio.wait_for(sink.closed(), 10)
    data = (tmp_path / "got").read_bytes()
    assert data.endswith(b"done\n")
    found = numbers(data.removesuffix(b"done\n"))
    assert len(found) == 2000 - sink.counts()["dropped"]
    assert found == sorted(found)
    balanced(sink)


async def test_what_waits_at_the_end_still_goes_to_the_command(tmp_path: Path) -> None:
    sink = ExecSink(Told().setup, command=("/bin/sh", "-c", "sleep 0.05; cat > got"), cwd=tmp_path)
    for seq in range(900):
        sink.write({"seq": seq, "pad": "x" * 200})
    await asyncio.sleep(0)
    sink.close()
    await asyncio.wait_for(sink.closed(), 10)
    assert numbers((tmp_path / "got").read_bytes()) == list(range(900))
    sink.write({"seq": 9})
    balanced(sink)
    assert sink.counts()["dropped"] == 1


async def test_command_that_ends_is_started_again_and_told(tmp_path: Path) -> None:
    told = Told()
    script = 'echo start >> starts; read line; echo "$line" >> got; echo broken >&2; exit 4'
    sink = ExecSink(told.setup, command=("/bin/sh", "-c", script), cwd=tmp_path)
    sink.write({"seq": 1})
    await until(lambda: sink.started == 2)
    sink.close()
    await asyncio.wait_for(sink.closed(), 10)
    name, fields = told.events[0]
    assert (name, fields["kind"], fields["code"], fields["stderr"]) == ("sink_failed", "exited", 4, "broken")
    assert numbers((tmp_path / "got").read_bytes().replace(b"\n\n", b"\n")) == [1]


async def test_command_that_does_not_exist_costs_the_oldest_records_counted(tmp_path: Path) -> None:
    told = Told()
    sink = ExecSink(told.setup, command=("/nonexistent",), cwd=tmp_path)
    for seq in range(SINK_RECORDS_MAX + 5):
        sink.write({"seq": seq})
    await until(lambda: sink.failed > 0)
    assert sink.counts()["dropped"] == 5
    sink.close()
    await asyncio.wait_for(sink.closed(), 10)
    assert sink.counts()["dropped"] == SINK_RECORDS_MAX + 5
    assert sink.counts()["waiting"] == 0
    balanced(sink)


async def test_command_that_ignores_its_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeswarm.drivers.exec_sink.CHILD_STOP_MS", 100.0)
    script = "echo $$ > pid; trap '' TERM; while :; do sleep 60; done"
    sink = ExecSink(Told().setup, command=("/bin/sh", "-c", script), cwd=tmp_path)
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    sink.close()
    await asyncio.wait_for(sink.closed(), 10)
    assert not Path(f"/proc/{int((tmp_path / 'pid').read_text())}").exists()
