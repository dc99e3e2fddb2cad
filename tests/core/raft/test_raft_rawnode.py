"""RawNode: the contract of Ready and advance(), and the settings that stand beside the paper."""

from __future__ import annotations

import random

import pytest
from raft_nodes import Lone, Net, entries, lone, make

from edgeswarm.core.raft.config import Config, ProposalDroppedError, ReadOnly, StateType
from edgeswarm.core.raft.rawnode import RawNode, Ready
from edgeswarm.core.raft.storage import ENTRY_OVERHEAD_BYTES, MemoryStorage
from edgeswarm.core.raft.tracker import ProgressState
from edgeswarm.errors import LocalError
from edgeswarm.limits import RAFT_CONTEXT_BYTES_MAX, RAFT_ENTRY_BYTES_MAX
from edgeswarm.wire.raft import LOCAL_APPEND, LOCAL_APPLY, ConfState, HardState, Message, MessageType, Snapshot

M = MessageType


def leader(**settings: object) -> Lone:
    """Node 1 of 3 leads term 1; everybody has its first entry."""
    one = lone(**settings)
    one.campaign(2)
    one.hear(*(Message(M.APP_RESP, 1, n, 1, index=1) for n in (2, 3)))
    return one


# --- Ready ----------------------------------------------------------------------------------------------------------


def test_a_node_that_has_nothing_to_do_says_so() -> None:
    assert not lone().node.has_ready()
    assert not leader().node.has_ready()


def test_a_ready_must_be_advanced_before_the_next() -> None:
    one = lone()
    one.node.campaign()
    one.node.ready()
    one.node.step(Message(M.VOTE, 1, 2, 5))
    assert not one.node.has_ready()
    with pytest.raises(LocalError, match="before the last Ready was advanced"):
        one.node.ready()
    one.node.advance()
    assert one.node.has_ready()
    with pytest.raises(LocalError, match="without a Ready"):
        one.node.advance()


def test_a_ready_tells_only_what_has_changed() -> None:
    one = lone()
    one.node.campaign()
    first = one.ready()
    assert first.soft_state is not None and first.hard_state is not None
    one.node.step(Message(M.VOTE, 1, 2, 1))
    second = one.ready()
    assert (second.soft_state, second.hard_state, second.must_sync) == (None, None, False)
    assert len(second.messages) == 1


def test_a_commit_index_alone_need_not_be_synced() -> None:
    one = lone((1, 1))
    one.node.step(Message(M.HEARTBEAT, 1, 2, 1, commit=2))
    ready = one.ready()
    assert (ready.hard_state, ready.must_sync) == (HardState(1, 0, 2), False)
    assert len(ready.committed_entries) == 2


def test_messages_keep_the_order_in_which_they_came_up() -> None:
    one = leader()
    one.node.propose(b"x")
    one.node.tick()
    one.node.step(Message(M.PRE_VOTE, 1, 3, 2, 1, 9))
    ready = one.ready()
    assert [m.type for m in ready.messages] == [M.APP, M.APP, M.HEARTBEAT, M.HEARTBEAT, M.PRE_VOTE_RESP]
    now, later = ready.split()
    assert now + later == ready.messages and [m.type for m in later] == [M.PRE_VOTE_RESP]


def test_a_new_leader_waits_for_its_term_to_be_stored() -> None:
    """Its vote and its win may come up in one Ready: nothing of that leaves before the term is on the disk."""
    one = lone()
    one.node.campaign()
    one.node.step(Message(M.VOTE_RESP, 1, 2, 1))
    one.node.step(Message(M.VOTE_RESP, 1, 3, 1))
    ready = one.node.ready()
    assert one.node.basic_status().state is StateType.LEADER
    assert ready.split()[0] == []


def test_answers_of_an_older_term_do_not_make_new_entries_stored() -> None:
    """While entries are being written, a new leader replaces them: the old answer says nothing of the new ones."""
    one = lone()
    one.node.step(Message(M.APP, 1, 2, 1, entries=tuple(entries(1, 1))))
    one.node.ready()
    one.node.step(Message(M.APP, 1, 3, 2, entries=tuple(entries(2, 2))))
    one.node.advance()
    assert one.node.ready().entries == entries(2, 2)


def test_committed_entries_are_handed_out_in_pieces() -> None:
    one = lone((1,) * 6, max_committed_bytes=2 * (ENTRY_OVERHEAD_BYTES + 3))
    one.node.step(Message(M.HEARTBEAT, 1, 2, 1, commit=6))
    pieces: list[Ready] = []
    while one.node.has_ready():
        pieces.append(one.ready())
    assert [[e.index for e in piece.committed_entries] for piece in pieces] == [[1, 2], [3, 4], [5, 6]]


def test_a_restart_goes_on_from_what_was_stored_and_applied() -> None:
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(2, 1, ConfState((1, 2, 3)), b"state"))
    storage.append(entries(1, 3, 3, first=3))
    storage.set_hard_state(HardState(4, 2, 4))
    node = make(1, storage, applied=2)
    status = node.basic_status()
    assert (status.term, status.vote, status.commit, status.applied, status.last_index) == (4, 2, 4, 2, 5)
    one = Lone(node, storage)
    one.turn()
    assert one.applied == entries(1, 3, first=3)


def test_a_storage_that_commits_what_it_does_not_have_is_refused() -> None:
    with pytest.raises(LocalError, match="the storage commits 5, expected 0 to 2"):
        lone((1, 1), hard=HardState(1, 0, 5))


# --- settings and wishes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"id": 0}, "id: expected 1"),
        ({"heartbeat_ticks": 0}, "heartbeat_ticks"),
        ({"election_ticks": 1}, "election_ticks"),
        ({"max_inflight_msgs": 0}, "max_inflight_msgs"),
        ({"max_inflight_bytes": 5}, "max_inflight_bytes"),
        ({"max_uncommitted_bytes": 0}, "max_uncommitted_bytes"),
        ({"read_only": ReadOnly.LEASE_BASED, "check_quorum": False}, "a lease needs check_quorum"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], fault: str) -> None:
    known: dict[str, object] = {"id": 1, "storage": MemoryStorage(), "rng": random.Random(1)}
    with pytest.raises(LocalError, match=fault):
        Config(**{**known, **settings})  # type: ignore[arg-type]


def test_wishes_beyond_their_bounds_are_our_own_fault() -> None:
    one = leader()
    for wish in (
        lambda: one.node.propose(bytes(RAFT_ENTRY_BYTES_MAX + 1)),
        lambda: one.node.read_index(bytes(RAFT_CONTEXT_BYTES_MAX + 1)),
        lambda: one.node.hasten_election(0),
    ):
        with pytest.raises(LocalError):
            wish()


def test_a_follower_does_not_forward_where_it_is_told_not_to() -> None:
    one = lone(disable_proposal_forwarding=True)
    one.hear(Message(M.HEARTBEAT, 1, 2, 1))
    with pytest.raises(ProposalDroppedError):
        one.node.propose(b"x")


def test_proposals_that_wait_for_a_quorum_are_bounded() -> None:
    one = leader(max_uncommitted_bytes=10)
    one.node.propose(b"12345678")
    with pytest.raises(ProposalDroppedError):
        one.node.propose(b"123")
    one.node.propose(b"")
    one.turn()
    one.hear(Message(M.APP_RESP, 1, 2, 1, index=3))
    one.node.propose(b"12345678901234")


def test_one_proposal_larger_than_the_bound_goes() -> None:
    one = leader(max_uncommitted_bytes=10)
    one.node.propose(bytes(100))


def test_status_shows_members_at_the_leader_only() -> None:
    one = leader()
    status = one.node.status()
    assert list(status.progress) == [1, 2, 3]
    assert status.progress[2].state is ProgressState.REPLICATE
    assert str(status.progress[2]) == "StateReplicate match=1 next=2"
    assert lone().node.status().progress == {}
    assert one.node.last_entry_id() == (1, 1)


def test_the_log_function_hears_what_happens_and_nothing_depends_on_it() -> None:
    told: list[tuple[str, str]] = []
    loud = lone(log_fn=lambda level, text: told.append((level, text)), pre_vote=True, check_quorum=True)
    quiet = lone(pre_vote=True, check_quorum=True)
    for one in (loud, quiet):
        one.campaign(2)
        one.tick(30)
    assert loud.node.basic_status() == quiet.node.basic_status()
    assert ("info", "1 became pre-candidate at term 0") in told


# --- batching -------------------------------------------------------------------------------------------------------


def test_without_batching_each_proposal_is_an_append_of_its_own() -> None:
    one = leader()
    for data in (b"x", b"y"):
        one.node.propose(data)
    assert [len(m.entries) for m in one.ready().messages] == [1, 1, 1, 1]


def test_with_batching_the_proposals_of_a_turn_are_one_append_a_follower() -> None:
    one = leader(batch_appends=True)
    for data in (b"x", b"y", b"z"):
        one.node.propose(data)
    ready = one.ready()
    assert [(m.to, [e.data for e in m.entries]) for m in ready.messages] == [(n, [b"x", b"y", b"z"]) for n in (2, 3)]
    assert len(ready.split()[0]) == 2


def test_with_batching_commits_travel_with_the_next_entries() -> None:
    one = leader(batch_appends=True)
    one.node.propose(b"x")
    one.turn()
    one.node.step(Message(M.APP_RESP, 1, 2, 1, index=2))
    one.node.propose(b"y")
    sent = one.turn()
    assert [(m.to, m.commit, len(m.entries)) for m in sent if m.to == 2] == [(2, 2, 1)]


def test_with_batching_a_follower_acknowledges_once_for_all() -> None:
    one = lone(batch_appends=True)
    one.node.step(Message(M.APP, 1, 2, 1, entries=tuple(entries(1))))
    one.node.step(Message(M.APP, 1, 2, 1, 1, 1, tuple(entries(1, first=2))))
    one.node.step(Message(M.APP, 1, 2, 1, 1, 5, tuple(entries(1, first=6))))
    one.node.step(Message(M.APP, 1, 2, 1, 1, 2, tuple(entries(1, first=3))))
    assert [(m.index, m.reject) for m in one.turn()] == [(2, False), (5, True), (3, False)]


@pytest.mark.parametrize("batch", [False, True])
def test_batching_changes_what_travels_but_not_what_is_applied(batch: bool) -> None:
    net = Net(3, batch_appends=batch, max_size_per_msg=60, max_inflight_msgs=3)
    net.elect(1)
    rng = random.Random(1)
    net.lost = lambda _: rng.random() < 0.1
    for n in range(100):
        net.nodes[1].propose(b"%d" % n)
        if n % 7 == 0:
            net.tick()
    net.heal()
    net.tick(5)
    assert net.data(1) == net.data(2) == net.data(3) == [b"%d" % n for n in range(100)]


# --- flow control ---------------------------------------------------------------------------------------------------


def test_appends_stay_within_their_bytes_but_carry_one_entry() -> None:
    one = leader(max_size_per_msg=2 * (ENTRY_OVERHEAD_BYTES + 3), batch_appends=True)
    for _ in range(5):
        one.node.propose(b"abc")
    one.node.propose(bytes(500))
    sent = [len(m.entries) for m in one.turn() if m.to == 2]
    assert sent == [2, 2, 1, 1]


def test_a_full_window_stops_appends_until_an_answer_frees_it() -> None:
    one = leader(max_inflight_msgs=2)
    for _ in range(4):
        one.node.propose(b"x")
    assert len([m for m in one.turn() if m.to == 2]) == 2
    freed = [m for m in one.hear(Message(M.APP_RESP, 1, 2, 1, index=2)) if m.to == 2]
    assert sum(len(m.entries) for m in freed) == 2


def test_a_full_window_whose_messages_were_lost_recovers_with_a_heartbeats_answer() -> None:
    one = leader(max_inflight_msgs=2)
    for _ in range(4):
        one.node.propose(b"x")
    one.turn()
    (probe,) = one.hear(Message(M.HEARTBEAT_RESP, 1, 2, 1))
    assert (probe.type, probe.index, probe.entries) == (M.APP, 3, ())
    (again,) = one.hear(Message(M.APP_RESP, 1, 2, 1, 1, 3, reject=True, reject_hint=1))
    assert (again.index, len(again.entries)) == (1, 4)


def test_an_unreachable_member_is_sent_one_message_at_a_time() -> None:
    one = leader()
    one.node.report_unreachable(2)
    for _ in range(3):
        one.node.propose(b"x")
    sent = one.turn()
    assert [len([m for m in sent if m.to == n]) for n in (2, 3)] == [1, 3]


# --- asynchronous writes --------------------------------------------------------------------------------------------


def test_asynchronous_writes_address_storage_threads() -> None:
    one = lone(async_storage_writes=True)
    one.node.campaign()
    ready = one.node.ready()
    *votes, append = ready.messages
    assert {m.type for m in votes} == {M.VOTE}
    assert (append.type, append.to, append.term, append.vote) == (M.STORAGE_APPEND, LOCAL_APPEND, 1, 1)
    assert append.responses == (Message(M.VOTE_RESP, 1, 1, 1),)
    with pytest.raises(LocalError, match="advance"):
        one.node.advance()
    for message in (*append.responses, Message(M.VOTE_RESP, 1, 2, 1)):
        one.node.step(message)
    *_, append = one.node.ready().messages
    assert [m.type for m in append.responses] == [M.APP_RESP, M.STORAGE_APPEND_RESP]
    one.storage.append(append.entries)
    for message in (*append.responses, Message(M.APP_RESP, 1, 2, 1, index=1)):
        one.node.step(message)
    *_, apply = one.node.ready().messages
    assert (apply.type, apply.to, len(apply.entries)) == (M.STORAGE_APPLY, LOCAL_APPLY, 1)
    assert one.node.basic_status().applied == 0
    one.node.step(*apply.responses)
    assert one.node.basic_status().applied == 1


def test_the_next_ready_need_not_wait_for_asynchronous_writes() -> None:
    one = lone(voters=(1,), async_storage_writes=True)
    one.node.campaign()
    (vote,) = one.node.ready().messages[-1].responses
    one.node.step(vote)
    first = one.node.ready()
    one.node.propose(b"x")
    second = one.node.ready()
    assert ([e.index for e in first.entries], [e.index for e in second.entries]) == ([1], [2])
    assert isinstance(one.node, RawNode)
