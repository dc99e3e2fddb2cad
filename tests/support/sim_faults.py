"""The nemesis: breaks things at random, and mends them, until it is told to stop.

Which kinds of faults a seed has is drawn at its start ("swarm testing", Groce et al. 2012: a seed with few kinds goes
deeper into each than one with all of them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sim_network import Weather
from sim_world import MS

from edgeswarm.core.raft.config import ProposalDroppedError

if TYPE_CHECKING:
    from sim_cluster import Cluster
    from sim_node import SimNode

KINDS = {
    "kill": 3,
    "power loss": 4,
    "blackout": 1,
    "isolate": 3,
    "deaf or mute": 2,
    "split": 3,
    "pairs": 2,
    "broker restart": 1,
    "storm": 3,
    "slow disk": 3,
    "full disk": 1,
    "pause": 2,
    "clock": 2,
    "transfer": 2,
    "campaign": 1,
    "forget leader": 1,
    "false will": 1,
    "snapshot": 3,
    "misreport": 1,
    "ambush": 2,
}
"""Kind -> weight."""


class Nemesis:
    """every_us: (low, high) between two faults.  base: the weather between storms."""

    def __init__(self, cluster: Cluster, *, kinds: list[str], every_us: tuple[int, int], base: Weather) -> None:
        self._cluster, self._world = cluster, cluster.world
        self._kinds, self._every_us, self._base = kinds, every_us, base
        self._weights = [KINDS[kind] for kind in kinds]
        self._stopped = False
        self._ambush_until_us = 0
        cluster.checkers.on_leader = self._met
        self.counts: dict[str, int] = {}
        if kinds:
            self._world.after(self._world.between(300 * MS, 800 * MS), self._next)

    def _next(self) -> None:
        if self._stopped:
            return
        kind = self._world.rng.choices(self._kinds, self._weights)[0]
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._world.note(f"nemesis: {kind}")
        getattr(self, "_" + kind.replace(" ", "_"))()
        self._world.after(self._world.between(*self._every_us), self._next)

    def _later(self, low_ms: int, high_ms: int, act: Callable[..., object], *args: object) -> None:
        self._world.after(self._world.between(low_ms * MS, high_ms * MS), act, *args)

    def _victim(self) -> SimNode | None:
        """Somebody alive; every other time the leader."""
        leader = self._cluster.leader()
        if leader is not None and self._world.chance(0.5):
            return leader
        alive = self._cluster.servers()
        return self._world.rng.choice(alive) if alive else None

    def _do(self, node: SimNode, act: Callable[[], None]) -> None:
        """On the node's own loop, as its driver would."""

        def step() -> None:
            try:
                node.loop.step(act)
            except ProposalDroppedError:
                pass

        node.timers.call(step, ())

    def _restart(self, node: SimNode) -> None:
        if not node.alive and node.number not in self._cluster.gone:
            node.start()

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        node = self._victim()
        if node is not None:
            node.crash(power_loss=False)
            self._later(5, 800, self._restart, node)

    def _power_loss(self) -> None:
        node = self._victim()
        if node is not None:
            node.crash(power_loss=True)
            self._later(5, 1200, self._restart, node)

    def _blackout(self) -> None:
        for node in self._cluster.servers():
            if self._world.chance(0.9):
                node.crash(power_loss=self._world.chance(0.8))
                self._later(5, 400, self._restart, node)

    def _pause(self) -> None:
        node = self._victim()
        if node is not None:
            node.timers.pause(self._world.now_us + self._world.between(50 * MS, 900 * MS))

    def _clock(self) -> None:
        node = self._victim()
        if node is not None:
            node.set_rate(self._world.rng.uniform(0.6, 1.6))

    def _slow_disk(self) -> None:
        node = self._victim()
        if node is not None:
            node.disk.latency_us = (5 * MS, self._world.between(20 * MS, 500 * MS))
            self._later(200, 1500, self._fast_disk, node)

    def _fast_disk(self, node: SimNode) -> None:
        node.disk.latency_us = self._cluster.setting.fsync_us

    def _full_disk(self) -> None:
        node = self._victim()
        if node is not None:
            node.disk.full = True
            self._later(50, 600, self._mend_disk, node)

    def _mend_disk(self, node: SimNode) -> None:
        node.disk.full = False
        self._restart(node)

    def _snapshot(self) -> None:
        for node in self._cluster.servers():
            if self._world.chance(0.6) and not node.disk.full:
                node.timers.call(node.snapshot_if_alive, ())

    # --- links ------------------------------------------------------------------------------------------------------

    def _isolate(self) -> None:
        node = self._victim()
        if node is not None:
            broker = self._cluster.broker
            broker.up_cut.add(node.number)
            broker.down_cut.add(node.number)
            if self._world.chance(0.5):
                broker.lose(node.number)
            self._later(50, 1500, self._join, node.number)

    def _deaf_or_mute(self) -> None:
        node = self._victim()
        if node is not None:
            broker = self._cluster.broker
            self._world.rng.choice((broker.up_cut, broker.down_cut)).add(node.number)
            self._later(50, 1500, self._join, node.number)

    def _join(self, number: int) -> None:
        self._cluster.broker.up_cut.discard(number)
        self._cluster.broker.down_cut.discard(number)

    def _split(self) -> None:
        numbers = sorted(self._cluster.nodes)
        side = {number for number in numbers if self._world.chance(0.5)}
        cuts = [(a, b) for a in numbers for b in numbers if (a in side) != (b in side)]
        if self._world.chance(0.3):
            cuts = [(a, b) for a, b in cuts if a in side]  # one way only
        self._cut(cuts)

    def _pairs(self) -> None:
        numbers = sorted(self._cluster.nodes)
        self._cut([(a, b) for a in numbers for b in numbers if a != b and self._world.chance(0.3)])

    def _cut(self, cuts: list[tuple[int, int]]) -> None:
        self._cluster.broker.pair_cut.update(cuts)
        self._later(50, 1500, self._cluster.broker.pair_cut.difference_update, cuts)

    def _broker_restart(self) -> None:
        broker = self._cluster.broker
        if broker.up:
            broker.keeps_retained = self._world.chance(0.5)
            broker.restart(self._world.between(1 * MS, 600 * MS))

    def _storm(self) -> None:
        rng = self._world.rng
        self._cluster.broker.weather = replace(
            self._base,
            drop=rng.choice((0.0, 0.05, 0.2, 0.5)),
            duplicate=rng.choice((0.0, 0.1, 0.5)),
            late=rng.choice((0.0, 0.1, 0.4)),
            reorder=rng.random() < 0.6,
        )
        self._later(100, 1000, self._clear_up)

    def _clear_up(self) -> None:
        if not self._stopped:
            self._cluster.broker.weather = self._base

    # --- Raft's own moves at bad moments ------------------------------------------------------------------------------

    def _transfer(self) -> None:
        leader = self._cluster.leader()
        if leader is not None:
            to = self._world.rng.choice(sorted(self._cluster.nodes))
            self._do(leader, lambda: leader.node.transfer_leader(to))

    def _campaign(self) -> None:
        node = self._victim()
        if node is not None:
            self._do(node, node.node.campaign)

    def _forget_leader(self) -> None:
        node = self._victim()
        if node is not None:
            self._do(node, node.node.forget_leader)

    def _false_will(self) -> None:
        node = self._victim()
        if node is not None:
            self._cluster.broker.inject("will", str(node.number).encode())

    def _misreport(self) -> None:
        leader = self._cluster.leader()
        if leader is not None:
            to = self._world.rng.choice(sorted(self._cluster.nodes))
            if self._world.chance(0.5):
                self._do(leader, lambda: leader.node.report_unreachable(to))
            else:
                ok = self._world.chance(0.5)
                self._do(leader, lambda: leader.node.report_snapshot(to, ok))

    def _ambush(self) -> None:
        """For a while, whoever is elected falls before it has done much: what figure 8 of the Raft paper needs."""
        self._ambush_until_us = self._world.now_us + self._world.between(300 * MS, 3_000 * MS)
        leader = self._cluster.leader()
        if leader is not None:
            self._fall(leader)

    def _met(self, number: int) -> None:
        if self._world.now_us < self._ambush_until_us and not self._stopped and self._world.chance(0.8):
            in_us = self._world.between(0, self._world.rng.choice((2, 150)) * MS)  # before anything left, or amid it
            self._world.after(in_us, self._fall, self._cluster.nodes[number])

    def _fall(self, node: SimNode) -> None:
        if self._stopped:
            return
        if self._world.chance(0.5):
            node.crash(power_loss=self._world.chance(0.5))
            self._later(50, 900, self._restart, node)
        else:
            self._cluster.broker.up_cut.add(node.number)
            self._cluster.broker.down_cut.add(node.number)
            self._later(50, 900, self._join, node.number)

    # --- the end ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """No more faults; what is broken is mended, who is dead comes back."""
        self._stopped = True
        cluster = self._cluster
        cluster.broker.heal()
        for node in cluster.nodes.values():
            node.disk.full = False
            self._fast_disk(node)
            node.set_rate(1.0)
            if not node.alive:
                self._later(5, 200, self._restart, node)
