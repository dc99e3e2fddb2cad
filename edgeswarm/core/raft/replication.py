"""Replication: appends, heartbeats and snapshots, at the leader and at its followers.

The leader sends optimistically (pipelining) to a follower whose log it knows to match, one message at a time to one it
must still find the match with, and nothing but heartbeats while a snapshot is on its way (tracker.py holds the three).
Invariants: a follower acknowledges an index only for a log that agrees with the leader's up to there, and only once
that is stored; a heartbeat never commits beyond what the follower has acknowledged; nothing committed is replaced.
Source: Raft paper 5.3, 5.4, 7; thesis 10.2 (writing to disk in parallel, batching and pipelining).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeswarm.core.raft import membership, reads, transfer
from edgeswarm.core.raft.confchange import ConfChangeError
from edgeswarm.core.raft.config import StateType
from edgeswarm.core.raft.storage import CompactedError, SnapshotUnavailableError, entries_bytes, payload_bytes
from edgeswarm.core.raft.tracker import Progress, ProgressState
from edgeswarm.errors import RemoteError
from edgeswarm.wire.raft import Entry, Message, MessageType, Snapshot

if TYPE_CHECKING:
    from edgeswarm.core.raft.raft import Raft


# --- leader: sending ------------------------------------------------------------------------------------------------


def broadcast_append(raft: Raft) -> None:
    """An append to everybody who is not paused, if only to tell the commit index."""
    progress = raft.tracker.progress
    for number in raft.tracker.ids:
        if number != raft.id:
            send_append(raft, number, progress[number])


def flush(raft: Raft, commit: bool) -> None:
    """One append a follower for all the proposals of a turn; empty ones only to tell a new commit index."""
    progress = raft.tracker.progress
    for number in raft.tracker.ids:
        if number != raft.id:
            one = progress[number]
            send_append(raft, number, one, if_empty=commit and one.sent_commit < raft.log.committed)
            while send_append(raft, number, one, if_empty=False):
                pass  # what one message could not hold


def commit_moved(raft: Raft) -> None:
    """The commit index has moved: everybody is told, now or with the next Ready."""
    if raft.lazy_commits:
        raft.commit_waits = True
    elif raft.batch_appends:
        raft.flush_commit = True
    else:
        broadcast_append(raft)


def _commit_told_soon(raft: Raft) -> bool:
    return raft.flush_commit or raft.commit_waits


def send_append(raft: Raft, to: int, progress: Progress, *, if_empty: bool = True) -> bool:
    """The next entries to one member, or a snapshot where the log no longer has them.  Returns whether one was sent.

    if_empty: send although there are no entries, for the commit index and as a probe.
    """
    if progress.is_paused():
        return False
    log = raft.log
    previous = progress.next - 1
    previous_term = log.term(previous)
    if previous_term < 0 or (previous == 0 and raft.founders and to not in raft.founders):
        return send_snapshot(raft, to, progress)  # to a newcomer, entries from the first on would not say who was there
    entries: tuple[Entry, ...] = ()
    # With a full window only empty ones leave: they find out whether all that was in flight was lost.
    if progress.next <= log.last_index() and (
        progress.state is not ProgressState.REPLICATE or not progress.inflights.full()
    ):
        try:
            entries = tuple(log.entries_from(progress.next, raft.max_size_per_msg))
        except CompactedError:
            return send_snapshot(raft, to, progress)
    if not entries and not if_empty:
        return False
    raft.send(
        Message(MessageType.APP, to, raft.id, raft.term, previous_term, previous, entries, log.committed),
    )
    progress.sent_entries(len(entries), payload_bytes(entries) if entries else 0)
    progress.sent_commit_update(log.committed)
    return True


def send_snapshot(raft: Raft, to: int, progress: Progress) -> bool:
    """Paper 7: "the leader must occasionally send snapshots to followers that lag behind"."""
    if not progress.recent_active:
        if raft.log_fn:
            raft.note("debug", f"no snapshot for {to}: it is not recently active")
        return False
    try:
        snapshot = raft.log.newest_snapshot()
    except SnapshotUnavailableError:
        if raft.log_fn:
            raft.note("debug", f"no snapshot for {to}: it is not ready")
        return False
    conf = snapshot.conf
    if not snapshot.index or not (to in conf.voters or to in conf.learners or to in conf.voters_outgoing):
        # None was made yet, or one from before `to` became a member: it would not take that.
        raft.snapshot_wanted = True
        if raft.log_fn:
            raft.note("debug", f"no snapshot for {to}: the newest one, of index {snapshot.index}, does not name it")
        return False
    if raft.log_fn:
        raft.note("debug", f"sent snapshot[index: {snapshot.index}, term: {snapshot.term}] to {to} [{progress}]")
    progress.become_snapshot(snapshot.index)
    raft.send(Message(MessageType.SNAP, to, raft.id, raft.term, snapshot=snapshot))
    return True


def broadcast_heartbeat(raft: Raft, context: bytes | None = None) -> None:
    """A heartbeat to everybody, paused or not; with the newest read's context, so that answers confirm it (6.4)."""
    if context is None:
        context = raft.reads.last_context()
    committed = raft.log.committed
    progress = raft.tracker.progress
    for number in raft.tracker.ids:
        if number == raft.id:
            continue
        one = progress[number]
        # Not beyond what the follower has: after it, its log may differ from ours.
        commit = one.match if one.match < committed else committed
        raft.send(Message(MessageType.HEARTBEAT, number, raft.id, raft.term, commit=commit, context=context))
        one.sent_commit_update(commit)


# --- leader: answers ------------------------------------------------------------------------------------------------


def handle_append_response(raft: Raft, m: Message) -> None:
    """A member has stored up to m.index, or refuses because its log has nothing that matches there (5.3)."""
    progress = raft.tracker.progress.get(m.sender)
    if progress is None:
        return
    progress.recent_active = True
    if m.reject:
        _refused(raft, m, progress)
        return
    if m.index > raft.log.last_index():
        raise RemoteError(f"raft: acknowledges {m.index}, the log ends at {raft.log.last_index()}", who=_who(m))
    if not (progress.maybe_update(m.index) or (progress.match == m.index and progress.state is ProgressState.PROBE)):
        return
    if progress.state is ProgressState.REPLICATE:
        progress.inflights.free_to(m.index)
    elif progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.match + 1 >= raft.log.first_index():
        # Whatever snapshot it has taken in, ours or one from elsewhere: from here on the log will do.
        if raft.log_fn:
            raft.note("debug", f"recovered from needing snapshot, resumed sending to {m.sender} [{progress}]")
        progress.become_probe()
        progress.become_replicate()
    if raft.log.maybe_commit(raft.tracker.committed(), raft.term):
        reads.release(raft)
        commit_moved(raft)
    elif (
        m.sender != raft.id
        and not (raft.flush_commit or raft.commit_waits)
        and progress.can_bump_commit(raft.log.committed)
    ):
        send_append(raft, m.sender, progress)
    if m.sender != raft.id:
        if not raft.batch_appends:
            while send_append(raft, m.sender, progress, if_empty=False):
                pass  # what the window has room for now
        elif progress.next <= raft.log.last_index():
            raft.flush_append = True
        if m.sender == raft.lead_transferee and progress.match == raft.log.last_index():
            transfer.send_timeout_now(raft, m.sender)


def _refused(raft: Raft, m: Message, progress: Progress) -> None:
    """5.3: "the leader decrements nextIndex and retries", by whole terms instead of single entries."""
    hint = m.reject_hint
    if m.log_term > 0:
        hint = raft.log.find_conflict_by_term(hint, m.log_term)[0]
    if progress.maybe_decr_to(m.index, hint):
        if raft.log_fn:
            raft.note("debug", f"decreased progress of {m.sender} to [{progress}]")
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        send_append(raft, m.sender, progress)


def handle_heartbeat_response(raft: Raft, m: Message) -> None:
    """A member is there: it may be sent to again, and reads that waited for it may go on."""
    progress = raft.tracker.progress.get(m.sender)
    if progress is None:
        return
    progress.recent_active = True
    progress.msg_app_flow_paused = False
    # Behind, or to be probed: an append, empty if the window is full, brings an answer that sets things right.
    if progress.match < raft.log.last_index() or progress.state is ProgressState.PROBE:
        send_append(raft, m.sender, progress)
    if m.context:
        reads.acknowledge(raft, m)


def handle_snapshot_status(raft: Raft, m: Message) -> None:
    """Our driver says whether a snapshot reached its receiver; then its answer to the next heartbeat is waited for."""
    progress = raft.tracker.progress.get(m.sender)
    if progress is None or progress.state is not ProgressState.SNAPSHOT:
        return
    if m.reject:
        progress.pending_snapshot = 0  # before the probe, which would start behind a snapshot that never arrived
    progress.become_probe()
    progress.msg_app_flow_paused = True


def handle_unreachable(raft: Raft, m: Message) -> None:
    """Our driver says that a message did not reach the member: likely more were lost, so the match is probed for."""
    progress = raft.tracker.progress.get(m.sender)
    if progress is not None and progress.state is ProgressState.REPLICATE:
        progress.become_probe()


def handle_applied(raft: Raft, m: Message) -> None:
    """Asynchronous writes: the state machine has applied entries."""
    if m.entries:
        raft.applied(m.entries[-1].index, entries_bytes(m.entries), payload_bytes(m.entries))


# --- follower -------------------------------------------------------------------------------------------------------


def candidate_append(raft: Raft, m: Message) -> None:
    """5.2: a leader of this term makes a candidate "recognize the leader as legitimate"."""
    raft.become_follower(m.term, m.sender)
    _append(raft, m)


def candidate_heartbeat(raft: Raft, m: Message) -> None:
    """See candidate_append."""
    raft.become_follower(m.term, m.sender)
    _heartbeat(raft, m)


def candidate_snapshot(raft: Raft, m: Message) -> None:
    """See candidate_append."""
    raft.become_follower(m.term, m.sender)
    _snapshot(raft, m)


def follower_append(raft: Raft, m: Message) -> None:
    """5.2: "remains in follower state as long as it receives valid RPCs from a leader"."""
    raft.election_elapsed = 0
    raft.lead = m.sender
    _append(raft, m)


def follower_heartbeat(raft: Raft, m: Message) -> None:
    """See follower_append."""
    raft.election_elapsed = 0
    raft.lead = m.sender
    _heartbeat(raft, m)


def follower_snapshot(raft: Raft, m: Message) -> None:
    """See follower_append."""
    raft.election_elapsed = 0
    raft.lead = m.sender
    _snapshot(raft, m)


def _append(raft: Raft, m: Message) -> None:
    log = raft.log
    if m.index < log.committed:  # what it sends is committed here: no need to look at it
        raft.send(Message(MessageType.APP_RESP, m.sender, raft.id, raft.term, index=log.committed))
        return
    last = log.maybe_append(m.index, m.log_term, m.entries, m.commit, who=_who(m))
    if last is not None:
        raft.send(Message(MessageType.APP_RESP, m.sender, raft.id, raft.term, index=last))
        return
    if raft.log_fn:
        raft.note("debug", f"rejected append [logterm: {m.log_term}, index: {m.index}] from {m.sender}")
    # 5.3: a hint that skips a whole term of entries that cannot match.
    hint, hint_term = log.find_conflict_by_term(min(m.index, log.last_index()), m.log_term)
    raft.send(
        Message(MessageType.APP_RESP, m.sender, raft.id, raft.term, hint_term, m.index, reject=True, reject_hint=hint)
    )


def _heartbeat(raft: Raft, m: Message) -> None:
    if m.commit > raft.log.last_index():
        raise RemoteError(
            f"raft: commits {m.commit}, which this node acknowledged, but its log ends at {raft.log.last_index()}: "
            "it has lost what it stored",
            who=_who(m),
        )
    raft.log.commit_to(m.commit)
    raft.send(Message(MessageType.HEARTBEAT_RESP, m.sender, raft.id, raft.term, context=m.context))


def _snapshot(raft: Raft, m: Message) -> None:
    """Paper 7: replaces the log, unless it holds all of the snapshot already."""
    snapshot = m.snapshot
    assert snapshot is not None, "admit() lets no snapshot message without one pass"
    restored = _restore(raft, snapshot, _who(m))
    if raft.log_fn:
        did = "restored" if restored else "ignored"
        raft.note("info", f"[commit: {raft.log.committed}] {did} snapshot [index: {snapshot.index}]")
    index = raft.log.last_index() if restored else raft.log.committed
    raft.send(Message(MessageType.APP_RESP, m.sender, raft.id, raft.term, index=index))


def _restore(raft: Raft, snapshot: Snapshot, who: str) -> bool:
    log = raft.log
    if snapshot.index <= log.committed:
        return False
    assert raft.state is StateType.FOLLOWER
    if log.has_unapplied_change():
        # It may be in the driver's hands already, and would be applied on top of the snapshot's configuration, which
        # holds it.  The leader sends again.
        if raft.log_fn:
            raft.note("info", f"puts off snapshot {snapshot.index}: a change of members is not applied yet")
        return False
    conf = snapshot.conf
    if raft.id not in conf.voters and raft.id not in conf.learners and raft.id not in conf.voters_outgoing:
        if raft.log_fn:
            raft.note("warn", f"refuses a snapshot whose configuration it is not in: {conf}")
        return False
    if log.matches(snapshot.index, snapshot.term):
        # 7: "if instead the follower receives a snapshot that describes a prefix of its log, ... entries following the
        # snapshot are still valid and must be retained"
        log.commit_to(snapshot.index)
        return False
    try:
        membership.restore_conf(raft, conf, snapshot.index)
    except ConfChangeError as error:
        raise RemoteError(f"raft: snapshot of {snapshot.index}: {error}", who=who) from None
    log.restore(snapshot)
    return True


def _who(m: Message) -> str:
    return f"node {m.sender}"
