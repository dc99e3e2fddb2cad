"""What a node is started with, and the small records that it hands out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from edgeswarm.core.raft.storage import Storage
from edgeswarm.errors import LocalError, RemoteError
from edgeswarm.limits import (
    RAFT_APPEND_BYTES_MAX,
    RAFT_APPLYING_BYTES_MAX,
    RAFT_INFLIGHT_MESSAGES_MAX,
    RAFT_NUMBER_MAX,
    RAFT_UNCOMMITTED_BYTES_MAX,
)

LogFn = Callable[[str, str], None]
"""(level: debug | info | warn | error, text).  For people and tests; nothing depends on the text."""


class StateType(IntEnum):
    """What a node is in its term.  str() is etcd's name, as in its transcripts."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3

    def __str__(self) -> str:
        return "State" + self.name.title().replace("_", "")


class ReadOnly(IntEnum):
    """How a leader knows that it still leads before it answers a read (thesis 6.4)."""

    SAFE = 0  # a quorum answers a heartbeat that was sent after the read came in
    LEASE_BASED = 1  # its lease says so; wrong where clocks run at different speeds


class ProposalDroppedError(RemoteError):
    """Nobody can take the proposal now: no leader, one that hands over, or too much that is not committed yet."""


class PeerNotFoundError(RemoteError):
    """An answer came from a node that is not in the configuration."""


class SoftState(NamedTuple):
    """What need not be kept: who leads (0: nobody is known to) and what this node is."""

    lead: int
    state: StateType


class ReadState(NamedTuple):
    """A read may be served once `index` is applied.  context: what read_index() was called with."""

    index: int  # type: ignore[assignment]
    context: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a node is started with.

    id: its raft number, > 0, never used again by another node.
    election_ticks: a follower that hears nothing for election_ticks .. 2 * election_ticks - 1 ticks campaigns; a leader
    that hears of no quorum for so long steps down.  heartbeat_ticks: between heartbeats, below election_ticks.
    rng: the only source of chance.  applied: the index the state machine has already applied (after a restart).
    max_size_per_msg: bytes of entries in one append (one entry always goes); max_inflight_msgs, max_inflight_bytes:
    appends on their way to one follower (0 bytes: no bound); max_uncommitted_bytes: data that waits for a quorum;
    max_committed_bytes: entries handed out to be applied and not yet applied.
    check_quorum: a leader without a quorum steps down, and voters refuse elections while they hear of one (6.2, 9.6).
    pre_vote: ask before raising the term (9.6).  Both together keep a node that was cut off from disturbing the others.
    step_down_on_removal: a leader that a change of members removes or demotes stops to lead when it applies it.
    commit_by_vote: who refuses a vote tells the candidate its commit index; see election.handle_vote_response.
    batch_appends: proposals of one turn leave as one append a follower, with the next Ready, instead of one each.
    lazy_commits: with batch_appends: that the commit index has moved is told with the next append, or when the driver
    calls tell_commits(): who waits for an answer waits for the leader, not for the followers to hear of it.
    async_storage_writes: storage threads are addressed with messages instead of advance(); see RawNode.
    log_fn: where to tell what happens; for people.
    """

    id: int
    storage: Storage
    rng: random.Random
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    applied: int = 0
    max_size_per_msg: int = RAFT_APPEND_BYTES_MAX
    max_inflight_msgs: int = RAFT_INFLIGHT_MESSAGES_MAX
    max_inflight_bytes: int = 0
    max_uncommitted_bytes: int = RAFT_UNCOMMITTED_BYTES_MAX
    max_committed_bytes: int = RAFT_APPLYING_BYTES_MAX
    check_quorum: bool = True
    pre_vote: bool = True
    read_only: ReadOnly = ReadOnly.SAFE
    step_down_on_removal: bool = False
    commit_by_vote: bool = False
    disable_proposal_forwarding: bool = False
    disable_conf_change_validation: bool = False
    batch_appends: bool = False
    lazy_commits: bool = False
    async_storage_writes: bool = False
    log_fn: LogFn | None = None

    def __post_init__(self) -> None:
        faults = []
        if not 0 < self.id <= RAFT_NUMBER_MAX:
            faults.append(f"id: expected 1 to 2^63 - 1, found {self.id}")
        if self.heartbeat_ticks < 1:
            faults.append(f"heartbeat_ticks: expected 1 or more, found {self.heartbeat_ticks}")
        if self.election_ticks <= self.heartbeat_ticks:
            faults.append(f"election_ticks: expected more than heartbeat_ticks, found {self.election_ticks}")
        if self.max_inflight_msgs < 1:
            faults.append(f"max_inflight_msgs: expected 1 or more, found {self.max_inflight_msgs}")
        if self.max_inflight_bytes and self.max_inflight_bytes < self.max_size_per_msg:
            faults.append("max_inflight_bytes: expected 0 or at least max_size_per_msg")
        if self.max_uncommitted_bytes < 1 or self.max_committed_bytes < 1:
            faults.append("max_uncommitted_bytes, max_committed_bytes: expected 1 or more")
        if self.read_only is ReadOnly.LEASE_BASED and not self.check_quorum:
            faults.append("read_only: a lease needs check_quorum")
        if faults:
            raise LocalError("raft: " + "; ".join(faults))
