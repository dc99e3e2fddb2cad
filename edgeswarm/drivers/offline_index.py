"""Which messages are stored, in memory: the order they are taken in, the bounds, and what has to go when they are met.

Invariants: bytes == sum of the items' sizes <= bytes_max and len(index) <= messages_max after make_room() said yes;
of the retained messages of one topic one is in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from edgeswarm.drivers.mqtt.queue import Priority
from edgeswarm.drivers.offline_db import Row
from edgeswarm.limits import OFFLINE_OVERHEAD_BYTES

REASONS: Final = ("full", "expired", "age", "superseded", "too_large", "disk")
_LOOK_S: Final = 1.0  # between two passes over everything that is stored


class Item:
    """One message.  born, ends: seconds of the monotonic clock; payload: None when it is on disk only."""

    __slots__ = ("born", "ends", "id", "payload", "priority", "qos", "retain", "size", "topic", "written")

    def __init__(self, row: Row, *, born: float, ends: float | None, payload: bytes | None) -> None:
        self.id, self.topic, self.priority = row.id, row.topic, row.priority
        self.qos, self.retain, self.size = row.qos, bool(row.retain), row.size
        self.born, self.ends, self.payload = born, ends, payload
        self.written = payload is None

    def row(self, now: float, wall: float) -> Row:
        """As it is kept on disk, where the monotonic clock means nothing."""
        ends = None if self.ends is None else wall + self.ends - now
        created = wall - (now - self.born)
        return Row(self.id, self.topic, self.priority, self.qos, int(self.retain), self.size, created, ends)


class Index:
    """removed: told of each item that goes, whatever the reason."""

    def __init__(self, *, bytes_max: int, messages_max: int, age_s_max: float, removed: Callable[[Item], None]) -> None:
        self.bytes_max, self.messages_max, self.age_s_max = bytes_max, messages_max, age_s_max
        self.bytes = 0
        self.dropped: dict[tuple[int, str], int] = {(p, reason): 0 for p in Priority for reason in REASONS}
        self._removed = removed
        self._classes: tuple[dict[int, Item], ...] = tuple({} for _ in Priority)
        self._retained: dict[str, Item] = {}
        self._looked = -_LOOK_S

    def __len__(self) -> int:
        return sum(map(len, self._classes))

    def __iter__(self) -> Iterator[Item]:
        """In the order of take(): class by class, the oldest first."""
        for items in self._classes:
            yield from items.values()

    def __contains__(self, item: Item) -> bool:
        return item.id in self._classes[item.priority]

    def find(self, id_: int) -> Item | None:
        for items in self._classes:
            if (item := items.get(id_)) is not None:
                return item
        return None

    def head(self, max_bytes: int) -> list[Item]:
        """The next items whose payloads have at most max_bytes, but one if there is any."""
        head: list[Item] = []
        total = 0
        for item in self:
            total += item.size - OFFLINE_OVERHEAD_BYTES - len(item.topic.encode())
            if head and total > max_bytes:
                break
            head.append(item)
        return head

    def add(self, item: Item) -> None:
        """A retained one takes the place of the one before it."""
        if item.retain:
            if (older := self._retained.get(item.topic)) is not None:
                self.drop(older, "superseded")
            self._retained[item.topic] = item
        self._classes[item.priority][item.id] = item
        self.bytes += item.size

    def remove(self, item: Item) -> None:
        del self._classes[item.priority][item.id]
        self.bytes -= item.size
        if self._retained.get(item.topic) is item:
            del self._retained[item.topic]
        self._removed(item)

    def drop(self, item: Item, reason: str) -> None:
        self.remove(item)
        self.count(item.priority, reason)

    def count(self, priority: int, reason: str) -> None:
        self.dropped[priority, reason] += 1

    def make_room(self, size: int, priority: int, now: float) -> bool:
        """Whether there is room for one more of `size` bytes, after all that may go for class `priority` has gone."""
        if self._fits(size):
            return True
        self.drop_outlived(now)
        for lowest in range(Priority.LOW, priority - 1, -1):
            items = self._classes[lowest]
            while items and not self._fits(size):
                self.drop(next(iter(items.values())), "full")
        return self._fits(size)

    def _fits(self, size: int) -> bool:
        return self.bytes + size <= self.bytes_max and len(self) < self.messages_max

    def drop_outlived(self, now: float) -> None:
        """A pass over everything: at most once in _LOOK_S."""
        if now < self._looked + _LOOK_S:
            return
        self._looked = now
        for items in self._classes:
            for item in list(items.values()):
                self.outlived(item, now)

    def outlived(self, item: Item, now: float) -> bool:
        """Drop the item if its time is over."""
        if item.ends is not None and item.ends <= now:
            self.drop(item, "expired")
        elif item.born + self.age_s_max <= now:
            self.drop(item, "age")
        else:
            return False
        return True
