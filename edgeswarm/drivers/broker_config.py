"""What a broker of ours may do, written out as mosquitto's configuration (mosquitto.conf(5), 2.0).

Without TLS anybody who reaches the port may connect, so only loopback is bound.  With TLS a client shows a certificate
of the fleet's authority, and its common name is its user name: the access list gives each device its own topics.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from edgeswarm.errors import LocalError
from edgeswarm.limits import (
    BROKER_CLIENT_QUEUE_BYTES,
    BROKER_CLIENT_QUEUE_MESSAGES,
    BROKER_CONNECTIONS_MAX,
    BROKER_INFLIGHT_MAX,
    BROKER_MEMORY_BYTES_MAX,
    MQTT_PACKET_BYTES_MAX,
)


@dataclass(frozen=True, slots=True)
class BrokerTls:
    """PEM files.  authority signs the clients' certificates; revoked: a CRL, which must not expire unnoticed."""

    authority: Path
    certificate: Path
    key: Path
    revoked: Path | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> BrokerTls:
        """ca.crt, server.crt, server.key and, if it is there, crl.pem of one folder."""
        crl = folder / "crl.pem"
        return cls(folder / "ca.crt", folder / "server.crt", folder / "server.key", crl if crl.exists() else None)


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """acl: an access list of mosquitto; without one every client that may connect reads and writes everything."""

    bind: str = "127.0.0.1"
    port: int = 0
    tls: BrokerTls | None = None
    persistence: bool = False
    websocket: bool = False
    acl: Path | None = None

    @property
    def scheme(self) -> str:
        if self.websocket:
            return "ws" if self.tls is None else "wss"
        return "mqtt" if self.tls is None else "mqtts"


def check(options: BrokerOptions) -> None:
    """LocalError unless the options may be served."""
    try:
        loopback = options.bind == "localhost" or ipaddress.ip_address(options.bind).is_loopback
    except ValueError:
        raise LocalError(f"broker: --bind expects an address, found {options.bind!r}") from None
    if options.tls is None and not loopback:
        raise LocalError(f"broker: {options.bind} can be reached from outside; that needs TLS (--tls DIR)")
    if not 0 <= options.port <= 65_535:
        raise LocalError(f"broker: expected a port of 0 to 65535, found {options.port}")
    if options.tls is not None:
        for path in (options.tls.authority, options.tls.certificate, options.tls.key):
            if not path.is_file():
                raise LocalError(f"broker: {path} is not there; a TLS folder holds ca.crt, server.crt and server.key")


def _quoted(path: Path) -> str:
    """mosquitto takes the rest of the line as it is: only a line break could add an option."""
    text = str(path.absolute())
    if "\n" in text or "\r" in text:
        raise LocalError(f"broker: a path with a line break: {text!r}")
    return text


def mosquitto_config(options: BrokerOptions, folder: Path, *, user: str | None = None) -> str:
    """The whole file; mosquitto's own defaults are used for nothing that has a bound.

    user: whom it changes to when root starts it; None where it is not root.
    """
    lines = [
        "# Written by edgeswarm broker; changes are overwritten.",
        "per_listener_settings false",
        f"listener {options.port} {options.bind}",
        "protocol mqtt",
        "set_tcp_nodelay true",
        *([f"user {user}"] if user is not None else []),
        "",
        "# Bounds: one slow or hostile client must not take the memory of all.",
        f"max_connections {BROKER_CONNECTIONS_MAX}",
        f"max_packet_size {MQTT_PACKET_BYTES_MAX}",
        f"max_inflight_messages {BROKER_INFLIGHT_MAX}",
        f"max_queued_messages {BROKER_CLIENT_QUEUE_MESSAGES}",
        f"max_queued_bytes {BROKER_CLIENT_QUEUE_BYTES}",
        f"memory_limit {BROKER_MEMORY_BYTES_MAX}",
        "max_keepalive 300",
        "max_topic_alias 0",
        "queue_qos0_messages false",
        "persistent_client_expiration 1d",
        "allow_zero_length_clientid false",
        "",
    ]
    if options.tls is None:
        lines += ["# Loopback only: whoever has an account here may connect.", "allow_anonymous true"]
    else:
        lines += [
            "allow_anonymous false",
            f"cafile {_quoted(options.tls.authority)}",
            f"certfile {_quoted(options.tls.certificate)}",
            f"keyfile {_quoted(options.tls.key)}",
            "tls_version tlsv1.3",
            "require_certificate true",
            "use_identity_as_username true",
        ]
        if options.tls.revoked is not None:
            lines.append(f"crlfile {_quoted(options.tls.revoked)}")
    if options.acl is not None:
        lines.append(f"acl_file {_quoted(options.acl)}")
    lines.append("")
    if options.persistence:
        lines += [
            "persistence true",
            f"persistence_location {_quoted(folder)}/",
            "persistence_file mosquitto.db",
            "# Retained messages are a cache: an SD card need not see each of them.",
            "autosave_interval 300",
        ]
    else:
        lines.append("persistence false")
    lines += [
        "",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages false",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
    ]
    return "\n".join(lines) + "\n"
