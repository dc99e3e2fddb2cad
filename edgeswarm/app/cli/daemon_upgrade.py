"""`edgeswarm daemon upgrade`: the running supervisor becomes another version of itself; its jails notice nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, output
from edgeswarm.errors import EdgeSwarmError, LocalError, RemoteError
from edgeswarm.limits import UPGRADE_CHECK_S, UPGRADE_HEALTHY_S, UPGRADE_REST_S, UPGRADE_START_S

_LOOK_S = 0.1
_LONGER_S = 30.0


@click.command()
@click.argument("version", required=False)
@click.option("--program", multiple=True, metavar="WORD", help="Command of the new version, a --program for each word.")
@click.option("--start-s", type=float, default=UPGRADE_START_S, show_default=True, help="Until it must serve.")
@click.option(
    "--healthy-s", type=float, default=UPGRADE_HEALTHY_S, show_default=True, help="How long it is on probation."
)
@output.state_option
@output.config_option
@output.json_option
def upgrade(
    version: str | None,
    program: tuple[str, ...],
    start_s: float,
    healthy_s: float,
    state: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Let the running supervisor become another version of itself: no jail restarts, no sample is lost.

    VERSION is one that a bundle has unpacked beside the one in use (`edgeswarm daemon status` lists them).  Without
    it, the new version is the program that runs this command.  A version that cannot start is refused; one that does
    not come up, or has a fault of its own while it is on probation, goes back to the old one, with the same jails.

    \b
    Examples:
      edgeswarm daemon upgrade 1.2.0
      /opt/other/bin/edgeswarm daemon upgrade
      edgeswarm daemon upgrade --healthy-s 120 --json
    """
    command, prefix = _command(version, program)
    told: dict[str, Any] = {}
    try:
        told = _upgrade(command, start_s, healthy_s, state, config_file)
    finally:
        if prefix is not None and told.get("state") != "healthy":
            prefix.roll_back()
    output.emit(told, as_json=as_json, text=lambda: f"{told['before']} became {told['version']}, and stays")


def _command(version: str | None, program: tuple[str, ...]) -> tuple[list[str], Any]:
    """The new version's command, and the bundle's prefix where a trial of it was begun."""
    from edgeswarm.app import handover_guard
    from edgeswarm.drivers.service.prefix import Prefix

    if version is None:
        return list(program) or handover_guard.own_program(), None
    if program:
        raise LocalError("expected a version or --program, found both")
    prefix = Prefix.of_this_program()
    if prefix is None:
        raise LocalError(f"version {version}: this program was not installed by a bundle; use --program")
    prefix.begin_trial(version)
    return [str(prefix.launcher)], prefix


def _upgrade(
    command: list[str], start_s: float, healthy_s: float, state: Path | None, config_file: Path | None
) -> dict[str, Any]:
    """What `upgrade_status` says in the end.  Raises RemoteError when the old version is back."""
    with common.connect(state, config_file, timeout_s=UPGRADE_CHECK_S + UPGRADE_REST_S + _LONGER_S) as client:
        client.call("upgrade", program=command, start_s=start_s, healthy_s=healthy_s)
    until = time.monotonic() + 2 * start_s + healthy_s + _LONGER_S
    why = "it did not answer any more"
    while time.monotonic() < until:
        time.sleep(_LOOK_S)
        try:
            with common.connect(state, config_file) as client:
                found: dict[str, Any] = client.call("upgrade_status")
        except (EdgeSwarmError, OSError) as error:  # between two programs, or a cold start
            why = str(error)
            continue
        if found["state"] == "healthy":
            return found
        if found["state"] == "rolled_back":
            raise RemoteError(f"the upgrade was rolled back, version {found['version']} runs on: {found['why']}")
        if found["state"] == "none":
            raise RemoteError("the supervisor started anew, from its checkpoints; `edgeswarm logs` says why")
    raise RemoteError(f"the supervisor is not healthy after {2 * start_s + healthy_s + _LONGER_S:g} s: {why}")
