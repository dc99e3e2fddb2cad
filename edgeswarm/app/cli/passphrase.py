"""Passphrases of the root's and the operators' keys: from a file, the environment, or the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeswarm.errors import ConfigError, LocalError, PermissionDeniedError

if TYPE_CHECKING:
    from edgeswarm.app.cli.output import F
    from edgeswarm.app.fleet.folder import FleetFolder
    from edgeswarm.wire.certificate import Signatory

ENVIRONMENT = "EDGESWARM_PASSPHRASE_FILE"
CHARS_MIN, CHARS_MAX = 8, 1_024


def passphrase_option(function: F) -> F:
    """`--passphrase-file FILE`: the parameter `passphrase_file` (Path or None)."""
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar=ENVIRONMENT,
        help="File whose first line is the passphrase; without it the terminal is asked.",
    )(function)


def asker(file: Path | None, what: str, *, fresh: bool = False) -> Callable[[], str]:
    """A function that gives the passphrase of `what` when it is needed, asking at most once.

    fresh: a new one, asked twice and of at least CHARS_MIN characters.
    """
    found: list[str] = []

    def ask() -> str:
        if not found:
            found.append(_read(file) if file is not None else _prompt(what, fresh))
            if fresh and len(found[0]) < CHARS_MIN:
                raise LocalError(f"passphrase of {what}: at least {CHARS_MIN} characters")
        return found[0]

    return ask


def _read(file: Path) -> str:
    """The first line.  Raises ConfigError, PermissionDeniedError."""
    try:
        if file.is_file() and file.stat().st_mode & 0o077:
            raise PermissionDeniedError(f"{file}: others may read the passphrase; chmod 600 {file}")
        with open(file, encoding="utf-8") as stream:
            text = stream.read(CHARS_MAX + 2).partition("\n")[0]
    except OSError as error:
        raise ConfigError(f"passphrase file {file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"passphrase file {file}: {error}") from None
    if not 0 < len(text) <= CHARS_MAX:
        raise ConfigError(f"passphrase file {file}: expected a first line of 1 to {CHARS_MAX} characters")
    return text


def _prompt(what: str, fresh: bool) -> str:
    if not sys.stdin.isatty():
        raise LocalError(f"passphrase of {what}: no terminal to ask on; --passphrase-file FILE or {ENVIRONMENT}")
    text: str = click.prompt(f"Passphrase of {what}", hide_input=True, confirmation_prompt=fresh, err=True)
    return text


def operator(folder: FleetFolder, passphrase_file: Path | None) -> Signatory:
    """The operator whose key lies in this FLEET directory, to sign with.  Raises ConfigError, LocalError."""
    from edgeswarm.drivers.pki.sealed import load_key
    from edgeswarm.wire.certificate import Signatory

    name = folder.config.operator
    path = folder.operator_key(name)
    if not os.path.exists(path):
        raise ConfigError(f"{path}: operator {name}'s key is not here; it signs what changes the fleet")
    return Signatory.from_seed(load_key(path, asker(passphrase_file, f"operator {name}")).seed)
