"""Sources and sinks that are handed over in the middle of what they do: no row lost, none twice, in order."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest

from edgeswarm.agentfile.wiring import CsvSource
from edgeswarm.agentfile.wiring import WebhookSink as WebhookSpec
from edgeswarm.drivers.exec_sink import ExecSink
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.jsonl_sink import JsonlSink
from edgeswarm.drivers.sink_webhook import WebhookSink
from edgeswarm.drivers.sinks import Sink, SinkSetup, StdoutSink
from edgeswarm.drivers.socket_sink import SocketSink
from edgeswarm.drivers.sources import Setup, Source, paced
from edgeswarm.drivers.sources_csv import CsvReplay
from edgeswarm.drivers.sources_exec import ExecLines
from edgeswarm.drivers.sources_lines import StdinLines
from edgeswarm.drivers.sources_tail import Tail
from edgeswarm.errors import LocalError

ROWS = 3000


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def release(one: Any) -> None:
    """What an exec does: everything of the old program is gone, and nobody is told."""
    child = getattr(one, "_child", None)
    if child is not None:
        process = child._process
        for file in (process.stdin, process.stdout, process.stderr):
            if file is not None:
                file.close()
        if child.running:
            os.close(child._pidfd)
        process.returncode = 0
    if isinstance(getattr(one, "_file", None), int):
        os.close(one._file)
    if isinstance(one, SocketSink):
        one._listener.close()
        for reader in one._readers.values():
            reader.connection.close()


class Taker:
    """Takes rows like an agent that is held back now and then."""

    def __init__(self, seed: int) -> None:
        self.rows: list[float] = []
        self.random = random.Random(seed)

    async def offer(self, row: tuple[float, ...], at_ns: int) -> None:
        if self.random.random() < 0.02:
            await asyncio.sleep(0.001)
        self.rows.append(row[0])


async def leave(source: Source, task: asyncio.Task[None]) -> tuple[dict[str, Any], Packer]:
    """As `app.handover_pack` does."""
    source.leaving = True
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    packer = Packer()
    return cbor2.loads(cbor2.dumps(source.parcel(packer))), packer


async def moved_about(make: Callable[[], Source], taker: Taker, *, moves: int = 12) -> Source:
    """The source runs to ROWS rows, and is handed over again and again at random moments."""
    source = make()
    task = asyncio.create_task(source.run(taker.offer))
    for _ in range(moves):
        await asyncio.sleep(taker.random.random() * 0.02)
        parcel, packer = await leave(source, task)
        old, source = source, make()
        source.unpack(parcel, Unpacker(packer.fds))
        release(old)
        task = asyncio.create_task(source.run(taker.offer))
    await until(lambda: len(taker.rows) >= ROWS)
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return source


def lines(first: int, last: int) -> bytes:
    return b"".join(b'{"x":%d}\n' % number for number in range(first, last + 1))


def append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def all_rows(taker: Taker, source: Source) -> None:
    assert taker.rows == [float(number) for number in range(1, ROWS + 1)]
    assert source.counts.rows == ROWS and source.counts.unread == 0 and not source.counts.malformed
    assert source.counts.opened <= 1 + 12 * (source.kind == "csv")


@pytest.mark.parametrize("seed", range(3))
async def test_standard_input_is_read_to_its_end_across_handovers(seed: int) -> None:
    reader, writer = os.pipe()
    data, taker = lines(1, ROWS), Taker(seed)

    async def feed() -> None:
        at = 0
        while at < len(data):  # pieces that end in the middle of lines
            size = taker.random.randint(1, 300)
            os.write(writer, data[at : at + size])
            at += size
            await asyncio.sleep(0.0003)
        os.close(writer)

    feeding = asyncio.create_task(feed())
    source = await moved_about(lambda: StdinLines(("x",), Setup("s"), fd=reader), taker)
    await feeding
    all_rows(taker, source)
    os.close(reader)


COUNT = (
    "import time\nfor n in range(1, 3001):\n print('{\"x\":%d}' % n, flush=n % 7 == 0)\n n % 50 or time.sleep(0.002)"
)


@pytest.mark.parametrize("seed", range(2))
async def test_command_goes_on_across_handovers_and_is_not_started_again(tmp_path: Path, seed: int) -> None:
    command = (sys.executable, "-I", "-c", COUNT + "\nprint(flush=True)\ntime.sleep(60)")
    taker = Taker(seed)
    source = await moved_about(lambda: ExecLines(("x",), Setup("s"), command=command, cwd=tmp_path), taker)
    all_rows(taker, source)
    assert source.counts.opened == 1


async def test_what_a_command_said_before_it_ended_is_read_by_the_next(tmp_path: Path) -> None:
    """It has ended, and was waited for, while the agent held its source back."""
    source = ExecLines(
        ("x",), Setup("s"), command=("/bin/sh", "-c", "printf '1\\n2\\n3\\n'"), cwd=tmp_path, format="csv"
    )
    held, taker = asyncio.Event(), Taker(0)

    async def hold(row: tuple[float, ...], at_ns: int) -> None:
        await held.wait()

    task = asyncio.create_task(source.run(hold))
    await until(lambda: source.counts.opened)
    await asyncio.sleep(0.1)
    parcel, packer = await leave(source, task)
    again = ExecLines(("x",), Setup("s"), command=("/bin/sleep", "60"), cwd=tmp_path, format="csv")
    again.unpack(parcel, Unpacker(packer.fds))
    task = asyncio.create_task(again.run(taker.offer))
    release(source)
    await until(lambda: len(taker.rows) == 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert taker.rows == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("kind", ["csv", "tail"])
async def test_files_are_read_on_across_handovers(tmp_path: Path, kind: str) -> None:
    path, taker = tmp_path / "rows", Taker(1)
    if kind == "csv":
        path.write_text("x\n" + "".join(f"{number}\n" for number in range(1, ROWS + 1)))
        spec = CsvSource("csv", path="rows", columns=("x",), speed=0.0)
        source = await moved_about(lambda: CsvReplay(spec, Setup("s"), path=path), taker)
    else:
        path.write_bytes(b"")

        async def feed() -> None:
            for first in range(1, ROWS + 1, 100):
                if first == 1501:  # rotated in the middle
                    path.rename(tmp_path / "rows.1")
                append(path, lines(first, first + 99))
                await asyncio.sleep(0.005)

        async def offer_first() -> None:
            await asyncio.sleep(0.05)
            await feed()

        feeding = asyncio.create_task(offer_first())
        source = await moved_about(lambda: Tail(("x",), Setup("s"), path=path), taker, moves=20)
        await feeding
        assert source.counts.rotated == 1
        source.counts.opened = 1
    all_rows(taker, source)


async def test_reading_that_waited_for_its_agent_is_not_read_again() -> None:
    class Ticks(Source):
        kind = "ticks"
        reads = 0

        def read(self) -> tuple[float, ...]:
            Ticks.reads += 1
            return (float(Ticks.reads),)

        async def give_rows(self, offer: Any) -> None:
            await paced(self, 1000.0, self.read, offer)

        def probe(self) -> None:
            pass

    async def never(row: tuple[float, ...], at_ns: int) -> None:
        await asyncio.Event().wait()

    source, taker = Ticks(("x",), Setup("s")), Taker(0)
    task = asyncio.create_task(source.run(never))
    await asyncio.sleep(0.01)
    parcel, _ = await leave(source, task)
    again = Ticks(("x",), Setup("s"))
    again.unpack(parcel, Unpacker(()))
    task = asyncio.create_task(again.run(taker.offer))
    await until(lambda: len(taker.rows) > 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert taker.rows[:3] == [1.0, 2.0, 3.0]


# --- sinks ------------------------------------------------------------------------------------------------------------


async def handed(sink: Sink, make: Callable[[SinkSetup], Sink]) -> Sink:
    packer = Packer()
    parcel = cbor2.loads(cbor2.dumps(await sink.parcel(packer)))
    new = make(SinkSetup("a", begins=False))
    new.unpack(parcel, Unpacker(packer.fds))
    release(sink)
    new.begin()
    return new


def numbers(data: bytes) -> list[int]:
    return [json.loads(line)["seq"] for line in data.splitlines()]


def balanced(sink: Sink, total: int) -> None:
    counts = sink.counts()
    assert counts["accepted"] == total == counts["written"] + counts["dropped"] + counts["waiting"]


async def test_file_is_written_on_and_a_half_line_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(setup: SinkSetup) -> Sink:
        return JsonlSink(setup, path=tmp_path / "out", rotate_bytes=10_000_000, keep=1)

    sink, write = make(SinkSetup("a")), os.write
    sink.write({"seq": 1})
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:4]) if len(data) > 4 else _full())
    sink.write({"seq": 2})  # the disk takes 4 bytes of it, then a shorter rest, then no more
    monkeypatch.undo()
    sink = await handed(sink, make)
    sink.write({"seq": 3})
    assert numbers((tmp_path / "out").read_bytes()) == [1, 2, 3]
    balanced(sink, 3)
    sink.close()


def _full() -> int:
    raise OSError(28, "No space left on device")


async def test_readers_of_a_socket_stay_connected(tmp_path: Path) -> None:
    def make(setup: SinkSetup) -> Sink:
        return SocketSink(setup, path=tmp_path / "s.sock")

    sink = make(SinkSetup("a"))
    with socket.socket(socket.AF_UNIX) as reader, socket.socket(socket.AF_UNIX) as late:
        reader.connect(str(tmp_path / "s.sock"))
        await until(lambda: sink.counts()["readers"] == 1)
        sink.write({"seq": 1})
        sink = await handed(sink, make)
        sink.write({"seq": 2})
        late.connect(str(tmp_path / "s.sock"))  # the same socket goes on listening
        await until(lambda: sink.counts()["readers"] == 2)
        sink.write({"seq": 3})
        assert numbers(reader.recv(1000)) == [1, 2, 3] and numbers(late.recv(1000)) == [3]
        sink.close()
    assert not (tmp_path / "s.sock").exists()


async def test_command_of_a_sink_goes_on_reading(tmp_path: Path) -> None:
    def make(setup: SinkSetup) -> Sink:
        return ExecSink(setup, command=("/bin/sh", "-c", "cat > out"), cwd=tmp_path)

    sink = make(SinkSetup("a"))
    for seq in range(1, 200):
        sink.write({"seq": seq})
        if seq % 50 == 0:
            sink = await handed(sink, make)
        await asyncio.sleep(0)
    sink.close()
    await sink.closed()
    assert numbers((tmp_path / "out").read_bytes()) == list(range(1, 200))
    assert sink.counts()["started"] == 1 and sink.counts()["written"] == 199


async def test_standard_output_that_is_full_gets_the_rest_from_the_next() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)

    def make(setup: SinkSetup) -> Sink:
        return StdoutSink(setup, fd=writer)

    sink = make(SinkSetup("a"))
    for seq in range(1, 801):
        sink.write({"seq": seq})
    assert sink.counts()["waiting"] > 100 and not sink.counts()["dropped"]
    sink = await handed(sink, make)
    got = b""
    while sink.counts()["waiting"]:
        got += os.read(reader, 1024)  # whatever is read makes room for more
        sink.flush()
    os.close(writer)
    while data := os.read(reader, 65536):
        got += data
    os.close(reader)
    assert numbers(got) == list(range(1, 801))
    balanced(sink, 800)


async def test_records_of_a_webhook_that_were_not_answered_go_again(tmp_path: Path) -> None:
    bodies: list[bytes] = []
    unanswered: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        bodies.append(await reader.readexactly(size))
        if len(bodies) == 1:
            unanswered.append(writer)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    spec = WebhookSpec("webhook", url=f"http://127.0.0.1:{port}/", batch=1, timeout_s=20.0)

    def make(setup: SinkSetup) -> Sink:
        return WebhookSink(setup, spec, secrets=tmp_path, private=True)

    sink = make(SinkSetup("a"))
    sink.write({"seq": 1})
    await until(lambda: bodies)
    sink.write({"seq": 2})
    sink = await handed(sink, make)
    await until(lambda: sink.counts()["written"] == 2)
    assert [json.loads(body)[0]["seq"] for body in bodies] == [1, 1, 2]
    balanced(sink, 2)
    sink.close()
    await sink.closed()
    unanswered[0].close()
    server.close()
    await asyncio.sleep(0.01)


async def test_parcel_of_another_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"")
    source = Tail(("x",), Setup("s"), path=path)
    parcel = {"counts": {}, "state": None, "kept": None, "left": [], "file": 0, "inode": 1, "line_at": 0}
    with pytest.raises(LocalError, match="descriptors that came along"):
        source.unpack({**parcel, "flags": [False, False, False]}, Unpacker([]))
