"""Membership: a configuration comes into force when its entry is applied, or with a snapshot.

Invariants: every node derives the same configuration from the same log, also from a change that cannot be made (it
changes nothing, everywhere); a leader leaves a joint configuration by itself where the change says so.
Source: thesis 4.1 - 4.3; etcd's raft, for taking effect when applied instead of when appended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeswarm.core.raft import replication, transfer
from edgeswarm.core.raft.confchange import Changer, ConfChangeError, ConfChangeV2, restore
from edgeswarm.core.raft.config import ProposalDroppedError, StateType
from edgeswarm.core.raft.tracker import ProgressTracker
from edgeswarm.wire.raft import ConfState, Entry, EntryType, Message, MessageType

if TYPE_CHECKING:
    from edgeswarm.core.raft.raft import Raft

LEAVE_JOINT = Message(MessageType.PROP, entries=(Entry(0, 0, EntryType.CONF_CHANGE_V2, b""),))


def restore_conf(raft: Raft, conf: ConfState, last_index: int) -> None:
    """Starts anew with `conf`, of a snapshot or of the storage.  Raises ConfChangeError where it contradicts itself."""
    old = raft.tracker
    tracker = ProgressTracker(old.max_inflight, old.max_inflight_bytes)
    restore(Changer(tracker, last_index), conf)
    raft.tracker = tracker
    switched(raft)


def apply_change(raft: Raft, change: ConfChangeV2) -> ConfState:
    """A committed change is applied; returns the configuration in force."""
    tracker = raft.tracker
    try:
        tracker.install(*Changer(tracker, raft.log.last_index()).apply(change))
    except ConfChangeError as error:  # as on every other node; a leader would have refused to propose it
        if raft.log_fn:
            raft.note("warn", f"a committed change of members changes nothing: {error}")
        return tracker.conf_state()
    return switched(raft)


def switched(raft: Raft) -> ConfState:
    """What follows from a configuration that has just come into force."""
    tracker = raft.tracker
    state = tracker.conf_state()
    if raft.log_fn:
        raft.note("info", f"switched to configuration {tracker.config}")
    own = tracker.progress.get(raft.id)
    raft.is_learner = own is not None and own.is_learner
    if raft.state is not StateType.LEADER:
        return state
    if own is None or own.is_learner:
        # 4.2.2: it goes on to lead until the change is committed - which it is - without counting itself.
        if raft.step_down_on_removal:
            raft.become_follower(raft.term, 0)
        return state
    if not state.voters:
        return state
    if raft.log.maybe_commit(tracker.committed(), raft.term):
        replication.broadcast_append(raft)  # a smaller quorum has more in common
    else:
        for number in tracker.ids:  # newcomers need not wait for a heartbeat or a proposal
            if number != raft.id:
                replication.send_append(raft, number, tracker.progress[number], if_empty=False)
    if raft.lead_transferee and not tracker.config.is_voter(raft.lead_transferee):
        transfer.abort(raft)
    return state


def leave_joint(raft: Raft) -> None:
    """The leader of a joint configuration that is to be left by itself proposes to leave it.

    Dropped while leadership is being handed over; then the next applied entry tries again, here or at the successor.
    """
    try:
        raft.step(LEAVE_JOINT)
    except ProposalDroppedError:
        return
    if raft.log_fn:
        raft.note("info", f"initiating automatic transition out of joint configuration {raft.tracker.config}")
