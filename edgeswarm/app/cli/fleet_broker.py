"""`edgeswarm fleet broker`: the fleet's own mosquitto: its configuration, running it, and proving what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import click

from edgeswarm.app.cli import output


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def broker() -> None:
    """The fleet's broker: two mosquitto processes, one for devices, one for newcomers.

    \b
    Examples:
      edgeswarm fleet broker run
      edgeswarm fleet broker check
      edgeswarm fleet broker config --write
      edgeswarm fleet broker unit > /etc/systemd/system/edgeswarm-broker.service
    """


@broker.command()
@output.fleet_option
@output.json_option
def check(fleet_dir: Path | None, as_json: bool) -> int:
    """Try with real connections what must work and what must not; exit code 1 where one goes wrong.

    \b
    Examples:
      edgeswarm fleet broker check
      edgeswarm fleet broker check --json | jq '.rows[] | select(.ok | not)'
    """
    from edgeswarm.app.fleet import broker_check
    from edgeswarm.app.fleet.broker_files import newest_roster
    from edgeswarm.app.fleet.folder import FleetFolder, default_path

    folder = FleetFolder(fleet_dir or default_path())
    rows = broker_check.check(folder, newest_roster(folder))
    bad = [row for row in rows if not row.ok]

    def text() -> str:
        lines = [(("ok" if row.ok else "WRONG"), row.name, row.found) for row in rows]
        end = f"{len(rows) - len(bad)} of {len(rows)} as they must be"
        return output.table(("", "what", "found"), lines) + "\n" + end

    output.emit({"ok": not bad, "rows": [row.as_dict() for row in rows]}, as_json=as_json, text=text)
    return 1 if bad else 0


@broker.command()
@output.fleet_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least level that is written.",
)
@click.option("--json", "as_json", is_flag=True, help="Errors as JSON; the log is JSON anyway.")
def run(fleet_dir: Path | None, log_level: str, as_json: bool) -> int:
    """Run the fleet's broker in the foreground, until SIGTERM or ctrl-c.

    \b
    Examples:
      edgeswarm fleet broker run
      edgeswarm fleet broker run --fleet /srv/plant-7
    """
    from edgeswarm.app.fleet import broker_guard
    from edgeswarm.app.fleet.folder import FleetFolder, default_path
    from edgeswarm.app.log import Log
    from edgeswarm.drivers.notify import Notifier
    from edgeswarm.limits import BROKER_REFRESH_S

    folder, log = FleetFolder(fleet_dir or default_path()), Log(level=log_level)

    async def serve() -> int:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with broker_guard.run_broker(folder, log):
            log.info("broker_runs", fleet=folder.config.fleet)
            Notifier.of(os.environ).ready()
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BROKER_REFRESH_S):
                        await stop.wait()
                    break
                # certificates and lists are renewed also while the controller is away
                await asyncio.to_thread(broker_guard.refresh, folder, log)
        return 0

    return asyncio.run(serve())


@broker.command()
@output.fleet_option
@output.json_option
@click.option("--write", "do_write", is_flag=True, help="Bring FLEET/broker up to date, rather than print it.")
def config(fleet_dir: Path | None, do_write: bool, as_json: bool) -> int:
    """Print the broker's configuration, or write it anew from the newest roster.

    \b
    Examples:
      edgeswarm fleet broker config
      edgeswarm fleet broker config --write
    """
    from edgeswarm.app.fleet import broker_files
    from edgeswarm.app.fleet.folder import FleetFolder, default_path

    folder = FleetFolder(fleet_dir or default_path())
    if do_write:
        changed = sorted(broker_files.write_now(folder))
        words = f"written: {', '.join(changed)}" if changed else "up to date"
        output.emit({"changed": changed}, as_json=as_json, text=lambda: words)
        return 0
    texts = {name: _read(folder.broker / name) for name in ("mosquitto.conf", "mosquitto-join.conf", "acl-join", "acl")}
    output.emit(texts, as_json=as_json, text=lambda: "\n".join(f"# --- {name}\n{texts[name]}" for name in texts))
    return 0


def _read(path: Path) -> str:
    from edgeswarm.errors import ConfigError

    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise ConfigError(f"{path}: is not there; `edgeswarm fleet init` writes it") from None
    # the bridge's client id is kept from whoever looks over the shoulder: who knows it can end the bridge's session
    return "\n".join("local_clientid (secret)" if line.startswith("local_clientid ") else line for line in lines)


@broker.command()
@output.fleet_option
def unit(fleet_dir: Path | None) -> int:
    """Print a systemd unit that runs the broker.

    \b
    Examples:
      edgeswarm fleet broker unit > /etc/systemd/system/edgeswarm-broker.service
      systemctl disable --now mosquitto; systemctl enable --now edgeswarm-broker
    """
    import shutil

    from edgeswarm.app.fleet.folder import default_path
    from edgeswarm.drivers.broker_fleet import unit_text

    program = shutil.which("edgeswarm") or "/usr/bin/env edgeswarm"
    click.echo(unit_text((fleet_dir or default_path()).absolute(), program), nl=False)
    return 0
