"""`edgeswarm fleet events|alerts|logs`: what happened, what somebody should look at, what one device logged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import fleet_view, output

SEVERITIES = ("info", "warning", "error", "critical")


@click.command()
@click.option(
    "-n", "--count", type=click.IntRange(0, 1_000), default=50, show_default=True, help="How many past events."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with each new one until ctrl-c.")
@click.option("--device", default="", help="Only of this device.")
@click.option("--severity", type=click.Choice(SEVERITIES), default="info", help="Leave out what is below.")
@click.option("--event", default="", metavar="NAME", help="Only of this name: agent.lifecycle, device.silent, ...")
@output.fleet_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def events(
    count: int, follow: bool, device: str, severity: str, event: str, fleet_dir: Path | None, as_json: bool
) -> None:
    """Show what happened in the fleet: agents' lives, devices that fell silent, alerts, changes of the log.

    \b
    Examples:
      edgeswarm fleet events -n 20 --severity warning
      edgeswarm fleet events --follow --device press-7
      edgeswarm fleet events --json | jq -r 'select(.event=="device.silent") | .device'
    """
    from edgeswarm.app.fleet import link

    asked: dict[str, Any] = {"device": device, "severity": severity, "event": event}

    def show(row: Any) -> None:
        click.echo(fleet_view.dumps(row) if as_json else fleet_view.event_line(row))
        sys.stdout.flush()

    with link.open_link(fleet_dir) as asking:
        if count:
            for row in reversed(asking.call("events", limit=count, **asked)["events"]):
                show(row)
        if follow:
            for row in fleet_view.each(asking.follow("events.follow", **asked)):
                show(row)


@click.command()
@click.option("--all", "every", is_flag=True, help="Acknowledged ones too.")
@click.option("--device", default="", help="Only of this device.")
@click.option("-n", "--count", type=click.IntRange(1, 1_000), default=100, show_default=True, help="How many.")
@click.option("--ack", "ids", type=int, multiple=True, metavar="ID", help="Acknowledge this one; may be repeated.")
@output.fleet_option
@output.json_option
def alerts(every: bool, device: str, count: int, ids: tuple[int, ...], fleet_dir: Path | None, as_json: bool) -> None:
    """Show what somebody should look at, or say that somebody has (--ack).

    Alerts of one device and code are one line until they are acknowledged.

    \b
    Examples:
      edgeswarm fleet alerts
      edgeswarm fleet alerts --ack 17 --ack 18
    """
    from edgeswarm.app.fleet import link

    with link.open_link(fleet_dir) as asking:
        if ids:
            done = asking.call("alerts.ack", ids=list(ids))
            text = f"acknowledged {', '.join(map(str, done['acknowledged'])) or 'none'}; {done['open']} open"
            click.echo(fleet_view.dumps(done) if as_json else text)
            return
        found = asking.call("alerts", all=every, device=device, limit=count)
    if as_json:
        click.echo(fleet_view.rows_json({"open": found["open"]}, "alerts", found["alerts"]))
        return
    lines = fleet_view.alerts_table(found["alerts"]) if found["alerts"] else []
    click.echo("\n".join([*lines, f"{found['open']} open"]))


@click.command()
@click.argument("device")
@click.option(
    "-n", "--lines", type=click.IntRange(1, 2_000), default=100, show_default=True, help="How many past lines."
)
@click.option("--grep", "needle", metavar="TEXT", help="Only lines with TEXT: an event, an agent, a cause id.")
@output.fleet_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def logs(device: str, lines: int, needle: str | None, fleet_dir: Path | None, as_json: bool) -> None:
    """Show the last lines that DEVICE logged, asked of it now.

    \b
    Examples:
      edgeswarm fleet logs press-7 -n 20
      edgeswarm fleet logs press-7 --grep fuse
    """
    from edgeswarm.app.cli.daemon import pretty
    from edgeswarm.app.fleet import link

    with link.open_link(fleet_dir) as asking:
        found = asking.call("logs", device=device, lines=lines)
    for line in found["lines"]:
        if needle is not None and needle not in line:
            continue
        entry = _entry(line)
        click.echo(fleet_view.dumps(entry) if as_json else pretty(entry))


def _entry(line: str) -> dict[str, Any]:
    """A line of a device: perhaps not even JSON."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    return entry if isinstance(entry, dict) else {"event": line}
