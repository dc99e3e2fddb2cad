"""What the data plane tells the log: named events, each name at most once per interval and subject.

A source that goes bad sends thousands of bad rows a second; the log gets the first at once, and then one line per
interval that carries how many were held back.  Counting is done by the caller, for every row: only telling is limited.
Invariant: reported + suppressed (told or still waiting) == number of calls of `report`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgeswarm.limits import REPORT_INTERVAL_NS, REPORT_NAMES_MAX


class OnEvent(Protocol):
    """Takes a stable event name and its key-values; must not raise."""

    def __call__(self, name: str, /, **fields: object) -> None: ...


def ignore_event(name: str, /, **fields: object) -> None:
    """The listener of those who do not listen."""


class Reporter:
    """Passes events on, at most one per (name, kind) and `interval_ns`, with the count of those held back."""

    __slots__ = ("_interval_ns", "_last", "_now_ns", "_on_event", "_subject", "_suppressed")

    def __init__(
        self,
        on_event: OnEvent,
        *,
        now_ns: Callable[[], int],
        interval_ns: int = REPORT_INTERVAL_NS,
        **subject: object,
    ) -> None:
        self._on_event = on_event
        self._now_ns = now_ns
        self._interval_ns = interval_ns
        self._subject = subject
        self._last: dict[tuple[str, str], int] = {}
        self._suppressed: dict[tuple[str, str], int] = {}

    def report(self, name: str, /, *, kind: str = "", **fields: object) -> bool:
        """Tell `name` now, or count it as suppressed.  True when it was told."""
        key = (name, kind)
        if key not in self._last and len(self._last) >= REPORT_NAMES_MAX:
            key = (name, "") if (name, "") in self._last else next(iter(self._last))
        now_ns = self._now_ns()
        last_ns = self._last.get(key)
        if last_ns is not None and now_ns - last_ns < self._interval_ns:
            self._suppressed[key] = self._suppressed.get(key, 0) + 1
            return False
        self._last[key] = now_ns
        held_back = self._suppressed.pop(key, 0)
        if kind:
            fields["kind"] = kind
        if held_back:
            fields["suppressed"] = held_back
        self._on_event(name, **self._subject, **fields)
        return True

    def suppressed(self) -> int:
        """How many events wait to be told as a number."""
        return sum(self._suppressed.values())
