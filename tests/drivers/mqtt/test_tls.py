"""TLS 1.3 and nothing older, Ed25519 on both sides, one authority that is trusted; WebSockets."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import brokers
import pytest
from certificates import Pki
from mqtt_peers import Peers, eventually

from edgeswarm.drivers.mqtt.transport import TlsFiles


def mosquitto_tls(pki: Pki) -> list[str]:
    return [
        f"cafile {pki.ca}",
        f"certfile {pki.folder / 'server.crt'}",
        f"keyfile {pki.folder / 'server.key'}",
        "require_certificate true",
        "use_identity_as_username true",
        "allow_anonymous false",
    ]


def files(pki: Pki, name: str = "d1", **more: Any) -> TlsFiles:
    certificate, key = pki.client(name)
    return TlsFiles(pki.ca, certificate, key, **more)


async def test_messages_travel_over_tls_1_3_with_ed25519_on_both_sides(pki: Pki, peers: Peers) -> None:
    async with brokers.mosquitto(*mosquitto_tls(pki), scheme="mqtts") as broker:
        peer = await peers(broker.url, tls=files(pki))
        sock = peer.transport._control._link._stream.sock
        assert isinstance(sock, ssl.SSLSocket) and sock.version() == "TLSv1.3"
        await peer.hear("a", qos=1)
        await peer.hear("large", bulk=True)
        for i in range(200):
            peer.say("a", b"%d" % i, qos=1)
        peer.say("large", b"x" * 900_000, bulk=True, qos=1)
        await eventually(lambda: len(peer.heard) == 201)
        assert "as d1 " not in broker.log and "u'd1'" in broker.log, "the common name is the user name"


async def test_a_broker_that_only_speaks_tls_1_2_is_refused(pki: Pki, peers: Peers) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki.folder / "server.crt", pki.folder / "server.key")
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0, ssl=context)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # asyncio tells of each failed handshake
    async with server:
        peer = peers.unstarted(f"mqtts://127.0.0.1:{server.sockets[0].getsockname()[1]}", tls=files(pki))
        await peer.transport.start()
        await eventually(lambda: "cannot connect" in peer.stats["control"]["last_error"])
        assert peer.states == []


async def test_a_client_with_tls_1_2_is_refused_by_our_broker(pki: Pki) -> None:
    from edgeswarm.drivers.broker import Broker
    from edgeswarm.drivers.broker_config import BrokerTls

    async with Broker.start(tls=BrokerTls.from_folder(pki.folder)) as broker:
        context = ssl.create_default_context(cafile=str(pki.ca))
        context.load_cert_chain(*pki.client("d1"))
        _, writer = await asyncio.open_connection("127.0.0.1", broker.port, ssl=context)
        writer.close()
        await writer.wait_closed()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", broker.port, ssl=context)


async def test_a_broker_of_another_authority_is_refused(pki: Pki, tmp_path: Path, peers: Peers) -> None:
    other = Pki(tmp_path / "other")
    async with brokers.mosquitto(*mosquitto_tls(pki), scheme="mqtts") as broker:
        certificate, key = pki.client("d1")
        peer = peers.unstarted(broker.url, tls=TlsFiles(other.ca, certificate, key))
        await peer.transport.start()
        await eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in peer.stats["control"]["last_error"])


async def test_a_broker_of_another_name_is_refused(pki: Pki, peers: Peers) -> None:
    async with brokers.mosquitto(*mosquitto_tls(pki), scheme="mqtts") as broker:
        peer = peers.unstarted(broker.url, tls=files(pki, server_name="other.example"))
        await peer.transport.start()
        await eventually(lambda: "Hostname mismatch" in peer.stats["control"]["last_error"])


async def test_a_client_without_a_certificate_is_not_let_in(pki: Pki, peers: Peers) -> None:
    async with brokers.mosquitto(*mosquitto_tls(pki), scheme="mqtts") as broker:
        peer = peers.unstarted(broker.url, tls=TlsFiles(pki.ca))
        await peer.transport.start()
        await eventually(lambda: peer.stats["control"]["connect_failures"] >= 3)
        assert peer.states == []


async def test_files_that_are_not_there_are_named(pki: Pki, peers: Peers) -> None:
    async with brokers.mosquitto(*mosquitto_tls(pki), scheme="mqtts") as broker:
        peer = peers.unstarted(broker.url, tls=TlsFiles(Path("/nowhere/ca.crt")))
        await peer.transport.start()
        await eventually(lambda: "/nowhere/ca.crt" in peer.stats["control"]["last_error"])


async def test_a_certificate_that_is_renewed_is_used_at_the_next_connect(
    pki: Pki, peers: Peers, tmp_path: Path
) -> None:
    """Rotation: the files are read at each connect."""
    certificate, key = tmp_path / "now.crt", tmp_path / "now.key"

    def take(name: str) -> None:
        for source, target in zip(pki.client(name), (certificate, key), strict=True):
            target.write_bytes(source.read_bytes())

    take("old")
    async with brokers.mosquitto(*mosquitto_tls(pki), scheme="mqtts") as broker:
        peer = await peers(broker.url, tls=TlsFiles(pki.ca, certificate, key))
        take("new")
        peer.transport._control.reconnect()
        await eventually(lambda: len(peer.states) == 3)
        assert "u'old'" in broker.log and "u'new'" in broker.log


async def test_messages_travel_over_websockets(peers: Peers) -> None:
    async with brokers.amqtt(websocket=True) as broker:
        one, two = await peers(broker.url), await peers(broker.url)
        await one.hear("a", qos=1)
        await one.hear("large", bulk=True, qos=1)
        for i in range(100):
            two.say("a", b"%d" % i, qos=1)
        two.say("large", bytes(range(256)) * 400, bulk=True, qos=1)
        await eventually(lambda: len(one.heard) == 101)
        assert sorted(p for p in one.payloads if len(p) < 9) == sorted(b"%d" % i for i in range(100))
        assert bytes(range(256)) * 400 in one.payloads


async def test_websockets_reconnect(peers: Peers) -> None:
    async with brokers.amqtt(websocket=True) as broker:
        peer = await peers(broker.url)
        await peer.hear("a")
        await broker.restart()
        await eventually(lambda: peer.transport.is_connected)
        await eventually(lambda: peer.say("a") or peer.heard)


async def test_websockets_over_tls(pki: Pki, peers: Peers) -> None:
    from edgeswarm.drivers.broker import Broker
    from edgeswarm.drivers.broker_config import BrokerTls

    async with Broker.start("embedded", websocket=True, tls=BrokerTls.from_folder(pki.folder)) as broker:
        assert broker.url.startswith("wss://")
        peer = await peers(broker.url, tls=files(pki))
        await peer.hear("a")
        peer.say("a", b"x" * 30_000)
        await eventually(lambda: peer.heard)
