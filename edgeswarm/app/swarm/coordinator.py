"""SwarmCoordinator: a cell from a program, with or without asyncio.

    async with SwarmCoordinator.create_swarm(devices=3) as swarm:          # or SwarmCoordinator(state="fleet/d1")
        await swarm.place("scorer.af")
        job = await swarm.assign_tasks([Task("a", agent="scorer", rows=[[1, 2, 3, 4]])])
        async for row in swarm.monitor_progress(job): print(row["permille"])
        print(await job.result())

The program is no device: it asks one on this machine through its control socket, or, in a fleet of its own, whichever
still lives.  In a `with` everything blocks, see `coordinator_blocking`.  Nothing outlives the `with`: processes end,
iterators close, waiters are told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.app.answer import Values
from edgeswarm.app.swarm.client import SwarmClient
from edgeswarm.app.swarm.coordinator_fleet import DevFleet
from edgeswarm.app.swarm.coordinator_job import CANCEL_S, Job, Message, Task
from edgeswarm.drivers.control import ControlError, NotRunningError
from edgeswarm.errors import AgentFileError, EdgeSwarmError, LimitError, LocalError, RemoteError
from edgeswarm.limits import SWARM_MESSAGES_WAITING_MAX, TASK_DEADLINE_S

if TYPE_CHECKING:
    from types import TracebackType

    from edgeswarm.app.swarm.coordinator_blocking import BlockingSwarm

AGAIN_S = 0.1


class SwarmCoordinator:
    """state: the state directory of a running device on this machine, or its control socket."""

    def __init__(self, state: Path | str | None = None, *, fleet: DevFleet | None = None) -> None:
        if (state is None) == (fleet is None):
            raise LocalError("SwarmCoordinator: name a device's state directory, or use create_swarm(devices=N)")
        self._state, self.fleet = state, fleet
        self._clients: list[SwarmClient] = []
        self._open = False
        self._messages: deque[Message] = deque(maxlen=SWARM_MESSAGES_WAITING_MAX)
        self._came = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self._listening: asyncio.Future[None] | None = None
        self._blocking: BlockingSwarm | None = None
        self.device = ""
        """The device that speaks for this program."""

    @classmethod
    def create_swarm(
        cls, devices: int = 3, *, voters: int = 0, folder: Path | str | None = None, profile: str | None = None
    ) -> SwarmCoordinator:
        """A fleet for development, for `async with` or `with`: a broker and `devices` supervisors as processes.

        folder: where; None makes a temporary directory.  It trusts the publisher key folder/fleet/publisher.key.
        """
        where = None if folder is None else Path(folder)
        return cls(fleet=DevFleet(devices, voters=voters, folder=where, profile=profile))

    async def __aenter__(self) -> SwarmCoordinator:
        if self._open:
            raise LocalError("swarm: it is open already")
        if self.fleet is not None:
            await self.fleet.start()
            self._clients = [SwarmClient(self.fleet.socket(device)) for device in self.fleet.states]
        else:
            self._clients = [SwarmClient(_socket(Path(self._state or "")))]
        self._open = True
        try:
            self.device = (await self.ask("status"))["device"]
            self._listening = asyncio.get_running_loop().create_future()
            self._listener = asyncio.create_task(self._listen())
            await asyncio.wait({self._listening}, timeout=CANCEL_S)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self._open = False
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        self._came.set()
        if self.fleet is not None:
            await self.fleet.close()

    def __enter__(self) -> BlockingSwarm:
        from edgeswarm.app.swarm.coordinator_blocking import BlockingSwarm

        self._blocking = BlockingSwarm(self)
        return self._blocking

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._blocking is not None:
            self._blocking.close()

    # --- asking -------------------------------------------------------------------------------------------------------

    async def ask(self, what: str, **args: Any) -> Any:
        """One answer of the control socket's op `swarm`; of another device of the fleet where one does not run."""
        if not self._open:
            raise LocalError("swarm: use it inside `async with` or `with`")
        for at, client in enumerate(self._clients):
            try:
                return await client.call(what, **args)
            except NotRunningError:
                if at == len(self._clients) - 1:
                    raise
        raise AssertionError("there is at least one client")

    async def follow(self, what: str, **args: Any) -> AsyncGenerator[Any, None]:
        """Answers of `swarm_watch`; where the asked device dies, the next one goes on."""
        while True:
            for at, client in enumerate(self._clients):
                try:
                    async with contextlib.aclosing(client.follow(what, **args)) as rows:
                        async for row in rows:
                            yield row
                    return
                except ControlError:
                    raise
                except NotRunningError:
                    if at == len(self._clients) - 1:
                        raise
                except RemoteError:  # it died, or is ending
                    if len(self._clients) == 1 or not self._open:
                        raise
                    await asyncio.sleep(AGAIN_S)

    # --- agents -------------------------------------------------------------------------------------------------------

    async def place(self, file: Path | str | bytes, *, pin: str = "", **options: Any) -> str:
        """Give an agent to the cell; its name.  Where it runs: `whereis`."""
        data, who = _agent_file(file)
        name: str = (await self.ask("place", data=data, who=who, pin=pin, **options))["agent"]
        return name

    async def whereis(self, agent: str) -> str | None:
        """The device that the cell has placed it on."""
        device: str | None = (await self.ask("whereis", agent=agent))["device"]
        return device

    async def get_network_topology(self) -> dict[str, Any]:
        """The broker, and for each device: whether it lives, votes, leads, and its agents."""
        found: dict[str, Any] = await self.ask("topology")
        return found

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def assign_tasks(
        self,
        tasks: Iterable[Task | Mapping[str, Any]],
        *,
        job: str | None = None,
        deadline_s: float = 0.0,
        cancel_with_waiter: bool = False,
    ) -> Job:
        """Submit a job; returns once it is committed.  tasks: Task, or maps as in a job file (without `file`).

        job: its id; None: one is made.  cancel_with_waiter: cancelling who awaits its result cancels it.
        """
        forms, files = [], {}
        for task in tasks:
            tree = task.form() if isinstance(task, Task) else dict(task)
            if isinstance(task, Task) and task.file is not None and tree["file"] not in files:
                data, _ = _agent_file(task.file)
                files[tree["file"]] = (await self.ask("put_agent", data=data, who=tree["file"]))["digest"]
            forms.append(tree)
        form: dict[str, Any] = {"tasks": forms, "deadline_s": float(deadline_s)}
        if job is not None:
            form["job"] = job
        done = await self.ask("submit", form=form, files=files)
        return Job(self, done["job"], cancel_with_waiter=cancel_with_waiter)

    def job(self, id_: str) -> Job:
        """A job that somebody else submitted."""
        return Job(self, id_)

    async def monitor_progress(self, job: Job | str) -> AsyncGenerator[dict[str, Any], None]:
        """The job's row at each change (status, finished, permille), until it has ended; the last one has `runs`."""
        async with contextlib.aclosing((self.job(job) if isinstance(job, str) else job).progress()) as rows:
            async for row in rows:
                yield row

    async def map(
        self,
        agents: Sequence[str] | str,
        row: Values,
        *,
        aggregate: str = "mean",
        k: int = 1,
        kernel: str = "",
        share: float = 1.0,
        deadline_s: float = TASK_DEADLINE_S,
    ) -> dict[str, Any]:
        """One input for many agents of the cell, and what their answers come to; cancelling it cancels the job.

        agents: their ids, or a pattern such as "sensor-*".  Returns {"answered", "failed", "refused", "result"}.
        """
        form: dict[str, Any] = {"aggregate": aggregate, "k": k, "kernel": kernel, "share": float(share)}
        form["match" if isinstance(agents, str) else "agents"] = agents if isinstance(agents, str) else list(agents)
        task = Task("map", map=form, rows=[row], deadline_s=deadline_s, result_bytes=1 << 16)
        job = await self.assign_tasks([task], cancel_with_waiter=True)
        found: dict[str, Any] = (await job.result())["map"]
        return found

    # --- messages -----------------------------------------------------------------------------------------------------

    async def send_message(self, device: str, name: str, body: bytes) -> None:
        """To programs that listen on one device.  At most once: whoever needs an answer asks for one."""
        if not device:
            raise LocalError("send_message: expected a device; broadcast goes to all")
        await self.ask("send", device=device, name=name, body=body)

    async def broadcast(self, name: str, body: bytes) -> None:
        """To programs that listen on any device."""
        await self.ask("send", name=name, body=body)

    async def receive_message(self, *, timeout_s: float | None = None) -> Message:
        """The next message to this program's device, or to all.  Raises TimeoutError; LocalError at the end."""
        async with asyncio.timeout(timeout_s):
            while not self._messages:
                if not self._open:
                    raise LocalError("swarm: it is closed")
                self._came.clear()
                await self._came.wait()
        return self._messages.popleft()

    async def subscribe(self, event: str) -> AsyncGenerator[dict[str, Any], None]:
        """Typed events as they come: agent.lifecycle, task.completion, task.error, neural.updates, alert, ..."""
        async with contextlib.aclosing(self.follow("events", name=event)) as rows:
            async for row in rows:
                if "listening" not in row:
                    yield row

    async def _listen(self) -> None:
        assert self._listening is not None
        while self._open:
            try:
                async with contextlib.aclosing(self.follow("messages")) as rows:
                    async for row in rows:
                        if "listening" in row:
                            if not self._listening.done():
                                self._listening.set_result(None)
                            continue
                        self._messages.append(Message(row["from"], row["name"], row["body"]))
                        self._came.set()
            except EdgeSwarmError:
                await asyncio.sleep(AGAIN_S)


def _socket(state: Path) -> Path:
    """The control socket of a state directory."""
    if state.is_socket():
        return state
    found = sorted((state / "run").glob("*.sock")) if (state / "run").is_dir() else []
    if len(found) == 1:
        return found[0]
    from edgeswarm.app import config

    return config.load(state=state).socket_path


def _agent_file(file: Path | str | bytes) -> tuple[bytes, str]:
    from edgeswarm.limits import AF_FILE_BYTES_MAX

    if isinstance(file, bytes):
        return file, "bytes"
    try:
        if Path(file).stat().st_size > AF_FILE_BYTES_MAX:
            raise LimitError(f"{file}: at most {AF_FILE_BYTES_MAX} bytes (AF_FILE_BYTES_MAX)")
        return Path(file).read_bytes(), str(file)
    except OSError as error:
        raise AgentFileError(error.strerror or str(error), who=str(file)) from None
