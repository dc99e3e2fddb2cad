"""What is in force when the first instruction of an agent runs, seen from outside the jail."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest

from edgeswarm.drivers.jails import JailHost
from edgeswarm.errors import EdgeSwarmError

pytestmark = pytest.mark.e2e

STARTS_AND_STAYS = """(module (memory (export "memory") 2) (func $begin (loop $l (br $l))) (start $begin)
 (func (export "run")) (func (export "run_batch") (param i32)))"""
RUNS_AND_STAYS = """(module (memory (export "memory") 2) (func (export "run") (loop $l (br $l)))
 (func (export "run_batch") (param i32)))"""


def status(pid: int) -> dict[str, str]:
    return dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))


def cpu_ticks(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


async def spinning_child(zygote: int) -> int:
    """The jail that loops: the one that uses more CPU time than making a jail takes."""
    while True:
        for text in Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split():
            if cpu_ticks(int(text)) > 30:
                return int(text)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("module", [STARTS_AND_STAYS, RUNS_AND_STAYS], ids=["start function", "first call"])
async def test_the_first_instruction_of_an_agent_finds_every_layer_in_force(
    host: JailHost, spawn: Any, module: str
) -> None:
    """It never returns, so what the kernel says of the jail meanwhile is what an escape would have found."""
    code = await host.compile(k.assemble(module))
    own = int(status(host.zygote_pid).get("Seccomp_filters", 0))
    spawning = asyncio.ensure_future(spawn(k.moody_spec(code, deadline_ms=30_000)))
    async with asyncio.timeout(20):
        pid = await spinning_child(host.zygote_pid)
    found = status(pid)
    assert int(found["Seccomp_filters"]) - own == 2, "the filter of stage 2 was not loaded"
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"^Max processes\s+0\s+0\s", limits, re.MULTILINE)
    assert re.search(r"^Max open files\s+2\s+2\s", limits, re.MULTILINE)
    assert int(found["CapEff"], 16) == 0
    spawning.cancel()
    with pytest.raises((asyncio.CancelledError, EdgeSwarmError)):
        await spawning
