"""`edgeswarm leave`: take this device out of its fleet, or make it as if it had never been in one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import common, output
from edgeswarm.errors import LocalError

if TYPE_CHECKING:
    from edgeswarm.app.config import Settings


@click.command()
@click.option("--factory-reset", is_flag=True, help="Also remove its key, its agents, its log: a new device.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output.state_option
@output.config_option
@output.json_option
def leave(factory_reset: bool, yes: bool, state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Take this device out of its fleet.  It keeps its key and its own agents; agents of the fleet are removed.

    The fleet goes on knowing it until an operator says `edgeswarm fleet revoke`.  A supervisor that runs leaves without
    a restart; for --factory-reset it must not run.

    \b
    Examples:
      edgeswarm leave
      edgeswarm leave --factory-reset --yes
    """
    from edgeswarm.app.join import folder

    settings = common.settings_of(state, config_file)
    state_dir = settings.state_dir
    if not state_dir.is_dir():
        raise LocalError(f"{state_dir}: no state directory")
    with folder.locked(state_dir):
        done = _leave(settings, factory_reset, yes)
    output.emit(done, as_json=as_json, text=lambda: _text(done))


def _leave(settings: Settings, factory_reset: bool, yes: bool) -> dict[str, Any]:
    from edgeswarm.app.join import folder, run
    from edgeswarm.app.swarm import config as cell_config

    state_dir = settings.state_dir
    folder.settle(state_dir)
    member = cell_config.is_member(state_dir)
    if not member and not factory_reset:
        raise LocalError(f"{state_dir}: this device is in no cell")
    runs = run.is_running(settings.socket_path)
    if factory_reset and runs:
        raise LocalError("its supervisor runs: stop it first (`edgeswarm daemon`, or the service manager)")
    if not yes:
        what = "remove its key, its agents and its log" if factory_reset else "leave its fleet"
        output.confirm(f"{settings.device}: {what}?")
    done: dict[str, Any] = {"device": settings.device, "left": member, "removed": []}
    if member:
        done |= _names(state_dir)
    if runs:
        run.leave_running(settings.socket_path)
    elif member and not factory_reset:
        folder.leave(state_dir)
    if factory_reset:
        done["removed"] = folder.reset(state_dir)
    return done


def _names(state_dir: Path) -> dict[str, Any]:
    from edgeswarm.app.swarm import config as cell_config

    try:
        config = cell_config.load(state_dir)
    except LocalError:
        return {}  # damaged: leaving it is what one wants
    return {"device": config.device, "fleet": config.fleet, "cell": config.cell}


def _text(row: dict[str, Any]) -> str:
    lines = []
    if row["left"]:
        fleet = row.get("fleet", "its fleet")
        lines.append(f"left {fleet}; an operator ends it there: edgeswarm fleet revoke {row['device']}")
    if row["removed"]:
        lines.append(f"removed {', '.join(row['removed'])}")
    return "\n".join(lines) or "nothing was there"
