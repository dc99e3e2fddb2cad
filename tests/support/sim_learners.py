"""Everybody who does not vote: hundreds of devices that follow the leader's feed, as app/swarm/feed.py has them do.

A learner applies entries of the leader that a certificate proves, in order; a gap is closed by asking that leader for
what is missing.  It keeps a digest instead of a state, and the checkers compare it with the voters' at every index.
The cost of a learner is one delivery a batch: what all of them are sent is opened once and remembered.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim_checkers import Violation
from sim_machine import Machine
from sim_node import FEED_TOPIC, LEADER_TOPIC, SimNode
from sim_world import MS

from edgeswarm.core.raft.config import StateType
from edgeswarm.core.raft.storage import CompactedError
from edgeswarm.errors import CodecError, CoseError, RemoteError
from edgeswarm.wire import envelope
from edgeswarm.wire import messages as msg
from edgeswarm.wire.leadership import LeaderCertificate, LeadershipError
from edgeswarm.wire.raft import Entry

if TYPE_CHECKING:
    from sim_cluster import Cluster

FIRST = 1_000  # client numbers of learners begin here
BEAT_US = 300 * MS
FETCH_ENTRIES = 64
_ASK = struct.Struct("<IQ")
_SNAPSHOT = struct.Struct("<QI")


def mailbox(learner: int) -> str:
    return f"learner/{learner}"


class Learner:
    """index, digest: what it has applied.  term, leader: of the highest certificate that it believed."""

    __slots__ = ("asked_us", "digest", "index", "leader", "learners", "number", "term")

    def __init__(self, learners: Learners, number: int) -> None:
        self.learners, self.number = learners, number
        self.index = self.digest = self.term = self.leader = 0
        self.asked_us = -10_000 * MS

    def heard(self, topic: str, data: bytes) -> None:
        opened = self.learners.open(topic, data)
        if isinstance(opened, LeaderCertificate):
            if opened.term > self.term:
                self.term, self.leader = opened.term, opened.candidate
        elif isinstance(opened, tuple):
            sender, feed = opened
            if sender == self.leader and feed.term == self.term:
                self.take(feed)
        elif isinstance(opened, bytes):
            self.restore(*_SNAPSHOT.unpack(opened))

    def take(self, feed: msg.Feed) -> None:
        index = feed.previous_index
        if index <= self.index:
            for entry in feed.entries:
                index += 1
                if index == self.index + 1:
                    self.asked_us = 0  # an answer, or no need of one
                    self.index = index
                    self.digest = Machine.digest_of(self.digest, entry.type, entry.data)
                    self.learners.applied(self)
        if feed.commit > self.index or feed.previous_index > self.index:
            self.ask()

    def restore(self, index: int, digest: int) -> None:
        if index > self.index:
            self.index, self.digest = index, digest
            self.learners.applied(self)

    def ask(self) -> None:
        now_us = self.learners.cluster.world.now_us
        if self.leader and now_us - self.asked_us > 200 * MS:
            self.asked_us = now_us
            self.learners.ask(self)


class Learners:
    """All of a cell's, and the leader's side of the feed."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self.cluster = cluster
        self._opened: dict[tuple[str, bytes], LeaderCertificate | tuple[int, msg.Feed] | bytes | None] = {}
        self.all = [Learner(self, FIRST + n) for n in range(count)]
        self.fetches = 0
        for learner in self.all:
            cluster.broker.connect(learner.number, learner.heard, [FEED_TOPIC, LEADER_TOPIC, mailbox(learner.number)])
        cluster.on_batch_hook = self.say
        cluster.on_ask_hook = self.serve
        cluster.world.after(BEAT_US, self._beat)

    # --- the leader's side ------------------------------------------------------------------------------------------

    def say(self, node: SimNode, entries: Sequence[Entry]) -> None:
        """The node has applied these entries: if it leads, it says so."""
        if node.raft.state is StateType.LEADER:
            previous = entries[0].index - 1 if entries else node.machine.index
            node.publish(FEED_TOPIC, self._feed(node, previous, entries))

    def _feed(self, node: SimNode, previous: int, entries: Sequence[Entry]) -> bytes:
        part = tuple(msg.FeedEntry(entry.term, int(entry.type), entry.data) for entry in entries)
        return msg.encode(msg.Feed(node.raft.term, previous, 0, part, node.machine.index, node.member.roster_version))

    def _beat(self) -> None:
        leader = self.cluster.leader()
        if leader is not None:
            self.say(leader, ())
        self.cluster.world.after(BEAT_US, self._beat)

    def serve(self, node: SimNode, data: bytes) -> None:
        """A learner lacks entries."""
        if len(data) != _ASK.size:
            return
        number, first = _ASK.unpack(data)
        storage, applied = node.store.storage, node.machine.index
        if not 0 < first <= applied:
            return
        self.fetches += 1
        try:
            entries = storage.entries(first, min(applied, first + FETCH_ENTRIES - 1) + 1, 1 << 20)
        except CompactedError:
            machine = Machine(storage.snapshot_.data)
            node.publish(mailbox(number), _SNAPSHOT.pack(storage.snapshot_.index, machine.digest))
            return
        node.publish(mailbox(number), self._feed(node, first - 1, entries))

    # --- the learners' side -----------------------------------------------------------------------------------------

    def ask(self, learner: Learner) -> None:
        self.cluster.broker.publish(
            learner.number, f"ask/{learner.leader}", _ASK.pack(learner.number, learner.index + 1)
        )

    def open(self, topic: str, data: bytes) -> LeaderCertificate | tuple[int, msg.Feed] | bytes | None:
        """What an envelope holds, if it holds; the same bytes are looked at once for all learners."""
        key = (topic, data)
        if key not in self._opened:
            if len(self._opened) > 4_000:
                self._opened.clear()
            self._opened[key] = self._open(topic, data)
        return self._opened[key]

    def _open(self, topic: str, data: bytes) -> LeaderCertificate | tuple[int, msg.Feed] | bytes | None:
        cluster = self.cluster
        keys = cluster.keys
        try:
            opened = envelope.open_(
                data,
                topic=topic,
                lookup=lambda sender: keys.public(int(sender[1:])) if sender in cluster.devices else None,
                verify=keys.check,
            )
            cluster.on_opened(topic, opened)
            if topic == LEADER_TOPIC:
                certificate = LeaderCertificate.decode(opened.payload)
                cluster.believe(certificate, who=FIRST)
                return certificate
            if topic != FEED_TOPIC and len(opened.payload) == _SNAPSHOT.size:
                return opened.payload
            feed = msg.decode(opened.payload, who=opened.sender, kinds=(msg.Feed,))
        except (CoseError, CodecError, LeadershipError, RemoteError):
            return None
        assert isinstance(feed, msg.Feed)
        return int(opened.sender[1:]), feed

    def applied(self, learner: Learner) -> None:
        known = self.cluster.checkers.digests.get(learner.index)
        if known is not None and known != learner.digest:
            raise Violation("state machine safety", f"learner {learner.number} has another state at {learner.index}")
        if learner.index > self.cluster.checkers.commit_max:
            raise Violation("state machine safety", f"learner {learner.number} applies what is not committed")

    def behind(self, floor: int) -> str:
        """Who has not applied up to `floor`; empty if all have."""
        late = [learner.number for learner in self.all if learner.index < floor]
        return f"{len(late)} learners are behind index {floor}, among them {late[:5]}" if late else ""
