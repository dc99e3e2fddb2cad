"""Back to the preferred broker, only if configured: when a connection to it, made for that, has held for a while.

Where brokers are not bridged, members that stay behind on another one are cut off; this brings them together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgeswarm.drivers.mqtt.brokers import BrokerList, Entry
from edgeswarm.drivers.mqtt.lane import Settings
from edgeswarm.drivers.mqtt.link import Link
from edgeswarm.errors import EdgeSwarmError


class Preference:
    """switch: called when the first broker has been well for settings.prefer_first_after_s."""

    def __init__(self, brokers: BrokerList, settings: Settings, client_id: str, switch: Callable[[], None]) -> None:
        self._brokers, self._settings, self._client_id, self._switch = brokers, settings, client_id, switch
        self._task: asyncio.Task[None] | None = None

    def connected_to(self, entry: Entry) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        after_s = self._settings.prefer_first_after_s
        if after_s is not None and entry is not self._brokers.entries[0]:
            self._task = asyncio.get_running_loop().create_task(self._watch(after_s), name="mqtt preferred broker")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self, after_s: float) -> None:
        first = self._brokers.entries[0]
        while not await self._holds(first, after_s):  # noqa: ASYNC110 - each look is an attempt to connect
            await asyncio.sleep(after_s)
        self._task = None  # `switch` leads to connected_to, which must not cancel this very task
        self._brokers.held(first)
        self._switch()

    async def _holds(self, entry: Entry, after_s: float) -> bool:
        lost = asyncio.Event()
        link = Link(
            entry.broker,
            client_id=self._client_id,
            protocol=entry.protocol,
            keepalive_s=self._settings.keepalive_s,
            connect_s=self._settings.connect_s,
            deliver=lambda _: None,
            acked=lambda *_: None,
            granted=lambda *_: None,
            writable=lambda: None,
            lost=lambda _: lost.set(),
        )
        try:
            await link.connect()
        except EdgeSwarmError:
            return False
        try:
            async with asyncio.timeout(after_s):
                await lost.wait()
            return False
        except TimeoutError:
            return True
        finally:
            link.close()
