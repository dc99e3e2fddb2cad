"""The controller's index of its fleet: hears what devices say, and keeps it where 10,000 of them are found in a moment.

Hears retained statuses and reported states, signs of life, events, metrics; takes the roster's members and the log's
labels.  The loop never waits for the disk: what was heard is put together by device and written each INDEX_FLUSH_S by
one thread, which also answers questions.  What waits is bounded: of a device the newest status counts, of events the
oldest go first, and one that talks too much loses its own; all of it is counted.
A device is silent once it was not heard for some signs of life; nobody is called silent while we hear nothing
ourselves, or after our clock was set.
Invariants: a status counts only from the device whose topic it is on; labels come from the log alone, never from what
a device claims; a broken index costs nothing but the time to fill it again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

import edgeswarm
from edgeswarm.app.fleet import index_read
from edgeswarm.app.fleet.index_rows import (
    AlertRow,
    Batch,
    EventRow,
    HeardRow,
    MemberRow,
    agent_rows,
    alert_of,
    clean,
    event_of,
    event_of_change,
    metrics_of,
    report_rows,
)
from edgeswarm.app.fleet.index_store import Store
from edgeswarm.app.swarm.post import Letter
from edgeswarm.core import selector as sel
from edgeswarm.core.cell.changes import LabelsChanged
from edgeswarm.errors import EdgeSwarmError, LimitError, RemoteError
from edgeswarm.limits import (
    FOLLOW_LINES_MAX,
    INDEX_DEVICE_EVENTS_BURST,
    INDEX_DEVICE_EVENTS_PER_S,
    INDEX_DEVICES_MAX,
    INDEX_FLUSH_S,
    INDEX_FOLLOWERS_MAX,
    INDEX_WAITING_EVENTS_MAX,
)
from edgeswarm.wire import messages as msg
from edgeswarm.wire.topics import Kind

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller

P = ParamSpec("P")
T = TypeVar("T")
SWEEP_S = 2.0
FAULT_LOG_S = 60.0
CLOCK_JUMP_S = 5.0


class Index:
    """controller: with a started node.  clock: wall time in seconds."""

    def __init__(self, controller: Controller, path: Path | None = None, *, clock: Callable[[], float] = time.time):
        self._controller, self._node, self._log = controller, controller.node, controller.log
        self._path = path or controller.folder.database
        self._clock = clock
        health = self._node.config.times.health
        self.silent_s = 2 * health.silent_ms / 1000 + 5
        self.counts: Counter[str] = Counter()
        self.on_alert: list[Callable[[AlertRow], None]] = []
        self._batch = Batch()
        self._events: deque[EventRow] = deque()
        self._alerts: deque[AlertRow] = deque()
        self._buckets: dict[str, tuple[float, float]] = {}  # device -> events that it may still tell, when that was
        self._followers: set[asyncio.Queue[EventRow]] = set()
        self._labels: dict[str, tuple[str, ...]] = {}  # as written
        self._relabel = True
        self._roster: Any = None
        self._listening_since: float | None = None  # monotonic; None: we hear nobody
        self._clock_offset = 0.0
        self._swept_at = self._own_at = self._faulted_at = -FAULT_LOG_S
        self._offs: list[Callable[[], None]] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fleet-index")
        self._store: Store | None = None
        self._task: asyncio.Task[None] | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises LocalError where no file can be made."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._store = await self._in_thread(Store, self._path)
        self._told_aside()
        node = self._node
        node.replica.listeners.append(self._changed)
        node.replica.restored.append(self._restored)
        topics = node.topics
        self._offs = [
            node.post.on(topics.statuses(), self._status, qos=1),
            node.post.on(f"{topics.start}/device/+/reported", self._reported, qos=1),
            node.post.on(topics.events(), self._event),
        ]
        self._clock_offset = self._clock() - time.monotonic()
        await self.flush()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        for off in self._offs:
            off()
        node = self._node
        if self._changed in node.replica.listeners:
            node.replica.listeners.remove(self._changed)
            node.replica.restored.remove(self._restored)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self.flush()
        if self._store is not None:
            await self._in_thread(self._store.close)
        self._pool.shutdown(wait=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INDEX_FLUSH_S)
            try:
                await self.flush()
            except Exception as error:  # whatever it is, the next batch is tried
                self._log.crash("fleet_index_fault", error)

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **kwargs))

    # --- what is heard ------------------------------------------------------------------------------------------------

    def _status(self, letter: Letter) -> None:
        _check_own_topic(letter)
        status = msg.decode_at(letter.topic, letter.payload, who=letter.sender)
        assert isinstance(status, msg.DeviceStatus)
        seen_s = 0 if letter.retained or status.state == "offline" else int(self._clock())
        self._heard(HeardRow.of_status(letter.sender, status, seen_s))

    def _reported(self, letter: Letter) -> None:
        _check_own_topic(letter)
        reported = msg.decode_at(letter.topic, letter.payload, who=letter.sender)
        assert isinstance(reported, msg.ReportedState)
        if self._room(self._batch.reported, letter.sender):
            self._batch.reported[letter.sender] = agent_rows(reported.agents)
            self._batch.reports[letter.sender] = report_rows(letter.sender, reported, self._clock())

    def _event(self, letter: Letter) -> None:
        if letter.retained:
            return  # an event happens once: a retained one would happen again at each start
        message = msg.decode_at(letter.topic, letter.payload, who=letter.sender)
        sender, now = letter.sender, self._clock()
        match message:
            case msg.Health():
                self._heard(HeardRow.of_health(sender, message, int(now)))
                return
            case msg.Metrics():
                if self._room(self._batch.metrics, sender):
                    self._batch.metrics[sender] = metrics_of(message)
                return
            case msg.AgentLifecycle() | msg.Alert() if message.device != sender:
                raise RemoteError(f"{letter.topic.name}: expected one of the device itself, found {message.device}")
            case msg.ProgressUpdate() | msg.NeuralUpdate() | msg.ArtefactOffer() | msg.Batch():
                return  # traffic of the cell at work, nothing to look back at
        if not self._may_tell(sender):
            self.counts["events_over_rate"] += 1
            return
        priority = letter.topic.priority
        self.tell(event_of(letter.topic.name, priority, sender, message, now))
        if priority == "critical":
            self.alert(alert_of(letter.topic.name, sender, message, now))

    def _heard(self, row: HeardRow) -> None:
        if self._room(self._batch.heard, row.device):
            known = self._batch.heard.get(row.device)
            self._batch.heard[row.device] = row if known is None else known.before(row)
            self.counts["heard"] += 1

    def _room(self, waiting: dict[str, Any], device: str) -> bool:
        """Senders are of the roster, so this holds unless rosters change wildly."""
        if device in waiting or len(waiting) < INDEX_DEVICES_MAX:
            return True
        self.counts["states_dropped"] += 1
        return False

    def _may_tell(self, device: str) -> bool:
        """A token bucket of each device: one that floods drops its own events, nobody else's."""
        now = time.monotonic()
        left, at = self._buckets.get(device, (float(INDEX_DEVICE_EVENTS_BURST), now))
        left = min(float(INDEX_DEVICE_EVENTS_BURST), left + (now - at) * INDEX_DEVICE_EVENTS_PER_S)
        if len(self._buckets) >= INDEX_DEVICES_MAX and device not in self._buckets:
            self._buckets.clear()
        self._buckets[device] = (left - 1 if left >= 1 else left, now)
        return left >= 1

    def tell(self, event: EventRow) -> None:
        """An event, of a device or of a part of the controller."""
        if len(self._events) >= INDEX_WAITING_EVENTS_MAX:
            self._events.popleft()
            self.counts["events_dropped"] += 1
        self._events.append(event)
        self._pass_on(event)

    def _pass_on(self, event: EventRow) -> None:
        for queue in self._followers:
            if queue.full():
                self.counts["followers_dropped"] += 1
            else:
                queue.put_nowait(event)

    def alert(self, alert: AlertRow) -> None:
        """Something that somebody should look at."""
        if len(self._alerts) >= INDEX_WAITING_EVENTS_MAX:
            self._alerts.popleft()
            self.counts["alerts_dropped"] += 1
        self._alerts.append(alert)
        for listener in self.on_alert:
            listener(alert)

    def _changed(self, changes: Sequence[Any]) -> None:
        for change in changes:
            if isinstance(change, LabelsChanged):
                self._relabel = True
            elif (event := event_of_change(change, self._clock())) is not None:
                self.tell(event)

    def _restored(self) -> None:
        self._relabel = True

    # --- writing ------------------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write what was heard until now."""
        assert self._store is not None
        batch, now, monotonic = self._gather(), self._clock(), time.monotonic()
        before_s = self._silent_before(now, monotonic)
        sweeps = before_s is not None and monotonic - self._swept_at >= SWEEP_S
        if not batch and not sweeps:
            return
        if sweeps:
            self._swept_at = monotonic
        try:
            told = await self._in_thread(
                self._store.write, batch, now_s=now, silent_before_s=before_s if sweeps else None
            )
        except SQLAlchemyError as error:
            await self._failed(batch, error)
            return
        self.counts["batches"] += 1
        for event in told:
            self._pass_on(event)

    def _gather(self) -> Batch:
        batch, self._batch = self._batch, Batch()
        batch.events, batch.alerts = list(self._events), list(self._alerts)
        self._events.clear()
        self._alerts.clear()
        roster = self._node.rosters.current
        if roster is not self._roster:
            self._roster, self._relabel = roster, True
            batch.members = {member.entry.device: MemberRow.of(member) for member in roster.members}
        if self._relabel:
            self._relabel = False
            now = getattr(self._node.replica.state, "labels", {})
            labels = {device: tuple(clean(one) for one in now.get(device, ())) for device in roster.devices()}
            batch.labels = {device: some for device, some in labels.items() if self._labels.get(device) != some}
            self._labels = labels
        own = self._node.config.device  # brokers do not bring us what we say
        if time.monotonic() - self._own_at >= SWEEP_S:
            self._own_at = time.monotonic()
            batch.heard[own] = HeardRow(own, int(self._clock()), "online", self._own_facts())
        return batch

    def _own_facts(self) -> dict[str, Any]:
        node = self._node
        offer = node.reports.capabilities()
        return {
            "tier": offer.tier,
            "profile": offer.profile,
            "architecture": offer.architecture,
            "software": f"edgeswarm {edgeswarm.__version__}",
            "uptime_s": node.uptime_s,
            "applied": node.replica.index,
            "roster_version": node.rosters.current.version,
        }

    def _silent_before(self, now: float, monotonic: float) -> float | None:
        """Who was last heard before this is silent; None while nobody can say."""
        if not self._node.transport.is_connected:
            self._listening_since = None
            return None
        if abs(now - monotonic - self._clock_offset) > CLOCK_JUMP_S:
            self._clock_offset, self._listening_since = now - monotonic, None
        if self._listening_since is None:
            self._listening_since = monotonic
        return now - self.silent_s if monotonic - self._listening_since >= self.silent_s else None

    async def _failed(self, batch: Batch, error: SQLAlchemyError) -> None:
        """A full or broken disk: states are written with the next batch, events of this one are lost and counted."""
        assert self._store is not None
        self.counts["batches_failed"] += 1
        self.counts["events_dropped"] += len(batch.events)
        self.counts["alerts_dropped"] += len(batch.alerts)
        for device, row in batch.heard.items():
            newer = self._batch.heard.get(device)
            self._batch.heard[device] = row if newer is None else row.before(newer)
        self._batch.reported = {**batch.reported, **self._batch.reported}
        self._batch.metrics = {**batch.metrics, **self._batch.metrics}
        self._batch.reports = {**batch.reports, **self._batch.reports}
        self._roster, self._labels = None, {}
        now = time.monotonic()
        if now - self._faulted_at >= FAULT_LOG_S:
            self._faulted_at = now
            self._log.error("fleet_index_not_written", error=str(getattr(error, "orig", None) or error)[:300])
        if isinstance(error, DatabaseError) and any(word in str(error) for word in ("malformed", "not a database")):
            try:
                await self._in_thread(self._store.renew, error)
                self._told_aside()
            except (EdgeSwarmError, SQLAlchemyError) as fault:
                self._log.error("fleet_index_not_made", error=str(fault)[:300])

    def _told_aside(self) -> None:
        assert self._store is not None
        if self._store.set_aside:
            self._log.warning("fleet_index_made_anew", path=str(self._path), why=self._store.set_aside)
            self._store.set_aside = ""

    # --- asking -------------------------------------------------------------------------------------------------------

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work(connection, ...)` of index_read, in the index's thread."""
        return await self._in_thread(self._reading, lambda run: work(run, *args, **kwargs))

    def _reading(self, work: Callable[[Connection], T]) -> T:
        assert self._store is not None
        try:
            with self._store.connection.begin():
                return work(self._store.connection)
        except SQLAlchemyError as error:
            raise RemoteError(f"fleet index: {str(getattr(error, 'orig', None) or error)[:200]}") from None

    async def select(self, selector: str, *, seed: str = "") -> tuple[str, ...]:
        """Ids of the devices of the roster that match now, sorted.  Raises SelectorError, LimitError."""
        parsed = sel.parse(selector)
        await self.flush()
        return tuple(await self.read(index_read.ids, parsed, seed=seed))

    async def summarise(self, events_s: float, busiest: int) -> dict[str, Any]:
        """Totals; events_s: how far back events are counted."""
        await self.flush()
        return await self.read(index_read.summary, since_s=self._clock() - events_s, busiest=busiest)

    async def acknowledge(self, ids: Sequence[int], who: str) -> list[int]:
        """Those that were open."""
        assert self._store is not None
        return await self._in_thread(self._store.acknowledge, list(ids), who, self._clock())

    async def follow(self, wanted: Callable[[EventRow], bool]) -> AsyncGenerator[EventRow, None]:
        """Events from now on.  Raises LimitError."""
        if len(self._followers) >= INDEX_FOLLOWERS_MAX:
            raise LimitError(f"events: at most {INDEX_FOLLOWERS_MAX} follow at one time (INDEX_FOLLOWERS_MAX)")
        queue: asyncio.Queue[EventRow] = asyncio.Queue(FOLLOW_LINES_MAX)
        self._followers.add(queue)
        try:
            while True:
                event = await queue.get()
                if wanted(event):
                    yield event
        finally:
            self._followers.discard(queue)


def _check_own_topic(letter: Letter) -> None:
    assert letter.topic.kind in (Kind.STATUS, Kind.REPORTED)
    if letter.topic.device != letter.sender:
        raise RemoteError(f"{letter.topic}: expected the signature of {letter.topic.device}, found {letter.sender}")
