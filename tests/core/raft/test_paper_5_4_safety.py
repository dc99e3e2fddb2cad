"""Raft paper, 5.4 to 5.6: safety, crashes, timing.  One test for each sentence that says what a server does."""

from __future__ import annotations

import random

import pytest
from raft_nodes import Net, entries, lone

from edgeswarm.core.raft.config import StateType
from edgeswarm.wire.raft import Entry, HardState, Message, MessageType

M = MessageType


# --- 5.4.1 election restriction -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [M.VOTE, M.PRE_VOTE])
def test_the_request_for_a_vote_includes_information_about_the_candidates_log(kind: MessageType) -> None:
    one = lone((1, 3, 3), pre_vote=kind is M.PRE_VOTE)
    one.node.campaign()
    assert {(m.type, m.index, m.log_term) for m in one.turn()} == {(kind, 3, 3)}


@pytest.mark.parametrize("kind", [M.VOTE, M.PRE_VOTE])
@pytest.mark.parametrize(
    ("ours", "index", "log_term", "granted"),
    [
        ((1,), 1, 1, True),
        ((1,), 2, 1, True),
        ((1, 1), 1, 1, False),
        ((1,), 1, 2, True),
        ((1, 1, 1), 1, 2, True),
        ((1, 2), 9, 1, False),
        ((2,), 1, 1, False),
        ((), 0, 0, True),
    ],
)
def test_the_voter_denies_its_vote_if_its_own_log_is_more_up_to_date(
    kind: MessageType, ours: tuple[int, ...], index: int, log_term: int, granted: bool
) -> None:
    """The later term of the last entry decides; with equal terms the longer log."""
    one = lone(ours)
    (answer,) = one.hear(Message(kind, 1, 2, 5, log_term, index))
    assert answer.reject is not granted


def test_the_leader_has_all_committed_entries_from_the_moment_of_its_election() -> None:
    """Leader completeness: whoever is elected, over whatever is lost, whichever nodes are down."""
    for seed in range(60):
        rng = random.Random(seed)
        net = Net(3, seed=seed + 1)
        committed: list[Entry] = []
        for _ in range(25):
            net.lost = lambda _, rng=rng: rng.random() < 0.15
            number = rng.randrange(1, 4)
            term = net.term(number)
            net.nodes[number].campaign()
            net.settle()
            if net.state(number) is StateType.LEADER and net.term(number) > term:
                assert net.log(number)[: len(committed)] == committed
                net.propose(number, b"%d" % rng.randrange(1000))
            longest = max(net.applied.values(), key=len)
            committed = longest if len(longest) > len(committed) else committed


# --- 5.4.2 entries of previous terms --------------------------------------------------------------------------------


def test_only_entries_of_the_leaders_current_term_are_committed_by_counting_replicas() -> None:
    one = lone((1, 2), hard=HardState(2, 0, 0))
    one.campaign(2)
    one.hear(Message(M.APP_RESP, 1, 2, 3, index=2), Message(M.APP_RESP, 1, 3, 3, index=2))
    assert one.node.basic_status().commit == 0


def test_once_an_entry_of_the_current_term_is_committed_all_prior_ones_are_committed_indirectly() -> None:
    one = lone((1, 2), hard=HardState(2, 0, 0))
    one.campaign(2)
    one.hear(Message(M.APP_RESP, 1, 2, 3, index=3))
    assert one.node.basic_status().commit == 3


def test_log_entries_retain_their_original_term_numbers_when_a_later_leader_replicates_them() -> None:
    net = Net(3, terms={1: (1, 2), 2: (), 3: ()})
    net.elect(1)
    assert [e.term for e in net.log(3)] == [1, 2, 3]


@pytest.mark.parametrize("reaches_majority", [False, True])
def test_figure_8_an_entry_of_an_older_term_on_a_majority_may_still_be_overwritten(reaches_majority: bool) -> None:
    """(a) S1 led term 2 and has entry 2 on S1 and S2.  (b) S5 led term 3 with another entry 2.  (c) S1 leads term 4 and
    gets entry 2 of term 2 onto S3, a majority: it is not committed.  (d) S1 crashes and S5 overwrites it; or (e) S1
    first gets an entry of term 4 onto a majority, which commits both, and S5 cannot win."""
    net = Net(5, terms={1: (1, 2), 2: (1, 2), 3: (1,), 4: (1,), 5: (1, 3)})
    net.nodes[1].raft.become_follower(3, 0)
    net.lost = lambda m: m.to in (4, 5) or m.type is M.APP
    net.elect(1)
    for number in (2, 3):
        net.nodes[number].step(Message(M.APP, number, 1, 4, 1, 1, tuple(entries(2, first=2))))
    net.settle()
    assert [net.nodes[1].status().progress[n].match for n in (1, 2, 3)] == [3, 2, 2]
    assert [[e.term for e in net.log(n)][:2] for n in (1, 2, 3)] == [[1, 2]] * 3
    assert net.commit(1) == 0
    if reaches_majority:
        net.lost = lambda m: m.to in (4, 5)
        net.tick(3, only=[1])
        assert net.commit(1) == 3
    net.crash(1)
    net.heal()
    for _ in range(3):
        net.nodes[5].campaign()
        net.settle()
    assert (net.state(5) is StateType.LEADER) is not reaches_majority
    assert [e.term for e in net.log(2)][:2] == ([1, 2] if reaches_majority else [1, 3])


def test_if_a_server_has_applied_an_entry_no_other_applies_a_different_one_at_that_index() -> None:
    """State machine safety, with crashes: what was stored stays, the state machine starts again from nothing."""
    for seed in range(40):
        rng = random.Random(seed)
        net = Net(3, seed=seed + 1)
        truth: list[Entry] = []
        for _ in range(30):
            net.lost = lambda _, rng=rng: rng.random() < 0.1
            number = rng.randrange(1, 4)
            if number not in net.nodes:
                net.restart(number)
            elif rng.random() < 0.2:
                net.crash(number)
            elif net.state(number) is StateType.LEADER:
                net.propose(number, b"%d" % rng.randrange(1000))
            else:
                net.nodes[number].campaign()
                net.settle()
            for applied in net.applied.values():
                shared = min(len(applied), len(truth))
                assert applied[:shared] == truth[:shared]
                truth = applied[:] if len(applied) > len(truth) else truth


# --- 5.5 follower and candidate crashes -----------------------------------------------------------------------------


def test_requests_to_a_crashed_server_are_retried_and_complete_when_it_restarts() -> None:
    net = Net(3)
    net.elect(1)
    net.crash(3)
    net.propose(1, b"x")
    net.tick(50)
    net.restart(3)
    net.tick(2)
    assert net.data(3) == [b"x"]
    net.crash(1)
    net.crash(2)
    net.nodes[3].campaign()
    net.settle()
    net.restart(2)
    net.tick(50)
    assert StateType.LEADER in (net.state(2), net.state(3))


def test_a_crashed_candidate_does_not_forget_its_vote() -> None:
    net = Net(3)
    net.nodes[1].campaign()
    net.turn(1)
    net.crash(1)
    net.restart(1)
    net.nodes[1].step(Message(M.VOTE, 1, 2, 1))
    net.turn(1)
    assert [m.reject for m in net.wire if m.type is M.VOTE_RESP] == [True]


def test_rpcs_are_idempotent_entries_already_present_are_ignored() -> None:
    one = lone()
    append = Message(M.APP, 1, 2, 1, entries=tuple(entries(1, 1)), commit=2)
    first = one.hear(append)
    log, applied = one.log, list(one.applied)
    one.node.step(append)
    ready = one.ready()
    assert ready.entries == [] and ready.hard_state is None and not ready.must_sync
    assert [(m.type, m.index, m.reject) for m in ready.messages] == [(m.type, m.index, m.reject) for m in first]
    assert (one.log, one.applied) == (log, applied)


def test_an_older_append_that_arrives_late_does_not_shorten_the_log() -> None:
    one = lone()
    one.hear(Message(M.APP, 1, 2, 1, entries=tuple(entries(1, 1, 1))))
    one.hear(Message(M.APP, 1, 2, 1, entries=tuple(entries(1))))
    assert one.log == [1, 1, 1]


def test_a_vote_asked_for_twice_is_granted_twice() -> None:
    one = lone()
    request = Message(M.VOTE, 1, 2, 1)
    assert one.hear(request) == one.hear(request) == [Message(M.VOTE_RESP, 2, 1, 1)]


# --- 5.6 timing -----------------------------------------------------------------------------------------------------


def test_safety_does_not_depend_on_timing() -> None:
    """Messages of any age arrive in any order, some of them twice, while clocks run as they like."""
    for seed in range(30):
        rng = random.Random(seed)
        net = Net(3, seed=seed + 1, check_quorum=seed % 2 == 0, pre_vote=seed % 3 == 0)
        for _ in range(1500):
            number = rng.randrange(1, 4)
            if rng.random() < 0.3:
                net.nodes[number].tick()
            if net.wire:
                at = rng.randrange(len(net.wire))
                net.deliver(net.wire[at] if rng.random() < 0.1 else net.wire.pop(at))
            if net.state(number) is StateType.LEADER and rng.random() < 0.1:
                net.nodes[number].propose(b"%d" % rng.randrange(1000))
            for one in net.nodes:
                net.turn(one)
            net.wire = net.wire[-60:]
        applied = sorted(net.applied.values(), key=len)
        assert all(one == applied[-1][: len(one)] for one in applied)


def test_leader_and_followers_stay_while_heartbeats_arrive_within_the_election_timeout() -> None:
    net = Net(5, heartbeat_ticks=9)
    net.elect(1)
    net.tick(1000)
    assert net.leaders == {1: 1}


def test_when_the_leader_crashes_the_system_is_unavailable_for_roughly_the_election_timeout() -> None:
    for seed in range(20):
        net = Net(5, seed=seed)
        net.elect(1)
        net.crash(1)
        net.tick(45)
        assert len(net.leaders) >= 2
