"""iio and vitals: what the machine itself has to say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from source_story import Story

from edgeswarm.agentfile.wiring import VitalsSource
from edgeswarm.drivers.sources import make_source
from edgeswarm.drivers.sources_iio import Iio
from edgeswarm.drivers.sources_vitals import FIELDS, Vitals, VitalsReader
from edgeswarm.errors import ConfigError, LocalError

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
