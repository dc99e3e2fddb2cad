"""`edgeswarm fleet home-assistant`: the fleet on the dashboard of a house."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from edgeswarm.app.cli import common, output


@click.command("home-assistant")
@click.option(
    "--broker", "url", required=True, metavar="URL", help="Home Assistant's broker: mqtt:// mqtts:// ws:// wss://"
)
@click.option("--prefix", default="homeassistant", show_default=True, help="Its discovery prefix.")
@click.option("--select", "selector", default="all", show_default=True, help="Only these devices.")
@click.option(
    "--interval", type=click.FloatRange(1, 3600), default=10.0, show_default=True, help="Seconds between looks."
)
@click.option("--user", help="User name at the broker.")
@click.option("--password-file", type=click.Path(path_type=Path, dir_okay=False), help="File with the password.")
@click.option("--ca", type=click.Path(path_type=Path, dir_okay=False), help="The authority of mqtts and wss.")
@click.option("--once", is_flag=True, help="Show the fleet as it is now, and end.")
@output.fleet_option
@output.json_option
def home_assistant(
    url: str,
    prefix: str,
    selector: str,
    interval: float,
    user: str | None,
    password_file: Path | None,
    ca: Path | None,
    once: bool,
    fleet_dir: Path | None,
    as_json: bool,
) -> None:
    """Show the fleet to a Home Assistant, by MQTT discovery at its broker, until ctrl-c.  Nothing can be changed there.

    One device each, with connectivity, failed agents, agents, CPU, memory and temperature; a device that leaves the
    fleet is taken away again.

    \b
    Examples:
      edgeswarm fleet home-assistant --broker mqtt://homeassistant.local
      edgeswarm fleet home-assistant --broker mqtts://ha.lan --ca ca.pem --user fleet --password-file pw
    """
    import asyncio

    from edgeswarm.app.fleet import home_assistant as adapter
    from edgeswarm.drivers.mqtt.brokers import Broker, TlsFiles
    from edgeswarm.errors import ConfigError
    from edgeswarm.limits import SECRET_BYTES_MAX

    broker = Broker.from_url(url, tls=None if ca is None else TlsFiles(authority=ca))
    if user is not None:
        broker = replace(broker, username=user)
    if password_file is not None:
        secret = common.read_file(
            password_file, bytes_max=SECRET_BYTES_MAX, bound="SECRET_BYTES_MAX", error=ConfigError
        )
        broker = replace(broker, password=secret.decode("utf-8", "replace").strip())
    asyncio.run(
        adapter.run(
            fleet_dir, broker, prefix=prefix, selector=selector, interval_s=interval, told=output.note, once=once
        )
    )
