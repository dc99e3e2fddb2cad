"""One connection that is held up: made again with jittered back-off, its subscriptions with it, its queue behind it.

A transport has two, because MQTT has no priorities: control and bulk.  Which broker is `choose`'s matter.
QoS 1 messages that were under way when a connection broke go first on the next one, so they may arrive twice.
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeswarm.drivers.mqtt.brokers import Broker, Entry
from edgeswarm.drivers.mqtt.connack import ClosedEarlyError, Will
from edgeswarm.drivers.mqtt.link import Link, speaks_5
from edgeswarm.drivers.mqtt.queue import Drops, Outgoing, Priority, PriorityQueue
from edgeswarm.drivers.mqtt.subscriptions import Handler, Subscriptions
from edgeswarm.drivers.mqtt.succession import Succession
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import (
    MQTT_CONNECT_S,
    MQTT_HELD_S,
    MQTT_INFLIGHT_RESERVED,
    MQTT_KEEPALIVE_S,
    MQTT_RECONNECT_MS,
    MQTT_RECONNECT_MS_MAX,
)

_SHORT_LIVED_MAX = 3  # doublings of the wait after connections that came up and did not last: 0.4 s at most


@dataclass(frozen=True, slots=True)
class Settings:
    """Times of a connection.  prefer_first_after_s: go back to the list's first broker once it has been well for so
    long; None stays where it is.  reconnect_ms, _max: bounds of the random wait, doubled with each failure."""

    keepalive_s: int = MQTT_KEEPALIVE_S
    connect_s: float = MQTT_CONNECT_S
    reconnect_ms: float = MQTT_RECONNECT_MS
    reconnect_ms_max: float = MQTT_RECONNECT_MS_MAX
    held_s: float = MQTT_HELD_S
    prefer_first_after_s: float | None = None


class LaneOwner(Protocol):
    """What a lane asks of its transport."""

    will: Will | None
    is_started: bool

    async def choose(self, lane: Lane) -> Entry: ...
    def failed(self, lane: Lane, entry: Entry) -> None: ...
    def came_up(self, lane: Lane, entry: Entry, link: Link) -> None: ...
    def held(self, lane: Lane, entry: Entry) -> None: ...
    def went_down(self, lane: Lane, entry: Entry, why: str) -> None: ...
    def stash(self, message: Outgoing) -> bool: ...


@dataclass(slots=True)
class Counters:
    """Since the start.  nacked: refused by the broker with a PUBACK."""

    sent: list[int] = field(default_factory=lambda: [0] * len(Priority))
    sent_bytes: int = 0
    acked: int = 0
    nacked: int = 0
    connects: int = 0
    connect_failures: int = 0
    losses: int = 0
    taken_over: int = 0
    reads_bounded: int = 0
    pauses: int = 0


class Lane(Succession):
    """name: control or bulk.  Connects from `start` on; a message or a subscription asks for that (`is_wanted`)."""

    def __init__(
        self, name: str, owner: LaneOwner, *, client_id: str, settings: Settings, drops: Drops, rng: random.Random
    ) -> None:
        self.name = name
        self.counters = Counters()
        self.entry: Entry | None = None
        self.last_error = ""
        self.is_wanted = False
        self.short_lived = 0
        self._owner = owner
        self._client_id = client_id
        self._settings = settings
        self._rng = rng
        self._drops = drops
        self._queue = PriorityQueue(drops)
        self._subscriptions = Subscriptions()
        self._inflight: dict[tuple[Link, int], tuple[Outgoing, float]] = {}
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._pumping = False
        self._paused = False
        self._closed = False

    # --- life --------------------------------------------------------------------------------------------------------
    def want(self) -> None:
        self.is_wanted = True
        if self._owner.is_started:
            self.start()

    def start(self) -> None:
        if self._task is None and not self._closed:
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(self._run(), name=f"mqtt {self.name} {self._client_id}")

    async def close(self, drain_s: float) -> None:
        """Wait up to drain_s for what is queued and unacknowledged, then say DISCONNECT."""
        self._closed = True
        if self._task is None:
            return
        until = self._loop.time() + drain_s
        while self._link is not None and self.backlog and self._loop.time() < until:  # noqa: ASYNC110 - only at the end
            await asyncio.sleep(0.005)
        link = self._link
        if link is not None:
            link.close()
            self._down("closed", link)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for message in self._queue.clear():
            if not (message.qos and self._owner.stash(message)):
                self._queue.drop(message, "offline")

    def reconnect(self) -> None:
        """Leave this broker with a DISCONNECT and ask `choose` again."""
        if self._link is not None:
            self._link.close()

    async def _run(self) -> None:
        failures = 0
        while True:
            entry = await self._owner.choose(self)
            lost: asyncio.Future[str] = self._loop.create_future()
            link = await self._connect(entry, lost)
            if link is None:
                failures += 1
                self.counters.connect_failures += 1
                self._owner.failed(self, entry)
            else:
                since = self._loop.time()
                held = self._loop.call_later(self._settings.held_s, self._owner.held, self, entry)
                self._up(entry, link)
                why = await lost
                while self._heir is not None:  # another connection took its place while it was up
                    (link, lost), self._heir = self._heir, None
                    why = await lost
                held.cancel()
                lasted = self._loop.time() - since >= self._settings.held_s
                self.short_lived = 0 if lasted else self.short_lived + 1
                # It does answer: a broker that restarts twice must not be waited for like one that is gone.
                failures = min(self.short_lived, _SHORT_LIVED_MAX)
                self._down(why, link)
                if why != "closed":
                    self.counters.losses += 1
                    self._owner.failed(self, entry)
            await asyncio.sleep(self._backoff_s(failures))

    def _backoff_s(self, failures: int) -> float:
        """Full jitter: uniform between 0 and the bound, which doubles with each failure."""
        bound_ms = min(self._settings.reconnect_ms * 2 ** min(failures, 30), self._settings.reconnect_ms_max)
        return self._rng.uniform(0.0, bound_ms) / 1000

    async def _connect(self, entry: Entry, lost: asyncio.Future[str]) -> Link | None:
        """A link that is up, or None: `last_error` says why."""
        try:
            protocol = await self._protocol_of(entry)
        except EdgeSwarmError as error:
            self.last_error = str(error)
            return None
        link = self._link_to(entry.broker, protocol, self._client_id, lost)
        try:
            await link.connect()
        except EdgeSwarmError as error:
            if isinstance(error, ClosedEarlyError) and protocol != 5:
                entry.protocol = 5  # not the version, then: the next attempt asks again
            self.last_error = str(error)
            return None
        self.last_error = ""
        return link

    def _link_to(self, broker: Broker, protocol: int, client_id: str, lost: asyncio.Future[str]) -> Link:
        """A link that is not connected yet."""
        link = Link(
            broker,
            client_id=client_id,
            protocol=protocol,
            will=self._owner.will if self.name == "control" else None,
            keepalive_s=self._settings.keepalive_s,
            connect_s=self._settings.connect_s,
            deliver=self._subscriptions.deliver,
            acked=lambda mid, reason: self._acked(link, mid, reason),
            granted=self._subscriptions.granted,
            writable=self._pump,
            lost=lambda why: None if lost.done() else lost.set_result(why),
        )
        return link

    async def _protocol_of(self, entry: Entry) -> int:
        """5, or 4 for MQTT 3.1.1; a broker that is not known yet is asked, by one lane for all."""
        protocol = entry.protocol_at(self._loop.time() * 1000)
        if protocol == 5 and not entry.spoke_5:
            entry.spoke_5 = await speaks_5(
                entry.broker, client_id=self._client_id + "-v", connect_s=self._settings.connect_s
            )
            if not entry.spoke_5:
                entry.speaks(4, self._loop.time() * 1000)
        return entry.protocol

    def _up(self, entry: Entry, link: Link) -> None:
        self.entry, self._link = entry, link
        self.counters.connects += 1
        if self._paused:
            link.pause()
        self._subscriptions.renew(link)
        self._owner.came_up(self, entry, link)
        self._pump()

    def _down(self, why: str, link: Link) -> None:
        if self._link is not link:
            return
        entry, self._link, self.entry = self.entry, None, None
        assert entry is not None
        self.counters.taken_over += link.taken_over
        self.counters.reads_bounded += link.reads_bounded
        self._take_back(link)
        self._owner.went_down(self, entry, why)

    def _take_back(self, link: Link) -> None:
        """What this link had under way waits again, before all else."""
        under_way = [key for key in self._inflight if key[0] is link]
        for message, _ in [self._inflight.pop(key) for key in reversed(under_way)]:
            self._park(message, first=True)

    # --- out ---------------------------------------------------------------------------------------------------------
    @property
    def is_up(self) -> bool:
        return self._link is not None

    @property
    def backlog(self) -> int:
        """Messages that wait here or for their acknowledgement."""
        return len(self._queue) + len(self._inflight)

    def send(self, message: Outgoing) -> None:
        """Straight to the socket when nothing waits, else into the queue."""
        link = self._link
        if link is None:
            self.want()
            self._park(message)
        elif self._queue or link.is_blocked or not self._may_send(message):
            self._queue.put(message)
        else:
            self._transmit(link, message)

    def _park(self, message: Outgoing, *, first: bool = False) -> None:
        """While there is no connection.  QoS 0 waits only if it says how long it may."""
        if message.stored is not None:
            return  # it never left the storage
        if message.qos:
            if message.settled is None and self._owner.stash(message):
                return
        elif message.expires_at is None:
            self._queue.drop(message, "offline")
            return
        self._queue.put(message, first=first)

    def _may_send(self, message: Outgoing) -> bool:
        if not message.qos or self._link is None:
            return True
        room = self._link.offer.inflight_max
        if message.priority is not Priority.CRITICAL:
            room -= min(MQTT_INFLIGHT_RESERVED, room // 4)
        return len(self._inflight) < room

    def _transmit(self, link: Link, message: Outgoing) -> None:
        now = self._loop.time()
        expiry_s = None
        if message.expires_at is not None:
            if message.expires_at <= now:
                self._queue.drop(message, "expired")
                return
            expiry_s = math.ceil(message.expires_at - now)
        if len(message.payload) > link.offer.payload_bytes_max:
            self._queue.drop(message, "refused")
            return
        qos = min(message.qos, link.offer.qos_max)
        mid = link.publish(
            message.topic,
            message.payload,
            qos,
            message.retain,
            expiry_s,
            message.response_topic,
            message.correlation,
        )
        if mid is None:
            self._park(message, first=True)
            return
        self.counters.sent[message.priority] += 1
        self.counters.sent_bytes += len(message.payload)
        if qos:
            self._inflight[link, mid] = (message, now)
        elif message.settled is not None:
            settled, message.settled = message.settled, None
            settled(None)

    def _pump(self) -> None:
        """Send what waits, most urgent first, as far as the socket and the acknowledgements allow."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._queue and (link := self._link) is not None and not link.is_blocked:
                message = self._queue.take(self._loop.time(), may_send=self._may_send)
                if message is None:
                    return
                self._transmit(link, message)
        finally:
            self._pumping = False

    def _acked(self, link: Link, mid: int, reason: int) -> None:
        message, _ = self._inflight.pop((link, mid), (None, 0.0))
        if message is None:
            return
        if reason >= 128:
            self.counters.nacked += 1
        else:
            self.counters.acked += 1
        if message.settled is not None:
            settled, message.settled = message.settled, None
            settled(None if reason < 128 else f"refused by the broker, code {reason}")
        if self._queue:
            self._pump()

    def tick(self, now: float) -> None:
        """Once a second: forget what has expired, and give up a broker that acknowledges nothing."""
        if self._queue:
            self._queue.expire(now)
        if self._inflight and self._link is not None:
            _, sent_at = next(iter(self._inflight.values()))
            if now - sent_at > 2 * self._settings.keepalive_s:
                self._link.abort("no acknowledgement")

    # --- in ----------------------------------------------------------------------------------------------------------
    def subscribe(self, topic_filter: str, handler: Handler, qos: int, *, again: bool = False) -> asyncio.Future[int]:
        """The QoS that the broker grants, 128 or more if it refuses; resolved at the first answer."""
        self.want()
        return self._subscriptions.add(self._link, topic_filter, handler, qos, again=again)

    def unsubscribe(self, topic_filter: str, handler: Handler | None) -> None:
        """Without a handler: all of the filter's."""
        self._subscriptions.remove(self._link, topic_filter, handler)

    def pause(self) -> None:
        self._paused = True
        self.counters.pauses += 1
        if self._link is not None:
            self._link.pause()

    def resume(self) -> None:
        self._paused = False
        if self._link is not None:
            self._link.resume()

    def stats(self) -> dict[str, Any]:
        c = self.counters
        reads_bounded = c.reads_bounded + (self._link.reads_bounded if self._link else 0)
        return {
            "broker": self.entry.url if self.entry else None,
            "protocol": self._link.protocol if self._link else None,
            "queued": len(self._queue),
            "queued_bytes": self._queue.size_bytes,
            "unacknowledged": len(self._inflight),
            "sent": {priority.name.lower(): c.sent[priority] for priority in Priority},
            "sent_bytes": c.sent_bytes,
            **self._subscriptions.stats(),
            "acknowledged": c.acked,
            "refused_by_broker": c.nacked,
            "connects": c.connects,
            "connect_failures": c.connect_failures,
            "losses": c.losses,
            "taken_over": c.taken_over,
            "short_lived": self.short_lived,
            "reads_bounded": reads_bounded,
            "pauses": c.pauses,
            "last_error": self.last_error,
        }
