"""The FLEET directory: what an operator's or a controller's machine keeps of a fleet.  Paths, and `fleet.toml`.

Decides nothing; every value is checked before it is used.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from edgeswarm import schema
from edgeswarm.app.swarm.config import CELL_PATTERN, DEVICE_PATTERN, TimingName
from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import ConfigError
from edgeswarm.limits import CONFIG_BYTES_MAX
from edgeswarm.schema.kinds import Doc, Length, Pattern

ENVIRONMENT = "EDGESWARM_FLEET"


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """`fleet.toml`."""

    fleet: Annotated[str, Pattern(CELL_PATTERN), Doc("name of the fleet")]
    cell: Annotated[str, Pattern(CELL_PATTERN), Doc("name of its cell")]
    controller: Annotated[str, Pattern(DEVICE_PATTERN), Doc("device id of the controller")]
    brokers: Annotated[tuple[str, ...], Length(1, 16), Doc("mqtts:// URLs of the device listener, in order")]
    join_brokers: Annotated[tuple[str, ...], Length(1, 16), Doc("mqtts:// URLs of the bootstrap listener, in order")]
    timing: Annotated[TimingName, Doc("how fast the cell notices a death")] = "default"
    encrypt: Annotated[bool, Doc("A256GCM over every payload: the broker sees topics only")] = False
    operator: Annotated[str, Pattern(DEVICE_PATTERN), Doc("name of the operator whose key lies here")] = "operator"


def default_path() -> Path:
    """Where a fleet is kept unless EDGESWARM_FLEET or --fleet says otherwise."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/edgeswarm-fleet")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edgeswarm" / "fleet"


@dataclass(frozen=True)
class FleetFolder:
    """The paths of one FLEET directory."""

    path: Path

    @cached_property
    def config(self) -> FleetConfig:
        """Raises ConfigError with every fault."""
        path = self.path / "fleet.toml"
        try:
            tree = tomllib.loads(path.read_bytes()[: CONFIG_BYTES_MAX + 1].decode())
        except FileNotFoundError:
            raise ConfigError(
                f"{self.path}: no fleet here; `edgeswarm fleet init` makes one, --fleet names it"
            ) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from None
        try:
            return schema.decode(tree, FleetConfig, where=str(path))
        except schema.SchemaError as error:
            raise ConfigError(str(error)) from None

    def save(self, config: FleetConfig) -> None:
        """Write `fleet.toml`, whole or not at all."""

        def urls(items: tuple[str, ...]) -> str:
            return "[" + ", ".join(f'"{url}"' for url in items) + "]"

        text = (
            f'fleet = "{config.fleet}"\ncell = "{config.cell}"\ncontroller = "{config.controller}"\n'
            f"brokers = {urls(config.brokers)}\njoin_brokers = {urls(config.join_brokers)}\n"
            f'timing = "{config.timing}"\nencrypt = {str(config.encrypt).lower()}\noperator = "{config.operator}"\n'
        )
        write_whole(self.path / "fleet.toml", text.encode())

    # --- where things are ---------------------------------------------------------------------------------------------

    @property
    def root_pub(self) -> Path:
        return self.path / "root.pub"

    @property
    def root_key(self) -> Path:
        """Sealed under a passphrase; may be moved away from this machine."""
        return self.path / "root.key"

    @property
    def issuer_key(self) -> Path:
        return self.path / "issuer.key"

    def operator_key(self, name: str = "") -> Path:
        return self.path / "operators" / f"{name or self.config.operator}.key"

    @property
    def pki(self) -> Path:
        """root.crt, issuer.crt, ca.crt."""
        return self.path / "pki"

    @property
    def broker(self) -> Path:
        """mosquitto's configuration and what it names."""
        return self.path / "broker"

    @property
    def controller(self) -> Path:
        """State directory of the controller's device."""
        return self.path / "controller"

    @property
    def console(self) -> Path:
        """State directory of an operator's console identity."""
        return self.path / "console"

    @property
    def database(self) -> Path:
        """The controller's index: may be deleted, it is made anew from the cell."""
        return self.controller / "fleet.db"
