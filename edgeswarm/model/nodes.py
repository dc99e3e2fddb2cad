"""What a model graph is made of: tensors (values of one row between two operators) and nodes (operators).

Both are plain data, frozen.  `graph.Outline` checks that they fit together; what a node computes is in `ops.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import GRAPH_AXES_MAX, GRAPH_TENSOR_VALUES_MAX

DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "f32": np.dtype("<f4"),
        "i8": np.dtype("i1"),
        "u7": np.dtype("i1"),  # 0 to 127: what the relaxed 8-bit dot product takes as its second operand
        "u8": np.dtype("u1"),
        "i32": np.dtype("<i4"),
    }
)
"""Types of tensors and of params: name -> how numpy holds them, little-endian."""

RANGES: Mapping[str, tuple[int, int]] = MappingProxyType({"i8": (-128, 127), "u7": (0, 127), "u8": (0, 255)})
"""Least and greatest value of a quantised dtype."""

SCALES = 2.0**-126, 2.0**126
"""Kernels hold a scale and its inverse as normal float32."""

Attr = int | float | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Values of one row: `shape` has no batch axis.  A quantised value q stands for scale * (q - zero_point).

    Raises ModelError for a dtype or shape that does not exist, LimitError past GRAPH_TENSOR_VALUES_MAX.
    """

    shape: tuple[int, ...]
    dtype: str = "f32"
    scale: float = 1.0
    zero_point: int = 0

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "shape", tuple(operator.index(axis) for axis in self.shape))
            object.__setattr__(self, "scale", float(self.scale))
            object.__setattr__(self, "zero_point", operator.index(self.zero_point))
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"tensor: expected a shape of whole numbers, a scale, a zero point: {error}") from None
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise ModelError(f"tensor: expected a dtype of {', '.join(DTYPES)}, found {self.dtype!r}")
        if not 1 <= len(self.shape) <= GRAPH_AXES_MAX or min(self.shape) < 1:
            raise ModelError(f"tensor: expected 1 to {GRAPH_AXES_MAX} axes of at least 1, found {list(self.shape)}")
        if self.size > GRAPH_TENSOR_VALUES_MAX:
            raise LimitError(
                f"tensor: at most {GRAPH_TENSOR_VALUES_MAX} values (GRAPH_TENSOR_VALUES_MAX), found {list(self.shape)}"
            )
        if not SCALES[0] <= self.scale <= SCALES[1]:  # nor is NaN
            raise ModelError(f"tensor: expected a scale above 0, from 2^-126 to 2^126, found {self.scale}")
        least, greatest = RANGES.get(self.dtype, (-(1 << 31), (1 << 31) - 1))
        if not least <= self.zero_point <= greatest:
            found = str(self.zero_point)[:40]
            raise ModelError(f"tensor: expected a zero point from {least} to {greatest}, found {found}")
        if self.dtype == "f32" and (self.scale, self.zero_point) != (1.0, 0):
            raise ModelError("tensor: expected scale 1 and zero point 0 for f32, found others")

    @property
    def size(self) -> int:
        """Values of one row."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator: reads the tensors `inputs`, writes the tensor `output` (indices into the graph's tensors).

    attrs: what shapes the code (sizes, the activation).  params: what a swap of weights replaces, name -> array.
    """

    op: str
    inputs: tuple[int, ...]
    output: int
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    params: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))


@dataclass(frozen=True, slots=True)
class Param:
    """What an operator expects of one of its params."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def frozen_param(value: ArrayLike, param: Param, what: str) -> NDArray[Any]:
    """`value` as a read-only, contiguous array.  Raises ModelError unless it is what `param` says, and finite."""
    array = np.asarray(value)
    dtype = DTYPES[param.dtype]
    if array.shape != param.shape:
        raise ModelError(f"{what}: expected the shape {list(param.shape)}, found {list(array.shape)}")
    if array.dtype != dtype:
        raise ModelError(f"{what}: expected the dtype {param.dtype}, found {array.dtype}")
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ModelError(f"{what}: expected finite numbers, found NaN or infinity")
    own = array.flags.owndata or isinstance(array.base, bytes)  # a view may change with what it is a view of
    if not own or not array.flags.c_contiguous or array.flags.writeable:
        array = np.array(array, order="C")
        array.setflags(write=False)
    return array
