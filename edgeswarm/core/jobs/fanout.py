"""One input for many agents: whom to ask, whom to ask again, and when there is an end.

Agents are asked in batches, one message for each device, at most `in_flight_max` unanswered at a time.  Each agent is
asked up to `tries_max` times; its first answer counts, whichever try it is of.  An agent without a device is asked when
it has one.  The map ends when every agent has answered or failed, when too few can answer any more, or at `end`.
Memory: one byte an agent, what is in flight, and the aggregate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from edgeswarm.core.jobs.aggregate import Aggregate, Fold, Kernel
from edgeswarm.errors import LocalError
from edgeswarm.limits import MAP_AGENTS_MAX, MAP_IN_FLIGHT_MAX, MAP_TRIES_MAX

_ANSWERED, _FAILED = 0xFF, 0xFE  # other values: how often it was asked


@dataclass(frozen=True, slots=True)
class Ask:
    """Send the map's input to these agents of a device."""

    device: str
    agents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """answered + failed <= total."""

    answered: int
    failed: int
    total: int


class MapRun:
    """A map under way on the leader.  agents: 1 .. MAP_AGENTS_MAX different ids; now: ms of the monotonic clock."""

    def __init__(
        self,
        agents: Sequence[str],
        aggregate: Aggregate,
        *,
        share_min_permille: int = 1000,
        answer_ms: float = 5_000.0,
        tries_max: int = MAP_TRIES_MAX,
        in_flight_max: int = MAP_IN_FLIGHT_MAX,
    ) -> None:
        if not 1 <= len(agents) <= MAP_AGENTS_MAX or len(set(agents)) != len(agents):
            raise LocalError(f"map: expected 1 to {MAP_AGENTS_MAX} different agents, found {len(agents)}")
        self.agents = tuple(agents)
        self.aggregate = aggregate
        self.needed = -(-len(agents) * share_min_permille // 1000)
        self.why = ""
        """Why there is no result; empty: there is one, or not yet."""
        self._answer_ms, self._tries_max, self._in_flight_max = answer_ms, tries_max, in_flight_max
        self._index = {name: index for index, name in enumerate(self.agents)}
        self._marks = bytearray(len(agents))
        self._queue = deque(range(len(agents)))
        self._asked: dict[int, float] = {}
        """Index -> until when its answer is waited for."""
        self._late: list[tuple[float, int]] = []
        self._answered = self._failed = 0
        self._ended = False

    @property
    def progress(self) -> Progress:
        return Progress(self._answered, self._failed, len(self.agents))

    @property
    def done(self) -> bool:
        """True when `result` and `why` will not change any more."""
        return self._ended and (bool(self.why) or self.aggregate.result() is not None)

    def result(self) -> object:
        """What the answers come to, once `done` and `why` is empty."""
        return self.aggregate.result() if self.done and not self.why else None

    def next_at(self) -> float | None:
        """When `ask` has something to look at, besides new answers and placements."""
        return self._late[0][0] if self._late and not self._ended else None

    def ask(self, now: float, where: Callable[[str], str | None]) -> list[Ask | Fold]:
        """Whom to ask now.  where: agent -> its device, None while it has none that lives."""
        while self._late and self._late[0][0] <= now:
            until, index = heappop(self._late)
            if self._asked.get(index) == until:
                self._again(index)
        batches: dict[str, list[str]] = {}
        for _ in range(len(self._queue)):
            if self._ended or len(self._asked) >= self._in_flight_max:
                break
            index = self._queue.popleft()
            if self._marks[index] >= _FAILED:
                continue
            device = where(self.agents[index])
            if device is None:
                self._queue.append(index)
                continue
            self._marks[index] += 1
            self._asked[index] = now + self._answer_ms
            heappush(self._late, (now + self._answer_ms, index))
            batches.setdefault(device, []).append(self.agents[index])
        return [*[Ask(device, tuple(names)) for device, names in batches.items()], *self._look()]

    def answered(self, agent: str, value: object, weight: float = 1.0) -> list[Fold]:
        """An agent's answer; the second one of an agent, and those after the end, change nothing."""
        index = self._index.get(agent)
        if index is None or self._ended or self._marks[index] >= _FAILED:
            return []
        self._asked.pop(index, None)
        refused = self.aggregate.refused
        fold = self.aggregate.add(agent, value, weight)
        if self.aggregate.refused > refused:
            self._marks[index] = _FAILED
            self._failed += 1
        else:
            self._marks[index] = _ANSWERED
            self._answered += 1
        return [*([fold] if fold else []), *self._look()]

    def failed(self, agent: str) -> list[Fold]:
        """The agent could not answer: it is asked again, up to tries_max times."""
        index = self._index.get(agent)
        if index is not None and index in self._asked:
            self._again(index)
        return self._look()

    def lost(self, agents: Sequence[str]) -> list[Fold]:
        """The device of these agents died: they are asked again where they are next, without waiting."""
        for agent in agents:
            index = self._index.get(agent)
            if index is not None and index in self._asked:
                self._again(index)
        return self._look()

    def folded(self, number: int, value: object) -> list[Fold]:
        """The kernel's answer to a Fold."""
        if not isinstance(self.aggregate, Kernel):
            return []
        try:
            fold = self.aggregate.folded(number, value)
        except LocalError as error:
            self.why, self._ended = str(error), True
            return []
        return [fold] if fold else []

    def end(self, why: str) -> list[Fold]:
        """No more waiting (`why`: a deadline): with enough answers there is a result, without there is none."""
        if self._ended:
            return []
        self._ended = True
        self._queue.clear()
        self._asked.clear()
        if self._answered < self.needed or not self._answered:
            refused = f", {self.aggregate.refused} answered what does not fit" if self.aggregate.refused else ""
            self.why = f"{why}: {self._answered} of {len(self.agents)} answered, {self.needed} are needed{refused}"
            return []
        fold = self.aggregate.end()
        return [fold] if fold else []

    def _again(self, index: int) -> None:
        del self._asked[index]
        if self._marks[index] >= self._tries_max:
            self._marks[index] = _FAILED
            self._failed += 1
        else:
            self._queue.append(index)

    def _look(self) -> list[Fold]:
        """Is there an end?"""
        if self._ended:
            return []
        if self._answered + self._failed == len(self.agents):
            return self.end("all were asked")
        if len(self.agents) - self._failed < self.needed:
            return self.end(f"{self._failed} failed")
        return []
