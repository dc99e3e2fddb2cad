"""One seed: a cell drawn at random, faults for a while, then calm, and what was seen is judged.

`run_seed(seed)` returns a Report or raises Violation; the same seed does the same on every machine, as long as the code
is the same.  `tests/sim/run.py` runs many and says how to replay one that failed.
"""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from linearizability import check_keys, explain
from sim_attacker import Attacker
from sim_cell import CellTraffic
from sim_checkers import Violation
from sim_clients import Client, History
from sim_cluster import Cluster
from sim_faults import KINDS, Nemesis
from sim_learners import Learners
from sim_network import Weather
from sim_node import Setting
from sim_operator import Operator
from sim_world import MS, S, World

from edgeswarm.core.raft.config import StateType

FAULTS_US = (2 * S, 5 * S)
CALM_US = 15 * S  # in the `lan` profile an election takes 0.15 to 0.3 s: within this, everybody must be up to date
LEARN_US = 200 * MS


@dataclass(slots=True)
class Report:
    """What one seed did; counts for a person."""

    seed: int
    voters: int
    virtual_s: float
    steps: int
    messages: int
    terms: int
    entries: int
    answered: int
    lost: int
    changes: int
    faults: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Plan:
    """What a seed is drawn from; tests narrow it.

    None: drawn or by chance.  setting: fields of Setting that are not drawn.  every_us: between two faults.
    changes_us: between two wishes of the operator.
    big_changes: of several members at once.  patience_us: until a client gives up.
    """

    voters: int | None = None
    kinds: list[str] | None = None
    operator: bool | None = None
    attacker: bool | None = None
    real_keys: bool | None = None
    faults_us: tuple[int, int] = FAULTS_US
    setting: dict[str, Any] = field(default_factory=dict)
    weather: Weather | None = None
    every_us: tuple[int, int] | None = None
    changes_us: tuple[int, int] = (50 * MS, 600 * MS)
    big_changes: bool = False
    clients: int | None = None
    patience_us: tuple[int, int] | None = None
    learners: int = 0
    cell: bool | None = None
    promises: bool = True  # whether "persist before promise" is checked, beside what follows from it


PLANS = {
    "any": Plan(),
    # What was found once is looked for where it is likeliest: a seed alone means little once the code has changed.
    "single": Plan(voters=1, kinds=["power loss", "slow disk", "kill", "blackout"], operator=False),
    "lost-snapshot": Plan(voters=3, kinds=["deaf or mute", "isolate", "slow disk", "snapshot"], operator=True),
    "split-votes": Plan(voters=5, kinds=["split", "pairs"], operator=False),
    "forgotten-commit": Plan(voters=2, kinds=["power loss", "kill"], operator=True),
    "demoted": Plan(
        voters=2,
        kinds=["kill", "power loss", "slow disk"],
        operator=True,
        every_us=(30 * MS, 120 * MS),
        setting={"check_quorum": False, "step_down_on_removal": False, "lazy_commits": True, "batch_appends": True},
        cell=True,
    ),
    "removed-leader": Plan(
        voters=3,
        kinds=["isolate", "split"],
        operator=True,
        big_changes=True,
        setting={"check_quorum": False, "step_down_on_removal": False},
        clients=8,
    ),
    "late-snapshot": Plan(
        voters=3,
        kinds=["slow disk", "pause", "isolate", "snapshot", "misreport"],
        operator=True,
        setting={"snapshot_every": 5, "snapshot_keep": 0},
        every_us=(30 * MS, 200 * MS),
    ),
    "cell": Plan(cell=True),
    "learners": Plan(learners=200),
    "many-learners": Plan(learners=1_000, faults_us=(2 * S, 3 * S)),
    "full-disk": Plan(voters=2, kinds=["full disk", "slow disk", "kill"], operator=True),
}


def draw_setting(rng: random.Random) -> Setting:
    """Timing profile `lan`: heartbeats every 50 ms, elections after 150 to 300 ms."""
    fine = rng.random() < 0.2
    quick = rng.random() < 0.7
    return Setting(
        tick_ms=25 if fine else 50,
        election_ticks=6 if fine else 3,
        heartbeat_ticks=2 if fine else 1,
        pre_vote=rng.random() < 0.85,
        check_quorum=rng.random() < 0.85,
        batch_appends=rng.random() < 0.6,
        lazy_commits=rng.random() < 0.6,
        step_down_on_removal=rng.random() < 0.7,
        max_size_per_msg=rng.choice((1, 200, 1 << 16)),
        max_inflight_msgs=rng.choice((1, 4, 64)),
        max_committed_bytes=rng.choice((64, 1 << 20)),
        replay_window=rng.random() < 0.6,
        snapshot_every=rng.choice((0, 0, 5, 30)),
        snapshot_keep=rng.choice((0, 2, 20)),
        fsync_us=(100, 2 * MS) if quick else (1 * MS, 30 * MS),
    )


def draw_weather(rng: random.Random) -> Weather:
    if rng.random() < 0.5:
        return Weather()
    return Weather(
        drop=rng.choice((0.0, 0.01, 0.05)),
        duplicate=rng.choice((0.0, 0.02)),
        late=rng.choice((0.0, 0.02)),
        reorder=rng.random() < 0.5,
        will=rng.choice((0.0, 0.5, 1.0)),
    )


class Run:
    """The cell and everybody around it."""

    def __init__(self, seed: int, plan: Plan, *, trace: list[str] | None = None) -> None:
        world = self.world = World(seed)
        world.trace = trace
        rng = world.rng
        self.plan = plan
        self.voters = plan.voters or rng.choice((1, 2, 3, 3, 3, 4, 5, 5))
        setting = replace(draw_setting(rng), **plan.setting)
        base = draw_weather(rng)
        base = plan.weather or base
        real = rng.random() < 0.03
        self.cluster = Cluster(
            world,
            setting,
            voters=self.voters,
            weather=base,
            real_keys=real if plan.real_keys is None else plan.real_keys,
        )
        self.cluster.checkers.promises = plan.promises
        kinds = [kind for kind in KINDS if rng.random() < 0.4]
        self.nemesis = Nemesis(
            self.cluster,
            kinds=kinds if plan.kinds is None else plan.kinds,
            every_us=plan.every_us or rng.choice(((50 * MS, 300 * MS), (100 * MS, 800 * MS))),
            base=base,
        )
        wishes = rng.random() < 0.5 if plan.operator is None else plan.operator
        self.operator = Operator(
            self.cluster, every_us=plan.changes_us if wishes else (0, 0), big=plan.big_changes or rng.random() < 0.2
        )
        attacked = rng.random() < 0.4 if plan.attacker is None else plan.attacker
        self.attacker = Attacker(self.cluster, every_us=(5 * MS, 60 * MS)) if attacked else None
        self.learners = Learners(self.cluster, plan.learners) if plan.learners else None
        celled = rng.random() < 0.15 if plan.cell is None else plan.cell
        self.traffic = CellTraffic(self.cluster) if celled and not plan.learners else None
        self.history = History()
        self.clients = [
            Client(
                self.cluster,
                number,
                self.history,
                keys="xyz",
                think_us=(5 * MS, rng.choice((60 * MS, 300 * MS))),
                reads=rng.choice((0.2, 0.5, 0.8)),
                patience_us=plan.patience_us or (100 * MS, 2_000 * MS),
            )
            for number in range(1, 1 + (plan.clients or rng.randint(2, 5)))
        ]

    def run(self) -> Report:
        world = self.world
        world.run(world.between(*self.plan.faults_us))
        self._calm()
        for client in self.clients:
            client.stop = True
        world.run(world.now_us + 2_500 * MS)
        verdict = check_keys(self.history.operations)
        if not verdict.ok:
            raise Violation("linearizability", explain(verdict))
        return self._report()

    def _calm(self) -> None:
        world, cluster = self.world, self.cluster
        world.note("calm")
        self.nemesis.stop()
        self.operator.stop()
        if self.attacker is not None:
            self.attacker.stopped = True
        if self.traffic is not None:
            self.traffic.stopped = True
        answered = self.history.answered
        probe = Client(cluster, 100, self.history, keys="xyz", think_us=(20 * MS, 50 * MS), reads=0.0)
        self.clients.append(probe)
        began_us = world.now_us
        while world.now_us < began_us + CALM_US:
            world.run(world.now_us + LEARN_US)
            if self.history.answered > answered and not self._behind():
                return
        raise Violation("liveness", f"{(world.now_us - began_us) / S:.0f} s after the last fault: {self._behind()}")

    def _behind(self) -> str:
        """Why the cell is not well; empty if it is."""
        cluster = self.cluster
        leader = cluster.leader()
        if leader is None:
            return "nobody leads"
        conf = cluster.conf()
        if conf.voters_outgoing:
            return f"a joint configuration is not left: {conf}"
        floor = cluster.checkers.commit_max - 20
        for node in cluster.members():
            if not node.alive:
                return f"{node.number} is not alive"
            if node.machine.index < floor or node.machine.roster_version < max(cluster.rosters):
                return (
                    f"{node.number} has applied {node.machine.index} of {cluster.checkers.commit_max}; the leader "
                    f"{leader.number} sees {leader.node.status().progress.get(node.number)}"
                )
            if node.raft.state is StateType.LEADER and node is not leader:
                return f"{node.number} still leads term {node.raft.term}"
        if cluster.retained_term() != leader.raft.term:
            return f"the retained certificate is of term {cluster.retained_term()}, the leader's is {leader.raft.term}"
        if self.learners is not None and (late := self.learners.behind(floor)):
            return late
        return "" if self.history.answered else "no write went through"

    def _report(self) -> Report:
        cluster, history = self.cluster, self.history
        refusals: dict[str, int] = {}
        for node in cluster.nodes.values():
            for name, count in node.counts.items():
                refusals[name] = refusals.get(name, 0) + count
        return Report(
            seed=self.world.seed,
            voters=self.voters,
            virtual_s=self.world.now_us / S,
            steps=self.world.steps,
            messages=cluster.broker.sent,
            terms=max(cluster.checkers.leaders, default=0),
            entries=cluster.checkers.commit_max,
            answered=history.answered,
            lost=history.lost,
            changes=len(cluster.rosters) - 1,
            faults=self.nemesis.counts,
            refusals=refusals,
        )


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def failure(seed: int, plan: str, violation: Violation) -> str:
    """What a person needs to see it again."""
    return (
        f"FAILED seed {seed} of plan {plan}\n  {violation}\n  commit {commit()}\n"
        f"  replay: make sim SEEDS=1 FIRST_SEED={seed} ARGS='--plan {plan} --trace'"
    )


def judge(seed: int, plan: str = "any") -> Report:
    """run_seed for tests: what fails says how to see it again."""
    try:
        return run_seed(seed, PLANS[plan])
    except Violation as violation:
        raise Violation(violation.checker, failure(seed, plan, violation)) from violation


def run_seed(seed: int, plan: Plan | None = None, *, trace: list[str] | None = None) -> Report:
    """Raises Violation where something that must hold does not; also what the code under test raised."""
    try:
        return Run(seed, plan or Plan(), trace=trace).run()
    except Violation:
        raise
    except Exception as error:
        raise Violation("no crash", f"{type(error).__name__}: {error}") from error
