"""Sends what offline storage kept, after a reconnect: in its order, beside the live traffic and slower than it.

A message leaves the storage when the broker has acknowledged it, so a connection that breaks meanwhile loses none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgeswarm.drivers.mqtt.queue import OfflineQueue, StoredMessage
from edgeswarm.limits import MQTT_OFFLINE_BYTES, MQTT_OFFLINE_MESSAGES_PER_S

Send = Callable[[StoredMessage, Callable[[str | None], None]], None]
_BATCH_S = 10.0  # a batch that is not acknowledged by then is taken again


class Forwarder:
    """send: hands a message to the transport, which settles it.  is_up: whether there is a connection."""

    def __init__(
        self,
        offline: OfflineQueue,
        send: Send,
        is_up: Callable[[], bool],
        *,
        per_s: float = MQTT_OFFLINE_MESSAGES_PER_S,
    ) -> None:
        self.forwarded = 0
        self.dropped = 0
        self._offline, self._send, self._is_up, self._per_s = offline, send, is_up, per_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """At each connect; nothing happens if it is at work already."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="mqtt offline")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._is_up():
            batch = self._offline.take(MQTT_OFFLINE_BYTES)
            if not batch:
                return
            if not await self._forward(batch):
                return

    async def _forward(self, batch: list[StoredMessage]) -> bool:
        """Whether the whole batch has left the storage."""
        open_, done = {stored.id for stored in batch}, asyncio.Event()
        finished: list[int] = []

        def settled(id_: int, why: str | None) -> None:
            # Expired and refused ones have left too: a second try would end the same.
            if id_ in open_ and why not in ("full", "offline"):
                open_.discard(id_)
                finished.append(id_)
                if why is None:
                    self.forwarded += 1
                else:
                    self.dropped += 1
            if not open_:
                done.set()

        try:
            for stored in batch:
                if not self._is_up():
                    return False
                self._send(stored, lambda why, id_=stored.id: settled(id_, why))  # type: ignore[misc]
                await asyncio.sleep(1.0 / self._per_s)
            try:
                async with asyncio.timeout(_BATCH_S):
                    await done.wait()
            except TimeoutError:
                return False
        finally:
            if finished:
                self._offline.ack(finished)
        return True
