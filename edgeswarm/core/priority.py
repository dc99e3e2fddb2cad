"""A bounded inbox with four classes for control work.

Decides which event is handled next: the highest class first, first in first out inside a class; after
PASSED_OVER_MAX events taken over the head of a lower class, that head is taken (no class starves).  CRITICAL is
never refused, because what it carries (a jail's death, shutdown) has happened already.
Invariant: len(inbox) <= size_max + number of CRITICAL events waiting.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Generic, TypeVar

from edgeswarm.errors import LimitError

T = TypeVar("T")
PASSED_OVER_MAX = 16


class Priority(IntEnum):
    CRITICAL = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3


class PriorityInbox(Generic[T]):
    """put() and take() in O(1).  size_max: items waiting, > 0."""

    __slots__ = ("_classes", "_passed_over", "_size_max")

    def __init__(self, size_max: int) -> None:
        self._classes: tuple[deque[T], ...] = tuple(deque() for _ in Priority)
        self._passed_over = [0] * len(Priority)
        self._size_max = size_max

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._classes)

    def put(self, item: T, priority: Priority) -> None:
        """Raises LimitError when the inbox is full and the item is not CRITICAL."""
        if priority is not Priority.CRITICAL and len(self) >= self._size_max:
            raise LimitError(f"control inbox: at most {self._size_max} events wait, one more of {priority.name} came")
        self._classes[priority].append(item)

    def take(self) -> T | None:
        """The next item, or None when nothing waits."""
        chosen = self._take_class()
        if chosen is None:
            return None
        self._passed_over[chosen] = 0
        for lower in range(chosen + 1, len(Priority)):
            if self._classes[lower]:
                self._passed_over[lower] += 1
        return self._classes[chosen].popleft()

    def _take_class(self) -> int | None:
        for index in reversed(range(len(Priority))):
            if self._classes[index] and self._passed_over[index] >= PASSED_OVER_MAX:
                return index
        for index in range(len(Priority)):
            if self._classes[index]:
                return index
        return None
