"""Lines, rows of text, and standard input."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.drivers.sources import Clock, Setup
from edgeswarm.drivers.sources_lines import LineSplitter, StdinLines, TextSource, csv_cells
from edgeswarm.errors import LocalError
from edgeswarm.limits import LINE_BYTES_MAX, SOURCE_ROWS_BURST


class Text(TextSource):
    """The parsing half of a source."""

    async def give_rows(self, offer: Any) -> None:
        raise NotImplementedError

    def probe(self) -> None:
        raise NotImplementedError


@given(text=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=10), bytes_max=st.integers(1, 30))
def test_lines_do_not_depend_on_chunks_and_long_ones_are_passed_over(
    text: bytes, cuts: list[int], bytes_max: int
) -> None:
    splitter, found, last = LineSplitter(bytes_max), [], 0
    for cut in [*sorted(cuts), len(text)]:
        found += splitter.feed(text[last:cut])
        last = max(last, cut)
    if (rest := splitter.flush()) is not None:
        found.append(rest)
    expected = text.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert [line for line, _ in found] == [line if len(line) <= bytes_max else None for line in expected]
    assert sum(size for _, size in found) == len(text)
    assert splitter.flush() is None


def test_splitter_keeps_no_more_than_one_line() -> None:
    splitter = LineSplitter(10)
    for _ in range(1000):
        assert splitter.feed(b"x" * 100) == []
    assert splitter.clear() == 100_000
    assert splitter.feed(b"ok\n") == [(b"ok", 3)]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b'{"a": 1, "b": 2.5}', (1.0, 2.5)),
        (b'{"b": 2, "a": 1, "c": "more"}\r', (1.0, 2.0)),
        (b"[1, -2e3]", (1.0, -2000.0)),
        (b"", None),
        (b"   ", None),
    ],
)
def test_json_line_is_an_object_or_an_array(line: bytes, row: tuple[float, ...] | None) -> None:
    source = Text(("a", "b"), Setup("s"))
    assert source.row_from(line) == row
    assert source.counts.malformed == {}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"a": 1', "json"),
        (b"[" * 100_000, "json"),
        (b'{"a": 1, "b": ' + b"9" * 5000 + b"}", "json"),
        (b'{"a": 1, "b": 1' + b"0" * 400 + b"}", "too_large"),
        (b'{"a": 1}', "field"),
        (b"[1]", "width"),
        (b"[1, 2, 3]", "width"),
        (b"7", "type"),
        (b'"text"', "type"),
        (b"null", "type"),
        (b'{"a": "1", "b": 2}', "type"),
        (b'{"a": true, "b": 2}', "type"),
        (b'{"a": null, "b": 2}', "type"),
        (b'{"a": NaN, "b": 2}', "nan"),
        (b'{"a": -Infinity, "b": 2}', "infinity"),
        (b'{"a": 1e999, "b": 2}', "infinity"),
        (b'{"a": 1e39, "b": 2}', "too_large"),
        (b"\xff\xfe", "text"),
        (None, "line_too_long"),
    ],
)
def test_malformed_json_line_is_counted_by_kind_and_told(line: bytes | None, kind: str) -> None:
    told: list[tuple[str, object]] = []
    source = Text(("a", "b"), Setup("s", lambda name, /, **fields: told.append((name, fields["kind"]))))
    assert source.row_from(line) is None
    assert source.counts.malformed == {kind: 1}
    assert told == [("source_malformed", kind)]


@pytest.mark.parametrize(
    ("line", "row", "malformed"),
    [
        (b"1, 2.5\r", (1.0, 2.5), {}),
        (b'"1","2"', (1.0, 2.0), {}),
        (b"a,b", None, {}),
        (b"a,c", None, {"type": 1}),
        (b"1", None, {"width": 1}),
        (b"1,2,3", None, {"width": 1}),
        (b"1,x", None, {"type": 1}),
        (b"1,1_000", None, {"type": 1}),
        (b"1,", None, {"type": 1}),
        (b"nan,1", None, {"nan": 1}),
        (b"1,inf", None, {"infinity": 1}),
    ],
)
def test_csv_line_is_numbers_in_the_order_of_the_fields(
    line: bytes, row: tuple[float, ...] | None, malformed: dict[str, int]
) -> None:
    source = Text(("a", "b"), Setup("s"), format="csv")
    assert source.row_from(line) == row
    assert source.counts.malformed == malformed


def test_quoted_cells_may_hold_the_delimiter() -> None:
    assert csv_cells('"a,b",c') == ["a,b", "c"]


# --- standard input ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    for fd in (read_fd, write_fd):
        try:
            os.close(fd)
        except OSError:
            pass


async def rows_of(source: StdinLines) -> list[tuple[float, ...]]:
    rows: list[tuple[float, ...]] = []

    async def offer(row: tuple[float, ...], at_ns: int) -> None:
        rows.append(row)

    async with asyncio.timeout(5):
        await source.run(offer)
    return rows


async def test_standard_input_from_a_pipe_ends_with_it(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b'{"a": 1}\n{"a": 2}\nnonsense\n{"a": 3}')
    os.close(pipe[1])
    source = StdinLines(("a",), Setup("s"), fd=pipe[0])
    assert await rows_of(source) == [(1.0,), (2.0,), (3.0,)]
    assert source.counts.malformed == {"json": 1}
    assert os.get_blocking(pipe[0])  # shared with others: left as it was


async def test_standard_input_may_be_a_file_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 1000)
    for name, count in ((path, 1000), (Path("/dev/null"), 0)):
        fd = os.open(name, os.O_RDONLY)
        try:
            assert len(await rows_of(StdinLines(("a",), Setup("s"), fd=fd))) == count
        finally:
            os.close(fd)


async def test_standard_input_that_is_closed_ends_the_source(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    source = StdinLines(("a",), Setup("s"), fd=pipe[0])
    with pytest.raises(LocalError, match="standard input"):
        source.probe()
    assert await rows_of(source) == []
    assert source.counts.failed == 1


async def test_line_over_the_limit_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x" * (LINE_BYTES_MAX + 10) + b'\n{"a": 1}\n')
    fd = os.open(path, os.O_RDONLY)
    try:
        source = StdinLines(("a",), Setup("s"), fd=fd)
        assert await rows_of(source) == [(1.0,)]
    finally:
        os.close(fd)
    assert source.counts.malformed == {"line_too_long": 1}


async def test_flood_lets_the_loop_go_round(tmp_path: Path) -> None:
    """An agent that takes every row at once does not keep others from running."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\n' * (SOURCE_ROWS_BURST * 10))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count_turns())
    fd = os.open(path, os.O_RDONLY)
    try:
        await rows_of(StdinLines(("a",), Setup("s"), fd=fd))
    finally:
        os.close(fd)
        other.cancel()
    assert turns >= 10


async def test_source_that_is_held_back_reads_nothing_and_does_not_stall(pipe: tuple[int, int]) -> None:
    """The agent takes one row and then no more: what is written further stays in the pipe; check() blames nobody."""
    source = StdinLines(("a",), Setup("s"), fd=pipe[0])
    held = asyncio.Event()

    async def offer(row: tuple[float, ...], at_ns: int) -> None:
        await held.wait()

    os.write(pipe[1], b'{"a": 1}\n')
    task = asyncio.create_task(source.run(offer))
    for _ in range(10):
        await asyncio.sleep(0)
    os.write(pipe[1], b'{"a": 2}\n')
    await asyncio.sleep(0)
    source.check(1 << 62)
    assert source.counts.stalls == 0
    assert source.counts.rows == 0
    held.set()
    os.close(pipe[1])
    await asyncio.wait_for(task, 5)
    assert source.counts.rows == 2


async def test_lines_that_nobody_took_when_the_source_is_stopped_are_counted(pipe: tuple[int, int]) -> None:
    told: list[str] = []
    source = StdinLines(("a",), Setup("s", lambda name, /, **_: told.append(name)), fd=pipe[0])
    taken: list[tuple[float, ...]] = []

    async def offer(row: tuple[float, ...], at_ns: int) -> None:
        if len(taken) == 2:
            await asyncio.Event().wait()
        taken.append(row)

    os.write(pipe[1], b'{"a": 1}\n' * 5)
    task = asyncio.create_task(source.run(offer))
    async with asyncio.timeout(5):
        while len(taken) < 2:  # noqa: ASYNC110 - a turn of the loop is what is waited for
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert source.counts.unread == 3
    assert told == ["source_unread"]


async def test_running_source_is_looked_at_for_a_stall(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeswarm.drivers.sources.SOURCE_LOOK_MS", 1.0)
    now_ns, told = 0, asyncio.Event()
    setup = Setup("s", lambda name, /, **_: told.set(), Clock(lambda: now_ns))
    source = StdinLines(("a",), setup, fd=pipe[0])
    task = asyncio.create_task(rows_of(source))
    await asyncio.sleep(0)
    now_ns = 10_000_000_000
    await asyncio.wait_for(told.wait(), 5)
    assert source.counts.stalls == 1
    os.close(pipe[1])
    await task


async def test_stall_is_counted_and_told_once_and_so_is_its_end(pipe: tuple[int, int]) -> None:
    told: list[str] = []
    source = StdinLines(("a",), Setup("s", lambda name, /, **_: told.append(name)), fd=pipe[0])

    async def offer(row: tuple[float, ...], at_ns: int) -> None:
        pass

    task = asyncio.create_task(source.run(offer))
    await asyncio.sleep(0)
    source.check(source.clock.now_ns())
    for _ in range(3):
        source.check(source.clock.now_ns() + 20_000_000_000)
    assert source.counts.stalls == 1
    os.write(pipe[1], b'{"a": 1}\n')
    os.close(pipe[1])
    await asyncio.wait_for(task, 5)
    assert told == ["source_stalled", "source_resumed"]
