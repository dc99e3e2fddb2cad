"""Attributes and small inputs of a step, checked: what every reader of an operator starts with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import ModelError
from edgeswarm.limits import GRAPH_TENSOR_VALUES_MAX
from edgeswarm.model.onnx.draft import Draft
from edgeswarm.model.onnx.file import Step


def whole_attr(step: Step, name: str, default: int) -> int:
    """The attribute, a whole number."""
    value = step.attrs.get(name, default)
    if type(value) is not int:
        raise ModelError(f"{name}: expected a whole number, found {str(value)[:40]!r}")
    return value


def float_attr(step: Step, name: str, default: float) -> float:
    """The attribute, a finite number."""
    value = step.attrs.get(name, default)
    if type(value) is not float or not np.isfinite(value):
        raise ModelError(f"{name}: expected a finite number, found {str(value)[:40]!r}")
    return value


def text_attr(step: Step, name: str, default: str) -> str:
    """The attribute, a text."""
    value = step.attrs.get(name, default)
    if not isinstance(value, str):
        raise ModelError(f"{name}: expected a text, found {str(value)[:40]!r}")
    return value


def wholes_attr(
    step: Step,
    name: str,
    default: Sequence[int] | None,
    count: int | None = None,
    low: int = -GRAPH_TENSOR_VALUES_MAX,
    high: int = GRAPH_TENSOR_VALUES_MAX,
) -> tuple[int, ...]:
    """The attribute, `count` whole numbers (None: any number of them) from low to high.

    default: None where the attribute must be there.
    """
    value = step.attrs.get(name, default)
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(type(item) is int for item in value):
        raise ModelError(f"{name}: expected whole numbers, found {str(value)[:40]!r}")
    return _checked([item for item in value if isinstance(item, int)], name, count, low, high)


def wholes_input(
    draft: Draft,
    step: Step,
    index: int,
    name: str,
    count: int | None = None,
    low: int = -(1 << 63),
    high: int = (1 << 63) - 1,
) -> tuple[int, ...]:
    """Input `index`, `count` whole numbers of the file."""
    found = draft.numbers(step, index, name)
    if found.dtype.kind not in "iu" or found.ndim > 1 or found.size > 64:
        raise ModelError(f"{name}: expected a few whole numbers, found {found.dtype} {list(found.shape)}")
    return _checked([int(value) for value in found.reshape(-1)], name, count, low, high)


def wholes_either(
    draft: Draft, step: Step, index: int, name: str, default: Sequence[int] | None = None
) -> tuple[int, ...] | None:
    """What older operators have as an attribute and newer ones as input `index`; default where it is neither."""
    if draft.given(step, index):
        return wholes_input(draft, step, index, name)
    if name in step.attrs:
        return wholes_attr(step, name, None)
    return None if default is None else tuple(default)


def scalar_input(draft: Draft, step: Step, index: int, name: str) -> float | None:
    """Input `index`, one number of the file; None where it is left out."""
    if not draft.given(step, index):
        return None
    found = draft.numbers(step, index, name)
    if found.size != 1 or found.dtype.kind not in "fiu":
        raise ModelError(f"{name}: expected one number, found {found.dtype} {list(found.shape)}")
    return float(found.reshape(()))


def floats_input(draft: Draft, step: Step, index: int, name: str, rank: int | None = None) -> NDArray[Any]:
    """Input `index`, finite float numbers of `rank` axes, as float64."""
    found = draft.numbers(step, index, name)
    if found.dtype.kind != "f" or (rank is not None and found.ndim != rank):
        axes = "" if rank is None else f" of {rank} axes"
        raise ModelError(f"{name}: expected float numbers{axes}, found {found.dtype} {list(found.shape)}")
    if not np.isfinite(found).all():
        raise ModelError(f"{name}: expected finite numbers, found NaN or infinity")
    return found.astype(np.float64)


def single(values: NDArray[Any], what: str) -> NDArray[Any]:
    """Float64 as float32.  Raises ModelError for what float32 does not hold."""
    with np.errstate(over="ignore"):
        held = values.astype(np.float32)
    if not np.isfinite(held).all():
        raise ModelError(f"{what}: expected numbers that float32 holds, found larger ones")
    return held


def _checked(values: list[int], name: str, count: int | None, low: int, high: int) -> tuple[int, ...]:
    if count is not None and len(values) != count:
        raise ModelError(f"{name}: expected {count} numbers, found {len(values)}")
    if not all(low <= value <= high for value in values):
        raise ModelError(f"{name}: expected numbers from {low} to {high}, found {values[:8]}")
    return tuple(values)
