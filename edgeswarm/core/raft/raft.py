"""One node's state, its clock of ticks, and the dispatch of a message by term, by state and by type.

What a message does stands beside the section it comes from: election.py, replication.py, proposals.py, reads.py,
transfer.py, membership.py.  This module holds what they share: the state of Figure 2 of the Raft paper, the moves
between follower, pre-candidate, candidate and leader (5.1, 5.2), and the two queues of messages.

Invariants: term never falls; vote changes only with the term, or from nobody to somebody; a leader's `lead` is itself;
`msgs_after_append` holds what promises something (votes and acknowledgements): it leaves after what it promises is
stored (thesis 3.8); messages to itself stand only there.
Whatever a peer sends has passed admit.py before step() sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edgeswarm.core.raft import election, membership, proposals, reads, replication, transfer
from edgeswarm.core.raft.config import Config, ReadOnly, ReadState, SoftState, StateType
from edgeswarm.core.raft.log import RaftLog
from edgeswarm.core.raft.tracker import ProgressTracker
from edgeswarm.errors import LocalError
from edgeswarm.wire.raft import HardState, Message, MessageType

__all__ = ["Raft", "StateType"]

Handler = Callable[["Raft", Message], None]


class Raft:
    """See the module.  Made by RawNode, which is what a driver talks to."""

    __slots__ = (
        "batch_appends",
        "check_quorum",
        "commit_by_vote",
        "commit_waits",
        "disable_conf_change_validation",
        "disable_proposal_forwarding",
        "election_elapsed",
        "election_ticks",
        "flush_append",
        "flush_commit",
        "founders",
        "heartbeat_elapsed",
        "heartbeat_ticks",
        "id",
        "is_learner",
        "lazy_commits",
        "lead",
        "lead_transferee",
        "log",
        "log_fn",
        "max_size_per_msg",
        "max_uncommitted_bytes",
        "msgs",
        "msgs_after_append",
        "pending_conf_index",
        "pre_vote",
        "randomized_election_timeout",
        "read_only",
        "read_states",
        "reads",
        "rng",
        "snapshot_wanted",
        "state",
        "step_down_on_removal",
        "term",
        "tracker",
        "uncommitted_bytes",
        "vote",
    )

    def __init__(self, config: Config) -> None:
        self.id = config.id
        self.rng = config.rng
        self.log_fn = config.log_fn
        self.election_ticks = config.election_ticks
        self.heartbeat_ticks = config.heartbeat_ticks
        self.max_size_per_msg = config.max_size_per_msg
        self.max_uncommitted_bytes = config.max_uncommitted_bytes
        self.check_quorum = config.check_quorum
        self.pre_vote = config.pre_vote
        self.read_only: ReadOnly = config.read_only
        self.step_down_on_removal = config.step_down_on_removal
        self.commit_by_vote = config.commit_by_vote
        self.disable_proposal_forwarding = config.disable_proposal_forwarding
        self.disable_conf_change_validation = config.disable_conf_change_validation
        self.batch_appends = config.batch_appends
        self.lazy_commits = config.batch_appends and config.lazy_commits

        hard_state, conf = config.storage.initial_state()
        self.log = RaftLog(config.storage, config.max_committed_bytes)
        # Members that no entry of the log names: a log that does not begin behind a snapshot begins with them.
        founders = {*conf.voters, *conf.voters_outgoing, *conf.learners}
        self.founders = frozenset(founders if config.storage.first_index() == 1 else ())
        self.tracker = ProgressTracker(config.max_inflight_msgs, config.max_inflight_bytes)
        self.term, self.vote = hard_state.term, hard_state.vote
        self.state = StateType.FOLLOWER
        self.lead = 0
        self.is_learner = False
        self.lead_transferee = 0  # whom leadership is being handed to
        self.pending_conf_index = 0  # a change of members may be unapplied up to here: no other is proposed before
        self.uncommitted_bytes = 0  # data of the entries that are not applied yet, while leader
        self.election_elapsed = 0  # ticks since a leader was heard of, or since a leader checked its quorum
        self.heartbeat_elapsed = 0
        self.randomized_election_timeout = 0
        self.msgs: list[Message] = []
        self.msgs_after_append: list[Message] = []
        self.reads = reads.ReadQueue()
        self.read_states: list[ReadState] = []
        self.snapshot_wanted = False  # somebody waits for a newer snapshot than the storage has
        self.flush_append = False  # batch_appends: entries wait for the next Ready
        self.flush_commit = False  # batch_appends: a new commit index does
        self.commit_waits = False  # lazy_commits: it waits for an append, or for tell_commits()

        membership.restore_conf(self, conf, self.log.last_index())
        if hard_state != HardState():
            if not self.log.committed <= hard_state.commit <= self.log.last_index():
                raise LocalError(
                    f"raft: the storage commits {hard_state.commit}, expected {self.log.committed} to "
                    f"{self.log.last_index()}"
                )
            self.log.commit_to(hard_state.commit)
        if config.applied:
            self.log.applied_to(config.applied, 0)
        self.become_follower(self.term, 0)

    # --- what a Ready compares --------------------------------------------------------------------------------------

    def hard_state(self) -> HardState:
        """Term, vote and commit as they are now."""
        return HardState(self.term, self.vote, self.log.committed)

    def soft_state(self) -> SoftState:
        """Leader and state as they are now."""
        return SoftState(self.lead, self.state)

    def note(self, level: str, text: str) -> None:
        """Tells people what happens; call it under `if self.log_fn`, so that nobody pays for unread text."""
        if self.log_fn is not None:
            self.log_fn(level, f"{self.id} {text}")

    # --- messages out -----------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Queues a message whose fields are complete; see the module for the two queues."""
        if message.type not in _AFTER_APPEND:
            self.msgs.append(message)
            return
        if self.batch_appends and self.msgs_after_append and message.type is MessageType.APP_RESP:
            last = self.msgs_after_append[-1]
            if (
                last.type is MessageType.APP_RESP
                and last.to == message.to
                and last.term == message.term
                and not (last.reject or message.reject)
                and last.index <= message.index
            ):  # "everything up to here" says what the one before it said
                self.msgs_after_append[-1] = message
                return
        self.msgs_after_append.append(message)

    def flush(self) -> None:
        """batch_appends: sends what proposals and commits of this turn left for the next Ready."""
        if self.flush_append or self.flush_commit:
            commit = self.flush_commit
            self.flush_append = self.flush_commit = False
            if self.state is StateType.LEADER:
                replication.flush(self, commit)
        reads.flush(self)

    # --- between the states (Raft paper, Figure 4) ------------------------------------------------------------------

    def reset(self, term: int) -> None:
        """Forgets what belongs to the term or the role before."""
        if self.term != term:
            self.term = term
            self.vote = 0
        self.lead = 0
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        # 5.2: a fixed interval chosen at random, so that split votes are rare and resolved quickly
        self.randomized_election_timeout = self.election_ticks + self.rng.randrange(self.election_ticks)
        self.lead_transferee = 0
        self.tracker.reset_votes()
        last = self.log.last_index()
        self.tracker.reset_progress(next_index=last + 1, self_id=self.id, self_match=last)
        self.pending_conf_index = 0
        self.uncommitted_bytes = 0
        self.reads.clear()
        self.flush_append = self.flush_commit = self.commit_waits = False

    def become_follower(self, term: int, lead: int) -> None:
        """5.1: a newer term, or a leader of this one, makes anybody a follower."""
        self.reset(term)
        self.lead = lead
        self.state = StateType.FOLLOWER
        if self.log_fn:
            self.note("info", f"became follower at term {term}")

    def become_pre_candidate(self) -> None:
        """Thesis 9.6: asks whether an election could be won; neither term nor vote change."""
        assert self.state is not StateType.LEADER
        self.tracker.reset_votes()
        self.lead = 0
        self.state = StateType.PRE_CANDIDATE
        if self.log_fn:
            self.note("info", f"became pre-candidate at term {self.term}")

    def become_candidate(self) -> None:
        """5.2: increments its term and votes for itself."""
        assert self.state is not StateType.LEADER
        self.reset(self.term + 1)
        self.vote = self.id
        self.state = StateType.CANDIDATE
        if self.log_fn:
            self.note("info", f"became candidate at term {self.term}")

    def become_leader(self) -> None:
        """5.2, and 8: opens its term with an empty entry, so that older ones can be committed."""
        assert self.state is not StateType.FOLLOWER
        self.reset(self.term)
        self.lead = self.id
        self.state = StateType.LEADER
        own = self.tracker.progress[self.id]
        own.become_replicate()
        own.recent_active = True
        self.pending_conf_index = self.log.last_index()  # whatever is below may be a change: none before it is applied
        if self.log_fn:
            self.note("info", f"became leader at term {self.term}")
        proposals.append(self, (proposals.EMPTY,))

    # --- time -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick went by."""
        self.election_elapsed += 1
        if self.state is StateType.LEADER:
            self._tick_leader()
        elif self.promotable() and self.election_elapsed >= self.randomized_election_timeout:
            self.election_elapsed = 0
            election.hup(self)

    def _tick_leader(self) -> None:
        # Nothing but this clock decides on heartbeats: appends do not put them off, so that followers which an append
        # does not reach (paused, behind, in the middle of a snapshot) are heard of at the same rate under any load.
        self.heartbeat_elapsed += 1
        if self.election_elapsed >= self.election_ticks:
            self.election_elapsed = 0
            if self.check_quorum:
                election.check_quorum(self)
            self.lead_transferee = 0  # thesis 3.10: a transfer takes an election timeout, or is given up
        if self.state is StateType.LEADER and self.heartbeat_elapsed >= self.heartbeat_ticks:
            self.heartbeat_elapsed = 0
            replication.broadcast_heartbeat(self)

    def promotable(self) -> bool:
        """Whether this node may become leader: a voter of its own configuration, and not in mid-snapshot."""
        own = self.tracker.progress.get(self.id)
        return own is not None and not own.is_learner and self.log.snapshot is None

    # --- messages in ------------------------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """Handles one message (5.1: term first).  Raises RemoteError for what a peer must not send."""
        term = message.term
        if term and term != self.term:
            if term > self.term:
                if not election.higher_term(self, message):
                    return
            else:
                election.lower_term(self, message)
                return
        handler = _HANDLERS[self.state].get(message.type)
        if handler is not None:
            handler(self, message)

    # --- answers of the storage -------------------------------------------------------------------------------------

    def stored(self, index: int, term: int, snapshot_index: int) -> None:
        """Entries up to (index, term) and the snapshot are stored; 0 for neither."""
        if index:
            self.log.stable_to(index, term)
        if snapshot_index:
            self.log.stable_snapshot_to(snapshot_index)
            self.applied(snapshot_index, 0, 0)

    def applied(self, index: int, bytes_: int, payload: int) -> None:
        """The state machine has applied up to `index`: bytes_ of entries, of which `payload` is data."""
        self.log.applied_to(max(index, self.log.applied), bytes_)
        if (
            self.state is StateType.LEADER
            and self.tracker.config.auto_leave
            and self.log.applied >= self.pending_conf_index
        ):
            membership.leave_joint(self)
        self.uncommitted_bytes = max(self.uncommitted_bytes - payload, 0)


_AFTER_APPEND: Final = frozenset({MessageType.APP_RESP, MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP})

_ANY: Final[dict[MessageType, Handler]] = {
    MessageType.HUP: lambda raft, _: election.hup(raft),
    MessageType.VOTE: election.handle_vote,
    MessageType.PRE_VOTE: election.handle_vote,
    MessageType.STORAGE_APPEND_RESP: lambda raft, m: raft.stored(
        m.index, m.log_term, m.snapshot.index if m.snapshot is not None else 0
    ),
    MessageType.STORAGE_APPLY_RESP: replication.handle_applied,
}
_CANDIDATE: Final[dict[MessageType, Handler]] = {
    **_ANY,
    MessageType.PROP: proposals.refuse,
    MessageType.READ_INDEX: reads.refuse,
    MessageType.APP: replication.candidate_append,
    MessageType.HEARTBEAT: replication.candidate_heartbeat,
    MessageType.SNAP: replication.candidate_snapshot,
}
_HANDLERS: Final[dict[StateType, dict[MessageType, Handler]]] = {
    StateType.FOLLOWER: {
        **_ANY,
        MessageType.PROP: proposals.forward,
        MessageType.APP: replication.follower_append,
        MessageType.HEARTBEAT: replication.follower_heartbeat,
        MessageType.SNAP: replication.follower_snapshot,
        MessageType.READ_INDEX: reads.forward,
        MessageType.READ_INDEX_RESP: reads.handle_response,
        MessageType.TRANSFER_LEADER: transfer.forward,
        MessageType.TIMEOUT_NOW: transfer.handle_timeout_now,
        MessageType.FORGET_LEADER: election.forget_leader,
    },
    StateType.PRE_CANDIDATE: {**_CANDIDATE, MessageType.PRE_VOTE_RESP: election.handle_vote_response},
    StateType.CANDIDATE: {**_CANDIDATE, MessageType.VOTE_RESP: election.handle_vote_response},
    StateType.LEADER: {
        **_ANY,
        MessageType.BEAT: lambda raft, _: replication.broadcast_heartbeat(raft),
        MessageType.CHECK_QUORUM: lambda raft, _: election.check_quorum(raft),
        MessageType.PROP: proposals.propose,
        MessageType.APP_RESP: replication.handle_append_response,
        MessageType.HEARTBEAT_RESP: replication.handle_heartbeat_response,
        MessageType.SNAP_STATUS: replication.handle_snapshot_status,
        MessageType.UNREACHABLE: replication.handle_unreachable,
        MessageType.READ_INDEX: reads.request,
        MessageType.TRANSFER_LEADER: transfer.request,
    },
}
