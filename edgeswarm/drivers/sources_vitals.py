"""The machine's own readings, through psutil.

psutil.cpu_percent(interval=None) measures since its last call in the process, whoever made it; so all agents of a
process share one `VitalsReader`, which keeps what it read for a while: counters for 50 ms at least (the kernel counts
cpu time in steps of 1 to 10 ms; closer readings are noise), slow readings for a second.
Rates are bytes since the last reading over the time since: disks in megabytes a second, networks in megabits a second.
A machine without disks or network counts 0 there; without a temperature sensor that field is an error, which `probe`
names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psutil

from edgeswarm.drivers.sources import Clock, Offer, Setup, Source, paced
from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.limits import VITALS_AGE_MS_MIN, VITALS_SLOW_AGE_MS_MIN
from edgeswarm.stream.queue import Row

FIELDS: Final[Mapping[str, str]] = {
    "cpu_percent": "cpu",
    "memory_percent": "memory",
    "memory_used_mb": "memory",
    "load1": "load",
    "swap_percent": "swap",
    "disk_read_mbps": "disk",
    "disk_write_mbps": "disk",
    "disk_percent": "space",
    "net_rx_mbps": "net",
    "net_tx_mbps": "net",
    "temperature_c": "temperature",
    "processes": "processes",
}
"""Field -> the group that is read together."""
SLOW: Final = frozenset({"space", "temperature", "processes"})
CPU_SENSORS: Final = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "acpitz")


class VitalsReader:
    """Reads groups of fields, each not more often than it makes sense.  psutil is a parameter for tests."""

    def __init__(self, *, now_ns: Callable[[], int], psutil: Any = psutil) -> None:
        self._now_ns = now_ns
        self._psutil = psutil
        self._values: dict[str, float] = {}
        self._read_ns: dict[str, int] = {}
        self._bytes: dict[str, tuple[int, int, int]] = {}  # group -> ns, in, out
        self._groups: dict[str, Callable[[int], None]] = {
            "cpu": self._read_cpu,
            "memory": self._read_memory,
            "load": self._read_load,
            "swap": self._read_swap,
            "disk": self._read_disk,
            "space": self._read_space,
            "net": self._read_net,
            "temperature": self._read_temperature,
            "processes": self._read_processes,
        }

    def row(self, fields: Sequence[str]) -> Row:
        """The fields' values now.  Raises LocalError for one that this machine does not have, OSError from below."""
        now_ns = self._now_ns()
        for group in {FIELDS[field] for field in fields}:
            age_ns = 1_000_000 * (VITALS_SLOW_AGE_MS_MIN if group in SLOW else VITALS_AGE_MS_MIN)
            read_ns = self._read_ns.get(group)
            if read_ns is None or now_ns - read_ns >= age_ns:
                self._groups[group](now_ns)
                self._read_ns[group] = now_ns
        return tuple([self._values[field] for field in fields])

    def _read_cpu(self, now_ns: int) -> None:
        self._values["cpu_percent"] = float(self._psutil.cpu_percent(interval=None))

    def _read_memory(self, now_ns: int) -> None:
        memory = self._psutil.virtual_memory()
        self._values["memory_percent"] = float(memory.percent)
        self._values["memory_used_mb"] = memory.used / 1e6

    def _read_load(self, now_ns: int) -> None:
        self._values["load1"] = float(self._psutil.getloadavg()[0])

    def _read_swap(self, now_ns: int) -> None:
        self._values["swap_percent"] = float(self._psutil.swap_memory().percent)

    def _read_disk(self, now_ns: int) -> None:
        counters = self._psutil.disk_io_counters()
        read, write = (counters.read_bytes, counters.write_bytes) if counters is not None else (0, 0)
        rates = self._rates("disk", now_ns, read, write)
        self._values["disk_read_mbps"], self._values["disk_write_mbps"] = (rate / 1e6 for rate in rates)

    def _read_net(self, now_ns: int) -> None:
        counters = self._psutil.net_io_counters()
        received, sent = (counters.bytes_recv, counters.bytes_sent) if counters is not None else (0, 0)
        rates = self._rates("net", now_ns, received, sent)
        self._values["net_rx_mbps"], self._values["net_tx_mbps"] = (rate * 8 / 1e6 for rate in rates)

    def _read_space(self, now_ns: int) -> None:
        self._values["disk_percent"] = float(self._psutil.disk_usage("/").percent)

    def _read_processes(self, now_ns: int) -> None:
        self._values["processes"] = float(len(self._psutil.pids()))

    def _read_temperature(self, now_ns: int) -> None:
        sensors: dict[str, Any] = getattr(self._psutil, "sensors_temperatures", dict)()
        preferred = [entry for name in CPU_SENSORS for entry in sensors.get(name, ())]
        entries = preferred or [entry for group in sensors.values() for entry in group]
        readings = [float(entry.current) for entry in entries if entry.current is not None]
        if not readings:
            raise LocalError("temperature_c: this machine has no temperature sensor")
        self._values["temperature_c"] = max(readings)

    def _rates(self, group: str, now_ns: int, first: int, second: int) -> tuple[float, float]:
        """Bytes a second since the last reading; 0 at the first, and when a counter went back (a device left)."""
        last_ns, last_first, last_second = self._bytes.get(group, (now_ns, first, second))
        self._bytes[group] = (now_ns, first, second)
        elapsed_s = (now_ns - last_ns) / 1e9
        if elapsed_s <= 0.0:
            return 0.0, 0.0
        return max(0, first - last_first) / elapsed_s, max(0, second - last_second) / elapsed_s


@functools.cache
def shared_reader() -> VitalsReader:
    """The process's reader: one, because psutil's own memory of the last call is the process's too."""
    return VitalsReader(now_ns=Clock().now_ns)


class Vitals(Source):
    """Rows of the machine's readings, `rate_hz` times a second."""

    kind = "vitals"

    def __init__(
        self, fields: Sequence[str], setup: Setup, *, rate_hz: float, reader: VitalsReader | None = None
    ) -> None:
        """Raises ConfigError for fields that do not exist."""
        super().__init__(fields, setup, rate_hz=rate_hz)
        unknown = [field for field in self.fields if field not in FIELDS]
        if unknown:
            raise ConfigError(f"source {self.name}: fields: expected some of {', '.join(FIELDS)}, found {unknown[0]!r}")
        self._rate_hz = rate_hz
        self._reader = reader or shared_reader()

    async def give_rows(self, offer: Offer) -> None:
        """Never ends.  The first reading of cpu and rates has nothing to be measured since, and is not given."""
        self.counts.opened += 1
        self._read()
        await self.clock.sleep(max(VITALS_AGE_MS_MIN / 1000, min(1.0, 1 / self._rate_hz)))
        await paced(self, self._rate_hz, self._read, offer)

    def _read(self) -> Row | None:
        try:
            return self.row_of(self._reader.row(self.fields))
        except (LocalError, OSError, RuntimeError, ValueError, psutil.Error) as error:
            self.failed("read", error)
            return None

    def probe(self) -> None:
        try:
            self._reader.row(self.fields)
        except (OSError, RuntimeError, ValueError, psutil.Error) as error:
            raise LocalError(f"source {self.name}: {error}") from None
