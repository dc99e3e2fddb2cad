"""Handing leadership over: the leader brings its successor up to date, then tells it to campaign at once.

Invariant: while a transfer is under way nothing is proposed; it ends with the term, with the next election timeout or
with the removal of the successor.  Source: thesis 3.10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeswarm.core.raft import election, replication
from edgeswarm.wire.raft import Message, MessageType

if TYPE_CHECKING:
    from edgeswarm.core.raft.raft import Raft


def request(raft: Raft, m: Message) -> None:
    """The leader is asked to hand over to m.sender."""
    successor = m.sender
    progress = raft.tracker.progress.get(successor)
    if progress is None or progress.is_learner or successor in (raft.id, raft.lead_transferee):
        if successor == raft.id:
            abort(raft)  # it is to stay: a transfer under way ends
        return
    abort(raft)
    if raft.log_fn:
        raft.note("info", f"[term {raft.term}] starts to transfer leadership to {successor}")
    raft.election_elapsed = 0  # the transfer has one election timeout from here
    raft.lead_transferee = successor
    if progress.match == raft.log.last_index():
        send_timeout_now(raft, successor)
    else:
        replication.send_append(raft, successor, progress)


def forward(raft: Raft, m: Message) -> None:
    """A follower hands the request on; `sender` stays the successor."""
    if raft.lead:
        raft.send(Message(MessageType.TRANSFER_LEADER, raft.lead, m.sender, raft.term))


def send_timeout_now(raft: Raft, to: int) -> None:
    """The successor has the whole log: it is to campaign now."""
    raft.send(Message(MessageType.TIMEOUT_NOW, to, raft.id, raft.term))
    if raft.log_fn:
        raft.note("info", f"[term {raft.term}] told {to} to campaign now")


def handle_timeout_now(raft: Raft, m: Message) -> None:
    """The leader hands over to this node."""
    if raft.log_fn:
        raft.note("info", f"[term {raft.term}] campaigns because {m.sender} hands over")
    election.hup(raft, transfer=True)


def abort(raft: Raft) -> None:
    """Gives a transfer up; its successor may still win, if it was told already."""
    raft.lead_transferee = 0
