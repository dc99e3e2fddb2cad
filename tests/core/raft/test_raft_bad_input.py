"""Whatever a peer sends: a RemoteError or nothing, never an assert, never a change that outlives it, never growth."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_nodes import Lone, Net, entries, lone

from edgeswarm.core.raft.config import StateType
from edgeswarm.errors import RemoteError
from edgeswarm.limits import RAFT_ENTRIES_MAX, RAFT_NUMBER_MAX
from edgeswarm.wire.raft import (
    LOCAL_APPEND,
    LOCAL_TYPES,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)

M = MessageType
STATES = [StateType.FOLLOWER, StateType.PRE_CANDIDATE, StateType.CANDIDATE, StateType.LEADER]


def in_state(state: StateType, **settings: object) -> Lone:
    """Node 1 of 3 with a log of 1 1 2, of which two entries are committed."""
    one = lone((1, 1, 2), hard=HardState(2, 0, 2), pre_vote=state is StateType.PRE_CANDIDATE, **settings)
    if state is StateType.FOLLOWER:
        one.hear(Message(M.HEARTBEAT, 1, 2, 2))
    elif state is StateType.LEADER:
        one.campaign(2)
    else:
        one.node.campaign()
    one.turn()
    assert one.node.basic_status().state is state
    return one


def image(one: Lone) -> tuple[object, ...]:
    raft = one.node.raft
    return (
        one.node.status(),
        raft.log.entries_from(raft.log.first_index()),
        raft.tracker.conf_state(),
        raft.tracker.votes,
        raft.election_elapsed,
    )


good = Message(M.APP, 1, 2, 9, 2, 3, (Entry(9, 4, EntryType.NORMAL, b"x"),), 3)
REFUSED = {
    "a type that does not travel": Message(M.HUP, 1, 2, 9),
    "a type that nobody knows": replace(good, type=99),  # type: ignore[arg-type]
    "another receiver": replace(good, to=3),
    "no sender": replace(good, sender=0),
    "ourselves": replace(good, sender=1),
    "our storage": Message(M.STORAGE_APPEND_RESP, 1, LOCAL_APPEND, 2, 2, 3),
    "a sender beyond the range": replace(good, sender=RAFT_NUMBER_MAX + 1),
    "a term beyond the range": replace(good, term=RAFT_NUMBER_MAX + 1),
    "an index beyond the range": replace(good, index=RAFT_NUMBER_MAX + 1, entries=()),
    "an entry beyond the range": replace(
        good, index=RAFT_NUMBER_MAX, entries=(Entry(9, RAFT_NUMBER_MAX + 1, EntryType.NORMAL, b""),)
    ),
    "a commit beyond the range": replace(good, commit=RAFT_NUMBER_MAX + 1),
    "a negative number": replace(good, commit=-1),
    "a negative hint": Message(M.APP_RESP, 1, 2, 9, reject=True, reject_hint=-1),
    "an append without a term": replace(good, term=0),
    "a heartbeat without a term": Message(M.HEARTBEAT, 1, 2),
    "an answer without a term": Message(M.APP_RESP, 1, 2, index=3),
    "a proposal with a term": Message(M.PROP, 1, 2, 9, entries=(Entry(0, 0, EntryType.NORMAL, b""),)),
    "a gap before the entries": replace(good, entries=tuple(entries(9, first=5))),
    "a gap between the entries": replace(good, entries=(*good.entries, *entries(9, first=6))),
    "entries in the wrong order": replace(good, entries=tuple(reversed(entries(9, 9, first=4)))),
    "entries with falling terms": replace(good, entries=tuple(entries(9, 8, first=4))),
    "entries older than the one before them": replace(good, entries=tuple(entries(1, first=4))),
    "entries newer than their message": replace(good, entries=tuple(entries(10, first=4))),
    "entries without a term": replace(good, index=0, log_term=0, entries=tuple(entries(0))),
    "an entry before it that is newer": replace(good, log_term=10, entries=()),
    "an index without a term": replace(good, log_term=0, entries=()),
    "a term without an index": replace(good, index=0, entries=()),
    "too many entries": replace(good, entries=tuple(entries(*[9] * (RAFT_ENTRIES_MAX + 1), first=4))),
    "an empty proposal": Message(M.PROP, 1, 2),
    "a proposal that says where it goes": Message(M.PROP, 1, 2, entries=tuple(entries(1))),
    "a proposal of no known type": Message(M.PROP, 1, 2, entries=(Entry(0, 0, 77, b""),)),
    "a read without a context": Message(M.READ_INDEX, 1, 2),
    "a snapshot without one": Message(M.SNAP, 1, 2, 9),
    "a snapshot of nothing": Message(M.SNAP, 1, 2, 9, snapshot=Snapshot(0, 0, ConfState((1, 2, 3)))),
    "a snapshot newer than its message": Message(M.SNAP, 1, 2, 9, snapshot=Snapshot(9, 10, ConfState((1, 2, 3)))),
    "a vote for a log of the future": Message(M.VOTE, 1, 2, 9, 10, 3),
    "a vote of a stranger": Message(M.VOTE_RESP, 1, 7, 9),
    "an acknowledgement of a stranger": Message(M.APP_RESP, 1, 7, 2, index=3),
}


@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_peer_may_send_is_refused_and_changes_nothing(state: StateType, name: str) -> None:
    one = in_state(state)
    before = image(one)
    with pytest.raises(RemoteError):
        one.node.step(REFUSED[name])
    assert image(one) == before
    assert not one.node.has_ready()


@pytest.mark.parametrize("kind", sorted(LOCAL_TYPES))
def test_messages_of_a_node_to_itself_do_not_come_from_outside(kind: MessageType) -> None:
    for sender in (1, 2, LOCAL_APPEND):
        with pytest.raises(RemoteError):
            in_state(StateType.FOLLOWER).node.step(Message(kind, 1, sender, 2))


def test_a_leader_that_contradicts_what_is_committed_is_refused() -> None:
    one = in_state(StateType.FOLLOWER)
    with pytest.raises(RemoteError, match="node 2: raft: entry 2 of term 2 contradicts what is committed up to 2"):
        one.node.step(Message(M.SNAP, 1, 2, 2, snapshot=Snapshot(1, 1, ConfState((1, 2, 3)))))
        one.node.raft.log.maybe_append(1, 1, tuple(entries(2, first=2)), 2, who="node 2")
    assert one.log == [1, 1, 2]


def test_a_heartbeat_that_commits_beyond_the_log_is_refused() -> None:
    """The leader says that this node acknowledged what it does not have: its disk has lost something."""
    one = in_state(StateType.FOLLOWER)
    with pytest.raises(RemoteError, match="it has lost what it stored"):
        one.node.step(Message(M.HEARTBEAT, 1, 2, 2, commit=4))
    assert one.node.basic_status().commit == 2


def test_an_acknowledgement_beyond_the_log_is_refused() -> None:
    one = in_state(StateType.LEADER)
    with pytest.raises(RemoteError, match="acknowledges 99, the log ends at 4"):
        one.node.step(Message(M.APP_RESP, 1, 2, 3, index=99))
    assert one.node.status().progress[2].match == 0


def test_a_second_leader_of_the_term_is_not_listened_to() -> None:
    one = in_state(StateType.LEADER)
    before = one.log
    for message in (
        Message(M.APP, 1, 2, 3, 1, 1, tuple(entries(3, first=2))),
        Message(M.HEARTBEAT, 1, 2, 3, commit=1),
        Message(M.SNAP, 1, 2, 3, snapshot=Snapshot(9, 3, ConfState((1, 2, 3)))),
        Message(M.TIMEOUT_NOW, 1, 2, 3),
    ):
        assert one.hear(message) == []
    assert (one.log, one.node.basic_status().state) == (before, StateType.LEADER)


def test_a_proposal_with_a_change_that_does_not_read_is_refused() -> None:
    one = in_state(StateType.LEADER)
    for kind in (EntryType.CONF_CHANGE, EntryType.CONF_CHANGE_V2):
        with pytest.raises(RemoteError, match="node 2"):
            one.node.step(Message(M.PROP, 1, 2, entries=(Entry(0, 0, kind, b"\xff"),)))
    assert one.log == [1, 1, 2, 3]


def test_a_committed_change_that_cannot_be_made_changes_nothing() -> None:
    """A leader of ours would not have proposed it; every node decides alike."""
    from edgeswarm.core.raft.change import ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2

    remove = ConfChangeType.REMOVE_NODE
    one = in_state(StateType.FOLLOWER)
    for change in (ConfChangeV2(tuple(ConfChangeSingle(remove, n) for n in (1, 2, 3))), ConfChangeV2()):
        assert one.node.apply_conf_change(change) == ConfState((1, 2, 3))
    assert one.node.apply_conf_change(ConfChange(remove, 3)) == ConfState((1, 2))


# --- strangers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES, ids=str)
def test_strangers_leave_nothing_behind(state: StateType) -> None:
    """Thousands of senders that are no members, with everything that they may send."""
    one = in_state(state)
    for stranger in range(100, 1100):
        for message in (
            Message(M.VOTE_RESP, 1, stranger, 3),
            Message(M.PRE_VOTE_RESP, 1, stranger, 3),
            Message(M.APP_RESP, 1, stranger, 3, index=3),
            Message(M.HEARTBEAT_RESP, 1, stranger, 3, context=b"x"),
            Message(M.READ_INDEX_RESP, 1, stranger, 3, index=3, entries=(Entry(0, 0, EntryType.NORMAL, b"x"),)),
            Message(M.TRANSFER_LEADER, 1, stranger, one.node.basic_status().term),
        ):
            try:
                one.hear(message)
            except RemoteError:
                pass
    raft = one.node.raft
    assert set(raft.tracker.progress) == {1, 2, 3}
    assert set(raft.tracker.votes) <= {1, 2, 3}
    assert (raft.msgs, raft.msgs_after_append, raft.read_states, raft.lead_transferee) == ([], [], [], 0)


def test_reads_of_a_flood_are_bounded() -> None:
    from edgeswarm.limits import RAFT_READS_MAX

    for committed in (False, True):
        one = in_state(StateType.LEADER)
        if committed:
            one.hear(Message(M.APP_RESP, 1, 2, 3, index=4))
        for n in range(RAFT_READS_MAX + 50):
            read = Message(M.READ_INDEX, 1, 2, entries=(Entry(0, 0, EntryType.NORMAL, b"%d" % n),))
            if n < RAFT_READS_MAX:
                one.hear(read)
            else:
                with pytest.raises(RemoteError):
                    one.node.step(read)
        assert len(one.node.raft.reads.open) + len(one.node.raft.reads.waiting) == RAFT_READS_MAX


# --- anything at all ------------------------------------------------------------------------------------------------

small = st.integers(0, 6)
anything = st.builds(
    Message,
    type=st.sampled_from(MessageType),
    to=st.just(1) | small,
    sender=st.integers(1, 4) | small,
    term=small,
    log_term=small,
    index=small,
    entries=st.lists(
        st.builds(Entry, small, small, st.sampled_from(EntryType), st.sampled_from([b"", b"x", b"\x83\x00\x02\x40"])),
        max_size=3,
    ).map(tuple)
    | st.builds(lambda terms, first: tuple(entries(*sorted(terms), first=first)), st.lists(small, max_size=3), small),
    commit=small,
    snapshot=st.none()
    | st.builds(
        Snapshot, small, small, st.sampled_from([ConfState((1, 2, 3)), ConfState((1,), (), (2,)), ConfState()])
    ),
    reject=st.booleans(),
    reject_hint=small,
    context=st.sampled_from([b"", b"x", b"CampaignTransfer"]),
)


@given(st.sampled_from(STATES), st.lists(anything, max_size=25), st.booleans())
@settings(max_examples=300, deadline=None)
def test_anything_at_all_is_refused_or_survived(state: StateType, story: list[Message], guarded: bool) -> None:
    """What was committed and applied stays, terms do not fall, nobody is voted for twice in a term."""
    one = in_state(state, check_quorum=guarded, batch_appends=guarded)
    votes: dict[int, int] = {}
    for message in story:
        before = one.node.basic_status()
        applied = list(one.applied)
        try:
            one.node.step(message)
        except RemoteError:
            pass
        one.turn()
        after = one.node.basic_status()
        assert after.term >= before.term and after.commit >= before.commit
        assert one.applied[: len(applied)] == applied
        if after.vote:
            assert votes.setdefault(after.term, after.vote) == after.vote
        one.tick()


@given(st.lists(st.tuples(st.integers(0, 2), anything), max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_cell_survives_a_forger_that_is_no_voter(story: list[tuple[int, Message]]) -> None:
    """Messages in the name of nodes that are not members do nobody harm: the cell goes on to commit."""
    net = Net(3, check_quorum=True, pre_vote=True)
    net.elect(1)
    for ticks, message in story:
        for number in net.nodes:
            forged = replace(message, to=number, sender=9)
            if forged.type in (M.APP, M.HEARTBEAT, M.SNAP, M.VOTE, M.TIMEOUT_NOW, M.PROP) or forged.type in LOCAL_TYPES:
                continue  # in its own name a stranger could claim a term: only envelopes keep it out
            try:
                net.nodes[number].step(forged)
            except RemoteError:
                pass
        net.tick(ticks)
    net.propose(1, b"still there")
    assert net.data(3) == [b"still there"]
