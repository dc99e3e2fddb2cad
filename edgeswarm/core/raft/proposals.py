"""Proposals: what enters the log, and who may put it there.

Invariants: at most one change of members is between proposal and application; data that waits for a quorum stays below
max_uncommitted_bytes (one proposal always goes, and empty ones).
Source: Raft paper 5.3, thesis 4.1 (one change at a time), 4.3 (joint consensus).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from edgeswarm.core.raft import replication
from edgeswarm.core.raft.confchange import Changer, ConfChangeError, decode_entry
from edgeswarm.core.raft.config import ProposalDroppedError
from edgeswarm.core.raft.storage import payload_bytes
from edgeswarm.wire.raft import Entry, EntryType, Message, MessageType

if TYPE_CHECKING:
    from edgeswarm.core.raft.raft import Raft

EMPTY: Final = Entry(0, 0, EntryType.NORMAL, b"")
DROPPED: Final = "raft proposal dropped"


def _drop(raft: Raft, why: str) -> NoReturn:
    if raft.log_fn:
        raft.note("info", f"drops a proposal at term {raft.term}: {why}")
    raise ProposalDroppedError(DROPPED)


def refuse(raft: Raft, _: Message) -> None:
    """A candidate knows no leader."""
    _drop(raft, "no leader")


def forward(raft: Raft, m: Message) -> None:
    """A follower hands proposals on to the leader."""
    if raft.lead == 0:
        _drop(raft, "no leader")
    if raft.disable_proposal_forwarding:
        _drop(raft, "not forwarding")
    raft.send(Message(MessageType.PROP, raft.lead, m.sender or raft.id, entries=m.entries))


def propose(raft: Raft, m: Message) -> None:
    """The leader appends and replicates.  Raises ProposalDroppedError, CodecError for a change that does not read."""
    if raft.id not in raft.tracker.progress:
        _drop(raft, "removed from the configuration")
    if raft.lead_transferee:
        _drop(raft, f"leadership goes to {raft.lead_transferee}")
    entries = m.entries
    pending = raft.pending_conf_index
    for at, entry in enumerate(entries):
        if entry.type == EntryType.NORMAL:
            continue
        fault = _change_fault(raft, entry, m.sender)
        if fault and not raft.disable_conf_change_validation:
            if raft.log_fn:
                raft.note("info", f"ignoring a change of members at {raft.tracker.config}: {fault}")
            entries = (*entries[:at], EMPTY, *entries[at + 1 :])
        else:
            raft.pending_conf_index = raft.log.last_index() + at + 1
    if not append(raft, entries):
        raft.pending_conf_index = pending
        _drop(raft, "too much that is not committed yet")
    if raft.batch_appends:
        raft.flush_append = True
    else:
        replication.broadcast_append(raft)


def _change_fault(raft: Raft, entry: Entry, sender: int) -> str:
    """Why a change of members may not be proposed now; "" if it may."""
    change = decode_entry(entry.type, entry.data, who=f"node {sender}" if sender else "").as_v2()
    if raft.pending_conf_index > raft.log.applied:
        return f"one may be unapplied at index {raft.pending_conf_index} (applied to {raft.log.applied})"
    joint = raft.tracker.config.joint
    if joint and change.changes:
        return "must leave the joint configuration first"
    if not joint and not change.changes:
        return "not in a joint configuration; refusing an empty change"
    try:
        Changer(raft.tracker, raft.log.last_index()).apply(change)
    except ConfChangeError as error:
        return str(error)
    return ""


def append(raft: Raft, entries: tuple[Entry, ...]) -> bool:
    """Puts entries of this term at the end of the log; False where too much waits for a quorum already.

    The leader acknowledges them itself, with a message that leaves once they are stored (thesis 10.2.1).
    """
    size = payload_bytes(entries)
    if raft.uncommitted_bytes and size and raft.uncommitted_bytes + size > raft.max_uncommitted_bytes:
        return False
    raft.uncommitted_bytes += size
    term, index = raft.term, raft.log.last_index()
    stamped = []
    for entry in entries:
        index += 1
        stamped.append(Entry(term, index, entry.type, entry.data))
    raft.log.append(stamped)
    raft.send(Message(MessageType.APP_RESP, raft.id, raft.id, term, index=index))
    return True
