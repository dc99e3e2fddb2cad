"""Cells whose storage threads answer when they like: the same promises, and the same log as with advance()."""

from __future__ import annotations

import random

import pytest
from raft_nodes import make, save

from edgeswarm.core.raft.config import StateType
from edgeswarm.core.raft.rawnode import RawNode, Ready
from edgeswarm.core.raft.storage import MemoryStorage
from edgeswarm.errors import RemoteError
from edgeswarm.wire.raft import LOCAL_APPEND, LOCAL_APPLY, ConfState, Entry, HardState, Message, MessageType, Snapshot


class Cell:
    """Three nodes with two storage threads each; `step` lets one thing happen somewhere."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.storages = {n: MemoryStorage(ConfState((1, 2, 3))) for n in (1, 2, 3)}
        self.nodes: dict[int, RawNode] = {
            n: make(
                n, storage, seed=seed * 10 + n, async_storage_writes=True, check_quorum=True, pre_vote=seed % 2 == 0
            )
            for n, storage in self.storages.items()
        }
        self.append: dict[int, list[Message]] = {n: [] for n in self.nodes}
        self.apply: dict[int, list[Message]] = {n: [] for n in self.nodes}
        self.applied: dict[int, list[Entry]] = {n: [] for n in self.nodes}
        self.wire: list[Message] = []
        self.leaders: dict[int, int] = {}

    def step(self) -> None:
        number = self.rng.choice((1, 2, 3))
        node = self.nodes[number]
        self.rng.choice((self.ready, self.ready, self.write, self.write, self.do_apply, self.deliver, self.deliver))(
            number
        )
        if self.rng.random() < 0.15:
            node.tick()
        status = node.basic_status()
        if status.state is StateType.LEADER:
            assert self.leaders.setdefault(status.term, number) == number
            if self.rng.random() < 0.2:
                node.propose(b"%d" % self.rng.randrange(1000))

    def ready(self, number: int) -> None:
        if not self.nodes[number].has_ready():
            return
        for message in self.nodes[number].ready().messages:
            queue = {LOCAL_APPEND: self.append[number], LOCAL_APPLY: self.apply[number]}.get(message.to, self.wire)
            queue.append(message)

    def write(self, number: int) -> None:
        if not self.append[number]:
            return
        work = self.append[number].pop(0)
        hard = HardState(work.term, work.vote, work.commit)
        save(self.storages[number], Ready(None, hard if work.term else None, list(work.entries), work.snapshot))
        self.respond(number, work)

    def do_apply(self, number: int) -> None:
        if self.apply[number]:
            work = self.apply[number].pop(0)
            self.applied[number] += work.entries
            self.respond(number, work)

    def respond(self, number: int, work: Message) -> None:
        for message in work.responses:
            if message.to == number:
                self.hear(message)
            else:
                self.wire.append(message)

    def deliver(self, _: int) -> None:
        if self.wire:
            message = self.wire.pop(self.rng.randrange(min(len(self.wire), 8)))
            if self.rng.random() > 0.05:
                self.hear(message)

    def hear(self, message: Message) -> None:
        try:
            self.nodes[message.to].step(message)
        except RemoteError:
            pass


@pytest.mark.parametrize("seed", range(12))
def test_asynchronous_writes_keep_the_promises_at_any_pace(seed: int) -> None:
    cell = Cell(seed)
    for _ in range(3000):
        cell.step()
        for number, node in cell.nodes.items():
            raft = node.raft
            assert raft.log.applied <= len(cell.applied[number]) <= raft.log.applying <= raft.log.committed
            if cell.applied[number]:
                assert cell.applied[number][-1].index <= cell.storages[number].last_index()
    longest = max(cell.applied.values(), key=len)
    assert all(longest[: len(one)] == one for one in cell.applied.values())
    assert longest, "nothing was ever committed"


def test_a_snapshot_counts_also_when_the_term_has_changed_while_it_was_written() -> None:
    storage = MemoryStorage(ConfState((1, 2, 3)))
    node = make(1, storage, async_storage_writes=True)
    snapshot = Snapshot(6, 3, ConfState((1, 2, 3)), b"state")
    node.step(Message(MessageType.SNAP, 1, 2, 5, snapshot=snapshot))
    (work,) = node.ready().messages
    node.step(Message(MessageType.HEARTBEAT, 1, 3, 9))
    storage.apply_snapshot(snapshot)
    assert node.basic_status().applied == 0
    for message in work.responses:
        if message.to == 1:
            node.step(message)
    assert node.basic_status().applied == 6 and node.raft.log.snapshot is None
