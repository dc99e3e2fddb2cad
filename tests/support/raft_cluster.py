"""Nodes of the Raft core on one thread, driven step by step: the world in which transcripts play.

Every node has a storage, a state machine that appends what is committed, and with asynchronous writes two queues of
work for its storage threads.  Messages on their way stay in order until they are delivered or dropped.  What happens is
written to `out`, a line at a time, in the form of etcd raft's transcripts, but for the log lines of the core.
Nothing is left to chance: the randomised election timeout is a node's own, from a seeded generator.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from raft_describe import describe_entries, describe_message, describe_ready

from edgeswarm.core.raft.confchange import decode_entry
from edgeswarm.core.raft.config import Config, PeerNotFoundError, ProposalDroppedError
from edgeswarm.core.raft.rawnode import RawNode
from edgeswarm.core.raft.storage import CompactedError, MemoryStorage, UnavailableError
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire.raft import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    LOCAL_TYPES,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
    decode,
    encode,
)

LARGE = (1 << 62) - 1  # bytes: no bound
ROUNDS_MAX = 10_000  # of stabilize: beyond this, nodes answer each other for ever
_LOCAL_TARGETS = (LOCAL_APPEND, LOCAL_APPLY)
_ERROR_TEXTS: tuple[tuple[type[EdgeSwarmError], str], ...] = (
    (ProposalDroppedError, "raft proposal dropped"),
    (PeerNotFoundError, "raft: cannot step as peer not found"),
    (CompactedError, "requested index is unavailable due to compaction"),
    (UnavailableError, "requested entry at index is unavailable"),
)


class ClusterError(Exception):
    """A command asks for what this cluster cannot do."""


def error_text(error: EdgeSwarmError) -> str:
    """The words that transcripts have for an error of the core."""
    return next((text for kind, text in _ERROR_TEXTS if isinstance(error, kind)), str(error))


class HistoryStorage(MemoryStorage):
    """A storage whose snapshot is always the newest state of the state machine."""

    __slots__ = ("history",)

    def __init__(self, history: list[Snapshot]) -> None:
        super().__init__()
        self.history = history

    def snapshot(self) -> Snapshot:
        """The state after the last entry that was applied."""
        return self.history[-1]


@dataclass(slots=True)
class Node:
    """One node with what is around it.  history: a snapshot for every index that was applied."""

    number: int
    raw: RawNode
    config: Config
    storage: HistoryStorage
    history: list[Snapshot]
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[Message] = field(default_factory=list)

    def save(self, state: HardState | None, entries: Iterable[Entry], snapshot: Snapshot | None) -> None:
        """What a Ready says to persist."""
        if state is not None and state != HardState():
            self.storage.set_hard_state(state)
        entries = list(entries)
        if snapshot is not None and snapshot.index:
            if entries:
                raise ClusterError("can't apply snapshot and entries at the same time")
            self.storage.apply_snapshot(snapshot)
            self.history.append(snapshot)
            return
        self.storage.append(entries)

    def apply(self, entries: Iterable[Entry]) -> None:
        """Appends the data of each entry to the state; changes of members go to the core as well."""
        for entry in entries:
            last = self.history[-1]
            conf, update = last.conf, entry.data
            if entry.type != EntryType.NORMAL:
                change = decode_entry(entry.type, entry.data)
                conf, update = self.raw.apply_conf_change(change), change.context
            self.history.append(Snapshot(entry.index, entry.term, conf, last.data + update))


class Cluster:
    """The nodes, and the messages on their way.  Nodes are numbered from 1 as they are added.

    quiet: nothing is written to `out`, but for errors.
    """

    def __init__(self, *, through_bytes: bool = False) -> None:
        self.through_bytes = through_bytes
        self.nodes: list[Node] = []
        self.messages: list[Message] = []
        self.out: list[str] = []
        self.quiet = False
        self._indent = ""

    # --- output -----------------------------------------------------------------------------------------------------

    def write(self, *lines: str) -> None:
        """Lines of output."""
        if not self.quiet:
            self.out += [self._indent + line for line in lines]

    @contextmanager
    def indented(self) -> Iterator[None]:
        """Lines written inside stand two columns to the right."""
        before, self._indent = self._indent, self._indent + "  "
        try:
            yield
        finally:
            self._indent = before

    # --- nodes ------------------------------------------------------------------------------------------------------

    def node(self, number: int) -> Node:
        """Raises ClusterError where there is none."""
        if not 1 <= number <= len(self.nodes):
            raise ClusterError(f"there is no node {number}, found {len(self.nodes)} nodes")
        return self.nodes[number - 1]

    def some(self, numbers: Iterable[int]) -> list[Node]:
        """Nodes by number, or all of them where no number is given."""
        return [self.node(number) for number in numbers] or self.nodes

    def add_nodes(self, count: int, snapshot: Snapshot | None, options: dict[str, object]) -> None:
        """snapshot: what they start from, None for nothing at all.  options: of Config."""
        for _ in range(count):
            number = len(self.nodes) + 1
            history = [snapshot or Snapshot()]
            storage = HistoryStorage(history)
            if snapshot is not None:
                if snapshot.index <= 1:
                    raise ClusterError("index must be specified as > 1 due to bootstrap")
                storage.apply_snapshot(snapshot)
            settings: dict[str, object] = {
                "election_ticks": 3,
                "heartbeat_ticks": 1,
                "applied": snapshot.index if snapshot is not None else 0,
                "max_size_per_msg": LARGE,
                "max_inflight_msgs": (1 << 31) - 1,
                "max_uncommitted_bytes": LARGE,
                "max_committed_bytes": LARGE,
                "check_quorum": False,
                "pre_vote": False,
                **options,
            }
            config = Config(id=number, storage=storage, rng=random.Random(number), **settings)  # type: ignore[arg-type]
            self.nodes.append(Node(number, RawNode(config), config, storage, history))

    def compact(self, number: int, index: int) -> None:
        """Drops the node's entries up to `index`, and writes what is left."""
        self.node(number).storage.compact(index)
        self.write_log(number)

    def write_log(self, number: int) -> None:
        """The entries in the node's storage."""
        storage = self.node(number).storage
        first, last = storage.first_index(), storage.last_index()
        if last < first:
            self.write(f"log is empty: first index={first}, last index={last}")
        else:
            self.write(*describe_entries(storage.entries(first, last + 1, LARGE)))

    def write_states(self) -> None:
        """Term, leader and role of every node."""
        for node in self.nodes:
            status = node.raw.status()
            voter = "Voter" if status.config.is_voter(node.number) else "Non-Voter"
            self.write(f"{node.number}: {status.state} ({voter}) Term:{status.term} Lead:{status.lead}")

    def write_status(self, number: int) -> None:
        """What a leader knows of its members; nothing for others."""
        progress = self.node(number).raw.status().progress
        self.write(*(f"{id_}: {progress[id_]}" for id_ in sorted(progress)))

    def send_snapshot(self, sender: int, to: int) -> None:
        """A snapshot nobody asked for."""
        node = self.node(sender)
        message = Message(
            MessageType.SNAP, to=to, sender=sender, term=node.raw.status().term, snapshot=node.storage.snapshot()
        )
        self.messages.append(message)
        self.write(*describe_message(message))

    # --- work -------------------------------------------------------------------------------------------------------

    def process_ready(self, node: Node) -> None:
        """Does what the node's Ready says: persist, apply, send."""
        ready = node.raw.ready()
        self.write(*describe_ready(ready))
        if not node.config.async_storage_writes:
            node.save(ready.hard_state, ready.entries, ready.snapshot)
            node.apply(ready.committed_entries)
        for message in ready.messages:
            if message.to == LOCAL_APPEND:
                node.append_work.append(message)
            elif message.to == LOCAL_APPLY:
                node.apply_work.append(message)
            else:
                self.messages.append(message)
        if not node.config.async_storage_writes:
            node.raw.advance()

    def process_append_thread(self, node: Node) -> None:
        """One piece of work: persist, then answer."""
        if not node.append_work:
            self.write("no append work to perform")
            return
        work = node.append_work.pop(0)
        responses, work.responses = work.responses, ()
        self.write("Processing:", *describe_message(work))
        node.save(HardState(work.term, work.vote, work.commit), work.entries, work.snapshot)
        self._respond(responses)

    def process_apply_thread(self, node: Node) -> None:
        """One piece of work: apply, then answer."""
        if not node.apply_work:
            self.write("no apply work to perform")
            return
        work = node.apply_work.pop(0)
        responses, work.responses = work.responses, ()
        self.write("Processing:", *describe_message(work))
        node.apply(work.entries)
        self._respond(responses)

    def _respond(self, responses: Iterable[Message]) -> None:
        self.write("Responses:")
        for response in responses:
            self.write(*describe_message(response))
            self.messages.append(response)

    def on_each(self, nodes: list[Node], what: str, work: Callable[[Node], None]) -> None:
        """`work` on every node, each under its own title if there are several."""
        for node in nodes:
            if len(nodes) == 1:
                work(node)
                continue
            self.write(f"> {node.number} {what}")
            with self.indented():
                work(node)

    def deliver(self, to: int, *, type_: MessageType | None = None, drop: bool = False) -> int:
        """Delivers or drops what is on its way to `to`; returns how many messages.

        What a node says to itself is never dropped: no network is between.
        """
        chosen = [one for one in self.messages if self._is_for(one, to, type_, drop)]
        self.messages = [one for one in self.messages if not self._is_for(one, to, type_, drop)]
        for one in chosen:
            message = one
            lines = describe_message(message)
            if drop:
                self.write(f"dropped: {lines[0]}", *lines[1:])
                continue
            self.write(*lines)
            if self.through_bytes and message.type not in LOCAL_TYPES:
                message = decode(encode(message))
            try:
                self.node(to).raw.step(message)
            except EdgeSwarmError as error:
                self.write(error_text(error))
        return len(chosen)

    def _is_for(self, message: Message, to: int, type_: MessageType | None, drop: bool) -> bool:
        local = message.sender == message.to or message.sender in _LOCAL_TARGETS or message.to in _LOCAL_TARGETS
        return message.to == to and not (drop and local) and type_ in (None, message.type)

    def stabilize(self, nodes: list[Node]) -> None:
        """Readies, then messages, then storage threads of these nodes, until there is nothing left to do."""
        steps: tuple[tuple[str, Callable[[Node], bool], Callable[[Node], object]], ...] = (
            ("handling Ready", lambda node: node.raw.has_ready(), self.process_ready),
            (
                "receiving messages",
                lambda node: any(one.to == node.number for one in self.messages),
                lambda node: self.deliver(node.number),
            ),
            (
                "processing append thread",
                lambda node: bool(node.append_work),
                lambda node: self._all_work(node, node.append_work, self.process_append_thread),
            ),
            (
                "processing apply thread",
                lambda node: bool(node.apply_work),
                lambda node: self._all_work(node, node.apply_work, self.process_apply_thread),
            ),
        )
        for _ in range(ROUNDS_MAX):
            idle = True
            for title, has_work, work in steps:
                for node in nodes:
                    if has_work(node):
                        idle = False
                        self.write(f"> {node.number} {title}")
                        with self.indented():
                            work(node)
            if idle:
                return
        raise ClusterError(f"not stable after {ROUNDS_MAX} rounds")

    def _all_work(self, node: Node, queue: list[Message], work: Callable[[Node], None]) -> None:
        while queue:
            work(node)

    def tick(self, number: int, ticks: int) -> None:
        """Time passes at one node."""
        for _ in range(ticks):
            self.node(number).raw.tick()


def snapshot_at(index: int, voters: tuple[int, ...], learners: tuple[int, ...], data: bytes) -> Snapshot | None:
    """What nodes start from: None if nothing is said of it."""
    if not (index or voters or learners or data):
        return None
    return Snapshot(index, 1, ConfState(voters=voters, learners=learners), data)
