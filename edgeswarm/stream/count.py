"""The counters of one agent's stream, and the law they keep (written out in `pipeline`).  All count since the start."""

from __future__ import annotations

from collections.abc import Sequence

from edgeswarm.stream.flight import SetAside
from edgeswarm.stream.join import SourceCount


class Counters:
    """Plain numbers, written by `Pipeline` only.  Rows where the name says rows or the law names it, else frames."""

    __slots__ = (
        "abandoned", "answered", "carried", "changed", "decisions", "flagged", "frames", "last_set_aside", "malformed",
        "refused", "resent", "rows_answered", "rows_set_aside", "set_aside", "unexpected", "unscored", "unusable",
        "warmup",
    )  # fmt: skip

    def __init__(self) -> None:
        self.malformed: dict[str, int] = {}  # rows refused for good, by kind
        self.refused = 0  # offers that met a full `block` queue: the caller keeps the row
        self.warmup = 0  # joined rows that the normalizer learnt from
        self.unusable = 0  # joined rows that normalisation took out of float32
        self.carried = 0  # rows that came with a checkpoint
        self.abandoned = 0  # joined rows given up with the agent's last version, which could not take them over
        self.frames = 0
        self.resent = 0
        self.answered = 0
        self.rows_answered = 0
        self.set_aside = {"poison": 0, "fault": 0, "answer": 0}
        self.rows_set_aside = 0
        self.last_set_aside: SetAside | None = None
        self.unexpected = 0  # answers to frames that were not in flight
        self.decisions = 0
        self.changed = 0
        self.flagged = 0
        self.unscored = 0  # decisions without a score: the first prediction, or the one after a gap

    def lost(self, sources: Sequence[SourceCount], *, held: int, flying: int) -> int:
        """Rows that no term of the law accounts for; each stage by itself, so that two faults cannot cancel out."""
        waiting = sum(abs(one.rows_in - one.joined - one.dropped - one.queued) for one in sources)
        known = self.warmup + self.unusable + held + flying + self.rows_answered + self.rows_set_aside + self.abandoned
        return waiting + abs(sources[0].joined + self.carried - known)

    def tally(
        self, sources: Sequence[SourceCount], *, held: int, flying: int, in_flight: int, again: int
    ) -> dict[str, object]:
        """Everything as one flat table of numbers, and the sources' rows and kinds as tables in it."""
        return {
            "sources": [one._asdict() for one in sources],
            "rows_in": sum(one.rows_in for one in sources),
            "queued": sum(one.queued for one in sources),
            "dropped": sum(one.dropped for one in sources),
            "malformed": dict(self.malformed),
            "refused": self.refused,
            "joined": sources[0].joined,
            "carried": self.carried,
            "warmup": self.warmup,
            "unusable": self.unusable,
            "held": held,
            "flying": flying,
            "rows_answered": self.rows_answered,
            "rows_set_aside": self.rows_set_aside,
            "abandoned": self.abandoned,
            "frames": self.frames,
            "in_flight": in_flight,
            "again": again,
            "answered": self.answered,
            "set_aside": dict(self.set_aside),
            "resent": self.resent,
            "unexpected": self.unexpected,
            "decisions": self.decisions,
            "changed": self.changed,
            "flagged": self.flagged,
            "unscored": self.unscored,
            "lost": self.lost(sources, held=held, flying=flying),
        }
