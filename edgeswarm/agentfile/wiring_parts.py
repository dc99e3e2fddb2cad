"""What the keys of sources and sinks have in common: names, paths, queues, and what a text may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from edgeswarm.ids import NAME_PATTERN
from edgeswarm.limits import KERNEL_WIDTH_MAX, QUEUE_ROWS_DEFAULT, QUEUE_ROWS_MAX, SOURCE_WIDTH_MAX
from edgeswarm.schema import Doc, Length, Pattern, Range

Name = Annotated[str, Pattern(NAME_PATTERN.pattern, "a name of 1 to 64 characters: a-z, 0-9, -, a letter first")]
FilePath = Annotated[str, Length(1, 1024)]
FieldNames = Annotated[tuple[Annotated[str, Length(1, 128)], ...], Length(1, SOURCE_WIDTH_MAX)]
Command = Annotated[
    tuple[Annotated[str, Length(0, 4096)], ...], Length(1, 64), Doc("program and its arguments; no shell")
]
Vector = Annotated[tuple[float, ...], Length(0, KERNEL_WIDTH_MAX)]
Rate = Annotated[float, Range(0.001, 10_000.0, "Hz")]
Fields = Annotated[FieldNames, Doc("names of the values of a row, in their order; their number is the source's width")]
TextFormat = Annotated[Literal["csv", "jsonl"], Doc("csv: numbers in the order of `fields`; jsonl: an object a line")]
Id = Annotated[
    Annotated[str, Pattern(f"({NAME_PATTERN.pattern})?", "a name, or nothing")],
    Doc("name of the source in logs and counters; absent: its type"),
]


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits between a source and its agent."""

    policy: Annotated[
        Literal["block", "drop_oldest", "latest_only"],
        Doc("when full: hold the source back, let the oldest row go, keep the newest row only; drops are counted"),
    ] = "block"
    rows: Annotated[int, Range(1, QUEUE_ROWS_MAX, "rows"), Doc("how many rows may wait")] = QUEUE_ROWS_DEFAULT


QueueKey = Annotated[Queue, Doc("what waits between this source and the agent")]
When = Annotated[Literal["always", "decision_changed"], Doc("every answer, or those that change the decision")]
