"""Commands as sources, with real children: started, read, restarted, and ended with all they started."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgeswarm.drivers.child import Child
from edgeswarm.drivers.sources import Clock, Setup
from edgeswarm.drivers.sources_exec import ExecLines
from edgeswarm.errors import LocalError


class Watched:
    """A running source, what it gave, and what it told."""

    def __init__(self, command: tuple[str, ...], cwd: Path, *, fields: tuple[str, ...] = ("x",)) -> None:
        self.rows: list[tuple[float, ...]] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self.waits: list[float] = []
        self.changed = asyncio.Event()
        setup = Setup("s", self.told, Clock(sleep=self.sleep))
        self.source = ExecLines(fields, setup, command=command, cwd=cwd, format="csv")

    def told(self, name: str, /, **fields: object) -> None:
        self.events.append((name, fields))
        self.changed.set()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.changed.set()
        await asyncio.sleep(0 if len(self.waits) < 4 else 60)

    async def offer(self, row: tuple[float, ...], at_ns: int) -> None:
        self.rows.append(row)
        self.changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def running(command: tuple[str, ...], cwd: Path) -> AsyncIterator[Watched]:
    watched = Watched(command, cwd)
    task = asyncio.create_task(watched.source.run(watched.offer))
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(5):
        while alive(pid):  # noqa: ASYNC110 - the kernel has no event for another's child
            await asyncio.sleep(0.005)


async def test_lines_of_a_command_are_rows_and_it_is_started_again_when_it_ends(tmp_path: Path) -> None:
    async with running(("/bin/sh", "-c", "echo 1; echo bad; printf 2; echo oops >&2; exit 3"), tmp_path) as watched:
        await watched.until(lambda: len(watched.waits) == 2)
        assert watched.rows[:4] == [(1.0,), (2.0,)] * 2
    exits = [fields for name, fields in watched.events if name == "source_exited"]
    assert (exits[0]["code"], exits[0]["stderr"]) == (3, "oops")
    assert watched.source.counts.vanished == 2
    assert watched.source.counts.malformed == {"type": 2}
    assert watched.waits == pytest.approx([0.1, 0.2])


async def test_command_that_does_not_exist_is_tried_again_with_a_growing_wait(tmp_path: Path) -> None:
    async with running(("/nonexistent/tool",), tmp_path) as watched:
        with pytest.raises(LocalError, match="no such program"):
            watched.source.probe()
        await watched.until(lambda: len(watched.waits) == 3)
    assert watched.source.counts.failed == 3
    assert watched.waits == pytest.approx([0.1, 0.2, 0.4])


async def test_program_is_found_in_a_fixed_path_or_beside_the_state(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    for command in (("sh",), ("/bin/sh",), ("./tool",)):
        Watched(command, tmp_path).source.probe()


async def test_child_gets_no_environment_and_no_descriptors_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESWARM_SECRET", "x")
    probe = "import os,sys; print(len(os.environ), len(os.listdir('/proc/self/fd')), os.getcwd() == sys.argv[1])"
    secret = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        child = Child.start((sys.executable, "-I", "-c", probe, str(tmp_path)), cwd=tmp_path, feeds=False)
        await asyncio.wait_for(child.exit(), 10)
        said = os.read(child.stdout_fd, 100).split()
        child.kill()
    finally:
        os.close(secret)
    assert said == [b"2", b"4", b"True"]  # three and the one that lists


async def test_stopped_source_leaves_no_process_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command starts another one, and both ignore SIGTERM."""
    monkeypatch.setattr("edgeswarm.drivers.child.CHILD_STOP_MS", 100.0)
    script = "trap '' TERM; (trap '' TERM; echo $$; while :; do sleep 60; done) & echo $!; wait"
    async with running(("/bin/sh", "-c", script), tmp_path) as watched:
        await watched.until(lambda: len(watched.rows) == 2)
    for (pid,) in watched.rows:
        await gone(int(pid))


async def test_child_that_is_cancelled_twice_is_killed_at_once(tmp_path: Path) -> None:
    watched = Watched(("/bin/sh", "-c", "trap '' TERM; echo $$; while :; do sleep 60; done"), tmp_path)
    task = asyncio.create_task(watched.source.run(watched.offer))
    await watched.until(lambda: bool(watched.rows))
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not alive(int(watched.rows[0][0]))


async def test_what_a_command_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    async with running(("/bin/sh", "-c", "sleep 60 & echo $!"), tmp_path) as watched:
        await watched.until(lambda: bool(watched.rows))
        # its output is open in the one that is left: the source ends it when the leader is gone and it is stopped
    await gone(int(watched.rows[0][0]))


async def test_command_that_closes_its_output_is_ended(tmp_path: Path) -> None:
    async with running(("/bin/sh", "-c", "echo $$; exec >&-; exec sleep 60"), tmp_path) as watched:
        await watched.until(lambda: len(watched.waits) == 1)
        assert not alive(int(watched.rows[0][0]))
    assert watched.events[0][1]["code"] == -signal.SIGTERM


def test_child_dies_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, os, pathlib, signal
        from edgeswarm.drivers.child import Child
        async def main():
            child = Child.start(("/bin/sleep", "60"), cwd=pathlib.Path("/"), feeds=False)
            print(child.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    asyncio.run(gone(int(done.stdout)))


async def test_long_standard_error_is_kept_to_its_end(tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done"
    child = Child.start(("/bin/sh", "-c", script), cwd=tmp_path, feeds=False)
    code, said = await asyncio.wait_for(child.exit(), 10)
    child.kill()
    assert code == 0
    assert said.endswith("line 2999")
    assert len(said) <= 2048
