"""Values in and out of the API: rows as Python sequences, numpy arrays or memoryviews; answers as float32 buffers."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgeswarm.errors import InputError
from edgeswarm.stream.pipeline import Outcome


class SupportsToList(Protocol):
    """numpy arrays, array.array and memoryviews."""

    def tolist(self) -> Any: ...


Values = Sequence[float] | SupportsToList


@dataclass(frozen=True, slots=True)
class Answer:
    """What an agent said of one frame.  values: the kernel's output, without its memory."""

    values: tuple[float, ...]
    label: str
    score: float | None
    flagged: bool
    changed: bool

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """numpy.asarray(answer): float32[outputs]."""
        import numpy

        return numpy.asarray(array("f", self.values), dtype=dtype or numpy.float32)


def answer_of(outcome: Outcome) -> Answer:
    decision = outcome.decision
    return Answer(outcome.output, decision.label, outcome.score, decision.flagged, decision.changed)


def row_of(values: Values) -> Sequence[float]:
    """One row as a sequence of floats.

    Raises InputError for what is no row of numbers: raw bytes, several dimensions, a mapping.
    """
    row: Any = None
    if isinstance(values, (tuple, list)):
        row = values
    elif isinstance(values, memoryview) and values.format in ("B", "b", "c"):
        raise InputError("input: expected numbers, found a memoryview of bytes; cast it: view.cast('f')")
    elif hasattr(values, "tolist"):
        row = values.tolist()
    elif isinstance(values, Sequence) and not isinstance(values, (str, bytes, bytearray)):
        row = list(values)
    if not isinstance(row, (tuple, list)) or any(isinstance(value, (list, str, bytes, complex)) for value in row):
        raise InputError(f"input: expected one row of numbers, found {type(values).__name__}")
    return row
