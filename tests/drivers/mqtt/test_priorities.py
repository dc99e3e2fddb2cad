"""A stop gets through while LOW traffic saturates the broker; and what was offline comes after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import brokers
import pytest
from mqtt_peers import Peer, Peers, eventually

from edgeswarm.drivers.mqtt.forward import Forwarder
from edgeswarm.drivers.mqtt.queue import StoredMessage
from edgeswarm.drivers.mqtt.transport import Priority


@asynccontextmanager
async def saturating(*senders: Peer) -> AsyncIterator[None]:
    """LOW messages of 4 KiB as fast as the senders' sockets take them."""

    async def flood(sender: Peer) -> None:
        while True:
            for _ in range(200):
                sender.say("low", b"x" * 4_096, priority=Priority.LOW)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(flood(sender)) for sender in senders]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_critical_messages_get_through_a_saturated_broker(peers: Peers) -> None:
    """The flooder itself sends the stop: its LOW messages wait, or fall, on the other connection."""
    async with brokers.mosquitto("max_queued_messages 1000") as broker:
        flooder, other, victim = await peers(broker.url), await peers(broker.url), await peers(broker.url)
        low: list[int] = []
        await victim.transport.subscribe("low", lambda m: low.append(1), bulk=True)
        await victim.hear("stop", qos=1)
        async with saturating(flooder, other):
            await eventually(lambda: len(low) > 1_000)
            for i in range(50):
                flooder.say("stop", b"%d" % i, priority=Priority.CRITICAL, qos=1)
                await asyncio.sleep(0.005)
            await eventually(lambda: len(victim.heard) == 50, "fifty stops")
        dropped = flooder.stats["dropped"]
        assert dropped["low"]["full"] > 0, "it was saturated indeed"
        assert not any(dropped["critical"].values())
        assert flooder.stats["bulk"]["queued_bytes"] <= 4 * 1024 * 1024


async def test_a_stop_overtakes_what_waits_for_acknowledgements(peers: Peers) -> None:
    """Places among the unacknowledged are kept free for CRITICAL."""
    async with brokers.mosquitto() as broker:
        sender, receiver = await peers(broker.url), await peers(broker.url)
        await receiver.hear("#", qos=1)
        for i in range(1_000):
            sender.say("m", b"%d" % i, priority=Priority.MEDIUM, qos=1)
        sender.say("stop", priority=Priority.CRITICAL, qos=1)
        await eventually(lambda: len(receiver.heard) == 1_001)
        assert [m.topic for m in receiver.heard].index("stop") < 100


class Shelf:
    """An offline queue in memory."""

    def __init__(self) -> None:
        self.kept: dict[int, StoredMessage] = {}
        self.acked: list[int] = []

    def put(self, topic: str, payload: bytes, priority: int, qos: int, retain: bool, expires_at: float | None) -> None:
        id_ = len(self.kept) + len(self.acked) + 1
        self.kept[id_] = StoredMessage(id_, topic, payload, priority, qos, retain, expires_at)

    def take(self, max_bytes: int) -> list[StoredMessage]:
        taken, size = [], 0
        for message in sorted(self.kept.values(), key=lambda m: (m.priority, m.id)):
            size += len(message.payload)
            if taken and size > max_bytes:
                break
            taken.append(message)
        return taken

    def ack(self, ids: list[int]) -> None:
        for id_ in ids:
            del self.kept[id_]
        self.acked += ids


async def test_what_was_said_offline_is_sent_after_a_reconnect_in_order(peers: Peers) -> None:
    async with brokers.mosquitto() as broker:
        shelf = Shelf()
        receiver, sender = await peers(broker.url), await peers(broker.url, offline=shelf)
        await receiver.hear("#", qos=1)
        broker.close()
        await eventually(lambda: not sender.transport.is_connected)
        for i in range(20):
            sender.say("m", b"%d" % i, priority=Priority.MEDIUM, qos=1)
        sender.say("lost", priority=Priority.MEDIUM, qos=0)
        sender.say("stop", priority=Priority.CRITICAL, qos=1)
        sender.say("stale", priority=Priority.MEDIUM, qos=1, expiry_s=0.0)
        assert len(shelf.kept) == 22 and sender.stats["control"]["queued"] == 0
        await broker.start()
        await eventually(lambda: receiver.transport.is_connected)
        await eventually(lambda: not shelf.kept)
        await eventually(lambda: sender.stats["forwarded"] == 21)
        assert len(shelf.acked) == 22
        if len(receiver.heard) == 21:  # else the receiver subscribed again after the first had passed
            assert [m.topic for m in receiver.heard] == ["stop"] + ["m"] * 20
            assert receiver.payloads[1:] == [b"%d" % i for i in range(20)]


async def test_unacknowledged_messages_go_offline_when_the_connection_breaks(peers: Peers) -> None:
    async with brokers.mosquitto() as broker:
        shelf = Shelf()
        sender = await peers(broker.url, offline=shelf)
        for i in range(200):
            sender.say("m", b"%d" % i, qos=1)
        broker.close()
        await eventually(lambda: not sender.transport.is_connected)
        await sender.transport.close()
        kept = {message.payload for message in shelf.kept.values()}
        assert len(kept) + sender.stats["control"]["acknowledged"] == 200


async def test_what_is_not_acknowledged_stays_in_storage() -> None:
    """The connection breaks in the middle of a batch: only what was acknowledged has left."""
    shelf, sent, up = Shelf(), list[int](), [True]
    for _ in range(5):
        shelf.put("t", b"x", 2, 1, False, None)

    def send(stored: StoredMessage, settled: object) -> None:
        sent.append(stored.id)
        if stored.id <= 2:
            settled(None)  # type: ignore[operator]
        if stored.id == 3:
            up[0] = False

    forwarder = Forwarder(shelf, send, lambda: up[0], per_s=10_000.0)
    forwarder.start()
    await eventually(lambda: shelf.acked == [1, 2])
    assert sorted(shelf.kept) == [3, 4, 5] and sent == [1, 2, 3]
    assert forwarder.forwarded == 2
    await forwarder.close()


@pytest.mark.parametrize("why", ["expired", "refused"])
async def test_what_can_never_be_sent_leaves_the_storage(why: str) -> None:
    shelf = Shelf()
    shelf.put("t", b"x", 2, 1, False, None)
    forwarder = Forwarder(shelf, lambda _stored, settled: settled(why), lambda: True, per_s=10_000.0)
    forwarder.start()
    await eventually(lambda: shelf.acked == [1])
    assert (forwarder.forwarded, forwarder.dropped) == (0, 1)
    await forwarder.close()
