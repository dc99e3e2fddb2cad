"""Asynchronous writes: a Ready addresses two storage threads with messages, and the next may come before they answer.

STORAGE_APPEND (to LOCAL_APPEND) carries what is to be stored; its `responses` are delivered when the disk has it:
votes and acknowledgements to peers, the node's own, and last a STORAGE_APPEND_RESP to the node.  STORAGE_APPLY (to
LOCAL_APPLY) carries committed entries and answers with STORAGE_APPLY_RESP.  Each thread works in order.
EdgeSwarm's own driver does not use this: one Ready at a time is simpler, and batching makes up for it.  It is here
because etcd's transcripts speak it, and because they are the best test of the rules on what may leave when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeswarm.wire.raft import LOCAL_APPEND, LOCAL_APPLY, Message, MessageType

if TYPE_CHECKING:
    from edgeswarm.core.raft.raft import Raft
    from edgeswarm.core.raft.rawnode import Ready


def address(raft: Raft, ready: Ready) -> None:
    """Adds the messages to the storage threads to a Ready; all of its messages may leave at once, in their order."""
    if ready.entries or ready.hard_state is not None or ready.snapshot is not None or raft.msgs_after_append:
        ready.messages.append(_append(raft, ready))
    if ready.committed_entries:
        ready.messages.append(_apply(raft, ready))
    ready.now_count = len(ready.messages)


def _append(raft: Raft, ready: Ready) -> Message:
    responses = list(raft.msgs_after_append)
    if raft.log.entries or ready.snapshot is not None:
        responses.append(_append_response(raft, ready))
    message = Message(
        MessageType.STORAGE_APPEND,
        LOCAL_APPEND,
        raft.id,
        entries=tuple(ready.entries),
        snapshot=ready.snapshot,
        responses=tuple(responses),
    )
    if ready.hard_state is not None:
        message.term, message.vote, message.commit = ready.hard_state
    return message


def _append_response(raft: Raft, ready: Ready) -> Message:
    """Says how far the log will be stored, with the term of its last entry and the node's own term.

    An entry may be replaced while it is being written, and replaced again by one that looks like it (the same index and
    term); only an answer of the current term can vouch for it, so older ones are ignored but for their snapshot.
    """
    message = Message(MessageType.STORAGE_APPEND_RESP, raft.id, LOCAL_APPEND, raft.term, snapshot=ready.snapshot)
    if raft.log.entries:
        message.index, message.log_term = raft.log.last_index(), raft.log.last_term()
    return message


def _apply(raft: Raft, ready: Ready) -> Message:
    entries = tuple(ready.committed_entries)
    response = Message(MessageType.STORAGE_APPLY_RESP, raft.id, LOCAL_APPLY, entries=entries)
    return Message(MessageType.STORAGE_APPLY, LOCAL_APPLY, raft.id, entries=entries, responses=(response,))
