"""What one connection is subscribed to, made again after each reconnect, and who is told of what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeswarm.drivers.mqtt.link import Link
from edgeswarm.drivers.mqtt.matcher import Matcher, check_filter
from edgeswarm.drivers.mqtt.properties import Incoming
from edgeswarm.errors import LimitError, LocalError
from edgeswarm.limits import MQTT_SUBSCRIPTIONS_MAX

Handler = Callable[[Incoming], None]
FILTERS_A_PACKET = 64  # of one SUBSCRIBE: 64 x 200 bytes


@dataclass(slots=True, eq=False)
class _Subscription:
    topic_filter: str
    qos: int
    granted: asyncio.Future[int]
    handlers: list[Handler] = field(default_factory=list)


class Subscriptions:
    """unmatched: messages that came in without a handler.  A handler that raises is counted and told to the loop."""

    def __init__(self) -> None:
        self.received = 0
        self.received_bytes = 0
        self.unmatched = 0
        self.handler_errors = 0
        self.refused = 0
        self._matcher: Matcher[Handler] = Matcher()
        self._all: dict[str, _Subscription] = {}
        self._asked: dict[int, list[_Subscription]] = {}

    def add(
        self, link: Link | None, topic_filter: str, handler: Handler, qos: int, *, again: bool = False
    ) -> asyncio.Future[int]:
        """The QoS that the broker grants, 128 or more if it refuses; resolved at the first answer.

        again: ask the broker also where the filter is subscribed to already, so that what it retains comes once more.
        """
        check_filter(topic_filter)
        if qos not in (0, 1):
            raise LocalError(f"subscribe {topic_filter!r}: expected QoS 0 or 1, found {qos}")
        found = self._all.get(topic_filter)
        if found is None:
            if len(self._all) >= MQTT_SUBSCRIPTIONS_MAX:
                raise LimitError(f"MQTT_SUBSCRIPTIONS_MAX: {MQTT_SUBSCRIPTIONS_MAX} topic filters are subscribed to")
            found = _Subscription(topic_filter, qos, asyncio.get_running_loop().create_future())
            self._all[topic_filter] = found
            ask = True
        else:
            ask = again or qos > found.qos
            found.qos = max(qos, found.qos)
        found.handlers.append(handler)
        self._matcher.add(topic_filter, handler)
        if ask and link is not None:
            self._ask(link, [found])
        return found.granted

    def remove(self, link: Link | None, topic_filter: str, handler: Handler | None) -> None:
        """Without a handler: all of the filter's."""
        found = self._all.get(topic_filter)
        if found is None:
            return
        for each in [h for h in found.handlers if handler is None or h == handler]:
            found.handlers.remove(each)
            self._matcher.remove(topic_filter, each)
        if not found.handlers:
            del self._all[topic_filter]
            found.granted.cancel()
            if link is not None:
                link.unsubscribe([topic_filter])

    @property
    def is_asking(self) -> bool:
        """The broker has not answered every subscription yet."""
        return bool(self._asked)

    def renew(self, link: Link) -> None:
        """On a new connection: everything once more."""
        self._asked.clear()
        everything = list(self._all.values())
        for i in range(0, len(everything), FILTERS_A_PACKET):
            self._ask(link, everything[i : i + FILTERS_A_PACKET])

    def leave(self, link: Link) -> None:
        """Hear nothing new on this connection: another one is subscribed to everything."""
        filters = list(self._all)
        for i in range(0, len(filters), FILTERS_A_PACKET):
            link.unsubscribe(filters[i : i + FILTERS_A_PACKET])

    def _ask(self, link: Link, some: Sequence[_Subscription]) -> None:
        mid = link.subscribe([(each.topic_filter, each.qos) for each in some])
        if mid is not None:
            self._asked[mid] = list(some)

    def granted(self, mid: int, codes: Sequence[int]) -> None:
        for subscription, code in zip(self._asked.pop(mid, []), codes, strict=False):
            self.refused += code >= 128
            if not subscription.granted.done():
                subscription.granted.set_result(code)

    def deliver(self, incoming: Incoming) -> None:
        self.received += 1
        self.received_bytes += len(incoming.payload)
        handlers = self._matcher.find(incoming.topic)
        if not handlers:
            self.unmatched += 1
            return
        for handler in tuple(handlers):
            try:
                handler(incoming)
            except Exception as error:
                self.handler_errors += 1
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"mqtt: the handler of {incoming.topic} failed", "exception": error}
                )

    def stats(self) -> dict[str, Any]:
        return {
            "subscriptions": len(self._all),
            "subscriptions_refused": self.refused,
            "received": self.received,
            "received_bytes": self.received_bytes,
            "unmatched": self.unmatched,
            "handler_errors": self.handler_errors,
        }
