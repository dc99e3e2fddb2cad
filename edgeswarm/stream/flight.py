"""Frames between the pipeline and the jail: the delivery rule of a device, for one agent.

A frame stays here until it is answered.  When the jail dies, what it had not answered is sent once more, in order.
The frame it was working on - the oldest in flight - is suspect: it goes out again alone, and nothing follows before
its answer.  If the jail dies of it a second time it is poison, and set aside with its bytes.  A frame that the kernel
faults on (trap, deadline, no finite answer) is set aside at once; when a batch faults, its frames go out again one by
one, so that only the guilty one is.
Invariants: every frame that `send` took is in exactly one of: in flight, again, answered, set aside; frames leave in
ascending seq, and a frame's seq is its identity for good.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

from edgeswarm.limits import FRAME_TRIES_MAX
from edgeswarm.stream.queue import Row

Reason = Literal["poison", "fault", "answer"]


class Frame(NamedTuple):
    """What goes into the jail, and what is remembered about it.

    payload: rows x width float32, little-endian, oldest row first.  row: its newest row, normalised.  values: the same
    row as it came from the sources.  fresh: rows that this frame is the first to account for (see `window`).
    """

    seq: int
    at_ns: int
    payload: bytes
    row: Row
    values: Row
    fresh: int


class SetAside(NamedTuple):
    """A frame that will not be answered, with its bytes, and why: it killed its jail twice, the kernel faulted on it,
    or the answer was unusable."""

    frame: Frame
    reason: Reason
    text: str


class Gone(NamedTuple):
    """What a jail's death left: frames to be sent again (by `next_frame`, in order), and the one that is poison now."""

    again: tuple[Frame, ...]
    poison: SetAside | None


class Flight:
    """The unanswered frames of one agent."""

    __slots__ = ("_deaths", "_single_until", "_suspect", "again", "in_flight", "in_flight_max")

    def __init__(self, in_flight_max: int) -> None:
        self.in_flight_max = in_flight_max
        self.in_flight: dict[int, Frame] = {}  # seq -> frame, in the order they were sent
        self.again: deque[Frame] = deque()  # to be sent (again), ascending seq, before any new frame
        self._deaths: dict[int, int] = {}  # seq -> jails that died of it
        self._suspect = 0  # seq of the frame that must fly alone; 0: none
        self._single_until = 0  # frames up to this seq are not batched

    def open(self) -> bool:
        """True when another frame may be sent now."""
        return not (len(self.in_flight) >= self.in_flight_max or (self._suspect and self.in_flight))

    def batches(self, seq: int) -> bool:
        """True when the frame `seq` may share a call with others."""
        return seq > self._single_until and not self._suspect

    def send(self, frame: Frame) -> None:
        """A new frame goes out."""
        self.in_flight[frame.seq] = frame

    def send_again(self) -> Frame | None:
        """The oldest frame that waits to be sent again goes out; None when none waits."""
        if not self.again:
            return None
        frame = self.again.popleft()
        self.in_flight[frame.seq] = frame
        return frame

    def not_sent(self, seq: int) -> None:
        """The ring had no room for frame `seq` after all: it waits, before all later ones."""
        frame = self.in_flight.pop(seq, None)
        if frame is not None:
            self._put_back([frame])

    def answered(self, seq: int) -> Frame | None:
        """Frame `seq` has its answer; None when no such frame is in flight."""
        frame = self.in_flight.pop(seq, None)
        if frame is not None and self._deaths:
            self._forgive(seq)
        return frame

    def recall(self) -> tuple[Frame, ...]:
        """All frames in flight wait again, nobody is blamed: the jail was replaced, or it died of something else."""
        frames = tuple(self.in_flight.values())
        self.in_flight.clear()
        self._put_back(list(frames))
        return frames

    def gone(self, *, last_try: bool = False) -> Gone:
        """The jail died, and this agent's oldest frame is what it was working on.

        last_try: it did what no jail may: that frame is not tried again.
        """
        if not self.in_flight:
            return Gone((), None)
        self._single_until = max(self._single_until, *self.in_flight)
        head = next(iter(self.in_flight))
        deaths = self._deaths[head] = self._deaths.get(head, 0) + 1
        poison = None
        if last_try or deaths >= FRAME_TRIES_MAX:
            frame = self.in_flight.pop(head)
            self._forgive(head)
            times = "once" if deaths == 1 else f"{deaths} times"
            poison = SetAside(frame, "poison", f"the jail died {times} while working on frame {head}")
        else:
            self._suspect = head
        return Gone(self.recall(), poison)

    def faulted(self, seq: int, rows: int) -> Frame | None:
        """The kernel faulted on the call of `rows` frames from `seq` on.

        The frame that is thereby out; None when the call held several, which wait to be sent again one by one.
        """
        if rows == 1:
            return self.answered(seq)
        batch = [self.in_flight.pop(one) for one in range(seq, seq + rows) if one in self.in_flight]
        self._single_until = max(self._single_until, seq + rows - 1)
        self._put_back(batch)
        return None

    def load(self, frames: list[Frame]) -> None:
        """Frames of a checkpoint, or of the agent's last version, wait to be sent."""
        self._put_back(frames)

    def frames(self) -> list[Frame]:
        """All unanswered frames, ascending seq."""
        return sorted([*self.in_flight.values(), *self.again])

    def rows(self) -> int:
        """Rows that the unanswered frames account for."""
        return sum(frame.fresh for frame in self.in_flight.values()) + sum(frame.fresh for frame in self.again)

    def _put_back(self, frames: list[Frame]) -> None:
        if frames:
            self.again = deque(sorted([*frames, *self.again]))

    def _forgive(self, seq: int) -> None:
        self._deaths.pop(seq, None)
        if self._suspect == seq:
            self._suspect = 0
