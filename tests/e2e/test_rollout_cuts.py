"""The power goes at each step of a rollout: afterwards a working version runs, and the rollout comes to its end."""

from __future__ import annotations

import asyncio
import random

import pytest
from rollout_cell import rollout_cell

from edgeswarm.wire.rollout import Gate

pytestmark = pytest.mark.e2e
OFTEN = ("begun", "golden", "replaced", "swapped", "proven")
"""The steps of every run; all of them, and 200 at random, with soak."""
FORWARD = ("begun", "fetched", "golden", "tried", "kept", "replaced", "swapped", "proven")
BACK = ("back", "restored")


@pytest.mark.parametrize("steps", [OFTEN, pytest.param(FORWARD, marks=pytest.mark.soak)], ids=["often", "all"])
async def test_power_cut_at_every_step_leaves_a_working_version(steps: tuple[str, ...]) -> None:
    """kill -9 of a real daemon; what ran before or the new one runs at once after, and the new one in the end."""
    async with rollout_cell() as c:
        c.start("d2")
        first = await c.roll(c.version(1), "d2")
        await c.comes_to("d2", first, "healthy")
        await c.end(first)
        c.kill("d2")
        for number, step in enumerate(steps, 2):
            c.start("d2", EDGESWARM_CUT=step)
            plan = await c.roll(c.version(number), "d2")
            await c.dead("d2")
            c.start("d2")
            assert await c.works("d2") in (f"1.0.{number - 1}", f"1.0.{number}"), step
            await c.comes_to("d2", plan, "healthy")
            assert await c.works("d2") == f"1.0.{number}", step
            await c.end(plan)
            c.kill("d2")
        last = len(steps) + 1
        for step in BACK:
            c.start("d2", EDGESWARM_CUT=step)
            plan = await c.roll(c.version(last + 1), "d2", gate=Gate(healthy_s=600))
            await c.comes_to("d2", plan, "running")
            await c.end(plan, "rolled_back", "the test says so")
            await c.dead("d2")
            c.start("d2")
            await c.comes_to("d2", plan, "rolled_back")
            assert await c.works("d2") == f"1.0.{last}", step
            c.kill("d2")
        assert not c.faults()


@pytest.mark.soak
async def test_first_version_of_an_agent_cut_before_and_after_its_deploy() -> None:
    async with rollout_cell() as c:
        for number, step in enumerate(("kept", "swapped"), 1):
            c.start("d2", EDGESWARM_CUT=step)
            plan = await c.roll(c.version(number), "d2")
            await c.dead("d2")
            c.start("d2")
            await c.comes_to("d2", plan, "healthy")
            assert await c.works("d2") == f"1.0.{number}"
            await c.end(plan)
            c.kill("d2")


async def test_version_that_takes_the_device_down_is_given_up_before_it_runs_again() -> None:
    """Three lives, each of which ends as soon as the version on trial is swapped in: the fourth begins with the old."""
    async with rollout_cell() as c:
        c.start("d2")
        first = await c.roll(c.version(1), "d2")
        await c.comes_to("d2", first, "healthy")
        await c.end(first)
        plan = await c.roll(c.version(2), "d2", gate=Gate(healthy_s=600))
        await c.comes_to("d2", plan, "running")
        for _ in range(3):
            c.kill("d2")
            c.start("d2")
            await c.works("d2")
        row = await c.comes_to("d2", plan, "failed")
        assert "broke down 3 times" in row.why and await c.works("d2") == "1.0.1"


@pytest.mark.soak
async def test_200_random_cuts_leave_a_working_device() -> None:
    """kill -9 at any moment, 200 times, while version after version is rolled out."""
    rng = random.Random(4)
    async with rollout_cell() as c:
        c.start("d2")
        good = 1
        plan = await c.roll(c.version(1), "d2")
        await c.comes_to("d2", plan, "healthy")
        await c.end(plan)
        for number in range(2, 202):
            plan = await c.roll(c.version(number), "d2")
            await asyncio.sleep(rng.uniform(0, 2.5))
            c.kill("d2")
            c.start("d2")
            assert await c.works("d2") in (f"1.0.{good}", f"1.0.{number}")
            await c.comes_to("d2", plan, "healthy", within_s=90)
            good = number
            await c.end(plan)
        assert not c.faults()
