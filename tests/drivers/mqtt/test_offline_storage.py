"""The real offline storage behind the transport: what was said while the broker was away arrives once it is back."""

from __future__ import annotations

from pathlib import Path

import brokers
from mqtt_peers import Peers, eventually

from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.drivers.offline import OfflineQueue


async def test_messages_survive_an_absent_broker_and_a_restart_of_ours(peers: Peers, tmp_path: Path) -> None:
    async with brokers.mosquitto() as broker:
        broker.close()
        storage = await OfflineQueue.open(tmp_path / "offline.db")
        sender = peers.unstarted(broker.url, offline=storage)
        await sender.transport.start()
        for i in range(300):
            sender.say("m", b"%d" % i, priority=Priority.MEDIUM, qos=1)
        sender.say("stop", priority=Priority.CRITICAL, qos=1)
        await sender.transport.close()
        await storage.close()

        storage = await OfflineQueue.open(tmp_path / "offline.db")
        await broker.start()
        receiver = await peers(broker.url)
        await receiver.hear("#", qos=1)
        again = await peers(broker.url, offline=storage)
        await eventually(lambda: len(receiver.heard) == 301)
        assert [m.topic for m in receiver.heard] == ["stop"] + ["m"] * 300
        assert receiver.payloads[1:] == [b"%d" % i for i in range(300)]
        await eventually(lambda: again.stats["forwarded"] == 301)
        await eventually(lambda: storage.take(1_000_000) == [])
        await again.transport.close()
        await storage.close()
