"""Brokers that restart, hang, stay away, and hand over to the next one."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from typing import Any

import brokers
import pytest
from mqtt_peers import QUICK, Peers, eventually

from edgeswarm.drivers.mqtt.transport import Connected, Disconnected, LinkError, Priority


def connected_to(peer: Any) -> list[str]:
    return [state.broker for state in peer.states if isinstance(state, Connected)]


async def test_after_a_restart_everything_is_subscribed_to_again(broker: Any, peers: Peers) -> None:
    one, two = await peers(broker.url), await peers(broker.url)
    await one.hear("a", qos=1)
    await one.hear("b/#", bulk=True)
    await broker.restart()
    await eventually(lambda: one.transport.is_connected and two.transport.is_connected)
    await eventually(lambda: one.stats["bulk"]["connects"] == 2)

    def both_say() -> bool:
        two.say("a", b"a", qos=1)
        two.say("b/x", b"b", qos=1)
        return {b"a", b"b"} <= set(one.payloads)

    await eventually(both_say)
    assert [type(state) for state in one.states] == [Connected, Disconnected, Connected]
    assert one.stats["control"]["losses"] == 1


async def test_qos_1_messages_under_way_survive_a_restart(broker: Any, peers: Peers) -> None:
    """The broker is stopped while 200 are on their way; what it had not acknowledged is sent again."""
    sender, receiver = await peers(broker.url), await peers(broker.url)
    await receiver.hear("a", qos=1)
    await broker.restart()
    for i in range(200):
        sender.say("a", b"%d" % i, qos=1)
    await eventually(lambda: sender.stats["control"]["acknowledged"] >= 200)
    stats = sender.stats["control"]
    assert stats["queued"] == 0 and stats["unacknowledged"] == 0
    assert all(not any(kinds.values()) for kinds in sender.stats["dropped"].values())


async def test_the_next_broker_takes_over(peers: Peers) -> None:
    async with brokers.mosquitto() as first, brokers.mosquitto() as second:
        one, two = await peers(first.url, second.url), await peers(first.url, second.url)
        await one.hear("a")
        first.close()
        await eventually(lambda: one.transport.is_connected and one.transport.url == second.url)
        await eventually(lambda: two.transport.is_connected and two.transport.url == second.url)
        await eventually(lambda: two.say("a") or one.heard)
        breakers = {each["broker"]: each["breaker"] for each in one.stats["brokers"]}
        assert breakers == {first.url: "open", second.url: "closed"}


async def test_it_stays_with_the_second_broker_unless_told_otherwise(peers: Peers) -> None:
    async with brokers.mosquitto() as first, brokers.mosquitto() as second:
        first.close()
        peer = await peers(first.url, second.url)
        await first.start()
        await asyncio.sleep(0.5)
        assert connected_to(peer) == [second.url]


async def test_it_returns_to_the_preferred_broker_when_that_has_been_well(peers: Peers) -> None:
    settings = dataclasses.replace(QUICK, prefer_first_after_s=0.2)
    async with brokers.mosquitto() as first, brokers.mosquitto() as second:
        first.close()
        peer = await peers(first.url, second.url, settings=settings)
        await peer.hear("a")
        await peer.hear("b", bulk=True)
        await eventually(lambda: peer.stats["bulk"]["broker"] == second.url)
        await first.start()
        await eventually(lambda: connected_to(peer) == [second.url, first.url])
        await eventually(lambda: peer.stats["bulk"]["broker"] == first.url)
        await eventually(lambda: peer.say("a") or peer.heard)


async def test_a_broker_that_hangs_is_noticed_by_keepalive(peers: Peers) -> None:
    settings = dataclasses.replace(QUICK, keepalive_s=1, connect_s=0.3)
    async with brokers.mosquitto() as first, brokers.mosquitto() as second:
        peer = await peers(first.url, second.url, settings=settings)
        first.kill(signal.SIGSTOP)
        await eventually(lambda: peer.transport.is_connected and peer.transport.url == second.url)
        assert connected_to(peer) == [first.url, second.url]


async def test_a_broker_that_is_gone_for_long_is_tried_with_bounded_waits(peers: Peers) -> None:
    """An hour in short: the waits grow to their bound and no further, and nothing grows in memory meanwhile."""
    async with brokers.mosquitto() as broker:
        sender = await peers(broker.url)
        receiver = await peers(broker.url)
        await receiver.hear("a", qos=1, bulk=False)
        broker.close()
        await eventually(lambda: not sender.transport.is_connected)
        for i in range(10_000):
            sender.say("a", b"%d" % i, qos=1, priority=Priority.MEDIUM)
            sender.say("a", b"%d" % i, qos=0, priority=Priority.MEDIUM)
        await eventually(lambda: sender.stats["control"]["connect_failures"] >= 12)
        stats = sender.stats
        assert stats["control"]["queued"] == 4_096
        assert stats["dropped"]["medium"] == {"full": 5_904, "expired": 0, "offline": 10_000, "refused": 0}
        lane = sender.transport._control
        assert all(lane._backoff_s(n) <= QUICK.reconnect_ms_max / 1_000 for n in range(100))
        await broker.start()
        await eventually(lambda: sender.stats["control"]["acknowledged"] == 4_096)
        assert "Connection refused" in str(stats["control"]["last_error"])


async def test_qos_0_waits_for_a_broker_only_as_long_as_it_says(peers: Peers) -> None:
    peer = peers.unstarted("mqtt://127.0.0.1:9")
    peer.say("a", b"a vote is stale tomorrow", qos=0)
    peer.say("a", b"waits", qos=0, expiry_s=0.05)
    assert peer.stats["dropped"]["high"]["offline"] == 1
    assert peer.stats["control"]["queued"] == 1
    await peer.transport.start()
    await eventually(lambda: peer.stats["dropped"]["high"]["expired"] == 1)


async def test_who_waits_for_an_acknowledgement_hears_that_none_comes(peers: Peers) -> None:
    peer = peers.unstarted("mqtt://127.0.0.1:9")
    await peer.transport.start()
    with pytest.raises(LinkError, match="not acknowledged within|expired"):
        await peer.transport.publish_acked("a", b"x", deadline_s=0.1)
    with pytest.raises(LinkError, match="not connected after"):
        await peer.transport.connected(0.05)


async def test_an_unknown_host_is_an_error_and_no_crash(peers: Peers) -> None:
    peer = peers.unstarted("mqtt://host.invalid:1883")
    await peer.transport.start()
    await eventually(lambda: "cannot connect" in peer.stats["control"]["last_error"])


async def test_back_off_is_full_jitter(peers: Peers) -> None:
    lane = peers.unstarted("mqtt://127.0.0.1:9").transport._control
    waits = [lane._backoff_s(3) for _ in range(500)]
    bound = QUICK.reconnect_ms * 8 / 1_000
    assert 0 <= min(waits) < bound / 10 and bound * 0.9 < max(waits) <= bound
