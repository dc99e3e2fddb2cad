"""SwarmCoordinator against a fleet of its own: real broker, real devices as processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgeswarm import SwarmCoordinator, Task
from edgeswarm.app import builder
from edgeswarm.app.swarm.coordinator_job import JobCancelledError, JobFailedError
from edgeswarm.drivers import keys

pytestmark = pytest.mark.e2e
ROW = [1.0, 2.0, 3.0, 4.0]


def agent_file(folder: Path, name: str, sizes: tuple[int, ...] = (4, 8, 2)) -> bytes:
    key, _ = keys.load_or_make(folder / "fleet" / "publisher.key")
    return builder.build_mlp(
        name=name,
        sizes=sizes,
        activation="relu",
        output_activation="linear",
        capabilities=(),
        weights=None,
        seed=1,
        wiring=None,
        key=key,
    )


@pytest.fixture
async def swarm() -> AsyncIterator[SwarmCoordinator]:
    async with SwarmCoordinator.create_swarm(devices=3) as swarm:
        yield swarm


def folder_of(swarm: SwarmCoordinator) -> Path:
    assert swarm.fleet is not None
    return swarm.fleet.folder


async def test_jobs_messages_and_events_of_a_fleet(swarm: SwarmCoordinator) -> None:
    folder = folder_of(swarm)
    for name in ("sensor-a", "sensor-b"):
        await swarm.place(agent_file(folder, name))
    await a_graph_of_tasks_completes(swarm, agent_file(folder, "loose"))
    found = await swarm.map("sensor-*", ROW)
    assert found["answered"] == 2 and found["result"]["count"] == 2
    await messages_arrive(swarm)
    await a_deadline_and_a_cancelled_waiter_end_jobs(swarm, agent_file(folder, "loose"))


async def a_graph_of_tasks_completes(swarm: SwarmCoordinator, loose: bytes) -> None:
    async with asyncio.timeout(20):
        events = swarm.subscribe("task.completion")
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.2)
        job = await swarm.assign_tasks(
            [
                Task("both", file=loose, rows=[ROW], after=["left", "right"]),
                Task("left", agent="sensor-a", rows=[ROW, ROW]),
                Task("right", file=loose, rows=[ROW]),
            ],
            job="graph",
        )
        rows = [row async for row in swarm.monitor_progress(job)]
        assert rows[-1]["status"] == "finished" and rows[-1]["permille"] == 1000
        assert [row["permille"] for row in rows] == sorted(row["permille"] for row in rows)
        result = await job
        assert [len(result[name]["answers"]) for name in ("left", "right", "both")] == [2, 1, 1]
        assert (await first)["ref"]["job"] == "graph"
        await events.aclose()


async def messages_arrive(swarm: SwarmCoordinator) -> None:
    assert swarm.fleet is not None
    other = next(device for device in swarm.fleet.states if device != swarm.device)
    async with SwarmCoordinator(swarm.fleet.states[other]) as second:
        assert second.device == other
        await swarm.send_message(other, "hello", b"\x01")
        assert await second.receive_message(timeout_s=5) == (swarm.device, "hello", b"\x01")
        await second.broadcast("all", b"\x02")
        assert await swarm.receive_message(timeout_s=5) == (other, "all", b"\x02")
    topology = await swarm.get_network_topology()
    assert sum(row["alive"] for row in topology["devices"]) == 3
    assert sum(row["leads"] for row in topology["devices"]) == 1


async def a_deadline_and_a_cancelled_waiter_end_jobs(swarm: SwarmCoordinator, loose: bytes) -> None:
    slow = Task("slow", file=loose, rows=[ROW] * 2_000, deadline_s=0.05, retries=1, backoff_s=0.01)
    late = await swarm.assign_tasks([slow])
    with pytest.raises(JobFailedError, match="took longer than 50 ms"):
        await late.result(timeout_s=20)

    waits = await swarm.assign_tasks([Task("nobody", agent="no-such-agent", rows=[ROW])], cancel_with_waiter=True)
    waiter = asyncio.create_task(waits.result())
    await asyncio.sleep(0.3)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (await waits.status())["status"] == "cancelled"
    with pytest.raises(JobCancelledError):
        await swarm.job(waits.id).result(timeout_s=5)


async def test_a_killed_device_loses_its_task_to_another_and_the_result_counts_once(swarm: SwarmCoordinator) -> None:
    assert swarm.fleet is not None
    slow = agent_file(folder_of(swarm), "slow", (4, 1024, 1024, 2))
    tasks = [Task(f"t{at}", file=slow, rows=[ROW] * 600, result_bytes=1 << 16) for at in range(6)]
    job = await swarm.assign_tasks(tasks, job="survivor")
    victim = ""
    async with asyncio.timeout(30):
        while not victim:
            runs: list[dict[str, Any]] = (await job.status())["runs"]
            assert not all(run["status"] == "finished" for run in runs), "too fast to be interrupted"
            busy = [run["device"] for run in runs if run["status"] == "assigned"]
            victim = next((device for device in busy if device != swarm.device), "")
        swarm.fleet.kill(victim)
        result = await job.result()
    assert [len(result[name]["answers"]) for name in sorted(result)] == [600] * 6
    after = (await job.status())["runs"]
    moved = [run for run in after if run["losses"]]
    assert moved and all(run["device"] != victim for run in moved)
    assert all(run["attempt"] == 2 and run["failures"] == 0 for run in moved)


def test_without_asyncio_a_job_is_a_future() -> None:
    with SwarmCoordinator.create_swarm(devices=1) as swarm:
        file = agent_file(swarm.fleet.folder, "loose")
        jobs = [swarm.assign_tasks([Task("only", file=file, rows=[ROW])]) for _ in range(2)]
        done, _ = concurrent.futures.wait([job.future() for job in jobs], timeout=20)
        assert [len(future.result()["only"]["answers"]) for future in done] == [1, 1]
        endless = swarm.assign_tasks([Task("x", agent="none", rows=[ROW])], cancel_with_waiter=True)
        future = endless.future()
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout=0.3)
        assert future.cancel()
        assert list(swarm.monitor_progress(endless))[-1]["status"] == "cancelled"
