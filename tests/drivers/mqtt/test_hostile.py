"""A broker that means harm: whatever it sends ends its connection at most, and takes no memory."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from mqtt_peers import QUICK, Peers, eventually

from edgeswarm.drivers.mqtt.transport import Broker, Connected, Disconnected, Transport
from edgeswarm.limits import MQTT_PACKET_BYTES_MAX

CONNACK_5 = b"\x20\x03\x00\x00\x00"
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[str]:
    """A raw socket server that plays `script` to everybody who connects."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(reader, writer)
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            tasks.discard(task)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"mqtt://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # an aborted transport closes its socket in a later turn


def accepting(then: bytes) -> Script:
    """Takes CONNECT, says yes, sends `then`, and reads whatever comes until the client goes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4_096)
        writer.write(CONNACK_5 + then)
        while await reader.read(65_536):
            pass

    return script


def publish(topic: bytes, payload: bytes, *, flags: int = 0, properties: bytes = b"\0", mid: bytes = b"") -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + mid + properties + payload
    size, out = len(body), bytearray([0x30 | flags])
    while True:
        size, low = divmod(size, 128)
        out.append(low | (0x80 if size else 0))
        if not size:
            return bytes(out) + body


BREACHES = {
    "a reserved packet type": b"\xf0\x00",
    "a packet only clients send": b"\x10\x00",
    "a length of five bytes": b"\x30\xff\xff\xff\xff\x7f",
    "256 MiB announced": b"\x30\xff\xff\xff\x7f" + b"x" * 100_000,
    "a little too much announced": bytes([0x30]) + b"\x81\x80\x42" + b"x" * 100,
    "an empty PUBLISH": b"\x30\x00",
    "a topic longer than its packet": b"\x30\x04\xff\xff\x00\x00",
    "a topic that is no UTF-8": publish(b"\xff\xfe", b"x"),
    "a topic of no characters": publish(b"", b"x"),
    "a topic with NUL": publish(b"a\0b", b"x"),
    "QoS 2, which nobody asked for": publish(b"a", b"x", flags=4, mid=b"\x00\x01"),
    "QoS 3": publish(b"a", b"x", flags=6, mid=b"\x00\x01"),
    "properties past the packet": publish(b"a", b"", properties=b"\x7f"),
    "an unknown property": publish(b"a", b"", properties=b"\x02\x7e\x00"),
    "a malformed SUBACK": b"\x90\x01\x00",
    "a malformed PUBACK": b"\x40\x01\x00",
    "a second CONNACK": CONNACK_5,
    "a refusal after the fact": b"\x20\x03\x00\x87\x00",
    "a DISCONNECT": b"\xe0\x02\x8e\x00",
    "a DISCONNECT with junk": b"\xe0\x05\x01\xff\xff\xff\xff",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.soak) if name == "a little too much announced" else name
        for name in BREACHES
    ],
)  # that one is noticed by the keep-alive only, after 20 s
async def test_a_breach_of_protocol_costs_the_connection_only(name: str, peers: Peers) -> None:
    async with server(accepting(BREACHES[name])) as url:
        peer = peers.unstarted(url)
        await peer.hear_later("#")
        await peer.transport.start()
        await eventually(lambda: sum(isinstance(state, Disconnected) for state in peer.states) >= 2)
        assert peer.heard == []
        lost = [state for state in peer.states if isinstance(state, Disconnected)]
        assert all(state.reason for state in lost)
        if name == "a DISCONNECT":
            assert lost[0].taken_over and "taken over" in lost[0].reason


@pytest.mark.parametrize(
    "harmless",
    [
        b"\x40\x02\xff\xff",  # PUBACK of nothing
        b"\x90\x04\xff\xff\x00\x80",  # SUBACK of nothing
        b"\xb0\x04\xff\xff\x00\x00",  # UNSUBACK of nothing
        b"\x50\x02\xff\xff",  # PUBREC of nothing
        b"\x62\x02\xff\xff",  # PUBREL of nothing
        b"\xd0\x00",  # PINGRESP without a question
        publish(b"other", b"x"),  # nobody asked for it
    ],
)
async def test_answers_without_a_question_change_nothing(harmless: bytes, peers: Peers) -> None:
    async with server(accepting(harmless * 3 + publish(b"a", b"still here"))) as url:
        peer = peers.unstarted(url)
        await peer.hear_later("a")
        await peer.transport.start()
        await eventually(lambda: peer.payloads == [b"still here"])
        assert [type(state) for state in peer.states] == [Connected]


async def test_random_bytes_never_crash(peers: Peers) -> None:
    """200 connections, each with its own junk after CONNACK; the loop hears of no exception."""
    rng, told = random.Random(3), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.read(4_096)
        sent += 1
        kind = bytes([rng.choice([0x20, 0x30, 0x32, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xC0, 0xD0, 0xE0, 0xF0])])
        size = rng.randrange(0, 40)
        writer.write(
            (CONNACK_5 if rng.random() < 0.8 else b"") + kind + bytes([size]) + rng.randbytes(size) + rng.randbytes(9)
        )

    settings = dataclasses.replace(QUICK, reconnect_ms=1.0, reconnect_ms_max=2.0, connect_s=1.0)
    async with server(script) as url:
        peer = peers.unstarted(url, settings=settings)
        await peer.hear_later("#")
        await peer.transport.start()
        await eventually(lambda: sent >= 200)
        await peer.transport.close()
    assert told == []


async def test_a_broker_that_never_answers_is_given_up(peers: Peers) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4_096):
            pass

    settings = dataclasses.replace(QUICK, connect_s=0.1)
    async with server(script) as url:
        peer = peers.unstarted(url, settings=settings)
        await peer.transport.start()
        await eventually(lambda: peer.stats["control"]["connect_failures"] >= 3)
        assert "no answer within 0.1 s" in peer.stats["control"]["last_error"]


async def test_a_websocket_handshake_without_end_is_given_up(peers: Peers) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 101 x" * 1_000)
            await writer.drain()

    async with server(script) as url:
        peer = peers.unstarted(url.replace("mqtt", "ws"))
        await peer.transport.start()
        await eventually(lambda: "handshake" in peer.stats["control"]["last_error"])


async def test_a_broker_that_acknowledges_nothing_is_left(peers: Peers) -> None:
    """Its room for QoS 1 would stay taken for ever, for a stop as well."""
    settings = dataclasses.replace(QUICK, keepalive_s=1)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4_096)
        writer.write(CONNACK_5)
        while await reader.read(65_536):
            writer.write(b"\xd0\x00")  # alive, it says

    async with server(script) as url:
        peer = await peers(url, settings=settings)
        peer.say("a", qos=1)
        await eventually(lambda: any(getattr(s, "reason", "") == "no acknowledgement" for s in peer.states))


async def test_a_broker_that_asks_and_does_not_read_is_left(peers: Peers) -> None:
    """PINGREQs by the million: our answers would pile up."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4_096)
        writer.write(CONNACK_5)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        while True:
            writer.write(b"\xc0\x00" * 50_000)
            await writer.drain()

    async with server(script) as url:
        peer = peers.unstarted(url)
        await peer.transport.start()
        seen = 0

        def left() -> bool:
            nonlocal seen
            link = peer.transport._control._link
            if link is not None and link._client is not None:
                seen = max(seen, link._client.packets_unwritten)
            return any(isinstance(state, Disconnected) for state in peer.states)

        await eventually(left)
        assert seen < 2_000


async def test_a_flood_lets_the_loop_go_on_and_others_get_through(peers: Peers) -> None:
    """20,000 messages in one piece: handled in bounded turns, and a timer beside them is on time."""
    async with server(accepting(publish(b"a", b"x" * 200) * 20_000)) as url:
        peer = peers.unstarted(url)
        await peer.hear_later("a")
        await peer.transport.start()
        turns = 0
        while len(peer.heard) < 20_000:
            await asyncio.sleep(0)
            turns += 1
            assert turns < 1_000_000
        assert peer.stats["control"]["reads_bounded"] > 20


async def test_a_message_as_large_as_allowed_is_taken(peers: Peers) -> None:
    payload = b"x" * (MQTT_PACKET_BYTES_MAX - 8)
    async with server(accepting(publish(b"a", payload))) as url:
        peer = peers.unstarted(url)
        await peer.hear_later("a")
        await peer.transport.start()
        await eventually(lambda: peer.payloads == [payload])


async def test_refusals_say_why(peers: Peers) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4_096)
        writer.write(struct.pack("BBBBB", 0x20, 3, 0, 135, 0))

    async with server(script) as url:
        peer = peers.unstarted(url)
        await peer.transport.start()
        await eventually(lambda: "Not authorized" in peer.stats["control"]["last_error"])
        assert peer.stats["brokers"][0]["protocol"] == 5


async def test_a_broker_that_hangs_up_on_mqtt_5_is_spoken_to_in_3_1_1(peers: Peers) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connect = await reader.read(4_096)
        if connect[8] == 5:
            return
        writer.write(b"\x20\x02\x00\x00")
        while await reader.read(4_096):
            pass

    async with server(script) as url:
        peer = await peers(url)
        assert peer.states == [Connected(url, 4, 1)]


async def test_closing_while_connecting_leaves_nothing_behind() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with server(script) as url:
        for wait_s in (0.0, 0.001, 0.01, 0.05):
            transport = Transport([Broker.from_url(url)], client_id="x", settings=QUICK)
            await transport.start()
            await asyncio.sleep(wait_s)
            await transport.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("mqtt")]
