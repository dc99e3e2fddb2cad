"""Jails outlive the program that made them: by exec with frames in flight, and piece by piece in one process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest

from edgeswarm.drivers.handover import HandedProcess, Packer, Unpacker
from edgeswarm.drivers.jail_handover import busy, pack_host, pack_link, unpack_link
from edgeswarm.drivers.jail_link import JailLink
from edgeswarm.drivers.jails import JailHost
from edgeswarm.errors import LocalError
from edgeswarm.ids import JailId

SUPPORT = Path(__file__).resolve().parents[1] / "support"


@pytest.mark.e2e
def test_jail_goes_on_over_three_execs_with_frames_in_flight(cache_dir: Path) -> None:
    path = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "jail_exec.py"), str(cache_dir)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["pids"]) == 4 and len({tuple(pids) for pids in told["pids"]}) == 1
    last = told["seq"]
    expected = [[seq, 2.0 * seq] for seq in range(1, last)] + [[last, 15.0]]
    assert told["answers"] == expected  # each once, in order; the new weights after them
    assert len(set(told["fds"][1:])) == 1
    assert told["exit"] == [0]  # its zygote still says how it ended


def test_link_is_packed_with_its_positions_and_its_flights(tmp_path: Path) -> None:
    spec = k.moody_spec(b"code")
    link = JailLink(JailId(7), [spec])
    for seq in range(1, 4):
        assert link.submit(0, seq, 1, k.row(k.ADD, seq))
    packer = Packer()
    state = pack_link(link, packer)
    other = unpack_link(state, Unpacker(packer.fds))
    again = Packer()
    twin = pack_link(other, again)
    assert {**twin, "fds": []} == {**state, "fds": []}
    assert other.in_flight == 3 and not set(again.fds) & set(packer.fds)
    with pytest.raises(LocalError, match="in flight already"):
        other.submit(0, 2, 1, k.row(k.ADD, 2))
    link.close()
    assert other.submit(0, 4, 1, k.row(k.ADD, 4))  # the copies do not need the originals
    other.close()


def test_only_what_came_along_is_taken() -> None:
    with pytest.raises(LocalError, match="expected one of the descriptors"):
        Unpacker([3]).fd(0)
    with pytest.raises(LocalError, match="expected one of the descriptors"):
        Unpacker([3]).fd(True)


def test_child_that_another_program_started_is_waited_for() -> None:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], {})
    assert HandedProcess(pid).wait(10) == 3
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    child = HandedProcess(pid)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.02)
    child.kill()
    assert child.wait(10) == -9 and child.poll() == -9
    assert HandedProcess(pid).poll() == 255  # nobody knows any more


@pytest.mark.e2e
async def test_host_says_what_keeps_it_from_being_packed(host: JailHost, moody: bytes, spawn: Any) -> None:
    served = await spawn(k.moody_spec(moody))
    assert busy(host) == ""
    served.jail._own[1] = None
    with pytest.raises(LocalError, match="is taking weights"):
        pack_host(host, Packer())
    served.jail._own.clear()
    served.jail.kill()
    assert "is ending" in busy(host)
    await served.exit()
    assert busy(host) == ""


@pytest.mark.e2e
async def test_jail_that_answered_while_nobody_read_is_not_taken_for_dead(moody: bytes, spawn: Any) -> None:
    served = await spawn(k.moody_spec(moody))
    served.jail.listen(on=False)
    answer = asyncio.ensure_future(served.ask(0, 1, k.row(k.ADD, 3)))
    await asyncio.sleep(0.05)
    served.jail._link._progress_ns -= 60 * 10**9  # an exec on a busy board, and one back
    served.jail.listen(on=True)
    assert k.values((await answer).payload)[0] == 6.0
    assert k.values((await served.ask(0, 2, k.row(k.ADD, 4))).payload)[0] == 8.0


@pytest.mark.e2e
async def test_new_zygote_takes_over_and_the_old_one_ends_with_its_last_jail(
    host: JailHost, moody: bytes, spawn: Any
) -> None:
    assert not host.renew()  # it is of this version already
    old, first = host._zygote, await spawn(k.moody_spec(moody))
    assert old is not None
    old.version = "0.0.9"
    assert host.renew()
    second = await spawn(k.moody_spec(moody))
    assert host.zygote_pid != old.pid
    for served, number in ((first, 1), (second, 2)):
        assert k.values((await served.ask(0, number, k.row(k.ADD, 3))).payload)[0] == 6.0
    state = pack_host(host, Packer())
    assert [jail["parent"] for jail in state["jails"]] == [1, 0]
    await second.jail.close()
    assert old.process.poll() is None
    await first.jail.close()
    assert [(await served.exit()).code for served in (first, second)] == [0, 0]  # each zygote tells of its own
    await asyncio.gather(*host._tasks)
    assert old.process.poll() == 0
    assert not host._elders and host.zygote_starts == 2
    third = await spawn(k.moody_spec(moody))
    assert third.jail.alive
