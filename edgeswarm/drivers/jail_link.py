"""The supervisor's end of one jail: its shared memory, its pipes, and what is in flight.  No event loop in here.

Trusts nothing that comes from the jail: every answer must belong to a frame in flight, have the rows that were asked
for and exactly their bytes; anything else raises RingError, and the jail has to be killed and kept away from its
agents' trust domain.
Invariants: sum of the answers' reserved bytes <= what the ring back holds, so an honest jail never finds it full;
the supervisor never blocks on a jail (its ends of the pipes do not block).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from edgeswarm.drivers.jail_ends import Ends
from edgeswarm.drivers.jail_spec import KernelSpec, check_specs, lay_out, ring_bytes_for, ring_bytes_least
from edgeswarm.errors import LimitError, LocalError
from edgeswarm.ids import JailId
from edgeswarm.jail import frames, kernel
from edgeswarm.jail.frames import FAULT_TEXT_BYTES_MAX, FaultCode, Kind, RingError
from edgeswarm.limits import JAIL_READY_MS_MAX, RING_BYTES_MAX

__all__ = ["JailLink", "KernelSpec", "Reply", "Verdict"]

_HEADS_BYTES_MAX: Final = 448  # a multiple of 8 that fits the interpreter's small-object allocator
_OWN_SEQ: Final = 1 << 63
"""Sequence numbers from here on are ours, of weights, memory and pings; callers' frames stay below."""
_GRACE_NS: Final = 1_000_000_000
"""Beyond two deadlines without any answer: whatever the jail claims to be doing, it is not serving."""
_LATE_NS: Final = 250_000_000
"""Who is so late was stopped, by SIGSTOP or a freezer, and the jail perhaps as well; or is far behind."""
# an enumeration's members are slow to look up
_RUN, _REPLY, _FAULT, _ACK = int(Kind.RUN), int(Kind.REPLY), int(Kind.FAULT), int(Kind.ACK)
_FAULT_BYTES: Final = frames.frame_bytes(FAULT_TEXT_BYTES_MAX)


class Reply(NamedTuple):
    """An answer of a jail.  kind: REPLY (aux: us that it took), FAULT (payload: UTF-8 text, rows: us that it took, aux:
    FaultCode) or ACK (aux: the kind)."""

    jail_id: JailId
    slot: int
    kind: int
    seq: int
    rows: int
    aux: int
    payload: bytes

    @property
    def text(self) -> str:
        """Of a FAULT."""
        return self.payload.decode("utf-8", "replace")

    @property
    def fault(self) -> FaultCode | None:
        return FaultCode(self.aux) if self.kind == Kind.FAULT else None


_Flight = tuple[int, int, int, int]
"""A frame that has no answer yet: its kind, its rows, the bytes reserved for its answer, its allowance in ns."""


@dataclass(frozen=True, slots=True)
class _Lane:
    """What of an agent every frame needs, computed once."""

    name: str
    frame_bytes: int
    reply_bytes: int
    rows_max: int
    calls_rows: int
    """Rows that one call of the kernel takes."""
    deadline_ns: int
    single: _Flight
    """The flight of a frame of one row."""

    def flight(self, rows: int) -> _Flight:
        reserved = max(frames.frame_bytes(rows * self.reply_bytes), _FAULT_BYTES)
        return (_RUN, rows, reserved, -(-rows // self.calls_rows) * self.deadline_ns)


def _lane(spec: KernelSpec, capacity: int) -> _Lane:
    """capacity: of each ring; a frame takes half of it at most, either way."""
    deadline_ns = spec.deadline_ms * 1_000_000
    return _Lane(
        name=spec.name,
        frame_bytes=spec.frame_bytes,
        reply_bytes=spec.reply_bytes,
        rows_max=(capacity // 2 - frames.HEADER_BYTES) // max(spec.frame_bytes, spec.reply_bytes),
        calls_rows=1 if spec.memory_width else spec.layout.batch_max,
        deadline_ns=deadline_ns,
        single=(_RUN, 1, max(frames.frame_bytes(spec.reply_bytes), _FAULT_BYTES), deadline_ns),
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the deadlines say now.  at_ns: when to ask again (monotonic)."""

    poke: bool
    kill: bool
    at_ns: int


class JailLink:
    """Everything that is shared with one jail.  The order for it, and its descriptors, are `order` and `fds`."""

    def __init__(self, jail_id: JailId, specs: Sequence[KernelSpec], *, ring_bytes: int | None = None) -> None:
        check_specs(specs)
        ring_bytes = max(ring_bytes or ring_bytes_for(specs), ring_bytes_least(specs))
        if ring_bytes > RING_BYTES_MAX:
            raise LimitError(f"rings of a jail: at most {RING_BYTES_MAX} bytes (RING_BYTES_MAX), found {ring_bytes}")
        self.begin(jail_id, specs)
        payload, agents = lay_out(specs)
        size_bytes = frames.shared_bytes(ring_bytes)
        self.job.update(kind="serve", agents=agents)
        if any(spec.delegate is not None and spec.delegate.kind != "cpu" for spec in specs):
            self.job["prepares"] = True
        ends = Ends()
        try:
            self._rings = kernel.memfd("jail-rings", size_bytes=size_bytes)
            self._payload = kernel.memfd("jail-payload", size_bytes=len(payload), content=payload)
            self.open(ends, size_bytes)
        except OSError:
            self._let_go()
            ends.close()
            raise

    def begin(self, jail_id: JailId, specs: Sequence[KernelSpec]) -> None:
        """What a link is before it has memory and ends."""
        self.id = jail_id
        self.specs = {spec.slot: spec for spec in specs}
        self.memory_bytes_max = sum(spec.limit_bytes for spec in specs)
        self.cpu_cores = sum(spec.cpu_cores for spec in specs)
        self.job: dict[str, Any] = {}
        self._flights: dict[tuple[int, int], _Flight] = {}
        self._reserved_bytes = 0
        self._own_seq = _OWN_SEQ
        self.loading = True
        self.answers_ended = False
        self._progress_ns = time.monotonic_ns()
        self._poked_call = 0
        self._poked_ns = 0
        self._rings = self._payload = -1

    def open(self, ends: Ends, size_bytes: int) -> None:
        """Map the memory of `_rings`.  Its descriptor stays: without one, nobody could hand the rings over."""
        self._shared_at = kernel.map_shared(self._rings, size_bytes, writable=True)
        self._ends = ends
        self._shared = frames.Shared(kernel.view(self._shared_at, size_bytes, writable=True))
        self._writer = frames.Writer(self._shared.to_jail, self._shared.tail_to_jail)
        self._reader = frames.Reader(self._shared.from_jail, self._shared.tail_from_jail)
        self.control, self.answers = self._ends.control, self._ends.answers
        self._wake, self._epoch = self._ends.wake, self._ends.epoch
        self._lanes = {spec.slot: _lane(spec, self._writer.capacity) for spec in self.specs.values()}
        self._reply_bytes_max = max(lane.single[2] for lane in self._lanes.values())

    @property
    def fds(self) -> tuple[int, ...]:
        """The jail's descriptors, in the order of `worker.FDS`."""
        control, wake, answer, epoch = self._ends.inside
        return (control, self._rings, wake, answer, epoch, self._payload)

    def hand_over(self) -> None:
        """The jail's descriptors are on their way: close ours of them, so that its death is an end of file."""
        self._ends.hand_over()
        if self._payload >= 0:
            os.close(self._payload)
            self._payload = -1

    def _let_go(self) -> None:
        for fd in (self._rings, self._payload):
            if fd >= 0:
                os.close(fd)
        self._rings = self._payload = -1

    def close(self) -> None:
        """Let go of everything; a living jail sees the end of its control socket and ends."""
        if self._ends.closed:
            return
        self._ends.close()
        self._let_go()
        size_bytes = len(self._shared.view)
        self._shared.release()
        kernel.unmap(self._shared_at, size_bytes)

    # --- to the jail ------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._flights)

    def rows_max(self, slot: int) -> int:
        """How many rows one frame of this agent may have: half a ring, either way."""
        return self._lanes[slot].rows_max

    def submit(self, slot: int, seq: int, rows: int, payload: bytes | bytearray | memoryview) -> bool:
        """Send rows to an agent; False, with nothing written, while there is no room for them or their answer.

        After False some frame is in flight, and its answer comes when its room has been given back: try again then.
        payload: rows x width packed float32.  seq: below 2**63, not in flight for this slot.
        Raises LocalError or LimitError when the frame could never be sent.
        """
        lane = self._lanes.get(slot)
        if lane is None:
            raise LocalError(f"jail {self.id}: no agent in slot {slot}")
        if rows < 1 or len(payload) != rows * lane.frame_bytes:
            raise LocalError(
                f"agent {lane.name}: {rows} rows of {lane.frame_bytes} bytes expected, found {len(payload)} bytes"
            )
        if not 0 <= seq < _OWN_SEQ:
            raise LocalError(f"agent {lane.name}: seq of 0 to 2**63 - 1 expected, found {seq}")
        if rows > lane.rows_max:
            raise LimitError(f"agent {lane.name}: {rows} rows in one frame, at most {lane.rows_max} fit")
        return self._send(slot, seq, lane.single if rows == 1 else lane.flight(rows), 0, payload)

    def next_own_seq(self) -> int:
        self._own_seq += 1
        return self._own_seq

    def send_own(self, slot: int, kind: Kind, seq: int, payload: bytes, *, aux: int = 0, last: bool = True) -> bool:
        """WEIGHTS, MEMORY or PING with one of our own sequence numbers; False while there is no room."""
        if not last:
            return self._write(slot, kind, seq, 0, aux, payload)
        return self._send(slot, seq, (int(kind), 1, _FAULT_BYTES, self._lanes[slot].deadline_ns), aux, payload)

    def check_weights(self, slot: int, weights: bytes) -> None:
        """Raises LocalError when these are not weights of this agent's size."""
        self._check_size(slot, "weights", weights, self._spec(slot).layout.weights.size)

    def check_memory(self, slot: int, content: bytes) -> None:
        """Raises LocalError when this is not a memory of this agent's size."""
        self._check_size(slot, "memory", content, 4 * self._spec(slot).memory_width)

    def _check_size(self, slot: int, what: str, content: bytes, size_bytes: int) -> None:
        if len(content) != size_bytes or not size_bytes:
            name = self.specs[slot].name
            raise LocalError(f"agent {name}: {what} of {size_bytes} bytes expected, found {len(content)}")

    def _spec(self, slot: int) -> KernelSpec:
        spec = self.specs.get(slot)
        if spec is None:
            raise LocalError(f"jail {self.id}: no agent in slot {slot}")
        return spec

    def chunk_bytes(self) -> int:
        """How large a piece of weights is sent at a time."""
        return (self._writer.capacity // 4 - frames.HEADER_BYTES) & -frames.ALIGN_BYTES

    def _send(self, slot: int, seq: int, flight: _Flight, aux: int, payload: bytes | bytearray | memoryview) -> bool:
        kind, rows, reserved, _ = flight
        key = (slot, seq)
        if key in self._flights:
            raise LocalError(f"jail {self.id}: frame {seq} of slot {slot} is in flight already")
        if reserved > self._reply_bytes_max:
            self._reply_bytes_max = reserved
        if self._reserved_bytes + reserved + self._reply_bytes_max > self._reader.capacity:
            return False
        if not self._write(slot, kind, seq, rows, aux, payload):
            return False
        if not self._flights:
            self._progress_ns = time.monotonic_ns()
        self._flights[key] = flight
        self._reserved_bytes += reserved
        return True

    def _write(
        self, slot: int, kind: int, seq: int, rows: int, aux: int, payload: bytes | bytearray | memoryview
    ) -> bool:
        before = self._writer.head
        head = self._writer.put(slot, kind, seq, rows, aux, payload)
        if head is None:
            return False
        try:
            os.write(self._wake, frames.HEAD.pack(head))
        except BlockingIOError:  # thousands of heads wait unread in the pipe
            self._writer.take_back(before)
            return False
        except BrokenPipeError:  # it is dead; its control socket says so, and the frame is in flight until then
            return True
        self._shared.hint_to_jail[0] = head
        return True

    # --- from the jail ----------------------------------------------------------------------------------------------

    def spin(self) -> bool:
        """Wait a moment for an answer, without sleeping; True when there seems to be one."""
        return frames.spin(self._shared.hint_from_jail, self._reader.head, os.sched_yield)

    def collect(self) -> list[Reply]:
        """Every answer that is there.  Raises RingError when the jail broke the protocol."""
        try:
            told = os.read(self.answers, _HEADS_BYTES_MAX)
        except BlockingIOError:
            return []
        if not told:
            self.answers_ended = True
            return []
        reader, found = self._reader, []
        reader.admit(told)
        while reader.position < reader.head:
            frame = reader.take()
            if frame is not None:
                found.append(self._check(*frame))
        reader.release()
        if found:
            self._progress_ns = time.monotonic_ns()
        return found

    def _check(self, header: frames.Header, payload: memoryview) -> Reply:
        length, slot, kind, seq, rows, aux = header
        flight = self._flights.pop((slot, seq), None)
        if flight is None:
            raise RingError(f"jail {self.id}: answer for frame {seq} of slot {slot}, which is not in flight")
        asked, rows_asked, reserved, _ = flight
        self._reserved_bytes -= reserved
        if kind == _REPLY and asked == _RUN and rows == rows_asked:
            size_bytes = rows * self._lanes[slot].reply_bytes
        elif kind == _ACK and asked != _RUN and aux == asked:
            size_bytes = 0
        elif kind == _FAULT and aux in _FAULT_CODES:
            size_bytes = min(len(payload), FAULT_TEXT_BYTES_MAX)
        else:
            raise RingError(f"jail {self.id}: frame {seq} of slot {slot} answered by kind {kind}, rows {rows}, {aux}")
        if length != frames.frame_bytes(size_bytes):
            raise RingError(f"jail {self.id}: an answer of {length} bytes for {size_bytes} bytes of payload")
        content = bytes(payload[:size_bytes])
        return Reply(self.id, slot, kind, seq, rows, aux, content.rstrip(b"\0") if kind == _FAULT else content)

    # --- deadlines --------------------------------------------------------------------------------------------------

    def poke(self) -> None:
        """Wake the epoch thread: the call in progress is past its deadline."""
        try:
            os.write(self._epoch, b"!")
        except (BlockingIOError, BrokenPipeError):
            return  # thousands of pokes wait, or it is dead already

    def running_slot(self) -> int | None:
        """The slot whose call is running, by the jail's word."""
        slot: int = self._shared.running[1]
        return slot if self._shared.running[0] and slot in self.specs else None

    def heard_again(self) -> None:
        """Nobody has read answers for a while: silence counts from now."""
        self._progress_ns = self._poked_ns = time.monotonic_ns()

    def forgive(self, late_ns: int) -> None:
        """Nobody looked for so long after the time that `judge` gave: much of that is not the jail's fault."""
        if late_ns > _LATE_NS:
            self._progress_ns += late_ns
            self._poked_ns += late_ns

    def judge(self, now_ns: int) -> Verdict | None:
        """What the deadlines say; None when nothing is in flight.

        The jail says which call runs since when.  Believing it costs little: whatever it says, two deadlines and a
        grace without any answer are its end.
        """
        if self.loading:
            allowance = JAIL_READY_MS_MAX * 1_000_000
        elif self._flights:
            allowance = max(flight[3] for flight in self._flights.values())
        else:
            return None
        last = self._progress_ns + 2 * allowance + _GRACE_NS
        if now_ns >= last:
            return Verdict(False, True, last)
        began: int = self._shared.running[0]
        spec = self.specs.get(self._shared.running[1])
        if not began or spec is None:
            shortest = min(item.deadline_ms for item in self.specs.values()) * 1_000_000
            return Verdict(False, False, min(now_ns + shortest, last))
        deadline_ns = spec.deadline_ms * 1_000_000
        if began != self._poked_call:
            due = began + deadline_ns
            if now_ns < due:
                return Verdict(False, False, min(due, now_ns + deadline_ns, last))
            self._poked_call, self._poked_ns = began, now_ns
            return Verdict(True, False, min(now_ns + deadline_ns, last))
        due = self._poked_ns + deadline_ns
        return Verdict(False, now_ns >= due, min(due, last))


_FAULT_CODES: Final = frozenset(FaultCode)
