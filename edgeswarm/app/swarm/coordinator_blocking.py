"""`SwarmCoordinator` for programs without asyncio: a thread runs the loop; calls wait, or give a Future.

`BlockingJob.future()` is a concurrent.futures.Future: cancelling it stops the waiting (and the job, where it was made
with cancel_with_waiter).  At the end of the `with` every iterator and future that is still open is cancelled.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgeswarm.app.answer import Values
from edgeswarm.errors import LocalError

if TYPE_CHECKING:
    from edgeswarm.app.swarm.coordinator import SwarmCoordinator
    from edgeswarm.app.swarm.coordinator_job import Job, Message, Task

T = TypeVar("T")


class BlockingSwarm:
    """As SwarmCoordinator, blocking.  Usable from several threads."""

    def __init__(self, swarm: SwarmCoordinator) -> None:
        self._swarm = swarm
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="edgeswarm-swarm", daemon=True)
        self._thread.start()
        try:
            self.wait(swarm.__aenter__())
        except BaseException:
            self._end()
            raise

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run any coroutine of the swarm in its loop."""
        if self._loop.is_closed():
            work.close()
            raise LocalError("swarm: it is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The same, and wait; what interrupts the waiting cancels it."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        if self._loop.is_closed():
            return
        try:
            self.wait(self._swarm.close())
        finally:
            self._end()

    def _end(self) -> None:
        async def finish() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._loop.shutdown_asyncgens()

        asyncio.run_coroutine_threadsafe(finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """An async iterator of the swarm as a plain one."""

        async def following() -> T:
            return await anext(items)

        try:
            while True:
                yield self.wait(following())
        except StopAsyncIteration:
            pass
        finally:
            if not self._loop.is_closed():
                self.wait(items.aclose())  # type: ignore[attr-defined]

    @property
    def device(self) -> str:
        return self._swarm.device

    @property
    def fleet(self) -> Any:
        """The DevFleet of create_swarm: its processes, states, logs."""
        return self._swarm.fleet

    def place(self, file: Path | str | bytes, *, pin: str = "", **options: Any) -> str:
        return self.wait(self._swarm.place(file, pin=pin, **options))

    def whereis(self, agent: str) -> str | None:
        return self.wait(self._swarm.whereis(agent))

    def get_network_topology(self) -> dict[str, Any]:
        return self.wait(self._swarm.get_network_topology())

    def assign_tasks(self, tasks: Iterable[Task | Mapping[str, Any]], **options: Any) -> BlockingJob:
        """As SwarmCoordinator.assign_tasks."""
        return BlockingJob(self, self.wait(self._swarm.assign_tasks(tasks, **options)))

    def monitor_progress(self, job: BlockingJob | str) -> Iterator[dict[str, Any]]:
        id_ = job if isinstance(job, str) else job.id
        return self.iterate(self._swarm.monitor_progress(id_))

    def map(self, agents: Sequence[str] | str, row: Values, **options: Any) -> dict[str, Any]:
        return self.wait(self._swarm.map(agents, row, **options))

    def send_message(self, device: str, name: str, body: bytes) -> None:
        self.wait(self._swarm.send_message(device, name, body))

    def broadcast(self, name: str, body: bytes) -> None:
        self.wait(self._swarm.broadcast(name, body))

    def receive_message(self, *, timeout_s: float | None = None) -> Message:
        return self.wait(self._swarm.receive_message(timeout_s=timeout_s))

    def subscribe(self, event: str) -> Iterator[dict[str, Any]]:
        return self.iterate(self._swarm.subscribe(event))


class BlockingJob:
    def __init__(self, swarm: BlockingSwarm, job: Job) -> None:
        self._swarm, self._job, self.id = swarm, job, job.id

    def status(self) -> dict[str, Any]:
        return self._swarm.wait(self._job.status())

    def result(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """As Job.result."""
        return self._swarm.wait(self._job.result(timeout_s=timeout_s))

    def future(self) -> Future[dict[str, Any]]:
        """Its result as a concurrent.futures.Future, for `wait` and `as_completed`."""
        return self._swarm.start(self._job.result())

    def cancel(self, why: str = "the program asked to") -> bool:
        return self._swarm.wait(self._job.cancel(why))
