"""Raft paper, section 7: log compaction.  One test for each sentence that says what a server does."""

from __future__ import annotations

import pytest
from raft_nodes import Lone, Net, entries, lone, make

from edgeswarm.core.raft.change import ConfChange, ConfChangeType
from edgeswarm.core.raft.config import StateType
from edgeswarm.core.raft.storage import MemoryStorage, SnapshotUnavailableError
from edgeswarm.core.raft.tracker import ProgressState
from edgeswarm.errors import RemoteError
from edgeswarm.wire.raft import ConfState, HardState, Message, MessageType, Snapshot

M = MessageType
CONF = ConfState((1, 2, 3))


def behind() -> Net:
    """1 leads and has compacted its log; 3 was away all the time."""
    net = Net(3)
    net.cut(3)
    net.elect(1)
    net.propose(1, *(b"%d" % n for n in range(5)))
    net.snapshot(1, compact=True)
    net.propose(1, b"after")
    net.heal()
    return net


def leader_with(one: Lone) -> Lone:
    """Node 1 leads with a compacted log; 2 follows, 3 is to be sent a snapshot."""
    one.campaign(2)
    last = one.node.basic_status().last_index
    one.hear(Message(M.APP_RESP, 1, 2, one.node.basic_status().term, index=last))
    one.storage.create_snapshot(last, CONF, b"state")
    one.storage.compact(last)
    return one


def refuse(one: Lone, hint: int = 0) -> list[Message]:
    """Node 3 refuses whatever it was sent: it has nothing."""
    probe = one.node.status().progress[3].next - 1
    return one.hear(Message(M.APP_RESP, 1, 3, one.node.basic_status().term, 0, probe, reject=True, reject_hint=hint))


# --- taking snapshots -----------------------------------------------------------------------------------------------


def test_the_state_is_written_to_a_snapshot_then_the_entire_log_up_to_that_point_is_discarded() -> None:
    net = Net(3)
    net.elect(1)
    net.propose(1, b"x", b"y")
    net.snapshot(1, compact=True)
    assert net.log(1) == [] and net.nodes[1].basic_status().first_index == 4
    net.propose(1, b"z")
    assert net.data(1) == net.data(2) == [b"x", b"y", b"z"]


def test_each_server_takes_snapshots_independently_covering_just_the_committed_entries_in_its_log() -> None:
    net = Net(3)
    net.elect(1)
    net.propose(1, b"x")
    net.snapshot(2, compact=True)
    net.cut(2)
    net.elect(3)
    net.propose(3, b"y")
    net.snapshot(3, compact=True)
    net.heal()
    net.tick(3, only=[3])
    assert net.data(1) == net.data(3) == [b"x", b"y"]
    assert net.data(2) == [b"x y"]
    assert [net.nodes[n].basic_status().first_index for n in (1, 2, 3)] == [1, 5, 5]


def test_last_included_index_and_term_support_the_consistency_check_for_the_first_entry_after_the_snapshot() -> None:
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(5, 2, CONF, b"state"))
    storage.set_hard_state(HardState(2, 0, 5))
    one = Lone(make(1, storage, applied=5), storage)
    (refused,) = one.hear(Message(M.APP, 1, 2, 3, 3, 5, tuple(entries(3, first=6))))
    assert refused.reject
    (accepted,) = one.hear(Message(M.APP, 1, 2, 3, 2, 5, tuple(entries(3, first=6))))
    assert (accepted.reject, accepted.index) == (False, 6)


def test_a_candidate_whose_whole_log_is_a_snapshot_shows_its_last_included_index_and_term() -> None:
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(5, 2, CONF, b"state"))
    storage.set_hard_state(HardState(2, 0, 5))
    one = Lone(make(1, storage, applied=5), storage)
    one.node.campaign()
    assert {(m.index, m.log_term) for m in one.turn()} == {(5, 2)}


def test_the_snapshot_includes_the_latest_configuration_as_of_its_last_included_index() -> None:
    net = Net(3)
    net.elect(1)
    net.change(1, ConfChange(ConfChangeType.REMOVE_NODE, 3))
    net.snapshot(1, compact=True)
    assert net.storages[1].snapshot_.conf == ConfState((1, 2))
    net.crash(1)
    net.restart(1)
    assert net.nodes[1].raft.tracker.conf_state() == ConfState((1, 2))


# --- sending snapshots ----------------------------------------------------------------------------------------------


def test_the_leader_sends_a_snapshot_to_a_follower_that_lags_behind_what_its_log_still_has() -> None:
    net = behind()
    kinds: list[MessageType] = []
    net.lost = lambda m: bool(m.to == 3 and kinds.append(m.type))
    net.tick(3, only=[1])
    assert M.SNAP in kinds
    assert net.data(3) == [b"0 1 2 3 4", b"after"]


def test_the_leader_sends_entries_while_its_log_still_has_them() -> None:
    net = Net(3)
    net.cut(3)
    net.elect(1)
    net.propose(1, b"x")
    net.snapshot(1)
    net.heal()
    kinds: list[MessageType] = []
    net.lost = lambda m: bool(kinds.append(m.type))
    net.tick(3, only=[1])
    assert M.SNAP not in kinds and net.data(3) == [b"x"]


def test_while_a_snapshot_is_on_its_way_the_follower_gets_heartbeats_only() -> None:
    one = leader_with(lone((1, 1, 1)))
    (snap,) = refuse(one)
    assert (snap.type, snap.to) == (M.SNAP, 3)
    assert one.node.status().progress[3].state is ProgressState.SNAPSHOT
    one.node.propose(b"x")
    one.hear(Message(M.HEARTBEAT_RESP, 1, 3, 2))
    assert [m.type for m in one.tick(3) if m.to == 3] == [M.HEARTBEAT] * 3


def test_a_follower_that_took_the_snapshot_in_goes_on_with_entries() -> None:
    one = leader_with(lone((1, 1, 1)))
    refuse(one)
    one.node.propose(b"x")
    one.turn()
    (append,) = one.hear(Message(M.APP_RESP, 1, 3, 2, index=4))
    assert (append.type, append.to, append.index, len(append.entries)) == (M.APP, 3, 4, 1)
    assert one.node.status().progress[3].state is ProgressState.REPLICATE


@pytest.mark.parametrize(("ok", "following"), [(True, 5), (False, 1)])
def test_the_driver_tells_whether_a_snapshot_arrived_and_the_next_heartbeat_goes_on_from_there(
    ok: bool, following: int
) -> None:
    one = leader_with(lone((1, 1, 1)))
    refuse(one)
    one.node.report_snapshot(3, ok)
    assert one.turn() == []
    status = one.node.status().progress[3]
    assert (status.state, status.next, status.paused) == (ProgressState.PROBE, following, True)
    (again,) = one.hear(Message(M.HEARTBEAT_RESP, 1, 3, 2))
    assert again.type is (M.APP if ok else M.SNAP)


def test_no_snapshot_goes_to_a_follower_that_was_not_heard_of() -> None:
    one = leader_with(lone((1, 1, 1)))
    assert [m.type for m in one.tick(20) if m.to == 3] == [M.HEARTBEAT] * 20
    assert one.node.status().progress[3].state is ProgressState.PROBE


def test_a_snapshot_that_is_not_ready_is_asked_for_again() -> None:
    class Busy(MemoryStorage):
        __slots__ = ()

        def snapshot(self) -> Snapshot:
            raise SnapshotUnavailableError("being made")

    one = leader_with(lone((1, 1, 1)))
    refuse(one)
    one.node.report_snapshot(3, False)
    one.storage.__class__ = Busy
    assert one.hear(Message(M.HEARTBEAT_RESP, 1, 3, 2)) == []
    one.storage.__class__ = MemoryStorage
    assert [m.type for m in one.hear(Message(M.HEARTBEAT_RESP, 1, 3, 2))] == [M.SNAP]


# --- receiving snapshots --------------------------------------------------------------------------------------------


def snap(index: int, term: int, conf: ConfState = CONF, *, message_term: int = 5) -> Message:
    return Message(M.SNAP, 1, 2, message_term, snapshot=Snapshot(index, term, conf, b"state"))


@pytest.mark.parametrize("ours", [(), (1, 1), (1, 1, 1, 1, 1, 1, 1)])
def test_a_snapshot_with_new_information_replaces_the_entire_log_uncommitted_entries_too(ours: tuple[int, ...]) -> None:
    one = lone(ours, hard=HardState(1, 0, min(len(ours), 1)))
    one.node.step(snap(6, 3))
    ready = one.node.ready()
    assert ready.snapshot is not None and ready.snapshot.data == b"state"
    assert ready.hard_state == HardState(5, 0, 6)
    assert ready.split() == ([], [Message(M.APP_RESP, 2, 1, 5, index=6)])
    one.storage.apply_snapshot(ready.snapshot)
    one.node.advance()
    status = one.node.basic_status()
    assert (status.first_index, status.last_index, status.commit, status.applied) == (7, 6, 6, 6)


def test_a_snapshot_of_a_prefix_of_the_log_retains_the_entries_that_follow_it() -> None:
    """Whether it was sent again or by mistake: the log agrees with it at its last index."""
    one = lone((1, 1, 1, 1))
    (answer,) = one.hear(snap(2, 1))
    assert answer == Message(M.APP_RESP, 2, 1, 5, index=2)
    assert one.log == [1, 1, 1, 1]
    assert one.node.basic_status().commit == 2


def test_a_snapshot_of_what_is_committed_already_changes_nothing() -> None:
    one = lone((1, 1, 1, 1), hard=HardState(1, 0, 3))
    assert one.hear(snap(2, 1)) == [Message(M.APP_RESP, 2, 1, 5, index=3)]
    assert one.log == [1, 1, 1, 1]


def test_a_snapshot_sets_the_configuration() -> None:
    one = lone((1,))
    one.hear(snap(6, 3, ConfState((1, 2), (2, 3), (4,), (3,), True)))
    assert one.node.raft.tracker.conf_state() == ConfState((1, 2), (2, 3), (4,), (3,), True)


def test_a_snapshot_whose_configuration_does_not_name_the_node_is_not_taken() -> None:
    one = lone((1,))
    assert one.hear(snap(6, 3, ConfState((2, 3)))) == [Message(M.APP_RESP, 2, 1, 5)]
    assert one.log == [1]


@pytest.mark.parametrize("conf", [ConfState((1, 2), (), (2,)), ConfState((1,), (), (), (1,)), ConfState((), (), (1,))])
def test_a_snapshot_whose_configuration_contradicts_itself_is_the_senders_fault(conf: ConfState) -> None:
    one = lone((1,))
    with pytest.raises(RemoteError, match="node 2: raft: snapshot of 6"):
        one.node.step(snap(6, 3, conf))
    one.turn()
    assert one.log == [1] and one.node.raft.tracker.conf_state() == CONF


def test_a_leader_of_the_term_makes_a_candidate_follower_with_a_snapshot_too() -> None:
    one = lone((1,), hard=HardState(4, 0, 0))
    one.node.campaign()
    one.turn()
    one.hear(snap(6, 3))
    status = one.node.basic_status()
    assert (status.state, status.lead, status.commit) == (StateType.FOLLOWER, 2, 6)


def test_no_election_while_a_snapshot_is_being_stored() -> None:
    one = lone((1,))
    one.node.step(snap(6, 3))
    ready = one.node.ready()
    for _ in range(40):
        one.node.tick()
    one.node.campaign()
    assert one.node.basic_status().state is StateType.FOLLOWER
    assert ready.snapshot is not None
    one.storage.apply_snapshot(ready.snapshot)
    one.node.advance()
    one.node.campaign()
    assert one.node.basic_status().state is StateType.CANDIDATE
