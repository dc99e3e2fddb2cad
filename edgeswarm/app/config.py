"""Settings: profile, then file, then environment (EDGESWARM_...), then flag; each value remembers where it came from.

Read once at start into frozen dataclasses, checked whole.  A settings file may set any key of a profile, and the
four keys of `Place`.  An environment variable names a key with two underscores between levels:
EDGESWARM_JAILS__RING_KB=512.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from edgeswarm import schema
from edgeswarm.drivers.profiles import Profile, load_tree
from edgeswarm.errors import ConfigError
from edgeswarm.limits import CONFIG_BYTES_MAX
from edgeswarm.schema.kinds import Doc, Pattern

ENV_PREFIX = "EDGESWARM_"
ENV_OTHER = frozenset(
    {"STATE", "FLEET", "TOKEN", "PASSPHRASE_FILE", "HANDOVER", "CUT", "COMPLETE", "TEST_DATA"}
)  # read elsewhere, or not settings at all
PLACE_KEYS = ("device", "state", "runtime", "agents")


@dataclass(frozen=True, slots=True)
class Place:
    """What a settings file says besides the keys of a profile."""

    device: Annotated[str, Pattern(r"[a-z0-9][a-z0-9-]{0,62}"), Doc("name of this device")]
    state: Annotated[str, Doc("state directory")]
    runtime: Annotated[str, Doc("directory of the control socket")]
    agents: Annotated[tuple[str, ...], Doc("agent files deployed at every start")] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it.  origin: dotted key -> "profile default", "file X", "environment EDGESWARM_X" or "flag"."""

    profile_name: str
    profile: Profile
    place: Place
    origin: Mapping[str, str] = field(repr=False)

    @property
    def device(self) -> str:
        return self.place.device

    @property
    def state_dir(self) -> Path:
        return Path(self.place.state)

    @property
    def runtime_dir(self) -> Path:
        return Path(self.place.runtime)

    @property
    def socket_path(self) -> Path:
        return self.runtime_dir / f"{self.device}.sock"


def _merge_cell(tree: dict[str, Any], origin: dict[str, str]) -> None:
    """A device of a cell has one name everywhere: the one that its certificate binds."""
    from edgeswarm.app.swarm import config as cell  # which costs nothing to a device in no cell

    state_dir = Path(str(tree["state"]))
    if cell.is_member(state_dir):
        tree["device"] = cell.load(state_dir).device
        origin["device"] = f"file {cell.folder(state_dir) / 'cell.toml'}"


def default_dirs(environ: Mapping[str, str], *, is_root: bool) -> tuple[Path, Path, Path]:
    """(settings file, state, runtime): /etc, /var/lib, /run as root, the XDG folders otherwise."""
    if is_root:
        return Path("/etc/edgeswarm/edgeswarm.toml"), Path("/var/lib/edgeswarm"), Path("/run/edgeswarm")
    home = Path(environ.get("HOME", "/"))
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "edgeswarm" / "edgeswarm.toml"
    state = Path(environ.get("XDG_STATE_HOME") or home / ".local" / "state") / "edgeswarm"
    base = environ.get("XDG_RUNTIME_DIR")
    return config, state, Path(base) / "edgeswarm" if base and os.access(base, os.W_OK) else state / "run"


def load(
    *,
    profile: str | None = None,
    file: Path | None = None,
    state: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings of this process.  flags: dotted key -> value.  Raises ConfigError with every fault, its file and key."""
    environ = os.environ if environ is None else environ
    default_file, default_state, default_runtime = default_dirs(environ, is_root=os.geteuid() == 0)
    said = _read_file(file or default_file, required=file is not None)
    origin_file = f"file {file or default_file}"
    name = profile or environ.get(f"{ENV_PREFIX}PROFILE") or said.pop("profile", None) or "default"
    said.pop("profile", None)
    if not isinstance(name, str):
        raise ConfigError(f"{file or default_file}: profile: expected text, found {name!r}")
    origin: dict[str, str] = {}
    tree: dict[str, Any] = {
        "device": re.sub(r"[^a-z0-9-]", "-", socket.gethostname().lower()).strip("-")[:63] or "device",
        "state": str(default_state),
        "runtime": str(default_runtime),
        "agents": [],
    }
    _merge(tree, {}, "default", origin)
    for key in tree:
        origin[key] = "default"
    _merge(tree, load_tree(name), f"profile {name}", origin)
    _merge(tree, said, origin_file, origin)
    _merge_environment(tree, environ, origin)
    if state is not None:
        # several supervisors on one machine differ by --state only: their sockets live with it
        _merge(tree, {"state": str(state.absolute()), "runtime": str(state.absolute() / "run")}, "flag --state", origin)
    _merge_cell(tree, origin)
    for key, value in (flags or {}).items():
        _put(tree, key, value)
        origin[key] = "flag"
    place = {key: tree.pop(key) for key in PLACE_KEYS}
    where = f"settings (profile {name}, {origin_file}, environment, flags)"
    try:
        return Settings(
            name, schema.decode(tree, Profile, where=where), schema.decode(place, Place, where=where), origin
        )
    except schema.SchemaError as error:
        faults = [f"{fault} [{_origin_of(fault.path, origin)}]" for fault in error.faults]
        raise ConfigError("settings:\n  " + "\n  ".join(faults)) from None


def _origin_of(path: str, origin: Mapping[str, str]) -> str:
    probe = path
    while probe and probe not in origin:
        probe = probe.rpartition(".")[0]
    return origin.get(probe) or next((v for k, v in origin.items() if k.startswith(path + ".")), "nowhere")


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        if required:
            raise ConfigError(f"settings file {path}: not there") from None
        return {}
    except OSError as error:
        raise ConfigError(f"settings file {path}: {error.strerror}") from None
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"settings file {path}: at most {CONFIG_BYTES_MAX} bytes")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings file {path}: {error}") from None


def _merge(tree: dict[str, Any], other: Mapping[str, Any], source: str, origin: dict[str, str], at: str = "") -> None:
    for key, value in other.items():
        path = f"{at}.{key}" if at else key
        if isinstance(value, Mapping) and isinstance(tree.get(key, {}), dict):
            _merge(tree.setdefault(key, {}), value, source, origin, path)
        else:
            tree[key] = value
            origin[path] = source


def _merge_environment(tree: dict[str, Any], environ: Mapping[str, str], origin: dict[str, str]) -> None:
    for variable, text in sorted(environ.items()):
        name = variable.removeprefix(ENV_PREFIX)
        if not variable.startswith(ENV_PREFIX) or name in ENV_OTHER or name == "PROFILE":
            continue
        key = name.lower().replace("__", ".")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        _put(tree, key, value)
        origin[key] = f"environment {variable}"


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"setting {key}: {table} is not a table")
    tree[last] = value
