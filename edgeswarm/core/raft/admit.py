"""What a peer may send: everything else is a RemoteError here, so that no assert of the core ever sees a peer's bytes.

wire/raft.py has bounded sizes and types; this checks what only makes sense in a message of its kind, for messages that
were never bytes too (a simulator's, a test's).  What depends on the node's state - an acknowledgement beyond the log, a
contradiction of what is committed - is checked where the state is at hand, in replication.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeswarm.core.raft.config import PeerNotFoundError
from edgeswarm.errors import RemoteError
from edgeswarm.limits import RAFT_ENTRIES_MAX, RAFT_NUMBER_MAX
from edgeswarm.wire.raft import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    LOCAL_TYPES,
    RESPONSE_TYPES,
    Entry,
    EntryType,
    Message,
    MessageType,
)

if TYPE_CHECKING:
    from edgeswarm.core.raft.raft import Raft

_WITHOUT_TERM: Final = frozenset({MessageType.PROP, MessageType.READ_INDEX})
_ENTRY_TYPES: Final = frozenset(EntryType)
_OF_MEMBERS: Final = RESPONSE_TYPES | {MessageType.TRANSFER_LEADER}
_VOTES: Final = frozenset({MessageType.VOTE, MessageType.PRE_VOTE})
_STORAGE: Final = frozenset({LOCAL_APPEND, LOCAL_APPLY})


def admit(raft: Raft, m: Message, *, own: bool) -> None:
    """Raises RemoteError unless `m` may be stepped.

    own: messages of this node to itself pass (asynchronous writes deliver them from outside).
    """
    kind = m.type
    if m.sender in _STORAGE and own:
        return
    who = f"node {m.sender}"
    if kind not in _TRAVELS:
        raise RemoteError(f"raft: message type {kind!s:.20} does not travel", who=who)
    if m.to != raft.id:
        raise RemoteError(f"raft: a message for node {m.to} came to node {raft.id}", who=who)
    if m.sender == raft.id and not own:
        raise RemoteError("raft: a message of this node came from outside", who=who)
    if not (
        0 < m.sender <= RAFT_NUMBER_MAX
        and 0 <= m.term <= RAFT_NUMBER_MAX
        and 0 <= m.log_term <= RAFT_NUMBER_MAX
        and 0 <= m.index <= RAFT_NUMBER_MAX
        and 0 <= m.commit <= RAFT_NUMBER_MAX
        and 0 <= m.reject_hint <= RAFT_NUMBER_MAX
    ):
        raise RemoteError("raft: a number is out of its range", who=who)
    if (m.term == 0) != (kind in _WITHOUT_TERM):
        raise RemoteError(f"raft: {kind.name} with term {m.term}", who=who)
    if kind in _OF_MEMBERS and m.sender not in raft.tracker.progress:
        raise PeerNotFoundError("raft: cannot step as peer not found", who=who)
    if kind is MessageType.APP:
        _check_entries(m, who)
    elif kind is MessageType.PROP:
        _check_proposal(m, who)
    elif kind is MessageType.SNAP:
        snapshot = m.snapshot
        if snapshot is None or not 0 < snapshot.index <= RAFT_NUMBER_MAX or not 0 < snapshot.term <= m.term:
            raise RemoteError("raft: a snapshot without index or with a term beyond its message's", who=who)
    elif kind in _VOTES and m.log_term > m.term:
        raise RemoteError(f"raft: a vote in term {m.term} for a log of term {m.log_term}", who=who)
    elif kind is MessageType.READ_INDEX and len(m.entries) != 1:
        raise RemoteError(f"raft: a read names 1 context, found {len(m.entries)}", who=who)


def _check_entries(m: Message, who: str) -> None:
    """Entries follow m.index without a gap, terms never fall and stay within the message's."""
    index, term, top = m.index, m.log_term, m.term
    if term > top or (index == 0) != (term == 0):
        raise RemoteError(f"raft: an append of term {top} after entry {index} of term {term}", who=who)
    if len(m.entries) > RAFT_ENTRIES_MAX:
        raise RemoteError(f"raft: at most {RAFT_ENTRIES_MAX} entries a message, found {len(m.entries)}", who=who)
    for entry in m.entries:
        index += 1
        if entry.index != index:
            raise RemoteError(f"raft: expected entry {index}, found {entry.index}", who=who)
        if not term <= entry.term <= top or entry.term < 1:
            raise RemoteError(f"raft: entry {index} has term {entry.term} after {term}, in term {top}", who=who)
        term = entry.term
    if index > RAFT_NUMBER_MAX:
        raise RemoteError("raft: an entry's index is out of its range", who=who)


def _check_proposal(m: Message, who: str) -> None:
    if not 0 < len(m.entries) <= RAFT_ENTRIES_MAX:
        raise RemoteError(f"raft: 1 to {RAFT_ENTRIES_MAX} entries a proposal, found {len(m.entries)}", who=who)
    if any(_bad_proposal(entry) for entry in m.entries):
        raise RemoteError("raft: an entry of a proposal has a term, an index or a type that is not known", who=who)


def _bad_proposal(entry: Entry) -> bool:
    return entry.term != 0 or entry.index != 0 or entry.type not in _ENTRY_TYPES


_TRAVELS: Final = frozenset(kind for kind in MessageType if kind not in LOCAL_TYPES)
