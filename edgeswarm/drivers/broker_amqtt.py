"""amqtt 0.11 and later as a broker inside this process: MQTT 3.1.1, TCP or WebSockets.  Only the embedded broker
imports it.

amqtt bounds neither what waits for a slow client nor the size of a packet, so it serves loopback, demos and a site of
a few devices that is cut off, and nothing that strangers reach.
"""

from __future__ import annotations

import logging
import ssl
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

    class Strict(Broker):  # type: ignore[misc]
        """TLS 1.3 with a client certificate, where amqtt takes TLS 1.2 and none."""

        @staticmethod
        def _create_ssl_context(config: Any) -> ssl.SSLContext:
            context: ssl.SSLContext = Broker._create_ssl_context(config)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            return context

    broker = Strict(
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


async def stop(broker: Any) -> None:
    await broker.shutdown()


def retained(broker: Any) -> dict[str, Any]:
    return dict(broker.retained_messages)


def restore(broker: Any, kept: dict[str, Any]) -> None:
    broker.retained_messages.update(kept)
