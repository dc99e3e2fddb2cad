"""Questions and answers with a deadline, with MQTT 5's properties and without them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mqtt_peers import Peers, eventually

from edgeswarm.drivers.mqtt.requests import ID_BYTES, NoAnswerError, Requests, Waiting, respond
from edgeswarm.drivers.mqtt.transport import Incoming, Priority
from edgeswarm.errors import LimitError, LocalError


async def test_a_request_is_answered_with_the_id_in_the_payload(broker: Any, peers: Peers) -> None:
    """Works on both brokers: amqtt knows neither response topic nor correlation."""
    asker, server = await peers(broker.url), await peers(broker.url)

    def serve(request: Incoming) -> None:
        server.say("answers/asker", request.payload[:ID_BYTES] + b"pong", qos=1)

    await server.transport.subscribe("ask", serve, qos=1)
    requests = Requests(asker.transport, "answers/asker", id_of=lambda m: m.payload[:ID_BYTES])
    answers = await asyncio.gather(*(requests.request("ask", lambda id_: id_ + b"ping", 5.0) for _ in range(50)))
    assert [answer.payload[ID_BYTES:] for answer in answers] == [b"pong"] * 50
    assert requests.waiting.stats() == {"waiting": 0, "answered": 50, "expired": 0, "late": 0}
    requests.close()


async def test_mqtt_5_carries_the_id_and_where_to_answer(peers: Peers) -> None:
    import brokers

    async with brokers.mosquitto() as broker:
        asker, server = await peers(broker.url), await peers(broker.url)
        await server.transport.subscribe("ask", lambda m: respond(server.transport, m, b"pong:" + m.payload), qos=1)
        answer = await Requests(asker.transport, "answers/asker").request("ask", b"ping", 5.0)
        assert answer.payload == b"pong:ping"


async def test_who_is_not_answered_hears_so_and_a_late_answer_is_counted(peers: Peers) -> None:
    import brokers

    async with brokers.mosquitto() as broker:
        asker, server = await peers(broker.url), await peers(broker.url)
        await server.hear("ask", qos=1)
        requests = Requests(asker.transport, "answers/asker")
        with pytest.raises(NoAnswerError, match="ask: no answer within 0.1 s"):
            await requests.request("ask", b"ping", 0.1)
        await eventually(lambda: server.heard)
        assert respond(server.transport, server.heard[0], b"too late")
        await eventually(lambda: requests.waiting.late == 1)
        assert requests.waiting.stats() == {"waiting": 0, "answered": 0, "expired": 1, "late": 1}


async def test_nothing_is_answered_to_a_topic_that_cannot_be(peers: Peers) -> None:
    from edgeswarm.drivers.mqtt.transport import Properties

    transport = peers.unstarted("mqtt://127.0.0.1:9").transport
    assert not respond(transport, Incoming("ask", b"", False, 1), b"x")
    assert not respond(transport, Incoming("ask", b"", False, 1, Properties("a/#", b"id")), b"x")


async def test_who_waits_is_bounded() -> None:
    waiting: Waiting[bytes] = Waiting(waiting_max=2)
    first, _ = waiting.open(), waiting.open()
    with pytest.raises(LimitError):
        waiting.open()
    waiting.forget(first)
    waiting.open()
    waiting.close()


async def test_an_answer_counts_once_and_only_if_asked_for() -> None:
    waiting: Waiting[bytes] = Waiting()
    id_ = waiting.open()
    assert waiting.resolve(id_, b"first")
    assert not waiting.resolve(id_, b"second")
    assert not waiting.resolve(b"unknown", b"x")
    assert not waiting.resolve(None, b"x")
    assert await waiting.wait(id_, deadline_s=5.0, who="t") == b"first"
    assert (waiting.answered, waiting.late, len(waiting)) == (1, 3, 0)


async def test_a_request_that_cannot_be_sent_leaves_nothing_behind(peers: Peers) -> None:
    requests = Requests(peers.unstarted("mqtt://127.0.0.1:9").transport, "answers/x")
    with pytest.raises(LocalError):
        await requests.request("ask/#", b"", 1.0, priority=Priority.LOW)
    assert len(requests.waiting) == 0


async def test_a_broken_source_of_random_bytes_is_noticed() -> None:
    waiting: Waiting[bytes] = Waiting(draw=bytes)
    waiting.open()
    with pytest.raises(LocalError, match="twice"):
        waiting.open()
    waiting.close()
