"""Raft paper, section 5.3: log replication.  One test for each sentence that says what a server does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_nodes import Lone, Net, entries, lone

from edgeswarm.core.raft.config import StateType
from edgeswarm.core.raft.tracker import ProgressState
from edgeswarm.wire.raft import Entry, EntryType, Message, MessageType

M = MessageType

# Figure 7: logs that may stand opposite a new leader (terms of the entries).
LEADER = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
FIGURE_7 = {
    "a": (1, 1, 1, 4, 4, 5, 5, 6, 6),
    "b": (1, 1, 1, 4),
    "c": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
    "d": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
    "e": (1, 1, 1, 4, 4, 4, 4),
    "f": (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
}


def leader(terms: tuple[int, ...] = (), voters: int = 3, **settings: object) -> Lone:
    """Node 1, which leads in the next term, with its empty entry acknowledged by nobody."""
    one = lone(terms, voters=range(1, voters + 1), **settings)
    one.campaign(*range(2, voters // 2 + 2))
    assert one.node.basic_status().state is StateType.LEADER
    return one


def term(one: Lone) -> int:
    return one.node.basic_status().term


def acknowledge(one: Lone, index: int, *senders: int) -> list[Message]:
    return one.hear(*(Message(M.APP_RESP, 1, n, term(one), index=index) for n in senders))


def test_the_leader_appends_the_command_and_issues_append_entries_in_parallel_to_each_of_the_others() -> None:
    one = leader()
    acknowledge(one, 1, 2, 3)
    one.node.propose(b"x")
    ready = one.ready()
    new = Entry(1, 2, EntryType.NORMAL, b"x")
    assert ready.entries == [new]
    assert ready.messages == [Message(M.APP, n, 1, 1, 1, 1, (new,), 1) for n in (2, 3)]


def test_the_leader_writes_to_its_own_disk_in_parallel() -> None:
    """Thesis 10.2.1: its appends may leave before they are stored here; its own copy counts once it is."""
    one = leader()
    acknowledge(one, 1, 2, 3)
    one.node.propose(b"x")
    ready = one.node.ready()
    assert ready.must_sync
    now, after = ready.split()
    assert {m.to for m in now} == {2, 3} and after == []
    one.node.step(Message(M.APP_RESP, 1, 2, 1, index=2))
    assert one.node.basic_status().commit == 1
    one.storage.append(ready.entries)
    one.node.advance()
    assert one.node.basic_status().commit == 2


def test_a_quorum_of_others_commits_before_the_leader_has_stored() -> None:
    one = leader()
    acknowledge(one, 1, 2, 3)
    one.node.propose(b"x")
    one.node.ready()
    for n in (2, 3):
        one.node.step(Message(M.APP_RESP, 1, n, 1, index=2))
    assert one.node.basic_status().commit == 2


def test_a_candidates_and_a_followers_messages_wait_for_the_disk() -> None:
    one = lone()
    one.node.campaign()
    ready = one.node.ready()
    assert ready.split()[0] == [] and len(ready.split()[1]) == 2
    other = lone()
    other.node.step(Message(M.APP, 1, 2, 1, entries=tuple(entries(1))))
    assert other.node.ready().split() == ([], [Message(M.APP_RESP, 2, 1, 1, index=1)])


def test_when_the_entry_has_been_safely_replicated_the_leader_applies_it() -> None:
    net = Net(3)
    net.elect(1)
    net.lost = lambda m: m.to in (2, 3)
    net.propose(1, b"x")
    assert net.data(1) == []
    net.lost = lambda m: m.to == 3
    net.tick()
    assert net.data(1) == [b"x"]


def test_if_followers_crash_or_packets_are_lost_the_leader_retries_indefinitely() -> None:
    """Even after it has answered the client: the entry is committed by the two others long before."""
    net = Net(3)
    net.elect(1)
    net.cut(3)
    net.propose(1, b"x")
    assert net.data(1) == [b"x"]
    net.tick(500, only=[1, 2])
    net.heal()
    net.tick(2, only=[1, 2])
    assert net.data(3) == [b"x"]


def test_each_log_entry_stores_the_command_the_term_when_it_was_received_and_its_index() -> None:
    net = Net(3)
    net.elect(1)
    net.propose(1, b"x")
    net.elect(2)
    net.propose(2, b"y")
    assert [(e.term, e.index, e.data) for e in net.log(3)] == [(1, 1, b""), (1, 2, b"x"), (2, 3, b""), (2, 4, b"y")]


@pytest.mark.parametrize("voters", [1, 2, 3, 4, 5])
def test_a_log_entry_is_committed_once_its_leader_has_replicated_it_on_a_majority(voters: int) -> None:
    one = leader(voters=voters)
    acknowledge(one, 1, *range(2, voters + 1))
    one.node.propose(b"x")
    one.turn()
    for copies, sender in enumerate(range(2, voters + 1), 2):
        assert (one.node.basic_status().commit == 2) is (copies - 1 > voters / 2)
        acknowledge(one, 2, sender)
    assert one.node.basic_status().commit == 2


@pytest.mark.parametrize("terms", [(), (2,), (1, 2), (1,)])
def test_this_also_commits_all_preceding_entries_including_those_of_previous_leaders(terms: tuple[int, ...]) -> None:
    one = leader(terms)
    last = len(terms) + 1
    acknowledge(one, last, 2)
    assert one.node.basic_status().commit == last
    assert [e.index for e in one.applied] == list(range(1, last + 1))


def test_the_leader_includes_its_commit_index_in_append_entries_including_heartbeats() -> None:
    one = leader()
    assert {m.commit for m in acknowledge(one, 1, 2)} == {1}
    acknowledge(one, 1, 3)
    one.node.propose(b"x")
    assert {m.commit for m in one.turn()} == {1}
    assert {m.commit for m in one.tick()} == {1}


def test_a_heartbeat_never_commits_beyond_what_the_follower_is_known_to_have() -> None:
    one = leader()
    acknowledge(one, 1, 2)
    assert [(m.to, m.commit) for m in one.tick()] == [(2, 1), (3, 0)]


def test_once_a_follower_learns_that_an_entry_is_committed_it_applies_it_in_log_order() -> None:
    one = lone()
    one.hear(Message(M.APP, 1, 2, 1, entries=tuple(entries(1, 1, 1))))
    assert one.applied == []
    one.hear(Message(M.HEARTBEAT, 1, 2, 1, commit=2))
    assert one.applied == entries(1, 1)
    one.hear(Message(M.APP, 1, 2, 1, 1, 3, tuple(entries(1, first=4)), 4))
    assert one.applied == entries(1, 1, 1, 1)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_if_two_logs_have_an_entry_with_the_same_index_and_term_they_agree_up_to_there(
    story: list[tuple[int, int]], chance: object
) -> None:
    """Whoever leads, whatever is lost: Figure 3, log matching, and state machine safety with it."""
    net = Net(3, seed=1)
    rng = chance
    net.lost = lambda _: rng.random() < 0.2  # type: ignore[attr-defined]
    for number, proposals in story:
        net.nodes[number].campaign()
        net.settle()
        if net.state(number) is StateType.LEADER:
            for n in range(proposals):
                net.propose(number, b"%d %d" % (net.term(number), n))
        logs = [net.log(n) for n in net.nodes]
        for one in logs:
            for other in logs:
                shared = [i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a.term == b.term]
                assert one[: max(shared, default=-1) + 1] == other[: max(shared, default=-1) + 1]
        longest = max(net.applied.values(), key=len)
        assert all(longest[: len(one)] == one for one in net.applied.values())


@pytest.mark.parametrize(("terms", "index", "log_term"), [((), 0, 0), ((1,), 1, 1), ((1, 2), 2, 2)])
def test_append_entries_includes_index_and_term_of_the_entry_that_immediately_precedes_the_new_ones(
    terms: tuple[int, ...], index: int, log_term: int
) -> None:
    one = lone(terms)
    (message, _) = one.campaign(2)
    assert (message.type, message.index, message.log_term) == (M.APP, index, log_term)


@pytest.mark.parametrize(("index", "log_term"), [(3, 2), (2, 1), (1, 2), (9, 9)])
def test_if_the_follower_does_not_find_an_entry_with_that_index_and_term_it_refuses_the_new_entries(
    index: int, log_term: int
) -> None:
    one = lone((1, 2))
    (answer,) = one.hear(Message(M.APP, 1, 2, 9, log_term, index, tuple(entries(9, first=index + 1))))
    assert (answer.type, answer.reject, answer.index) == (M.APP_RESP, True, index)
    assert one.log == [1, 2]


@pytest.mark.parametrize("name", FIGURE_7)
def test_the_leader_brings_the_followers_log_to_duplicate_its_own(name: str) -> None:
    """Figure 7, every follower; two others let the leader be elected."""
    net = Net(4, terms={1: LEADER, 2: FIGURE_7[name], 3: LEADER, 4: LEADER})
    net.nodes[1].raft.become_follower(8, 0)
    net.elect(1)
    assert net.log(2) == net.log(1)
    assert [e.term for e in net.log(1)] == [*LEADER, 9]


@pytest.mark.parametrize("name", FIGURE_7)
def test_whenever_append_entries_returns_successfully_the_follower_has_the_leaders_log_up_to_there(name: str) -> None:
    net = Net(4, terms={1: LEADER, 2: FIGURE_7[name], 3: LEADER, 4: LEADER})
    net.nodes[1].raft.become_follower(8, 0)
    answers: list[int] = []

    def look(message: Message) -> bool:
        if message.type is M.APP_RESP and message.sender == 2 and not message.reject:
            answers.append(message.index)
            assert net.log(2)[: message.index] == net.log(1)[: message.index]
        return False

    net.lost = look
    net.elect(1)
    assert answers


def test_when_a_leader_first_comes_to_power_it_initializes_next_index_to_just_after_its_last_entry() -> None:
    one = lone(LEADER)
    one.campaign(2)
    assert {one.node.status().progress[n].next for n in (2, 3)} == {11}
    assert {one.node.status().progress[n].match for n in (2, 3)} == {0}
    assert {m.index for m in one.hear(*(Message(M.HEARTBEAT_RESP, 1, n, term(one)) for n in (2, 3)))} == {10}


@pytest.mark.parametrize("rejected", [9, 5, 1])
def test_after_a_rejection_the_leader_decrements_next_index_and_retries(rejected: int) -> None:
    one = lone((1,) * 10)
    one.campaign(2)
    (retry,) = one.hear(Message(M.APP_RESP, 1, 2, 2, 1, 10, reject=True, reject_hint=rejected))
    assert (retry.type, retry.to, retry.index) == (M.APP, 2, rejected)
    assert [e.index for e in retry.entries] == list(range(rejected + 1, 12))


def test_conflicting_entries_are_removed_and_the_leaders_are_appended() -> None:
    one = lone((1, 2, 2, 2))
    (answer,) = one.hear(Message(M.APP, 1, 2, 3, 1, 1, tuple(entries(3, first=2))))
    assert answer == Message(M.APP_RESP, 2, 1, 3, index=2)
    assert one.log == [1, 3]
    assert one.storage.last_index() == 2


@pytest.mark.parametrize("name", FIGURE_7)
def test_one_append_entries_is_required_for_each_term_with_conflicting_entries(name: str) -> None:
    """The follower names the term of its entry, so that the leader skips it whole."""
    net = Net(4, terms={1: LEADER, 2: FIGURE_7[name], 3: LEADER, 4: LEADER})
    net.nodes[1].raft.become_follower(8, 0)
    refusals = 0

    def count(message: Message) -> bool:
        nonlocal refusals
        refusals += message.type is M.APP_RESP and message.reject
        return False

    net.lost = count
    net.elect(1)
    conflicting = set(FIGURE_7[name]) - set(LEADER)
    assert refusals <= max(len(conflicting), 1) + 1


def test_a_leader_never_overwrites_or_deletes_entries_in_its_log() -> None:
    """Figure 3, leader append-only; whatever is said to it in its term."""
    one = leader((1, 1, 1))
    before = one.node.raft.log.entries_from(1)
    one.hear(Message(M.APP, 1, 2, 2, 1, 1, tuple(entries(2, first=2)), 2))
    one.hear(Message(M.APP_RESP, 1, 2, 2, 1, 3, reject=True, reject_hint=0))
    one.node.propose(b"x")
    one.turn()
    assert one.node.raft.log.entries_from(1)[: len(before)] == before


def test_raft_accepts_replicates_and_applies_as_long_as_a_majority_is_up() -> None:
    net = Net(5)
    net.elect(1)
    net.crash(4)
    net.crash(5)
    net.propose(1, b"x")
    net.tick()
    assert net.data(1) == net.data(2) == net.data(3) == [b"x"]
    net.crash(3)
    net.propose(1, b"y")
    net.tick(50)
    assert net.data(1) == [b"x"]


def test_a_new_entry_is_replicated_with_a_single_round_and_a_slow_follower_does_not_hold_it_up() -> None:
    net = Net(3)
    net.elect(1)
    net.lost = lambda m: m.to == 3
    net.nodes[1].propose(b"x")
    net.turn(1)
    for _ in range(2):
        wire, net.wire = net.wire, []
        for message in wire:
            net.deliver(message)
        net.turn(2)
    net.turn(1)
    assert net.data(1) == [b"x"]


def test_until_the_match_is_found_the_leader_sends_one_append_at_a_time() -> None:
    one = leader((1, 1))
    assert one.node.status().progress[2].state is ProgressState.PROBE
    one.node.propose(b"x")
    one.node.propose(b"y")
    assert one.turn() == []
    acknowledge(one, 3, 2)
    assert one.node.status().progress[2].state is ProgressState.REPLICATE
