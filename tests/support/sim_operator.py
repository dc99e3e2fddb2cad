"""The operator of a cell: adds, promotes, demotes, replaces and removes members while everything else goes on.

Keeps to what the product's operator keeps to: raft numbers are never used again; there is always a voter, at most five;
a device is switched off only once every member has it on its disk that it has left.  A commit index may be forgotten by
a power loss, and then the one who left is needed to find it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim_world import MS

from edgeswarm.core.raft.change import (
    AnyConfChange,
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    Transition,
)
from edgeswarm.core.raft.config import ProposalDroppedError
from edgeswarm.wire import codec

if TYPE_CHECKING:
    from sim_cluster import Cluster
    from sim_node import SimNode

VOTERS_MAX = 5
DEVICES_MAX = 9  # ever, of one seed
ADD, LEARNER, REMOVE = ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER_NODE, ConfChangeType.REMOVE_NODE


class Operator:
    """every_us: between two wishes, (0, 0) for none.  big: several members at once.

    `_tidy` goes on after `stop`: it ends what was begun.
    """

    def __init__(self, cluster: Cluster, *, every_us: tuple[int, int], big: bool = False) -> None:
        self._counts = (3, 4) if big else (1, 1, 1, 2, 3)  # changes that one wish tries to hold
        self._cluster, self._world, self._every_us = cluster, cluster.world, every_us
        self.stopped = False
        self.proposed = 0
        self._version = 1  # of the last roster that was proposed; never proposed twice
        if every_us[1]:
            self._world.after(self._world.between(*every_us), self._next)
        self._world.after(200 * MS, self._tidy)

    def stop(self) -> None:
        self.stopped = True

    def _next(self) -> None:
        if self.stopped:
            return
        leader = self._cluster.leader()
        if leader is not None:
            change = self._wish()
            if change is not None:
                self._propose(leader, change)
        self._world.after(self._world.between(*self._every_us), self._next)

    def _propose(self, leader: SimNode, change: AnyConfChange) -> None:
        def step() -> None:
            self._version += 1  # now, not when it was wished for: a leader that hung would propose an old one late
            version = self._version
            try:
                if isinstance(change, ConfChange):
                    old_form = ConfChange(change.type, change.number, codec.dumps([version]))
                    leader.loop.step(lambda: leader.node.propose_conf_change(old_form))
                else:
                    leader.loop.step(lambda: leader.member.propose_members(change, roster_version=version))
            except ProposalDroppedError:
                return
            self.proposed += 1
            self._world.note(f"operator: {change} at {leader.number}")

        leader.timers.call(step, ())

    def _wish(self) -> AnyConfChange | None:
        rng, conf = self._world.rng, self._cluster.conf()
        if conf.voters_outgoing:
            return ConfChangeV2() if rng.random() < 0.7 else ConfChangeV2((ConfChangeSingle(REMOVE, 1),))
        voters, learners = set(conf.voters), set(conf.learners)
        changes: list[ConfChangeSingle] = []
        for _ in range(rng.choice(self._counts)):
            match rng.randrange(5):
                case 0:
                    number = self._newcomer()
                    if number and not any(change.number == number for change in changes):
                        kind = rng.choice((ADD, LEARNER, LEARNER)) if len(voters) < VOTERS_MAX else LEARNER
                        changes.append(ConfChangeSingle(kind, number))
                        (voters if kind is ADD else learners).add(number)
                case 1:
                    if learners and len(voters) < VOTERS_MAX:
                        number = rng.choice(sorted(learners))
                        changes.append(ConfChangeSingle(ADD, number))
                        learners.discard(number)
                        voters.add(number)
                case 2:
                    if len(voters) > 1:
                        number = rng.choice(sorted(voters))
                        changes.append(ConfChangeSingle(REMOVE, number))
                        voters.discard(number)
                case 3:
                    if len(voters) > 1:
                        number = rng.choice(sorted(voters))
                        changes.append(ConfChangeSingle(LEARNER, number))
                        voters.discard(number)
                        learners.add(number)
                case _:
                    if learners:
                        number = rng.choice(sorted(learners))
                        changes.append(ConfChangeSingle(REMOVE, number))
                        learners.discard(number)
        if not changes or len({change.number for change in changes}) < len(changes):
            return None
        if len(changes) == 1 and rng.random() < 0.5:
            return ConfChange(changes[0].type, changes[0].number)
        return ConfChangeV2(tuple(changes), rng.choice(tuple(Transition)))

    def _newcomer(self) -> int:
        """A device that was never a member: one that waits, or a new one; 0 for none."""
        cluster = self._cluster
        ever = cluster.ever_members()
        for number in sorted(cluster.nodes):
            if number not in ever:
                return number
        if len(cluster.nodes) >= DEVICES_MAX:
            return 0
        node = cluster.add(max(cluster.nodes) + 1)
        node.start()
        return node.number

    def _tidy(self) -> None:
        """Who has left is switched off once all members know; a joint configuration that nobody leaves is left."""
        cluster = self._cluster
        conf, changed = cluster.conf(), max(cluster.checkers.confs, default=0)
        members = {*conf.voters, *conf.voters_outgoing, *conf.learners, *conf.learners_next}
        known = all((node := cluster.nodes[number]).alive and node.durable_snapshot >= changed for number in members)
        if known:
            for number in cluster.ever_members() - members - cluster.gone:
                if self.stopped or self._world.chance(0.2):
                    cluster.gone.add(number)
                    cluster.nodes[number].crash(power_loss=False, clean=True)
        leader = cluster.leader()
        if self.stopped and leader is not None and conf.voters_outgoing and not conf.auto_leave:
            self._propose(leader, ConfChangeV2())
        self._world.after(200 * MS, self._tidy)
