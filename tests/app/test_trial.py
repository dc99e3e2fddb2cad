"""A version on trial that was started anew: it stays once it served long enough, and not before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from edgeswarm.app.log import Log
from edgeswarm.app.trial import confirm
from edgeswarm.drivers.service.prefix import MARK, Prefix

VERSION = "1.0"


@pytest.fixture
def prefix(tmp_path: Path) -> Prefix:
    """The version that runs these tests is on trial, after another one."""
    for version in ("0.0.9", VERSION):
        (tmp_path / version).mkdir()
        (tmp_path / version / MARK).write_text("{}")
    made = Prefix(tmp_path)
    made.switch("0.0.9")
    made.begin_trial(VERSION)
    return made


async def test_what_served_long_enough_stays(prefix: Prefix) -> None:
    log = Log(level="info")
    await asyncio.wait_for(confirm(log, prefix, version=VERSION, healthy_s=0.01), 10)
    assert prefix.trial() is None
    assert prefix.current() == VERSION
    assert any('"trial_ended"' in line for line in log.ring.lines)


async def test_what_ended_before_is_still_on_trial(prefix: Prefix) -> None:
    task = asyncio.create_task(confirm(Log(level="info"), prefix, version=VERSION, healthy_s=60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert prefix.trial() is not None


async def test_the_old_version_confirms_nobody_elses_trial(prefix: Prefix) -> None:
    (prefix.path / "9.9").mkdir()
    (prefix.path / "9.9" / MARK).write_text(json.dumps({}))
    prefix.confirm(VERSION)
    prefix.begin_trial("9.9")
    await asyncio.wait_for(confirm(Log(level="info"), prefix, version=VERSION, healthy_s=0.01), 10)
    assert prefix.trial() is not None


async def test_without_a_trial_nothing_waits(tmp_path: Path) -> None:
    await asyncio.wait_for(confirm(Log(level="info"), Prefix(tmp_path), version=VERSION, healthy_s=60), 10)
    await asyncio.wait_for(confirm(Log(level="info"), None, version=VERSION, healthy_s=60), 10)
