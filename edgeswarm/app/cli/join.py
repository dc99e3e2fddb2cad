"""`edgeswarm join`: put this device into a fleet."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, output


@click.command()
@click.argument("token", required=False, metavar="[TOKEN|-]")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that holds the token, or a join.toml, whose token is blanked after use.",
)
@click.option("--name", default="", help="Device id (default: host name and six digits of the device's key).")
@click.option("--profile", help="Class of device: one of profiles/ (default: default).")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of this device; may be repeated.")
@click.option("--move", is_flag=True, help="Leave the fleet that this device is in; its agents are removed.")
@click.option("--dry-run", is_flag=True, help="Check token and brokers, say what would be asked, ask nothing.")
@click.option("--wait", "wait_s", type=click.FloatRange(1, 86_400), help="Seconds for the first answer (default 120).")
@click.option(
    "--approval-wait", "approval_s", type=click.FloatRange(0, 604_800), help="Seconds for a person (default: a day)."
)
@click.option("--runtime", type=click.Path(path_type=Path), hidden=True, help="Where the daemon's socket is.")
@output.state_option
@output.config_option
@output.json_option
def join(
    token: str | None,
    token_file: Path | None,
    name: str,
    profile: str | None,
    labels: tuple[str, ...],
    move: bool,
    dry_run: bool,
    wait_s: float | None,
    approval_s: float | None,
    runtime: Path | None,
    state: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Put this device into a fleet.  TOKEN is what `edgeswarm fleet token create` printed; "-" reads it from standard
    input.  Without it: --token-file, the environment variable EDGESWARM_TOKEN, or join.toml on the boot partition.

    The broker's certificate is checked with the token's key before anything is said.  It says joined when the fleet has
    heard this device with its new certificate.  A supervisor that runs enters the fleet without a restart.

    \b
    Examples:
      edgeswarm join --token-file /media/stick/token
      edgeswarm fleet token create | ssh gate-1 edgeswarm join -
      edgeswarm join --dry-run - < token
    """
    from edgeswarm.app.join import inventory, line, run, source

    found = source.find(token, token_file, os.environ)
    if found.seen_by_others:
        output.warn("a token on the command line is seen by everybody on this machine (ps): better '-' or --token-file")
    told = found.told
    profile = profile or (told.profile if told is not None else "") or None
    settings = common.settings_of(state, config_file, profile=profile)
    wanted = inventory.labels((*(told.labels if told is not None and not labels else ()), *labels))
    wish = run.Wish(
        state_dir=settings.state_dir,
        name=name or (told.name if told is not None else ""),
        profile=settings.profile_name,
        labels=wanted,
        move=move,
        socket=(runtime or settings.runtime_dir) / f"{settings.device}.sock",
    )
    if dry_run:
        row = asyncio.run(run.dry_run(found.token, wish))
        output.emit(row, as_json=as_json, text=lambda: _planned(row))
        return
    usual = line.Times()
    times = line.Times(
        wait=usual.wait if wait_s is None else wait_s, approval=usual.approval if approval_s is None else approval_s
    )
    done = asyncio.run(run.run(found.token, wish, times=times, progress=output.note))
    if found.file is not None and not source.blank(found.file):
        output.warn(f"{found.file}: the token is used, and may not be blanked here: remove it")
    output.emit(done, as_json=as_json, text=lambda: _joined(done))


def _planned(row: dict[str, Any]) -> str:
    lines = [f"fleet {row['fleet']}, token {row['token']}, as {row['device']}; clock {row['clock']}"]
    lines += [f"  {one['broker']}  {'its certificate is right' if one['ok'] else one['why']}" for one in row["brokers"]]
    lines.append(f"would send {row['request_bytes']} bytes, sealed to the issuer, to {row['topic']}:")
    for key, value in row["inventory"].items():
        lines.append(f"  {key}: {', '.join(value) if isinstance(value, (list, tuple)) else value}")
    lines.append("nothing was sent, nothing was written")
    return "\n".join(lines)


def _joined(row: dict[str, Any]) -> str:
    by = "its supervisor" if row["seen_by"] == "daemon" else "a first word; now `edgeswarm run` or the service"
    return (
        f"joined {row['fleet']}/{row['cell']} as {row['device']}, {row['role']}: seen by {row['controller']}, by {by}"
    )
