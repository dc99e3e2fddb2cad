"""What a program gives to a cell and gets back: tasks, jobs, messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeswarm.app.answer import Values, row_of
from edgeswarm.drivers.control import ControlError
from edgeswarm.errors import EdgeSwarmError, RemoteError
from edgeswarm.limits import TASK_DEADLINE_S

if TYPE_CHECKING:
    from edgeswarm.app.swarm.coordinator import SwarmCoordinator

CANCEL_S = 5.0


class JobError(RemoteError):
    """A job ended without a result; `row` is all that is known of it."""

    def __init__(self, message: str, row: dict[str, Any]) -> None:
        super().__init__(message)
        self.row = row


class JobFailedError(JobError):
    """A task of it failed for good, or its deadline passed."""


class JobCancelledError(JobError):
    """Somebody cancelled it."""


class Message(NamedTuple):
    """sender: the device that it came from."""

    sender: str
    name: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a job: exactly one of agent, file, map; docs/jobs.md says what each is.

    rows: of the agent's input width; use: tasks whose answers are further rows; after: tasks that come first.
    file: an agent file, as path or bytes.  map: {"agents": [...] or "match": "sensor-*", "aggregate": "mean", ...}.
    """

    name: str
    agent: str = ""
    file: Path | str | bytes | None = None
    map: Mapping[str, Any] | None = None
    rows: Sequence[Values] = ()
    use: Sequence[str] = ()
    after: Sequence[str] = ()
    needs: Mapping[str, Any] = field(default_factory=dict)
    deadline_s: float = TASK_DEADLINE_S
    retries: int = 3
    backoff_s: float = 0.1
    result_bytes: int | None = None

    def form(self) -> dict[str, Any]:
        tree: dict[str, Any] = {
            "name": self.name,
            "rows": [[float(value) for value in row_of(row)] for row in self.rows],
            "use": list(self.use),
            "after": list(self.after),
            "needs": dict(self.needs),
            "deadline_s": float(self.deadline_s),
            "retries": self.retries,
            "backoff_s": float(self.backoff_s),
        }
        if self.agent:
            tree["agent"] = self.agent
        if self.file is not None:
            tree["file"] = "bytes of " + self.name if isinstance(self.file, bytes) else str(self.file)
        if self.map is not None:
            tree["map"] = dict(self.map)
        if self.result_bytes is not None:
            tree["result_bytes"] = self.result_bytes
        return tree


class Job:
    """A job of the cell.  `await job` is `await job.result()`."""

    def __init__(self, swarm: SwarmCoordinator, id_: str, *, cancel_with_waiter: bool = False) -> None:
        self._swarm, self.id, self._cancel_with_waiter = swarm, id_, cancel_with_waiter

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        return self.result().__await__()

    async def status(self) -> dict[str, Any]:
        """All that is known of it: status, why, permille, runs with device, attempt, result of each task."""
        row: dict[str, Any] = await self._swarm.ask("job", job=self.id)
        return row

    async def result(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Task -> what it came to, once the job has finished.

        Raises JobFailedError, JobCancelledError; TimeoutError after timeout_s, while the job goes on.  Where the
        waiting asyncio task is cancelled, the job goes on too, unless it was made with cancel_with_waiter.
        """
        try:
            async with asyncio.timeout(timeout_s):
                row = await self._last_row()
        except asyncio.CancelledError:
            if self._cancel_with_waiter:
                with contextlib.suppress(EdgeSwarmError, TimeoutError):
                    async with asyncio.timeout(CANCEL_S):
                        await self.cancel("its waiter was cancelled")
            raise
        match row["status"]:
            case "finished":
                return {run["task"]: run["result"] for run in row["runs"]}
            case "cancelled":
                raise JobCancelledError(f"job {self.id} was cancelled: {row['why']}", row)
            case _:
                raise JobFailedError(f"job {self.id} failed: {row['why']}", row)

    async def _last_row(self) -> dict[str, Any]:
        row: dict[str, Any] = {}
        async with contextlib.aclosing(self.progress()) as rows:
            async for one in rows:
                row = one
        return row

    async def cancel(self, why: str = "the program asked to") -> bool:
        """False: it had ended already."""
        try:
            await self._swarm.ask("cancel", job=self.id, why=why)
        except ControlError as error:
            if (await self.status())["status"] == "running":
                raise error
            return False
        return True

    async def progress(self) -> AsyncGenerator[dict[str, Any], None]:
        """Its row at each change, until it has ended; goes on with another device where the asked one dies."""
        async with contextlib.aclosing(self._swarm.follow("job", job=self.id)) as rows:
            async for row in rows:
                yield row
