"""Limits by cgroup, each tried in a real group of this machine; skipped where this process may make none."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import jail_kernels as k
import pytest
import pytest_asyncio

from edgeswarm.drivers.cgroup import GroupLimits, Groups
from edgeswarm.drivers.cgroup_find import read_own_groups
from edgeswarm.drivers.jails import JailExit, JailHost, JailStartError, Program
from edgeswarm.errors import LocalError
from edgeswarm.limits import CPU_CORES_MIN, CPU_PERIOD_US, JAIL_PROCESSES_MAX, MIB

pytestmark = pytest.mark.e2e
HERE = Path(__file__).resolve().parent
BREAKER = Program(worker="limit_worker", path=(str(HERE),))
MEMORY = GroupLimits(memory_bytes=64 * MIB, processes=4, cpu_cores=0.5)


def needs(groups: Groups, controller: str) -> None:
    if not groups.mechanisms[controller].startswith("cgroup"):
        pytest.skip(f"no cgroup for {controller}: {'; '.join(groups.notes)}")


def ours(prefix: str) -> list[Path]:
    """Every group on this machine whose name begins so."""
    return [path for own in read_own_groups() for path in own.folder.glob(f"{prefix}*")]


@pytest_asyncio.fixture
async def broken(cache_dir: Path, tmp_path: Path) -> AsyncIterator[JailHost]:
    groups = Groups.open(str(tmp_path), may_move=False)
    host = JailHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY, program=BREAKER, groups=groups)
    await host.start()
    yield host
    await host.close()
    assert ours(groups.prefix) == []


async def attempt(host: JailHost, name: str, **more: float) -> JailStartError:
    code = await host.compile(k.assemble(k.MOODY))
    spec = k.replace(k.moody_spec(code), name=name, **more)
    with pytest.raises(JailStartError) as caught:
        await host.spawn([spec], on_reply=lambda _: None, on_exit=lambda _: None)
    return caught.value


@pytest.mark.asyncio
async def test_a_memory_bomb_that_rlimits_do_not_see_is_killed_and_named(broken: JailHost) -> None:
    needs(broken.groups, "memory")
    error = await attempt(broken, "shared_bomb")
    assert error.ended.signal == signal.SIGKILL
    assert error.ended.text.startswith("used more memory than it may: killed (cgroup v")
    assert not error.ended.quarantine


@pytest.mark.asyncio
async def test_a_fork_bomb_ends_at_the_limit(broken: JailHost) -> None:
    needs(broken.groups, "pids")
    error = await attempt(broken, "fork_bomb")
    found = re.search(r"forked (\d+), then Resource temporarily unavailable", str(error))
    assert found, error
    assert int(found[1]) < JAIL_PROCESSES_MAX


@pytest.mark.asyncio
async def test_cpu_time_stays_within_the_quota(
    broken: JailHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the CPU time that the group used and the periods that went by, not by a clock."""
    needs(broken.groups, "cpu")
    stats: list[str] = []
    remove = broken.groups.remove

    def look(number: int) -> bool:
        stats.extend(
            path.read_text() for path in ours(f"{broken.groups.prefix}-{number}") for path in path.glob("cpu.stat")
        )
        return remove(number)

    monkeypatch.setattr(broken.groups, "remove", look)
    error = await attempt(broken, "spin", cpu_cores=0.2)
    used_us = int(re.search(r"used (\d+) ns", str(error))[1]) // 1000  # type: ignore[index]
    last = dict(line.split() for line in stats[-1].splitlines())
    assert int(last["nr_throttled"]) >= 3
    assert used_us <= 1.5 * 0.2 * CPU_PERIOD_US * (int(last["nr_periods"]) + 2)


@pytest.mark.asyncio
async def test_no_descriptor_of_the_cgroups_stays_open(broken: JailHost) -> None:
    needs(broken.groups, "pids")
    assert str(await attempt(broken, "descriptors")).endswith(": none")


@pytest.mark.asyncio
async def test_a_jail_is_in_its_groups_and_they_go_with_it(host: JailHost, moody: bytes) -> None:
    needs(host.groups, "pids")
    ended: list[JailExit] = []
    jail = await host.spawn([k.moody_spec(moody)], on_reply=lambda _: None, on_exit=ended.append)
    assert jail.ready["performed"][0] == "JoinGroups"
    names = {path.parent.name for path in (p / "cgroup.procs" for p in ours(host.groups.prefix))}
    assert names == {f"{host.groups.prefix}-{jail.id}"}
    inside = Path(f"/proc/{jail.pid}/cgroup").read_text()
    assert inside.count(f"/{host.groups.prefix}-{jail.id}\n") == len(ours(host.groups.prefix))
    await jail.close()
    host.groups.retry()
    assert ours(host.groups.prefix) == []


@pytest.mark.asyncio
async def test_a_hundred_starts_and_stops_leak_no_group(host: JailHost, moody: bytes) -> None:
    needs(host.groups, "pids")
    for turn in range(100):
        jail = await host.spawn([k.moody_spec(moody)], on_reply=lambda _: None, on_exit=lambda _: None)
        if turn % 2:
            jail.kill()
        await jail.close()
    await host.close()
    assert ours(host.groups.prefix) == []


@pytest.mark.asyncio
async def test_a_jail_whose_group_is_refused_does_not_start(host: JailHost, moody: bytes) -> None:
    needs(host.groups, "pids")
    made = host.groups.make

    def away(number: int, limits: GroupLimits) -> tuple[str, ...]:
        doors = made(number, limits)
        host.groups.remove(number)
        return doors

    host.groups.make = away  # type: ignore[method-assign]
    with pytest.raises(JailStartError, match="JoinGroups: No such file"):
        await host.spawn([k.moody_spec(moody)], on_reply=lambda _: None, on_exit=lambda _: None)


LEFT = """
import os, signal, sys
from edgeswarm.drivers.cgroup import GroupLimits, Groups
groups = Groups.open(sys.argv[1], may_move=False)
groups.make(1, GroupLimits(64 << 20, 4, 0.5))
print(groups.prefix, flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_start_removes_what_a_killed_supervisor_left_and_nothing_else(tmp_path: Path) -> None:
    """Three processes make a group: one of the same owner that is killed, one that lives on, one of another owner."""
    groups = Groups.open(str(tmp_path), may_move=False)
    needs(groups, "pids")

    def begin(owner: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", LEFT, owner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    killed, alive, other = begin(str(tmp_path)), begin(str(tmp_path)), begin(f"{tmp_path}-other")
    try:
        for process in (killed[0], other[0]):
            process.communicate("")
        assert ours(killed[1])
        Groups.open(str(tmp_path), may_move=False)
        assert ours(killed[1]) == []
        assert ours(alive[1])
        assert ours(other[1])
        Groups.open(f"{tmp_path}-other", may_move=False)
        assert ours(other[1]) == []
    finally:
        alive[0].communicate("")
        Groups.open(str(tmp_path), may_move=False)
    assert ours(alive[1]) == []


HOSTED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import jail_kernels as k
from pathlib import Path
from edgeswarm.drivers.jail_sync import SyncHost
host = SyncHost(policy_dir=k.SANDBOX, cache_dir=Path(sys.argv[1]), mac_key=k.MAC_KEY)
jail = host.spawn([k.moody_spec(host.compile(k.assemble(k.MOODY)))])
print(host.groups.prefix, flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_kill_9_the_zygote_removes_the_groups_of_its_jails(tmp_path: Path, cache_dir: Path) -> None:
    needs(Groups.open(str(tmp_path), may_move=False), "pids")
    support = str(Path(k.__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", HOSTED, str(cache_dir), support],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        prefix = process.stdout.readline().strip()
        assert prefix.startswith("es-")
        assert ours(prefix)
        process.communicate("")
    until = time.monotonic() + 10
    while ours(prefix) and time.monotonic() < until:
        time.sleep(0.01)
    assert ours(prefix) == []


def test_limits_are_as_they_were_asked_for(tmp_path: Path) -> None:
    groups = Groups.open(str(tmp_path), may_move=False)
    needs(groups, "pids")
    groups.make(1, GroupLimits(64 * MIB, 4, 0.0))
    try:
        found = {
            path.name: path.read_text().strip()
            for folder in ours(groups.prefix)
            for path in folder.iterdir()
            if path.name in ("memory.limit_in_bytes", "memory.max", "pids.max", "cpu.cfs_quota_us", "cpu.max")
        }
        assert found["pids.max"] == "4"
        for name in found.keys() & {"memory.limit_in_bytes", "memory.max"}:
            assert found[name] == str(64 * MIB)
        for name in found.keys() & {"cpu.cfs_quota_us", "cpu.max"}:
            assert found[name].split()[0] == str(int(CPU_CORES_MIN * CPU_PERIOD_US))
        with pytest.raises(LocalError, match="cgroup of jail 2"):
            groups.make(2, GroupLimits(64 * MIB, -7, 1.0))
        assert len({path.name for path in ours(groups.prefix)}) == 1
    finally:
        groups.remove(1)
    assert ours(groups.prefix) == []
