"""A few nodes of the Raft core with a network between them that a test holds in its hands.

`Net` follows the loop of the manual (edgeswarm/core/raft/__init__.py), one Ready at a time; messages wait in `wire`
until they are delivered, held back or lost.  `lone()` is one node with a log of given terms, to which a test speaks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from edgeswarm.core.raft.confchange import AnyConfChange, decode_entry
from edgeswarm.core.raft.config import Config, StateType
from edgeswarm.core.raft.rawnode import RawNode, Ready
from edgeswarm.core.raft.storage import MemoryStorage
from edgeswarm.errors import RemoteError
from edgeswarm.wire.raft import ConfState, Entry, EntryType, HardState, Message, MessageType, decode, encode

ROUNDS_MAX = 10_000


def entries(*terms: int, first: int = 1) -> list[Entry]:
    """Entries with these terms, from index `first`; the data says term and index."""
    return [Entry(t, i, EntryType.NORMAL, b"%d/%d" % (t, i)) for i, t in enumerate(terms, first)]


def make(number: int, storage: MemoryStorage, *, seed: int = 0, applied: int = 0, **settings: object) -> RawNode:
    """A node on `storage`; without leases and pre-votes unless `settings` (of Config) say so: the paper's own Raft."""
    chosen: dict[str, object] = {"check_quorum": False, "pre_vote": False, **settings}
    return RawNode(
        Config(id=number, storage=storage, rng=random.Random(seed or number), applied=applied, **chosen)  # type: ignore[arg-type]
    )


class Lone:
    """One node that a test talks to: what it is told goes in, what it says comes out."""

    def __init__(self, node: RawNode, storage: MemoryStorage) -> None:
        self.node = node
        self.storage = storage
        self.applied: list[Entry] = []

    def turn(self) -> list[Message]:
        """Does everything the node has to do; returns what it sent."""
        sent: list[Message] = []
        while self.node.has_ready():
            sent += self.ready().messages
        return sent

    def ready(self) -> Ready:
        """Does one Ready."""
        ready = self.node.ready()
        save(self.storage, ready)
        self.applied += ready.committed_entries
        for entry in ready.committed_entries:
            if entry.type != EntryType.NORMAL:
                self.node.apply_conf_change(decode_entry(entry.type, entry.data))
        self.node.advance()
        return ready

    def hear(self, *messages: Message) -> list[Message]:
        """Steps messages, then turn()."""
        for message in messages:
            self.node.step(message)
        return self.turn()

    def tick(self, ticks: int = 1) -> list[Message]:
        """Lets time pass, then turn()."""
        for _ in range(ticks):
            self.node.tick()
        return self.turn()

    @property
    def log(self) -> list[int]:
        """Terms of the entries in the log, from its first index."""
        log = self.node.raft.log
        return [entry.term for entry in log.entries_from(log.first_index())]

    def campaign(self, *voters: int) -> list[Message]:
        """Campaigns and gets these votes; returns what it sent after them."""
        self.node.campaign()
        self.turn()
        if self.node.basic_status().state is StateType.PRE_CANDIDATE:
            asked = self.node.basic_status().term + 1
            self.hear(*(Message(MessageType.PRE_VOTE_RESP, 1, voter, asked) for voter in voters))
        term = self.node.basic_status().term
        return self.hear(*(Message(MessageType.VOTE_RESP, 1, voter, term) for voter in voters))


def lone(
    terms: Sequence[int] = (),
    *,
    voters: Iterable[int] = (1, 2, 3),
    learners: Iterable[int] = (),
    hard: HardState | None = None,
    number: int = 1,
    **settings: object,
) -> Lone:
    """Node 1 of `voters`, with a log of these terms; its term is the last one's unless `hard` says more."""
    storage = MemoryStorage(ConfState(tuple(voters), (), tuple(learners)))
    storage.append(entries(*terms))
    storage.set_hard_state(hard or HardState(terms[-1] if terms else 0, 0, 0))
    return Lone(make(number, storage, **settings), storage)


def save(storage: MemoryStorage, ready: Ready) -> None:
    """Stores what a Ready says."""
    if ready.snapshot is not None:
        storage.apply_snapshot(ready.snapshot)
    storage.append(ready.entries)
    if ready.hard_state is not None:
        storage.set_hard_state(ready.hard_state)


class Net:
    """Nodes 1 .. count and the messages between them.

    lost(message) -> True loses it on its way.  applied[number]: every entry that the node applied, in order.
    confs[number]: what its changes of members led to.
    leaders[term]: who led in it; two of them are an error at once.
    """

    def __init__(
        self,
        count: int = 3,
        *,
        voters: Iterable[int] | None = None,
        learners: Iterable[int] = (),
        terms: dict[int, Sequence[int]] | None = None,
        seed: int = 0,
        **settings: object,
    ) -> None:
        self.seed = seed * 1000
        self.make_snapshots = True
        self.settings = settings
        self.conf = ConfState(tuple(voters or range(1, count + 1)), (), tuple(learners))
        self.wire: list[Message] = []
        self.lost: Callable[[Message], bool] = lambda _: False
        self.nodes: dict[int, RawNode] = {}
        self.storages: dict[int, MemoryStorage] = {}
        self.applied: dict[int, list[Entry]] = {}
        self.leaders: dict[int, int] = {}
        self.confs: dict[int, list[ConfState]] = {}
        for number in range(1, count + 1):
            self.add(number, (terms or {}).get(number, ()))

    def add(self, number: int, terms: Sequence[int] = (), conf: ConfState | None = None) -> None:
        """A node with a log of these terms."""
        storage = MemoryStorage(self.conf if conf is None else conf)
        storage.append(entries(*terms))
        storage.set_hard_state(HardState(terms[-1] if terms else 0, 0, 0))
        self.storages[number] = storage
        self.applied[number] = []
        self.confs[number] = []
        self.nodes[number] = make(number, storage, seed=self.seed + number, **self.settings)

    # --- what happens -----------------------------------------------------------------------------------------------

    def turn(self, number: int) -> None:
        """Does what the node has to do; its messages go on the wire."""
        node = self.nodes.get(number)
        while node is not None and node.has_ready():
            ready = node.ready()
            now, later = ready.split()
            self.wire += now
            save(self.storages[number], ready)
            self.wire += later
            if ready.snapshot is not None:
                self.applied[number] = [
                    Entry(ready.snapshot.term, ready.snapshot.index, EntryType.NORMAL, ready.snapshot.data)
                ]
            for entry in ready.committed_entries:
                self.applied[number].append(entry)
                if entry.type != EntryType.NORMAL:
                    self.confs[number].append(node.apply_conf_change(decode_entry(entry.type, entry.data)))
            node.advance()
            if ready.snapshot_wanted and self.make_snapshots and self.applied[number]:
                self.snapshot(number)
            self.note_leader(number)

    def note_leader(self, number: int) -> None:
        """Election safety, Raft paper 5.2."""
        status = self.nodes[number].basic_status()
        if status.state is StateType.LEADER:
            assert self.leaders.setdefault(status.term, number) == number, f"two leaders in term {status.term}"

    def deliver(self, message: Message) -> None:
        """One message arrives, as bytes; what a node refuses is dropped."""
        node = self.nodes.get(message.to)
        if node is None or self.lost(message):
            return
        try:
            node.step(decode(encode(message)))
        except RemoteError:
            return
        finally:
            self.note_leader(message.to)

    def settle(self) -> None:
        """Turns and deliveries until nobody has anything to say."""
        for _ in range(ROUNDS_MAX):
            for number in list(self.nodes):
                self.turn(number)
            if not self.wire:
                return
            wire, self.wire = self.wire, []
            for message in wire:
                self.deliver(message)
        raise AssertionError("the nodes answer each other for ever")

    def tick(self, ticks: int = 1, *, only: Iterable[int] | None = None) -> None:
        """Time passes at all nodes, or at some; everything settles after each tick."""
        for _ in range(ticks):
            for number in list(only if only is not None else self.nodes):
                self.nodes[number].tick()
            self.settle()

    def elect(self, number: int) -> None:
        """The node campaigns and wins."""
        self.nodes[number].campaign()
        self.settle()
        assert self.state(number) is StateType.LEADER

    def propose(self, number: int, *data: bytes) -> None:
        """Proposals at a node, then everything settles."""
        for one in data:
            self.nodes[number].propose(one)
        self.settle()

    def change(self, number: int, change: AnyConfChange) -> None:
        """A change of members is proposed at a node, then everything settles."""
        self.nodes[number].propose_conf_change(change)
        self.settle()

    def cut(self, *numbers: int) -> None:
        """From now on nothing passes between these nodes and the others."""
        apart = set(numbers)
        self.lost = lambda message: (message.to in apart) != (message.sender in apart)

    def heal(self) -> None:
        """Everything passes again."""
        self.lost = lambda _: False

    def snapshot(self, number: int, *, compact: bool = False) -> None:
        """The node keeps a snapshot of all that it has applied, and drops its log up to there if asked to."""
        raft, last = self.nodes[number].raft, self.applied[number][-1]
        data = b" ".join(self.data(number))
        if last.index <= self.storages[number].snapshot_.index:
            return
        self.storages[number].create_snapshot(last.index, raft.tracker.conf_state(), data)
        if compact:
            self.storages[number].compact(last.index)

    def crash(self, number: int) -> None:
        """The node is gone; what it stored stays."""
        self.wire = [m for m in self.wire if m.to != number]
        del self.nodes[number]

    def restart(self, number: int) -> None:
        """The node comes back with what it stored; its state machine starts from the snapshot, or the beginning."""
        index, term, _, data = self.storages[number].snapshot_
        self.applied[number] = [Entry(term, index, EntryType.NORMAL, data)] if index else []
        self.nodes[number] = make(
            number, self.storages[number], seed=self.seed + number + 100, applied=index, **self.settings
        )

    # --- what is ----------------------------------------------------------------------------------------------------

    def state(self, number: int) -> StateType:
        """What the node is."""
        return self.nodes[number].basic_status().state

    def commit(self, number: int) -> int:
        """Its commit index."""
        return self.nodes[number].basic_status().commit

    def term(self, number: int) -> int:
        """Its term."""
        return self.nodes[number].basic_status().term

    def log(self, number: int) -> list[Entry]:
        """Its log, from the first index."""
        log = self.nodes[number].raft.log
        return log.entries_from(log.first_index())

    def data(self, number: int) -> list[bytes]:
        """Data of the normal entries that the node applied, without empty ones; a snapshot's all in one."""
        return [entry.data for entry in self.applied[number] if entry.data and entry.type == EntryType.NORMAL]
