"""A connection with another certificate takes the place of one that works: what is under way meanwhile is not lost."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from pki_broker import Pki, at

from edgeswarm.drivers.mqtt.transport import Incoming, Priority, Transport

QUEUED_MAX = 500  # mosquitto drops for a client from 1,000 waiting messages on: that is no loss of ours


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.make(tmp_path / "pki")


async def test_no_message_is_lost_while_the_certificate_changes_five_times(pki: Pki) -> None:
    """One side sends QoS 1 without a pause and hears QoS 1 without a pause, while its certificate changes."""
    heard: list[int] = []
    back: list[int] = []
    async with pki.broker() as broker:
        device = Transport([at(broker, pki.device("d1", os.urandom(32)))], client_id="d1")
        other = Transport([at(broker, pki.device("d2", os.urandom(32)))], client_id="d2")
        subscribed = [
            other.subscribe("to/d2", lambda message: heard.append(int(message.payload)), qos=1),
            device.subscribe("to/d1", lambda message: back.append(int(message.payload)), qos=1),
        ]
        async with device, other:
            await device.connected(10)
            await other.connected(10)
            await asyncio.gather(*subscribed)
            ended = asyncio.Event()

            async def talk(transport: Transport, topic: str, arrived: list[int]) -> int:
                number = 0
                while not ended.is_set():
                    for _ in range(10 if number - len(arrived) < QUEUED_MAX else 0):
                        transport.publish(topic, b"%d" % number, priority=Priority.MEDIUM, qos=1)
                        number += 1
                    await asyncio.sleep(0.005)
                return number

            talks = [
                asyncio.create_task(talk(device, "to/d2", heard)),
                asyncio.create_task(talk(other, "to/d1", back)),
            ]
            device.publish("bulk", b"x", priority=Priority.LOW, qos=1)  # so that there is a second connection
            await asyncio.sleep(0.3)
            for round_ in range(5):
                assert await device.succeed(pki.device("d1", os.urandom(32), at=f"next{round_}")) == ""
                await asyncio.sleep(0.1)
            ended.set()
            counts = [await talk for talk in talks]
            async with asyncio.timeout(20):
                while len(set(heard)) < counts[0] or len(set(back)) < counts[1]:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert sorted(set(heard)) == list(range(counts[0])) and counts[0] > 500
            assert sorted(set(back)) == list(range(counts[1]))
            assert device.drops.as_dict() == other.drops.as_dict()
            stats = device.stats()
            assert stats["control"]["losses"] == 0 and stats["control"]["connects"] == 6
            assert stats["bulk"]["connects"] == 6


async def test_what_the_broker_has_queued_for_the_old_connection_comes_before_it_ends(pki: Pki) -> None:
    """A broker hands out some messages (20 in mosquitto) and keeps the rest until those are acknowledged."""
    heard: list[int] = []
    async with pki.broker() as broker:
        device = Transport([at(broker, pki.device("d1", os.urandom(32)))], client_id="d1")
        other = Transport([at(broker, pki.device("d2", os.urandom(32)))], client_id="d2")
        subscribed = device.subscribe("to/d1", lambda message: heard.append(int(message.payload)), qos=1)
        async with device, other:
            await device.connected(10)
            await other.connected(10)
            await subscribed
            device._control.pause()
            for number in range(QUEUED_MAX):
                await other.publish_acked("to/d1", b"%d" % number, deadline_s=10)
            held = asyncio.create_task(device.succeed(pki.device("d1", os.urandom(32), at="next")))
            device._control.resume()
            assert await held == ""
            assert sorted(set(heard)) == list(range(QUEUED_MAX))


async def test_certificate_that_the_broker_refuses_leaves_the_old_connection_in_place(pki: Pki, tmp_path: Path) -> None:
    heard: list[Incoming] = []
    stranger = Pki.make(tmp_path / "stranger")
    async with pki.broker() as broker:
        device = Transport([at(broker, pki.device("d1", os.urandom(32)))], client_id="d1")
        device.subscribe("a", heard.append, qos=1)
        async with device:
            await device.connected(10)
            bad = stranger.device("d1", os.urandom(32))
            shutil.copy(pki.folder / "ca.crt", stranger.folder / "ca.crt")
            assert await device.succeed(bad) != ""
            expired = pki.device("d1", os.urandom(32), days=-1, at="expired")
            assert await device.succeed(expired) != ""
            missing = pki.device("d1", os.urandom(32), at="missing")
            assert missing.key is not None
            missing.key.unlink()
            assert await device.succeed(missing) != ""
            await device.publish_acked("a", b"still here", deadline_s=10)
            async with asyncio.timeout(10):
                while not heard:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert device.stats()["control"]["losses"] == 0


async def test_connection_that_is_lost_after_a_succession_is_made_again(pki: Pki) -> None:
    async with pki.broker() as broker:
        device = Transport([at(broker, pki.device("d1", os.urandom(32)))], client_id="d1")
        async with device:
            await device.connected(10)
            assert await device.succeed(pki.device("d1", os.urandom(32), at="next")) == ""
            await broker.restart()
            async with asyncio.timeout(20):
                while device.stats()["control"]["connects"] < 3 or not device.is_connected:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await device.publish_acked("a", b"again", deadline_s=10)
            assert await device.succeed(pki.device("d1", os.urandom(32), at="third")) == ""


async def test_without_a_connection_there_is_nothing_to_succeed(pki: Pki) -> None:
    async with pki.broker() as broker:
        tls = pki.device("d1", os.urandom(32))
        broker.close()
        device = Transport([at(broker, tls)], client_id="d1")
        async with device:
            await asyncio.sleep(0.2)
            assert await device.succeed(tls) != ""
