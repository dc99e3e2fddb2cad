"""The state machine of simulated cells: a few registers, and per client the last command with its answer.

A command is applied once however often it is committed: a client numbers its commands and has one under way at a time,
as in the cells of the product (core/cell).  `digest` runs over everything applied: two machines that applied the same
commands have the same one.
"""

from __future__ import annotations

import marshal
import zlib
from collections.abc import Hashable

from linearizability import register


class Machine:
    """values: key -> value.  sessions: client -> (its last number, the answer)."""

    def __init__(self, snapshot: bytes = b"") -> None:
        self.index = 0
        self.digest = 0
        self.roster_version = 1
        self.values: dict[str, Hashable] = {}
        self.sessions: dict[int, tuple[int, Hashable]] = {}
        if snapshot:
            self.index, self.digest, self.roster_version, self.values, self.sessions = marshal.loads(snapshot)

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
        client, number, key, call = marshal.loads(data)
        last, answer = self.sessions.get(client, (0, None))
        if number < last:
            return None  # long given up by its client
        if number > last:
            self.values[key], answer = register(self.values.get(key), call)
            self.sessions[client] = (number, answer)
        return client, number, answer

    def snapshot(self) -> bytes:
        return marshal.dumps((self.index, self.digest, self.roster_version, self.values, self.sessions))
