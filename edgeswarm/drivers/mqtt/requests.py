"""Request and answer with a deadline: an id, a bounded table of who waits, and expiry.

MQTT 5 carries the id as correlation data and the topic of the answer as response topic; MQTT 3.1.1 has neither, so
there, and wherever messages are sealed, the caller puts both into the payload and says with `id_of` where to find the
id in an answer.  An id is 16 random bytes: who has not seen the request cannot answer it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from edgeswarm.drivers.mqtt.properties import Incoming
from edgeswarm.drivers.mqtt.queue import Priority
from edgeswarm.drivers.mqtt.transport import Transport
from edgeswarm.errors import LimitError, LocalError, RemoteError
from edgeswarm.limits import MQTT_REQUESTS_MAX

T = TypeVar("T")
ID_BYTES = 16


class NoAnswerError(RemoteError):
    """A request was not answered by its deadline; whether it was carried out is unknown."""


class Waiting(Generic[T]):
    """Who waits for which answer: at most `waiting_max`, each until its deadline."""

    def __init__(self, *, waiting_max: int = MQTT_REQUESTS_MAX, draw: Callable[[int], bytes] = os.urandom) -> None:
        self.answered = 0
        self.expired = 0
        self.late = 0
        self._waiting_max = waiting_max
        self._draw = draw
        self._futures: dict[bytes, asyncio.Future[T]] = {}

    def __len__(self) -> int:
        return len(self._futures)

    def open(self) -> bytes:
        """A new id; LimitError if too many wait already."""
        if len(self._futures) >= self._waiting_max:
            raise LimitError(f"MQTT_REQUESTS_MAX: {self._waiting_max} requests wait for their answers")
        id_ = self._draw(ID_BYTES)
        if id_ in self._futures:
            raise LocalError("a request id was drawn twice: the source of random bytes is broken")
        self._futures[id_] = asyncio.get_running_loop().create_future()
        return id_

    async def wait(self, id_: bytes, *, deadline_s: float, who: str) -> T:
        """The answer to `id_`, which `open` made; NoAnswerError after deadline_s.  Forgets the id in any case."""
        try:
            async with asyncio.timeout(deadline_s):
                return await self._futures[id_]
        except TimeoutError:
            self.expired += 1
            raise NoAnswerError(f"no answer within {deadline_s:g} s", who=who) from None
        finally:
            self._futures.pop(id_, None)

    def resolve(self, id_: bytes | None, answer: T) -> bool:
        """Whether somebody waited for it; an answer that comes late, twice or unasked is counted and forgotten."""
        future = self._futures.get(id_) if id_ is not None else None
        if future is None or future.done():
            self.late += 1
            return False
        self.answered += 1
        future.set_result(answer)
        return True

    def forget(self, id_: bytes) -> None:
        """The request could not be sent."""
        self._futures.pop(id_, None)

    def close(self) -> None:
        """Nobody answers any more: who waits is cancelled."""
        for future in self._futures.values():
            future.cancel()

    def stats(self) -> dict[str, Any]:
        return {"waiting": len(self), "answered": self.answered, "expired": self.expired, "late": self.late}


def correlation_of(incoming: Incoming) -> bytes | None:
    return incoming.properties.correlation if incoming.properties is not None else None


class Requests:
    """Over a transport.  response_topic: where answers come to us; id_of: the request's id in an answer."""

    def __init__(
        self,
        transport: Transport,
        response_topic: str,
        *,
        id_of: Callable[[Incoming], bytes | None] = correlation_of,
        waiting_max: int = MQTT_REQUESTS_MAX,
    ) -> None:
        self.waiting: Waiting[Incoming] = Waiting(waiting_max=waiting_max)
        self._transport, self._response_topic, self._id_of = transport, response_topic, id_of
        transport.subscribe(response_topic, self._answered, qos=1)

    async def request(
        self,
        topic: str,
        payload: bytes | Callable[[bytes], bytes],
        deadline_s: float,
        *,
        priority: Priority = Priority.MEDIUM,
    ) -> Incoming:
        """The answer, or NoAnswerError.  payload: a function of the id where the id travels inside."""
        id_ = self.waiting.open()
        try:
            body = payload if isinstance(payload, bytes) else payload(id_)
            self._transport.publish(
                topic,
                body,
                priority=priority,
                qos=1,
                expiry_s=deadline_s,
                response_topic=self._response_topic,
                correlation=id_,
            )
        except BaseException:
            self.waiting.forget(id_)
            raise
        return await self.waiting.wait(id_, deadline_s=deadline_s, who=topic)

    def _answered(self, incoming: Incoming) -> None:
        self.waiting.resolve(self._id_of(incoming), incoming)

    def close(self) -> None:
        self._transport.unsubscribe(self._response_topic, self._answered)
        self.waiting.close()


def respond(transport: Transport, request: Incoming, payload: bytes, *, priority: Priority = Priority.MEDIUM) -> bool:
    """Answer a request that came by MQTT 5; False if it says not where to."""
    properties = request.properties
    if properties is None or properties.response_topic is None:
        return False
    try:
        transport.publish(
            properties.response_topic, payload, priority=priority, qos=1, correlation=properties.correlation
        )
    except LocalError:
        return False  # the asker named a topic that nothing can be published to
    return True
