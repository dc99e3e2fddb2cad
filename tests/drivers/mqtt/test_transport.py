"""The transport over real brokers: mosquitto (MQTT 5) and amqtt (3.1.1 only)."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import brokers
import pytest
from mqtt_peers import Peers, eventually

from edgeswarm.drivers.mqtt.transport import Connected, Disconnected, LinkError, Priority, Will
from edgeswarm.errors import LimitError, LocalError
from edgeswarm.limits import MQTT_CONTROL_BYTES_MAX, MQTT_PAYLOAD_BYTES_MAX, MQTT_SUBSCRIPTIONS_MAX


async def test_messages_arrive_in_order(broker: Any, peers: Peers) -> None:
    sender, receiver = await peers(broker.url), await peers(broker.url)
    assert await receiver.hear("a/+/c") == 0
    for i in range(500):
        sender.say("a/b/c", b"%d" % i)
    await eventually(lambda: len(receiver.heard) == 500)
    assert receiver.payloads == [b"%d" % i for i in range(500)]
    assert {(m.topic, m.retain, m.qos) for m in receiver.heard} == {("a/b/c", False, 0)}
    assert sender.stats["control"]["sent"]["high"] == 500
    assert receiver.stats["control"]["received"] == 500


async def test_qos_1_is_acknowledged_and_arrives(broker: Any, peers: Peers) -> None:
    """300 messages at once: more than may be unacknowledged, so most of them wait their turn."""
    sender, receiver = await peers(broker.url), await peers(broker.url)
    assert await receiver.hear("a", qos=1) == 1
    for i in range(300):
        sender.say("a", b"%d" % i, qos=1)
    await eventually(lambda: len(receiver.heard) == 300 and sender.stats["control"]["acknowledged"] == 300)
    # amqtt sends each message from a task of its own, in no promised order.
    assert sorted(receiver.payloads) == sorted(b"%d" % i for i in range(300))
    assert sender.stats["control"]["unacknowledged"] == 0


async def test_a_publish_can_be_waited_for(broker: Any, peers: Peers) -> None:
    peer = await peers(broker.url)
    await peer.hear("a", qos=1)
    await peer.transport.publish_acked("a", b"x", deadline_s=20.0)
    await eventually(lambda: peer.payloads == [b"x"])


async def test_the_protocol_falls_back_where_mqtt_5_is_not_spoken(peers: Peers) -> None:
    async with brokers.amqtt() as old:
        peer = await peers(old.url)
        assert peer.states == [Connected(old.url, 4, 1)]
        await old.restart()
        await eventually(lambda: len(peer.states) == 3)
        assert peer.states[-1] == Connected(old.url, 4, 2), "remembered"
        assert peer.stats["brokers"][0]["protocol"] == 4


async def test_mqtt_5_is_spoken_where_it_is_offered(peers: Peers) -> None:
    async with brokers.mosquitto() as new:
        peer = await peers(new.url)
        assert peer.states == [Connected(new.url, 5, 1)]


async def test_retained_messages_come_with_the_subscription(broker: Any, peers: Peers) -> None:
    sender, receiver = await peers(broker.url), await peers(broker.url)
    await sender.transport.publish_acked("kept", b"state", retain=True, deadline_s=20.0)
    await receiver.hear("kept", qos=1)
    await eventually(lambda: receiver.heard)
    assert receiver.heard[0].retain and receiver.payloads == [b"state"]


async def test_after_unsubscribing_nothing_is_heard(broker: Any, peers: Peers) -> None:
    peer = await peers(broker.url)
    await peer.hear("a")
    await peer.hear("b")
    peer.transport.unsubscribe("a")
    peer.say("a")
    peer.say("b", b"last")
    await eventually(lambda: b"last" in peer.payloads)
    assert peer.payloads == [b"last"]
    assert peer.stats["control"]["subscriptions"] == 1


async def test_several_handlers_of_one_filter_are_all_told_until_they_leave(broker: Any, peers: Peers) -> None:
    peer, other = await peers(broker.url), list[bytes]()

    def also(message: Any) -> None:
        other.append(message.payload)

    await peer.hear("a")
    await peer.transport.subscribe("a", also)
    peer.say("a", b"1")
    await eventually(lambda: other == [b"1"] and peer.payloads == [b"1"])
    peer.transport.unsubscribe("a", also)
    peer.say("a", b"2")
    await eventually(lambda: peer.payloads == [b"1", b"2"])
    assert other == [b"1"]


async def test_the_will_is_seen_when_a_connection_dies_and_not_when_it_is_closed(broker: Any, peers: Peers) -> None:
    watcher = await peers(broker.url)
    await watcher.hear("will/#", qos=1)
    dying = await peers(broker.url, client_id="dying", will=Will("will/dying", b"gone"))
    leaving = await peers(broker.url, client_id="leaving", will=Will("will/leaving", b"gone"))
    await leaving.transport.close()
    dying.transport._control._link._stream.sock.shutdown(socket.SHUT_RDWR)  # as a crash would look to the broker
    await eventually(lambda: watcher.heard)
    assert [m.topic for m in watcher.heard] == ["will/dying"]


async def test_nagle_is_off_on_every_connection(broker: Any, peers: Peers) -> None:
    """QoS 1 commits took 48 ms with it, 3.5 ms without."""
    peer = await peers(broker.url)
    await peer.hear("a", bulk=True)
    for lane in (peer.transport._control, peer.transport._bulk):
        sock = lane._link._stream.sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_low_and_large_messages_take_the_bulk_connection(broker: Any, peers: Peers) -> None:
    sender, receiver = await peers(broker.url), await peers(broker.url)
    await receiver.hear("#", bulk=True)
    sender.say("low", priority=Priority.LOW, qos=1)
    sender.say("large", b"x" * (MQTT_CONTROL_BYTES_MAX + 1), priority=Priority.MEDIUM, qos=1)
    sender.say("asked", priority=Priority.HIGH, bulk=True, qos=1)
    sender.say("small", priority=Priority.MEDIUM, qos=1)
    sender.say("stop", b"x" * (MQTT_CONTROL_BYTES_MAX + 1), priority=Priority.CRITICAL, qos=1)
    await eventually(lambda: len(receiver.heard) == 5)
    sent = {name: sender.stats[name]["sent"] for name in ("control", "bulk")}
    assert sent["bulk"] == {"critical": 0, "high": 1, "medium": 1, "low": 1}
    assert sent["control"] == {"critical": 1, "high": 0, "medium": 1, "low": 0}
    assert receiver.stats["control"]["received"] == 0


async def test_a_large_message_arrives_whole(broker: Any, peers: Peers) -> None:
    sender, receiver = await peers(broker.url), await peers(broker.url)
    await receiver.hear("large", bulk=True, qos=1)
    payload = bytes(range(256)) * (MQTT_PAYLOAD_BYTES_MAX // 256)
    sender.say("large", payload, bulk=True, qos=1)
    await eventually(lambda: receiver.heard)
    assert receiver.payloads == [payload]


async def test_a_message_that_is_too_large_is_refused_before_it_is_sent(broker: Any, peers: Peers) -> None:
    peer = await peers(broker.url)
    with pytest.raises(LimitError, match="MQTT_PAYLOAD_BYTES_MAX"):
        peer.say("large", b"x" * (MQTT_PAYLOAD_BYTES_MAX + 1))
    assert peer.stats["dropped"]["high"]["refused"] == 1
    assert peer.transport.is_connected


async def test_what_the_broker_would_not_take_is_refused_here(peers: Peers) -> None:
    """mosquitto says in CONNACK how large a packet may be; sending more would cost the connection."""
    async with brokers.mosquitto("max_packet_size 20000") as small:
        peer = await peers(small.url)
        with pytest.raises(LinkError, match="refused"):
            await peer.transport.publish_acked("a", b"x" * 20_000, deadline_s=20.0)
        await peer.transport.publish_acked("a", b"x" * 10_000, deadline_s=20.0)
        assert peer.stats["dropped"]["medium"]["refused"] == 1
        assert len(peer.states) == 1


async def test_what_is_too_large_to_take_in_is_not_sent_to_us(peers: Peers) -> None:
    """MQTT 5: we say how much we take.  Over 3.1.1 such a message costs the connection (test_hostile.py)."""
    import paho.mqtt.publish as paho_publish
    from paho.mqtt.enums import MQTTProtocolVersion

    async with brokers.mosquitto() as broker:
        peer = await peers(broker.url)
        await peer.hear("#")
        await asyncio.to_thread(
            paho_publish.multiple,
            [("large", b"x" * (2 * MQTT_PAYLOAD_BYTES_MAX), 1, False), ("small", b"x", 1, False)],
            hostname="127.0.0.1",
            port=broker.port,
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        await eventually(lambda: peer.heard)
        assert [m.topic for m in peer.heard] == ["small"]
        assert len(peer.states) == 1


@pytest.mark.parametrize(("topic", "qos"), [("a/#", 0), ("", 0), ("a", 2)])
async def test_misuse_is_a_local_error(peers: Peers, topic: str, qos: int) -> None:
    peer = peers.unstarted("mqtt://127.0.0.1:9")
    with pytest.raises(LocalError):
        peer.say(topic, qos=qos)


async def test_subscriptions_are_bounded(peers: Peers) -> None:
    peer = peers.unstarted("mqtt://127.0.0.1:9")
    for i in range(MQTT_SUBSCRIPTIONS_MAX):
        peer.transport.subscribe(f"t/{i}", print)
    with pytest.raises(LimitError):
        peer.transport.subscribe("t/more", print)


async def test_a_handler_that_fails_harms_nobody_else(peers: Peers) -> None:
    async with brokers.a_broker() as broker:
        peer, told = await peers(broker.url), list[dict[str, Any]]()
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
        await peer.transport.subscribe("a", lambda m: {}[1])
        await peer.hear("a")
        peer.say("a", b"1")
        peer.say("a", b"2")
        await eventually(lambda: peer.payloads == [b"1", b"2"])
        assert peer.stats["control"]["handler_errors"] == 2
        assert [type(each["exception"]) for each in told] == [KeyError, KeyError]


async def test_two_clients_with_one_id_are_noticed(peers: Peers) -> None:
    """Two devices with one key throw each other out: neither connection lasts, and both back off."""
    async with brokers.mosquitto() as broker:
        one = await peers(broker.url, client_id="twin")
        two = peers.unstarted(broker.url, client_id="twin")
        await two.transport.start()
        await eventually(lambda: any(isinstance(s, Disconnected) and s.short_lived >= 3 for s in one.states))


async def test_an_expired_message_is_not_delivered_late(peers: Peers) -> None:
    """MQTT 5: the broker forgets a retained message when its time is up, and says how much is left."""
    async with brokers.mosquitto() as broker:
        sender, receiver = await peers(broker.url), await peers(broker.url)
        sender.say("a", b"short", qos=1, retain=True, expiry_s=100)
        await eventually(lambda: sender.stats["control"]["acknowledged"] == 1)
        await receiver.hear("a")
        await eventually(lambda: receiver.heard)
        properties = receiver.heard[0].properties
        assert properties is not None and properties.expiry_s is not None and 0 < properties.expiry_s <= 100


async def test_closing_sends_what_waits(broker: Any, peers: Peers) -> None:
    sender, receiver = await peers(broker.url), await peers(broker.url)
    await receiver.hear("a", qos=1)
    for i in range(100):
        sender.say("a", b"%d" % i, qos=1)
    await sender.transport.close(drain_s=20.0)
    await eventually(lambda: len(receiver.heard) == 100)
    sender.say("a", b"after the end")
    assert sender.stats["dropped"]["high"]["offline"] == 1


async def test_a_bulk_connection_can_be_paused(peers: Peers) -> None:
    """Who cannot keep up stops reading; the broker holds what comes, and the connection outlives its keepalive."""
    from edgeswarm.drivers.mqtt.transport import Settings

    quick = Settings(keepalive_s=1, connect_s=3.0)
    async with brokers.mosquitto() as broker:
        receiver, sender = await peers(broker.url, settings=quick), await peers(broker.url)
        await receiver.hear("a", bulk=True, qos=1)
        receiver.transport.pause_bulk()
        for i in range(50):
            sender.say("a", b"%d" % i, qos=1)
        await eventually(lambda: sender.stats["control"]["acknowledged"] == 50)
        await asyncio.sleep(2.6)
        assert receiver.heard == []
        receiver.transport.resume_bulk()
        await eventually(lambda: len(receiver.heard) == 50)
        await asyncio.sleep(1.5)
        assert receiver.stats["bulk"]["losses"] == 0 and receiver.stats["bulk"]["pauses"] == 1


async def test_a_refused_subscription_says_so(peers: Peers, tmp_path: Any) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite mine/#\n")
    async with brokers.mosquitto(f"acl_file {acl}") as broker:
        peer = await peers(broker.url)
        assert await peer.hear("mine/#", qos=1) == 1
        await peer.hear("theirs/#", qos=1)
        with pytest.raises(LinkError, match="refused by the broker, code 135"):
            await peer.transport.publish_acked("theirs/x", b"", deadline_s=20.0)
        await peer.transport.publish_acked("mine/x", b"", deadline_s=20.0)
        assert peer.stats["control"]["refused_by_broker"] == 1
