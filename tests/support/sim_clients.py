"""Clients: each asks one thing at a time of any device, waits, gives up, and writes down what it saw.

What timed out may have happened or may yet: it stays open in the history.  What was refused certainly did not happen,
and is left out.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from linearizability import READ, Operation, cas, write
from sim_world import MS, Timer

if TYPE_CHECKING:
    from sim_cluster import Cluster


class History:
    """(key, operation) of every call whose effect is possible."""

    def __init__(self) -> None:
        self.operations: list[tuple[Hashable, Operation]] = []
        self.answered = self.lost = self.refused = 0


class Client:
    """think_us: pause between two calls; patience_us: until one is given up.

    It stops when `stop` is set and the call under way has ended.
    """

    def __init__(
        self,
        cluster: Cluster,
        number: int,
        history: History,
        *,
        keys: str,
        think_us: tuple[int, int],
        reads: float,
        patience_us: tuple[int, int] = (100 * MS, 2_000 * MS),
    ) -> None:
        self._cluster, self._world = cluster, cluster.world
        self.number, self.history = number, history
        self._keys, self._think_us, self._reads = keys, think_us, reads
        self._patience_us = patience_us
        self._seq = 0
        self._written = 0
        self._seen: dict[str, Hashable] = {}
        self._open: tuple[str, Hashable, int] | None = None
        self._timeout: Timer | None = None
        self.stop = False
        self._world.after(self._world.between(0, 200 * MS), self._next)

    def _next(self) -> None:
        if self.stop:
            return
        world = self._world
        alive = self._cluster.servers()
        if not alive:
            self._again()
            return
        node = world.rng.choice(alive)
        if world.chance(0.5) and self._cluster.leader() in alive:
            node = self._cluster.leader() or node
        key = world.rng.choice(self._keys)
        call = self._choose(key)
        self._seq += 1
        number = self._seq
        self._open = (key, call, world.stamp())
        self._timeout = world.after(world.between(*self._patience_us), self._given_up, number)
        # A device answers its clients over its own loop, so a device that hangs keeps them waiting.
        if call == READ:
            node.timers.call(node.read, (key, lambda ok, answer: self._answered(number, ok, answer)))
        else:
            node.timers.call(
                node.submit, (self.number, number, key, call, lambda ok, answer: self._answered(number, ok, answer))
            )

    def _choose(self, key: str) -> Hashable:
        rng = self._world.rng
        if rng.random() < self._reads:
            return READ
        self._written += 1
        value = self.number * 1_000_000 + self._written  # nobody writes a value twice: a stale read cannot hide
        if rng.random() < 0.3:
            return cas(self._seen.get(key), value)
        return write(value)

    def _answered(self, number: int, ok: bool, answer: Hashable) -> None:
        if self._open is None or number != self._seq:
            return
        key, call, called = self._open
        self._close()
        if not ok:
            self.history.refused += 1
        else:
            self.history.answered += 1
            self.history.operations.append((key, Operation(self.number, call, answer, called, self._world.stamp())))
            if call == READ:
                self._seen[key] = answer
        self._again()

    def _given_up(self, number: int) -> None:
        if self._open is None or number != self._seq:
            return
        key, call, called = self._open
        self._close()
        self.history.lost += 1
        self.history.operations.append((key, Operation(self.number, call, None, called, None)))
        self._again()

    def _close(self) -> None:
        self._open = None
        if self._timeout is not None:
            self._timeout.cancel()

    def _again(self) -> None:
        self._world.after(self._world.between(*self._think_us), self._next)
