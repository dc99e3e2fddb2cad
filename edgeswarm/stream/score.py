"""One number per answer, and the residual that a stream may carry.  All in the model's (normalised) scale.

`value`                 output[index]
`max`                   the largest output
`reconstruction_error`  mean squared difference between the frame and the output (an autoencoder's)
`prediction_error`      mean squared difference between the previous frame's output and the newest row (a predictor's);
                        there is none for a frame whose predecessor has no answer: None, never 0
The residual is the absolute difference that the error squares, one number per field; for a window's reconstruction, the
largest over its rows.  Agents that neither reconstruct nor predict have a residual when the widths leave no doubt:
output as wide as a frame of several rows means reconstruction, as wide as a row means prediction.
"""

from __future__ import annotations

from operator import mul, sub
from typing import Literal

from edgeswarm.errors import ConfigError
from edgeswarm.stream.queue import Row

ScoreKind = Literal["value", "max", "reconstruction_error", "prediction_error"]
EmitKind = Literal["output", "score", "residual"]


class Scorer:
    """Scores of one agent: frames of `rows` rows with `width` values, answers of `output_width` values."""

    __slots__ = ("_index", "_predicts", "_rows", "_width", "kind", "needs_frame", "needs_previous")

    def __init__(
        self, kind: ScoreKind, *, index: int, rows: int, width: int, output_width: int, emit: EmitKind = "output"
    ) -> None:
        """Raises ConfigError when the widths do not allow what is asked for."""
        frame_width = rows * width
        if kind == "value" and not 0 <= index < output_width:
            raise ConfigError(f"score.index: expected 0 to {output_width - 1}, found {index}")
        if kind == "reconstruction_error" and output_width != frame_width:
            raise ConfigError(f"score reconstruction_error: expected {frame_width} outputs, found {output_width}")
        if kind == "prediction_error" and output_width != width:
            raise ConfigError(f"score prediction_error: expected {width} outputs, found {output_width}")
        if emit == "residual" and output_width not in (width, frame_width):
            raise ConfigError(f"emit residual: expected {width} or {frame_width} outputs, found {output_width}")
        self.kind = kind
        self._index = index
        self._rows = rows
        self._width = width
        predicts = kind == "prediction_error" or (kind != "reconstruction_error" and output_width != frame_width)
        self._predicts = predicts
        wanted = emit == "residual"
        self.needs_frame = kind == "reconstruction_error" or (wanted and not predicts)
        self.needs_previous = kind == "prediction_error" or (wanted and predicts)

    def score(self, output: Row, *, frame: Row, newest: Row, previous: Row | None) -> float | None:
        """The number.  frame: all its values, used where `needs_frame`; previous: where `needs_previous`."""
        kind = self.kind
        if kind == "value":
            return output[self._index]
        if kind == "max":
            return max(output)
        if kind == "reconstruction_error":
            return _mean_squared(frame, output)
        return None if previous is None else _mean_squared(previous, newest)

    def residual(self, output: Row, *, frame: Row, newest: Row, previous: Row | None) -> Row | None:
        """Absolute differences, `width` many; None where the score has none either."""
        if self._predicts:
            return None if previous is None else tuple(map(abs, map(sub, previous, newest)))
        differences = tuple(map(abs, map(sub, frame, output)))
        if self._rows == 1:
            return differences
        width = self._width
        return tuple(map(max, *(differences[at : at + width] for at in range(0, len(differences), width))))


def emit_width(emit: EmitKind, *, width: int, output_width: int) -> int:
    """How wide the rows of an agent's own stream are.  width: of its joined source rows."""
    return {"output": output_width, "score": 1, "residual": width}[emit]


def _mean_squared(left: Row, right: Row) -> float:
    differences = tuple(map(sub, left, right))
    total: float = sum(map(mul, differences, differences))
    return total / len(differences)
