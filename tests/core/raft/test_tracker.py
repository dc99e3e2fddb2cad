"""What the leader knows of its members: flow, refusals, votes, and what is committed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core.raft.confchange import Changer, restore
from edgeswarm.core.raft.quorum import INDEX_ALL, VoteResult, joint_committed
from edgeswarm.core.raft.tracker import Inflights, Progress, ProgressState, ProgressTracker, TrackerConfig
from edgeswarm.wire.raft import ConfState


def _progress(*, match: int = 0, next_: int = 1, size: int = 8, max_bytes: int = 0) -> Progress:
    return Progress(next=next_, match=match, inflights=Inflights(size, max_bytes))


def _tracker(*voters: int, outgoing: tuple[int, ...] = (), learners: tuple[int, ...] = ()) -> ProgressTracker:
    tracker = ProgressTracker(max_inflight=8)
    restore(Changer(tracker, 10), ConfState(voters, outgoing, learners))
    return tracker


# --- inflights ------------------------------------------------------------------------------------------------------


@given(
    st.integers(min_value=1, max_value=70),
    st.integers(min_value=0, max_value=200),
    st.lists(st.one_of(st.integers(min_value=0, max_value=40), st.none()), max_size=120),
)
def test_the_ring_agrees_with_a_list(size: int, max_bytes: int, steps: list[int | None]) -> None:
    """Numbers are the bytes of a message that is added, None frees about half of what is on its way."""
    ring, plain, index = Inflights(size, max_bytes), [], 0
    for step in steps:
        full = len(plain) == size or (max_bytes != 0 and sum(b for _, b in plain) >= max_bytes)
        assert ring.full() == full
        if step is None:
            upto = plain[len(plain) // 2][0] if plain else index
            ring.free_to(upto)
            plain = [one for one in plain if one[0] > upto]
        elif not full:
            index += 3
            ring.add(index, step)
            plain.append((index, step))
        assert (ring.count, ring.bytes_total) == (len(plain), sum(b for _, b in plain))
    ring.reset()
    assert (ring.count, ring.bytes_total, ring.full()) == (0, 0, False)


def test_a_full_ring_takes_nothing() -> None:
    ring = Inflights(1)
    ring.add(5, 10)
    with pytest.raises(AssertionError):
        ring.add(6, 10)


def test_free_before_the_first_message_frees_nothing() -> None:
    ring = Inflights(4)
    ring.add(5, 1)
    ring.free_to(4)
    assert ring.count == 1


# --- one member -----------------------------------------------------------------------------------------------------


def test_a_probe_waits_for_an_answer_after_one_message_with_entries() -> None:
    one = _progress()
    one.sent_entries(0, 0)
    assert not one.is_paused()
    one.sent_entries(2, 10)
    assert one.is_paused()
    assert one.maybe_update(2)
    assert not one.is_paused()
    assert (one.match, one.next) == (2, 3)


def test_replication_goes_on_until_the_inflights_are_full() -> None:
    one = _progress(match=4, next_=5, size=2)
    one.become_replicate()
    one.sent_entries(3, 30)
    assert (one.next, one.is_paused()) == (8, False)
    one.sent_entries(1, 10)
    assert (one.next, one.is_paused()) == (9, True)
    assert str(one) == "StateReplicate match=4 next=9 paused inactive inflight=2[full]"
    one.sent_entries(0, 0)  # an empty probe while full keeps it so
    assert one.is_paused()
    one.inflights.free_to(7)
    assert one.maybe_update(7)
    assert not one.is_paused()


def test_replication_pauses_at_the_bound_of_bytes() -> None:
    one = _progress(size=8, max_bytes=100)
    one.become_replicate()
    one.sent_entries(1, 99)
    assert not one.is_paused()
    one.sent_entries(1, 1)
    assert one.is_paused()


def test_a_snapshot_pauses_until_it_is_done_and_the_probe_starts_behind_it() -> None:
    one = _progress(match=1, next_=2)
    one.become_snapshot(10)
    assert one.is_paused()
    assert str(one) == "StateSnapshot match=1 next=11 paused pendingSnap=10 inactive"
    with pytest.raises(AssertionError):
        one.sent_entries(1, 1)
    one.become_probe()
    assert (one.next, one.pending_snapshot, one.state) == (11, 0, ProgressState.PROBE)


def test_a_probe_after_replication_starts_behind_the_match() -> None:
    one = _progress(match=3, next_=4)
    one.become_replicate()
    one.sent_entries(5, 5)
    one.sent_commit_update(8)
    one.become_probe()
    assert (one.next, one.sent_commit, one.inflights.count) == (4, 3, 0)


@pytest.mark.parametrize(
    ("state", "match", "next_", "rejected", "hint", "taken", "next_after"),
    [
        (ProgressState.REPLICATE, 5, 10, 5, 5, False, 10),  # not above the match: stale
        (ProgressState.REPLICATE, 5, 10, 4, 4, False, 10),
        (ProgressState.REPLICATE, 5, 10, 9, 9, True, 6),  # back to the match
        (ProgressState.PROBE, 0, 10, 8, 8, False, 10),  # not the probe that is on its way
        (ProgressState.PROBE, 0, 10, 9, 9, True, 9),
        (ProgressState.PROBE, 0, 10, 9, 2, True, 3),  # the hint skips
        (ProgressState.PROBE, 0, 1, 0, 0, True, 1),  # never below the match
        (ProgressState.PROBE, 4, 10, 9, 1, True, 5),
        (ProgressState.SNAPSHOT, 0, 10, 8, 8, False, 10),
    ],
)
def test_a_refusal_moves_the_probe_back(
    state: ProgressState, match: int, next_: int, rejected: int, hint: int, taken: bool, next_after: int
) -> None:
    one = _progress(match=match, next_=next_)
    one.state = state
    one.msg_app_flow_paused = True
    assert one.maybe_decr_to(rejected, hint) == taken
    assert one.next == next_after
    if taken and state == ProgressState.PROBE:
        assert not one.is_paused()


def test_a_commit_is_sent_only_if_it_is_news() -> None:
    one = _progress(match=5, next_=8)
    assert one.can_bump_commit(1)
    one.sent_commit_update(6)
    assert not one.can_bump_commit(6)
    assert one.can_bump_commit(7)
    one.sent_commit_update(9)  # higher than all the member has: nothing more to say
    assert not one.can_bump_commit(12)


@given(st.lists(st.tuples(st.sampled_from("udprs"), st.integers(0, 30), st.integers(0, 30)), max_size=40))
def test_match_stays_below_next(steps: list[tuple[str, int, int]]) -> None:
    one = _progress(size=100)
    for kind, first, second in steps:
        before = one.match
        match kind:
            case "u":
                one.maybe_update(first)
            case "d":
                one.maybe_decr_to(first, second)
            case "p":
                one.become_probe()
            case "r":
                one.become_replicate()
                one.sent_entries(first, second)
            case "s":
                one.become_snapshot(one.match + first)
        assert one.match < one.next
        assert one.match >= before


# --- all of them ----------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(1, 7), st.integers(0, 30), min_size=7, max_size=7), st.data())
def test_committed_agrees_with_the_quorum(acked: dict[int, int], data: st.DataObject) -> None:
    ids = st.lists(st.integers(1, 7), unique=True, min_size=1, max_size=5).map(tuple)
    incoming, outgoing = data.draw(ids), data.draw(st.one_of(st.just(()), ids))
    tracker = _tracker(*incoming, outgoing=outgoing)
    for id_, one in tracker.progress.items():
        one.maybe_update(acked[id_])
    assert tracker.committed() == joint_committed(incoming, outgoing, acked)


def test_without_members_everything_is_committed() -> None:
    tracker = ProgressTracker(max_inflight=1)
    assert tracker.committed() == INDEX_ALL
    assert not tracker.is_singleton()
    assert tracker.quorum_active()


def test_the_first_vote_of_a_voter_counts_and_a_learner_has_none() -> None:
    tracker = _tracker(1, 2, 3, learners=(4,))
    for id_, granted in [(1, True), (1, False), (4, True), (9, True)]:
        tracker.record_vote(id_, granted)
    assert tracker.tally_votes() == (1, 0, VoteResult.PENDING)
    tracker.record_vote(2, False)
    tracker.record_vote(3, False)
    assert tracker.tally_votes() == (1, 2, VoteResult.LOST)
    tracker.reset_votes()
    assert tracker.tally_votes() == (0, 0, VoteResult.PENDING)


def test_quorum_is_active_when_enough_voters_were_heard_of() -> None:
    tracker = _tracker(1, 2, 3, learners=(4,))
    for one in tracker.progress.values():
        one.recent_active = False
    tracker.progress[4].recent_active = tracker.progress[1].recent_active = True
    assert not tracker.quorum_active()
    tracker.progress[2].recent_active = True
    assert tracker.quorum_active()


def test_one_voter_decides_alone_unless_the_configuration_is_joint() -> None:
    assert _tracker(1, learners=(2,)).is_singleton()
    assert not _tracker(1, outgoing=(1,)).is_singleton()
    assert not _tracker(1, 2).is_singleton()


def test_a_new_term_forgets_what_was_known() -> None:
    tracker = _tracker(1, 2, learners=(3,))
    tracker.progress[2].become_replicate()
    tracker.progress[2].sent_entries(3, 3)
    tracker.reset_progress(next_index=21, self_id=1, self_match=20)
    assert str(tracker).splitlines() == [
        "1: StateProbe match=20 next=21 inactive",
        "2: StateProbe match=0 next=21 inactive",
        "3: StateProbe match=0 next=21 learner inactive",
    ]
    assert tracker.committed() == 0


def test_a_configuration_reads_as_in_etcd() -> None:
    config = TrackerConfig((1, 2), (3,), (4,), (5,), True)
    assert str(config) == "voters=(1 2)&&(3) learners=(4) learners_next=(5) autoleave"
    assert str(TrackerConfig()) == "voters=()"
    assert config.voters() == (1, 2, 3)
    assert config.is_voter(3) and not config.is_voter(4)
