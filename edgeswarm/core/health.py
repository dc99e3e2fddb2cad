"""Which devices live, told from their registers: the leader's view, and what to propose about it.

A device speaks at least each status_ms; each message carries (boot, counter), which only grows, so that an old retained
message or a replay is no sign of life.  A device is suspect after suspect_ms of silence, given up after silent_ms, or,
when the broker tells its last will, will_ms after that, unless it is heard again.  One that said that it goes away
for a moment is given up no earlier than it said.
Flapping is damped: a device that came back and is lost again within flap_ms must be heard for twice as long as the time
before until it counts as back, back_ms at first, back_ms_max at most.
Costs: a message is O(1), because it makes deadlines later and leaves them where they are in a heap; one that comes due
looks whether it still holds, which for a healthy device is once per suspect_ms, O(log devices).
Leaves to the app: proposing (a proposal may get lost, `due` repeats what the cell has not confirmed), and the lease
(will_ms and silent_ms must be longer, `core/cell/fencing.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from heapq import heappop, heappush

from edgeswarm.errors import LimitError, LocalError
from edgeswarm.limits import HEALTH_DEVICES_MAX


@dataclass(frozen=True, slots=True)
class HealthTiming:
    """Milliseconds.  status_ms: how often a device speaks at least."""

    status_ms: float
    suspect_ms: float
    silent_ms: float
    will_ms: float
    back_ms: float
    back_ms_max: float
    flap_ms: float
    repeat_ms: float
    """After which an event that the cell has not confirmed is told again."""
    lease_ms: float
    """How long a device may run agents without having heard the leader (`core/cell/fencing.py`)."""

    def faults(self) -> list[str]:
        """What does not fit together; the profiles below have none."""
        found = []
        if not 0 < self.status_ms < self.suspect_ms < self.silent_ms:
            found.append("expected 0 < status_ms < suspect_ms < silent_ms")
        if self.will_ms < self.lease_ms:
            found.append("expected will_ms >= lease_ms: a last will comes before the lease is over")
        if self.lease_ms > self.silent_ms - self.status_ms:
            found.append("expected lease_ms <= silent_ms - status_ms")
        if not 0 <= self.back_ms <= self.back_ms_max:
            found.append("expected 0 <= back_ms <= back_ms_max")
        return found


LAN = HealthTiming(
    status_ms=250,
    suspect_ms=600,
    silent_ms=1_500,
    will_ms=1_000,
    back_ms=200,
    back_ms_max=10_000,
    flap_ms=30_000,
    repeat_ms=1_000,
    lease_ms=1_000,
)
DEFAULT = HealthTiming(
    status_ms=10_000,
    suspect_ms=20_000,
    silent_ms=30_000,
    will_ms=15_000,
    back_ms=2_000,
    back_ms_max=300_000,
    flap_ms=600_000,
    repeat_ms=5_000,
    lease_ms=15_000,
)


class Life(IntEnum):
    ALIVE = 0
    SUSPECT = 1
    """Silent for longer than usual: nothing new goes there, nothing is taken away."""
    DEAD = 2
    RETURNING = 3
    """Heard again after it was given up, not for long enough yet."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Propose DeviceLost.  silent_ms: since it was last heard; will: the broker told its last will."""

    device: str
    silent_ms: float
    will: bool


@dataclass(frozen=True, slots=True)
class Back:
    """Propose DeviceBack."""

    device: str


@dataclass(frozen=True, slots=True)
class Suspected:
    """For the log and for placement; nothing is proposed."""

    device: str
    silent_ms: float


Event = Lost | Back | Suspected


@dataclass(slots=True)
class _Watch:
    life: Life
    heard_at: float
    since: float
    """When it came to this life."""
    wait_ms: float
    """How long it must be heard before it counts as back."""
    boot: int = -1
    counter: int = -1
    will_at: float | None = None
    away_until: float = 0.0
    """It said that it is silent until then."""
    asked_at: float | None = None
    """When an event was told that the cell has not confirmed yet."""
    back_at: float | None = None
    queued_at: float | None = None
    """Time of the one item of the heap that counts."""


class Health:
    """The devices of a cell as one leader hears them.  now: ms of the monotonic clock, never falling."""

    def __init__(self, timing: HealthTiming) -> None:
        faults = timing.faults()
        if faults:
            raise LocalError(f"health timing: {'; '.join(faults)}")
        self.timing = timing
        self.stale = 0
        """Messages that were no sign of life: no newer than what had been heard."""
        self._watches: dict[str, _Watch] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._watches)

    def life(self, device: str) -> Life | None:
        """None: the device is not watched."""
        watch = self._watches.get(device)
        return watch.life if watch is not None else None

    def heard_at(self, device: str) -> float | None:
        """ms of the monotonic clock."""
        watch = self._watches.get(device)
        return watch.heard_at if watch is not None else None

    # --- what the cell says -------------------------------------------------------------------------------------------

    def watch(self, device: str, now: float, *, alive: bool) -> None:
        """The cell has this device as alive or lost: said of all by a new leader, and after each change of that flag.

        Silence counts from the first call on.  Raises LimitError past HEALTH_DEVICES_MAX.
        """
        watch = self._watches.get(device)
        if watch is None:
            if len(self._watches) >= HEALTH_DEVICES_MAX:
                raise LimitError(f"health: at most {HEALTH_DEVICES_MAX} devices, one more is {device}")
            life = Life.ALIVE if alive else Life.DEAD
            watch = self._watches[device] = _Watch(life, heard_at=now, since=now, wait_ms=self.timing.back_ms)
        elif alive and watch.life in (Life.DEAD, Life.RETURNING):
            watch.life, watch.since, watch.heard_at, watch.back_at = Life.ALIVE, now, now, now
            watch.will_at = watch.asked_at = None
        elif not alive and watch.life in (Life.ALIVE, Life.SUSPECT):
            flaps = watch.back_at is not None and now - watch.back_at < self.timing.flap_ms
            watch.wait_ms = min(2 * watch.wait_ms, self.timing.back_ms_max) if flaps else self.timing.back_ms
            watch.life, watch.since = Life.DEAD, now
            watch.will_at = watch.asked_at = None
        self._queue(device, watch)

    def forget(self, device: str) -> None:
        """The device has left the cell."""
        self._watches.pop(device, None)  # its items of the heap will find nothing

    # --- what is heard ------------------------------------------------------------------------------------------------

    def heard(self, device: str, boot: int, counter: int, now: float) -> bool:
        """A verified message of the device's own; True when it is a sign of life: newer than all before it."""
        watch = self._watches.get(device)
        if watch is None:
            return False
        if (boot, counter) <= (watch.boot, watch.counter):
            self.stale += 1
            return False
        watch.boot, watch.counter, watch.heard_at, watch.away_until = boot, counter, now, 0.0
        if watch.life is Life.DEAD:
            watch.life, watch.since = Life.RETURNING, now
            self._queue(device, watch)
        elif watch.life is not Life.RETURNING:
            sooner = watch.life is Life.SUSPECT or watch.asked_at is not None
            watch.life, watch.will_at, watch.asked_at = Life.ALIVE, None, None  # what was told may be told again
            if sooner:  # it comes due as suspect before what it waited for until now
                self._queue(device, watch)
        return True

    def away(self, device: str, until: float) -> None:
        """It has said, and proved, that it is silent until then: not given up before, unless it is heard again."""
        watch = self._watches.get(device)
        if watch is not None and watch.life in (Life.ALIVE, Life.SUSPECT):
            watch.away_until, watch.asked_at = until, None  # what was told of it is told again, or never
            self._queue(device, watch)

    def will(self, device: str, now: float) -> None:
        """The broker tells the device's last will.  It is unsigned: it shortens the wait, and decides nothing."""
        watch = self._watches.get(device)
        if watch is None:
            return
        if watch.life is Life.RETURNING:
            watch.life, watch.since, watch.asked_at = Life.DEAD, now, None
        elif watch.life is not Life.DEAD and watch.will_at is None:
            watch.will_at = now
            self._queue(device, watch)

    def listen_again(self, now: float) -> None:
        """This leader itself heard nobody until `now` (its broker was gone): silence counts from now.  O(devices)."""
        for device, watch in self._watches.items():
            if watch.life in (Life.ALIVE, Life.SUSPECT):
                watch.life, watch.heard_at, watch.will_at, watch.asked_at = Life.ALIVE, now, None, None
                self._queue(device, watch)

    # --- what is due --------------------------------------------------------------------------------------------------

    def next_at(self) -> float | None:
        """When to call `due` next; None: nothing can come due."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[Event]:
        """What came due up to `now`, in the order of its time."""
        events: list[Event] = []
        while self._heap and self._heap[0][0] <= now:
            at, device = heappop(self._heap)
            watch = self._watches.get(device)
            if watch is None or watch.queued_at != at:
                continue
            watch.queued_at = None
            due_at = self._due_at(watch)
            if due_at is not None and due_at <= now:
                event = self._look(device, watch, now)
                if event is not None:
                    events.append(event)
            self._queue(device, watch)
        return events

    def _look(self, device: str, watch: _Watch, now: float) -> Event | None:
        """The device's time has come."""
        silent_ms = now - watch.heard_at
        if watch.life is Life.RETURNING:
            if silent_ms >= self.timing.suspect_ms:
                watch.life, watch.since, watch.asked_at = Life.DEAD, now, None
                return None
            watch.asked_at = now
            return Back(device)
        if now >= self._lost_at(watch):
            watch.asked_at = now
            return Lost(device, silent_ms, will=watch.will_at is not None)
        watch.life, watch.since = Life.SUSPECT, now
        return Suspected(device, silent_ms)

    def _lost_at(self, watch: _Watch) -> float:
        silent_at = watch.heard_at + self.timing.silent_ms
        lost_at = silent_at if watch.will_at is None else min(silent_at, watch.will_at + self.timing.will_ms)
        return max(lost_at, watch.away_until)

    def _due_at(self, watch: _Watch) -> float | None:
        if watch.life is Life.DEAD:
            return None
        if watch.life is Life.RETURNING:
            told_at = watch.since + watch.wait_ms if watch.asked_at is None else watch.asked_at + self.timing.repeat_ms
            return min(told_at, watch.heard_at + self.timing.suspect_ms)
        if watch.asked_at is not None:
            return watch.asked_at + self.timing.repeat_ms
        lost_at = self._lost_at(watch)
        return lost_at if watch.life is Life.SUSPECT else min(lost_at, watch.heard_at + self.timing.suspect_ms)

    def _queue(self, device: str, watch: _Watch) -> None:
        """See to it that the heap has an item no later than the device is due."""
        due_at = self._due_at(watch)
        if due_at is None or (watch.queued_at is not None and watch.queued_at <= due_at):
            return
        watch.queued_at = due_at
        heappush(self._heap, (due_at, device))
        if len(self._heap) > 2 * len(self._watches) + 64:  # items that count no more
            items = ((one.queued_at, name) for name, one in self._watches.items() if one.queued_at is not None)
            self._heap = sorted(items)
