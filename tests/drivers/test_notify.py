"""The service manager hears what it must: a fake notify socket, a loop that hangs, variables that make no sense."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from notify_manager import Manager
from processes import ROOT, environment

from edgeswarm.drivers.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"@edgeswarm-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "n")
    made = Manager(name)
    yield made
    made.socket.close()


def test_every_word_reaches_the_manager(manager: Manager) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": manager.name})
    assert notifier.is_heard
    assert notifier.ready("two agents\nMAINPID=1")
    assert notifier.reloading() and notifier.main_pid(17) and notifier.beat() and notifier.extend(2.5)
    assert notifier.status("x" * 999) and notifier.stopping()
    heard = manager.heard()
    assert heard[:3] == ["READY=1", "STATUS=two agents MAINPID=1", "RELOADING=1"], "a text never becomes a variable"
    assert heard[3].startswith("MONOTONIC_USEC=") and heard[3].partition("=")[2].isdigit()
    assert heard[4:7] == ["MAINPID=17", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=2500000"]
    assert heard[7:] == ["STATUS=" + "x" * 200, "STOPPING=1"]


def test_without_a_manager_nothing_is_said_and_nothing_waits() -> None:
    notifier = Notifier.of({})
    assert not notifier.is_heard
    assert not notifier.ready("x")
    assert not notifier.send()
    assert notifier.dropped_count == 0
    asyncio.run(asyncio.wait_for(notifier.watch(), 5))  # returns: there is nothing to watch


@pytest.mark.parametrize("text", ["", "relative/path", "@", "/", "vsock:2:1234", "/" + "x" * 107, "/a\0b"])
def test_an_address_that_makes_no_sense_is_as_good_as_absent(text: str) -> None:
    assert not Notifier.of({"NOTIFY_SOCKET": text, "WATCHDOG_USEC": "1000000"}).is_heard


@pytest.mark.parametrize("text", ["", "0", "-5", "1e6", "soon", "199999", "٣٠٠٠٠٠٠", "9" * 19])
def test_an_interval_that_makes_no_sense_is_no_watchdog(text: str) -> None:
    assert Notifier.of({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": text}).watchdog_s is None


def test_beats_are_ours_only_when_the_manager_means_this_process() -> None:
    said = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "41"}
    assert Notifier.of(said, pid=41).watchdog_s == 3.0
    assert Notifier.of(said, pid=42).watchdog_s is None
    assert Notifier.of({**said, "NOTIFY_SOCKET": ""}, pid=41).watchdog_s is None


def test_a_manager_that_is_gone_or_does_not_read_stops_nobody(tmp_path: Path) -> None:
    gone = Notifier.of({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert not gone.ready()
    assert gone.dropped_count == 1
    deaf = Manager(str(tmp_path / "deaf"))
    try:
        notifier = Notifier.of({"NOTIFY_SOCKET": deaf.name})
        taken = [notifier.beat() for _ in range(2_000)]  # far more than its queue holds, and none of them waits
        assert taken[0]
        assert not taken[-1]
        assert notifier.dropped_count == taken.count(False)
    finally:
        deaf.socket.close()


async def test_who_is_not_alive_does_not_beat(manager: Manager) -> None:
    alive = True
    notifier = Notifier(manager.socket.getsockname() if manager.name[0] == "@" else manager.name.encode())
    notifier.watchdog_s = 0.02
    task = asyncio.create_task(notifier.watch(lambda: alive))
    while "WATCHDOG=1" not in manager.heard():  # noqa: ASYNC110 - it is another process's socket, as it were
        await asyncio.sleep(0.001)
    alive = False
    await asyncio.sleep(0.02)
    manager.heard()
    await asyncio.sleep(0.2)
    assert manager.heard() == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


HUNG = """
import asyncio, os, sys, time
from edgeswarm.drivers.notify import Notifier

async def main():
    notifier = Notifier.of(os.environ)
    watch = asyncio.create_task(notifier.watch())
    notifier.ready()
    await asyncio.sleep(0.5)
    print("hangs", flush=True)
    while True:  # an event loop that nobody turns any more
        time.sleep(0.01)

asyncio.run(main())
"""


def test_a_hung_event_loop_does_not_beat(tmp_path: Path) -> None:
    """Half of 200 ms is the beat: while the loop turns there are some, and once it hangs there is none any more."""
    manager = Manager(str(tmp_path / "n"))
    env = {**environment(home=tmp_path), "NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "200000"}
    process = subprocess.Popen([sys.executable, "-c", HUNG], stdout=subprocess.PIPE, cwd=ROOT, env=env)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"hangs\n"
        heard = manager.heard()
        assert "READY=1" in heard
        assert heard.count("WATCHDOG=1") >= 1
        assert not select.select([manager.socket], [], [], 0.6)[0], "a beat of a loop that hangs"
    finally:
        process.kill()
        process.communicate()
        manager.socket.close()
