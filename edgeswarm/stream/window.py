"""Rows to frames: a window of the last `rows` rows, handed out every `hop` rows, oldest row first.

Rows are kept packed (float32, little-endian), so that a frame is one join of bytes.
Invariants: a row is *held* from its push until a frame closes over it or passes it; each row is fresh in exactly one
frame, so pushed == sum of `fresh` over all frames + held.  With hop > rows the rows between two windows lie in no
frame; they are fresh in the frame that follows, which is how the declared hop accounts for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from edgeswarm.errors import LimitError, LocalError
from edgeswarm.limits import WINDOW_ROWS_MAX

ROW_VALUE_BYTES = 4


class Window:
    """The last `rows` packed rows of `width` values, and how many are to come before the next frame."""

    __slots__ = ("_kept", "_until", "_wait", "hop", "row_bytes", "rows", "width")

    def __init__(self, rows: int, hop: int, width: int) -> None:
        if not 1 <= rows <= WINDOW_ROWS_MAX:
            raise LimitError(f"window rows: expected 1 to {WINDOW_ROWS_MAX}, found {rows}")
        if not 1 <= hop <= WINDOW_ROWS_MAX:
            raise LimitError(f"window hop: expected 1 to {WINDOW_ROWS_MAX}, found {hop}")
        self.rows = rows
        self.hop = hop
        self.width = width
        self.row_bytes = width * ROW_VALUE_BYTES
        self._kept: deque[bytes] = deque(maxlen=rows)
        self._wait = rows  # rows from the last frame (or the start) to the next
        self._until = rows

    def push(self, packed: bytes) -> bytes | None:
        """Take one packed row in; the frame it completes (rows * width values, row-major, oldest first), or None."""
        self._kept.append(packed)
        self._until -= 1
        if self._until:
            return None
        self._wait = self._until = self.hop
        return b"".join(self._kept)

    @property
    def fresh_next(self) -> int:
        """How many rows the next frame will be the first to account for: `rows` for the first frame, then `hop`."""
        return self._wait

    @property
    def held(self) -> int:
        """Rows taken in since the last frame."""
        return self._wait - self._until

    def clear(self) -> None:
        """Start anew, as before the first row."""
        self._kept.clear()
        self._wait = self._until = self.rows

    def state(self) -> dict[str, object]:
        """What `restore` takes: the rows kept, joined, and the position between two frames."""
        shape: dict[str, object] = {"rows": self.rows, "hop": self.hop, "width": self.width}
        return {**shape, "kept": b"".join(self._kept), "wait": self._wait, "until": self._until}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on where `state` stopped.  Raises LocalError when it is of another shape or does not add up."""
        shape = (state.get("rows"), state.get("hop"), state.get("width"))
        if shape != (self.rows, self.hop, self.width):
            expected = (self.rows, self.hop, self.width)
            raise LocalError(f"window state: expected rows, hop, width {expected}, found {shape}")
        kept, wait, until = state.get("kept"), state.get("wait"), state.get("until")
        if not isinstance(kept, bytes) or len(kept) > self.rows * self.row_bytes or len(kept) % self.row_bytes:
            raise LocalError("window state: kept: expected whole rows, at most the window's")
        first = wait == self.rows and until == self.rows - len(kept) // self.row_bytes and until != 0
        later = wait == self.hop and len(kept) == self.rows * self.row_bytes
        if not (isinstance(until, int) and isinstance(wait, int) and 1 <= until <= wait and (first or later)):
            raise LocalError(f"window state: kept, wait and until do not agree: {len(kept)} bytes, {wait!r}, {until!r}")
        size = self.row_bytes
        self._kept = deque((kept[i : i + size] for i in range(0, len(kept), size)), maxlen=self.rows)
        self._wait = wait
        self._until = until
