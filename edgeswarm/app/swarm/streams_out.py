"""The stream of one agent, on its way out of this device: batched, stopped where the fencing rule says so, and no
faster than the agent's bandwidth: what exceeds it waits until it expires, the oldest goes when there is too much.

Invariant: rows == sent + waiting + early + fenced + malformed + unsent: what the agent emitted is counted once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from edgeswarm.agentfile.wiring import PublishSpec
from edgeswarm.app.pump import AgentFlow
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import (
    BANDWIDTH_WAITING_BYTES_MAX,
    REMOTE_BATCH_MS_DEFAULT,
    STREAM_BULK_BYTES,
    STREAM_EARLY_ROWS_MAX,
)
from edgeswarm.stream.bucket import TokenBucket
from edgeswarm.stream.queue import Row
from edgeswarm.stream.remote import Publisher

_HELD_S_MIN: Final = 0.001
NOT_YET: Final = -1
"""As an epoch: the cell has placed the agent here, and this device has not noted that it runs."""


def is_bulk(width: int, rows: int) -> bool:
    """All messages of a stream go over one connection, so that they stay in order."""
    return 4 * width * rows > STREAM_BULK_BYTES


class _Message(NamedTuple):
    """One that may have to wait.  until_ms: wall clock after which nobody wants it."""

    data: bytes
    rows: int
    epoch: int
    until_ms: int
    bulk: bool


class Outlet:
    """permit: the epoch under which the agent may speak now, NOT_YET, or None.  send: (payload, expiry in s, bulk).

    now_ms: the wall clock.
    """

    def __init__(
        self,
        name: str,
        *,
        permit: Callable[[], int | None],
        send: Callable[[bytes, int, bool], None],
        now_ms: Callable[[], int],
    ) -> None:
        self.name = name
        self._permit, self._send, self._now_ms = permit, send, now_ms
        self.flow: AgentFlow | None = None
        self._spec: PublishSpec | None = None
        self._publisher: Publisher | None = None
        self._life = 0
        self._batch_ms = 0
        self._waiting = 0  # rows in the publisher
        self._early: deque[tuple[Row, int]] = deque()  # row, wall clock when it was made
        self._timer: asyncio.TimerHandle | None = None
        self._counts = dict.fromkeys(("rows", "sent", "fenced", "malformed", "unsent", "messages", "put_off"), 0)
        self._held: deque[_Message] = deque()  # that wait for the agent's bandwidth
        self._held_bytes = 0
        self._held_timer: asyncio.TimerHandle | None = None

    def attach(self, flow: AgentFlow, spec: PublishSpec, width: int) -> None:
        """From now on this flow's rows go out.  Another flow, width or spec begins another life of the stream."""
        if flow is self.flow and spec == self._spec and self._publisher and width == self._publisher.width:
            return
        self.detach()
        self._life = max(self._life + 1, self._now_ms())
        self._publisher = Publisher(
            self.name, width=width, life=self._life, rows=spec.rows, batch_ms=spec.batch_ms, expire_ms=spec.expire_ms
        )
        self.flow, self._spec, self._batch_ms = flow, spec, spec.batch_ms
        flow.exports.append(self._take)

    def detach(self) -> None:
        """Send what waits, as far as its bandwidth goes; the flow's rows stay here from now on."""
        self.flush()
        while self._held:
            self._drop_held()
        if self._held_timer is not None:
            self._held_timer.cancel()
            self._held_timer = None
        if self.flow is not None and self._take in self.flow.exports:
            self.flow.exports.remove(self._take)
        self._counts["fenced"] += len(self._early)
        self._early.clear()
        self.flow = self._spec = self._publisher = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take(self, row: Row, at_ns: int, /) -> None:
        """One row of the agent, made at at_ns of time.monotonic_ns()."""
        publisher = self._publisher
        if publisher is None:
            return
        self._counts["rows"] += 1
        now_ms = self._now_ms()
        age_ms = max(0, time.monotonic_ns() - at_ns) // 1_000_000
        if not self._waiting and not self._admit(publisher):
            self._refuse(row, now_ms - age_ms)
            return
        self._add(publisher, row, now_ms, age_ms)
        self._arm()

    def _admit(self, publisher: Publisher) -> bool:
        """May a message be begun now?  Rows that came too early for it go first."""
        epoch = self._permit()
        if epoch is None or epoch == NOT_YET:
            return False
        publisher.epoch = epoch
        early, self._early = self._early, deque()
        now_ms = self._now_ms()
        for row, made_ms in early:
            self._add(publisher, row, now_ms, max(0, now_ms - made_ms))
        return True

    def _refuse(self, row: Row, made_ms: int) -> None:
        if self._permit() != NOT_YET:
            self._counts["fenced"] += 1 + len(self._early)
            self._early.clear()
            return
        self._early.append((row, made_ms))
        if len(self._early) > STREAM_EARLY_ROWS_MAX:
            self._early.popleft()
            self._counts["fenced"] += 1
        self._arm()

    def _add(self, publisher: Publisher, row: Row, now_ms: int, age_ms: int) -> None:
        before = publisher.malformed
        data = publisher.add(row, now_ms, age_ms=age_ms)
        if publisher.malformed > before:
            self._counts["malformed"] += 1
            return
        self._waiting += 1
        if data is not None:
            self._post(publisher, data)

    def flush(self) -> None:
        """Send what waits, whole message or not."""
        publisher = self._publisher
        if publisher is None:
            return
        if self._early and not self._admit(publisher) and self._permit() != NOT_YET:
            self._counts["fenced"] += len(self._early)
            self._early.clear()
        data = publisher.flush(self._now_ms())
        if data is not None:
            self._post(publisher, data)

    def _post(self, publisher: Publisher, data: bytes) -> None:
        """Send a message, or hold it until the agent's bandwidth allows it; those that wait go first."""
        rows, self._waiting = self._waiting, 0
        bulk = is_bulk(publisher.width, publisher.rows_max)
        message = _Message(data, rows, publisher.epoch, self._now_ms() + publisher.expire_ms, bulk)
        bucket = self.flow.bandwidth if self.flow is not None else None
        if bucket is None or (not self._held and bucket.take(len(data), time.monotonic_ns())):
            self._go(message)
            return
        self._counts["put_off"] += 1
        self._held.append(message)
        self._held_bytes += len(data)
        while self._held_bytes > BANDWIDTH_WAITING_BYTES_MAX and len(self._held) > 1:
            self._drop_held()
        self._arm_held(bucket)

    def _drop_held(self) -> None:
        """The oldest message: there is no room, or no time left for it."""
        message = self._held.popleft()
        self._held_bytes -= len(message.data)
        self._counts["unsent"] += message.rows

    def _arm_held(self, bucket: TokenBucket) -> None:
        if self._held and self._held_timer is None:
            wait_s = bucket.wait_ns(len(self._held[0].data), time.monotonic_ns()) / 1e9
            self._held_timer = asyncio.get_running_loop().call_later(max(wait_s, _HELD_S_MIN), self._held_due, bucket)

    def _held_due(self, bucket: TokenBucket) -> None:
        self._held_timer = None
        while self._held:
            message = self._held[0]
            if message.until_ms <= self._now_ms():
                self._drop_held()
            elif bucket.take(len(message.data), time.monotonic_ns()):
                self._held.popleft()
                self._held_bytes -= len(message.data)
                self._go(message)
            else:
                break
        self._arm_held(bucket)

    def _go(self, message: _Message) -> None:
        """A message whose epoch is over by now stays here."""
        if self._permit() != message.epoch:
            self._counts["fenced"] += message.rows
            return
        left_ms = max(1, message.until_ms - self._now_ms())
        try:
            self._send(message.data, -(-left_ms // 1000), message.bulk)
        except EdgeSwarmError:
            self._counts["unsent"] += message.rows
            return
        self._counts["messages"] += 1
        self._counts["sent"] += message.rows

    def _arm(self) -> None:
        if self._timer is not None or self._publisher is None:
            return
        if self._waiting or self._early:
            wait_ms = self._batch_ms if self._waiting else REMOTE_BATCH_MS_DEFAULT
            self._timer = asyncio.get_running_loop().call_later(wait_ms / 1000, self._due)

    def _due(self) -> None:
        """What waits goes, also what came after the row that the timer was set for: one shorter message now and then,
        and no clock that must agree with the loop's."""
        self._timer = None
        self.flush()
        self._arm()

    def counts(self) -> dict[str, int]:
        return {
            **self._counts,
            "waiting": self._waiting + sum(one.rows for one in self._held),
            "early": len(self._early),
        }
