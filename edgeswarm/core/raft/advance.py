"""What advance() tells a node about the Ready that it handed out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeswarm.core.raft.storage import entries_bytes, payload_bytes
from edgeswarm.wire.raft import Message

if TYPE_CHECKING:
    from edgeswarm.core.raft.raft import Raft
    from edgeswarm.core.raft.rawnode import Ready


class Advance:
    """What advance() will tell the node: its own answers first, then what is stored, then what is applied.

    The node's acknowledgement of its own entries comes before they leave the unstable part of the log, where looking up
    their term costs least.
    """

    __slots__ = ("applied", "bytes", "index", "log_term", "own", "payload", "snapshot_index", "term")

    def __init__(self, raft: Raft, ready: Ready) -> None:
        self.own: Sequence[Message] = ()
        if raft.msgs_after_append:
            own = []
            for message in raft.msgs_after_append:
                if message.to == raft.id:
                    own.append(message)
                else:
                    ready.messages.append(message)
            self.own = own
        log = raft.log
        self.term = raft.term
        self.index, self.log_term = (log.last_index(), log.last_term()) if log.entries else (0, 0)
        self.snapshot_index = ready.snapshot.index if ready.snapshot is not None else 0
        committed = ready.committed_entries
        self.applied = self.bytes = self.payload = 0
        if committed:
            self.applied = committed[-1].index
            self.bytes, self.payload = entries_bytes(committed), payload_bytes(committed)

    def step(self, raft: Raft) -> None:
        """Tells it."""
        for message in self.own:
            raft.step(message)
        if raft.term == self.term:
            raft.stored(self.index, self.log_term, self.snapshot_index)
        elif self.snapshot_index:  # the term has changed: entries may have been replaced, a snapshot stays true
            raft.stored(0, 0, self.snapshot_index)
        if self.applied:
            raft.applied(self.applied, self.bytes, self.payload)
