"""What the simulator found and no number of seeds would surely find again, step by step."""

from __future__ import annotations

import random

import pytest

from edgeswarm.core.raft.change import ConfChangeSingle, ConfChangeType, ConfChangeV2, decode_entry
from edgeswarm.core.raft.config import Config
from edgeswarm.core.raft.rawnode import RawNode
from edgeswarm.core.raft.storage import MemoryStorage
from edgeswarm.wire.raft import ConfState, Entry, HardState, Message, MessageType, Snapshot

pytestmark = pytest.mark.sim


def follower(number: int, conf: ConfState) -> tuple[RawNode, MemoryStorage]:
    """A node whose log begins behind a snapshot of index 1, in term 1."""
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(1, 1, conf, b""))
    storage.set_hard_state(HardState(1, 0, 1))
    config = Config(id=number, storage=storage, rng=random.Random(1), applied=1, commit_by_vote=True)
    return RawNode(config), storage


def save(storage: MemoryStorage, node: RawNode) -> list[Entry]:
    """One Ready, stored and not yet applied; returns what is to be applied."""
    ready = node.ready()
    if ready.snapshot is not None:
        storage.apply_snapshot(ready.snapshot)
    storage.append(ready.entries)
    if ready.hard_state is not None:
        storage.set_hard_state(ready.hard_state)
    return ready.committed_entries


def test_snapshot_waits_until_a_committed_change_of_members_is_applied() -> None:
    """Plan any, seed 20543, 2026-11-21.

    A change (remove 3) is committed and in the driver's hands when a snapshot arrives from a time when 3 is back; had
    it been taken in at once, the driver would remove 3 from the newer configuration.
    """
    node, storage = follower(2, ConfState(voters=(1, 2, 3)))
    remove = ConfChangeV2((ConfChangeSingle(ConfChangeType.REMOVE_NODE, 3),))
    kind, data = remove.entry()
    node.step(Message(MessageType.APP, 2, 1, 1, 1, 1, (Entry(1, 2, kind, data),), 2))
    out = save(storage, node)
    assert [entry.index for entry in out] == [2]

    later = ConfState(voters=(1, 2, 3), learners=(4,))
    snapshot = Message(MessageType.SNAP, 2, 1, 1, snapshot=Snapshot(9, 1, later, b"state"))
    node.step(snapshot)
    assert node.apply_conf_change(decode_entry(out[0].type, out[0].data)) == ConfState(voters=(1, 2))
    node.advance()
    assert node.basic_status().commit == 2

    node.step(snapshot)
    assert save(storage, node) == []
    node.advance()
    assert node.basic_status().commit == 9
    assert node.status().config.voters() == (1, 2, 3)


def test_refused_vote_tells_a_commit_index_that_was_forgotten() -> None:
    """Plan any, seed 1660, 2026-11-21.

    1 was demoted and knows it, 2 votes alone and has forgotten that this was committed; the log of 1 is longer.
    """
    both = ConfState(voters=(1, 2))
    kind, data = ConfChangeV2((ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 1),)).entry()
    change, more = Entry(1, 2, kind, data), Entry(1, 3, 0, b"more")
    demoted, its_disk = follower(1, both)
    demoted.step(Message(MessageType.APP, 1, 2, 1, 1, 1, (change, more), 2))
    for entry in save(its_disk, demoted):
        demoted.apply_conf_change(decode_entry(entry.type, entry.data))
    demoted.advance()

    alone, disk = follower(2, both)
    alone.step(Message(MessageType.APP, 2, 1, 1, 1, 1, (change,), 1))
    save(disk, alone)
    alone.advance()

    for _ in range(100):
        for node, storage, peer in ((alone, disk, demoted), (demoted, its_disk, alone)):
            node.tick()
            while node.has_ready():
                ready = node.ready()
                storage.append(ready.entries)
                for entry in ready.committed_entries:
                    if entry.type:
                        node.apply_conf_change(decode_entry(entry.type, entry.data))
                node.advance()
                for message in ready.messages:
                    peer.step(message)
    assert alone.basic_status().lead == 2
    assert alone.status().config.voters() == (2,)
