"""Where a token comes from: the command line, standard input, a file, the environment, or `join.toml`.

`join.toml` lies on the boot partition, which any computer can write: a card that is flashed and given this file joins
by itself.  Once the device has joined, the token in it is blanked.  Decides nothing about the token but its form.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from edgeswarm import schema
from edgeswarm.app.swarm.config import DEVICE_PATTERN
from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import ConfigError, LimitError, PermissionDeniedError
from edgeswarm.limits import JOIN_FILE_BYTES_MAX, JOIN_LABELS_MAX
from edgeswarm.schema.kinds import Doc, Length, Pattern
from edgeswarm.wire import token as wire
from edgeswarm.wire.token import Token, TokenError

ENVIRONMENT: Final = "EDGESWARM_TOKEN"
BOOT_FILES: Final = (
    Path("/boot/firmware/edgeswarm/join.toml"),
    Path("/boot/edgeswarm/join.toml"),
    Path("/boot/efi/edgeswarm/join.toml"),
)


@dataclass(frozen=True, slots=True)
class JoinFile:
    """`join.toml`.  token: empty once it was used."""

    token: Annotated[str, Doc("the whole token: es1....")]
    name: Annotated[str, Pattern(f"({DEVICE_PATTERN})?"), Doc("device id; empty: host name and key")] = ""
    profile: Annotated[str, Pattern(r"([a-z0-9][a-z0-9-]{0,62})?"), Doc("class of device")] = ""
    labels: Annotated[tuple[str, ...], Length(0, JOIN_LABELS_MAX), Doc("key=value, each key once")] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A token and what was said beside it.  where: for people; file: join.toml, to be blanked."""

    token: Token
    where: str
    told: JoinFile | None = None
    file: Path | None = None
    seen_by_others: bool = False
    """It stood on the command line, where `ps` shows it."""


def find(argument: str | None, file: Path | None, environ: Mapping[str, str]) -> Source:
    """The token that was meant: argument ("-": standard input), file, environment, boot partition, in this order.

    Raises TokenError, ConfigError, PermissionDeniedError, LimitError.
    """
    if argument is not None and file is not None:
        raise TokenError("token: expected it once, found an argument and --token-file")
    if argument == "-":
        return Source(wire.parse(sys.stdin.read(JOIN_FILE_BYTES_MAX)), "standard input")
    if argument is not None:
        return Source(wire.parse(argument), "the command line", seen_by_others=True)
    if file is not None:
        return of_file(file)
    if text := environ.get(ENVIRONMENT):
        return Source(wire.parse(text), f"environment {ENVIRONMENT}")
    found = boot_file()
    if found is not None:
        return of_file(found)
    raise TokenError(
        f"token: none given: as an argument, '-' for standard input, --token-file, {ENVIRONMENT}, or join.toml on the"
        " boot partition"
    )


def of_file(path: Path) -> Source:
    """A file whose only line is a token, or (*.toml) a join.toml.  Raises as find."""
    data = _read(path)
    if path.suffix != ".toml":
        try:
            return Source(wire.parse(data.decode()), str(path))
        except UnicodeDecodeError:
            raise TokenError(f"token: {path}: expected text") from None
    told = _told(data, path)
    if not told.token:
        raise TokenError(f"token: {path}: it is blank: it was used, or never filled in")
    return Source(wire.parse(told.token), str(path), told, path)


def boot_file() -> Path | None:
    """The join.toml of the boot partition, if there is one with a token."""
    for path in BOOT_FILES:
        try:
            if path.is_file() and _told(_read(path), path).token:
                return path
        except OSError:
            continue
    return None


def blank(path: Path) -> bool:
    """Take the used token out of a join.toml; False where this user may not write it."""
    try:
        text = _read(path).decode()
        write_whole(path, re.sub(r"(?m)^(\s*token\s*=).*$", r'\1 ""  # used', text).encode())
    except (OSError, PermissionDeniedError):
        return False
    return True


def _told(data: bytes, path: Path) -> JoinFile:
    try:
        return schema.decode(tomllib.loads(data.decode()), JoinFile, where=str(path))
    except schema.SchemaError as error:
        raise ConfigError(_hidden(str(error))) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {_hidden(str(error))}") from None


def _hidden(text: str) -> str:
    """An error text without a token that it may quote."""
    return re.sub(r"es1\.[A-Za-z0-9_.-]+", "es1...", text)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(JOIN_FILE_BYTES_MAX + 1)
    except PermissionError:
        raise PermissionDeniedError(f"{path}: may not be read") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(data) > JOIN_FILE_BYTES_MAX:
        raise LimitError(f"{path}: at most {JOIN_FILE_BYTES_MAX} bytes (JOIN_FILE_BYTES_MAX)")
    return data


def environ_without_token() -> dict[str, str]:
    """For what is started from here: nobody else needs it."""
    return {name: text for name, text in os.environ.items() if name != ENVIRONMENT}
