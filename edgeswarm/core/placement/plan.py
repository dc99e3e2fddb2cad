"""Where agents go that have no good place; the rest stay where they are.

An agent stays on its device while that is alive, not drained, still fits its needs, and has room for it (where devices
offer less than they did, agents leave in falling order of their ids until the rest fits).  Others go to the least
loaded device that fits; near agents' devices are preferred while they are at most NEAR_PERMILLE fuller; devices of
agents that it names as apart, or that name it, are refused.  An agent for which nothing fits is not taken from where it
is: it may be all right there, or its device may come back.
Deterministic: the order of devices and agents given does not matter.  Loads only grow within one plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeswarm.core.placement.room import Room, Seat
from edgeswarm.core.placement.views import AgentLike, DeviceLike, NeedsLike, fits, misfits, wish_of
from edgeswarm.limits import PLACEMENT_REASONS_MAX

NEAR_PERMILLE = 250


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """epoch: of the agent when it was planned; the cell refuses the move where that is over."""

    agent: str
    source: str | None
    device: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Plan:
    """moves: sorted by agent.  unplaced: agent -> why nothing fits, for agents that should move and cannot."""

    moves: tuple[PlannedMove, ...]
    unplaced: Mapping[str, str]


def plan(devices: Iterable[DeviceLike], agents: Iterable[AgentLike], *, load: Mapping[str, int] | None = None) -> Plan:
    """What to move.  load: device -> thousandths of it that are busy, as it reports."""
    room = Room(devices, load or {})
    where: dict[str, str | None] = {}
    homeless: list[AgentLike] = []
    ordered = sorted(agents, key=lambda one: one.spec.id)
    apart = apart_of(ordered)
    for agent in ordered:
        where[agent.spec.id] = agent.device
        if _stays(agent, room):
            room.seats[agent.device or ""].take(agent.spec.needs)
        else:
            homeless.append(agent)
    homeless.sort(key=_hardest_first)
    reasons = _Reasons(room, apart)
    moves: list[PlannedMove] = []
    unplaced: dict[str, str] = {}
    for agent in homeless:
        seat = _seat_for(agent, room, where, apart)
        if seat is None:
            unplaced[agent.spec.id] = reasons.of(agent, where)
            continue
        seat.take(agent.spec.needs)
        where[agent.spec.id] = seat.id
        moves.append(PlannedMove(agent.spec.id, agent.device, seat.id, agent.epoch))
    return Plan(tuple(sorted(moves, key=lambda move: move.agent)), dict(sorted(unplaced.items())))


def _stays(agent: AgentLike, room: Room) -> bool:
    seat = room.seats.get(agent.device) if agent.device is not None else None
    if seat is None or not seat.usable or (agent.spec.pin and agent.spec.pin != seat.id):
        return False
    return fits(wish_of(agent.spec.needs), seat.kind) and not seat.lacks(agent.spec.needs)


def _hardest_first(agent: AgentLike) -> tuple[bool, int, int, str]:
    """Pinned agents, then large ones: what is small finds a place in what is left."""
    needs = agent.spec.needs
    return (not agent.spec.pin, -needs.memory_bytes, -needs.cpu_milli, agent.spec.id)


def apart_of(agents: Iterable[AgentLike]) -> dict[str, set[str]]:
    """Agent -> those it must stay apart from: those that it names, and those that name it."""
    found: dict[str, set[str]] = {}
    for agent in agents:
        for other in agent.spec.apart:
            found.setdefault(agent.spec.id, set()).add(other)
            found.setdefault(other, set()).add(agent.spec.id)
    return found


def _seat_for(
    agent: AgentLike, room: Room, where: Mapping[str, str | None], apart: Mapping[str, set[str]]
) -> Seat | None:
    spec = agent.spec
    refused = devices_of(apart.get(spec.id, ()), spec.id, where)
    if spec.pin:
        return _if_fits(room, spec.pin, spec.needs, refused)
    best = room.least_loaded(spec.needs, refused)
    if best is None:
        return None
    bound = best.load() + NEAR_PERMILLE
    near = devices_of(spec.near, spec.id, where)
    seats = [seat for name in near if (seat := _if_fits(room, name, spec.needs, refused)) and seat.load() <= bound]
    return min(seats, key=lambda seat: (seat.load(), seat.id), default=best)


def devices_of(names: Iterable[str], without: str, where: Mapping[str, str | None]) -> set[str]:
    """Where these agents are, `without` itself left out."""
    return {device for name in names if name != without and (device := where.get(name)) is not None}


def _if_fits(room: Room, device: str, needs: NeedsLike, refused: set[str]) -> Seat | None:
    seat = room.seats.get(device)
    if seat is None or not seat.usable or device in refused or seat.lacks(needs):
        return None
    return seat if fits(wish_of(needs), seat.kind) else None


class _Reasons:
    """Why nothing fits, counted over all devices; counted once for agents that wish for the same."""

    def __init__(self, room: Room, apart: Mapping[str, set[str]]) -> None:
        self.room = room
        self.apart = apart
        self.known: dict[object, str] = {}

    def of(self, agent: AgentLike, where: Mapping[str, str | None]) -> str:
        spec = agent.spec
        refused = devices_of(self.apart.get(spec.id, ()), spec.id, where)
        key = (wish_of(spec.needs), spec.needs.memory_bytes, spec.needs.cpu_milli, spec.pin, frozenset(refused))
        found = self.known.get(key)
        if found is None:
            if len(self.known) >= PLACEMENT_REASONS_MAX:
                return "no device fits (not counted further: too many different wishes go unmet)"
            found = self.known[key] = self._count(spec.needs, spec.pin, refused)
        return found

    def _count(self, needs: NeedsLike, pin: str, refused: set[str]) -> str:
        if not self.room.seats:
            return "there is no device"
        if pin and pin not in self.room.seats:
            return f"it is pinned to {pin}, which is not in the cell"
        wish = wish_of(needs)
        counts: Counter[str] = Counter()
        for kind, names in self.room.by_kind.items():
            faults = [f"lack {fault}" for fault in misfits(wish, kind)]
            for name in names:
                seat = self.room.seats[name]
                if pin and name != pin:
                    counts[f"are not {pin}, to which it is pinned"] += 1
                elif not seat.usable:
                    counts["are lost or drained"] += 1
                elif faults:
                    counts.update(faults)
                elif name in refused:
                    counts["run what it stays apart from"] += 1
                else:
                    counts[f"lack room: {seat.lacks(needs)}"] += 1
        parts = (f"{count} {what}" for what, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        return f"of {len(self.room.seats)} devices " + ", ".join(parts)
