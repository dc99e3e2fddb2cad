"""Sinks: whole lines, in order, never more than a bound, and nothing lost without a count."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sink_told import Told, balanced, numbers

from edgeswarm.agentfile.wiring import ExecSink as ExecSpec
from edgeswarm.agentfile.wiring import JsonlSink as JsonlSpec
from edgeswarm.agentfile.wiring import SocketSink as SocketSpec
from edgeswarm.agentfile.wiring import StdoutSink as StdoutSpec
from edgeswarm.drivers.exec_sink import ExecSink
from edgeswarm.drivers.jsonl_sink import JsonlSink
from edgeswarm.drivers.sinks import Outbox, StdoutSink, encode, make_sink
from edgeswarm.errors import CapabilityError
from edgeswarm.limits import SINK_RECORD_BYTES_MAX, SINK_RECORDS_MAX


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, 4096)
    yield read_fd, write_fd
    for fd in (read_fd, write_fd):
        try:
            os.close(fd)
        except OSError:
            pass


# --- outbox -----------------------------------------------------------------------------------------------------------


@given(
    lines=st.lists(st.integers(1, 30), max_size=40),
    bytes_max=st.integers(10, 100),
    takes=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=40),
)
def test_outbox_gives_whole_lines_in_order_within_its_bounds(
    lines: list[int], bytes_max: int, takes: list[tuple[int, int]]
) -> None:
    """Lines go in, heads of any size are taken and sent in part: what came out is lines, and those that went missing
    are the number that it counted."""
    outbox, out = Outbox(bytes_max), b""
    for number in range(max(len(lines), len(takes))):
        if number < len(lines):
            outbox.push(bytes([97 + number % 26]) * lines[number] + b"\n")
        if number < len(takes):
            head = outbox.head(takes[number][0])
            assert len(head) <= takes[number][0]
            outbox.sent(min(len(head), takes[number][1]))
            out += head[: takes[number][1]]
        assert outbox.accepted == outbox.written + outbox.dropped + len(outbox)
        assert outbox._bytes <= bytes_max + 31  # a line that is partly out stays
    while outbox:
        out += outbox.head(7)
        outbox.sent(len(outbox.head(7)))
    found = [(line[0], len(line)) for line in out.splitlines()]
    expected = [(97 + number % 26, size) for number, size in enumerate(lines)]
    rest = iter(expected)
    assert all(one in rest for one in found)  # a subsequence
    assert len(found) == len(expected) - outbox.dropped


def test_outbox_is_bounded_in_records() -> None:
    outbox = Outbox()
    dropped = sum(outbox.push(b"x\n") for _ in range(SINK_RECORDS_MAX + 10))
    assert dropped == outbox.dropped == 10
    assert outbox.clear() == SINK_RECORDS_MAX


def test_record_is_one_line_without_nan() -> None:
    assert encode({"a": "line\nend", "v": [1.5]}) == b'{"a":"line\\nend","v":[1.5]}\n'
    with pytest.raises(ValueError, match="JSON"):
        encode({"a": float("nan")})


# --- what every sink does ---------------------------------------------------------------------------------------------


async def test_record_that_is_none_is_counted_and_passed_over(tmp_path: Path) -> None:
    told = Told()
    sink = JsonlSink(told.setup, path=tmp_path / "a", rotate_bytes=10**6, keep=1)
    for record in ({"seq": float("inf")}, {"seq": object()}, {"seq": "x" * SINK_RECORD_BYTES_MAX}, {"seq": 1}):
        sink.write(record)
    assert numbers((tmp_path / "a").read_bytes()) == [1]
    assert sink.failed == 3
    assert [fields["kind"] for _, fields in told.events] == ["record", "record_too_long"]
    sink.close()


async def test_changes_only_sink_passes_the_rest_over(tmp_path: Path) -> None:
    sink = JsonlSink(Told().setup, path=tmp_path / "a", rotate_bytes=10**6, keep=1, when="decision_changed")
    for seq in range(6):
        sink.write({"seq": seq, "changed": seq % 3 == 0})
    sink.close()
    assert numbers((tmp_path / "a").read_bytes()) == [0, 3]


@pytest.mark.parametrize(
    ("spec", "needs"),
    [
        (StdoutSpec("stdout"), None),
        (JsonlSpec("jsonl", "out/a.jsonl"), "file_sink"),
        (SocketSpec("socket", "s"), None),
        (ExecSpec("exec", ("cat",)), "exec_sink"),
    ],
)
async def test_declared_sink_gets_its_driver_if_the_agent_has_the_capability(
    spec: Any, needs: str | None, tmp_path: Path
) -> None:
    places: dict[str, Any] = {"agent": "a", "base_dir": tmp_path, "runtime_dir": tmp_path}
    sink = make_sink(spec, capabilities=(needs,) if needs else (), **places)
    assert sink.kind == spec.type
    sink.close()
    if isinstance(sink, ExecSink):
        await sink.closed()
    if needs:
        with pytest.raises(CapabilityError, match=needs):
            make_sink(spec, capabilities=("file_source", "exec_source"), **places)


# --- standard output --------------------------------------------------------------------------------------------------


async def test_slow_reader_of_standard_output_blocks_nobody(pipe: tuple[int, int]) -> None:
    """The pipe takes a page; the rest waits, then the oldest goes; when the reader wakes up it gets whole lines."""
    told = Told()
    sink = StdoutSink(told.setup, fd=pipe[1])
    for seq in range(3000):
        sink.write({"seq": seq, "pad": "x" * 100})
    balanced(sink)
    counts = sink.counts()
    assert counts["waiting"] <= SINK_RECORDS_MAX
    assert counts["dropped"] > 0
    assert os.get_blocking(pipe[1])  # shared with others: left as it was
    data = b""
    async with asyncio.timeout(5):
        while sink.counts()["waiting"]:
            if select.select([pipe[0]], [], [], 0)[0]:  # an empty pipe would block the loop that fills it
                data += os.read(pipe[0], 4096)
            await asyncio.sleep(0.001)
    os.close(pipe[1])
    while chunk := os.read(pipe[0], 1 << 16):
        data += chunk
    found = numbers(data)
    assert found == sorted(found)
    assert found[-1] == 2999
    assert len(found) == 3000 - counts["dropped"]
    assert "sink_dropped" in told.names
    sink.close()


async def test_standard_output_that_nobody_reads_any_more_is_told_once(pipe: tuple[int, int]) -> None:
    told = Told()
    sink = StdoutSink(told.setup, fd=pipe[1])
    os.close(pipe[0])
    for seq in range(5):
        sink.write({"seq": seq})
    balanced(sink)
    assert sink.counts()["dropped"] == 5
    assert sink.failed == 1
    assert told.names.count("sink_failed") == 1
    sink.close()


def test_standard_output_works_without_a_loop(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    sink = StdoutSink(Told().setup, fd=fd)
    sink.write({"seq": 1})
    sink.close()
    sink.write({"seq": 2})
    os.close(fd)
    assert numbers((tmp_path / "out").read_bytes()) == [1]
    balanced(sink)


# --- files ------------------------------------------------------------------------------------------------------------


def test_file_is_rotated_between_lines_and_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "a.jsonl"
    sink = JsonlSink(Told().setup, path=path, rotate_bytes=50, keep=2)
    for seq in range(40):
        sink.write({"seq": seq})
    sink.close()
    names = sorted(one.name for one in path.parent.iterdir())
    assert names == ["a.jsonl", "a.jsonl.1", "a.jsonl.2"]
    found = [seq for name in reversed(names) for seq in numbers((path.parent / name).read_bytes())]
    assert found == list(range(found[0], 40))
    assert all(one.stat().st_size < 50 + 12 for one in path.parent.iterdir())
    assert sink.counts()["rotated"] == 7


def test_file_without_older_ones_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(Told().setup, path=path, rotate_bytes=20, keep=0)
    for seq in range(10):
        sink.write({"seq": seq})
    sink.close()
    assert [one.name for one in tmp_path.iterdir()] == ["a.jsonl"]
    assert numbers(path.read_bytes())[-1] == 9


def test_half_a_line_of_an_earlier_life_gets_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"seq":1}\n{"se')
    sink = JsonlSink(Told().setup, path=path, rotate_bytes=10**6, keep=1)
    sink.write({"seq": 2})
    sink.close()
    assert path.read_bytes() == b'{"seq":1}\n{"se\n{"seq":2}\n'


def test_moved_file_is_begun_anew(tmp_path: Path) -> None:
    told = Told()
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(told.setup, path=path, rotate_bytes=10**6, keep=1)
    sink.write({"seq": 1})
    path.rename(tmp_path / "taken")
    told.now_ns += 10**10
    sink.write({"seq": 2})
    sink.close()
    assert numbers(path.read_bytes()) == [2]


class FullDisk:
    """os.write for one path: takes so many bytes, then says ENOSPC."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 30
        self._write = os.write
        monkeypatch.setattr("edgeswarm.drivers.jsonl_sink.os.write", self)

    def __call__(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        size = self._write(fd, data[: self.room])
        self.room -= size
        return size


def test_full_disk_is_counted_told_and_tried_again_and_lines_stay_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, disk = Told(), FullDisk(monkeypatch)
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(told.setup, path=path, rotate_bytes=10**6, keep=1)
    sink.write({"seq": 0})
    disk.room = 4
    for seq in range(1, 4):
        sink.write({"seq": seq})
    assert sink.failed == 1  # not every record tries
    assert sink.counts()["waiting"] == 3
    told.now_ns += 10**9
    sink.write({"seq": 4})
    assert sink.failed == 2
    disk.room = 1 << 30
    told.now_ns += 10**9
    sink.write({"seq": 5})
    assert numbers(path.read_bytes()) == [0, 1, 2, 3, 4, 5]
    assert sink.counts()["dropped"] == 0
    assert told.names == ["sink_failed", "sink_recovered"]
    sink.close()


def test_disk_that_stays_full_costs_the_oldest_records_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, disk = Told(), FullDisk(monkeypatch)
    disk.room = 0
    sink = JsonlSink(told.setup, path=tmp_path / "a.jsonl", rotate_bytes=10**6, keep=1)
    for seq in range(SINK_RECORDS_MAX + 100):
        sink.write({"seq": seq})
        told.now_ns += 10**6
    balanced(sink)
    assert sink.counts()["dropped"] == 100
    sink.close()
    balanced(sink)
    assert sink.counts()["waiting"] == 0
    assert "sink_dropped" in told.names


def test_place_that_is_no_plain_file_is_counted_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("link", ".", "target/below"):
        sink = JsonlSink(Told().setup, path=tmp_path / name, rotate_bytes=10**6, keep=1)
        sink.write({"seq": 1})
        assert sink.failed == 1
        sink.close()
    assert (tmp_path / "target").read_text() == ""
