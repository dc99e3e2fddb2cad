"""A map over many agents of many devices.  The agents are functions: a thousand jails would take minutes to start;
what is real is the cell's table, the asking, the batching, the aggregates and what happens when a device dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from task_cell import TaskCell

from edgeswarm.app.swarm.tasks_map import run_map
from edgeswarm.app.swarm.tasks_run import Share, TaskError
from edgeswarm.core.cell.types import MapSpec, TaskSpec
from edgeswarm.core.jobs.aggregate import Row
from edgeswarm.wire import codec

AGENTS = [f"sensor-{at:04}" for at in range(1_000)]


class Local:
    """One device's agents: sensor-N answers N with label even or odd; max is a kernel."""

    def __init__(self) -> None:
        self.asked = 0
        self.silent: set[str] = set()

    async def ask_here(self, agents: Sequence[str], rows: Sequence[Row]) -> list[Any]:
        self.asked += len(agents)
        found: list[Any] = []
        for agent in agents:
            number = float(agent[-4:])
            answer = {"values": [number, 1.0], "label": "even" if number % 2 == 0 else "odd", "score": number}
            found.append([agent, None, "silent"] if agent in self.silent else [agent, answer, ""])
        return found

    async def fold_here(self, kernel: str, rows: Sequence[Row]) -> Row:
        return tuple(max(column) for column in zip(*rows, strict=True))

    async def serve(self, method: str, body: bytes) -> bytes:
        match codec.loads(body):
            case [list(agents), list(rows)] if method == "task.ask":
                return codec.dumps(await self.ask_here(agents, rows))  # type: ignore[arg-type]
            case [str(kernel), list(rows)]:
                return codec.dumps(list(await self.fold_here(kernel, rows)))  # type: ignore[arg-type]
        raise AssertionError(method)


@pytest.fixture
async def cell() -> AsyncIterator[TaskCell]:
    async def nothing(device: str, share: Share) -> bytes:
        return b""

    cell = TaskCell(10, nothing)
    cell.place([*AGENTS, "max"])
    for device in cell.devices:
        cell.methods[device] = Local().serve
    yield cell
    await cell.close()


async def mapped(cell: TaskCell, aggregate: str, local: Local | None = None, **more: Any) -> tuple[Any, list[int]]:
    deadline_ms = more.pop("deadline_ms", 0)
    spec = TaskSpec("m", map=MapSpec(tuple(AGENTS), aggregate, **more), deadline_ms=deadline_ms)
    told: list[int] = []
    share = Share("j", 0, 1, spec, {}, told.append)
    return await run_map(cell.nodes["d2"], share, [(1.0,)], local or Local()), told


async def test_a_thousand_agents_come_to_one_mean_with_few_messages(cell: TaskCell) -> None:
    found, told = await mapped(cell, "mean")
    assert found["answered"] == 1_000 and found["failed"] == 0
    assert found["result"]["mean"] == [pytest.approx(499.5), 1.0]
    assert cell.calls == 2 * 9, "two messages to each other device"
    assert told == sorted(told) and told[-1] == 1000


@pytest.mark.parametrize(
    ("aggregate", "more", "expected"),
    [
        ("vote", {}, {"choice": "even", "votes": 500.0, "count": 1_000, "others": 0}),
        ("top-k", {"k": 2}, [["sensor-0999", 999.0], ["sensor-0998", 998.0]]),
        ("kernel", {"kernel": "max"}, {"row": [999.0, 1.0], "count": 1_000}),
    ],
)
async def test_votes_the_highest_and_a_kernel(cell: TaskCell, aggregate: str, more: Any, expected: Any) -> None:
    found, _ = await mapped(cell, aggregate, **more)
    assert found["result"] == expected


async def test_agents_of_a_device_that_dies_are_asked_where_they_are_next(cell: TaskCell) -> None:
    cell.dead.add("d5")
    running = asyncio.create_task(mapped(cell, "mean"))
    await asyncio.sleep(0.05)
    assert not running.done()
    lost = cell.replica.state.agents_on("d5")
    cell.kill("d5")
    cell.move(lost, "d6")
    found, _ = await asyncio.wait_for(running, 5)
    assert found["answered"] == 1_000, "none twice, none lost"
    assert found["result"]["mean"] == [pytest.approx(499.5), 1.0]


async def test_a_share_that_is_large_enough_is_a_result_at_the_deadline(cell: TaskCell) -> None:
    local = Local()
    local.silent = set(AGENTS[1::10])  # all of d2, which has the map
    found, _ = await mapped(cell, "mean", local, share_min_permille=850)
    assert found["answered"] == 900 and found["failed"] == 100
    with pytest.raises(TaskError, match="silent"):
        await mapped(cell, "mean", local, share_min_permille=950)
    cell.dead.add("d7")
    found, _ = await mapped(cell, "mean", share_min_permille=850, deadline_ms=200)
    assert found["answered"] == 900


async def test_a_cancelled_map_leaves_no_call_behind(cell: TaskCell) -> None:
    cell.dead.add("d5")
    running = asyncio.create_task(mapped(cell, "mean"))
    await asyncio.sleep(0.05)
    before = len(cell.replica.listeners)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(cell.replica.listeners) == before - 1
    assert asyncio.all_tasks() == {asyncio.current_task()}
