"""Steps on numbers alone, done once at import: what exporters write to compute shapes, constants and weights.

Nothing larger than ONNX_FOLDED_VALUES_MAX is made, all steps together; sizes are known before anything is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import ONNX_AXES_MAX, ONNX_FOLDED_VALUES_MAX
from edgeswarm.model.onnx.file import Step
from edgeswarm.model.onnx.reading import whole_attr, wholes_attr

Numbers = NDArray[Any]
_TYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}


def fold(step: Step, inputs: Sequence[Numbers | None], room: int) -> Numbers | None:
    """What the step makes of numbers alone; None: it is none of FOLDED.

    room: how many values it may make.  Raises ModelError where numpy cannot, LimitError past `room`.
    """
    work = FOLDED.get(step.op)
    if work is None or step.domain:
        return None
    size, do = work
    given = [value for value in inputs if value is not None]
    try:
        count = size(step, given)
        if count > room:
            raise LimitError(f"steps without rows: at most {ONNX_FOLDED_VALUES_MAX} numbers (ONNX_FOLDED_VALUES_MAX)")
        with np.errstate(all="ignore"):
            made = np.asarray(do(step, given))
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise ModelError(f"expected numbers that fit together: {str(error)[:120]}") from None
    if made.ndim > ONNX_AXES_MAX or made.dtype.kind not in "fiub":
        raise ModelError(f"expected numbers of at most {ONNX_AXES_MAX} axes, found {made.dtype} of {made.ndim}")
    return made


def _same(step: Step, given: Sequence[Numbers]) -> int:
    return given[0].size


def _sum(step: Step, given: Sequence[Numbers]) -> int:
    return sum(value.size for value in given)


def _broadcast(step: Step, given: Sequence[Numbers]) -> int:
    return math.prod(np.broadcast_shapes(*(value.shape for value in given)))


def _gathered(step: Step, given: Sequence[Numbers]) -> int:
    axis = whole_attr(step, "axis", 0)
    return int(given[0].size // max(1, given[0].shape[axis]) * given[1].size)


def _filled(step: Step, given: Sequence[Numbers]) -> int:
    return math.prod(max(0, int(size)) for size in given[0].reshape(-1).tolist())


def _constant(step: Step, given: Sequence[Numbers]) -> Numbers:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in step.attrs:
            found = step.attrs[name]
            kind = None if isinstance(found, np.ndarray) else np.float32 if "float" in name else np.int64
            return np.asarray(found, kind)
    raise ModelError("expected a value of numbers, found none")


def _fill(step: Step, given: Sequence[Numbers]) -> Numbers:
    value = step.attrs.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise ModelError("value: expected one number")
    return np.full(given[0].reshape(-1).astype(np.int64).tolist(), value.reshape(()))


def _cast(step: Step, given: Sequence[Numbers]) -> Numbers:
    kind = whole_attr(step, "to", 0)
    if kind not in _TYPES:
        raise ModelError(f"to: expected a type of {sorted(_TYPES)}, found {kind}")
    return given[0].astype(_TYPES[kind])


def _reshape(step: Step, given: Sequence[Numbers]) -> Numbers:
    target = given[1].reshape(-1).astype(np.int64).tolist()
    shape = [given[0].shape[i] if size == 0 and i < given[0].ndim else size for i, size in enumerate(target)]
    return given[0].reshape(shape)


def _axes(step: Step, given: Sequence[Numbers]) -> tuple[int, ...] | None:
    if len(given) > 1:
        return tuple(int(axis) for axis in given[1].reshape(-1)[: ONNX_AXES_MAX + 1])
    return wholes_attr(step, "axes", None) if "axes" in step.attrs else None


def _squeeze(step: Step, given: Sequence[Numbers]) -> Numbers:
    return np.squeeze(given[0], _axes(step, given))


def _unsqueeze(step: Step, given: Sequence[Numbers]) -> Numbers:
    return np.expand_dims(given[0], _axes(step, given) or ())


def _transpose(step: Step, given: Sequence[Numbers]) -> Numbers:
    return np.transpose(given[0], wholes_attr(step, "perm", tuple(reversed(range(given[0].ndim)))))


def _flatten(step: Step, given: Sequence[Numbers]) -> Numbers:
    axis = whole_attr(step, "axis", 1)
    return given[0].reshape(math.prod(given[0].shape[:axis]), -1)


def _concat(step: Step, given: Sequence[Numbers]) -> Numbers:
    return np.concatenate(given, axis=whole_attr(step, "axis", 0))


def _gather(step: Step, given: Sequence[Numbers]) -> Numbers:
    return np.take(given[0], given[1].astype(np.int64), axis=whole_attr(step, "axis", 0))


def _slice(step: Step, given: Sequence[Numbers]) -> Numbers:
    if "starts" in step.attrs:
        far = 1 << 63
        starts, ends = (list(wholes_attr(step, name, None, None, -far, far)) for name in ("starts", "ends"))
        axes, steps = list(wholes_attr(step, "axes", tuple(range(len(starts))))), [1] * len(starts)
    else:
        found = [value.reshape(-1).astype(np.int64).tolist() for value in given[1:]]
        starts, ends = found[:2]
        axes = found[2] if len(found) > 2 else list(range(len(starts)))
        steps = found[3] if len(found) > 3 else [1] * len(starts)
    parts = [slice(None)] * given[0].ndim
    for start, end, axis, by in zip(starts, ends, axes, steps, strict=True):
        parts[axis] = slice(start, None if by < 0 and end < -given[0].shape[axis] else end, by)
    return given[0][tuple(parts)]


def _arithmetic(step: Step, given: Sequence[Numbers]) -> Numbers:
    a, b = given
    if a.dtype != b.dtype:
        raise ModelError(f"expected numbers of one type, found {a.dtype} and {b.dtype}")
    if step.op == "Div" and a.dtype.kind in "iu":
        if not b.all():
            raise ModelError("expected a divisor without 0, found one")
        return np.trunc(a / b).astype(a.dtype)
    works: Mapping[str, Callable[[Numbers, Numbers], Numbers]] = {
        "Add": np.add,
        "Sub": np.subtract,
        "Mul": np.multiply,
        "Div": np.divide,
    }
    return works[step.op](a, b)


def _unary(step: Step, given: Sequence[Numbers]) -> Numbers:
    works: Mapping[str, Callable[[Numbers], Numbers]] = {
        "Neg": np.negative,
        "Sqrt": np.sqrt,
        "Floor": np.floor,
        "Ceil": np.ceil,
    }
    return works[step.op](given[0])


Work = Callable[[Step, Sequence[Numbers]], Numbers]
FOLDED: dict[str, tuple[Callable[[Step, Sequence[Numbers]], int], Work]] = {
    "Constant": (lambda step, given: 0, _constant),
    "ConstantOfShape": (_filled, _fill),
    "Identity": (_same, lambda step, given: given[0]),
    "Cast": (_same, _cast),
    "Reshape": (_same, _reshape),
    "Squeeze": (_same, _squeeze),
    "Unsqueeze": (_same, _unsqueeze),
    "Transpose": (_same, _transpose),
    "Flatten": (_same, _flatten),
    "Concat": (_sum, _concat),
    "Gather": (_gathered, _gather),
    "Slice": (_same, _slice),
    "Shape": (lambda step, given: given[0].ndim, lambda step, given: np.array(given[0].shape, np.int64)),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), (_broadcast, _arithmetic)),
    **dict.fromkeys(("Neg", "Sqrt", "Floor", "Ceil"), (_same, _unary)),
}
"""Operator -> how many values it makes, and the work."""
