"""Jails come and go: nothing of them stays - no descriptor, memory, mount, cgroup, process, nor room in the host."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest

from edgeswarm.drivers.jails import JailHost, JailStartError
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.jail.frames import Kind

CYCLES = [pytest.param(60, id="60"), pytest.param(1000, id="1000", marks=pytest.mark.soak)]


def left(host: JailHost) -> dict[str, Any]:
    """What jails of this host could leave behind; of nobody else's."""
    gc.collect()
    descriptors = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _open(fd)]
    zygote = f"/proc/{host.zygote_pid}"
    groups = [path for tree in host.groups._trees for path in tree.folder.glob(f"{host.groups.prefix}*")]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "nr_inodes=1" in line]
    return {
        "descriptors": len(descriptors),
        "memfds": sum("memfd:" in name for name in descriptors),
        "mappings": sum("memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines()),
        "zygote's descriptors": len(os.listdir(f"{zygote}/fd")),
        "zygote's mappings": sum("memfd:" in line for line in Path(f"{zygote}/maps").read_text().splitlines()),
        "zygote's children": Path(f"{zygote}/task/{host.zygote_pid}/children").read_text().split(),
        "cgroups": groups,
        "roots of jails": mounts,
        "jails": len(host._jails),
        "parents": len(host._parents),
        "tasks": len(asyncio.all_tasks()),
    }


def _open(fd: str) -> bool:
    try:
        return bool(os.readlink(f"/proc/self/fd/{fd}"))
    except OSError:  # the one that lists them
        return False


async def settled(host: JailHost) -> dict[str, Any]:
    """When the last processes between have been reaped."""
    for _ in range(200):
        found = left(host)
        if not found["zygote's children"] and found["tasks"] == 1:
            return found
        await asyncio.sleep(0.01)
    return found


@pytest.mark.e2e
@pytest.mark.parametrize("count", CYCLES)
async def test_jails_that_came_and_went_leave_nothing_behind(
    host: JailHost, spawn: Any, moody: bytes, count: int
) -> None:
    """They are closed, killed, spin when they end, refuse to start, are cancelled while they start, or compile."""

    async def one(number: int) -> None:
        match number % 6:
            case 0:
                with pytest.raises(JailStartError):
                    await spawn(k.moody_spec(moody), policy="build")
            case 1:
                starting = asyncio.ensure_future(spawn(k.moody_spec(moody)))
                await asyncio.sleep(number % 7 / 1000)
                starting.cancel()
                await asyncio.wait((starting,))
            case 2:
                with pytest.raises(EdgeSwarmError):
                    await host.compile(k.assemble(k.MOODY)[:-number] + b"x")
            case kind:
                served = await spawn(k.moody_spec(moody, deadline_ms=60_000))
                assert (await served.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY
                if kind == 3:
                    assert served.jail.submit(0, 2, 1, k.row(k.SPIN))
                if kind == 4:
                    signal.pidfd_send_signal(served.jail.pidfd, signal.SIGKILL)
                    await served.exit()
                await served.jail.close()

    for number in range(12):
        await one(number)
    before = await settled(host)
    for number in range(count):
        await one(number)
    assert await settled(host) == before
    assert host.zygote_starts == 1
