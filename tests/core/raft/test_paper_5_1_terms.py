"""Raft paper, section 5.1: servers, terms, messages.  One test for each sentence that says what a server does."""

from __future__ import annotations

import pytest
from raft_nodes import Lone, Net, entries, lone

from edgeswarm.core.raft.config import ProposalDroppedError, StateType
from edgeswarm.wire.raft import Entry, EntryType, HardState, Message, MessageType

M = MessageType
STATES = [StateType.FOLLOWER, StateType.CANDIDATE, StateType.LEADER]


def in_state(state: StateType) -> Lone:
    """Node 1 of 3 in term 2, in this state, with nothing left to say."""
    one = lone((1,))
    one.node.campaign()
    if state is StateType.LEADER:
        one.hear(Message(M.VOTE_RESP, 1, 2, 2))
    elif state is StateType.FOLLOWER:
        one.hear(Message(M.HEARTBEAT, 1, 2, 2))
    one.turn()
    assert (one.node.basic_status().state, one.node.basic_status().term) == (state, 2)
    return one


def later(kind: MessageType) -> Message:
    """A message of node 3 in term 5."""
    if kind is M.APP:
        return Message(kind, 1, 3, 5, log_term=1, index=1)
    if kind in (M.VOTE, M.PRE_VOTE):
        return Message(kind, 1, 3, 5, log_term=4, index=9)
    return Message(kind, 1, 3, 5)


TRAVELLING = [M.APP, M.APP_RESP, M.VOTE, M.VOTE_RESP, M.HEARTBEAT, M.HEARTBEAT_RESP, M.TIMEOUT_NOW]


def test_each_server_is_follower_candidate_or_leader_and_starts_as_follower() -> None:
    assert lone().node.basic_status().state is StateType.FOLLOWER


def test_in_normal_operation_there_is_exactly_one_leader_and_all_others_are_followers() -> None:
    net = Net(5)
    net.elect(3)
    net.tick(100)
    assert [net.state(n) for n in range(1, 6)].count(StateType.LEADER) == 1
    assert [net.state(n) for n in range(1, 6)].count(StateType.FOLLOWER) == 4
    assert {net.term(n) for n in range(1, 6)} == {1}


def test_followers_are_passive_and_issue_no_requests_on_their_own() -> None:
    one = in_state(StateType.FOLLOWER)
    assert one.tick(9) == []


def test_if_a_client_contacts_a_follower_the_follower_redirects_it_to_the_leader() -> None:
    one = in_state(StateType.FOLLOWER)
    one.node.propose(b"x")
    assert one.turn() == [Message(M.PROP, 2, 1, entries=(Entry(0, 0, EntryType.NORMAL, b"x"),))]


def test_a_server_that_knows_no_leader_says_so_to_the_client() -> None:
    for state in (lone(), in_state(StateType.CANDIDATE)):
        with pytest.raises(ProposalDroppedError):
            state.node.propose(b"x")


def test_each_term_begins_with_an_election() -> None:
    """A term is never entered but by campaigning in it, or by hearing of it."""
    one = lone()
    for term in range(1, 4):
        one.node.campaign()
        sent = one.turn()
        assert [(m.type, m.term) for m in sent] == [(M.VOTE, term)] * 2


def test_if_a_split_vote_ends_a_term_with_no_leader_a_new_term_with_a_new_election_begins_shortly() -> None:
    net = Net(4)
    for number in (1, 2):
        net.nodes[number].campaign()
        net.turn(number)
    net.wire.sort(key=lambda m: abs(m.to - m.sender - 2))  # 1 asks 3 first, 2 asks 4 first
    net.settle()
    assert net.leaders == {}
    net.tick(40)
    assert len(net.leaders) == 1 and min(net.leaders) > 1


def test_there_is_at_most_one_leader_in_a_given_term() -> None:
    """Net asserts it for every leader it sees; here with everybody campaigning at once, many times."""
    net = Net(5)
    for _ in range(50):
        for number in net.nodes:
            net.nodes[number].campaign()
        net.settle()
        net.tick(30)
    assert len(net.leaders) > 20


def test_each_server_stores_a_current_term_number_which_increases_monotonically_over_time() -> None:
    one = lone((1,), hard=HardState(4, 0, 0))
    for term in (3, 7, 6, 7, 9, 2):
        one.hear(Message(M.HEARTBEAT, 1, 2, term))
        assert one.storage.hard_state.term == one.node.basic_status().term
    assert one.storage.hard_state.term == 9


@pytest.mark.parametrize("state", STATES)
def test_current_terms_are_exchanged_whenever_servers_communicate(state: StateType) -> None:
    one = in_state(state)
    sent = one.tick(20) + one.hear(Message(M.VOTE, 1, 3, 2, log_term=1, index=1))
    assert all(m.term == one.node.basic_status().term for m in sent if m.type is not M.VOTE)
    assert all(m.term for m in sent)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", TRAVELLING, ids=lambda kind: kind.name)
def test_if_one_servers_current_term_is_smaller_it_updates_it_to_the_larger_value(
    state: StateType, kind: MessageType
) -> None:
    one = in_state(state)
    one.node.step(later(kind))
    assert one.node.basic_status().term == (6 if kind is M.TIMEOUT_NOW else 5)


@pytest.mark.parametrize("state", [StateType.CANDIDATE, StateType.LEADER])
@pytest.mark.parametrize("kind", [kind for kind in TRAVELLING if kind is not M.TIMEOUT_NOW], ids=lambda kind: kind.name)
def test_if_a_candidate_or_leader_discovers_that_its_term_is_out_of_date_it_immediately_reverts_to_follower(
    state: StateType, kind: MessageType
) -> None:
    one = in_state(state)
    one.node.step(later(kind))
    status = one.node.basic_status()
    assert status.state is StateType.FOLLOWER
    assert status.lead == (3 if kind in (M.APP, M.HEARTBEAT) else 0)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", [*TRAVELLING, M.SNAP], ids=lambda kind: kind.name)
def test_if_a_server_receives_a_request_with_a_stale_term_number_it_rejects_the_request(
    state: StateType, kind: MessageType
) -> None:
    one = in_state(state)
    before, log = one.node.basic_status(), one.log
    message = later(kind)
    message.term = 1
    message.log_term = min(message.log_term, 1)
    message.entries = tuple(entries(1, 1, first=2)) if kind is M.APP else ()
    if kind is M.SNAP:
        message.snapshot = in_state(StateType.LEADER).storage.snapshot()._replace(index=9, term=1)
    assert one.hear(message) == []
    assert (one.node.basic_status(), one.log) == (before, log)


def test_with_leases_or_pre_votes_a_stale_leader_is_told_of_the_newer_term() -> None:
    """Otherwise it would go on for ever: nobody who knows better may speak to it."""
    one = lone((1,), hard=HardState(3, 0, 0), check_quorum=True, pre_vote=True)
    for message in (Message(M.HEARTBEAT, 1, 2, 2), Message(M.APP, 1, 2, 2, log_term=1, index=1)):
        assert one.hear(message) == [Message(M.APP_RESP, 2, 1, 3)]


def test_servers_retry_rpcs_if_they_do_not_receive_a_response_in_a_timely_manner() -> None:
    """A candidate asks again, in a new term; a leader's heartbeats find out what was lost, and it is sent again."""
    candidate = in_state(StateType.CANDIDATE)
    assert {m.type for m in candidate.tick(20)} == {M.VOTE}
    net = Net(2)
    net.elect(1)
    net.lost = lambda m: m.type is M.APP
    net.propose(1, b"x")
    assert net.data(2) == []
    net.heal()
    net.tick()
    assert net.data(2) == [b"x"]


def test_servers_issue_rpcs_in_parallel() -> None:
    """All of them leave at once; no answer is waited for."""
    one = lone(voters=(1, 2, 3, 4, 5))
    one.node.campaign()
    assert [m.to for m in one.turn()] == [2, 3, 4, 5]
    one.hear(*(Message(M.VOTE_RESP, 1, n, 1) for n in (2, 3)))
    one.hear(*(Message(M.APP_RESP, 1, n, 1, index=1) for n in (2, 3, 4, 5)))
    one.node.propose(b"x")
    one.node.propose(b"y")
    assert [m.to for m in one.turn() if m.entries] == [2, 3, 4, 5, 2, 3, 4, 5]
