"""csv, tail, and what all sources have in common."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from source_story import Story

from edgeswarm.agentfile.wiring import (
    AgentSource,
    ApiSource,
    CsvSource,
    ExecSource,
    IioSource,
    JsonlSource,
    TailSource,
    VitalsSource,
)
from edgeswarm.drivers.sources import Backoff, make_source
from edgeswarm.drivers.sources_csv import CsvReplay, seconds
from edgeswarm.drivers.sources_tail import Tail
from edgeswarm.errors import CapabilityError, ConfigError, LocalError
from edgeswarm.limits import SOURCE_RETRY_MS, SOURCE_RETRY_MS_MAX


def csv(path: Path, story: Story, **settings: Any) -> CsvReplay:
    spec = CsvSource("csv", str(path), **{"columns": ("x", "y"), "speed": 0.0, **settings})
    return CsvReplay(spec, story.setup, path=path)


# --- csv --------------------------------------------------------------------------------------------------------------


async def test_csv_gives_its_columns_in_the_order_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeffy, x ,z\r\n1,2,3\r\n\r\n4,5,6", encoding="utf-8")
    story = Story()
    source = csv(path, story)
    source.probe()
    assert await story.of(source) == [(2.0, 1.0), (5.0, 4.0)]
    assert story.slept == []


async def test_csv_passes_bad_lines_over_and_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x;y\n1;2\n1\n1;z\n1;nan\n1;inf\n1;1e99\n3;4\n")
    story = Story()
    source = csv(path, story)
    assert await story.of(source) == [(1.0, 2.0), (3.0, 4.0)]
    assert source.counts.malformed == {"width": 1, "type": 1, "nan": 1, "infinity": 1, "too_large": 1}
    assert set(story.events) == {"source_malformed"}


async def test_csv_keeps_the_pace_of_its_rate_and_speed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "1,2\n" * 4)
    story = Story(*[None] * 9)
    await story.of(csv(path, story, rate_hz=10.0, speed=2.0))
    assert story.times_s == pytest.approx([0.0, 0.05, 0.1, 0.15])


async def test_csv_keeps_the_pace_of_its_timestamps(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "t,x,y\n2013-07-04 00:00:00,1,1\n2013-07-04 00:05:00,2,2\n2013-07-04T00:04:00Z,3,3\n2013-07-04 00:10:00,4,4\n"
    )
    story = Story(*[None] * 9)
    await story.of(csv(path, story, timestamp="t", speed=60.0))
    assert story.times_s == pytest.approx([0.0, 5.0, 5.0, 11.0])  # the third goes back in time: it waits for nothing
    assert seconds("1.5") == 1.5


async def test_csv_that_was_held_back_does_not_catch_up_in_a_burst(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "1,2\n" * 4)
    story = Story(*[None] * 9, hold_s=0.25)
    source = csv(path, story, rate_hz=10.0, speed=1.0)

    async def offer(row: tuple[float, ...], at_ns: int) -> None:
        await story.offer(row, at_ns)
        story.hold_s = 0.0  # the first row only

    await source.run(offer)
    assert story.times_s == pytest.approx([0.0, 0.25, 0.35, 0.45])


async def test_csv_loops_until_it_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n3,4\n")
    story = Story(*[None] * 4)
    rows = await story.of(csv(path, story, loop=True, speed=1.0))
    assert rows[:4] == [(1.0, 2.0), (3.0, 4.0)] * 2


async def test_csv_without_rows_does_not_spin(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n")
    story = Story(*[None] * 5)
    assert await story.of(csv(path, story, loop=True)) == []
    assert len(story.slept) == 6
    assert story.slept[-1] > story.slept[0]


async def test_csv_that_is_not_there_yet_is_looked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    story = Story(
        lambda: path.write_text("x\n1\n"),
        lambda: path.write_text(""),
        lambda: path.write_text("y,x\n1,2\n"),
    )
    source = csv(path, story)
    with pytest.raises(LocalError, match="No such file"):
        source.probe()
    assert await story.of(source) == [(2.0, 1.0)]
    assert source.counts.failed == 3
    assert story.slept == pytest.approx([0.1, 0.2, 0.4])


async def test_csv_without_a_column_says_which_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,z\n1,2\n")
    with pytest.raises(LocalError, match="expected a column 'y', found x, z"):
        csv(path, Story()).probe()
    with pytest.raises(LocalError, match="expected a column 't'"):
        csv(path, Story(), columns=("x",), timestamp="t").probe()


async def test_csv_goes_on_after_a_restart_where_the_answers_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "".join(f"{i},{i}\n" for i in range(5)))
    story = Story()
    first = csv(path, story)
    await story.of(first)
    state = first.state(unanswered=2)
    assert state is not None
    story = Story()
    second = csv(path, story)
    second.restore(state)
    assert second.state() == state
    assert await story.of(second) == [(3.0, 3.0), (4.0, 4.0)]
    for bad in (
        {},
        {"kind": "csv"},
        {"kind": "csv", "row": -1},
        {"kind": "csv", "row": True},
        {"kind": "tail", "row": 1},
    ):
        with pytest.raises(LocalError, match="state"):
            second.restore(bad)


async def test_row_that_waits_to_be_taken_comes_again_after_a_restart(tmp_path: Path) -> None:
    """The agent takes two rows and holds the third back; then the source is stopped."""
    csv_path, tail_path = tmp_path / "a.csv", tmp_path / "a.log"
    csv_path.write_text("x,y\n" + "".join(f"{i},{i}\n" for i in range(5)))
    tail_path.write_text("")
    told = Story(append(tail_path, "[0]\n[1]\n[2]\n[3]\n"))
    states = []
    for source in (csv(csv_path, Story()), tail(tail_path, told)):
        held = HoldsBack(2)
        task = asyncio.create_task(source.run(held.offer))
        await asyncio.wait_for(held.full.wait(), 5)
        states.append(source.state(unanswered=1))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert source.state(unanswered=1) == states[-1]
    assert states[0] == {"kind": "csv", "row": 1}
    assert states[1] == {"kind": "tail", "inode": tail_path.stat().st_ino, "offset": 4}


class HoldsBack:
    """An agent that takes so many rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.full = asyncio.Event()

    async def offer(self, row: tuple[float, ...], at_ns: int) -> None:
        if not self.rows:
            self.full.set()
            await asyncio.Event().wait()
        self.rows -= 1


# --- tail -------------------------------------------------------------------------------------------------------------


def append(path: Path, text: str) -> Callable[[], None]:
    def step() -> None:
        with path.open("a") as file:
            file.write(text)

    return step


def tail(path: Path, story: Story, **settings: Any) -> Tail:
    return Tail(("x",), story.setup, path=path, **settings)


async def test_tail_gives_what_is_appended_after_it_began(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("[1]\n")
    story = Story(append(path, "[2]\n[3"), append(path, "3]\n"), append(path, "x\n[4]\n"), None)
    source = tail(path, story)
    source.probe()
    assert await story.of(source) == [(2.0,), (33.0,), (4.0,)]
    assert source.counts.malformed == {"json": 1}


async def test_tail_does_not_take_the_end_of_a_line_for_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("11")
    story = Story(append(path, "22\n33\n"), None)
    assert await story.of(tail(path, story, format="csv")) == [(33.0,)]


async def test_tail_follows_a_rotation_and_loses_nothing(tmp_path: Path) -> None:
    """The writer goes on in the old file after the rename, leaves a last line without end, then begins the new one."""
    path, old = tmp_path / "a.log", tmp_path / "a.log.1"
    path.write_text("")

    def rotate() -> None:
        append(path, "[1]\n")()
        os.rename(path, old)
        append(old, "[2]\n[3]")()
        append(path, "[4]\n")()

    story = Story(rotate, append(path, "[5]\n"), None)
    source = tail(path, story)
    assert await story.of(source) == [(1.0,), (2.0,), (3.0,), (4.0,), (5.0,)]
    assert source.counts.rotated == 1
    assert "source_rotated" in story.events


async def test_tail_reads_a_cut_file_again_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("[0]\n[0]\n")
    story = Story(append(path, "[1]\n[half"), lambda: path.write_text("[2]\n"), append(path, "[3]\n"), None)
    source = tail(path, story)
    assert await story.of(source) == [(1.0,), (2.0,), (3.0,)]
    assert source.counts.truncated == 1


async def test_tail_waits_for_a_file_that_vanishes_and_reads_the_next_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("[0]\n")
    story = Story(path.unlink, None, append(path, "[1]\n"), append(path, "[2]\n"), None)
    source = tail(path, story)
    assert await story.of(source) == [(1.0,), (2.0,)]
    assert source.counts.vanished == 1
    assert source.counts.opened == 2
    assert story.events.count("source_vanished") == 1


async def test_tail_of_a_file_that_comes_later_reads_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    story = Story(None, None, append(path, "[1]\n"), None)
    source = tail(path, story)
    with pytest.raises(LocalError, match="No such file"):
        source.probe()
    assert await story.of(source) == [(1.0,)]
    assert story.slept[:3] == pytest.approx([0.1, 0.2, 0.4])


async def test_tail_takes_plain_files_only(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    story = Story(None)
    source = tail(path, story)
    assert await story.of(source) == []
    assert source.counts.failed == 2
    for name in (path, tmp_path):
        with pytest.raises(LocalError, match="plain file"):
            tail(name, Story()).probe()


async def test_tail_goes_on_after_a_restart_where_the_answers_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("")
    story = Story(append(path, "[1]\nbad\n[2]\n[3]\n[4"), None)
    first = tail(path, story)
    assert first.state() is None
    await story.of(first)
    states = [first.state(unanswered=count) for count in (0, 2, 99)]
    append(path, "4]\n")()
    for state, expected in zip(states, ([44.0], [2.0, 3.0, 44.0], [1.0, 2.0, 3.0, 44.0]), strict=True):
        assert state is not None
        story = Story()
        again = tail(path, story)
        again.restore(state)
        assert again.state() == state
        assert await story.of(again) == [(value,) for value in expected]


async def test_tail_of_another_file_under_the_name_reads_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("[1]\n[2]\n")
    for inode, offset in ((1, 4), (path.stat().st_ino, 1000)):
        story = Story()
        source = tail(path, story)
        source.restore({"kind": "tail", "inode": inode, "offset": offset})
        assert await story.of(source) == [(1.0,), (2.0,)]
    for bad in ({}, {"kind": "tail", "inode": 1}, {"kind": "tail", "inode": 1, "offset": -1}, {"kind": "csv"}):
        with pytest.raises(LocalError, match="state"):
            source.restore(bad)


# --- all of them ------------------------------------------------------------------------------------------------------


def test_back_off_doubles_up_to_its_bound() -> None:
    backoff = Backoff()
    waits = [backoff.next_s() for _ in range(12)]
    assert waits[:3] == pytest.approx([SOURCE_RETRY_MS / 1000 * factor for factor in (1, 2, 4)])
    assert waits[-1] == SOURCE_RETRY_MS_MAX / 1000
    backoff.reset()
    assert backoff.next_s() == waits[0]


@pytest.mark.parametrize(
    ("spec", "needs", "kind"),
    [
        (VitalsSource("vitals", ("load1",), id="v"), None, "vitals"),
        (CsvSource("csv", "a.csv", ("x",)), "file_source", "csv"),
        (JsonlSource("jsonl", ("x",)), None, "jsonl"),
        (TailSource("tail", "a.log", ("x",)), "file_source", "tail"),
        (IioSource("iio", "imu", ("temp",)), None, "iio"),
        (ExecSource("exec", ("true",), ("x",)), "exec_source", "exec"),
    ],
)
def test_declared_source_gets_its_driver_if_the_agent_has_the_capability(spec: Any, needs: str, kind: str) -> None:
    source = make_source(spec, base_dir=Path("/nowhere"), capabilities=(needs,) if needs else ())
    assert source.kind == kind
    assert source.name == (spec.id or spec.type)
    assert source.width == 1
    if needs:
        with pytest.raises(CapabilityError, match=needs):
            make_source(spec, base_dir=Path("/nowhere"), capabilities=("file_sink",))


@pytest.mark.parametrize("spec", [AgentSource("agent", "other"), ApiSource("api", 1)])
def test_rows_of_agents_and_programs_have_no_driver(spec: Any) -> None:
    with pytest.raises(ConfigError, match="pump"):
        make_source(spec, base_dir=Path("/"), capabilities=())


def test_source_without_a_position_refuses_to_go_on_from_one() -> None:
    source = make_source(VitalsSource("vitals", ("load1",)), base_dir=Path("/"), capabilities=())
    assert source.state() is None
    with pytest.raises(LocalError, match="no position"):
        source.restore({})
