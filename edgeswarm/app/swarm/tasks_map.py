"""A map under way: one device has it as its task, asks the others for their agents' answers, and draws them together.

Any device can do it, since all have the table of agents: the leader's load does not grow with a map.  Where to ask is
looked up when it is asked; agents of a device that dies are asked again where the cell has put them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgeswarm.app.swarm.tasks_run import Share, TaskError
from edgeswarm.core.cell import changes as ch
from edgeswarm.core.jobs.aggregate import Fold, Row, make, row_of
from edgeswarm.core.jobs.fanout import Ask, MapRun
from edgeswarm.errors import CodecError, EdgeSwarmError
from edgeswarm.limits import MAP_SHARE_AGENTS, MAP_SHARES_MAX
from edgeswarm.wire import codec

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

ANSWER_S = 5.0
LOOK_S = 0.5
MARGIN = 0.9  # of the deadline: what is left is for the result to reach the log
_LOOK = (ch.Placed, ch.Moved, ch.Unplaced, ch.DeviceUp)


class Local(Protocol):
    """This device's own share."""

    async def ask_here(self, agents: Sequence[str], rows: Sequence[Row]) -> list[Any]: ...

    async def fold_here(self, kernel: str, rows: Sequence[Row]) -> Row: ...


async def run_map(node: SwarmNode, share: Share, rows: list[Row], local: Local) -> dict[str, Any]:
    """What the answers come to, as the task's result.  Raises TaskError."""
    return await _Map(node, share, rows, local).run()


class _Map:
    def __init__(self, node: SwarmNode, share: Share, rows: list[Row], local: Local) -> None:
        assert share.spec.map is not None
        self._node, self._share, self._rows, self._local = node, share, rows, local
        self._spec = spec = share.spec.map
        self._map = MapRun(
            spec.agents,
            make(spec.aggregate, k=spec.k),
            share_min_permille=spec.share_min_permille,
            answer_ms=2 * ANSWER_S * 1000,
            in_flight_max=MAP_SHARE_AGENTS * MAP_SHARES_MAX,
        )
        self._agents = frozenset(spec.agents)
        self._news = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._fault = ""
        self._whys: dict[str, int] = {}
        """Why agents did not answer, and how often; a few."""

    def _now(self) -> float:
        return asyncio.get_running_loop().time() * 1000

    async def run(self) -> dict[str, Any]:
        deadline_ms = self._share.spec.deadline_ms
        end = self._now() + deadline_ms * MARGIN if deadline_ms else None
        self._node.replica.listeners.append(self._changed)
        try:
            while not self._over():
                self._news.clear()
                now = self._now()
                if end is not None and now >= end:
                    self._fold(self._map.end("the deadline came near"))
                    end = None
                for one in self._map.ask(now, self._where):
                    if isinstance(one, Ask):
                        for at in range(0, len(one.agents), MAP_SHARE_AGENTS):
                            self._call(self._ask(one.device, one.agents[at : at + MAP_SHARE_AGENTS]))
                    else:
                        self._fold([one])
                self._tell()
                if self._over():
                    break
                due = [at for at in (self._map.next_at(), end) if at is not None]
                wait_s = min(LOOK_S, *(max(0.001, (at - now) / 1000) for at in due)) if due else LOOK_S
                try:
                    async with asyncio.timeout(wait_s):  # wait_for of Python 3.11 may lose a cancellation
                        await self._news.wait()
                except TimeoutError:
                    pass
        finally:
            self._node.replica.listeners.remove(self._changed)
            for call in list(self._calls):
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
        return self._result()

    def _over(self) -> bool:
        return self._map.done or bool(self._fault)

    def _result(self) -> dict[str, Any]:
        why = self._fault or self._map.why
        if why:
            because = max(self._whys, key=lambda one: self._whys[one], default="")
            raise TaskError(f"map: {why}" + (f"; most said: {because}" if because else ""), code="map")
        progress = self._map.progress
        return {
            "answered": progress.answered,
            "failed": len(self._map.agents) - progress.answered,
            "refused": self._map.aggregate.refused,
            "result": self._map.result(),
        }

    # --- events -------------------------------------------------------------------------------------------------------

    def _changed(self, changes: Sequence[Any]) -> None:
        for change in changes:
            if isinstance(change, ch.DeviceDown):
                agents = self._node.replica.state.agents_on(change.device)
                self._fold(self._map.lost([agent for agent in agents if agent in self._agents]))
                self._news.set()
            elif isinstance(change, _LOOK):
                self._news.set()

    def _where(self, agent: str) -> str | None:
        state = self._node.replica.state
        placed = state.agents.get(agent)
        device = None if placed is None or placed.device is None else state.devices.get(placed.device)
        return device.id if device is not None and device.alive else None

    def _tell(self) -> None:
        progress = self._map.progress
        self._share.told(1000 * (progress.answered + progress.failed) // progress.total)

    # --- asking -------------------------------------------------------------------------------------------------------

    def _call(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _ask(self, device: str, agents: Sequence[str]) -> None:
        try:
            if device == self._node.config.device:
                async with asyncio.timeout(ANSWER_S):
                    found: Any = await self._local.ask_here(agents, self._rows)
            else:
                body = codec.dumps([list(agents), [list(row) for row in self._rows]])
                found = codec.loads(await self._node.peer.call(device, "task.ask", body, deadline_s=ANSWER_S))
            self._take(device, agents, found)
            self._tell()
        except (EdgeSwarmError, TimeoutError) as error:
            self._because(str(error) or f"no answer within {ANSWER_S:g} s")
            for agent in agents:
                self._fold(self._map.failed(agent))
            await asyncio.sleep(LOOK_S / 5)
        self._news.set()

    def _take(self, device: str, agents: Sequence[str], found: Any) -> None:
        asked, answered = set(agents), set()
        for item in found if isinstance(found, list) else []:
            match item:
                case [str(agent), dict(answer), _] if agent in asked:
                    answered.add(agent)
                    self._fold(self._map.answered(agent, self._value(answer)))
                case [str(agent), None, str(why)] if agent in asked:
                    self._because(why)
                case _:
                    raise CodecError("task.ask: expected [agent, answer, why]", who=device)
        for agent in asked - answered:
            self._fold(self._map.failed(agent))

    def _value(self, answer: dict[Any, Any]) -> object:
        """What of an answer goes into the aggregate."""
        values, label, score = answer.get("values"), answer.get("label"), answer.get("score")
        match self._spec.aggregate:
            case "vote":
                return label or values
            case "top-k":
                return score if score is not None else values
            case _:
                return values

    def _because(self, why: str) -> None:
        if why in self._whys or len(self._whys) < 16:
            self._whys[why] = self._whys.get(why, 0) + 1

    # --- folding ------------------------------------------------------------------------------------------------------

    def _fold(self, folds: Sequence[Fold]) -> None:
        for fold in folds:
            self._call(self._draw(fold))

    async def _draw(self, fold: Fold) -> None:
        """Have the kernel draw rows together, wherever it is; three tries."""
        kernel, error = self._spec.kernel, "it has no device"
        for _ in range(3):
            device = self._where(kernel)
            try:
                if device is not None and device == self._node.config.device:
                    async with asyncio.timeout(ANSWER_S):
                        row: Any = await self._local.fold_here(kernel, fold.rows)
                elif device is not None:
                    body = codec.dumps([kernel, [list(row) for row in fold.rows]])
                    row = codec.loads(await self._node.peer.call(device, "task.fold", body, deadline_s=ANSWER_S))
                if device is not None:
                    self._fold(self._map.folded(fold.number, row_of(row)))
                    self._news.set()
                    return
            except (EdgeSwarmError, TimeoutError) as found:
                error = str(found) or f"no answer within {ANSWER_S:g} s"
            await asyncio.sleep(LOOK_S)
        self._fault = f"kernel {kernel}: {error}"
        self._news.set()
