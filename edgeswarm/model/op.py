"""What an operator of a model graph is, and the checks that operators share.  The operators: `ops*.py`.

`reference` gets rows of shape (n, *tensor.shape) and gives such rows; quantised tensors travel as the whole numbers
they hold, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import ModelError
from edgeswarm.limits import FLOAT32_MAX
from edgeswarm.model.activations import ACTIVATIONS
from edgeswarm.model.nodes import Attr, Node, Param, Tensor

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Attrs = Mapping[str, Attr]


@dataclass(frozen=True, slots=True)
class Written:
    """What a node writes: shape, and the dtypes it can have.  steps: scale and zero point; None: the tensor says."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...] = ("f32",)
    steps: tuple[float, int] | None = None


def no_macs(inputs: Sequence[Tensor], attrs: Attrs) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Op:
    """One operator.

    inputs: fewest and most tensors it reads.  attrs: name -> type, all of them required.  infer: (tensors read, attrs)
    -> what it writes; raises ModelError if they do not fit.  params: the same -> what it needs.  reference: (node,
    tensors read, tensor written, rows read) -> rows.  lowering: its name in compile's registry.  check: (node, tensors
    read) raises ModelError for params whose values, not only shapes, must fit.  macs: (tensors read, attrs) ->
    multiplications and additions of one row, those with padding included.  looks: the same -> values that windows
    without weights look at: work, though it multiplies nothing.
    """

    inputs: tuple[int, int]
    attrs: Mapping[str, type]
    infer: Callable[[Sequence[Tensor], Attrs], Written]
    params: Callable[[Sequence[Tensor], Attrs], dict[str, Param]]
    reference: Callable[[Node, Sequence[Tensor], Tensor, Sequence[F64]], F64]
    lowering: str
    check: Callable[[Node, Sequence[Tensor]], None] = lambda node, inputs: None
    macs: Callable[[Sequence[Tensor], Attrs], int] = no_macs
    looks: Callable[[Sequence[Tensor], Attrs], int] = no_macs


def no_params(inputs: Sequence[Tensor], attrs: Attrs) -> dict[str, Param]:
    return {}


def whole(attrs: Attrs, name: str, low: int, high: int) -> int:
    """The attr `name`, which must be a whole number from `low` to `high`."""
    value = attrs[name]
    if type(value) is not int or not low <= value <= high:
        raise ModelError(f"{name}: expected a whole number from {low} to {high}, found {shown(value)}")
    return value


def wholes(attrs: Attrs, name: str, count: int | None, low: int, high: int) -> tuple[int, ...]:
    """The attr `name`, which must be `count` (None: any number of) whole numbers from `low` to `high`."""
    value = attrs[name]
    fits = isinstance(value, tuple) and count in (None, len(value))
    if not fits or not all(type(one) is int and low <= one <= high for one in value):  # type: ignore[union-attr]
        many = "" if count is None else f"{count} "
        raise ModelError(f"{name}: expected {many}whole numbers from {low} to {high}, found {shown(value)}")
    return value  # type: ignore[return-value]


def number(attrs: Attrs, name: str) -> float:
    """The attr `name`, which must be a number that float32 can hold."""
    value = attrs[name]
    if type(value) is not float or not -FLOAT32_MAX <= value <= FLOAT32_MAX:  # nor is NaN
        raise ModelError(f"{name}: expected a number from -3.4e38 to 3.4e38, found {shown(value)}")
    return value


def flat(tensor: Tensor, dtypes: Sequence[str]) -> int:
    """The width of a tensor of one axis and one of `dtypes`."""
    if len(tensor.shape) != 1 or tensor.dtype not in dtypes:
        raise ModelError(
            f"input: expected one axis of {' or '.join(dtypes)}, found {tensor.dtype} {list(tensor.shape)}"
        )
    return tensor.shape[0]


def of_dtype(inputs: Sequence[Tensor], dtype: str) -> None:
    """All of `inputs` must be of `dtype`."""
    for tensor in inputs:
        if tensor.dtype != dtype:
            raise ModelError(f"input: expected {dtype}, found {tensor.dtype} {list(tensor.shape)}")


def activation(attrs: Attrs) -> str:
    """The attr `activation`, any of them."""
    name = attrs["activation"]
    if name not in ACTIVATIONS:
        raise ModelError(f"activation: expected one of {', '.join(ACTIVATIONS)}, found {shown(name)}")
    return str(name)


def elementwise(attrs: Attrs) -> str:
    """The attr `activation`, one that looks at each value alone: all but softmax."""
    if activation(attrs) == "softmax":
        raise ModelError("activation: expected one that looks at each value alone, found softmax, which is an operator")
    return str(attrs["activation"])


def shown(value: Any) -> str:
    """A value out of a file, short enough for an error text."""
    if isinstance(value, int) and value.bit_length() > 128:  # Python refuses to write out the longest
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, tuple):
        text = "[" + ", ".join(shown(one) for one in value) + "]" if len(value) <= 16 else f"{len(value)} values"
    else:
        text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:77] + "..."
