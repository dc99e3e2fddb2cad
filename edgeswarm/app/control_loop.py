"""The control loop: events in, the node's effects performed in list order, timers, and who waits for an outcome.

Invariants: one event at a time; an effect that raises is logged and does not stop the loop; a timer key is armed once.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from edgeswarm.app.log import Log
from edgeswarm.core import effects as do
from edgeswarm.core import events as ev
from edgeswarm.core.node import Node
from edgeswarm.core.priority import Priority, PriorityInbox
from edgeswarm.errors import HandingOverError, LocalError
from edgeswarm.ids import AgentName, Cause
from edgeswarm.limits import CONTROL_INBOX_MAX

PRIORITY: dict[type, Priority] = {
    ev.JailExited: Priority.CRITICAL,
    ev.ShutdownAsked: Priority.CRITICAL,
    ev.AgentStopAsked: Priority.HIGH,
    ev.AgentRemoveAsked: Priority.HIGH,
    ev.AgentFaulted: Priority.HIGH,
    ev.JailReady: Priority.HIGH,
    ev.CutOver: Priority.HIGH,
    ev.TimerFired: Priority.LOW,
}
BAD = frozenset({"swap_failed", "failed", "quarantined"})
ENDED = frozenset({"failed", "quarantined", "stopped", "removed"})
STARTED = frozenset({"running"}) | ENDED
SWAPPED = frozenset({"swapped", "replaced", "swap_failed"}) | ENDED
REMOVED = frozenset({"removed"})


class Refused(LocalError):
    """The node refused what was asked, or it ended badly; the text says why."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who asked something of an agent, and the statuses that answer it once the node has heard of it."""

    name: AgentName
    cause: Cause
    until: frozenset[str]
    answer: asyncio.Future[str]
    heard: bool = False


class ControlLoop(ABC):
    """What performs the effects is the subclass's `_perform`."""

    def __init__(self, node: Node, log: Log) -> None:
        self.node = node
        self.log = log
        self._inbox: PriorityInbox[ev.Event] = PriorityInbox(CONTROL_INBOX_MAX)
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._due: dict[tuple[str, str], do.ArmTimer] = {}  # what the timers were armed with
        self.leaving = ""  # why nothing new is begun: the supervisor hands over to another version
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiters: list[_Waiter] = []
        self._cause = 0

    def cause(self, what: str) -> Cause:
        self._cause += 1
        return Cause(f"{what}-{self._cause}")

    def check_stays(self) -> None:
        """Raises HandingOverError while the supervisor hands over: what would begin now would not be finished."""
        if self.leaving:
            raise HandingOverError(self.leaving)

    def post(self, event: ev.Event) -> None:
        """Hand an event to the control loop; handled in the order of its class.  Raises LimitError when it is full."""
        self._inbox.put(event, PRIORITY.get(type(event), Priority.MEDIUM))
        self._wake.set()

    async def _run(self) -> None:
        while True:
            event = self._inbox.take()
            if event is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            for waiter in self._waiters:
                waiter.heard |= waiter.cause == event.cause
            try:
                effects = self.node.handle(event, time.monotonic() * 1000)
                self.log.debug("event", kind=type(event).__name__, cause=event.cause, effects=len(effects))
                for effect in effects:
                    await self._perform(effect)
            except Exception as error:  # a fault of ours must not end the supervision
                self.log.crash("control_fault", error, kind=type(event).__name__, cause=event.cause)
            if isinstance(event, ev.ShutdownAsked):
                self._ended.set()

    @abstractmethod
    async def _perform(self, effect: do.Effect) -> None:
        """One effect.  What takes long becomes a task and answers with an event."""

    # --- tasks and timers ---------------------------------------------------------------------------------------------

    def _task(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.crash("task_fault", error)

    def _arm(self, effect: do.ArmTimer) -> None:
        self._disarm(effect.key)
        self._due[effect.key] = effect
        delay_s = max(0.0, effect.at_ms / 1000 - time.monotonic())
        event = ev.TimerFired(effect.key, effect.cause)
        self._timers[effect.key] = asyncio.get_running_loop().call_later(delay_s, self._timer_fired, event)

    def _timer_fired(self, event: ev.TimerFired) -> None:
        self._timers.pop(event.key, None)
        self._due.pop(event.key, None)
        self.post(event)

    def _disarm(self, key: tuple[str, str]) -> None:
        timer = self._timers.pop(key, None)
        self._due.pop(key, None)
        if timer is not None:
            timer.cancel()

    # --- who waits -----------------------------------------------------------------------------------------------

    async def _ask(self, event: ev.Event, name: AgentName, until: frozenset[str]) -> str:
        """Post `event` and wait until the agent's status is one of `until`.  Raises Refused, HandingOverError."""
        self.check_stays()
        if self._ended.is_set():
            raise Refused(f"agent {name}: the supervisor was stopped")
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiters.append(_Waiter(name, event.cause, until, answer))
        self.post(event)
        return await answer

    def _refuse(self, name: AgentName, cause: Cause, why: str) -> None:
        """The node would not do what `cause` asked."""
        for waiter in [one for one in self._waiters if (one.name, one.cause) == (name, cause)]:
            self._waiters.remove(waiter)
            if not waiter.answer.done():
                waiter.answer.set_exception(Refused(why))

    def _refuse_all(self, why: str) -> None:
        """Nobody will handle another event."""
        for waiter in list(self._waiters):
            self._refuse(waiter.name, waiter.cause, f"agent {waiter.name}: {why}")

    def _settle(self, name: AgentName, status: str, detail: str) -> None:
        """The agent's status changed."""
        for waiter in [one for one in self._waiters if one.heard and one.name == name and status in one.until]:
            self._waiters.remove(waiter)
            if waiter.answer.done():
                continue
            if status in BAD:
                waiter.answer.set_exception(Refused(f"agent {name}: {status}: {detail}"))
            else:
                waiter.answer.set_result(status)
