"""RawNode: the core as a driver sees it - input, ticks and messages in; a Ready out; advance() when it is done.

    node.tick() | node.step(message) | node.propose(data) | node.read_index(context) ...
    while node.has_ready():
        ready = node.ready()
        now, later = ready.split()
        send(now)                                                # promises nothing: need not wait for the disk
        storage.save(ready.hard_state, ready.entries, ready.snapshot)   # synced before anything below
        send(later)
        apply(ready.snapshot, ready.committed_entries)
        node.advance()

Not safe for threads.  Nothing here blocks, sleeps or reads a clock; no object that was given to it is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeswarm.core.raft import async_storage, election, membership
from edgeswarm.core.raft.admit import admit
from edgeswarm.core.raft.advance import Advance
from edgeswarm.core.raft.confchange import AnyConfChange
from edgeswarm.core.raft.config import (
    Config,
    PeerNotFoundError,
    ProposalDroppedError,
    ReadOnly,
    ReadState,
    SoftState,
    StateType,
)
from edgeswarm.core.raft.raft import Raft
from edgeswarm.core.raft.storage import entries_bytes
from edgeswarm.core.raft.tracker import ProgressState, TrackerConfig
from edgeswarm.errors import LocalError
from edgeswarm.limits import RAFT_CONTEXT_BYTES_MAX, RAFT_ENTRY_BYTES_MAX
from edgeswarm.wire.raft import ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot

__all__ = [
    "BasicStatus",
    "Config",
    "PeerNotFoundError",
    "ProgressStatus",
    "ProposalDroppedError",
    "RawNode",
    "ReadOnly",
    "ReadState",
    "Ready",
    "SoftState",
    "StateType",
    "Status",
]


@dataclass(slots=True)
class Ready:
    """What is to be done before advance(), in the order of the fields' numbers.

    soft_state: who leads and what this node is, when that has changed; it need not be kept.
    1. the first part of split() may be sent.
    2. snapshot, entries, hard_state (each None or empty if it has not changed) are stored.  Entries replace those at
       their indexes and after.  With must_sync, or a snapshot, the disk must have them before step 3; without, a crash
       may lose them (only the commit index has moved).
    3. the second part of split() is sent: votes and acknowledgements of what step 2 has stored (thesis 3.8).
    4. snapshot, then committed_entries in their order, are applied to the state machine.  An entry that is a change of
       members goes to apply_conf_change().  A committed entry may stand in `entries` too: it is stored first.
    snapshot_wanted: the driver is to make a snapshot of what is applied, and keep it: a member can be brought up to
    date with one only, and the storage's does not name it.
    read_states: reads that may be served once the state machine has applied their index.
    messages: both parts of split() in the order in which they came up.
    """

    soft_state: SoftState | None = None
    hard_state: HardState | None = None
    entries: list[Entry] = field(default_factory=list)
    snapshot: Snapshot | None = None
    committed_entries: list[Entry] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    read_states: list[ReadState] = field(default_factory=list)
    must_sync: bool = False
    snapshot_wanted: bool = False
    now_count: int = 0

    def split(self) -> tuple[list[Message], list[Message]]:
        """(messages that may leave before the Ready is stored, messages that must wait for it).

        The first are a leader's, in a term that it has stored before: its appends replicate while its own disk writes
        (thesis 10.2.1).  Everybody else's wait, requests for votes too: a candidate that forgot having asked could ask
        again in the same term, win it a second time, and contradict its first entries.
        """
        return self.messages[: self.now_count], self.messages[self.now_count :]


@dataclass(frozen=True, slots=True)
class ProgressStatus:
    """One member as the leader sees it: see tracker.Progress.  text: all of it in the words of etcd's transcripts."""

    match: int
    next: int
    state: ProgressState
    is_learner: bool
    recent_active: bool
    paused: bool
    pending_snapshot: int
    inflight: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class BasicStatus:
    """What a node is.  lead, vote, lead_transferee: raft numbers, 0 for nobody.  Costs nothing to ask for."""

    id: int
    term: int
    vote: int
    lead: int
    state: StateType
    commit: int
    applied: int
    first_index: int
    last_index: int
    lead_transferee: int


@dataclass(frozen=True, slots=True)
class Status(BasicStatus):
    """BasicStatus, the configuration, and (leader only) every member by raft number, ascending."""

    config: TrackerConfig
    progress: dict[int, ProgressStatus]


class RawNode:
    """One node.  Methods named in wishes raise ProposalDroppedError (a RemoteError) where nobody can take them now."""

    __slots__ = ("_async", "_on_advance", "_previous_hard", "_previous_soft", "_waiting", "raft")

    def __init__(self, config: Config) -> None:
        self.raft = Raft(config)
        self._async = config.async_storage_writes
        self._previous_soft = self.raft.soft_state()
        self._previous_hard = self.raft.hard_state()
        self._on_advance: Advance | None = None
        self._waiting = False  # a Ready is out and advance() was not called yet

    # --- in ---------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of the driver's clock went by."""
        self.raft.tick()

    def step(self, message: Message) -> None:
        """Takes in a message of a peer.

        Raises RemoteError for what no peer may send, PeerNotFoundError for an answer of somebody who is not a member,
        ProposalDroppedError for a forwarded wish nobody can take; the node goes on as if it had not come.
        """
        admit(self.raft, message, own=self._async)
        self.raft.step(message)

    def campaign(self) -> None:
        """Starts an election now, as if the timeout had passed."""
        election.hup(self.raft)

    def propose(self, data: bytes) -> None:
        """Proposes an entry; whether it is committed shows in committed_entries.  Raises ProposalDroppedError."""
        if len(data) > RAFT_ENTRY_BYTES_MAX:
            raise LocalError(f"raft: at most {RAFT_ENTRY_BYTES_MAX} bytes a proposal, found {len(data)}")
        self.raft.step(Message(MessageType.PROP, entries=(Entry(0, 0, EntryType.NORMAL, data),)))

    def propose_conf_change(self, change: AnyConfChange) -> None:
        """Proposes a change of members; one that may not be made now becomes an empty entry.

        Raises ProposalDroppedError.
        """
        kind, data = change.entry()
        self.raft.step(Message(MessageType.PROP, entries=(Entry(0, 0, kind, data),)))

    def apply_conf_change(self, change: AnyConfChange) -> ConfState:
        """A committed change is applied: call it for each, in its turn.  Returns the configuration in force."""
        return membership.apply_change(self.raft, change.as_v2())

    def read_index(self, context: bytes) -> None:
        """Asks for a linearizable read; a ReadState with `context` (unique) follows, or nothing: ask again later.

        Raises ProposalDroppedError where nobody is known to lead.
        """
        if len(context) > RAFT_CONTEXT_BYTES_MAX:
            raise LocalError(f"raft: at most {RAFT_CONTEXT_BYTES_MAX} bytes of context, found {len(context)}")
        self.raft.step(Message(MessageType.READ_INDEX, entries=(Entry(0, 0, EntryType.NORMAL, context),)))

    def transfer_leader(self, to: int) -> None:
        """Asks the leader to hand over to `to`; it is given up after an election timeout."""
        self.raft.step(Message(MessageType.TRANSFER_LEADER, sender=to))

    def forget_leader(self) -> None:
        """A follower goes on without a leader in the same term, and may vote for another: for a last will."""
        self.raft.step(Message(MessageType.FORGET_LEADER))

    def hasten_election(self, ticks: int) -> None:
        """A follower that knows no leader campaigns `ticks` ticks from now if nothing happens, unless it would sooner.

        ticks: 1 or more; give each voter another one, or they split the vote.  Where a leader is known (or heard of
        since forget_leader()) nothing changes: a lease that this node holds stands, and those of others are theirs -
        they refuse a pre-vote while they hear of their leader.
        """
        raft = self.raft
        if ticks < 1:
            raise LocalError(f"raft: hasten_election: expected 1 tick or more, found {ticks}")
        if raft.state is StateType.FOLLOWER and raft.lead == 0:
            raft.randomized_election_timeout = min(raft.randomized_election_timeout, raft.election_elapsed + ticks)

    def set_randomized_election_timeout(self, ticks: int) -> None:
        """Sets the timeout drawn last; the next term draws anew.  For tests."""
        self.raft.randomized_election_timeout = ticks

    @property
    def commit_waits(self) -> bool:
        """Config.lazy_commits: a new commit index waits for an append, or for tell_commits()."""
        return self.raft.commit_waits

    def tell_commits(self) -> None:
        """Tell the followers that have not heard it how far the log is committed."""
        raft = self.raft
        if raft.commit_waits:
            raft.commit_waits = False
            raft.flush_commit = raft.state is StateType.LEADER

    def report_unreachable(self, id_: int) -> None:
        """The last message to a member did not arrive."""
        self.raft.step(Message(MessageType.UNREACHABLE, sender=id_))

    def report_snapshot(self, id_: int, ok: bool) -> None:
        """A snapshot was sent to a member, or could not be: the leader waits for one of the two before it goes on."""
        self.raft.step(Message(MessageType.SNAP_STATUS, sender=id_, reject=not ok))

    # --- out --------------------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether ready() has anything to do.  False while a Ready is out: advance() comes first."""
        raft = self.raft
        if self._waiting:
            return False
        log = raft.log
        return bool(
            raft.msgs
            or raft.msgs_after_append
            or raft.flush_append
            or raft.flush_commit
            or raft.reads.heartbeat_due
            or raft.read_states
            or log.has_next_unstable()
            or log.next_snapshot() is not None
            or log.has_next_committed(not self._async)
            or raft.lead != self._previous_soft.lead
            or raft.state is not self._previous_soft.state
            or log.committed != self._previous_hard.commit
            or raft.term != self._previous_hard.term
            or raft.vote != self._previous_hard.vote
        )

    def ready(self) -> Ready:
        """What is to be done; advance() when it is.  (With asynchronous writes: no advance(), answers instead.)"""
        if self._waiting:
            raise LocalError("raft: ready() before the last Ready was advanced")
        raft, log = self.raft, self.raft.log
        if raft.flush_append or raft.flush_commit or raft.reads.heartbeat_due:
            raft.flush()
        entries = log.next_unstable() if log.entries else []
        committed = log.next_committed(not self._async)
        ready = Ready(
            entries=entries,
            committed_entries=committed,
            snapshot=log.next_snapshot(),
            read_states=raft.read_states,
            must_sync=bool(entries),
            snapshot_wanted=raft.snapshot_wanted,
        )
        raft.snapshot_wanted = False
        soft, hard = raft.soft_state(), raft.hard_state()
        if soft != self._previous_soft:
            ready.soft_state = self._previous_soft = soft
        early = raft.state is StateType.LEADER
        if hard != self._previous_hard:
            if hard.term != self._previous_hard.term or hard.vote != self._previous_hard.vote:
                ready.must_sync = True
                early = False
            ready.hard_state = self._previous_hard = hard
        ready.messages = raft.msgs
        ready.now_count = len(raft.msgs) if early else 0
        if self._async:
            async_storage.address(raft, ready)
        else:
            self._on_advance = Advance(raft, ready)
            self._waiting = True
        raft.msgs = []
        raft.msgs_after_append = []
        if raft.read_states:
            raft.read_states = []
        log.accept_unstable()
        if committed:
            log.accept_applying(committed[-1].index, entries_bytes(committed), not self._async)
        return ready

    def advance(self) -> None:
        """The Ready was stored, sent and applied.  Only now does the node count its own vote and its own log."""
        if self._async:
            raise LocalError("raft: advance() with asynchronous writes: the storage threads answer instead")
        done = self._on_advance
        if done is None:
            raise LocalError("raft: advance() without a Ready")
        self._on_advance = None
        self._waiting = False
        done.step(self.raft)

    # --- questions --------------------------------------------------------------------------------------------------

    def last_entry_id(self) -> tuple[int, int]:
        """(index, term) of the last entry."""
        return self.raft.log.last_index(), self.raft.log.last_term()

    def basic_status(self) -> BasicStatus:
        """See BasicStatus."""
        return BasicStatus(*self._status())

    def status(self) -> Status:
        """See Status."""
        raft = self.raft
        progress = {}
        if raft.state is StateType.LEADER:
            for number in raft.tracker.ids:
                one = raft.tracker.progress[number]
                progress[number] = ProgressStatus(
                    one.match,
                    one.next,
                    one.state,
                    one.is_learner,
                    one.recent_active,
                    one.is_paused(),
                    one.pending_snapshot,
                    one.inflights.count,
                    str(one),
                )
        return Status(*self._status(), raft.tracker.config, progress)

    def _status(self) -> tuple[int, int, int, int, StateType, int, int, int, int, int]:
        raft, log = self.raft, self.raft.log
        return (
            raft.id,
            raft.term,
            raft.vote,
            raft.lead,
            raft.state,
            log.committed,
            log.applied,
            log.first_index(),
            log.last_index(),
            raft.lead_transferee,
        )
