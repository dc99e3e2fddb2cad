"""Raft paper, section 6: cluster membership changes.  One test for each sentence that says what a server does.

One sentence does not hold here, on purpose: "a server always uses the latest configuration in its log, regardless of
whether the entry is committed".  Like etcd's raft, a configuration comes into force when its entry is applied, and one
change must be applied before the next is proposed; the tests below say so where it shows.
"""

from __future__ import annotations

import pytest
from raft_nodes import Net, lone

from edgeswarm.core.raft.change import ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, Transition
from edgeswarm.core.raft.config import StateType
from edgeswarm.wire.raft import ConfState, EntryType, HardState, Message, MessageType

M = MessageType
ADD, REMOVE, LEARN = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE, ConfChangeType.ADD_LEARNER_NODE


def joint(*changes: tuple[ConfChangeType, int], leave: bool = False) -> ConfChangeV2:
    """A change through a joint configuration, which is left by itself or by LEAVE."""
    transition = Transition.JOINT_IMPLICIT if leave else Transition.JOINT_EXPLICIT
    return ConfChangeV2(tuple(ConfChangeSingle(*one) for one in changes), transition)


LEAVE = ConfChangeV2()
SWAP = joint((REMOVE, 2), (REMOVE, 3), (ADD, 4), (ADD, 5))  # 1 2 3 -> 1 4 5


def conf(net: Net, number: int) -> ConfState:
    return net.nodes[number].raft.tracker.conf_state()


def swapping() -> Net:
    """1 leads; 1 2 3 and 1 4 5 are in force together on everybody."""
    net = Net(3)
    net.elect(1)
    net.add(4, conf=ConfState())
    net.add(5, conf=ConfState())
    net.change(1, SWAP)
    net.tick(3, only=[1])
    assert {conf(net, n) for n in net.nodes} == {ConfState((1, 4, 5), (1, 2, 3))}
    return net


def test_the_cluster_first_switches_to_joint_consensus_and_once_that_is_committed_to_the_new_configuration() -> None:
    net = Net(3)
    net.elect(1)
    net.add(4, conf=ConfState())
    net.change(1, joint((REMOVE, 3), (ADD, 4), leave=True))
    net.tick(3, only=[1])
    assert net.confs[1] == [ConfState((1, 2, 4), (1, 2, 3), auto_leave=True), ConfState((1, 2, 4))]
    assert conf(net, 4) == conf(net, 2) == ConfState((1, 2, 4))


def test_log_entries_are_replicated_to_all_servers_in_both_configurations() -> None:
    net = swapping()
    net.propose(1, b"x")
    assert [net.data(n)[-1] for n in net.nodes] == [b"x"] * 5


@pytest.mark.parametrize("number", [2, 5])
def test_any_server_from_either_configuration_may_serve_as_leader(number: int) -> None:
    net = swapping()
    net.elect(number)
    net.propose(number, b"x")
    assert net.data(number)[-1:] == [b"x"]


@pytest.mark.parametrize(("down", "reached"), [((2, 4), True), ((2, 3), False), ((4, 5), False), ((2,), True)])
def test_agreement_on_entries_requires_separate_majorities_from_both_configurations(
    down: tuple[int, ...], reached: bool
) -> None:
    net = swapping()
    for number in down:
        net.crash(number)
    net.propose(1, b"x")
    net.tick(3, only=[1])
    assert (net.data(1)[-1:] == [b"x"]) is reached


@pytest.mark.parametrize(("down", "reached"), [((2, 4), True), ((2, 3), False), ((4, 5), False), ((4,), True)])
def test_agreement_on_a_leader_requires_separate_majorities_from_both_configurations(
    down: tuple[int, ...], reached: bool
) -> None:
    net = swapping()
    for number in down:
        net.crash(number)
    net.nodes[1].raft.become_follower(net.term(1), 0)
    net.nodes[1].campaign()
    net.settle()
    assert (net.state(1) is StateType.LEADER) is reached


def test_a_configuration_is_used_by_a_server_once_its_entry_is_applied() -> None:
    net = Net(3)
    net.elect(1)
    net.lost = lambda m: m.to == 3
    net.change(1, ConfChange(REMOVE, 2))
    assert conf(net, 1) == ConfState((1, 3)) and conf(net, 3) == ConfState((1, 2, 3))
    net.heal()
    net.tick(2, only=[1])
    assert conf(net, 3) == ConfState((1, 3))


def test_only_one_change_is_between_proposal_and_application_at_a_time() -> None:
    net = Net(3)
    net.elect(1)
    net.nodes[1].propose_conf_change(ConfChange(ADD, 4))
    net.nodes[1].propose_conf_change(ConfChange(ADD, 5))
    assert [e.type for e in net.log(1)[-2:]] == [EntryType.CONF_CHANGE, EntryType.NORMAL]


def test_a_new_leader_proposes_no_change_before_it_has_applied_what_it_found() -> None:
    """An entry of its predecessor may be a change: until it is applied, another one could lead to two majorities."""
    one = lone((1,), hard=HardState(1, 0, 0))
    one.campaign(2)
    one.node.propose_conf_change(ConfChange(REMOVE, 3))
    one.turn()
    assert one.node.raft.log.entries_from(3)[0].type == EntryType.NORMAL
    one.hear(Message(M.APP_RESP, 1, 2, 2, index=3))
    one.node.propose_conf_change(ConfChange(REMOVE, 3))
    assert one.node.raft.log.entries_from(4)[0].type == EntryType.CONF_CHANGE


def test_a_server_with_an_unapplied_change_does_not_campaign() -> None:
    net = Net(3)
    net.elect(1)
    net.nodes[1].propose_conf_change(ConfChange(REMOVE, 3))
    net.lost = lambda m: m.to == 3
    net.settle()
    node = net.nodes[2]
    node.raft.log.applied -= 1
    node.campaign()
    assert net.state(2) is StateType.FOLLOWER


@pytest.mark.parametrize("leader", [2, 4])
def test_if_the_leader_crashes_in_mid_change_the_change_is_finished_by_its_successor(leader: int) -> None:
    net = swapping()
    net.crash(1)
    net.elect(leader)
    net.change(leader, LEAVE)
    net.tick(3, only=[leader])
    assert conf(net, leader) == ConfState((1, 4, 5))


def test_if_the_leader_crashes_its_successor_leaves_the_joint_configuration_by_itself_where_it_is_to() -> None:
    net = Net(5, voters=(1, 2, 3))
    net.elect(1)
    net.nodes[1].propose_conf_change(joint((REMOVE, 2), (ADD, 4), (ADD, 5), leave=True))
    net.lost = lambda m: any(e.type == EntryType.CONF_CHANGE_V2 and not e.data for e in m.entries)
    net.settle()
    assert conf(net, 1).auto_leave
    net.crash(1)
    net.heal()
    net.elect(3)
    net.tick(5, only=[3])
    assert conf(net, 3) == ConfState((1, 3, 4, 5))


def test_changes_while_joint_other_than_leaving_are_refused() -> None:
    net = swapping()
    net.change(1, ConfChange(ADD, 6))
    net.change(1, SWAP)
    assert conf(net, 1) == ConfState((1, 4, 5), (1, 2, 3))
    net.change(1, LEAVE)
    assert conf(net, 1) == ConfState((1, 4, 5))
    net.change(1, LEAVE)
    assert net.log(1)[-1].type == EntryType.NORMAL


# --- three more issues ----------------------------------------------------------------------------------------------


def test_a_newcomer_learns_who_is_there_from_a_snapshot_never_from_changes_alone() -> None:
    """The first voters are in no entry: from the log alone a newcomer would take itself for the only voter."""
    net = Net(3)
    net.elect(1)
    net.make_snapshots = False
    net.add(4, conf=ConfState())
    net.change(1, ConfChange(ADD, 4))
    net.tick(50)
    assert (conf(net, 4), net.log(4)) == (ConfState(), [])
    net.make_snapshots = True
    net.tick(3)
    assert conf(net, 4) == conf(net, 1) == ConfState((1, 2, 3, 4))


def test_new_servers_join_as_non_voting_members_to_which_entries_are_replicated() -> None:
    net = Net(3)
    net.elect(1)
    net.propose(1, b"x")
    net.propose(1, b"y")
    net.add(4, conf=ConfState())
    net.change(1, ConfChange(LEARN, 4))
    net.tick(3, only=[1])
    assert net.data(4) == [b"x y"]
    assert conf(net, 1) == ConfState((1, 2, 3), (), (4,))


def test_non_voting_members_are_not_considered_for_majorities() -> None:
    net = Net(5, voters=(1, 2, 3), learners=(4, 5))
    net.elect(1)
    net.crash(2)
    net.crash(3)
    net.propose(1, b"x")
    net.tick(5)
    assert net.data(1) == []
    net.nodes[1].raft.become_follower(net.term(1), 0)
    net.nodes[1].campaign()
    net.settle()
    assert net.state(1) is StateType.CANDIDATE


def test_non_voting_members_do_not_campaign() -> None:
    net = Net(4, voters=(1, 2, 3), learners=(4,))
    net.elect(1)
    net.cut(4)
    net.tick(100, only=[4])
    net.nodes[4].campaign()
    assert net.state(4) is StateType.FOLLOWER and net.term(4) == 1


def test_once_caught_up_a_new_server_becomes_a_voter() -> None:
    net = Net(4, voters=(1, 2, 3), learners=(4,))
    net.elect(1)
    net.change(1, ConfChange(ADD, 4))
    net.tick(2, only=[1])
    assert conf(net, 4) == ConfState((1, 2, 3, 4))
    net.elect(4)


def test_a_leader_that_is_not_part_of_the_new_configuration_does_not_count_itself_in_majorities() -> None:
    """It goes on to lead until somebody else does: it manages a cluster that does not include itself."""
    net = Net(3)
    net.elect(1)
    net.nodes[1].propose_conf_change(ConfChange(REMOVE, 1))
    net.nodes[1].propose(b"x")
    net.lost = lambda m: m.to == 3 or (m.to == 2 and any(e.data == b"x" for e in m.entries))
    net.settle()
    assert conf(net, 1) == ConfState((2, 3)) and net.data(1)[-1:] != [b"x"]
    net.lost = lambda m: m.to == 3
    net.tick(3, only=[1])
    assert net.data(1)[-1:] != [b"x"]
    net.heal()
    net.tick(3, only=[1])
    assert net.data(1)[-1:] == [b"x"]


def test_the_leader_steps_down_once_it_has_committed_the_configuration_without_itself_if_asked_to() -> None:
    net = Net(3, step_down_on_removal=True)
    net.elect(1)
    net.change(1, ConfChange(REMOVE, 1))
    assert net.state(1) is StateType.FOLLOWER
    net.elect(2)
    net.tick(100)
    assert net.state(1) is StateType.FOLLOWER


def test_removed_servers_time_out_but_do_not_disrupt_the_cluster() -> None:
    """Node 3 has not heard that it was removed, gets no heartbeats and campaigns, again and again."""
    net = Net(3, check_quorum=True, pre_vote=False)
    net.elect(1)
    net.lost = lambda m: m.to == 3
    net.change(1, ConfChange(REMOVE, 3))
    net.lost = lambda m: m.to == 3 and m.sender == 1
    net.tick(200)
    assert net.term(3) > 5
    assert (net.leaders, net.state(1)) == ({1: 1}, StateType.LEADER)


@pytest.mark.parametrize("kind", [M.VOTE, M.PRE_VOTE])
def test_a_server_disregards_requests_for_votes_when_it_believes_a_current_leader_exists(kind: MessageType) -> None:
    """Within the minimum election timeout of hearing from a leader it neither updates its term nor grants its vote."""
    one = lone(check_quorum=True, pre_vote=True)
    one.hear(Message(M.HEARTBEAT, 1, 2, 1))
    one.tick(9)
    request = Message(kind, 1, 3, 7, log_term=1, index=9)
    assert one.hear(request) == []
    assert one.node.basic_status().term == 1
    one.node.set_randomized_election_timeout(19)
    one.tick()
    assert one.hear(request) == [Message(M.VOTE_RESP if kind is M.VOTE else M.PRE_VOTE_RESP, 3, 1, 7)]


def test_this_does_not_affect_normal_elections() -> None:
    net = Net(5, check_quorum=True, pre_vote=True)
    net.tick(40)
    for _ in range(5):
        (leader,) = {net.nodes[n].basic_status().lead for n in net.nodes}
        net.cut(leader)
        net.tick(45)
        net.heal()
        net.tick(5)
        (successor,) = {net.nodes[n].basic_status().lead for n in net.nodes}
        assert successor != leader
