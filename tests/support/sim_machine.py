"""The state machine of simulated cells: a few registers, and per client the last command with its answer.

A command is applied once however often it is committed: a client numbers its commands and has one under way at a time,
as in the cells of the product (core/cell).  `digest` runs over everything applied: two machines that applied the same
commands have the same one.  In some seeds the state of the product's cell (core/cell) is replicated beside it.
"""

from __future__ import annotations

import marshal
import zlib
from collections.abc import Hashable

from linearizability import register
from sim_cell import MARK

from edgeswarm.core.cell.state import CellState

STATE_EVERY = 8  # entries between two looks at the whole state of the cell


class Machine:
    """values: key -> value.  sessions: client -> (its last number, the answer)."""

    def __init__(self, snapshot: bytes = b"") -> None:
        self.index = 0
        self.digest = 0
        self.roster_version = 1
        self.values: dict[str, Hashable] = {}
        self.sessions: dict[int, tuple[int, Hashable]] = {}
        self.cell = CellState()
        if snapshot:
            self.index, self.digest, self.roster_version, self.values, self.sessions, cell = marshal.loads(snapshot)
            if cell:
                self.cell = CellState.from_snapshot(cell)

    @staticmethod
    def command(client: int, number: int, key: str, call: Hashable) -> bytes:
        return marshal.dumps((client, number, key, call))

    @staticmethod
    def digest_of(digest: int, kind: int, data: bytes) -> int:
        """The digest after one more entry; a change of members counts as an empty one."""
        return zlib.crc32(b"" if kind else data, digest)

    def apply(self, index: int, data: bytes) -> tuple[int, int, Hashable] | None:
        """(client, number, answer) of a command, None of an empty entry."""
        assert index == self.index + 1 or not self.index, (index, self.index)
        self.index = index
        self.digest = zlib.crc32(data, self.digest)
        if not data:
            return None
        if data[:1] == MARK:
            self._apply_cell(index, data[1:])
            return None
        client, number, key, call = marshal.loads(data)
        last, answer = self.sessions.get(client, (0, None))
        if number < last:
            return None  # long given up by its client
        if number > last:
            self.values[key], answer = register(self.values.get(key), call)
            self.sessions[client] = (number, answer)
        return client, number, answer

    def _apply_cell(self, index: int, data: bytes) -> None:
        """What it comes to goes into the digest, and now and then the whole state."""
        changes = self.cell.apply(index, 1, data)
        self.digest = zlib.crc32(repr(changes).encode(), self.digest)
        if index % STATE_EVERY == 0:
            self.digest = zlib.crc32(self.cell.to_snapshot(), self.digest)

    def snapshot(self) -> bytes:
        cell = self.cell.to_snapshot() if self.cell.index else b""
        return marshal.dumps((self.index, self.digest, self.roster_version, self.values, self.sessions, cell))
