"""The attacker: a broker that lies, or anybody who can publish on it.  It has no voter's key.

It replays what it heard, to the same topic and to others, whole, cut short or changed; it forges votes, appends of high
terms and certificates under keys of its own; it sets retained leaders.  One of its devices is in the roster (a worker):
its envelopes are good, and still it must not be believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim_node import CELL, FLEET, LEADER_TOPIC, device, inbox

from edgeswarm.core.raft.member import PACKET_VERSION
from edgeswarm.wire import codec, envelope, raft
from edgeswarm.wire.leadership import LeaderCertificate, VoteStatement
from edgeswarm.wire.raft import Entry, EntryType, Message, MessageType

if TYPE_CHECKING:
    from sim_cluster import Cluster

WORKER = 99  # a device of the cell that is no voter, in the attacker's hands


class Attacker:
    """every_us: between two messages."""

    def __init__(self, cluster: Cluster, *, every_us: tuple[int, int]) -> None:
        self._cluster, self._world, self._every_us = cluster, cluster.world, every_us
        self._seq = 0
        self._heard: list[tuple[str, bytes]] = []
        self.sent = 0
        self.stopped = False
        cluster.devices.add(device(WORKER))
        self._world.after(self._world.between(*every_us), self._next)

    def _next(self) -> None:
        if self.stopped:
            return
        rng = self._world.rng
        recent = self._cluster.broker.recent
        if recent:
            self._heard.append(rng.choice(recent))
            if len(self._heard) > 64:
                self._heard[rng.randrange(64)] = self._heard.pop()
            self.sent += 1
            rng.choice((self._replay, self._elsewhere, self._change, self._cut, self._forge, self._forge_leader))()
        self._world.after(self._world.between(*self._every_us), self._next)

    def _old(self) -> tuple[str, bytes]:
        return self._world.rng.choice(self._heard)

    def _inject(self, topic: str, data: bytes) -> None:
        self._cluster.broker.inject(topic, data, retain=topic == LEADER_TOPIC and self._world.chance(0.5))

    def _target(self) -> int:
        return self._world.rng.choice(sorted(self._cluster.nodes))

    def _replay(self) -> None:
        self._inject(*self._old())

    def _elsewhere(self) -> None:
        self._inject(self._world.rng.choice((inbox(self._target()), LEADER_TOPIC)), self._old()[1])

    def _change(self) -> None:
        topic, data = self._old()
        changed = bytearray(data)
        for _ in range(self._world.rng.randint(1, 3)):
            changed[self._world.rng.randrange(len(changed))] ^= 1 << self._world.rng.randrange(8)
        self._inject(topic, bytes(changed))

    def _cut(self) -> None:
        topic, data = self._old()
        at = self._world.rng.randrange(len(data))
        self._inject(topic, self._world.rng.choice((data[:at], data[at:], data + data[:at])))

    def _forge(self) -> None:
        """A message in a voter's name under the attacker's key, or in the worker's own."""
        rng, to = self._world.rng, self._target()
        term = max(self._cluster.checkers.leaders, default=1) + rng.randint(-1, 3)
        claimed = rng.choice((WORKER, self._target()))
        kind = rng.choice((MessageType.APP, MessageType.VOTE_RESP, MessageType.VOTE, MessageType.HEARTBEAT))
        entries = (Entry(max(term, 1), 2, EntryType.NORMAL, b"evil"),) if kind is MessageType.APP else ()
        message = Message(
            kind, to, claimed, max(term, 1), 1, 1, entries, rng.randint(0, 50), signature=rng.randbytes(64)
        )
        packet = codec.dumps([PACKET_VERSION, 1, [raft.encode(message)]])
        self._inject(inbox(to), self._seal(inbox(to), packet, claimed))

    def _forge_leader(self) -> None:
        """A certificate with votes that were not given: changed from a real one, or made up; in a good envelope."""
        rng, cluster = self._world.rng, self._cluster
        term = max(cluster.checkers.leaders, default=1) + rng.randint(0, 3)
        version, conf = max(cluster.rosters), cluster.conf()
        statement = VoteStatement(
            fleet=FLEET,
            cell=rng.choice((CELL, CELL, "other")),
            roster_version=version,
            term=term,
            candidate=rng.choice((*conf.voters, WORKER)),
            last_index=99,
            last_term=term,
            voter=1,
        )
        own = cluster.keys.signer(WORKER)
        votes = {voter: own(statement.by(voter).to_be_signed()) for voter in conf.voters}
        for topic, data in cluster.broker.recent:
            if topic == LEADER_TOPIC and rng.random() < 0.5:  # votes of an older term
                real = LeaderCertificate.decode(envelope.parse(data).payload)
                votes.update(dict(real.votes))
        forged = LeaderCertificate.make(statement, votes).encode()
        self._inject(LEADER_TOPIC, self._seal(LEADER_TOPIC, forged, WORKER))

    def _seal(self, topic: str, payload: bytes, claimed: int) -> bytes:
        self._seq += 1
        if claimed == WORKER:
            self._cluster.on_sealed(WORKER, topic, 1, self._seq, payload)
        return envelope.seal(
            payload,
            topic=topic,
            sender=device(claimed),
            boot=1,
            seq=self._seq,
            sign=self._cluster.keys.signer(WORKER),
        )
