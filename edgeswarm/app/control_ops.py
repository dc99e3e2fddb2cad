"""What the control socket can be asked: each op checks its arguments and calls the supervisor."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from edgeswarm.app import report
from edgeswarm.drivers.control import ASKING
from edgeswarm.errors import EdgeSwarmError, InputError, LocalError, RemoteError
from edgeswarm.ids import AgentName
from edgeswarm.limits import ASK_ROWS_MAX, FOLLOW_LINES_MAX

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor
    from edgeswarm.app.swarm.control import SwarmControl

T = TypeVar("T")
CHANGING = frozenset("deploy swap weights stop start remove checkpoint shutdown".split())
"""Ops that stand in the audit log, and what of `swarm` does: those that change something."""
CHANGING_SWARM = frozenset("place remove transfer order note submit cancel put_agent".split())
_REQUIRED: Any = object()


def argument(args: dict[str, Any], key: str, kind: type[T], default: T = _REQUIRED) -> T:
    """args[key], of that type.  Raises RemoteError."""
    value = args.get(key, default)
    if value is _REQUIRED:
        raise RemoteError(f"control request: {key}: missing")
    if kind is float and type(value) is int:
        return kind(value)  # type: ignore[call-arg]
    if type(value) is float and not math.isfinite(value):
        raise RemoteError(f"control request: {key}: expected a number, found {value}")
    if type(value) is not kind:
        raise RemoteError(f"control request: {key}: expected {kind.__name__}, found {type(value).__name__}")
    return value


class ControlOps:
    """answer(op, args) is what `drivers.control.ControlServer` calls."""

    def __init__(self, supervisor: Supervisor, shutdown: Callable[[], None]) -> None:
        self._sup = supervisor
        self._shutdown = shutdown
        self.swarm: SwarmControl | None = None  # set by the daemon of a device in a cell
        self.no_swarm = "this device is in no cell; `edgeswarm swarm init --dev N` makes one to try"
        self._one: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "ping": self._ping,
            "status": self._status,
            "deploy": self._deploy,
            "swap": self._swap,
            "weights": self._weights,
            "stop": self._stop,
            "start": self._start,
            "remove": self._remove,
            "checkpoint": self._checkpoint,
            "ask": self._ask,
            "metrics": self._metrics,
            "config": self._config,
            "shutdown": self._end,
            "swarm": self._ask_swarm,
        }
        self._many: dict[str, Callable[[dict[str, Any]], AsyncIterator[Any]]] = {
            "logs": self._logs,
            "top": self._top,
            "stream": self._stream,
            "swarm_watch": self._watch_swarm,
        }

    def serve(
        self,
        *,
        one: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] | None = None,
        many: dict[str, Callable[[dict[str, Any]], AsyncIterator[Any]]] | None = None,
    ) -> None:
        """Answer more ops: what a controller of a fleet has beside a device."""
        self._one |= one or {}
        self._many |= many or {}

    def answer(self, op: str, args: dict[str, Any]) -> Awaitable[Any] | AsyncIterator[Any]:
        if op in self._many:
            return self._many[op](args)
        if op not in self._one:
            raise RemoteError(
                f"control request: op: expected one of {', '.join([*self._one, *self._many])}, found {op!r}"
            )
        what = args.get("what") if op == "swarm" else None
        if op in CHANGING or (isinstance(what, str) and what in CHANGING_SWARM):
            return self._audited(op if what is None else f"swarm.{what}", args, self._one[op](args))
        return self._one[op](args)

    async def _audited(self, action: str, args: dict[str, Any], work: Awaitable[Any]) -> Any:
        """Who asked for a change, and how it ended.  No arguments but names: they may hold what is secret."""
        who = ASKING.get()
        named = [args[key] for key in ("name", "agent", "to", "job") if isinstance(args.get(key), str)]
        files = args.get("files")
        named += [str(f.get("who")) for f in files[:8] if isinstance(f, dict)] if isinstance(files, list) else []
        target = " ".join(name[:128] for name in named[:8])
        try:
            result = await work
        except EdgeSwarmError as error:
            self._sup.audit.record(f"op.{action}", who=who, target=target, outcome="failed", reason=str(error))
            raise
        if action == "deploy" and isinstance(result, list):  # by their names, not by where they came from
            target = " ".join(f"{row['name']}@{row['artefact'][:12]}" for row in result)
        self._sup.audit.record(f"op.{action}", who=who, target=target)
        return result

    # --- one answer ---------------------------------------------------------------------------------------------------

    async def _ping(self, args: dict[str, Any]) -> Any:
        row = report.status(self._sup)
        return {key: row[key] for key in ("version", "device", "pid", "tier", "degraded", "uptime_s")}

    async def _status(self, args: dict[str, Any]) -> Any:
        return report.status(self._sup)

    async def _deploy(self, args: dict[str, Any]) -> Any:
        files = argument(args, "files", list)
        pairs = []
        for item in files:
            if not isinstance(item, dict):
                raise RemoteError("control request: files: expected maps of who and data")
            pairs.append((argument(item, "who", str), argument(item, "data", bytes)))
        return await self._sup.deploy(pairs)

    async def _swap(self, args: dict[str, Any]) -> Any:
        return await self._sup.swap(
            argument(args, "name", str), argument(args, "who", str, "swap"), argument(args, "data", bytes)
        )

    async def _weights(self, args: dict[str, Any]) -> Any:
        name = argument(args, "name", str)
        data, topology = argument(args, "data", bytes), argument(args, "topology", str, "")
        await self._sup.swap_weights(name, data, topology=topology)
        return {"name": name, "status": "weights_swapped"}

    async def _stop(self, args: dict[str, Any]) -> Any:
        name = argument(args, "name", str)
        return {"name": name, "status": await self._sup.stop(name)}

    async def _start(self, args: dict[str, Any]) -> Any:
        name = argument(args, "name", str)
        return {"name": name, "status": await self._sup.start_agent(name)}

    async def _remove(self, args: dict[str, Any]) -> Any:
        name = argument(args, "name", str)
        return {"name": name, "status": await self._sup.remove(name)}

    async def _checkpoint(self, args: dict[str, Any]) -> Any:
        name = argument(args, "name", str)
        if AgentName(name) not in self._sup.flows.flows:
            raise LocalError(f"agent {name}: no agent of that name runs")
        await self._sup.flows.checkpoint(AgentName(name))
        return {"name": name, "status": "checkpointed"}

    async def _ask(self, args: dict[str, Any]) -> Any:
        name, rows = argument(args, "name", str), argument(args, "rows", list)
        if len(rows) > ASK_ROWS_MAX:
            raise InputError(f"agent {name}: at most {ASK_ROWS_MAX} rows in one request, found {len(rows)}")
        timeout_s = argument(args, "timeout_s", float, 10.0)
        answers = []
        for row in rows:
            outcome = await self._sup.ask(name, row, timeout_s)
            answers.append(None if outcome is None else report.outcome(outcome))
        return answers

    async def _metrics(self, args: dict[str, Any]) -> Any:
        return {"text": report.metrics(self._sup)}

    async def _config(self, args: dict[str, Any]) -> Any:
        return report.config(self._sup.settings)

    async def _end(self, args: dict[str, Any]) -> Any:
        asyncio.get_running_loop().call_soon(self._shutdown)
        return {}

    async def _ask_swarm(self, args: dict[str, Any]) -> Any:
        what, one = argument(args, "what", str), self._in_swarm().one
        if what not in one:
            raise RemoteError(f"control request: what: expected one of {', '.join(one)}, found {what!r}")
        return await one[what](args)

    def _in_swarm(self) -> SwarmControl:
        if self.swarm is None:
            raise LocalError(self.no_swarm)
        return self.swarm

    # --- many answers -------------------------------------------------------------------------------------------------

    async def _logs(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        lines, follow = argument(args, "lines", int, 100), argument(args, "follow", bool, False)
        ring = self._sup.log.ring
        for line in list(ring.lines)[-lines:] if lines > 0 else []:
            yield line
        if follow:
            queue: asyncio.Queue[Any] = asyncio.Queue(FOLLOW_LINES_MAX)
            async for line in _follow(queue, ring.followers):
                yield line

    async def _top(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        interval_s = max(0.1, argument(args, "interval_s", float, 1.0))
        while True:
            yield report.status(self._sup)
            await asyncio.sleep(interval_s)

    async def _watch_swarm(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        what, many = argument(args, "what", str, "watch"), self._in_swarm().many
        if what not in many:
            raise RemoteError(f"control request: what: expected one of {', '.join(many)}, found {what!r}")
        async for row in many[what](args):
            yield row

    async def _stream(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        async for record in self._sup.stream(argument(args, "name", str)):
            yield record


async def _follow(queue: asyncio.Queue[Any], followers: set[Callable[[str], None]]) -> AsyncIterator[Any]:
    """Items as they come; a reader too slow for FOLLOW_LINES_MAX of them loses the newest, and is told how many."""
    missed = 0

    def put(item: str) -> None:
        nonlocal missed
        try:
            queue.put_nowait(item)
        except asyncio.QueueFull:
            missed += 1

    followers.add(put)
    try:
        while True:
            yield await queue.get()
            if missed and queue.empty():
                yield f'{{"event":"lines_missed","count":{missed}}}'
                missed = 0
    finally:
        followers.discard(put)
