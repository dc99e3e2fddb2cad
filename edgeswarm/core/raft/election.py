"""Elections: who campaigns, who votes for whom, and when somebody stops to lead.

Source: Raft paper 5.1, 5.2, 5.4.1; thesis 3.10 (transfer), 4.2.3 (disruptive servers), 6.2 (check quorum), 9.6
(pre-vote).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeswarm.core.raft import replication
from edgeswarm.core.raft.config import ReadOnly, StateType
from edgeswarm.core.raft.quorum import VoteResult
from edgeswarm.wire.raft import Message, MessageType

if TYPE_CHECKING:
    from edgeswarm.core.raft.raft import Raft

CAMPAIGN_TRANSFER: Final = b"CampaignTransfer"  # context of a vote request that a transfer asked for: leases yield

_FROM_LEADER: Final = frozenset({MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP})
_RESPONSE: Final = {
    MessageType.VOTE: MessageType.VOTE_RESP,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESP,
}


# --- terms (5.1) ----------------------------------------------------------------------------------------------------


def higher_term(raft: Raft, m: Message) -> bool:
    """A message of a newer term: takes the term over where it is real.  Returns whether the message goes on."""
    if m.type is MessageType.VOTE or m.type is MessageType.PRE_VOTE:
        if m.context != CAMPAIGN_TRANSFER and in_lease(raft):  # 4.2.3: neither updates its term nor grants its vote
            if raft.log_fn:
                raft.note(
                    "info",
                    f"{_vote_text(raft)} ignored Msg {m.type.name} from {m.sender} at term {raft.term}: lease is not "
                    f"expired (remaining ticks: {raft.election_ticks - raft.election_elapsed})",
                )
            return False
        if m.type is MessageType.PRE_VOTE:
            return True  # a term that may never be
    elif m.type is MessageType.PRE_VOTE_RESP and not m.reject:
        return True  # our own question's term; it becomes ours when a quorum has granted it
    if raft.log_fn:
        raft.note("info", f"[term: {raft.term}] received {m.type.name} with higher term from {m.sender}: {m.term}")
    raft.become_follower(m.term, m.sender if m.type in _FROM_LEADER else 0)
    return True


def lower_term(raft: Raft, m: Message) -> None:
    """A message of an older term: 5.1, "rejects the request"; some senders must learn why."""
    if (raft.check_quorum or raft.pre_vote) and (m.type is MessageType.HEARTBEAT or m.type is MessageType.APP):
        # A leader of an older term that is cut off from nobody but outvoted: with leases or pre-votes nobody else would
        # tell it, and this node, ahead in terms, could never be brought back.  The answer's term makes it step down.
        raft.send(Message(MessageType.APP_RESP, m.sender, raft.id, raft.term))
    elif m.type is MessageType.PRE_VOTE:
        # Without this answer two candidates, one with the newer term and one with the longer log, wait for ever.
        raft.send(Message(MessageType.PRE_VOTE_RESP, m.sender, raft.id, raft.term, reject=True))
    elif m.type is MessageType.STORAGE_APPEND_RESP:
        # What was stored of the log may have been replaced in a later term; a snapshot is committed: it stays true.
        if m.snapshot is not None:
            raft.stored(0, 0, m.snapshot.index)
    elif raft.log_fn:
        raft.note("info", f"[term: {raft.term}] ignored {m.type.name} with lower term from {m.sender}: {m.term}")


def in_lease(raft: Raft) -> bool:
    """Whether a leader was heard of within the shortest election timeout (4.2.3)."""
    return raft.check_quorum and raft.lead != 0 and raft.election_elapsed < raft.election_ticks


# --- campaigning (5.2) ----------------------------------------------------------------------------------------------


def hup(raft: Raft, *, transfer: bool = False) -> None:
    """Starts an election, unless this node leads, may not, or has a change of members to apply first.

    transfer: the leader asked for it; no pre-vote (the leader is there to be disturbed) and leases yield.
    """
    if raft.state is StateType.LEADER:
        return
    if not raft.promotable():
        if raft.log_fn:
            raft.note("warn", "is unpromotable and can not campaign")
        return
    if raft.log.has_unapplied_change():
        if raft.log_fn:
            raft.note("warn", f"cannot campaign at term {raft.term}: a change of members is not applied yet")
        return
    if raft.log_fn:
        raft.note("info", f"is starting a new election at term {raft.term}")
    campaign(raft, MessageType.PRE_VOTE if raft.pre_vote and not transfer else MessageType.VOTE, transfer=transfer)


def campaign(raft: Raft, request: MessageType, *, transfer: bool = False) -> None:
    """Asks every voter, itself included: its own vote counts once it is stored, like anybody's."""
    if request is MessageType.PRE_VOTE:
        raft.become_pre_candidate()
        term = raft.term + 1  # the term that would be campaigned in
    else:
        raft.become_candidate()
        term = raft.term
    last_index, last_term = raft.log.last_index(), raft.log.last_term()
    context = CAMPAIGN_TRANSFER if transfer else b""
    for voter in raft.tracker.voters:
        if voter == raft.id:
            raft.send(Message(_RESPONSE[request], voter, raft.id, term))
            continue
        if raft.log_fn:
            raft.note("info", f"[logterm: {last_term}, index: {last_index}] sent {request.name} to {voter}")
        raft.send(Message(request, voter, raft.id, term, last_term, last_index, context=context))


def handle_vote_response(raft: Raft, m: Message) -> None:
    """A vote for this (pre-)candidate, or against it; only answers to the question that is open come here.

    commit_by_vote: who refuses says what is committed, as it would as a leader.  Without that two nodes can wait for
    ever: one whose log is longer and which has learnt that it no longer votes, and one that votes and has lost the
    commit index of that change in a crash.
    """
    if raft.log_fn:
        raft.note("info", f"received {m.type.name} {'rejection ' if m.reject else ''}from {m.sender} at {raft.term}")
    log = raft.log
    if m.reject and raft.commit_by_vote and log.maybe_commit(m.commit, m.log_term) and log.has_unapplied_change():
        raft.become_follower(raft.term, 0)  # whom to ask is about to change
        return
    raft.tracker.record_vote(m.sender, not m.reject)
    granted, rejected, result = raft.tracker.tally_votes()
    if raft.log_fn:
        raft.note("info", f"has received {granted} {m.type.name} votes and {rejected} vote rejections")
    if result is VoteResult.WON and raft.promotable():
        if raft.state is StateType.PRE_CANDIDATE:
            campaign(raft, MessageType.VOTE)
        else:
            raft.become_leader()
            replication.broadcast_append(raft)
    elif result is VoteResult.LOST:
        raft.become_follower(raft.term, 0)  # not m.term: a pre-vote's is in the future


# --- voting (5.2, 5.4.1) --------------------------------------------------------------------------------------------


def handle_vote(raft: Raft, m: Message) -> None:
    """Grants the vote if this term's is free, or was already the candidate's, and its log is up to date.

    A learner votes too: who asks counts it as a voter, by a configuration that the learner may not have heard of yet.
    """
    free = raft.vote == m.sender or (raft.vote == 0 and raft.lead == 0)
    if m.type is MessageType.PRE_VOTE and m.term > raft.term:
        free = True
    granted = free and raft.log.is_up_to_date(m.index, m.log_term)
    if raft.log_fn:
        raft.note("info", f"{_vote_text(raft)} {'cast' if granted else 'rejected'} {m.type.name} for {m.sender}")
    if not granted:
        refusal = Message(_RESPONSE[m.type], m.sender, raft.id, raft.term, reject=True)
        if raft.commit_by_vote:
            refusal.commit = raft.log.committed
            refusal.log_term = max(raft.log.term(refusal.commit), 0)
        raft.send(refusal)
        return
    # With the term of the question: a pre-vote's is not ours, and the one who asks ignores answers of older terms.
    raft.send(Message(_RESPONSE[m.type], m.sender, raft.id, m.term))
    if m.type is MessageType.VOTE:
        raft.election_elapsed = 0
        raft.vote = m.sender


def _vote_text(raft: Raft) -> str:
    return f"[logterm: {raft.log.last_term()}, index: {raft.log.last_index()}, vote: {raft.vote}]"


# --- losing a leader ------------------------------------------------------------------------------------------------


def check_quorum(raft: Raft) -> None:
    """6.2: a leader that has heard of no quorum for an election timeout stops to lead."""
    if not raft.tracker.quorum_active():
        if raft.log_fn:
            raft.note("warn", "stepped down to follower since quorum is not active")
        raft.become_follower(raft.term, 0)
    for number, progress in raft.tracker.progress.items():
        if number != raft.id:
            progress.recent_active = False


def forget_leader(raft: Raft, _: Message) -> None:
    """Goes on as a follower that knows no leader, in the same term: it may vote for another at once.

    For whoever learns by other means that the leader is gone.  Refused with leases: they are a promise to the leader.
    """
    if raft.read_only is ReadOnly.LEASE_BASED:
        if raft.log_fn:
            raft.note("error", "ignoring forget-leader: reads depend on its lease")
        return
    if raft.lead:
        if raft.log_fn:
            raft.note("info", f"forgetting leader {raft.lead} at term {raft.term}")
        raft.lead = 0
