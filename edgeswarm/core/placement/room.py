"""Who has room: loads of devices as they would be with the moves made so far, and the least loaded that fits.

A load is the fullest of memory, cpu, number of agents and what the device reports, in thousandths.  Devices are listed
by kind (`views.Kind`) in heaps by (load, id); a load that has changed since leaves its old item in the heap, which is
put right when it comes to the top.  So finding a device is O(kinds x log devices), unless devices at the top lack room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from edgeswarm.core.placement.views import DeviceLike, Kind, NeedsLike, Wish, fits, kind_of, wish_of


@dataclass(slots=True)
class Seat:
    """A device with what it would run."""

    id: str
    kind: Kind
    usable: bool
    memory_bytes: int
    cpu_milli: int
    agents_max: int
    reported: int
    """Thousandths; of what the device measures."""
    memory_taken: int = 0
    cpu_taken: int = 0
    agents: int = 0

    def load(self) -> int:
        """Thousandths; above 1000 where it holds more than it offers."""
        return max(
            self.memory_taken * 1000 // max(1, self.memory_bytes),
            self.cpu_taken * 1000 // max(1, self.cpu_milli),
            self.agents * 1000 // max(1, self.agents_max),
            self.reported,
        )

    def lacks(self, needs: NeedsLike) -> str:
        """What there is too little of for one more; empty: it has room."""
        if self.agents >= self.agents_max:
            return "agents"
        if self.memory_taken + needs.memory_bytes > self.memory_bytes:
            return "memory"
        if self.cpu_taken + needs.cpu_milli > self.cpu_milli:
            return "cpu"
        return ""

    def load_with(self, needs: NeedsLike) -> int:
        return max(
            (self.memory_taken + needs.memory_bytes) * 1000 // max(1, self.memory_bytes),
            (self.cpu_taken + needs.cpu_milli) * 1000 // max(1, self.cpu_milli),
            (self.agents + 1) * 1000 // max(1, self.agents_max),
            self.reported,
        )

    def take(self, needs: NeedsLike) -> None:
        self.memory_taken += needs.memory_bytes
        self.cpu_taken += needs.cpu_milli
        self.agents += 1

    def give(self, needs: NeedsLike) -> None:
        self.memory_taken -= needs.memory_bytes
        self.cpu_taken -= needs.cpu_milli
        self.agents -= 1


class Room:
    """All devices of a cell.  load: device -> thousandths that it reports; absent: 0."""

    def __init__(self, devices: Iterable[DeviceLike], load: Mapping[str, int]) -> None:
        self.seats: dict[str, Seat] = {}
        self.by_kind: dict[Kind, list[str]] = {}
        for device in devices:
            offer = device.capabilities
            usable = device.alive and not device.drained
            kind = kind_of(offer)
            self.seats[device.id] = Seat(
                device.id,
                kind,
                usable,
                offer.memory_bytes,
                offer.cpu_milli,
                offer.agents_max,
                load.get(device.id, 0),
            )
            self.by_kind.setdefault(kind, []).append(device.id)
        self._heaps: dict[Kind, list[tuple[int, str]]] = {}
        self._kinds_for: dict[Wish, list[Kind]] = {}
        self._full: dict[Kind, list[tuple[int, int]]] = {}
        """(memory, cpu) for which no device of a kind had room; loads only grow, so none has since."""

    def kinds_for(self, wish: Wish) -> list[Kind]:
        found = self._kinds_for.get(wish)
        if found is None:
            found = self._kinds_for[wish] = [kind for kind in self.by_kind if fits(wish, kind)]
        return found

    def least_loaded(self, needs: NeedsLike, refused: frozenset[str] | set[str]) -> Seat | None:
        """The usable device with the lowest load, then id, that fits, has room and is not refused."""
        best: Seat | None = None
        best_key = (0, "")
        for kind in self.kinds_for(wish_of(needs)):
            seat = self._least_loaded(kind, needs, refused)
            if seat is not None and (best is None or (seat.load(), seat.id) < best_key):
                best, best_key = seat, (seat.load(), seat.id)
        return best

    def _least_loaded(self, kind: Kind, needs: NeedsLike, refused: frozenset[str] | set[str]) -> Seat | None:
        heap = self._heaps.get(kind)
        if heap is None:
            usable = (self.seats[name] for name in self.by_kind[kind] if self.seats[name].usable)
            heap = self._heaps[kind] = [(seat.load(), seat.id) for seat in usable]
            heapify(heap)
        full = self._full.setdefault(kind, [])
        if any(needs.memory_bytes >= memory and needs.cpu_milli >= cpu for memory, cpu in full):
            return None
        passed_over: list[tuple[int, str]] = []
        found: Seat | None = None
        held_back = False
        while heap:
            load, name = heap[0]
            seat = self.seats[name]
            if seat.load() != load:
                heappop(heap)
                heappush(heap, (seat.load(), name))
                continue
            if name not in refused and not seat.lacks(needs):
                found = seat
                break
            held_back = held_back or name in refused
            passed_over.append(heappop(heap))
        for item in passed_over:
            heappush(heap, item)
        if found is None and not held_back:
            full[:] = [(m, c) for m, c in full if not (m >= needs.memory_bytes and c >= needs.cpu_milli)]
            full.append((needs.memory_bytes, needs.cpu_milli))
        return found

    def loosened(self, seat: Seat) -> None:
        """`seat` holds less than before: list it where it belongs, and believe no more that others are full."""
        heap = self._heaps.get(seat.kind)
        if heap is not None and seat.usable:
            heappush(heap, (seat.load(), seat.id))
        self._full.pop(seat.kind, None)
