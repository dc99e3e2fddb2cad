"""Rollouts on a bad network: a link that loses, a broker that is restarted, peers that lie, a device that was away."""

from __future__ import annotations

import asyncio
import random

import pytest
from rollout_cell import rollout_cell
from swarm_cells import Stranger, until

from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.wire import messages as msg
from edgeswarm.wire.rollout import Gate

pytestmark = pytest.mark.e2e


async def test_link_that_is_gone_a_third_of_the_time_delays_and_breaks_nothing() -> None:
    rng = random.Random(7)
    async with rollout_cell(1, proxies=True) as c:
        link = c.links["d2"]

        async def loses() -> None:
            while True:
                await asyncio.sleep(0.7 * rng.uniform(0.5, 1.5))
                link.cut()
                await asyncio.sleep(0.3 * rng.uniform(0.5, 1.5))
                link.heal()

        c.start("d2")
        task = asyncio.create_task(loses())
        try:
            plan = await c.roll(c.version(1, hidden=2_000), "d2")
            await c.comes_to("d2", plan, "healthy", within_s=90)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            link.heal()
        assert await c.works("d2") == "1.0.1" and not c.faults()


async def test_broker_that_is_restarted_in_the_middle() -> None:
    """What it retained is gone; devices say it again."""
    async with rollout_cell() as c:
        c.start("d2")
        first = await c.roll(c.version(1), "d2")
        await c.comes_to("d2", first, "healthy")
        await c.end(first)
        plan = await c.roll(c.version(2), "d2", gate=Gate(healthy_s=3))
        await c.comes_to("d2", plan, "running")
        c.reported.clear()
        await c.broker.restart()
        await c.comes_to("d2", plan, "healthy", within_s=60)
        assert await c.works("d2") == "1.0.2" and not c.faults()


async def test_device_that_was_away_takes_the_newest_and_skips_what_was_between() -> None:
    async with rollout_cell() as c:
        c.start("d2")
        first = await c.roll(c.version(1), "d2")
        await c.comes_to("d2", first, "healthy")
        await c.end(first)
        c.kill("d2")
        for number in (2, 3, 4):
            plan = await c.roll(c.version(number), "d2")
            await c.end(plan)
        c.start("d2")
        await c.comes_to("d2", plan, "healthy")
        assert await c.works("d2") == "1.0.4"
        tried = {row["rollout"] for row in c.events("d2", "rollout_running")}
        assert tried == {first.rollout, plan.rollout}


async def test_chunks_from_strangers_and_from_a_device_that_lies_are_passed_over() -> None:
    """One without a key, and one of the cell that sends other bytes under a chunk's name, all the while."""
    async with rollout_cell(2) as c:
        data = c.version(1, hidden=2_000)
        digest = await c.leader.node.artefacts.put(data)
        seq = 1 << 40
        async with Stranger(c.broker.url) as stranger:
            over = asyncio.Event()

            async def lies() -> None:
                nonlocal seq
                while not over.is_set():
                    for index in range(3):
                        topic = c.topics.artifact(digest.hex(), index)
                        chunk = msg.encode(msg.Chunk(digest=digest, index=index, data=b"x" * 1_000))
                        seq += 1
                        lie = c.fleet.seal("d3", topic, chunk, seq=seq)
                        for payload in (b"junk", chunk, lie):
                            stranger.transport.publish(topic, payload, priority=Priority.HIGH, qos=0)
                    await asyncio.sleep(0.05)

            task = asyncio.create_task(lies())
            c.start("d2")
            plan = await c.roll(data, "d2", put=False)
            await c.comes_to("d2", plan, "healthy", within_s=60)
            over.set()
            await task
        assert await c.works("d2") == "1.0.1" and not c.faults()


async def test_artefact_that_nobody_has_is_told_and_comes_when_somebody_has_it() -> None:
    async with rollout_cell() as c:
        data = c.version(1)
        c.start("d2")
        plan = await c.roll(data, "d2", put=False)
        await c.comes_to("d2", plan, "fetching")
        assert "pump" not in (await c.op("d2", "status"))["agents"]
        await c.leader.node.artefacts.put(data)
        await c.comes_to("d2", plan, "healthy", within_s=60)


async def test_what_the_old_file_holds_does_not_travel_again() -> None:
    """Sections that are the same in both: fewer bytes leave the one that serves than the file has."""
    async with rollout_cell() as c:
        c.start("d2")
        big = {"hidden": 30_000}
        first = await c.roll(c.version(1, **big), "d2")
        await c.comes_to("d2", first, "healthy", within_s=60)
        await c.end(first)
        serve = c.leader.node.artefacts.exchange._serve
        before = serve.sent_bytes
        data = c.version(2, **big)
        plan = await c.roll(data, "d2")
        await c.comes_to("d2", plan, "healthy", within_s=60)
        assert 0 < serve.sent_bytes - before < len(data) // 2
        await until(lambda: c.events("d2", "chunks_at_hand"), "chunks of the old file")
