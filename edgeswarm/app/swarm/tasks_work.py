"""The work of a task: rows through an agent, an agent deployed for the task, many agents at once, a kernel's fold.

A task's input is CBOR {"rows": [...], "use": [tasks]}; the answers of the tasks in `use` are further rows, one for
each.  Its result is CBOR {"answers": [{"values", "label", "score"} or null, ...]} for an agent, and for a map
{"answered", "failed", "refused", "result"}.
Peers ask for shares of a map ("task.ask") and for folds ("task.fold"); an agent answers only while the fencing rule
lets it run here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeswarm.app.swarm import rights
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.app.swarm.tasks_run import Share, TaskError
from edgeswarm.core.cell.types import TaskSpec
from edgeswarm.core.jobs.aggregate import Row, row_of
from edgeswarm.drivers.store import Deployed
from edgeswarm.errors import CodecError, EdgeSwarmError, InputError, LocalError, TrapError
from edgeswarm.ids import AgentName
from edgeswarm.limits import (
    CALL_DEADLINE_MS_MAX,
    JOB_ROWS_MAX,
    MAP_FOLD_ROWS,
    MAP_SHARE_AGENTS,
    SHARE_ASKS_MAX,
    TASK_AGENT_KEEP_S,
)
from edgeswarm.wire import codec
from edgeswarm.wire.capability import COMPUTE

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode
    from edgeswarm.stream.pipeline import Outcome

READY_POLL_S = 0.02
SHARE_WAIT_S = 2.0  # for an agent of a map that is still being brought up


def rows_of(spec: TaskSpec, results: dict[str, bytes]) -> list[Row]:
    """The rows that a task puts in.  Raises TaskError (lasting: another attempt has the same input)."""
    match _tree(spec.input, spec.name):
        case {"rows": list(items), **more}:
            rows = [_row(item, f"task {spec.name}: rows") for item in items]
        case _:
            raise TaskError(f"task {spec.name}: input: expected a map with rows", code="input", lasting=True)
    use = more.get("use", [])
    for name in use if isinstance(use, list) else []:
        if name not in results:
            raise TaskError(f"task {spec.name}: it uses {name}, which it does not wait for", code="input", lasting=True)
        rows += answers_in(results[name], name)
    if not 1 <= len(rows) <= JOB_ROWS_MAX:
        raise TaskError(f"task {spec.name}: expected 1 to {JOB_ROWS_MAX} rows, found {len(rows)}", lasting=True)
    return rows


def answers_in(result: bytes, name: str) -> list[Row]:
    """The rows in another task's result: each answer's values, or what a map came to.  Raises TaskError."""
    match _tree(result, name):
        case {"answers": list(answers)}:
            return [_row(one["values"], f"answer of {name}") for one in answers if isinstance(one, dict)]
        case {"result": {"mean": found}} | {"result": {"row": found}}:
            return [_row(found, f"result of {name}")]
        case {"result": {"choice": int(choice)}}:
            return [(float(choice),)]
        case _:
            raise TaskError(f"the result of task {name} holds no rows", code="input", lasting=True)


def _tree(data: bytes, name: str) -> Any:
    try:
        return codec.loads(data)
    except CodecError as error:
        raise TaskError(f"task {name}: {error}", code="input", lasting=True) from None


def _row(item: object, what: str) -> Row:
    row = row_of(item)
    if row is None:
        raise TaskError(f"{what}: expected a row of finite numbers", code="input", lasting=True)
    return row


def plain(outcome: Outcome | None) -> dict[str, Any] | None:
    """An answer as it travels."""
    if outcome is None:
        return None
    decision = outcome.decision
    return {"values": list(outcome.output), "label": decision.label, "score": outcome.score}


@dataclass(slots=True)
class _Borrowed:
    """An agent that is here for tasks only."""

    artefact: bytes
    users: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    leaving: asyncio.TimerHandle | None = None


class Work:
    """`do` is the Executor of this device's Worker."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._borrowed: dict[str, _Borrowed] = {}
        self._path = node.folder / "borrowed"

    async def start(self) -> None:
        """Serve peers, and remove what an earlier life had deployed for tasks."""
        self._node.peer.methods |= {"task.ask": self._serve_ask, "task.fold": self._serve_fold}
        if self._path.exists():
            for name in self._path.read_text().split():
                await self._remove(name)
            self._path.unlink()

    async def close(self) -> None:
        for name, one in list(self._borrowed.items()):
            if one.leaving is not None:
                one.leaving.cancel()
            await self._remove(name)

    async def do(self, share: Share) -> bytes:
        """A task's result.  Raises TaskError and whatever of ours goes wrong."""
        spec = share.spec
        if spec.map is not None:
            from edgeswarm.app.swarm.tasks_map import run_map

            return codec.dumps(await run_map(self._node, share, rows_of(spec, share.results), self))
        rows = rows_of(spec, share.results)
        if spec.agent:
            await self._placed_here(spec.agent)
            return await self._ask_all(spec.agent, rows, share)
        async with self._borrow(spec.artefact) as name:
            return await self._ask_all(name, rows, share)

    async def _ask_all(self, name: str, rows: Sequence[Row], share: Share) -> bytes:
        """Row by row, in order: an agent may remember."""
        answers: list[Any] = []
        for at, row in enumerate(rows):
            try:
                answers.append(plain(await self._node.supervisor.ask(name, row, CALL_DEADLINE_MS_MAX / 1000)))
            except (InputError, TrapError) as error:  # the same rows would end the same way
                raise TaskError(str(error), code="input", lasting=isinstance(error, InputError)) from None
            share.told((at + 1) * 1000 // len(rows))
        return codec.dumps({"answers": answers})

    async def _placed_here(self, agent: str) -> None:
        """Wait until it runs here.  Raises TaskError when the cell has it elsewhere."""
        while not self._node.hosted.may_run(agent):
            placed = self._node.replica.state.agents.get(agent)
            if placed is None or placed.device != self._node.config.device:
                where = "nowhere" if placed is None or placed.device is None else f"on {placed.device}"
                raise TaskError(f"agent {agent} is {where} now", code="moved")
            await asyncio.sleep(READY_POLL_S)

    # --- agents for a task --------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _borrow(self, digest: bytes) -> AsyncIterator[str]:
        """An agent of that file, deployed here unless it is; it stays TASK_AGENT_KEEP_S after its last task."""
        node, sup = self._node, self._node.supervisor
        who = f"artefact {digest.hex()[:12]}"
        data = await node.artefacts.fetch(digest, who)
        header = sup.shelf.admit(data, who=who).header
        rights.check_tools(node.rosters.current, node.config.device, header)
        name = header.name
        one = self._borrowed.setdefault(name, _Borrowed(digest))
        if one.artefact != digest:
            raise TaskError(f"agent {name}: another file of that name is in use on {node.config.device}", code="busy")
        one.users += 1
        if one.leaving is not None:
            one.leaving.cancel()
            one.leaving = None
        try:
            async with one.lock:
                here = sup.node.table.agents.get(AgentName(name))
                if here is None:
                    self._note()
                    await sup.deploy([(who, data)])
                    if sup.store is not None:
                        await sup.store.put_agent(Deployed(name, digest.hex(), "stopped"))
                elif here.plan.artefact != digest.hex():
                    raise TaskError(
                        f"agent {name}: another file of that name runs on {node.config.device}", code="busy"
                    )
            yield name
        finally:
            one.users -= 1
            if not one.users:
                loop = asyncio.get_running_loop()
                one.leaving = loop.call_later(TASK_AGENT_KEEP_S, lambda: node.task(self._remove(name)))

    async def _remove(self, name: str) -> None:
        """The cell's own agents, and those of an operator, stay."""
        one = self._borrowed.setdefault(name, _Borrowed(b""))
        async with one.lock:  # whoever borrows it meanwhile waits, and deploys it anew
            if one.users:
                return
            placed = self._node.replica.state.agents.get(name)
            if (placed is None or placed.device != self._node.config.device) and name not in self._node.hosted.running:
                try:
                    if AgentName(name) in self._node.supervisor.node.table.agents:
                        await self._node.supervisor.remove(name)
                except EdgeSwarmError as error:
                    self._node.log.info("task_agent_not_removed", agent=name, error=str(error))
            if not one.users:
                self._borrowed.pop(name, None)
        self._note()

    def _note(self) -> None:
        self._path.write_text(" ".join(sorted(self._borrowed)))

    # --- shares of a map ----------------------------------------------------------------------------------------------

    async def ask_here(self, agents: Sequence[str], rows: Sequence[Row]) -> list[Any]:
        """[agent, answer or None, why not] for each; the answer to the last row counts, rows of windows before it."""
        slots = asyncio.Semaphore(SHARE_ASKS_MAX)

        async def one(agent: str) -> list[Any]:
            answer = None
            try:
                async with asyncio.timeout(SHARE_WAIT_S):
                    await self._placed_here(agent)
                async with slots:
                    for row in rows:
                        answer = (
                            plain(await self._node.supervisor.ask(agent, row, CALL_DEADLINE_MS_MAX / 1000)) or answer
                        )
            except TimeoutError:
                return [agent, None, f"agent {agent} does not run here yet"]
            except EdgeSwarmError as error:
                return [agent, None, str(error)[:200]]
            return [agent, answer, "" if answer else "no answer: its window is not full"]

        return list(await asyncio.gather(*(one(agent) for agent in agents)))

    async def _serve_ask(self, sender: str, body: bytes) -> bytes:
        match codec.loads(body, who=sender):
            case [list(agents), list(items)] if len(agents) <= MAP_SHARE_AGENTS and len(items) <= JOB_ROWS_MAX:
                rows = [row_of(item) for item in items]
            case _:
                raise CodecError("task.ask: expected [agents, rows]", who=sender)
        if not all(isinstance(agent, str) for agent in agents) or None in rows:
            raise CodecError("task.ask: expected names, and rows of numbers", who=sender)
        self._may_ask(sender, [str(agent) for agent in agents])
        return codec.dumps(await self.ask_here([str(agent) for agent in agents], [row for row in rows if row]))

    async def fold_here(self, kernel: str, rows: Sequence[Row]) -> Row:
        """Rows drawn into one, pair by pair: the kernel takes two rows, one behind the other, and answers one."""
        if not self._node.hosted.may_run(kernel):
            raise LocalError(f"agent {kernel}: it does not run here")
        drawn = rows[0]
        for row in rows[1:]:
            outcome = await self._node.supervisor.ask(kernel, [*drawn, *row], CALL_DEADLINE_MS_MAX / 1000)
            if outcome is None or len(outcome.output) != len(row):
                raise InputError(f"agent {kernel}: as a kernel it must answer two rows of {len(row)} with one")
            drawn = tuple(outcome.output)
        return drawn

    async def _serve_fold(self, sender: str, body: bytes) -> bytes:
        match codec.loads(body, who=sender):
            case [str(kernel), list(items)] if 1 <= len(items) <= MAP_FOLD_ROWS:
                rows = [row_of(item) for item in items]
            case _:
                raise CodecError("task.fold: expected [kernel, rows]", who=sender)
        if None in rows:
            raise CodecError("task.fold: expected rows of numbers", who=sender)
        self._may_ask(sender, [kernel])
        return codec.dumps(list(await self.fold_here(kernel, [row for row in rows if row])))

    def _may_ask(self, sender: str, agents: Sequence[str]) -> None:
        """Raises CallError where the roster does not let `sender` give work to these, or this device do it."""
        node = self._node
        if node.rosters.current.role(sender) == "reader":
            raise CallError("a reader may not give work", who=sender, code="forbidden")
        for device in (sender, node.config.device):
            if not node.may(COMPUTE, device=device):
                for agent in agents:
                    if not node.may(COMPUTE, agent, device=device):
                        raise CallError(
                            f"agent {agent}: {COMPUTE} is not granted to {device}", who=sender, code="forbidden"
                        )
