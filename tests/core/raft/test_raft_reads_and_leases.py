"""Reads (thesis 6.4), leadership transfer (3.10), pre-votes, leases and last wills (9.6, 6.2)."""

from __future__ import annotations

import pytest
from raft_nodes import Lone, Net, lone

from edgeswarm.core.raft.change import ConfChange, ConfChangeType
from edgeswarm.core.raft.config import ProposalDroppedError, ReadOnly, ReadState, StateType
from edgeswarm.wire.raft import Entry, EntryType, HardState, Message, MessageType

M = MessageType
GUARDED = {"check_quorum": True, "pre_vote": True}


def leader(**settings: object) -> Lone:
    """Node 1 of 3 leads term 1; everybody has its first entry."""
    one = lone(**settings)
    one.campaign(2)
    one.hear(*(Message(M.APP_RESP, 1, n, 1, index=1) for n in (2, 3)))
    return one


def read(one: Lone, context: bytes) -> list[Message]:
    one.node.read_index(context)
    return one.turn()


def confirm(one: Lone, context: bytes, sender: int = 2) -> list[ReadState]:
    """A follower answers the heartbeat with this context; returns what may be read then."""
    one.node.step(Message(M.HEARTBEAT_RESP, 1, sender, 1, context=context))
    states: list[ReadState] = []
    while one.node.has_ready():
        states += one.ready().read_states
    return states


# --- reads ----------------------------------------------------------------------------------------------------------


def test_a_read_waits_for_a_quorum_to_answer_a_heartbeat_sent_after_it() -> None:
    one = leader(voters=(1, 2, 3))
    assert [(m.type, m.to, m.context) for m in read(one, b"r")] == [(M.HEARTBEAT, n, b"r") for n in (2, 3)]
    assert confirm(one, b"") == []
    assert confirm(one, b"r") == [ReadState(1, b"r")]
    assert confirm(one, b"r", 3) == []


def test_a_quorum_for_one_read_confirms_all_before_it() -> None:
    one = lone(voters=(1, 2, 3, 4, 5))
    one.campaign(2, 3)
    one.hear(*(Message(M.APP_RESP, 1, n, 1, index=1) for n in (2, 3, 4, 5)))
    for context in (b"a", b"b", b"c"):
        read(one, context)
    assert confirm(one, b"a") == []
    assert confirm(one, b"b", 3) == []
    assert confirm(one, b"b", 4) == [ReadState(1, b"a"), ReadState(1, b"b")]
    assert [m.context for m in one.tick()] == [b"c"] * 4


def test_a_read_answers_with_the_commit_index_of_when_it_came_in() -> None:
    one = leader()
    read(one, b"r")
    one.node.propose(b"x")
    one.turn()
    one.hear(Message(M.APP_RESP, 1, 2, 1, index=2))
    assert confirm(one, b"r") == [ReadState(1, b"r")]


def test_a_new_leader_answers_no_read_before_it_has_committed_in_its_term() -> None:
    one = lone((1, 1), hard=HardState(1, 0, 2))
    one.campaign(2)
    assert read(one, b"r") == []
    sent = one.hear(Message(M.APP_RESP, 1, 2, 2, index=3))
    assert {m.context for m in sent if m.type is M.HEARTBEAT} == {b"r"}


@pytest.mark.parametrize("batch", [False, True])
def test_a_read_sees_every_write_acknowledged_before_it_at_any_node(batch: bool) -> None:
    net = Net(3, batch_appends=batch)
    net.elect(1)
    net.propose(1, b"x")
    for number in net.nodes:
        states: list[ReadState] = []
        original = net.nodes[number].ready
        net.nodes[number].read_index(b"%d" % number)
        for _ in range(20):
            for one in net.nodes:
                while net.nodes[one].has_ready():
                    ready = net.nodes[one].ready()
                    net.wire += ready.messages
                    states += ready.read_states
                    net.storages[one].append(ready.entries)
                    net.nodes[one].advance()
            wire, net.wire = net.wire, []
            for message in wire:
                net.deliver(message)
        assert original is not None and states == [ReadState(2, b"%d" % number)]


def test_a_cut_off_leader_answers_no_reads() -> None:
    net = Net(3)
    net.elect(1)
    net.cut(1)
    net.nodes[1].read_index(b"r")
    net.settle()
    net.elect(2)
    net.propose(2, b"x")
    assert net.nodes[1].raft.read_states == [] and len(net.nodes[1].raft.reads.open) == 1
    net.heal()
    net.tick(2)
    assert not net.nodes[1].raft.reads.open


def test_reads_of_one_turn_share_a_heartbeat_when_batching() -> None:
    one = leader(batch_appends=True)
    for context in (b"a", b"b", b"c"):
        one.node.read_index(context)
    assert [(m.type, m.context) for m in one.turn()] == [(M.HEARTBEAT, b"c")] * 2
    assert [s.context for s in confirm(one, b"c")] == [b"a", b"b", b"c"]


def test_with_leases_reads_are_answered_at_once() -> None:
    one = leader(read_only=ReadOnly.LEASE_BASED, check_quorum=True)
    one.node.read_index(b"r")
    ready = one.ready()
    assert (ready.read_states, ready.messages) == ([ReadState(1, b"r")], [])


def test_with_leases_no_leader_is_forgotten() -> None:
    """A lease is the followers' promise: a leader answers reads because they keep it."""
    one = lone(read_only=ReadOnly.LEASE_BASED, check_quorum=True)
    one.hear(Message(M.HEARTBEAT, 1, 2, 1))
    one.node.forget_leader()
    assert one.node.basic_status().lead == 2


def test_the_only_voter_answers_at_once() -> None:
    one = lone(voters=(1,))
    one.node.campaign()
    one.turn()
    one.node.read_index(b"r")
    assert one.ready().read_states == [ReadState(1, b"r")]


def test_a_read_without_a_known_leader_is_dropped() -> None:
    for one in (lone(), lone()):
        with pytest.raises(ProposalDroppedError):
            one.node.read_index(b"r")
        one.node.campaign()


def test_a_read_that_was_answered_twice_or_late_is_not_answered_again() -> None:
    one = leader()
    read(one, b"r")
    assert len(confirm(one, b"r")) == 1
    assert confirm(one, b"r", 3) == confirm(one, b"never asked", 3) == []


# --- leadership transfer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [1, 2, 3])
@pytest.mark.parametrize("settings", [{}, GUARDED], ids=["plain", "guarded"])
def test_leadership_goes_to_whom_it_is_handed_within_a_lease_and_without_pre_votes(
    asked: int, settings: dict[str, bool]
) -> None:
    net = Net(3, **settings)
    net.elect(1)
    net.nodes[asked].transfer_leader(3)
    net.settle()
    assert (net.state(3), net.state(1), net.term(1)) == (StateType.LEADER, StateType.FOLLOWER, 2)


def test_the_successor_is_brought_up_to_date_first() -> None:
    net = Net(3)
    net.elect(1)
    net.cut(3)
    net.propose(1, b"x", b"y")
    net.heal()
    net.nodes[1].transfer_leader(3)
    net.settle()
    net.tick()
    net.settle()
    assert net.state(3) is StateType.LEADER
    assert net.data(3) == [b"x", b"y"]


def test_no_proposals_while_leadership_is_handed_over_and_it_is_given_up_after_an_election_timeout() -> None:
    net = Net(3)
    net.elect(1)
    net.cut(3)
    net.propose(1, b"x")
    net.nodes[1].transfer_leader(3)
    with pytest.raises(ProposalDroppedError):
        net.nodes[1].propose(b"y")
    net.tick(9, only=[1, 2])
    assert net.nodes[1].basic_status().lead_transferee == 3
    net.tick(1, only=[1, 2])
    net.propose(1, b"z")
    assert net.data(1) == [b"x", b"z"]


def test_leadership_is_not_handed_to_learners_strangers_or_oneself() -> None:
    net = Net(4, voters=(1, 2, 3), learners=(4,))
    net.elect(1)
    for number in (4, 9, 1):
        net.nodes[1].transfer_leader(number)
        net.settle()
        assert (net.leaders, net.nodes[1].basic_status().lead_transferee) == ({1: 1}, 0)


def test_a_later_transfer_replaces_an_earlier_one_and_the_same_one_goes_on() -> None:
    one = leader()
    one.node.propose(b"x")
    one.turn()
    one.node.transfer_leader(2)
    one.tick(4)
    one.node.transfer_leader(2)
    assert one.node.raft.election_elapsed == 4
    one.node.transfer_leader(3)
    assert (one.node.basic_status().lead_transferee, one.node.raft.election_elapsed) == (3, 0)
    sent = one.hear(Message(M.APP_RESP, 1, 3, 1, index=2))
    assert M.TIMEOUT_NOW in {m.type for m in sent if m.to == 3}


def test_a_transfer_ends_when_its_successor_is_removed() -> None:
    net = Net(3)
    net.elect(1)
    net.nodes[1].propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    net.lost = lambda m: m.to == 3
    net.turn(1)
    net.nodes[1].transfer_leader(3)
    net.settle()
    assert net.nodes[1].basic_status().lead_transferee == 0


# --- pre-votes and leases -------------------------------------------------------------------------------------------


def test_a_pre_vote_changes_neither_term_nor_vote_of_anybody() -> None:
    one = lone((1,), hard=HardState(1, 3, 1), pre_vote=True)
    one.node.campaign()
    assert [(m.type, m.term) for m in one.turn()] == [(M.PRE_VOTE, 2)] * 2
    assert (one.node.basic_status().term, one.node.basic_status().vote) == (1, 3)
    other = lone((1,), hard=HardState(1, 3, 1))
    assert other.hear(Message(M.PRE_VOTE, 1, 2, 9, 1, 1)) == [Message(M.PRE_VOTE_RESP, 2, 1, 9)]
    assert (other.node.basic_status().term, other.node.basic_status().vote) == (1, 3)


def test_a_node_that_was_cut_off_does_not_raise_the_term() -> None:
    net = Net(3, **GUARDED)
    net.elect(1)
    net.cut(3)
    net.tick(200)
    assert (net.state(3), net.term(3)) == (StateType.PRE_CANDIDATE, 1)
    net.heal()
    net.tick(2)
    assert net.leaders == {1: 1} and net.state(3) is StateType.FOLLOWER


def test_a_leader_without_a_quorum_steps_down_within_two_election_timeouts() -> None:
    net = Net(3, **GUARDED)
    net.elect(1)
    net.cut(1)
    net.tick(20, only=[1])
    assert net.state(1) is StateType.FOLLOWER


def test_two_candidates_one_with_the_term_and_one_with_the_log_do_not_wait_for_ever() -> None:
    """Pre-votes switched on in a running cell: the one with the higher term and shorter log must not block."""
    net = Net(2, terms={1: (1, 1), 2: (1,)}, pre_vote=True)
    net.nodes[2].raft.become_follower(7, 0)
    net.tick(60)
    assert net.state(1) is StateType.LEADER


# --- last wills -----------------------------------------------------------------------------------------------------


def silent() -> Lone:
    """A follower in the lease of leader 2."""
    one = lone(**GUARDED)
    one.hear(Message(M.HEARTBEAT, 1, 2, 1))
    one.node.set_randomized_election_timeout(19)
    one.tick(3)
    return one


def test_a_follower_that_forgot_its_leader_grants_pre_votes_inside_the_lease() -> None:
    one = silent()
    request = Message(M.PRE_VOTE, 1, 3, 2, 0, 0)
    assert one.hear(request) == []
    one.node.forget_leader()
    assert one.hear(request) == [Message(M.PRE_VOTE_RESP, 3, 1, 2)]
    assert one.node.basic_status().term == 1


def test_an_election_is_hastened_after_the_leader_was_forgotten() -> None:
    one = silent()
    one.node.forget_leader()
    one.node.hasten_election(2)
    assert {m.type for m in one.tick()} == set()
    assert {m.type for m in one.tick()} == {M.PRE_VOTE}


def test_an_election_is_not_put_off_by_hastening_it() -> None:
    one = silent()
    one.node.forget_leader()
    one.node.set_randomized_election_timeout(4)
    one.node.hasten_election(10)
    assert one.tick() != []


def test_a_lease_that_stands_is_not_shortened() -> None:
    one = silent()
    one.node.hasten_election(1)
    assert one.tick(5) == []
    one.node.forget_leader()
    one.hear(Message(M.HEARTBEAT, 1, 2, 1))
    one.node.hasten_election(1)
    assert one.tick(5) == []


def test_hastening_holds_for_one_election_only() -> None:
    one = silent()
    one.node.forget_leader()
    one.node.hasten_election(1)
    one.hear(Message(M.HEARTBEAT, 1, 3, 2))
    assert one.node.raft.randomized_election_timeout >= one.node.raft.election_ticks


def test_a_leader_or_candidate_is_not_hastened() -> None:
    one = leader(**GUARDED)
    one.node.forget_leader()
    one.node.hasten_election(1)
    assert {m.type for m in one.tick()} == {M.HEARTBEAT}
    assert one.node.basic_status().lead == 1


def test_a_forged_last_will_elects_nobody_while_the_leader_lives() -> None:
    """One follower believes that the leader is gone: the other's lease and the leader's refuse it, and it returns."""
    net = Net(3, **GUARDED)
    net.elect(1)
    net.tick(3)
    for _ in range(20):
        net.nodes[2].forget_leader()
        net.nodes[2].hasten_election(1)
        net.tick(2)
    assert net.leaders == {1: 1} and net.term(2) == 1


def test_a_true_last_will_elects_a_successor_within_a_few_ticks() -> None:
    net = Net(3, **GUARDED)
    net.elect(1)
    net.propose(1, b"x")
    net.crash(1)
    for number, ticks in ((2, 1), (3, 3)):
        net.nodes[number].forget_leader()
        net.nodes[number].hasten_election(ticks)
    net.tick(2)
    assert net.state(2) is StateType.LEADER
    net.propose(2, b"y")
    assert net.data(3) == [b"x", b"y"]


def test_an_answer_to_a_read_without_a_context_is_refused() -> None:
    from edgeswarm.errors import RemoteError

    one = silent()
    with pytest.raises(RemoteError, match="names 1 context, found 0"):
        one.node.step(Message(M.READ_INDEX_RESP, 1, 2, 1, index=1))
    one.node.step(Message(M.READ_INDEX_RESP, 1, 2, 1, index=1, entries=(Entry(0, 0, EntryType.NORMAL, b"r"),)))
    assert one.ready().read_states == [ReadState(1, b"r")]
