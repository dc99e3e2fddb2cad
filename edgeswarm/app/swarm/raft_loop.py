"""The loop of a voter: what Raft decided is written down, then said, then done.  Read this first.

    tick or message ---> member.step ---> wake
    turn:  what may leave early is sent
           term, vote, entries go to disk                 (one fsync for everything that waited)
           what promises something is sent                (votes, acknowledgements: never before the fsync)
           what is committed is applied
           the member is told; if more has come meanwhile, turn again

One turn is under way at a time; whatever arrives during the fsync is stepped, and goes out with the next turn: that
is the whole of batching and pipelining.  A disk that fails ends the loop: a voter that cannot remember may not vote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from edgeswarm.core.raft.member import Member, Turn
from edgeswarm.drivers.raft_store import RaftStore

TELL_COMMITS_S = 0.005  # followers hear of a commit with the next append, or so much later: nobody waits for them
TICKS_LATE_MAX = 3  # ticks made up for at once: a process that was stopped must not campaign on old time


class Hands(Protocol):
    """What the loop does to the world."""

    def send(self, to: int, packet: bytes) -> None: ...
    def apply(self, turn: Turn) -> None: ...
    def failed(self, error: BaseException) -> None: ...


class RaftLoop:
    """tick_s: seconds per tick of the member's clock."""

    def __init__(self, member: Member, store: RaftStore, hands: Hands, *, tick_s: float) -> None:
        self.member, self._store, self._hands, self._tick_s = member, store, hands, tick_s
        self._loop = asyncio.get_running_loop()
        self._awake = self._saving = self._ended = False
        self._telling: asyncio.TimerHandle | None = None
        self._next_tick = self._loop.time() + tick_s
        self._timer = self._loop.call_at(self._next_tick, self._tick)

    def step(self, act: Callable[[], None]) -> None:
        """Let the member take something in (a packet, a proposal), then turn.  What `act` raises, rises."""
        try:
            act()
        finally:
            self.wake()

    def wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self._turn)

    def _tick(self) -> None:
        now = self._loop.time()
        due = 1 + int((now - self._next_tick) / self._tick_s)
        for _ in range(min(due, TICKS_LATE_MAX)):
            self.member.tick()
        self._next_tick += due * self._tick_s
        self._timer = self._loop.call_at(self._next_tick, self._tick)
        self.wake()

    def _turn(self) -> None:
        self._awake = False
        if self._saving or self._ended or not self.member.has_turn():
            return
        turn = self.member.turn()
        for to, packet in turn.early:
            self._hands.send(to, packet)
        if turn.writes:
            self._saving = True
            self._store.save_soon(turn.hard_state, turn.entries, turn.snapshot, partial(self._saved, turn))
        else:
            self._saved(turn, None)

    def _saved(self, turn: Turn, error: BaseException | None) -> None:
        self._saving = False
        if self._ended:
            return
        if error is not None:
            self.close()
            self._hands.failed(error)
            return
        for to, packet in turn.late:
            self._hands.send(to, packet)
        self._hands.apply(turn)
        self.member.done(turn)
        if self.member.commit_waits and self._telling is None:
            self._telling = self._loop.call_later(TELL_COMMITS_S, self._tell_commits)
        self.wake()

    def _tell_commits(self) -> None:
        self._telling = None
        self.step(self.member.tell_commits)

    def close(self) -> None:
        self._ended = True
        self._timer.cancel()
        if self._telling is not None:
            self._telling.cancel()
