"""`edgeswarm fleet init`, `serve`, `status`: a fleet's beginning, and its controller."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, output, passphrase


@click.command()
@click.option("--name", "fleet", required=True, help="Name of the fleet: [a-z0-9-], at most 32.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    required=True,
    help="Name or address under which devices reach the broker; may be given again, the first is handed out.",
)
@click.option("--port", type=click.IntRange(1, 65_535), default=8883, show_default=True, help="For devices.")
@click.option("--join-port", type=click.IntRange(1, 65_535), default=8884, show_default=True, help="For newcomers.")
@click.option("--bind", default="0.0.0.0", show_default=True, help="Address that the broker listens on.")
@click.option("--cell", default="main", show_default=True, help="Name of its cell.")
@click.option("--operator", default="operator", show_default=True, help="Name of the first operator.")
@click.option(
    "--timing", type=click.Choice(("default", "lan")), default="default", show_default=True, help="How fast it notices."
)
@click.option("--encrypt", is_flag=True, help="Encrypt every payload (A256GCM): the broker sees topics only.")
@passphrase.passphrase_option
@output.fleet_option
@output.json_option
def init(
    fleet: str,
    hosts: tuple[str, ...],
    port: int,
    join_port: int,
    bind: str,
    cell: str,
    operator: str,
    timing: Any,
    encrypt: bool,
    passphrase_file: Path | None,
    fleet_dir: Path | None,
    as_json: bool,
) -> None:
    """Make a fleet: root key (sealed), issuer, first operator, a one-voter cell, a hardened mosquitto configuration.

    \b
    Examples:
      edgeswarm fleet init --name plant-7 --host broker.plant-7.example
      edgeswarm fleet init --name lab --host 192.168.1.10 --host lab.local --passphrase-file /root/lab.pass --json
    """
    import time

    from edgeswarm.app.fleet.folder import default_path
    from edgeswarm.app.fleet.init import Wanted
    from edgeswarm.app.fleet.init import init as make

    path = (fleet_dir or default_path()).absolute()
    wanted = Wanted(
        fleet,
        hosts,
        cell=cell,
        operator=operator,
        port=port,
        join_port=join_port,
        bind=bind,
        timing=timing,
        encrypt=encrypt,
    )
    ask = passphrase.asker(passphrase_file, f"fleet {fleet} (root and operator)", fresh=True)
    folder = make(path, wanted, passphrase=ask(), now_s=int(time.time()))
    found = {
        "fleet": fleet,
        "cell": cell,
        "path": str(folder.path),
        "brokers": list(folder.config.brokers),
        "join_brokers": list(folder.config.join_brokers),
        "root_key": str(folder.root_key),
        "operator_key": str(folder.operator_key()),
        "broker_config": str(folder.broker / "mosquitto.conf"),
    }

    def text() -> str:
        return (
            f"fleet {fleet} in {folder.path}\n"
            f"root key: {folder.root_key} (sealed): copy it to a medium that you keep offline, then delete it here\n"
            f"next: edgeswarm fleet serve --broker      (broker and controller; or run mosquitto with\n"
            f"      {folder.broker / 'mosquitto.conf'})\n"
            f"then: edgeswarm fleet token create"
        )

    output.emit(found, as_json=as_json, text=text)


@click.command()
@click.option("--broker", "with_broker", is_flag=True, help="Run the fleet's mosquitto as well.")
@click.option("--on-alert", default="", metavar="COMMAND", help="Run for each alert, with its JSON on standard input.")
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    default="info",
    show_default=True,
    help="The least level that is written.",
)
@output.fleet_option
@click.option("--json", "as_json", is_flag=True, help="Errors as JSON; the log is JSON anyway.")
def serve(with_broker: bool, on_alert: str, log_level: str, fleet_dir: Path | None, as_json: bool) -> int:
    """Run the controller: issuer, artefacts, waves, index.  It may be down without any device minding.

    \b
    Examples:
      edgeswarm fleet serve --broker
      edgeswarm fleet serve --fleet /srv/plant-7 --on-alert /usr/local/bin/page-me
    """
    from edgeswarm.app.fleet.folder import FleetFolder, default_path
    from edgeswarm.app.fleet.serve import serve as run
    from edgeswarm.app.log import Log

    folder = FleetFolder((fleet_dir or default_path()).absolute())
    _ = folder.config  # what is wrong with it is told before anything starts
    return asyncio.run(run(folder, Log(level=log_level), with_broker=with_broker, on_alert=on_alert))


@click.command()
@common.wait_option
@output.fleet_option
@output.json_option
def status(wait_s: float, fleet_dir: Path | None, as_json: bool) -> None:
    """Show the fleet: its cell, leader, roster, devices by state.

    \b
    Examples:
      edgeswarm fleet status
      edgeswarm fleet status --wait 30          (after `fleet serve`: until the controller answers)
      edgeswarm fleet status --json | jq .leader
    """
    from edgeswarm.app.fleet.link import open_link

    def ask() -> dict[str, Any]:
        with open_link(fleet_dir) as link:
            found: dict[str, Any] = link.call("status")
        return found

    found = common.patiently(ask, wait_s)
    output.emit(found, as_json=as_json, text=lambda: "\n".join(f"{key:16} {value}" for key, value in found.items()))
