"""Devices for tasks: the least busy that fits, one task after the other.

A task is short: it has no room of its own to keep, so a device takes up to `each_max` at a time if one of them alone
would fit, and more wait at the leader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heapify, heapreplace

from edgeswarm.core.placement.room import Room
from edgeswarm.core.placement.views import DeviceLike, Kind, NeedsLike, Wish, wish_of
from edgeswarm.limits import TASKS_PER_DEVICE_MAX


class TaskChooser:
    """For one round of the job board: make it anew when devices or loads have changed.

    load: device -> thousandths of it that are busy, as it reports; busy: device -> tasks that it has already.
    """

    def __init__(
        self,
        devices: Iterable[DeviceLike],
        *,
        load: Mapping[str, int],
        busy: Mapping[str, int],
        each_max: int = TASKS_PER_DEVICE_MAX,
    ) -> None:
        self._room = Room(devices, load)
        self._busy = dict(busy)
        self._each_max = each_max
        self._heaps: dict[Kind, list[tuple[int, int, str]]] = {}
        self._full: set[tuple[Wish, int, int]] = set()
        """(wish, memory, cpu) for which no device takes one more."""

    def takes(self, device: str) -> bool:
        """The device is alive and not drained, and has fewer than each_max tasks; if so, it is given one."""
        seat = self._room.seats.get(device)
        if seat is None or not seat.usable or self._busy.get(device, 0) >= self._each_max:
            return False
        self._busy[device] = self._busy.get(device, 0) + 1
        return True

    def choose(self, needs: NeedsLike) -> str | None:
        """The least busy device that fits, then the least loaded, then by id; it is given the task.  None: none."""
        wanted = (wish_of(needs), needs.memory_bytes, needs.cpu_milli)
        if wanted in self._full:
            return None
        found = [key for kind in self._room.kinds_for(wanted[0]) if (key := self._least_busy(kind, needs))]
        if not found:
            self._full.add(wanted)
            return None
        device = min(found)[2]
        self._busy[device] = self._busy.get(device, 0) + 1
        return device

    def _least_busy(self, kind: Kind, needs: NeedsLike) -> tuple[int, int, str] | None:
        heap = self._heaps.get(kind)
        if heap is None:
            seats = (self._room.seats[name] for name in self._room.by_kind[kind])
            heap = [(self._busy.get(seat.id, 0), seat.reported, seat.id) for seat in seats if seat.usable]
            heapify(heap)
            self._heaps[kind] = heap
        while heap and heap[0][0] != self._busy.get(heap[0][2], 0):
            _, load, name = heap[0]
            heapreplace(heap, (self._busy.get(name, 0), load, name))
        if not heap or heap[0][0] >= self._each_max:
            return None
        if self._large_enough(heap[0][2], needs):
            return heap[0]
        current = ((self._busy.get(name, 0), load, name) for _, load, name in heap)
        return min(
            (key for key in current if key[0] < self._each_max and self._large_enough(key[2], needs)), default=None
        )

    def _large_enough(self, device: str, needs: NeedsLike) -> bool:
        seat = self._room.seats[device]
        return needs.memory_bytes <= seat.memory_bytes and needs.cpu_milli <= seat.cpu_milli
