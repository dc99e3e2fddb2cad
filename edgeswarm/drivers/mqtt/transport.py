"""What the swarm speaks through: priorities, two connections, a list of brokers, subscriptions that outlive them.

    transport = Transport([Broker.from_url("mqtt://127.0.0.1:1883")], client_id="d1", on_state=print)
    transport.subscribe("es/1/f/c/raft/d1", handle)
    await transport.start()
    transport.publish("es/1/f/c/raft/d2", payload, priority=Priority.HIGH, qos=0)

MQTT has no priorities, so there are two connections to one broker.  control carries CRITICAL, HIGH and small MEDIUM
messages; bulk, which is made when it is first needed, carries LOW ones, what is large, and what asks for it.  Where a
message is received is the subscriber's choice.  All of it belongs to the loop's thread.

Delivery: QoS 1 is at least once, the receiver's replay window makes it once.  While no broker can be reached QoS 1
messages go to the offline queue if there is one, else they wait in memory; QoS 0 ones wait only if they expire.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeswarm.drivers.mqtt.brokers import Broker, BrokerList, Entry, TlsFiles
from edgeswarm.drivers.mqtt.connack import LinkError, Will
from edgeswarm.drivers.mqtt.forward import Forwarder
from edgeswarm.drivers.mqtt.lane import Lane, Settings
from edgeswarm.drivers.mqtt.link import Link
from edgeswarm.drivers.mqtt.matcher import check_topic
from edgeswarm.drivers.mqtt.prefer import Preference
from edgeswarm.drivers.mqtt.properties import Incoming, Properties
from edgeswarm.drivers.mqtt.queue import Drops, OfflineQueue, Outgoing, Priority, StoredMessage
from edgeswarm.drivers.mqtt.subscriptions import Handler
from edgeswarm.errors import LimitError, LocalError
from edgeswarm.limits import MQTT_CONTROL_BYTES_MAX, MQTT_PAYLOAD_BYTES_MAX, MQTT_TOPIC_BYTES_MAX

_TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class Connected:
    """The control connection is up.  protocol: 5, or 4 for MQTT 3.1.1.  count: how many times by now."""

    broker: str
    protocol: int
    count: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The control connection is gone.

    taken_over: the broker says that another client has our id: two devices with one key (mosquitto 2.0 does not say).
    short_lived: how many connections in a row have not lasted; 3 and more hint at the same.
    """

    broker: str
    reason: str
    taken_over: bool = False
    short_lived: int = 0


class Transport:
    """client_id: unique at the broker; the bulk connection adds "-b".  on_state: told of the control connection.

    will: published by the broker when the control connection dies; read at each connect, so it may be changed.
    """

    def __init__(
        self,
        brokers: Sequence[Broker],
        *,
        client_id: str,
        will: Will | None = None,
        offline: OfflineQueue | None = None,
        settings: Settings | None = None,
        on_state: Callable[[Connected | Disconnected], None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.will = will
        self.on_state = on_state
        self.drops = Drops()
        self.brokers = BrokerList(brokers)
        self._settings = settings or Settings()
        self._offline = offline
        self._stored = 0
        rng = rng or random.Random()
        self._control, self._bulk = (
            Lane(name, self, client_id=client_id + suffix, settings=self._settings, drops=self.drops, rng=rng)
            for name, suffix in (("control", ""), ("bulk", "-b"))
        )
        self._forwarder = None if offline is None else Forwarder(offline, self._send_stored, self._is_up)
        self._preference = Preference(self.brokers, self._settings, client_id + "-p", self._control.reconnect)
        self._up = asyncio.Event()
        self._taken_over = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.is_started = False

    # --- life --------------------------------------------------------------------------------------------------------
    async def start(self, wait_s: float | None = None) -> None:
        """Begin to connect; with wait_s: return when connected, or raise LinkError after so long."""
        self._loop = asyncio.get_running_loop()
        self.is_started = True
        self._control.start()
        if self._bulk.is_wanted:
            self._bulk.start()
        if self._timer is None:
            self._tick()
        if wait_s is not None:
            await self.connected(wait_s)

    async def connected(self, wait_s: float) -> None:
        """Wait for the control connection; LinkError after wait_s, with the last thing that went wrong."""
        try:
            async with asyncio.timeout(wait_s):
                await self._up.wait()
        except TimeoutError:
            raise LinkError(f"not connected after {wait_s:g} s: {self._control.last_error}", who=self.url) from None

    async def close(self, drain_s: float = 0.5) -> None:
        """Send what waits, for drain_s at most; then DISCONNECT, so no last will.  What is left goes offline."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self._preference.close()
        if self._forwarder is not None:
            await self._forwarder.close()
        await asyncio.gather(self._bulk.close(drain_s), self._control.close(drain_s))

    async def __aenter__(self) -> Transport:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def succeed(self, tls: TlsFiles) -> str:
        """Go over to connections with these TLS files, each made before the old one ends.  Empty, or what went wrong.

        Later connections take the files that the brokers were given: whoever calls this then exchanges those.
        """
        for lane in (self._control, self._bulk):
            if lane.entry is None and lane is self._bulk:
                continue  # it is not there: it will come up with the files of then
            broker = lane.entry.broker if lane.entry is not None else self.brokers.entries[0].broker
            if broker.tls is None:
                return "no TLS"
            if not await lane.succeed(replace(broker, tls=tls)):
                return lane.last_error
        return ""

    @property
    def is_connected(self) -> bool:
        return self._control.is_up

    @property
    def url(self) -> str:
        """Of the broker in use, else of the preferred one."""
        return (self._control.entry or self.brokers.entries[0]).url

    def _tick(self) -> None:
        now = self._loop.time()
        for lane in (self._control, self._bulk):
            lane.tick(now)
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    # --- out ---------------------------------------------------------------------------------------------------------
    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        priority: Priority,
        qos: int,
        retain: bool = False,
        expiry_s: float | None = None,
        bulk: bool = False,
        response_topic: str | None = None,
        correlation: bytes | None = None,
    ) -> None:
        """Never blocks: to the socket in this very call if nothing waits, else into a bounded queue.

        expiry_s: kept here and, in MQTT 5, by the broker (rounded up to whole seconds).  response_topic, correlation:
        only sent where MQTT 5 is spoken.  LocalError for a bad topic or QoS 2, LimitError for more than
        MQTT_PAYLOAD_BYTES_MAX.
        """
        self._send(
            Outgoing(topic, payload, priority, qos, retain, self._expires_at(expiry_s), response_topic, correlation),
            bulk,
        )

    async def publish_acked(
        self,
        topic: str,
        payload: bytes,
        *,
        deadline_s: float,
        priority: Priority = Priority.MEDIUM,
        retain: bool = False,
        bulk: bool = False,
    ) -> None:
        """QoS 1, until the broker acknowledges; LinkError if it refuses or drops it, or at the deadline."""
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        message = Outgoing(topic, payload, priority, 1, retain, self._expires_at(deadline_s))
        message.settled = lambda why: None if answer.done() else answer.set_result(why)
        self._send(message, bulk)
        try:
            async with asyncio.timeout(deadline_s):
                why = await answer
        except TimeoutError:
            why = f"not acknowledged within {deadline_s:g} s"
        finally:
            message.settled = None
        if why is not None:
            raise LinkError(f"{topic}: {why}", who=self.url)

    def _expires_at(self, expiry_s: float | None) -> float | None:
        return None if expiry_s is None else asyncio.get_running_loop().time() + expiry_s

    def _send(self, message: Outgoing, bulk: bool) -> None:
        check_topic(message.topic)
        if message.qos not in (0, 1):
            raise LocalError(f"publish {message.topic!r}: expected QoS 0 or 1, found {message.qos}")
        size = len(message.payload)
        if size > MQTT_PAYLOAD_BYTES_MAX:
            self.drops.count("refused", message.priority)
            raise LimitError(
                f"MQTT_PAYLOAD_BYTES_MAX: a message of at most {MQTT_PAYLOAD_BYTES_MAX} bytes, found {size}"
            )
        if message.response_topic is not None and len(message.response_topic) > MQTT_TOPIC_BYTES_MAX:
            raise LimitError(f"MQTT_TOPIC_BYTES_MAX: a response topic of {len(message.response_topic)} characters")
        if self._closed:
            self.drops.count("offline", message.priority)
            return
        # CRITICAL and HIGH stay on control whatever their size: order matters to Raft, and a stop must not queue.
        bulk = bulk or message.priority is Priority.LOW
        bulk = bulk or (message.priority is Priority.MEDIUM and size > MQTT_CONTROL_BYTES_MAX)
        (self._bulk if bulk else self._control).send(message)

    def _is_up(self) -> bool:
        return self._control.is_up

    def _send_stored(self, stored: StoredMessage, settled: Callable[[str | None], None]) -> None:
        """From the offline queue.  Its expiry is in Unix time, ours in the loop's."""
        expires_at = None
        if stored.expires_at is not None:
            expires_at = self._loop.time() + stored.expires_at - time.time()
        message = Outgoing(
            stored.topic,
            stored.payload,
            Priority(stored.priority),
            max(stored.qos, 1),
            stored.retain,
            expires_at,
            settled=settled,
            stored=stored.id,
        )
        try:
            self._send(message, bulk=False)
        except (LocalError, LimitError):
            settled("refused")

    # --- in ----------------------------------------------------------------------------------------------------------
    def subscribe(
        self, topic_filter: str, handler: Handler, qos: int = 0, bulk: bool = False, *, again: bool = False
    ) -> asyncio.Future[int]:
        """Tell `handler` of each message, in the loop's thread, until `unsubscribe`; made again on every connection.

        The future, which nobody need await, is the QoS that the broker granted, or 128 and more if it refused.
        A handler must be quick; one that waits puts what comes into an Inbox.  Filters that overlap may bring a
        message twice.  again: others hear this filter already; what is retained comes once more, to all of them.
        """
        return (self._bulk if bulk else self._control).subscribe(topic_filter, handler, qos, again=again)

    def unsubscribe(self, topic_filter: str, handler: Handler | None = None, *, bulk: bool = False) -> None:
        """Without a handler: all of the filter's.  Nothing happens if there are none."""
        (self._bulk if bulk else self._control).unsubscribe(topic_filter, handler)

    def pause_bulk(self) -> None:
        """Stop reading the bulk connection: the broker keeps, and at its bounds drops, what comes meanwhile.

        Control is never paused: a stop must get through, and who cannot keep up there drops by itself.
        """
        self._bulk.pause()

    def resume_bulk(self) -> None:
        self._bulk.resume()

    # --- what lanes ask and tell -------------------------------------------------------------------------------------
    async def choose(self, lane: Lane) -> Entry:
        if lane is self._bulk:
            while (entry := self._control.entry) is None:
                await self._up.wait()
                await asyncio.sleep(0)
            return entry
        return self.brokers.choose(self._loop.time() * 1000)

    def failed(self, lane: Lane, entry: Entry) -> None:
        if lane is self._control:
            self.brokers.failed(entry, self._loop.time() * 1000)

    def held(self, lane: Lane, entry: Entry) -> None:
        if lane is self._control:
            self.brokers.held(entry)

    def came_up(self, lane: Lane, entry: Entry, link: Link) -> None:
        if lane is not self._control:
            return
        self.brokers.connected(entry)
        self._up.set()
        if self._bulk.entry is not None and self._bulk.entry is not entry:
            self._bulk.reconnect()
        self._preference.connected_to(entry)
        if self._forwarder is not None:
            self._forwarder.start()
        self._tell(Connected(entry.url, link.protocol, self._control.counters.connects))

    def went_down(self, lane: Lane, entry: Entry, why: str) -> None:
        if lane is not self._control:
            return
        self._up.clear()
        taken_over = self._control.counters.taken_over > self._taken_over
        self._taken_over = self._control.counters.taken_over
        self._tell(Disconnected(entry.url, why, taken_over, self._control.short_lived))

    def stash(self, message: Outgoing) -> bool:
        """Into the offline queue, if there is one."""
        if self._offline is None:
            return False
        expires_at = None
        if message.expires_at is not None:
            expires_at = time.time() + message.expires_at - asyncio.get_running_loop().time()
        self._offline.put(
            message.topic, message.payload, int(message.priority), message.qos, message.retain, expires_at
        )
        self._stored += 1
        return True

    def _tell(self, state: Connected | Disconnected) -> None:
        if self.on_state is None:
            return
        try:
            self.on_state(state)
        except Exception as error:
            # A listener's fault must not end the task that holds the connection up.
            self._loop.call_exception_handler({"message": "mqtt: on_state failed", "exception": error})

    def stats(self) -> dict[str, Any]:
        """Counters since the start, one map for each connection; what was dropped by class and reason."""
        return {
            "connected": self.is_connected,
            "broker": self.url,
            "control": self._control.stats(),
            "bulk": self._bulk.stats(),
            "dropped": self.drops.as_dict(),
            "stored_offline": self._stored,
            "forwarded": self._forwarder.forwarded if self._forwarder is not None else 0,
            "brokers": [
                {
                    "broker": entry.url,
                    "breaker": entry.breaker.state.value,
                    "protocol": entry.protocol,
                    "connects": entry.connects,
                    "faults": entry.faults,
                }
                for entry in self.brokers.entries
            ],
        }


__all__ = [
    "Broker",
    "Connected",
    "Disconnected",
    "Handler",
    "Incoming",
    "LinkError",
    "OfflineQueue",
    "Priority",
    "Properties",
    "Settings",
    "StoredMessage",
    "TlsFiles",
    "Transport",
    "Will",
]
