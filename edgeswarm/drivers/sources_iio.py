"""Channels of a Linux industrial I/O device, read from sysfs: value = (raw + offset) * scale.

Source: Documentation/ABI/testing/sysfs-bus-iio.  in_<channel>_raw with in_<channel>_scale and _offset, or those that a
kind of channel shares (in_accel_scale for in_accel_x_raw, in_voltage_scale for in_voltage0_raw); where there is no raw
file, in_<channel>_input, which is scaled already.  Units are the ABI's: millivolts, m/s^2, milli-degrees, and so on.
A device that goes away is looked for again with a growing wait.  A sensor that answers slowly holds the loop up for as
long: sysfs reads cannot be waited for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeswarm.drivers.sources import Backoff, Offer, Setup, Source, paced
from edgeswarm.errors import LocalError
from edgeswarm.stream.queue import Row


@dataclass(frozen=True, slots=True)
class _Channel:
    path: Path
    scale: float
    offset: float


class _DeviceGoneError(Exception):
    """The device has to be opened anew."""


class Iio(Source):
    """Rows of one device's channels, `rate_hz` times a second."""

    kind = "iio"

    def __init__(self, channels: Sequence[str], setup: Setup, *, device: str, root: Path, rate_hz: float) -> None:
        super().__init__(channels, setup, rate_hz=rate_hz)
        self._device = device
        self._root = root
        self._rate_hz = rate_hz
        self._channels: list[_Channel] = []

    async def give_rows(self, offer: Offer) -> None:
        backoff = Backoff()
        self.waits()
        while True:
            try:
                self._channels = self._open()
                self.counts.opened += 1
                backoff.reset()
                await paced(self, self._rate_hz, self._read, offer)
            except (OSError, ValueError, LocalError) as error:
                self.failed("open", error)
            except _DeviceGoneError as error:
                self.counts.vanished += 1
                self.reporter.report("source_vanished", device=self._device, error=str(error))
            await self.clock.sleep(backoff.next_s())

    def _read(self) -> Row | None:
        values: list[float] = []
        for channel in self._channels:
            try:
                text = channel.path.read_text("ascii")
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _DeviceGoneError(str(error)) from None
            except (OSError, UnicodeDecodeError) as error:
                if isinstance(error, OSError) and not self._folder_there():
                    raise _DeviceGoneError(str(error)) from None
                self.failed("read", error)
                return None
            try:
                values.append((float(text) + channel.offset) * channel.scale)
            except ValueError:
                self.malformed("type", channel=channel.path.name)
                return None
        return self.row_of(values)

    def _folder_there(self) -> bool:
        return bool(self._channels) and self._channels[0].path.parent.is_dir()

    def _open(self) -> list[_Channel]:
        """Raises LocalError for a device or channel that is not there, OSError, ValueError for a scale that is none."""
        folder = self._folder()
        channels: list[_Channel] = []
        for name in self.fields:
            raw, processed = folder / f"in_{name}_raw", folder / f"in_{name}_input"
            if raw.exists():
                channels.append(
                    _Channel(raw, _shared(folder, name, "scale", 1.0), _shared(folder, name, "offset", 0.0))
                )
            elif processed.exists():
                channels.append(_Channel(processed, 1.0, 0.0))
            else:
                there = sorted(path.name[3:-4] for path in folder.glob("in_*_raw"))
                raise LocalError(f"iio device {folder.name}: expected a channel {name!r}, found {', '.join(there)}")
        return channels

    def _folder(self) -> Path:
        """The device's folder, by its own name or by what its file `name` says."""
        if "/" not in self._device and self._device not in (".", ".."):
            direct = self._root / self._device
            if direct.is_dir():
                return direct
        names: list[str] = []
        for folder in sorted(self._root.glob("iio:device*")):
            try:
                name = (folder / "name").read_text(errors="replace").strip()
            except OSError:
                continue
            if name == self._device:
                return folder
            names.append(f"{folder.name} ({name})")
        raise LocalError(f"{self._root}: expected an iio device {self._device!r}, found {', '.join(names) or 'none'}")

    def probe(self) -> None:
        try:
            self._channels = self._open()
            self._read()
        except (OSError, ValueError, _DeviceGoneError) as error:
            raise LocalError(f"source {self.name}: {error}") from None


def _shared(folder: Path, channel: str, what: str, otherwise: float) -> float:
    """scale or offset of a channel: its own, or that of its kind.

    accel_x -> accel; voltage0 -> voltage; voltage0-voltage1 -> voltage-voltage; temp_ambient -> temp."""
    kind = re.sub(r"\d+", "", channel)
    for name in dict.fromkeys(
        (channel, kind, channel.rpartition("_")[0], kind.partition("_")[0], kind.partition("-")[0])
    ):
        path = folder / f"in_{name}_{what}"
        if name and path.exists():
            return float(path.read_text("ascii"))
    return otherwise
