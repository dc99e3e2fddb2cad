"""The bounded queue between a source and its agent, and what happens when it is full.

Three policies, one per stream, declared in the agent file:
`block`        push refuses; the caller keeps the row and holds its source back until there is room
`drop_oldest`  the oldest row makes room
`latest_only`  at most one row is kept, the newest
Invariants: len(queue) <= rows; pushed == taken + dropped + len(queue); rows leave in the order they came.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

from edgeswarm.errors import LimitError
from edgeswarm.limits import FLOAT32_MAX, QUEUE_ROWS_MAX

Policy = Literal["block", "drop_oldest", "latest_only"]
Row = tuple[float, ...]


class Sample(NamedTuple):
    """One row of a source: `at_ns` is time.monotonic_ns() at its origin, and travels to the decision."""

    at_ns: int
    values: Row


def row_fault(values: Sequence[float], width: int) -> str:
    """What keeps these values from being a row of `width` float32: "width", "nan", "infinity", "too_large"; else ""."""
    if len(values) != width:
        return "width"
    largest = 0.0
    for value in values:
        if value != value:
            return "nan"
        largest = max(largest, abs(value))
    if largest == math.inf:
        return "infinity"
    return "too_large" if largest > FLOAT32_MAX else ""


class Pushed(NamedTuple):
    """What became of a push: `accepted` is False only under `block`; `dropped` rows made room for this one."""

    accepted: bool
    dropped: int


TAKEN_IN = Pushed(accepted=True, dropped=0)
REFUSED = Pushed(accepted=False, dropped=0)
DISPLACED = Pushed(accepted=True, dropped=1)


class RowQueue:
    """Samples in order, at most `rows` of them.  `items` may be read and popped from the left by the owner."""

    __slots__ = ("_block", "dropped", "items", "policy", "pushed", "rows")

    def __init__(self, policy: Policy, rows: int) -> None:
        if not 1 <= rows <= QUEUE_ROWS_MAX:
            raise LimitError(f"queue rows: expected 1 to {QUEUE_ROWS_MAX}, found {rows}")
        self.policy = policy
        self.rows = 1 if policy == "latest_only" else rows
        self.items: deque[Sample] = deque()
        self.pushed = 0
        self.dropped = 0
        self._block = policy == "block"

    def push(self, sample: Sample) -> Pushed:
        """Take `sample` in, under the policy."""
        items = self.items
        if len(items) < self.rows:
            items.append(sample)
            self.pushed += 1
            return TAKEN_IN
        if self._block:
            return REFUSED
        items.popleft()
        items.append(sample)
        self.pushed += 1
        self.dropped += 1
        return DISPLACED

    def pop(self) -> Sample | None:
        """The oldest sample, or None."""
        return self.items.popleft() if self.items else None

    @property
    def full(self) -> bool:
        """True when the next push would be refused or would displace a row."""
        return len(self.items) >= self.rows

    def adopt(self, other: RowQueue) -> None:
        """Take over what waits in `other`, and its counts; under a dropping policy at most `rows` of it stay."""
        self.items, other.items = other.items, deque()
        self.pushed, self.dropped = other.pushed, other.dropped
        while not self._block and len(self.items) > self.rows:
            self.items.popleft()
            self.dropped += 1

    def __len__(self) -> int:
        return len(self.items)
