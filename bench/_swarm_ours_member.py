"""One device of a cell as the daemon makes it, with a load generator inside.  Commands are JSON lines on its standard
input, answers JSON lines on its standard output.  argv: its state directory.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgeswarm.app import config
from edgeswarm.app.log import Log
from edgeswarm.app.supervisor import Supervisor
from edgeswarm.app.swarm.node import SwarmNode
from edgeswarm.core.cell import commands as cmd
from edgeswarm.errors import EdgeSwarmError


def value(node: SwarmNode) -> bytes:
    return cmd.encode(cmd.Note(node.config.device, "v" * 256))


async def load(node: SwarmNode, *, in_flight: int, seconds: float, rate: float) -> list[float]:
    took: list[float] = []
    loop, now = asyncio.get_running_loop(), time.perf_counter
    began = now()
    number = 0

    async def one(at: float) -> None:
        await node.propose(value(node), deadline_s=30.0)
        took.append((now() - at) * 1000)

    async def closed() -> None:
        while now() < began + seconds:
            await one(now())

    if not rate:
        await asyncio.gather(*(closed() for _ in range(in_flight)))
        return took
    tasks = set()
    while (due := began + number / rate) < began + seconds:
        if due > now():
            await asyncio.sleep(due - now())
        number += 1
        task = loop.create_task(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return took


async def first(node: SwarmNode, stop: asyncio.Event) -> float | None:
    """A new write every 5 ms, until one is acknowledged; the moment of that."""
    found: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    tasks = set()

    async def one() -> None:
        try:
            await node.propose(value(node), deadline_s=1.0)
        except (EdgeSwarmError, TimeoutError):
            return
        if not found.done():
            found.set_result(time.perf_counter())

    while not found.done() and not stop.is_set():
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.wait((found,), timeout=0.005)
    for task in list(tasks):
        task.cancel()
    return found.result() if found.done() else None


def status(node: SwarmNode) -> dict[str, Any]:
    leader = node.peer.leader
    return {
        "leads": node.leads,
        "leader": leader.device if leader else None,
        "index": node.replica.index,
        "devices": len(node.replica.state.devices),
        "alive": sum(device.alive for device in node.replica.state.devices.values()),
    }


async def serve(node: SwarmNode) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    stop = asyncio.Event()
    probing: asyncio.Task[None] | None = None

    def answer(item: object) -> None:
        sys.stdout.write(json.dumps(item) + "\n")
        sys.stdout.flush()

    async def probe() -> None:
        answer({"at": await first(node, stop)})

    while line := await reader.readline():
        command = json.loads(line)
        match command.pop("op"):
            case "status":
                answer(status(node))
            case "load":
                answer(await load(node, **command))
            case "first":
                stop.clear()
                probing = asyncio.create_task(probe())
            case "stop":
                stop.set()
    if probing is not None:
        probing.cancel()


async def main() -> None:
    settings = config.load(state=Path(sys.argv[1]), environ={})
    log = Log(stream=sys.stderr, level="info")
    async with Supervisor(settings, log=log) as supervisor:
        node = SwarmNode(supervisor)
        await node.start()
        try:
            await serve(node)
        finally:
            await node.close()


asyncio.run(main())
