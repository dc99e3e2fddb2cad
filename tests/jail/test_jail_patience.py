"""Deadlines are the jail's: time in which nobody looked, or in which everything stood still, is not held against it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest

from edgeswarm.drivers.jail_link import JailLink
from edgeswarm.drivers.jail_sync import SyncHost
from edgeswarm.ids import JailId

LONG_NS = 60_000_000_000


@pytest.mark.e2e
async def test_jail_is_not_killed_by_a_timer_that_went_off_late(spawn: Any, moody: bytes) -> None:
    """As after SIGSTOP and SIGCONT of the supervisor: its answer waits unread, its deadline is long past."""
    served = await spawn(k.moody_spec(moody, deadline_ms=1000))
    assert served.jail.submit(0, 1, 1, k.row(k.ADD, 3))
    served.jail._link._progress_ns -= LONG_NS
    served.jail._due_ns -= LONG_NS
    served.jail._judge()
    await served.until(lambda: bool(served.replies))
    assert k.values(served.replies[0].payload)[0] == 6.0
    assert not served.exits


@pytest.mark.e2e
async def test_jail_is_not_killed_by_the_first_look_after_a_hand_over(spawn: Any, moody: bytes) -> None:
    """The next program took long to begin: what was in flight is answered, and waits unread."""
    served = await spawn(k.moody_spec(moody, deadline_ms=1000))
    assert served.jail.submit(0, 1, 1, k.row(k.ADD, 3))
    served.jail.listen(on=False)
    served.jail._link._progress_ns -= LONG_NS
    served.jail.listen(on=True)
    await served.until(lambda: bool(served.replies))
    assert k.values(served.replies[0].payload)[0] == 6.0
    assert not served.exits


@pytest.mark.e2e
def test_jail_is_not_killed_by_a_look_that_came_late_without_a_loop(
    sync_host: SyncHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = sync_host.compile(k.assemble(k.MOODY))
    with sync_host.spawn([k.moody_spec(code, deadline_ms=1000)]) as jail:
        clock, skipped = time.monotonic_ns, [0]

        class Stopped:
            """Where the process was stopped: poll(2) says that nothing came, long after its time was over."""

            def poll(self, _timeout_ms: float) -> list[object]:
                skipped[0] += LONG_NS
                monkeypatch.setattr(jail, "_poll", whole)
                return []

        whole = jail._poll
        monkeypatch.setattr(time, "monotonic_ns", lambda: clock() + skipped[0])
        monkeypatch.setattr(jail, "_poll", Stopped())
        monkeypatch.setattr(jail, "_spins", False)
        assert k.values(jail.call(0, k.row(k.ADD, 3)))[0] == 6.0
        assert skipped == [LONG_NS]


@pytest.mark.parametrize("late_ns", [0, 200_000_000, 5_000_000_000], ids=["never", "a little", "much"])
def test_jail_that_never_answers_is_killed_however_late_the_looks_are(late_ns: int) -> None:
    """Patience is counted in the time between the looks: it ends after the same number of them, at the latest."""
    link = JailLink(JailId(1), [k.moody_spec(b"code", deadline_ms=200)])
    try:
        link.loading = False
        assert link.submit(0, 1, 1, k.row(k.SPIN))
        now, looks, looked_ns = time.monotonic_ns(), 0, 0
        verdict = link.judge(now)
        while verdict is not None and not verdict.kill:
            looked_ns += verdict.at_ns - now
            now = verdict.at_ns + late_ns
            link.forgive(late_ns)
            verdict, looks = link.judge(now), looks + 1
            assert looks < 20
        assert looked_ns <= 2 * 200_000_000 + 1_000_000_000
    finally:
        link.close()


SERVING = """
import asyncio, sys
sys.path[:0] = sys.argv[1].split(":")
import jail_kernels as k
from edgeswarm.drivers.jails import JailHost
from pathlib import Path

async def main():
    host = JailHost(policy_dir=k.SANDBOX, cache_dir=Path(sys.argv[2]), mac_key=k.MAC_KEY)
    await host.start()
    code = await host.compile(k.assemble(k.MOODY))
    exits, count = [], 0

    def on_reply(reply):
        nonlocal count
        count += 1
        jail.submit(0, count, 1, k.row(k.ADD, 2.0))

    jail = await host.spawn([k.moody_spec(code, deadline_ms=300)], on_reply=on_reply, on_exit=exits.append)
    jail.submit(0, 0, 1, k.row(k.ADD, 2.0))
    print("serving", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    before = count
    await asyncio.sleep(0.2)
    print(count > before, [ended.text for ended in exits], flush=True)
    await host.close()

asyncio.run(main())
"""


@pytest.mark.e2e
@pytest.mark.soak  # 6 s, and only some stops meet the moment
def test_supervisor_that_was_stopped_for_long_goes_on_with_its_jails(cache_dir: Path) -> None:
    path = ":".join((str(k.ROOT), str(k.ROOT / "tests" / "support"), *(p for p in sys.path if p)))
    command = [sys.executable, "-c", SERVING, path, str(cache_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        for _ in range(2):
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(1.9)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.05)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "True []\n"
