"""The stream of one agent, on its way out of this device: batched, and stopped where the fencing rule says so.

Invariant: rows == sent + waiting + early + fenced + malformed + unsent: what the agent emitted is counted once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from edgeswarm.agentfile.wiring import PublishSpec
from edgeswarm.app.pump import AgentFlow
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import REMOTE_BATCH_MS_DEFAULT, STREAM_BULK_BYTES, STREAM_EARLY_ROWS_MAX
from edgeswarm.stream.queue import Row
from edgeswarm.stream.remote import Publisher

NOT_YET: Final = -1
"""As an epoch: the cell has placed the agent here, and this device has not noted that it runs."""


def is_bulk(width: int, rows: int) -> bool:
    """All messages of a stream go over one connection, so that they stay in order."""
    return 4 * width * rows > STREAM_BULK_BYTES


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
        self._counts = dict.fromkeys(("rows", "sent", "fenced", "malformed", "unsent", "messages"), 0)

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
        """Send what waits; the flow's rows stay here from now on."""
        self.flush()
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
        """A message whose epoch is over by now stays here."""
        rows, self._waiting = self._waiting, 0
        if self._permit() != publisher.epoch:
            self._counts["fenced"] += rows
            return
        try:
            self._send(data, -(-publisher.expire_ms // 1000), is_bulk(publisher.width, publisher.rows_max))
        except EdgeSwarmError:
            self._counts["unsent"] += rows
            return
        self._counts["messages"] += 1
        self._counts["sent"] += rows

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
        return {**self._counts, "waiting": self._waiting, "early": len(self._early)}
