"""csv, tail, iio and vitals, in a time of their own: every sleep of a source runs the next step of the test's story."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

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
from edgeswarm.drivers.sources import Backoff, Clock, Setup, Source, make_source
from edgeswarm.drivers.sources_csv import CsvReplay, seconds
from edgeswarm.drivers.sources_iio import Iio
from edgeswarm.drivers.sources_tail import Tail
from edgeswarm.drivers.sources_vitals import FIELDS, Vitals, VitalsReader
from edgeswarm.errors import CapabilityError, ConfigError, LocalError
from edgeswarm.limits import SOURCE_RETRY_MS, SOURCE_RETRY_MS_MAX


class Story:
    """A clock whose sleeps run steps; after the last one the source is cancelled.  Keeps rows, times and events."""

    def __init__(self, *steps: Callable[[], object] | None, hold_s: float = 0.0) -> None:
        self.steps = list(steps)
        self.now_ns = 0
        self.slept: list[float] = []
        self.rows: list[tuple[float, ...]] = []
        self.times_s: list[float] = []
        self.events: list[str] = []
        self.hold_s = hold_s

    @property
    def setup(self) -> Setup:
        def told(name: str, /, **_: object) -> None:
            self.events.append(name)

        return Setup("s", told, Clock(lambda: self.now_ns, self.sleep))

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0.0
        self.now_ns += round(seconds * 1e9)
        self.slept.append(seconds)
        if not self.steps:
            raise asyncio.CancelledError
        step = self.steps.pop(0)
        if step is not None:
            step()

    async def offer(self, row: tuple[float, ...], at_ns: int) -> None:
        assert at_ns == self.now_ns
        self.rows.append(row)
        self.times_s.append(at_ns / 1e9)
        self.now_ns += round(self.hold_s * 1e9)

    async def of(self, source: Source) -> list[tuple[float, ...]]:
        try:
            async with asyncio.timeout(5):
                await source.run(self.offer)
        except asyncio.CancelledError:
            pass
        return self.rows


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


# --- iio --------------------------------------------------------------------------------------------------------------


def device(root: Path, files: Mapping[str, str], *, number: int = 0) -> Path:
    folder = root / f"iio:device{number}"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def iio(root: Path, story: Story, *channels: str, name: str = "imu") -> Iio:
    return Iio(channels, story.setup, device=name, root=root, rate_hz=10.0)


async def test_iio_scales_channels_by_their_own_or_their_kinds_files(tmp_path: Path) -> None:
    device(tmp_path, {"name": "other\n"}, number=0)
    device(
        tmp_path,
        {
            "name": "imu\n",
            "in_accel_x_raw": "100\n",
            "in_accel_scale": "0.5\n",
            "in_voltage0_raw": "10\n",
            "in_voltage0_scale": "2\n",
            "in_voltage_scale": "9\n",
            "in_voltage0_offset": "-4\n",
            "in_voltage0-voltage1_raw": "3\n",
            "in_voltage-voltage_scale": "4\n",
            "in_temp_ambient_raw": "7",
            "in_temp_offset": "1",
            "in_humidity_input": "41.5\n",
            "in_humidity_scale": "1000",
        },
        number=1,
    )
    channels = ("accel_x", "voltage0", "voltage0-voltage1", "temp_ambient", "humidity")
    expected = (50.0, 12.0, 12.0, 8.0, 41.5)
    for name in ("imu", "iio:device1"):
        story = Story(None)
        source = iio(tmp_path, story, *channels, name=name)
        source.probe()
        assert await story.of(source) == [expected, expected]
        assert story.slept == pytest.approx([0.1, 0.1])


async def test_iio_names_what_is_missing(tmp_path: Path) -> None:
    device(tmp_path, {"name": "imu", "in_temp_raw": "1"})
    with pytest.raises(LocalError, match=r"expected an iio device 'gyro', found iio:device0 \(imu\)"):
        iio(tmp_path, Story(), "temp", name="gyro").probe()
    with pytest.raises(LocalError, match="expected a channel 'accel', found temp"):
        iio(tmp_path, Story(), "accel").probe()
    for name in ("..", "../x", "."):
        with pytest.raises(LocalError, match="expected an iio device"):
            iio(tmp_path, Story(), "temp", name=name).probe()


async def test_iio_device_that_leaves_is_opened_again_with_its_new_scale(tmp_path: Path) -> None:
    folder = device(tmp_path, {"name": "imu", "in_temp_raw": "1", "in_temp_scale": "1"})

    def unplug() -> None:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

    def plug_in() -> None:
        device(tmp_path, {"name": "imu", "in_temp_raw": "1", "in_temp_scale": "5"}, number=3)

    story = Story(unplug, None, plug_in, None)
    source = iio(tmp_path, story, "temp")
    assert await story.of(source) == [(1.0,), (5.0,), (5.0,)]
    assert source.counts.vanished == 1
    assert source.counts.opened == 2
    assert "source_vanished" in story.events


async def test_iio_reading_that_is_no_number_is_counted(tmp_path: Path) -> None:
    folder = device(tmp_path, {"name": "imu", "in_temp_raw": "busy"})
    story = Story(lambda: (folder / "in_temp_raw").write_text("nan"), lambda: (folder / "in_temp_raw").write_text("2"))
    source = iio(tmp_path, story, "temp")
    assert await story.of(source) == [(2.0,)]
    assert source.counts.malformed == {"type": 1, "nan": 1}
    folder.joinpath("in_temp_scale").write_text("much")
    with pytest.raises(LocalError, match="much"):
        source.probe()


# --- vitals -----------------------------------------------------------------------------------------------------------


class Machine:
    """psutil of a machine that the test owns."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.moved = 0
        self.sensors: dict[str, list[SimpleNamespace]] = {}
        self.broken = False

    def cpu_percent(self, interval: float | None) -> float:
        assert interval is None
        self.calls.append("cpu")
        if self.broken:
            raise OSError("proc is gone")
        return 12.5

    def virtual_memory(self) -> SimpleNamespace:
        return SimpleNamespace(percent=40.0, used=2_000_000_000)

    def swap_memory(self) -> SimpleNamespace:
        return SimpleNamespace(percent=3.0)

    def getloadavg(self) -> tuple[float, float, float]:
        return 0.5, 0.4, 0.3

    def disk_io_counters(self) -> SimpleNamespace | None:
        return SimpleNamespace(read_bytes=self.moved, write_bytes=2 * self.moved)

    def net_io_counters(self) -> SimpleNamespace | None:
        return SimpleNamespace(bytes_recv=self.moved, bytes_sent=0)

    def disk_usage(self, path: str) -> SimpleNamespace:
        self.calls.append("space")
        return SimpleNamespace(percent=70.0)

    def pids(self) -> list[int]:
        return [1, 2, 3]

    def sensors_temperatures(self) -> dict[str, list[SimpleNamespace]]:
        return self.sensors


def vitals(story: Story, machine: Machine, *fields: str, rate_hz: float = 10.0) -> Vitals:
    reader = VitalsReader(now_ns=lambda: story.now_ns, psutil=machine)
    return Vitals(fields, story.setup, rate_hz=rate_hz, reader=reader)


async def test_vitals_reads_every_field(tmp_path: Path) -> None:
    story, machine = Story(*[None] * 2), Machine()
    machine.sensors = {"nvme": [SimpleNamespace(current=80.0)], "coretemp": [SimpleNamespace(current=51.0)]}
    source = vitals(story, machine, *FIELDS)
    story.steps[0] = lambda: setattr(machine, "moved", 1_000_000)
    row = dict(zip(FIELDS, (await story.of(source))[0], strict=True))
    assert row == {
        "cpu_percent": 12.5,
        "memory_percent": 40.0,
        "memory_used_mb": 2000.0,
        "load1": 0.5,
        "swap_percent": 3.0,
        "disk_read_mbps": 10.0,  # 1 MB in 0.1 s
        "disk_write_mbps": 20.0,
        "disk_percent": 70.0,
        "net_rx_mbps": 80.0,  # megabits
        "net_tx_mbps": 0.0,
        "temperature_c": 51.0,
        "processes": 3.0,
    }


async def test_vitals_come_at_their_rate_and_the_first_reading_is_not_given() -> None:
    story, machine = Story(*[None] * 4), Machine()
    await story.of(vitals(story, machine, "cpu_percent"))
    assert story.times_s == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert len(machine.calls) == 5


async def test_late_ticks_are_left_out_and_counted() -> None:
    story, machine = Story(*[None] * 3, hold_s=0.25), Machine()
    source = vitals(story, machine, "load1")
    await story.of(source)
    assert story.times_s == pytest.approx([0.1, 0.35, 0.6])  # at once, then again in step
    assert source.counts.late == 4


async def test_agents_share_readings_and_slow_ones_are_kept_for_a_second() -> None:
    story, machine = Story(), Machine()
    reader = VitalsReader(now_ns=lambda: story.now_ns, psutil=machine)
    for _ in range(100):
        reader.row(("cpu_percent", "disk_percent"))
        story.now_ns += 20_000_000
    assert machine.calls.count("space") == 2
    assert machine.calls.count("cpu") == 34  # every 60 ms: at least 50 ms apart


async def test_counter_that_goes_back_gives_zero_and_missing_devices_too() -> None:
    story, machine = Story(), Machine()
    reader = VitalsReader(now_ns=lambda: story.now_ns, psutil=machine)
    machine.moved = 1000
    reader.row(("net_rx_mbps",))
    story.now_ns += 10**9
    machine.moved = 10
    assert reader.row(("net_rx_mbps",)) == (0.0,)
    machine.net_io_counters = machine.disk_io_counters = lambda: None  # type: ignore[method-assign]
    story.now_ns += 10**9
    assert reader.row(("net_rx_mbps", "disk_read_mbps")) == (0.0, 0.0)


async def test_vitals_that_cannot_be_read_are_counted_and_come_back() -> None:
    story, machine = Story(*[None] * 3), Machine()
    story.steps[0] = lambda: setattr(machine, "broken", True)
    story.steps[1] = lambda: setattr(machine, "broken", False)
    source = vitals(story, machine, "cpu_percent")
    assert len(await story.of(source)) == 2
    assert source.counts.failed == 1
    assert story.events == ["source_failed"]


async def test_missing_temperature_sensor_is_named_by_the_probe() -> None:
    with pytest.raises(LocalError, match="no temperature sensor"):
        vitals(Story(), Machine(), "temperature_c").probe()


def test_unknown_field_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="cpu_percent, .* found 'cpu_percnt'"):
        vitals(Story(), Machine(), "cpu_percnt")


async def test_stall_is_measured_by_the_rate_a_source_promises() -> None:
    story, machine = Story(*[None] * 2), Machine()
    source = vitals(story, machine, "load1", rate_hz=10.0)
    await story.of(source)
    source.check(story.now_ns + 800_000_000)
    assert source.counts.stalls == 0
    source.check(story.now_ns + 1_000_000_000)
    assert source.counts.stalls == 1


def test_real_vitals_are_finite_numbers() -> None:
    fields = tuple(field for field in FIELDS if field != "temperature_c")
    source = make_source(VitalsSource("vitals", fields), base_dir=Path("/"), capabilities=())
    assert isinstance(source, Vitals)
    source.probe()
    row = source._read()
    assert row is not None
    assert len(row) == len(fields)
    assert all(value >= 0.0 for value in row)


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
