"""What a device must know to be in a cell, kept in DIR/swarm/: `cell.toml`, the root's public key, the rosters.

Decides nothing; every value is checked before it is used.  Made by `edgeswarm swarm init --dev` (and by `join`).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from edgeswarm import schema
from edgeswarm.core.health import DEFAULT, LAN, HealthTiming
from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import ConfigError
from edgeswarm.limits import CONFIG_BYTES_MAX
from edgeswarm.schema.kinds import Doc, Length, Pattern

CELL_PATTERN = r"[a-z0-9][a-z0-9-]{0,31}"
FILE_PATTERN = r"([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?"
DEVICE_PATTERN = r"[a-z0-9][a-z0-9-]{0,62}"

TimingName = Literal["lan", "default"]


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast a cell notices a death.  Ticks of `tick_ms`; an election starts after election .. 2 x election - 1.

    A round trip must fit many times into a heartbeat, a heartbeat several times into an election (Raft 5.6).
    """

    tick_ms: float
    heartbeat_ticks: int
    election_ticks: int
    appends_max: int  # on their way to one voter: one gathers what comes meanwhile, more hide a long way
    health: HealthTiming


TIMINGS: dict[str, Timing] = {
    "lan": Timing(10.0, 5, 15, 1, LAN),
    "default": Timing(100.0, 3, 10, 64, DEFAULT),
}


@dataclass(frozen=True, slots=True)
class CellConfig:
    """`cell.toml`."""

    fleet: Annotated[str, Pattern(CELL_PATTERN), Doc("name of the fleet")]
    cell: Annotated[str, Pattern(CELL_PATTERN), Doc("name of the cell")]
    device: Annotated[str, Pattern(DEVICE_PATTERN), Doc("id of this device, for its life")]
    brokers: Annotated[tuple[str, ...], Length(1, 16), Doc("URLs in order: mqtt:// mqtts:// ws:// wss://")]
    timing: Annotated[TimingName, Doc("how fast the cell notices a death")] = "default"
    encrypt: Annotated[bool, Doc("A256GCM over every payload: the broker sees topics only")] = False
    tls_ca: Annotated[str, Pattern(FILE_PATTERN), Doc("file in DIR/swarm: the only authority of mqtts and wss")] = ""
    tls_cert: Annotated[str, Pattern(FILE_PATTERN), Doc("file in DIR/swarm: our certificate for the broker")] = ""
    tls_key: Annotated[str, Pattern(FILE_PATTERN), Doc("file in DIR/swarm: its private key")] = ""

    @property
    def times(self) -> Timing:
        return TIMINGS[self.timing]


def folder(state_dir: Path) -> Path:
    return state_dir / "swarm"


def is_member(state_dir: Path) -> bool:
    """True when this device was put into a cell."""
    return (folder(state_dir) / "cell.toml").exists()


def load(state_dir: Path) -> CellConfig:
    """Raises ConfigError with every fault."""
    path = folder(state_dir) / "cell.toml"
    try:
        data = path.read_bytes()[: CONFIG_BYTES_MAX + 1]
        tree = tomllib.loads(data.decode())
    except FileNotFoundError:
        raise ConfigError(f"{path}: this device is in no cell; `edgeswarm swarm init` or `edgeswarm join`") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return schema.decode(tree, CellConfig, where=str(path))
    except schema.SchemaError as error:
        raise ConfigError(str(error)) from None


def save(state_dir: Path, config: CellConfig) -> Path:
    """Write `cell.toml`, whole or not at all."""
    path = folder(state_dir) / "cell.toml"
    brokers = ", ".join(f'"{url}"' for url in config.brokers)
    write_whole(
        path,
        f'fleet = "{config.fleet}"\ncell = "{config.cell}"\ndevice = "{config.device}"\nbrokers = [{brokers}]\n'
        f'timing = "{config.timing}"\nencrypt = {str(config.encrypt).lower()}\n'
        f'tls_ca = "{config.tls_ca}"\ntls_cert = "{config.tls_cert}"\ntls_key = "{config.tls_key}"\n'.encode(),
    )
    return path


def next_boot(state_dir: Path) -> int:
    """The number of this start: counted up on disk, so that nothing signed in an earlier one can be replayed."""
    path = folder(state_dir) / "boot"
    try:
        boot = int(path.read_text().strip()) + 1
    except FileNotFoundError:
        boot = 1
    except ValueError:
        raise ConfigError(f"{path}: expected a number") from None
    write_whole(path, f"{boot}\n".encode())
    return boot
