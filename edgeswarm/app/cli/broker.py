"""`edgeswarm broker`: an MQTT broker for this machine or this site, in the foreground."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeswarm.app.cli import output

if TYPE_CHECKING:
    from edgeswarm.drivers.broker import Kind
    from edgeswarm.drivers.broker_config import BrokerTls


@click.command()
@click.option("--embedded", "kind", flag_value="embedded", help="amqtt, in Python: MQTT 3.1.1, for a few devices.")
@click.option("--mosquitto", "kind", flag_value="mosquitto", help="mosquitto (default where it is installed).")
@click.option("--bind", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where it listens.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Port; 0, the default, takes a free one.")
@click.option(
    "--tls",
    "tls_folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="TLS 1.3 with client certificates: DIR holds ca.crt, server.crt, server.key and maybe crl.pem.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep configuration, log and retained messages there (default: a folder that goes with the broker).",
)
@click.option("--websocket", is_flag=True, help="MQTT over WebSockets (embedded only).")
@click.option("--print-config", is_flag=True, help="Print mosquitto's configuration and start nothing.")
@output.json_option
def broker(
    kind: Kind | None,
    bind: str,
    port: int,
    tls_folder: Path | None,
    folder: Path | None,
    websocket: bool,
    print_config: bool,
    as_json: bool,
) -> int:
    """Run an MQTT broker until SIGTERM or ctrl-c, and print the URL that devices connect to.

    Without --tls anybody who reaches the port may connect, so it listens on loopback only.  With --tls a device shows a
    certificate of the authority in DIR, and its common name is its user name.  With --dir mosquitto keeps retained
    messages over a restart.

    \b
    Examples:
      edgeswarm broker
      edgeswarm broker --port 1883 --dir ~/broker
      edgeswarm broker --bind 0.0.0.0 --port 8883 --tls /etc/edgeswarm/tls --dir /var/lib/edgeswarm/broker
      edgeswarm broker --print-config --tls /etc/edgeswarm/tls --bind 0.0.0.0 > /etc/mosquitto/conf.d/edgeswarm.conf
    """
    from edgeswarm.drivers.broker_config import BrokerOptions, BrokerTls, check, mosquitto_config

    tls = BrokerTls.from_folder(tls_folder) if tls_folder is not None else None
    if print_config:
        options = BrokerOptions(bind, port or (1883 if tls is None else 8883), tls, folder is not None)
        check(options)
        text = mosquitto_config(options, folder or Path("/var/lib/mosquitto"))
        output.emit({"config": text}, as_json=as_json, text=lambda: text.rstrip("\n"))
        return 0
    return asyncio.run(_serve(kind or "auto", bind, port, tls, folder, websocket, as_json))


async def _serve(
    kind: Kind, bind: str, port: int, tls: BrokerTls | None, folder: Path | None, websocket: bool, as_json: bool
) -> int:
    """Until a signal (0) or the broker's own end (1)."""
    from edgeswarm.drivers.broker import Broker, BrokerFailedError, Mosquitto

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running = await Broker.start(
        kind, port=port, bind=bind, tls=tls, folder=folder, persistence=folder is not None, websocket=websocket
    )
    async with running:
        if as_json:
            text = json.dumps({"url": running.url, "kind": running.kind, "port": running.port, "pid": running.pid})
        else:
            text = f"{running.kind} listens: {running.url}"
        print(text, flush=True)
        stopped, ended = asyncio.create_task(stop.wait()), asyncio.create_task(running.ended())
        await asyncio.wait([stopped, ended], return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, ended):
            task.cancel()
        await asyncio.gather(stopped, ended, return_exceptions=True)
        if not stop.is_set():
            tail = running.log_tail if isinstance(running, Mosquitto) else ""
            raise BrokerFailedError(f"the broker ended by itself: {tail}")
    return 0
