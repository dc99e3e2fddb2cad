"""What waits to be sent: one bounded queue per priority class, strictly in order of class.

Invariants: at most MQTT_QUEUE_MESSAGES_MAX messages of a class and MQTT_QUEUE_BYTES_MAX bytes of all, or one message
that is larger (the snapshot of a cell); what does not fit pushes out the oldest of the lowest class that is not above
its own, and every one dropped is counted and told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

from edgeswarm.limits import MQTT_QUEUE_BYTES_MAX, MQTT_QUEUE_MESSAGES_MAX


class Priority(IntEnum):
    """swarm.md's classes: safety stop and alerts; Raft and weights; commands and state; metrics and logs."""

    CRITICAL = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message on its way out.

    expires_at: seconds of the transport's clock (monotonic), None never.  settled: told once what became of it, None
    for "acknowledged by the broker" (QoS 1), else why it was dropped.  stored: its id in offline storage, None if not
    there.
    """

    topic: str
    payload: bytes
    priority: Priority
    qos: int = 0
    retain: bool = False
    expires_at: float | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    settled: Callable[[str | None], None] | None = None
    stored: int | None = None

    @property
    def size_bytes(self) -> int:
        """What it is taken to weigh in the queue: payload, topic, and the objects around them."""
        return len(self.payload) + len(self.topic) + 256


class StoredMessage(NamedTuple):
    """A message of offline storage.  expires_at: Unix seconds, None never."""

    id: int
    topic: str
    payload: bytes
    priority: int
    qos: int
    retain: bool
    expires_at: float | None


class OfflineQueue(Protocol):
    """Store-and-forward (drivers/offline.py): called in the loop's thread, must not block for long.

    expires_at: Unix seconds, None never.  take: oldest of the highest class first, at most max_bytes of payload and
    at least one message if there is any; what is taken stays stored until `ack`, and may be taken again.
    """

    def put(
        self, topic: str, payload: bytes, priority: int, qos: int, retain: bool, expires_at: float | None
    ) -> None: ...

    def take(self, max_bytes: int) -> list[StoredMessage]: ...

    def ack(self, ids: list[int]) -> None: ...


@dataclass(slots=True)
class Drops:
    """Counters per class: full (pushed out), expired, offline (QoS 0 with nobody to take it), refused (too large)."""

    full: list[int] = field(default_factory=lambda: [0] * len(Priority))
    expired: list[int] = field(default_factory=lambda: [0] * len(Priority))
    offline: list[int] = field(default_factory=lambda: [0] * len(Priority))
    refused: list[int] = field(default_factory=lambda: [0] * len(Priority))

    def count(self, why: str, priority: Priority) -> None:
        getattr(self, why)[priority] += 1

    @property
    def total(self) -> int:
        return sum(self.full) + sum(self.expired) + sum(self.offline) + sum(self.refused)

    def as_dict(self) -> dict[str, dict[str, int]]:
        """class name -> kind -> count."""
        kinds = {"full": self.full, "expired": self.expired, "offline": self.offline, "refused": self.refused}
        return {p.name.lower(): {kind: counts[p] for kind, counts in kinds.items()} for p in Priority}


class PriorityQueue:
    """Bounded; see the module's docstring.  drops: where what is lost is counted."""

    def __init__(
        self,
        drops: Drops,
        *,
        messages_max: int = MQTT_QUEUE_MESSAGES_MAX,
        bytes_max: int = MQTT_QUEUE_BYTES_MAX,
    ) -> None:
        self._drops = drops
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._classes: tuple[deque[Outgoing], ...] = tuple(deque() for _ in Priority)
        self.size_bytes = 0

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._classes)

    def __bool__(self) -> bool:
        return self.size_bytes > 0

    def depth(self, priority: Priority) -> int:
        return len(self._classes[priority])

    def put(self, message: Outgoing, *, first: bool = False) -> None:
        """first: before the others of its class - a message that was under way when its connection broke."""
        waiting = self._classes[message.priority]
        size = message.size_bytes
        if size > self._bytes_max and self.size_bytes:
            self.drop(message, "full")
            return
        while len(waiting) >= self._messages_max:
            self.drop(self._pop(waiting), "full")
        while self.size_bytes and self.size_bytes + size > self._bytes_max:
            victims = next((c for c in reversed(self._classes) if c), None)
            if victims is None or victims[0].priority < message.priority:
                self.drop(message, "full")  # all that waits is more urgent
                return
            self.drop(self._pop(victims), "full")
        self.size_bytes += size
        if first:
            waiting.appendleft(message)
        else:
            waiting.append(message)

    def take(self, now: float, *, may_send: Callable[[Outgoing], bool]) -> Outgoing | None:
        """The next that may be sent, or None.  A class whose head may not go yet lets the lower classes go first."""
        for waiting in self._classes:
            while waiting:
                message = waiting[0]
                if message.expires_at is not None and message.expires_at <= now:
                    self.drop(self._pop(waiting), "expired")
                    continue
                if not may_send(message):
                    break
                return self._pop(waiting)
        return None

    def expire(self, now: float) -> None:
        """Drop what has expired: called now and then while nothing can be sent."""
        for waiting in self._classes:
            for _ in range(len(waiting)):
                message = self._pop(waiting)
                if message.expires_at is not None and message.expires_at <= now:
                    self.drop(message, "expired")
                else:
                    waiting.append(message)
                    self.size_bytes += message.size_bytes

    def clear(self) -> Iterator[Outgoing]:
        """All that waits, most urgent first; the queue is empty afterwards."""
        for waiting in self._classes:
            while waiting:
                yield self._pop(waiting)

    def drop(self, message: Outgoing, why: str) -> None:
        """Count a message that will not be sent, and tell whoever waits for it."""
        self._drops.count(why, message.priority)
        if message.settled is not None:
            settled, message.settled = message.settled, None
            settled(why)

    def _pop(self, waiting: deque[Outgoing]) -> Outgoing:
        message = waiting.popleft()
        self.size_bytes -= message.size_bytes
        return message
