"""JSON lines into a command's standard input.  When the command ends it is started again with a growing wait, and the
line that it had in part comes again whole; records wait meanwhile, bounded.  On `close` its input ends, and it has
CHILD_STOP_MS to finish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeswarm.drivers.child import Child
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.sinks import Outbox, Sink, SinkSetup, Writer, outbox_counts
from edgeswarm.drivers.sources import Backoff
from edgeswarm.limits import CHILD_STOP_MS, SOURCE_RETRY_MS_MAX


class ExecSink(Sink):
    """Records to one command."""

    def __init__(self, setup: SinkSetup, *, command: Sequence[str], cwd: Path, when: str = "always") -> None:
        super().__init__("exec", setup, when=when)
        self._command = tuple(command)
        self._cwd = cwd
        self._outbox = Outbox()
        self._writer: Writer | None = None
        self._closing = asyncio.Event()
        self.started = 0
        self._leaving = False
        self._child: Child | None = None  # that was handed over, or is to be
        self._task: asyncio.Task[None] | None = None
        if setup.begins:
            self.begin()

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def write_line(self, line: bytes) -> None:
        dropped = self._outbox.push(line)
        if self._closing.is_set():
            dropped += self._outbox.clear()
        self.note_dropped(dropped, "closed" if self._closing.is_set() else "slow")
        self.flush()

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    async def _run(self) -> None:
        backoff = Backoff()
        while not self._closing.is_set():
            began_ns = self.now_ns()
            try:
                child = self._take_child()
            except (OSError, ValueError) as error:
                self.note_failed("start", OSError(str(error)))
            else:
                await self._feed(child)
            if self.now_ns() - began_ns > SOURCE_RETRY_MS_MAX * 1e6:
                backoff.reset()
            await self._wait_closing(backoff.next_s())
        self.note_dropped(self._outbox.clear(), "closed")

    def _take_child(self) -> Child:
        """The one that was handed over, else a new one.  Raises OSError, ValueError."""
        child, self._child = self._child, None
        if child is not None:
            child.listen(on=True)
            return child
        child = Child.start(self._command, cwd=self._cwd, feeds=True)
        self.started += 1
        self._outbox.restart()
        return child

    async def _feed(self, child: Child) -> None:
        """Until the command ends, or the sink is closed."""
        writer = Writer(self._outbox, child.stdin_fd, polls=False, on_error=lambda _: child.terminate())
        self._writer = writer
        writer.flush()
        over = asyncio.ensure_future(child.exit())
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((over, closing), return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                await self._finish(child, writer, over)
            else:
                code, said = over.result()
                self.failed += 1
                self.reporter.report("sink_failed", kind="exited", code=code, stderr=said, failed=self.failed)
        finally:
            over.cancel()
            closing.cancel()
            writer.stop()
            self._writer = None
            if self._leaving and child.running:
                child.listen(on=False)
                self._child = child
            else:
                child.kill()

    async def _finish(self, child: Child, writer: Writer, over: asyncio.Future[tuple[int, str]]) -> None:
        """Let the command have what still waits, then its input ends; all of it within CHILD_STOP_MS."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + CHILD_STOP_MS / 1000
        if self._outbox:
            empty = asyncio.Event()
            writer.on_empty = empty.set
            waits = asyncio.ensure_future(empty.wait())
            await asyncio.wait((over, waits), timeout=CHILD_STOP_MS / 1000, return_when=asyncio.FIRST_COMPLETED)
            waits.cancel()
        writer.stop()
        child.close_stdin()
        await asyncio.wait((over,), timeout=max(0.0, until_s - loop.time()))

    async def _wait_closing(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass

    def counts(self) -> dict[str, int]:
        return {**outbox_counts(self._outbox, self.failed), "started": self.started}

    async def parcel(self, packer: Packer) -> dict[str, Any]:
        """With the command, which goes on reading."""
        self._leaving = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        child = None if self._child is None else self._child.parcel(packer)
        return {
            **await super().parcel(packer),
            "outbox": self._outbox.state(),
            "child": child,
            "started": self.started,
        }

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self._outbox.restore(parcel["outbox"])
        self.started = parcel["started"]
        if parcel["child"] is not None:
            self._child = Child.unpack(parcel["child"], unpacker)

    def close(self) -> None:
        """The command has CHILD_STOP_MS from now on to take what waits and to finish; `closed` waits for it."""
        self.flush()
        self._closing.set()

    async def closed(self) -> None:
        """Returns once the command is gone."""
        if self._task is not None:
            await self._task
