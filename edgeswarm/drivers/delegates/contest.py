"""Kernel and delegates on the same rows, in their jails: who answers rightly, and how long a row takes.

Each contestant first answers every row by itself; who is off by more than the tolerance is out.  The others are then
measured in rounds, one frame of each in turn, so that whatever else the machine does meets all of them alike; the
figure is the median of what the jails say that a row took.
Invariant: whatever a contestant does - no jail, a crash, a hang, nonsense - is its score, never an error here.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from edgeswarm.drivers.jails import Jail, JailExit, Reply
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.jail.frames import Kind
from edgeswarm.limits import (
    DELEGATE_CONTEST_ROUNDS,
    DELEGATE_CONTEST_ROUNDS_MIN,
    DELEGATE_CONTEST_ROWS_MAX,
    DELEGATE_CONTEST_S,
    JAIL_READY_MS_MAX,
)

Spawn = Callable[[Callable[[Reply], None], Callable[[JailExit], None]], Awaitable[Jail]]
"""Makes a contestant's jail: on_reply, on_exit -> jail."""

WASM: Final = "wasm"
_FRAME_US: Final = 2_000.0
"""What one frame of a round should take: so much longer than the clock's microsecond that the figure is one."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Rows and what must come of them.

    inputs, answers: packed float32 rows; no answers: those of the first contestant that answers all.  relative,
    absolute: the file's own tolerance.  share: of the range of all answers, which an answer may be off as well, because
    a delegate may compute in other precisions.
    """

    inputs: tuple[bytes, ...]
    answers: tuple[bytes, ...]
    relative: float
    absolute: float
    share: float
    range: float = field(init=False)
    """Between the least and the greatest value of all answers: looked for once, it is needed for every row."""

    def __post_init__(self) -> None:
        values = array("f", b"".join(self.answers))
        object.__setattr__(self, "range", max(values) - min(values) if values else 0.0)

    def fault(self, row: int, answer: bytes) -> str:
        """What is wrong with the answer to this row; nothing when it is right."""
        return self.differ(self.answers[row], answer, self.range)

    def differ(self, expected: bytes, found: bytes, around: float) -> str:
        """The same of any answer.  around: the range of all."""
        absolute = max(self.absolute, self.share * around)
        return compare(expected, found, relative=self.relative, absolute=absolute)


def compare(expected: bytes, found: bytes, *, relative: float, absolute: float) -> str:
    """Where two packed rows differ by more than max(relative * larger, absolute); nothing when they do not."""
    want, got = array("f"), array("f")
    want.frombytes(expected)
    got.frombytes(found[: len(found) & ~3])
    if len(want) != len(got):
        return f"{len(want)} values expected, found {len(got)}"
    for column, (one, other) in enumerate(zip(want, got, strict=True)):
        if not math.isclose(one, other, rel_tol=relative, abs_tol=absolute):
            return f"column {column}: expected {one:.9g}, found {other:.9g}"
    return ""


@dataclass(frozen=True, slots=True)
class Contestant:
    """name: `wasm` or a delegate's.  done: called when its jail has ended."""

    name: str
    spawn: Spawn
    done: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What came of one.  us: of one row, the median; None: it is out, and `why` says why."""

    name: str
    us: float | None
    why: str = ""


class ContestError(EdgeSwarmError):
    """A contestant did not answer."""


@dataclass(slots=True)
class _Player:
    """A contestant's jail, asked one frame at a time."""

    contestant: Contestant
    jail: Jail | None = None
    us: list[float] = field(default_factory=list)
    why: str = ""
    rows: int = 1
    _seq: int = 0
    _waiting: asyncio.Future[Reply] | None = None
    _ended: str = ""

    async def begin(self) -> None:
        self.jail = await self.contestant.spawn(self._replied, self._exited)
        if self.jail.faults:
            raise ContestError("; ".join(self.jail.faults.values()))

    def _replied(self, reply: Reply) -> None:
        if self._waiting is not None and not self._waiting.done() and reply.seq == self._seq:
            self._waiting.set_result(reply)

    def _exited(self, ended: JailExit) -> None:
        self._ended = ended.text
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ContestError(f"its jail ended: {ended.text}"))

    async def ask(self, payload: bytes, rows: int) -> Reply:
        """Raises ContestError, JailError."""
        assert self.jail is not None
        if self._ended:
            raise ContestError(f"its jail ended: {self._ended}")
        self._seq += 1
        self._waiting = asyncio.get_running_loop().create_future()
        if not self.jail.submit(0, self._seq, rows, payload):
            raise ContestError("its jail takes no frame")
        try:
            async with asyncio.timeout(JAIL_READY_MS_MAX / 1000):
                reply = await self._waiting
        except TimeoutError:
            raise ContestError(f"no answer within {JAIL_READY_MS_MAX} ms") from None
        if reply.kind != Kind.REPLY:
            raise ContestError(reply.text)
        return reply

    async def end(self) -> None:
        if self.jail is not None:
            await self.jail.close()
            if self.contestant.done is not None:
                await self.contestant.done()


async def contest(contestants: Sequence[Contestant], golden: Golden) -> list[Score]:
    """The scores, in the order of the contestants."""
    players = [_Player(one) for one in contestants]
    try:
        for player in players:
            found: list[bytes] = []
            await _try(player, _check(player, golden, found))
            if not golden.answers and len(found) == len(golden.inputs):
                golden = replace(golden, answers=tuple(found))
        started = time.monotonic()
        for number in range(DELEGATE_CONTEST_ROUNDS):
            if number >= DELEGATE_CONTEST_ROUNDS_MIN and time.monotonic() - started > DELEGATE_CONTEST_S:
                break
            for player in players:
                if not player.why:
                    await _try(player, _measure(player, golden))
    finally:
        for player in players:
            await player.end()
    return [
        Score(player.contestant.name, None if player.why else round(statistics.median(player.us), 3), player.why)
        for player in players
    ]


async def _try(player: _Player, work: Awaitable[None]) -> None:
    try:
        await work
    except (EdgeSwarmError, OSError) as error:
        player.why = str(error)[:500] or type(error).__name__


async def _check(player: _Player, golden: Golden, found: list[bytes]) -> None:
    """Every row alone; then decide how many rows a frame of its rounds has.  found: its answers."""
    await player.begin()
    took_us = 0.0
    for row, payload in enumerate(golden.inputs):
        reply = await player.ask(payload, 1)
        took_us = float(reply.aux)
        found.append(reply.payload)
        if golden.answers and (fault := golden.fault(row, reply.payload)):
            raise ContestError(f"wrong answer: golden row {row} {fault}")
    assert player.jail is not None
    most = min(player.jail.rows_max(0), DELEGATE_CONTEST_ROWS_MAX)
    player.rows = max(1, min(most, int(_FRAME_US / max(took_us, 1.0))))


async def _measure(player: _Player, golden: Golden) -> None:
    inputs, rows = golden.inputs, player.rows
    reply = await player.ask(b"".join(inputs[row % len(inputs)] for row in range(rows)), rows)
    player.us.append(reply.aux / rows)


def fastest(scores: Sequence[Score], *, margin: float) -> str:
    """Who computes from now on: the fastest; the kernel, unless a delegate is faster by more than `margin` of its time.

    A delegate costs a process and a wall that is thinner; for a difference within what is measured it is not worth it.
    """
    alive = {score.name: score.us for score in scores if score.us is not None}
    if not alive:
        return WASM
    best = min(alive, key=lambda name: alive[name])
    if WASM in alive and alive[best] >= alive[WASM] * (1 - margin):
        return WASM
    return best
