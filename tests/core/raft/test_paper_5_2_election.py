"""Raft paper, section 5.2: leader election.  One test for each sentence that says what a server does."""

from __future__ import annotations

import random

import pytest
from raft_nodes import Lone, Net, entries, lone

from edgeswarm.core.raft.config import StateType
from edgeswarm.wire.raft import HardState, Message, MessageType

M = MessageType
TICKS = 10  # the shortest election timeout


def candidate(voters: int = 3) -> Lone:
    """Node 1 in term 1, which has asked everybody."""
    one = lone(voters=range(1, voters + 1))
    one.node.campaign()
    one.turn()
    return one


def state(one: Lone) -> StateType:
    return one.node.basic_status().state


def vote(one: Lone, sender: int, *, reject: bool = False, term: int = 1) -> list[Message]:
    return one.hear(Message(M.VOTE_RESP, 1, sender, term, reject=reject))


# --- followers ------------------------------------------------------------------------------------------------------


def test_when_servers_start_up_they_begin_as_followers() -> None:
    one = lone((1, 2), hard=HardState(7, 1, 1))
    assert state(one) is StateType.FOLLOWER
    assert one.node.basic_status().lead == 0


@pytest.mark.parametrize(
    "message",
    [Message(M.HEARTBEAT, 1, 2, 1), Message(M.APP, 1, 2, 1), Message(M.APP, 1, 2, 1, entries=tuple(entries(1)))],
)
def test_a_server_remains_in_follower_state_as_long_as_it_receives_valid_rpcs_from_a_leader(message: Message) -> None:
    one = lone()
    for _ in range(20):
        one.hear(message)
        one.tick(TICKS - 1)
    assert state(one) is StateType.FOLLOWER


def test_a_server_remains_in_follower_state_when_it_grants_a_candidate_its_vote() -> None:
    one = lone()
    for term in range(1, 20):
        one.hear(Message(M.VOTE, 1, 2, term))
        assert one.tick(TICKS - 1) == []
    assert state(one) is StateType.FOLLOWER


def test_a_refused_vote_does_not_keep_a_server_from_campaigning() -> None:
    one = lone((1, 1))
    one.tick(TICKS - 1)
    for _ in range(TICKS + 1):
        one.hear(Message(M.VOTE, 1, 2, 1, log_term=1, index=1))
        one.tick()
    assert state(one) is StateType.CANDIDATE


@pytest.mark.parametrize("every", [1, 3])
def test_leaders_send_periodic_heartbeats_to_all_followers_to_maintain_their_authority(every: int) -> None:
    one = lone(voters=(1, 2, 3), learners=(4,), heartbeat_ticks=every)
    one.campaign(2)
    for _ in range(5):
        assert one.tick(every - 1) == []
        sent = one.tick()
        assert [(m.type, m.to, m.entries) for m in sent] == [(M.HEARTBEAT, n, ()) for n in (2, 3, 4)]


def test_heartbeats_are_not_put_off_by_proposals() -> None:
    """A leader under load, whose followers' appends are lost, must still be heard of: this was a livelock once."""
    for batch in (False, True):
        net = Net(3, heartbeat_ticks=2, batch_appends=batch)
        net.elect(1)
        heard: dict[int, int] = {2: 0, 3: 0}
        for n in range(200):
            net.nodes[1].propose(b"%d" % n)
            net.turn(1)
            net.nodes[1].propose(b"more")
            net.nodes[1].tick()
            net.turn(1)
            for m in net.wire:
                heard[m.to] += m.type is M.HEARTBEAT
            net.wire.clear()
        assert heard == {2: 100, 3: 100}


def test_a_follower_under_a_leaders_load_does_not_campaign_and_catches_up() -> None:
    """The same livelock end to end: appends to one follower are lost while the others keep the leader busy."""
    net = Net(3, check_quorum=True, pre_vote=True, batch_appends=True, max_inflight_msgs=4)
    net.elect(1)
    net.lost = lambda m: m.to == 3 and m.type is M.APP
    for n in range(100):
        net.nodes[1].propose(b"%d" % n)
        net.tick()
    assert net.leaders == {1: 1} and len(net.data(1)) == 100
    net.heal()
    net.tick(3)
    assert net.data(3) == net.data(1)


def test_if_a_follower_receives_no_communication_over_the_election_timeout_it_begins_an_election() -> None:
    one = lone()
    timeout = one.node.raft.randomized_election_timeout
    assert one.tick(timeout - 1) == []
    assert {m.type for m in one.tick()} == {M.VOTE}
    assert state(one) is StateType.CANDIDATE


# --- candidates -----------------------------------------------------------------------------------------------------


def test_to_begin_an_election_a_follower_increments_its_current_term_and_becomes_candidate() -> None:
    one = lone((1, 1, 4))
    one.node.campaign()
    status = one.node.basic_status()
    assert (status.term, status.state) == (5, StateType.CANDIDATE)


def test_it_then_votes_for_itself_and_issues_request_vote_to_each_of_the_other_servers() -> None:
    one = lone((1, 2), voters=(1, 2, 3, 4))
    one.node.campaign()
    ready = one.ready()
    assert ready.hard_state == HardState(3, 1, 0)
    assert ready.must_sync
    assert ready.messages == [Message(M.VOTE, n, 1, 3, log_term=2, index=2) for n in (2, 3, 4)]


def test_its_own_vote_counts_only_once_it_is_stored() -> None:
    one = lone(voters=(1, 2, 3))
    one.node.campaign()
    one.node.ready()
    one.node.step(Message(M.VOTE_RESP, 1, 2, 1))
    assert state(one) is StateType.CANDIDATE
    one.node.advance()
    assert state(one) is StateType.LEADER


@pytest.mark.parametrize(
    ("voters", "granted", "rejected", "expected"),
    [
        (1, 0, 0, StateType.LEADER),
        (2, 0, 0, StateType.CANDIDATE),
        (2, 1, 0, StateType.LEADER),
        (3, 0, 0, StateType.CANDIDATE),
        (3, 1, 0, StateType.LEADER),
        (3, 1, 1, StateType.LEADER),
        (3, 0, 1, StateType.CANDIDATE),
        (3, 0, 2, StateType.FOLLOWER),
        (4, 1, 1, StateType.CANDIDATE),
        (4, 1, 2, StateType.FOLLOWER),
        (5, 1, 2, StateType.CANDIDATE),
        (5, 2, 0, StateType.LEADER),
        (5, 2, 2, StateType.LEADER),
        (5, 1, 3, StateType.FOLLOWER),
    ],
)
def test_a_candidate_wins_if_it_receives_votes_from_a_majority_of_the_full_cluster_for_the_same_term(
    voters: int, granted: int, rejected: int, expected: StateType
) -> None:
    one = candidate(voters)
    for sender in range(2, 2 + granted):
        vote(one, sender)
    for sender in range(2 + granted, 2 + granted + rejected):
        vote(one, sender, reject=True)
    assert state(one) is expected


def test_votes_of_another_term_do_not_count() -> None:
    one = candidate()
    one.tick(2 * TICKS)
    assert one.node.basic_status().term > 1
    vote(one, 2, term=1)
    assert state(one) is StateType.CANDIDATE


def test_a_vote_counts_once_and_the_first_one_counts() -> None:
    one = candidate(5)
    for _ in range(5):
        vote(one, 2)
    vote(one, 3, reject=True)
    vote(one, 3)
    assert state(one) is StateType.CANDIDATE


def test_votes_of_servers_outside_the_cluster_do_not_count() -> None:
    one = candidate(5)
    for sender in (7, 8, 9):
        with pytest.raises(Exception, match="peer not found"):
            vote(one, sender)
    assert state(one) is StateType.CANDIDATE


@pytest.mark.parametrize(
    ("voted", "sender", "granted"), [(0, 2, True), (0, 3, True), (2, 2, True), (2, 3, False), (3, 2, False)]
)
def test_each_server_will_vote_for_at_most_one_candidate_in_a_given_term(
    voted: int, sender: int, granted: bool
) -> None:
    one = lone(hard=HardState(1, voted, 0))
    assert one.hear(Message(M.VOTE, 1, sender, 1)) == [Message(M.VOTE_RESP, sender, 1, 1, reject=not granted)]
    assert one.storage.hard_state.vote == (sender if granted else voted)


def test_each_server_votes_on_a_first_come_first_served_basis() -> None:
    one = lone()
    sent = one.hear(Message(M.VOTE, 1, 3, 1), Message(M.VOTE, 1, 2, 1))
    assert [(m.to, m.reject) for m in sent] == [(3, False), (2, True)]


def test_a_vote_leaves_only_once_it_is_stored() -> None:
    one = lone()
    one.node.step(Message(M.VOTE, 1, 2, 1))
    ready = one.node.ready()
    assert ready.hard_state == HardState(1, 2, 0) and ready.must_sync
    assert ready.split() == ([], [Message(M.VOTE_RESP, 2, 1, 1)])


def test_the_majority_rule_ensures_that_at_most_one_candidate_can_win_in_a_term() -> None:
    """Random answers in random order to two candidates of one term: Net stops at a second leader."""
    for seed in range(200):
        rng = random.Random(seed)
        net = Net(rng.choice([2, 3, 4, 5]))
        for number in rng.sample(list(net.nodes), 2):
            net.nodes[number].campaign()
            net.turn(number)
        while net.wire:
            net.deliver(net.wire.pop(rng.randrange(len(net.wire))))
            for number in net.nodes:
                net.turn(number)
        assert len(net.leaders) <= 1


def test_once_a_candidate_wins_it_becomes_leader_and_sends_messages_to_all_of_the_others() -> None:
    """To establish its authority: here appends of the empty entry that opens its term."""
    one = candidate()
    sent = vote(one, 2)
    assert state(one) is StateType.LEADER
    assert sent == [Message(M.APP, n, 1, 1, entries=tuple(e._replace(data=b"") for e in entries(1))) for n in (2, 3)]


@pytest.mark.parametrize("term", [1, 2])
@pytest.mark.parametrize("kind", [M.APP, M.HEARTBEAT])
def test_if_the_leaders_term_is_at_least_the_candidates_it_recognizes_the_leader_and_becomes_follower(
    term: int, kind: MessageType
) -> None:
    one = candidate()
    one.hear(Message(kind, 1, 2, term))
    status = one.node.basic_status()
    assert (status.state, status.lead, status.term) == (StateType.FOLLOWER, 2, term)


@pytest.mark.parametrize("kind", [M.APP, M.HEARTBEAT])
def test_if_the_term_in_the_rpc_is_smaller_the_candidate_rejects_it_and_continues_in_candidate_state(
    kind: MessageType,
) -> None:
    one = candidate()
    one.tick(2 * TICKS)
    one.hear(Message(kind, 1, 2, 1, entries=tuple(entries(1)) if kind is M.APP else ()))
    assert state(one) is StateType.CANDIDATE and one.log == []


def test_if_no_candidate_obtains_a_majority_each_will_time_out_and_start_a_new_election_in_a_new_term() -> None:
    one = candidate()
    for term in range(2, 10):
        timeout = one.node.raft.randomized_election_timeout
        assert one.tick(timeout - 1) == []
        assert {(m.type, m.term) for m in one.tick()} == {(M.VOTE, term)}
        assert state(one) is StateType.CANDIDATE


# --- chance ---------------------------------------------------------------------------------------------------------


def test_election_timeouts_are_chosen_randomly_from_a_fixed_interval() -> None:
    one = lone()
    seen = set()
    for term in range(1, 1000):
        one.node.step(Message(M.HEARTBEAT, 1, 2, term))
        seen.add(one.node.raft.randomized_election_timeout)
    assert seen == set(range(TICKS, 2 * TICKS))


def test_in_most_cases_only_a_single_server_will_time_out() -> None:
    alone = 0
    for seed in range(200):
        nodes = [lone(number=n, voters=range(1, 6), seed=1000 * seed + n) for n in range(1, 6)]
        timeouts = [one.node.raft.randomized_election_timeout for one in nodes]
        alone += timeouts.count(min(timeouts)) == 1
    assert alone > 100


def test_each_candidate_restarts_its_randomized_timeout_at_the_start_of_an_election_and_waits_for_it() -> None:
    one = candidate()
    seen = set()
    for _ in range(300):
        timeout = one.node.raft.randomized_election_timeout
        seen.add(timeout)
        assert one.tick(timeout - 1) == []
        assert one.tick()
    assert seen == set(range(TICKS, 2 * TICKS))


def test_a_leader_is_elected_without_anybodys_help() -> None:
    for seed in range(20):
        for settings in ({}, {"check_quorum": True, "pre_vote": True}):
            net = Net(5, seed=seed, **settings)
            net.tick(60)
            assert len({net.nodes[n].basic_status().lead for n in net.nodes} - {0}) == 1
