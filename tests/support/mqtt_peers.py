"""Transports that remember what they heard, for tests of what stands on MQTT."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from edgeswarm.drivers.mqtt.transport import Broker, Incoming, Priority, Settings, Transport

QUICK = Settings(keepalive_s=5, connect_s=3.0, reconnect_ms=20.0, reconnect_ms_max=200.0, held_s=0.2)
WAIT_S = 30.0


async def eventually(condition: Callable[[], Any], what: str = "it") -> None:
    """Wait until `condition()` is true; fail after WAIT_S, which only a fault takes."""
    until = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < until, f"{what} did not happen"
        await asyncio.sleep(0.005)


class Peer:
    """A transport with everything it heard.  states: what on_state was told."""

    def __init__(self, *urls: str, client_id: str, **options: Any) -> None:
        self.heard: list[Incoming] = []
        self.states: list[Any] = []
        tls = options.pop("tls", None)
        options.setdefault("settings", QUICK)
        self.transport = Transport(
            [Broker.from_url(url, tls=tls) for url in urls],
            client_id=client_id,
            on_state=self.states.append,
            rng=random.Random(client_id),
            **options,
        )

    async def hear(self, topic_filter: str, *, qos: int = 0, bulk: bool = False) -> int:
        return await self.transport.subscribe(topic_filter, self.heard.append, qos=qos, bulk=bulk)

    async def hear_later(self, topic_filter: str) -> None:
        """Subscribe without waiting for the broker's answer: there may be none."""
        self.transport.subscribe(topic_filter, self.heard.append)

    def say(self, topic: str, payload: bytes = b"x", *, qos: int = 0, **more: Any) -> None:
        more.setdefault("priority", Priority.HIGH)
        self.transport.publish(topic, payload, qos=qos, **more)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.heard]

    @property
    def stats(self) -> dict[str, Any]:
        return self.transport.stats()


class Peers:
    """Makes peers that are connected, and closes them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._count = 0

    def unstarted(self, *urls: str, **options: Any) -> Peer:
        self._count += 1
        options.setdefault("client_id", f"peer{self._count}")
        peer = Peer(*urls, **options)
        self._stack.push_async_callback(peer.transport.close, 0.0)
        return peer

    async def __call__(self, *urls: str, **options: Any) -> Peer:
        peer = self.unstarted(*urls, **options)
        await peer.transport.start(WAIT_S)
        return peer
