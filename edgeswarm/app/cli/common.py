"""What commands share: finding the settings and the supervisor, reading files with a bound, writing them whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError, PermissionDeniedError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from edgeswarm.app.config import Settings
    from edgeswarm.drivers.control import ControlClient

CALL_S_MAX = 120.0
"""For one answer of the supervisor: a deploy compiles every kernel and runs its golden vectors."""
FOLLOW_S_MAX = 1_000_000.0
"""For the next item of something that is followed: eleven days without one is a quiet log."""
COMPLETE_S_MAX = 0.5
"""For the names behind the tab key."""
AGAIN_S = 0.2

T = TypeVar("T")
wait_option = click.option(
    "--wait", "wait_s", type=click.FloatRange(0, 3_600), default=0.0, help="Seconds to wait for an answer."
)


def settings_of(
    state: Path | None,
    config_file: Path | None = None,
    *,
    profile: str | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """flags: dotted key -> value.  Raises ConfigError with every fault."""
    from edgeswarm.app import config

    return config.load(profile=profile, file=config_file, state=state, flags=flags)


def connect(state: Path | None, config_file: Path | None = None, *, timeout_s: float = CALL_S_MAX) -> ControlClient:
    """The supervisor of that state directory.  Raises NotRunningError."""
    from edgeswarm.drivers.control import ControlClient

    return ControlClient(settings_of(state, config_file).socket_path, timeout_s=timeout_s)


def patiently(ask: Callable[[], T], wait_s: float) -> T:
    """What `ask` gives, asked again and again for that long while it raises.  Raises what it raised last."""
    end = time.monotonic() + wait_s
    while True:
        try:
            return ask()
        except EdgeSwarmError:
            if time.monotonic() >= end:
                raise
        time.sleep(AGAIN_S)


def read_file(path: Path, *, bytes_max: int, bound: str, error: Callable[[str], EdgeSwarmError]) -> bytes:
    """The bytes of a file.  Raises `error`, PermissionDeniedError, or LimitError naming the bound."""
    try:
        with open(path, "rb") as file:
            data = file.read(bytes_max + 1)
    except PermissionError:
        raise PermissionDeniedError(f"{path}: may not be read") from None
    except OSError as fault:
        raise error(f"{path}: {fault.strerror}") from None
    if len(data) > bytes_max:
        raise LimitError(f"{path}: at most {bytes_max} bytes ({bound})")
    return data


def read_agent_file(path: Path) -> bytes:
    """The bytes of an agent file, unchecked.  Raises AgentFileError, PermissionDeniedError, LimitError."""
    from edgeswarm.errors import AgentFileError
    from edgeswarm.limits import AF_FILE_BYTES_MAX

    return read_file(path, bytes_max=AF_FILE_BYTES_MAX, bound="AF_FILE_BYTES_MAX", error=AgentFileError)


def write_file(path: Path, data: bytes) -> None:
    """Whole or not at all.  Raises LocalError, PermissionDeniedError."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    except PermissionError:
        raise PermissionDeniedError(f"{path}: may not be written") from None
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)


def complete_agent(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the agents of the running supervisor; none when there is none."""
    from click.shell_completion import CompletionItem

    try:
        with connect(ctx.params.get("state"), ctx.params.get("config_file"), timeout_s=COMPLETE_S_MAX) as client:
            rows: list[dict[str, Any]] = client.call("status")["agents"]
    except (EdgeSwarmError, OSError):
        return []  # the tab key has no place for an error
    return [CompletionItem(row["name"], help=row["status"]) for row in rows if row["name"].startswith(incomplete)]
