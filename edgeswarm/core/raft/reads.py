"""Reads that see every write acknowledged before them, without an entry in the log.

A read notes the commit index; it may be served once that is applied and a quorum has answered a heartbeat that was sent
after the read came in (or, with leases, at once).  A follower asks its leader.
Invariants: a read is never answered before an entry of the leader's own term is committed; the queue and the reads that
wait for that hold RAFT_READS_MAX at most.  Contexts must not repeat while their reads wait.
Source: thesis 6.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeswarm.core.raft import replication
from edgeswarm.core.raft.config import ProposalDroppedError, ReadOnly, ReadState, StateType
from edgeswarm.core.raft.quorum import VoteResult, joint_vote
from edgeswarm.errors import RemoteError
from edgeswarm.limits import RAFT_READS_MAX
from edgeswarm.wire.raft import Message, MessageType

if TYPE_CHECKING:
    from edgeswarm.core.raft.raft import Raft


class _Read:
    """A read under way: who asks, the commit index when it came in, who has answered since."""

    __slots__ = ("acks", "index", "request")

    def __init__(self, request: Message, index: int) -> None:
        self.request = request
        self.index = index
        self.acks: dict[int, bool] = {}


class ReadQueue:
    """Reads under way in the order they came in, by context, and those that wait for the term's first commit."""

    __slots__ = ("heartbeat_due", "open", "waiting")

    def __init__(self) -> None:
        self.open: dict[bytes, _Read] = {}
        self.waiting: list[Message] = []
        self.heartbeat_due = False  # batch_appends: one heartbeat with the next Ready serves all reads of a turn

    def clear(self) -> None:
        """A term or a role has ended: whoever asked must ask again."""
        self.open.clear()
        self.waiting.clear()
        self.heartbeat_due = False

    def last_context(self) -> bytes:
        """Context of the newest read, empty if there is none."""
        return next(reversed(self.open)) if self.open else b""

    def take_to(self, context: bytes) -> list[_Read]:
        """Removes and returns the reads up to the one with `context`: what confirms it confirms those before it."""
        done = []
        for key in list(self.open):
            done.append(self.open.pop(key))
            if key == context:
                break
        return done


def refuse(raft: Raft, _: Message) -> None:
    """Nobody is known to lead."""
    if raft.log_fn:
        raft.note("info", f"no leader at term {raft.term}; dropping a read")
    raise ProposalDroppedError("raft read dropped: no leader")


def forward(raft: Raft, m: Message) -> None:
    """A follower asks its leader."""
    if raft.lead == 0:
        refuse(raft, m)
    raft.send(Message(MessageType.READ_INDEX, raft.lead, m.sender or raft.id, entries=m.entries))


def handle_response(raft: Raft, m: Message) -> None:
    """The leader answers a read that this node asked for."""
    if len(m.entries) != 1:
        raise RemoteError(f"raft: an answer to a read names 1 context, found {len(m.entries)}", who=f"node {m.sender}")
    if len(raft.read_states) < RAFT_READS_MAX:
        raft.read_states.append(ReadState(m.index, m.entries[0].data))


def request(raft: Raft, m: Message) -> None:
    """The leader takes a read in."""
    if raft.log.term(raft.log.committed) != raft.term:
        # 6.4, step 1: until an entry of its term is committed, a leader does not know what is.  Nor does the only
        # voter: after a power loss its commit index is the one it saved last, perhaps older than what it answered.
        if len(raft.reads.waiting) >= RAFT_READS_MAX:
            raise ProposalDroppedError("raft read dropped: too many wait for the first commit of the term")
        raft.reads.waiting.append(m)
    else:
        _start(raft, m)


def _start(raft: Raft, m: Message) -> None:
    # The only voter need not ask itself; but a leader that is none any more must ask the one that is.
    if raft.read_only is ReadOnly.LEASE_BASED or raft.tracker.voters == (raft.id,):
        _answer(raft, m, raft.log.committed)
        return
    reads, context = raft.reads, m.entries[0].data
    if context not in reads.open:
        if len(reads.open) >= RAFT_READS_MAX:
            raise ProposalDroppedError("raft read dropped: too many wait for a quorum")
        reads.open[context] = _Read(m, raft.log.committed)
    reads.open[context].acks[raft.id] = True
    if raft.batch_appends:
        reads.heartbeat_due = True
    else:
        replication.broadcast_heartbeat(raft, context)


def flush(raft: Raft) -> None:
    """batch_appends: one heartbeat for all the reads of a turn."""
    if raft.reads.heartbeat_due:
        raft.reads.heartbeat_due = False
        if raft.state is StateType.LEADER:
            replication.broadcast_heartbeat(raft)


def acknowledge(raft: Raft, m: Message) -> None:
    """A member has answered the heartbeat with m.context: with a quorum, that read and those before it are safe."""
    read = raft.reads.open.get(m.context)
    if read is None or raft.read_only is not ReadOnly.SAFE:
        return
    read.acks[m.sender] = True
    config = raft.tracker.config
    if joint_vote(config.voters_incoming, config.voters_outgoing, read.acks) is VoteResult.WON:
        for done in raft.reads.take_to(m.context):
            _answer(raft, done.request, done.index)


def release(raft: Raft) -> None:
    """The term's first entry is committed: reads that waited for it start."""
    if raft.reads.waiting:
        waiting, raft.reads.waiting = raft.reads.waiting, []
        for m in waiting:
            _start(raft, m)


def _answer(raft: Raft, m: Message, index: int) -> None:
    if m.sender in (0, raft.id):
        raft.read_states.append(ReadState(index, m.entries[0].data))
    else:
        raft.send(Message(MessageType.READ_INDEX_RESP, m.sender, raft.id, raft.term, index=index, entries=m.entries))
