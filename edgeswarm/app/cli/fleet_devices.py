"""`edgeswarm fleet devices|show|top|desired|reported|labels`: all devices, one of them, and what it is called."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import fleet_view, output

SORTS = ("device", "role", "state", "tier", "profile", "software", "seen", "agents", "failed", "uptime")


@click.command()
@click.argument("selector", default="all")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--sort", type=click.Choice(SORTS), default="device", show_default=True, help="By this column.")
@click.option("--descending", is_flag=True, help="The other way round.")
@click.option("--seed", default="", help="Of percent=: another seed takes other devices.")
@click.option("--watch", is_flag=True, help="Go on, drawn anew each --interval; q quits.")
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds.")
@click.option("--count", type=click.IntRange(1), help="End --watch after so many pictures.")
@output.fleet_option
@output.json_option
def devices(
    selector: str,
    limit: int | None,
    sort: str,
    descending: bool,
    seed: str,
    watch: bool,
    interval: float,
    count: int | None,
    fleet_dir: Path | None,
    as_json: bool,
) -> None:
    """List the devices of the fleet: all, or those that SELECTOR names (docs/fleet-view.md).

    \b
    Examples:
      edgeswarm fleet devices
      edgeswarm fleet devices 'site=hall-3,profile in (rpi-5,jetson),tier<=B' --sort seen
      edgeswarm fleet devices 'state=silent|state=offline' --watch
      edgeswarm fleet devices 'percent=10' --json | jq -r '.devices[].device'
    """
    from edgeswarm.app.fleet import link

    asked = {"selector": selector, "sort": _column(sort), "descending": descending, "seed": seed}
    with link.open_link(fleet_dir) as asking:

        def picture() -> list[str]:
            rows, states = fleet_view.devices(asking, limit=limit, **asked)
            return fleet_view.devices_table(rows, states, time.time())

        def whole() -> str:
            rows, states = fleet_view.devices(asking, limit=limit, **asked)
            return fleet_view.rows_json({"states": states}, "devices", rows)

        _shown(picture, whole, watch=watch, interval=interval, count=count, as_json=as_json)


def _column(sort: str) -> str:
    return {"seen": "seen_s", "uptime": "uptime_s"}.get(sort, sort)


def _shown(
    picture: Callable[[], list[str]],
    whole: Callable[[], str],
    *,
    watch: bool,
    interval: float,
    count: int | None,
    as_json: bool,
) -> None:
    """Once, or again and again: in place on a terminal, else one after the other."""
    try:
        if watch and not as_json and output.is_terminal():
            from edgeswarm.app.cli import top

            top.redraw(picture, interval, count)
            return
        for shown in itertools.count(1):
            click.echo(whole() if as_json else "\n".join(picture()))
            if not watch or shown == count:
                return
            time.sleep(interval)
    except KeyboardInterrupt:
        pass  # how one leaves --watch


@click.command()
@click.argument("device")
@output.fleet_option
@output.json_option
def show(device: str, fleet_dir: Path | None, as_json: bool) -> None:
    """Show everything that is known of DEVICE: state, load, certificate, labels, wanted and there, alerts, events.

    \b
    Examples:
      edgeswarm fleet show press-7
      edgeswarm fleet show press-7 --json | jq .twin
    """
    found = _ask(fleet_dir, "device", device=device)
    _emit(found, as_json=as_json, text=lambda: "\n".join(fleet_view.device_lines(found, time.time())))


@click.command()
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds.")
@click.option("--count", type=click.IntRange(1), help="End after so many pictures.")
@click.option(
    "--minutes", type=click.IntRange(1, 10_080), default=15, show_default=True, help="Events counted so far back."
)
@click.option("-n", "--busiest", type=click.IntRange(1, 100), default=20, show_default=True, help="How many devices.")
@output.fleet_option
@output.json_option
def top(interval: float, count: int | None, minutes: int, busiest: int, fleet_dir: Path | None, as_json: bool) -> None:
    """Watch the fleet live: totals, and the devices to look at first; q quits.

    \b
    Examples:
      edgeswarm fleet top
      edgeswarm fleet top --json --count 1 | jq .states
    """
    from edgeswarm.app.fleet import link

    with link.open_link(fleet_dir) as asking:

        def now() -> Any:
            return asking.call("top", minutes=minutes, busiest=busiest)

        _shown(
            lambda: fleet_view.top_lines(now(), time.time()),
            lambda: fleet_view.dumps(now()),
            watch=True,
            interval=interval,
            count=count,
            as_json=as_json,
        )


@click.command()
@click.argument("device")
@output.fleet_option
@output.json_option
def desired(device: str, fleet_dir: Path | None, as_json: bool) -> None:
    """Show what DEVICE is wanted to run: what the log says, placed by the cell or brought by a rollout.

    \b
    Example:
      edgeswarm fleet desired press-7
    """
    found = _ask(fleet_dir, "desired", device=device)

    def text() -> str:
        stale = ["(no leader answers: this is what the controller knows)"] if found["stale"] else []
        return "\n".join([*fleet_view.agent_lines(found["agents"], wanted=True), *stale])

    _emit(found, as_json=as_json, text=text)


@click.command()
@click.argument("device")
@output.fleet_option
@output.json_option
def reported(device: str, fleet_dir: Path | None, as_json: bool) -> None:
    """Show what DEVICE last said that it has, and how that differs from what is wanted.

    \b
    Example:
      edgeswarm fleet reported press-7
    """
    found = _ask(fleet_dir, "reported", device=device)

    def text() -> str:
        head = f"{found['device']}: {found['state']}, heard {fleet_view.ago(found['seen_s'], time.time())} ago"
        differs = [f"! {output.plain(line)}" for line in found["differs"]] or ["as wanted"]
        return "\n".join([head, *fleet_view.agent_lines(found["agents"]), *differs])

    _emit(found, as_json=as_json, text=text)


@click.command()
@click.argument("device")
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE | KEY-]...")
@output.fleet_option
@output.json_option
def labels(device: str, changes: tuple[str, ...], fleet_dir: Path | None, as_json: bool) -> None:
    """Show the labels of DEVICE, or set (KEY=VALUE) and take away (KEY-) some.  Selectors go by them.

    \b
    Examples:
      edgeswarm fleet labels press-7
      edgeswarm fleet labels press-7 site=hall-3 line=4
      edgeswarm fleet labels press-7 line-
    """
    put = [one for one in changes if "=" in one]
    gone = [one[:-1] for one in changes if "=" not in one and one.endswith("-")]
    if len(put) + len(gone) < len(changes):
        wrong = next(one for one in changes if one not in put and not one.endswith("-"))
        raise click.UsageError(f"expected KEY=VALUE or KEY-, found {wrong!r}")
    if changes:
        found = _ask(fleet_dir, "labels.set", device=device, set=put, remove=gone)
    else:
        found = _ask(fleet_dir, "labels.get", device=device)
    _emit(found, as_json=as_json, text=lambda: output.plain("\n".join(found["labels"]), keep="\n") or "none")


def _ask(fleet_dir: Path | None, what: str, **args: Any) -> Any:
    from edgeswarm.app.fleet import link

    with link.open_link(fleet_dir) as asking:
        return asking.call(what, **args)


def _emit(value: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    click.echo(fleet_view.dumps(value) if as_json else text())
