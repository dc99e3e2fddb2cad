"""Agents whose rows come from a broker and whose answers go to one, and to a web server: real jails, a real broker."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from brokers import Mosquitto, mosquitto
from supervised import Bench, until

from edgeswarm.app import config, report
from edgeswarm.app.control_loop import Refused
from edgeswarm.drivers.mqtt.brokers import Broker
from edgeswarm.drivers.mqtt.link import Link
from edgeswarm.errors import AgentFileError
from edgeswarm.ids import AgentName

CAN = ["mqtt_source", "mqtt_sink", "webhook_sink"]


def agent(bench: Bench, source: dict[str, Any], *sinks: dict[str, Any], can: list[str] = CAN, **more: Any) -> bytes:
    return bench.mlp("a", (2, 4, 2), wiring={"sources": [source], "sinks": list(sinks)}, capabilities=can, **more)


def mqtt_source(url: str) -> dict[str, Any]:
    return {"type": "mqtt", "url": url, "topic": "sensors/+/xy", "fields": ["x", "y"], "qos": 1}


async def link_to(broker: Mosquitto, heard: list[Any]) -> Link:
    link = Link(
        Broker.from_url(broker.url),
        client_id="peer",
        protocol=4,
        deliver=lambda incoming: heard.append(json.loads(incoming.payload)),
        acked=lambda *_: None,
        granted=lambda *_: None,
        writable=lambda: None,
        lost=lambda _: None,
    )
    await link.connect()
    return link


def row(bench: Bench) -> dict[str, Any]:
    return report.agent(bench.supervisor, AgentName("a"))


async def test_rows_come_from_a_broker_and_answers_go_back_to_it(bench: Bench) -> None:
    heard: list[Any] = []
    async with mosquitto() as broker:
        link = await link_to(broker, heard)
        link.subscribe([("answers", 1)])
        sink = {"type": "mqtt", "url": broker.url, "topic": "answers", "qos": 1}
        await bench.supervisor.deploy([("t", agent(bench, mqtt_source(broker.url), sink))])
        await until(lambda: row(bench)["sources"][0]["opened"] == 1 and row(bench)["sinks"][0]["opened"] == 1)
        await asyncio.sleep(0.1)  # for the broker's answer to the subscription
        link.publish("sensors/1/xy", b'{"x": 1, "y": 2}', 1)
        link.publish("sensors/2/xy", b"garbage", 1)
        link.publish("sensors/3/xy", b"[3, 4]", 1)
        await until(lambda: len(heard) == 2)
        assert [record["seq"] for record in heard] == [1, 2]
        assert row(bench)["sources"][0]["malformed"] == {"json": 1} and bench.tally("a")["rows_answered"] == 2
        await until(lambda: row(bench)["sinks"][0]["written"] == 2)
        link.close()


async def test_agent_without_the_capability_is_refused_by_name(bench: Bench) -> None:
    with pytest.raises(AgentFileError, match="mqtt needs the capability mqtt_source"):
        agent(bench, mqtt_source("mqtt://broker"), can=[])
    with pytest.raises(AgentFileError, match="webhook needs the capability webhook_sink"):
        agent(bench, {"type": "api", "width": 2}, {"type": "webhook", "url": "https://hooks.example/"}, can=[])


async def test_webhook_to_this_machine_is_refused_unless_the_profile_allows_it(bench: Bench) -> None:
    bodies: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        bodies.extend(json.loads(await reader.readexactly(size)))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    hook = {"type": "webhook", "url": f"http://127.0.0.1:{port}/in", "batch_ms": 1}
    data = agent(bench, {"type": "api", "width": 2}, hook)
    with pytest.raises(Refused, match=r"127\.0\.0\.1 is not a public address.*private_webhooks"):
        await bench.supervisor.deploy([("t", data)])
    flags = {"network.private_webhooks": True}
    bench.supervisor.settings = config.load(state=bench.state, flags=flags, environ={})
    await bench.supervisor.deploy([("t", data)])
    await bench.supervisor.ask("a", [0.1, 0.2], 5.0)
    await until(lambda: len(bodies) == 1)
    assert bodies[0]["agent"] == "a"
    server.close()
