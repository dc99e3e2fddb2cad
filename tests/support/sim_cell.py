"""The product's replicated state (core/cell) in simulated cells: random commands that collide with each other.

Names and numbers are few, so that commands meet: devices that die and come back, placements that come too late, tasks
finished twice, sessions that repeat.  Every voter must come to the same changes and the same snapshot at every index.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from sim_world import MS

from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import AgentSpec, Assignment, Capabilities, Move, Needs, TaskSpec, Want
from edgeswarm.core.raft.config import ProposalDroppedError

if TYPE_CHECKING:
    from sim_cluster import Cluster

MARK = b"C"  # the first byte of an entry that holds a command of the cell

DEVICES = ("ant", "bee", "cat", "dog")
AGENTS = ("pulse", "spo2", "sum")
JOBS = ("j1", "j2")


def draw_command(rng: random.Random) -> cmd.Command:
    """A command that is in bounds; most are sensible, and some come too late."""
    device, agent, job = rng.choice(DEVICES), rng.choice(AGENTS), rng.choice(JOBS)
    match rng.randrange(16):
        case 0 | 1:
            offers = Capabilities(tier=rng.choice("ABC"), memory_bytes=rng.choice((0, 1 << 20)), agents_max=4)
            return cmd.RegisterDevice(device, rng.randrange(5), offers)
        case 2:
            return cmd.DeviceLost(device, rng.randrange(4))
        case 3:
            return cmd.DeviceBack(device, rng.randrange(4))
        case 4 | 5:
            spec = AgentSpec(
                agent, rng.randbytes(32), needs=Needs(tier_min=rng.choice("ABC")), stateful=rng.random() < 0.5
            )
            return cmd.Deploy(spec, rng.randrange(3), "op")
        case 6 | 7:
            return cmd.Place((Move(agent, rng.choice((*DEVICES, None)), rng.randrange(4)),))
        case 8:
            return cmd.Desire((Want(agent, rng.randbytes(32)),), "op")
        case 9:
            return rng.choice((cmd.Remove(agent, "op"), cmd.Drain(device, rng.random() < 0.5, "op")))
        case 10:
            tasks = tuple(TaskSpec(f"t{n}", agent=agent, after=(n - 1,) if n else ()) for n in range(rng.randint(1, 4)))
            return cmd.SubmitJob(job, "op", tasks)
        case 11:
            return cmd.AssignTasks((Assignment(job, rng.randrange(4), rng.randint(1, 3), device),))
        case 12:
            return cmd.FinishTask(job, rng.randrange(4), rng.randint(1, 3), device, rng.randbytes(8))
        case 13:
            return cmd.FailTask(job, rng.randrange(4), rng.randint(1, 3), "it broke", rng.random() < 0.2)
        case 14:
            session = cmd.WithSession(rng.randint(2, 60), rng.randint(1, 4), 0, cmd.encode(cmd.Note("op", "again")))
            return rng.choice((cmd.OpenSession("client"), session, cmd.CloseSession(rng.randint(2, 60))))
        case _:
            return rng.choice((cmd.Stop("op", "test"), cmd.Resume("op", "test"), cmd.SetVersion(2), cmd.Noop()))


class CellTraffic:
    """Somebody on some device proposes, and does not wait."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._world = cluster, cluster.world
        self.stopped = False
        self._world.after(100 * MS, self._next)

    def _next(self) -> None:
        if self.stopped:
            return
        alive = self._cluster.servers()
        if alive:
            node = self._world.rng.choice(alive)
            data = MARK + cmd.encode(draw_command(self._world.rng))

            def step() -> None:
                try:
                    node.loop.step(lambda: node.node.propose(data))
                except ProposalDroppedError:
                    pass

            node.timers.call(step, ())
        self._world.after(self._world.between(5 * MS, 60 * MS), self._next)
