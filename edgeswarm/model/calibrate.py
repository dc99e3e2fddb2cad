"""From float32 to 8 bits by measurement: ranges from rows of data, then each path judged on the same rows.

The loss by which a path is judged is a share from 0 to 1: of rows answered rightly that are so no more, where the rows
come with classes; else of rows whose greatest answer is another, for a net that classifies; else the mean error in
units of the answers' spread.  The path taken is the first of PATHS (the fastest) within the bound, else the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import InputError, LimitError, ModelError
from edgeswarm.limits import CALIBRATION_ROWS_MIN, CALIBRATION_VALUES_MAX
from edgeswarm.model.mlp import F32, Mlp
from edgeswarm.model.quantize import F32_MAX, IN_STEPS, PATHS, QuantizedMlp, Steps, forward, quantize, trace
from edgeswarm.model.reference import FUNCTIONS
from edgeswarm.model.seeded import uniform

METHODS = ("minmax", "percentile")
PERCENTILE_DEFAULT = 99.9
LOSS_MAX_DEFAULT = 0.01
_GOLDEN_TRIES = 8  # rows drawn for each golden row that is kept

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows to calibrate and judge with.

    rows: float32[n, inputs].  classes: the right one of each row, or None.  targets: the right answers, or None.
    classifies: whether the greatest of a row's answers is what counts.
    """

    rows: F32
    classes: NDArray[np.int64] | None = None
    targets: F32 | None = None
    classifies: bool = False

    def check(self, model: Mlp) -> None:
        """Raises InputError for too few rows or another width, LimitError for more than can be held."""
        if self.rows.ndim != 2 or self.rows.shape[1] != model.sizes[0]:
            raise InputError(f"calibration: expected rows of {model.sizes[0]} values, found {self.rows.shape}")
        if len(self.rows) < CALIBRATION_ROWS_MIN:
            raise InputError(
                f"calibration: expected at least {CALIBRATION_ROWS_MIN} rows (CALIBRATION_ROWS_MIN), "
                f"found {len(self.rows)}"
            )
        most = CALIBRATION_VALUES_MAX // max(model.sizes)
        if len(self.rows) > most:
            raise LimitError(
                f"calibration: at most {most} rows for this model (CALIBRATION_VALUES_MAX), found {len(self.rows)}"
            )


@dataclass(frozen=True, slots=True)
class Report:
    """What one path costs.  error_*: |int8 - float32| of the answers.  Shares from 0 to 1, None where there is none.

    target_error_*: mean |answer - target|, before (float32) and after.
    """

    path: str
    rows: int
    error_max: float
    error_mean: float
    loss: float
    measure: str
    agreement: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    target_error_before: float | None = None
    target_error_after: float | None = None


def ranges(model: Mlp, rows: F32, *, method: str, percentile: float = PERCENTILE_DEFAULT) -> list[tuple[float, float]]:
    """The range of each layer's input over the rows: least and greatest, or the percentiles 100 - p and p."""
    if method not in METHODS or not 50 < percentile <= 100:
        raise InputError(
            f"calibration: expected {' or '.join(METHODS)} and a percentile above 50, up to 100, "
            f"found {method!r} and {percentile}"
        )
    found = []
    for x in _inputs(model, rows)[:-1]:
        if method == "minmax" or percentile == 100:
            found.append((float(x.min()), float(x.max())))
        else:
            low, high = np.percentile(x, [100 - percentile, percentile])
            found.append((float(low), float(high)))
    return found


def judge(model: QuantizedMlp, samples: Samples, expected: F64) -> Report:
    """What `model` loses against `expected`, the float32 model's answers to the samples' rows.

    Raises ModelError where answers are past float32: a loss of NaN would pass every bound.
    """
    found = forward(model, samples.rows).astype(np.float64)
    if not (np.isfinite(found).all() and np.abs(expected).max() <= F32_MAX):
        raise ModelError(f"answers on the path {model.path}: expected finite float32 numbers, found others; scale them")
    error = np.abs(found - expected)
    values: dict[str, float | None] = {}
    spread = float(expected.max() - expected.min()) or float(np.abs(expected).max()) or 1.0
    loss, measure = min(1.0, float(error.mean()) / spread), "mean error as a share of the answers' spread"
    if samples.classifies or samples.classes is not None:
        before, after = expected.argmax(axis=1), found.argmax(axis=1)
        agreement = float((before == after).mean())
        values["agreement"] = agreement
        loss, measure = 1 - agreement, "rows whose greatest answer is another"
        if samples.classes is not None:
            right, still = float((before == samples.classes).mean()), float((after == samples.classes).mean())
            values |= {"accuracy_before": right, "accuracy_after": still}
            loss, measure = max(0.0, right - still), "accuracy lost on the rows' classes"
    if samples.targets is not None:
        values["target_error_before"] = float(np.abs(expected - samples.targets).mean())
        values["target_error_after"] = float(np.abs(found - samples.targets).mean())
    return Report(model.path, len(found), float(error.max()), float(error.mean()), loss, measure, **values)


def choose(
    model: Mlp,
    samples: Samples,
    *,
    method: str = "minmax",
    percentile: float = PERCENTILE_DEFAULT,
    loss_max: float = LOSS_MAX_DEFAULT,
    paths: Sequence[str] = tuple(PATHS),
) -> tuple[QuantizedMlp, list[Report]]:
    """The model on the path taken, and a report of each path that was tried; the last is not always the taken one."""
    samples.check(model)
    found = ranges(model, samples.rows, method=method, percentile=percentile)
    expected = _inputs(model, samples.rows)[-1]
    tried: list[tuple[QuantizedMlp, Report]] = []
    for path in paths:
        candidate = quantize(model, [Steps.of_range(low, high, path) for low, high in found], path)
        tried.append((candidate, judge(candidate, samples, expected)))
        if tried[-1][1].loss <= loss_max:
            return candidate, [report for _, report in tried]
    best = min(tried, key=lambda pair: (pair[1].loss, pair[1].error_mean))
    return best[0], [report for _, report in tried]


def golden_rows(model: QuantizedMlp, count: int, seed: int) -> F32:
    """Rows over the input's range with the model's own answers: float32[count, inputs + outputs].

    Where an activation is taken in float, kernels may differ from numpy in its last digits; kept are the rows whose
    values stay furthest from the middle between two steps, so that the same whole numbers come out everywhere.
    """
    x, (least, greatest) = model.steps[0], PATHS[model.path]
    low, high = x.scale * (least - x.zero_point), x.scale * (greatest - x.zero_point)
    draws = uniform(seed, count * _GOLDEN_TRIES * model.sizes[0], stream=-1).astype(np.float64)
    rows = (low + (draws + 1) / 2 * (high - low)).astype(np.float32).reshape(-1, model.sizes[0])
    seen = trace(model, rows)
    margin: F64 = np.ones(len(rows))
    for index, layer in enumerate(model.layers[:-1]):
        if layer.activation not in IN_STEPS:
            t = seen[index + 1].astype(np.float64)
            margin = np.minimum(margin, np.abs(t - np.floor(t) - 0.5).min(axis=1))
    kept = np.sort(np.argsort(-margin, kind="stable")[:count])
    return np.hstack([rows[kept], seen[-1][kept]])


def _inputs(model: Mlp, rows: F32) -> list[F64]:
    """What each layer reads, then the answers, in float64."""
    x = rows.astype(np.float64)
    found = [x]
    with np.errstate(all="ignore"):
        for layer in model.layers:
            weights, bias = layer.folded
            x = FUNCTIONS[layer.activation](x @ weights.astype(np.float64) + bias)
            found.append(x)
    return found
