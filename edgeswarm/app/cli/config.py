"""`edgeswarm config show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, output


@click.group()
def config() -> None:
    """Show the settings in force and where each came from."""


@config.command()
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@output.state_option
@output.config_option
@click.option("--profile", help="Class of device: one of profiles/.")
@click.option("--running", is_flag=True, help="Ask the running supervisor, instead of what a new one would take.")
@output.json_option
def show(
    keys: tuple[str, ...],
    state: Path | None,
    config_file: Path | None,
    profile: str | None,
    running: bool,
    as_json: bool,
) -> None:
    """Show every setting, or those that begin with KEY, each with where it came from.

    Profile, then settings file, then environment (EDGESWARM_JAILS__RING_KB=512), then flag: the last one counts.

    \b
    Examples:
      edgeswarm config show
      edgeswarm config show limits --profile rpi-zero-2w
      edgeswarm config show --running --json
    """
    from edgeswarm.errors import ConfigError

    found = _running(state, config_file) if running else _local(state, config_file, profile)
    for key in keys:
        if not any(_below(name, key) for name in found):
            raise ConfigError(f"setting {key}: expected one of {', '.join(found)}")
    shown = {name: row for name, row in found.items() if not keys or any(_below(name, key) for key in keys)}
    rows = [(name, json.dumps(row["value"], ensure_ascii=False), row["origin"]) for name, row in shown.items()]
    output.emit(shown, as_json=as_json, text=lambda: output.table(("setting", "value", "from"), rows))


def _below(name: str, key: str) -> bool:
    return name == key or name.startswith(key + ".")


def _local(state: Path | None, config_file: Path | None, profile: str | None) -> dict[str, Any]:
    from edgeswarm.app import report

    return report.config(common.settings_of(state, config_file, profile=profile))


def _running(state: Path | None, config_file: Path | None) -> dict[str, Any]:
    with common.connect(state, config_file) as client:
        found: dict[str, Any] = client.call("config")
    return found
