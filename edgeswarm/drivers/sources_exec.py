"""Lines of a command's standard output.  When the command ends, however, it is started again with a growing wait; a
command that lived for SOURCE_RETRY_MS_MAX has earned a short one.  It is ended when the source's task is cancelled.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeswarm.drivers.child import ENVIRONMENT, Child
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.sources import Backoff, Offer, Setup
from edgeswarm.drivers.sources_lines import Format, LineSplitter, TextSource, read_some
from edgeswarm.errors import LocalError
from edgeswarm.limits import SOURCE_RETRY_MS_MAX


class ExecLines(TextSource):
    """The lines of one command."""

    kind = "exec"

    def __init__(
        self,
        fields: Sequence[str],
        setup: Setup,
        *,
        command: Sequence[str],
        cwd: Path,
        format: Format = "jsonl",  # noqa: A002 - the key of the agent file
    ) -> None:
        super().__init__(fields, setup, format=format)
        self._command = tuple(command)
        self._cwd = cwd
        self._child: Child | None = None  # that was handed over, or is to be
        self._splitter = LineSplitter()

    async def give_rows(self, offer: Offer) -> None:
        backoff = Backoff()
        await self.give_left(offer)
        while True:
            began_ns = self.clock.now_ns()
            try:
                child = self._take_child()
            except (OSError, ValueError) as error:
                self.failed("start", error)
            else:
                try:
                    await self._read(child, offer)
                finally:
                    if self.leaving:
                        child.listen(on=False)
                        self._child = child
                    else:
                        await child.stop()
                code, said = await child.exit()
                self.counts.vanished += 1
                self.reporter.report("source_exited", code=code, stderr=said, rows=self.counts.rows)
            if self.clock.now_ns() - began_ns > SOURCE_RETRY_MS_MAX * 1e6:
                backoff.reset()
            self.waits()
            await self.clock.sleep(backoff.next_s())

    def _take_child(self) -> Child:
        """The one that was handed over, else a new one.  Raises OSError, ValueError."""
        child, self._child = self._child, None
        if child is not None:
            child.listen(on=True)
            return child
        self._splitter.clear()
        child = Child.start(self._command, cwd=self._cwd, feeds=False)
        self.counts.opened += 1
        return child

    async def _read(self, child: Child, offer: Offer) -> None:
        """Hand over its lines until it closes its output."""
        splitter = self._splitter
        self.waits()
        while True:
            try:
                chunk = await read_some(child.stdout_fd)
            except OSError as error:
                self.failed("read", error)
                return
            lines = splitter.feed(chunk)
            if not chunk and (last := splitter.flush()) is not None:
                lines = [last]
            await self.give_lines(lines, offer)
            if not chunk:
                return

    def parcel(self, packer: Packer) -> dict[str, object]:
        child = None if self._child is None else self._child.parcel(packer)
        return {**super().parcel(packer), "part": self._splitter.state(), "child": child}

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self._splitter.restore(parcel["part"])
        if parcel["child"] is not None:
            self._child = Child.unpack(parcel["child"], unpacker)

    def probe(self) -> None:
        program = self._command[0]
        found = shutil.which(program, path=ENVIRONMENT["PATH"]) if "/" not in program else program
        if found is None or shutil.which(self._cwd / found) is None:
            raise LocalError(f"source {self.name}: command {program!r}: no such program")
