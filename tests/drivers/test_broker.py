"""The broker of our own: its configuration, its life, and `edgeswarm broker`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import brokers
import pytest
from certificates import Pki
from mqtt_peers import Peers, eventually

from edgeswarm.app.cli.root import run
from edgeswarm.drivers.broker import Broker, BrokerFailedError
from edgeswarm.drivers.broker_config import BrokerOptions, BrokerTls, check, mosquitto_config
from edgeswarm.errors import LocalError


@pytest.fixture(params=["mosquitto", "embedded"])
def kind(request: pytest.FixtureRequest) -> Any:
    if request.param == "mosquitto":
        brokers.needs_mosquitto()
    return request.param


@pytest.fixture
async def peers() -> Any:
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        yield Peers(stack)


async def test_it_serves_and_is_gone_afterwards(kind: Any, peers: Peers) -> None:
    async with Broker.start(kind) as broker:
        assert broker.kind == kind and broker.url == f"mqtt://127.0.0.1:{broker.port}"
        peer = await peers(broker.url)
        await peer.hear("a")
        peer.say("a")
        await eventually(lambda: peer.heard)
        folder = broker.folder
    assert not folder.exists()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", broker.port)


async def test_a_restart_without_retained_messages(kind: Any, peers: Peers) -> None:
    async with Broker.start(kind) as broker:
        peer = await peers(broker.url)
        await peer.transport.publish_acked("kept", b"state", retain=True, deadline_s=5.0)
        await broker.restart(keep_retained=False)
        other = await peers(broker.url)
        await other.hear("#")
        await eventually(lambda: peer.transport.is_connected)
        peer.say("now", b"x", qos=1)
        await eventually(lambda: other.heard)
        assert [m.topic for m in other.heard] == ["now"]


async def test_a_restart_with_retained_messages(kind: Any, peers: Peers) -> None:
    async with Broker.start(kind, persistence=True) as broker:
        peer = await peers(broker.url)
        await peer.transport.publish_acked("kept", b"state", retain=True, deadline_s=5.0)
        before = await peers(broker.url)
        await before.hear("kept")  # amqtt acknowledges before it keeps
        await eventually(lambda: before.payloads == [b"state"])
        await broker.restart(keep_retained=True)
        other = await peers(broker.url)
        await other.hear("kept")
        await eventually(lambda: other.payloads == [b"state"])


async def test_it_can_be_killed_and_brought_back(kind: Any, peers: Peers) -> None:
    async with Broker.start(kind) as broker:
        peer = await peers(broker.url)
        broker.kill()
        await broker.ended()
        await eventually(lambda: not peer.transport.is_connected)
        await broker.restart(keep_retained=False)
        await eventually(lambda: peer.transport.is_connected)


async def test_retained_messages_need_persistence_to_survive() -> None:
    brokers.needs_mosquitto()
    async with Broker.start("mosquitto") as broker:
        with pytest.raises(LocalError, match="persistence"):
            await broker.restart(keep_retained=True)


async def test_a_port_that_is_taken_is_said_so() -> None:
    async with Broker.start() as broker:
        with pytest.raises(LocalError, match="Address already in use"):
            await Broker.start(port=broker.port)


async def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(LocalError, match="not empty"):
        await Broker.start("mosquitto", folder=tmp_path, persistence=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["letters.txt"]


async def test_a_key_that_does_not_load_ends_it_with_its_own_words(tmp_path: Path) -> None:
    brokers.needs_mosquitto()
    for name in ("ca.crt", "server.crt", "server.key"):
        (tmp_path / name).write_text("no certificate")
    with pytest.raises(BrokerFailedError, match="mosquitto ended with"):
        await Broker.start("mosquitto", tls=BrokerTls.from_folder(tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        BrokerOptions(bind="0.0.0.0"),
        BrokerOptions(bind="::"),
        BrokerOptions(bind="somewhere"),
        BrokerOptions(port=65_536),
        BrokerOptions(tls=BrokerTls(Path("/no"), Path("/no"), Path("/no"))),
    ],
)
def test_what_must_not_be_served_is_refused(options: BrokerOptions) -> None:
    with pytest.raises(LocalError):
        check(options)


def test_a_path_cannot_smuggle_in_an_option(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="line break"):
        mosquitto_config(BrokerOptions(acl=Path("acl\nallow_anonymous true")), tmp_path)


def test_anonymous_clients_are_for_loopback_only(tmp_path: Path) -> None:
    plain = mosquitto_config(BrokerOptions(port=1), tmp_path)
    tls = mosquitto_config(BrokerOptions("0.0.0.0", 1, BrokerTls(tmp_path, tmp_path, tmp_path)), tmp_path)
    assert "allow_anonymous true" in plain
    assert "allow_anonymous true" not in tls
    assert {"tls_version tlsv1.3", "require_certificate true", "use_identity_as_username true"} <= set(tls.split("\n"))
    for line in ("max_packet_size", "max_queued_bytes", "memory_limit", "set_tcp_nodelay true", "persistence false"):
        assert line in plain and line in tls


@pytest.mark.parametrize("wish", [{"kind": "other"}, {"kind": "mosquitto", "websocket": True}])
async def test_wishes_that_cannot_be_met(wish: dict[str, Any]) -> None:
    with pytest.raises(LocalError):
        await Broker.start(**wish)


def test_the_configuration_is_printed_and_nothing_started(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Pki(tmp_path)
    command = ["broker", "--print-config", "--bind", "0.0.0.0", "--tls", str(tmp_path), "--json"]
    assert run(command) == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert "listener 8883 0.0.0.0" in config and f"cafile {tmp_path / 'ca.crt'}" in config


@pytest.mark.parametrize("arguments", [["--bind", "0.0.0.0"], ["--mosquitto", "--websocket"]])
def test_bad_arguments_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["broker", *arguments]) == 2
    assert "broker:" in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_url_and_ends_at_a_signal(kind: Any, number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgeswarm", "broker", f"--{kind}", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        said = json.loads(process.stdout.readline())
        assert said["kind"] == kind and said["url"] == f"mqtt://127.0.0.1:{said['port']}"
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.e2e
def test_the_command_ends_with_1_when_the_broker_dies() -> None:
    brokers.needs_mosquitto()
    command = [sys.executable, "-m", "edgeswarm", "broker", "--mosquitto", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        os.kill(said["pid"], signal.SIGKILL)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1 and "ended by itself" in errors
