"""One connection takes the place of another that works: made, subscribed and used before the old one ends.

For a change of the certificate: who comes in with the new one proves that the broker takes it, and no message is lost:
what comes meanwhile may come twice (the replay window makes it once), what was under way is acknowledged on the old
connection or sent again on the new.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from edgeswarm.drivers.mqtt.brokers import Broker, Entry
from edgeswarm.drivers.mqtt.link import Link
from edgeswarm.drivers.mqtt.subscriptions import Subscriptions
from edgeswarm.errors import EdgeSwarmError

if TYPE_CHECKING:
    from edgeswarm.drivers.mqtt.lane import Counters, Settings
    from edgeswarm.drivers.mqtt.queue import Outgoing

_LOOK_S = 0.005
_HEIR = "-r"  # of the client id: two connections of one id would end each other


class Succession(ABC):
    """The part of Lane that does it.  _heir: the new connection while the old one is still up."""

    counters: Counters
    entry: Entry | None
    last_error: str
    _client_id: str
    _settings: Settings
    _subscriptions: Subscriptions
    _inflight: dict[tuple[Link, int], tuple[Outgoing, float]]
    _link: Link | None
    _paused: bool
    _closed: bool
    _heir: tuple[Link, asyncio.Future[str]] | None = None

    @abstractmethod
    def _link_to(self, broker: Broker, protocol: int, client_id: str, lost: asyncio.Future[str]) -> Link: ...

    @abstractmethod
    def _pump(self) -> None: ...

    @abstractmethod
    def _take_back(self, link: Link) -> None: ...

    async def succeed(self, broker: Broker) -> bool:
        """Go over to a connection as `broker` says, which is the same broker with other TLS files.

        False: it could not be made, `last_error` says why, and the old one goes on; or there was none to succeed.
        """
        old, entry = self._link, self.entry
        if old is None or entry is None or self._heir is not None or self._closed:
            self.last_error = self.last_error or "not connected"
            return False
        other = self._client_id.removesuffix(_HEIR) if self._client_id.endswith(_HEIR) else self._client_id + _HEIR
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        link = self._link_to(broker, old.protocol, other, lost)
        try:
            await link.connect()
        except EdgeSwarmError as error:
            self.last_error = str(error)
            return False
        if self._link is not old or self._closed:
            link.close()
            self.last_error = "the connection was lost meanwhile"
            return False
        self._link, self._heir = link, (link, lost)
        if self._paused:
            link.pause()
        self._subscriptions.renew(link)
        self._pump()
        if not await self._settled(old, link) and not old.is_lost and self._link is link:
            self._link, self._heir = old, None  # the new one has ended: back to the old one
            self._take_back(link)
            self.last_error = lost.result() if lost.done() else "the broker does not answer subscriptions"
            link.close()
            self._pump()
            return False
        await self._drained(old, link)
        self._client_id = other
        self.counters.connects += 1
        self._take_back(old)
        old.close()
        self._pump()
        return True

    async def _settled(self, old: Link, link: Link) -> bool:
        """The new connection is subscribed, and the old one has nothing to say; False: the new one does not work."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.connect_s
        while loop.time() < end and not link.is_lost and not old.is_lost:
            waits = self._subscriptions.is_asking
            if not waits and not old.is_blocked and not any(key[0] is old for key in self._inflight):
                return True
            await asyncio.sleep(_LOOK_S)
        return not link.is_lost and not self._subscriptions.is_asking

    async def _drained(self, old: Link, link: Link) -> None:
        """Until the broker has handed out what it had queued for `old` before `link` was subscribed; or connect_s.

        A broker hands out a bounded number of QoS 1 messages and keeps the others until those are acknowledged.  It
        answers in order, so that a PINGREQ with no such message before its PINGRESP finds none that is kept.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.connect_s
        if not old.is_lost:
            self._subscriptions.leave(old)
        while not (old.is_lost or link.is_lost):
            heard, answered = old.heard
            old.ask()
            while old.heard[1] == answered:
                if old.is_lost or link.is_lost or loop.time() > end:
                    return
                await asyncio.sleep(_LOOK_S)
            if old.heard[0] == heard:
                return
