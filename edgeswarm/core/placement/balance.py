"""Gentle evening out: a few moves from the fullest devices to the emptiest, none that would not be felt.

A move is planned only where its target will be fuller by margin_permille less than its source was, so that two calls in
a row never move an agent there and back.  Agents that are pinned, or that sit with one they want to be near, stay; the
stateless go before the stateful, whose checkpoints have to travel.
What a device reports as busy is shared evenly among its agents, and moves with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgeswarm.core.placement.plan import PlannedMove, apart_of, devices_of
from edgeswarm.core.placement.room import Room, Seat
from edgeswarm.core.placement.views import AgentLike, DeviceLike
from edgeswarm.limits import REBALANCE_MOVES_MAX

MARGIN_PERMILLE = 200
STUCK_MAX = 16  # full devices none of whose agents can go: past these the next one is not looked for


def rebalance(
    devices: Iterable[DeviceLike],
    agents: Iterable[AgentLike],
    *,
    load: Mapping[str, int] | None = None,
    moves_max: int = 8,
    margin_permille: int = MARGIN_PERMILLE,
) -> tuple[PlannedMove, ...]:
    """At most min(moves_max, REBALANCE_MOVES_MAX) moves, in the order of their worth; none when loads are even enough.

    load: device -> thousandths of it that are busy, as it reports.
    """
    room = Room(devices, load or {})
    where: dict[str, str | None] = {}
    residents: dict[str, list[AgentLike]] = {}
    agents = list(agents)
    apart = apart_of(agents)
    for agent in sorted(agents, key=lambda one: (one.spec.stateful, -one.spec.needs.memory_bytes, one.spec.id)):
        where[agent.spec.id] = agent.device
        seat = room.seats.get(agent.device) if agent.device is not None else None
        if seat is not None:
            seat.take(agent.spec.needs)
            residents.setdefault(seat.id, []).append(agent)
    moves: list[PlannedMove] = []
    stuck: set[str] = set()
    moved: set[str] = set()
    while len(moves) < min(moves_max, REBALANCE_MOVES_MAX):
        loads = sorted((seat.load(), seat.id) for seat in room.seats.values() if seat.usable)
        fullest = next((name for _, name in reversed(loads) if name not in stuck), None)
        if fullest is None or len(stuck) >= STUCK_MAX:
            break
        source = room.seats[fullest]
        if source.load() < loads[0][0] + margin_permille:
            break
        found = _best_of(room, source, residents.get(source.id, []), where, moved, apart, margin_permille)
        if found is None:
            stuck.add(source.id)
            continue
        agent, target = found
        _shift(room, source, target, agent)
        where[agent.spec.id] = target.id
        moved.add(agent.spec.id)
        residents[source.id].remove(agent)
        residents.setdefault(target.id, []).append(agent)
        moves.append(PlannedMove(agent.spec.id, source.id, target.id, agent.epoch))
    return tuple(moves)


def _best_of(
    room: Room,
    source: Seat,
    agents: Iterable[AgentLike],
    where: Mapping[str, str | None],
    moved: set[str],
    apart: Mapping[str, set[str]],
    margin_permille: int,
) -> tuple[AgentLike, Seat] | None:
    """The first agent of `source` that has a much emptier device to go to."""
    for agent in agents:
        spec = agent.spec
        if spec.pin or spec.id in moved or source.id in devices_of(spec.near, spec.id, where):
            continue
        refused = devices_of(apart.get(spec.id, ()), spec.id, where) | {source.id}
        target = room.least_loaded(spec.needs, refused)
        if target is not None and target.load_with(spec.needs) + margin_permille <= source.load():
            return agent, target
    return None


def _shift(room: Room, source: Seat, target: Seat, agent: AgentLike) -> None:
    share = source.reported // max(1, source.agents)
    source.give(agent.spec.needs)
    target.take(agent.spec.needs)
    source.reported -= share
    target.reported += share
    room.loosened(source)
