"""MQTT sources and sinks of agents: rows of any broker, records to it, through its restarts, all of it bounded."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tls_files
from brokers import Mosquitto, amqtt, free_port, mosquitto

from edgeswarm.agentfile.wiring import MqttSink as SinkSpec
from edgeswarm.agentfile.wiring import MqttSource as SourceSpec
from edgeswarm.drivers import sources
from edgeswarm.drivers.profiles import Network
from edgeswarm.drivers.sink_mqtt import MqttSink
from edgeswarm.drivers.sinks import SinkSetup, make_sink
from edgeswarm.drivers.source_mqtt import MqttSource
from edgeswarm.drivers.sources import Setup, make_source
from edgeswarm.errors import CapabilityError, LocalError
from edgeswarm.limits import LINE_BYTES_MAX, MQTT_SOURCE_MESSAGES_MAX, SINK_RECORDS_MAX
from edgeswarm.stream.queue import Row
from edgeswarm.wire.codec import dumps

NOWHERE = Path("/nowhere")
FIELDS = ("a", "b")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOURCE_RETRY_MS", 5.0)
    monkeypatch.setattr(sources, "SOURCE_RETRY_MS_MAX", 50.0)


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    def __call__(self, name: str, /, **fields: object) -> None:
        self.events.append((name, fields.get("kind")))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]


class Rows:
    """Takes rows, unless it holds the source back."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.open = asyncio.Event()
        self.open.set()

    async def offer(self, row: Row, _at_ns: int) -> None:
        await self.open.wait()
        self.rows.append(row)


@asynccontextmanager
async def source_of(
    spec: SourceSpec, told: Told | None = None, secrets: Path = NOWHERE
) -> AsyncIterator[tuple[MqttSource, Rows]]:
    source, rows = MqttSource(spec, Setup("s", told or Told()), secrets=secrets), Rows()
    task = asyncio.create_task(source.run(rows.offer))
    try:
        yield source, rows
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def sink_of(spec: SinkSpec, told: Told | None = None, secrets: Path = NOWHERE) -> AsyncIterator[MqttSink]:
    sink = MqttSink(SinkSetup("a", told or Told()), spec, secrets=secrets)
    try:
        yield sink
    finally:
        sink.close()
        await sink.closed()
        balanced(sink)
        assert sink.counts()["waiting"] == 0


def balanced(sink: MqttSink) -> None:
    counts = sink.counts()
    assert counts["accepted"] == counts["written"] + counts["dropped"] + counts["waiting"]


def source_spec(url: str, topic: str = "in/#", **options: Any) -> SourceSpec:
    return SourceSpec("mqtt", url, topic, options.pop("fields", FIELDS), **options)


def sink_spec(url: str, topic: str = "out/a", **options: Any) -> SinkSpec:
    return SinkSpec("mqtt", url, topic, **options)


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - counters have no event
            await asyncio.sleep(0.005)


class Peer:
    """Somebody else's client, as little of ours as possible: paho in a thread."""

    def __init__(self, port: int, topic: str = "") -> None:
        import paho.mqtt.client as paho

        self.messages: list[bytes] = []
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self.client.on_message = lambda _c, _u, message: self.messages.append(message.payload)
        ready: list[int] = []
        self.client.on_subscribe = lambda *_: ready.append(1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        if topic:
            self.client.subscribe(topic, 1)
            while not ready:
                pass

    def send(self, *payloads: bytes, topic: str = "in/x") -> None:
        for payload in payloads:
            self.client.publish(topic, payload, 1).wait_for_publish(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@asynccontextmanager
async def peer_of(port: int, topic: str = "") -> AsyncIterator[Peer]:
    peer = await asyncio.to_thread(Peer, port, topic)
    try:
        yield peer
    finally:
        await asyncio.to_thread(peer.close)


async def subscribed(source: MqttSource, peer: Peer, rows: Rows) -> None:
    """The broker knows the subscription once a message comes through it."""
    await until(lambda: source.counts.opened > 0)
    while not rows.rows:
        await asyncio.to_thread(peer.send, source_hello(source))
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    rows.rows.clear()


def source_hello(source: MqttSource) -> bytes:
    values = [0.0] * source.width
    return json.dumps(values).encode() if source._spec.format == "json" else dumps(values)


# --- source ---------------------------------------------------------------------------------------------------------


async def test_objects_arrays_and_numbers_of_any_publisher_are_rows() -> None:
    async with mosquitto() as broker, peer_of(broker.port) as peer:
        async with source_of(source_spec(broker.url)) as (source, rows):
            await subscribed(source, peer, rows)
            await asyncio.to_thread(peer.send, b'{"b": 2, "a": 1, "more": "x"}', b"[3, 4.5]", b"", b" ")
            await until(lambda: len(rows.rows) == 2)
            assert rows.rows == [(1.0, 2.0), (3.0, 4.5)] and not source.counts.malformed
        async with source_of(source_spec(broker.url, fields=("t",), qos=1)) as (source, rows):
            await subscribed(source, peer, rows)
            await asyncio.to_thread(peer.send, b"21.5", b'{"t": 22}')
            await until(lambda: len(rows.rows) == 2)
            assert rows.rows == [(21.5,), (22.0,)]


async def test_our_cbor_is_rows_too() -> None:
    async with (
        mosquitto() as broker,
        peer_of(broker.port) as peer,
        source_of(source_spec(broker.url, format="cbor")) as (source, rows),
    ):
        await subscribed(source, peer, rows)
        await asyncio.to_thread(peer.send, dumps({"a": 1, "b": 2.5}), dumps([3, 4]), b"\xff", b"[1, 2]")
        await until(lambda: sum(source.counts.malformed.values()) == 2)
        assert rows.rows == [(1.0, 2.5), (3.0, 4.0)] and source.counts.malformed == {"cbor": 2}


async def test_garbage_on_the_topic_is_counted_by_kind_and_the_next_row_taken() -> None:
    told = Told()
    bad = [b"\xff\xfe", b"{", b"[1]", b"7", b'{"a": 1}', b'[1, "2"]', b"[NaN, 1]", b"[1e99, 1]", b"[[1], 2]"]
    async with (
        mosquitto() as broker,
        peer_of(broker.port) as peer,
        source_of(source_spec(broker.url), told) as (source, rows),
    ):
        await subscribed(source, peer, rows)
        await asyncio.to_thread(peer.send, *bad, b"x" * (LINE_BYTES_MAX + 1), b"[1, 2]")
        await until(lambda: bool(rows.rows))
        kinds = {"text": 1, "json": 1, "width": 1, "type": 3, "field": 1, "nan": 1, "too_large": 1}
        assert source.counts.malformed == {**kinds, "line_too_long": 1}
        assert rows.rows == [(1.0, 2.0)] and "source_malformed" in told.names


async def test_source_goes_on_after_the_broker_was_away() -> None:
    told = Told()
    async with mosquitto() as broker, source_of(source_spec(broker.url), told) as (source, rows):
        async with peer_of(broker.port) as peer:
            await subscribed(source, peer, rows)
        broker.kill()
        await until(lambda: source.counts.failed > 0)
        await broker.restart()
        async with peer_of(broker.port) as peer:
            await subscribed(source, peer, rows)
        assert source.counts.opened == 2 and source.counts.vanished == 1
        assert "source_vanished" in told.names and ("source_failed", "connect") in told.events


async def test_agent_that_holds_the_source_back_stops_its_reading_and_loses_nothing_of_ours() -> None:
    """4 x as many messages as may wait: they stay at the broker, and come when the agent takes rows again."""
    count = 4 * MQTT_SOURCE_MESSAGES_MAX
    async with (
        mosquitto("max_queued_messages 0") as broker,
        peer_of(broker.port) as peer,
        source_of(source_spec(broker.url, qos=1)) as (source, rows),
    ):
        await subscribed(source, peer, rows)
        rows.open.clear()
        for number in range(count):
            peer.client.publish("in/x", f"[{number}, 0]", 1)
        await until(lambda: len(source._waiting) >= MQTT_SOURCE_MESSAGES_MAX)
        await asyncio.sleep(0.2)
        assert len(source._waiting) <= MQTT_SOURCE_MESSAGES_MAX + 1
        rows.open.set()
        await until(lambda: len(rows.rows) == count, 30)
        assert [row[0] for row in rows.rows] == list(range(count))


async def test_subscription_that_the_broker_refuses_is_told_and_the_connection_made_again() -> None:
    """mosquitto grants every filter and filters messages, so the refusal is played."""
    told = Told()
    async with mosquitto() as broker, source_of(source_spec(broker.url), told) as (source, _):
        await until(lambda: source.counts.opened == 1)
        source._granted(1, [135])
        await until(lambda: source.counts.opened == 2)
        assert ("source_failed", "subscribe") in told.events and source.counts.vanished == 1


async def test_rows_that_nobody_took_are_counted_when_the_source_is_stopped() -> None:
    told = Told()
    async with mosquitto() as broker, peer_of(broker.port) as peer:
        async with source_of(source_spec(broker.url), told) as (source, rows):
            await subscribed(source, peer, rows)
            rows.open.clear()
            await asyncio.to_thread(peer.send, *[b"[1, 2]"] * 5)
            await until(lambda: len(source._waiting) == 4)
        assert source.counts.unread == 4 and told.names[-1] == "source_unread"


async def test_broker_without_mqtt_5_is_read() -> None:
    async with amqtt() as broker, source_of(source_spec(broker.url)) as (source, _):
        await until(lambda: source.counts.opened == 1)


# --- sink -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1])
async def test_records_arrive_in_order_as_json(qos: int) -> None:
    async with (
        mosquitto() as broker,
        peer_of(broker.port, "out/#") as peer,
        sink_of(sink_spec(broker.url, qos=qos)) as sink,
    ):
        for seq in range(200):
            sink.write({"seq": seq, "label": "é"})
        await until(lambda: len(peer.messages) == 200)
        assert [json.loads(data)["seq"] for data in peer.messages] == list(range(200))
        await until(lambda: sink.counts()["written"] == 200)


async def test_records_arrive_as_our_cbor_and_are_retained_if_asked() -> None:
    async with mosquitto() as broker:
        async with sink_of(sink_spec(broker.url, format="cbor", retain=True, qos=1)) as sink:
            sink.write({"seq": 1, "score": 0.5})
            await until(lambda: sink.counts()["written"] == 1)
        async with peer_of(broker.port, "out/#") as peer:
            await until(lambda: peer.messages == [dumps({"seq": 1, "score": 0.5})])


async def test_records_wait_for_a_broker_that_is_away_bounded_and_nothing_is_lost_uncounted() -> None:
    told = Told()
    async with mosquitto() as broker, sink_of(sink_spec(broker.url, qos=1), told) as sink:
        await until(lambda: sink.opened == 1)
        broker.kill()
        await until(lambda: ("sink_failed", "lost") in told.events)
        for seq in range(SINK_RECORDS_MAX + 10):
            sink.write({"seq": seq})
        assert sink.counts()["dropped"] == 10 and sink.counts()["waiting"] == SINK_RECORDS_MAX
        await broker.restart()
        await until(lambda: sink.counts()["written"] == SINK_RECORDS_MAX)
        assert "sink_recovered" in told.names


async def test_what_the_broker_did_not_acknowledge_goes_again() -> None:
    async with mosquitto() as broker, sink_of(sink_spec(broker.url, qos=1)) as sink:
        await until(lambda: sink.opened == 1)
        broker.kill(19)  # it hangs
        for seq in range(5):
            sink.write({"seq": seq})
        assert sink.counts()["waiting"] == 5 and len(sink._inflight) == 5
        await broker.restart()
        await until(lambda: sink.counts()["written"] == 5)


async def test_sink_that_never_reached_its_broker_ends_at_once() -> None:
    async with (
        asyncio.timeout(1.5),
        sink_of(sink_spec(f"mqtt://127.0.0.1:{free_port()}")) as sink,
    ):
        sink.write({"seq": 1})
        await until(lambda: sink.counts()["failed"] > 0)
    assert sink.counts()["dropped"] == 1
    sink.write({"seq": 2})
    assert sink.counts()["dropped"] == 2


# --- who may, and as whom -------------------------------------------------------------------------------------------


async def test_capability_and_profile_are_needed(tmp_path: Path) -> None:
    def source(capabilities: tuple[str, ...], network: Network) -> Any:
        return make_source(source_spec("mqtt://b"), base_dir=tmp_path, capabilities=capabilities, network=network)

    def sink(capabilities: tuple[str, ...], network: Network) -> Any:
        folders = {"base_dir": tmp_path, "runtime_dir": tmp_path}
        return make_sink(sink_spec("mqtt://b"), agent="a", capabilities=capabilities, network=network, **folders)

    for make, capability in ((source, "mqtt_source"), (sink, "mqtt_sink")):
        with pytest.raises(CapabilityError, match=f"needs the capability {capability}"):
            make((), Network())
        with pytest.raises(CapabilityError, match=r"profile \(network.mqtt\)"):
            make((capability,), Network(mqtt=False))
    assert isinstance(source(("mqtt_source",), Network()), MqttSource)


def secret(folder: Path, name: str, text: str, mode: int = 0o600) -> None:
    (folder / name).write_text(text)
    os.chmod(folder / name, mode)


async def test_user_name_and_password_of_a_file_are_shown_to_the_broker(tmp_path: Path) -> None:
    """The password is wrong at first; once the file is right the source connects without a restart."""
    users = tmp_path / "users"
    process = await asyncio.create_subprocess_exec("mosquitto_passwd", "-b", "-c", str(users), "me", "s3cret")
    assert await process.wait() == 0
    secret(tmp_path, "password", "wrong\n")
    async with mosquitto("allow_anonymous false", f"password_file {users}") as broker:
        spec = source_spec(broker.url, username="me", password_file="password")
        async with source_of(spec, secrets=tmp_path) as (source, _):
            await until(lambda: source.counts.failed > 1)
            secret(tmp_path, "password", "s3cret\n")
            await until(lambda: source.counts.opened == 1)


@asynccontextmanager
async def tls_broker(folder: Path) -> AsyncIterator[tuple[Mosquitto, tls_files.Files]]:
    files = tls_files.make(folder, "127.0.0.1")
    lines = (f"cafile {files.authority}", f"certfile {files.certificate}", f"keyfile {files.key}")
    async with mosquitto(*lines, "require_certificate true", scheme="mqtts") as broker:
        yield broker, files


async def test_certificates_go_both_ways_and_a_broker_of_another_authority_is_refused(tmp_path: Path) -> None:
    told = Told()
    async with tls_broker(tmp_path) as (broker, files):
        spec = sink_spec(broker.url, ca_file="authority.pem", cert_file="server.pem", key_file="server.key", qos=1)
        async with sink_of(spec, secrets=tmp_path) as sink:
            sink.write({"seq": 1})
            await until(lambda: sink.counts()["written"] == 1)
        async with sink_of(replace(spec, ca_file=""), told, tmp_path) as sink:  # the system's authorities
            await until(lambda: sink.counts()["failed"] > 0)
            assert sink.opened == 0
        os.chmod(files.key, 0o644)
        async with sink_of(spec, told, tmp_path) as sink:
            await until(lambda: sink.counts()["failed"] > 0)
            assert sink.opened == 0


@pytest.mark.parametrize("mode", [0o644, 0o640, None])
async def test_password_that_others_can_read_is_refused_by_name(tmp_path: Path, mode: int | None) -> None:
    if mode is not None:
        secret(tmp_path, "password", "s3cret", mode)
    spec = source_spec("mqtt://b", username="me", password_file="password")
    with pytest.raises(LocalError, match="secret .*password"):
        MqttSource(spec, Setup("s"), secrets=tmp_path).probe()
