"""What is killed although it does not end by itself: stopped jails, processes that nobody knows, that are silent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jail_kernels as k
import pytest

from edgeswarm.drivers.jail_compile import CompileLink
from edgeswarm.drivers.jail_life import JailLife
from edgeswarm.drivers.jail_zygote import Message
from edgeswarm.drivers.jails import JailHost
from edgeswarm.errors import JailError
from edgeswarm.ids import JailId
from edgeswarm.limits import CWASM_BYTES_MAX

SUPERVISOR = """
import asyncio, sys
sys.path[:0] = sys.argv[1].split(":")
import jail_kernels as k
from edgeswarm.drivers.jails import JailHost
from pathlib import Path

async def main():
    host = JailHost(policy_dir=k.SANDBOX, cache_dir=Path(sys.argv[2]), mac_key=k.MAC_KEY)
    await host.start()
    code = await host.compile(k.assemble(k.MOODY))
    jails = [await host.spawn([k.moody_spec(code)], on_reply=print, on_exit=print) for _ in "ab"]
    print(host.zygote_pid, *(jail.pid for jail in jails), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] != b"Z"
    except OSError:
        return False


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.mark.e2e
def test_stopped_jails_do_not_outlive_their_supervisor(cache_dir: Path) -> None:
    """They cannot see the end of their sockets: it is the zygote that kills them."""
    path = ":".join((str(k.ROOT), str(k.ROOT / "tests" / "support"), *(p for p in sys.path if p)))
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, path, str(cache_dir)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        for pid in pids[1:]:
            os.kill(pid, signal.SIGSTOP)
        process.kill()
        until = time.monotonic() + 10
        while any(map(lives, pids)) and time.monotonic() < until:
            time.sleep(0.01)
        left = [pid for pid in pids if lives(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == []


@pytest.mark.e2e
async def test_jail_that_nobody_knows_any_more_is_killed_when_it_is_told(
    host: JailHost, sleeper: subprocess.Popen[bytes]
) -> None:
    """Its start was given up before the zygote said which process it is."""
    pidfd = os.pidfd_open(sleeper.pid)
    host._take(Message({"spawned": 99_999, "pid": sleeper.pid}, (pidfd,)))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfd)
    assert sleeper.wait(10) == -signal.SIGKILL


async def test_process_that_closed_its_socket_is_killed_whatever_it_does(sleeper: subprocess.Popen[bytes]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    link: Any = SimpleNamespace(id=JailId(1), control=ours)
    owner: Any = SimpleNamespace(keep=lambda work: work.close())
    with ours:
        life = JailLife(owner, link, lambda _ended: None)
        life.take_process(sleeper.pid, os.pidfd_open(sleeper.pid))
        theirs.close()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not life.alive
        assert sleeper.wait(10) == -signal.SIGKILL
        os.close(life.pidfd)


@pytest.mark.parametrize("size", [-1, 0, CWASM_BYTES_MAX + 1, 1 << 62])
def test_size_of_code_that_cannot_be_is_refused(size: int) -> None:
    """It is the word of a jail that has read a stranger's module."""
    link = CompileLink(JailId(1), b"\0asm")
    try:
        with pytest.raises(JailError, match=f"bytes expected, found {size}"):
            link.code(size)
    finally:
        link.close()
