"""amqtt 0.11 and later as a broker inside this process: MQTT 3.1.1, TCP or WebSockets.  Only the embedded broker
imports it.

amqtt bounds neither what waits for a slow client nor the size of a packet, so it serves loopback, demos and a site of
a few devices that is cut off, and nothing that strangers reach.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from typing import Any

from edgeswarm.drivers.broker_config import BrokerOptions
from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.limits import BROKER_EMBEDDED_CONNECTIONS_MAX


async def start(options: BrokerOptions) -> Any:
    """An amqtt Broker that listens.  Raises LocalError if amqtt is not installed, or the port is taken."""
    try:
        from amqtt.broker import Broker
        from amqtt.errors import AMQTTError
    except ModuleNotFoundError as error:
        raise LocalError(f"the embedded broker needs {error.name}: pip install 'edgeswarm[broker]'") from None
    # It logs a traceback for each client that goes without a word: the caller hears of what matters.
    for name in ("amqtt", "transitions", "websockets"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    listener: dict[str, Any] = {
        "type": "ws" if options.websocket else "tcp",
        "bind": f"{options.bind}:{options.port}",
        "max_connections": BROKER_EMBEDDED_CONNECTIONS_MAX,
    }
    if options.tls is not None:
        listener |= {
            "ssl": True,
            "cafile": str(options.tls.authority),
            "certfile": str(options.tls.certificate),
            "keyfile": str(options.tls.key),
        }

    broker = tidy_class(Broker)(
        {
            "listeners": {"default": listener},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    try:
        await broker.start()
    except AMQTTError as error:
        raise EdgeSwarmError(f"the embedded broker does not start: {error}") from None
    return broker


class Steady(dict[str, Any]):
    """Is walked as it was when the walk began.  amqtt awaits while it walks its subscriptions, and lets a client hang
    that connects while another one subscribes (`RuntimeError: dictionary changed size during iteration`)."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().__iter__()))


def tidy_class(broker_class: Any) -> Any:
    """amqtt's Broker with TLS 1.3 and client certificates, steady, and with every connection closed at the end."""

    class Tidy(broker_class):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._connections: set[asyncio.StreamWriter] = set()
            self._subscriptions = Steady()

        @staticmethod
        def _create_ssl_context(config: Any) -> ssl.SSLContext:
            context: ssl.SSLContext = broker_class._create_ssl_context(config)
            context.minimum_version = ssl.TLSVersion.TLSv1_3  # it takes 1.2 and clients without a certificate
            context.verify_mode = ssl.CERT_REQUIRED
            return context

        async def stream_connected(
            self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
        ) -> None:
            self._connections.add(writer)
            try:
                await super().stream_connected(reader, writer, listener_name)
            except OSError:
                pass  # a client that went while it was being refused: nobody needs a traceback of that
            finally:
                self._connections.discard(writer)
                writer.close()

        async def shutdown(self) -> None:
            await super().shutdown()
            for writer in self._connections:
                writer.transport.abort()
            await asyncio.sleep(0)  # an aborted transport closes its socket in the next turn

    return Tidy


async def stop(broker: Any) -> None:
    await broker.shutdown()


def retained(broker: Any) -> dict[str, Any]:
    return dict(broker.retained_messages)


def restore(broker: Any, kept: dict[str, Any]) -> None:
    broker.retained_messages.update(kept)
