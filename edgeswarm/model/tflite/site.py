"""What the conversion of one operator sees: what it reads, and how it writes.

A file's tensors have all their axes; those of a graph have no batch.  A tensor whose first axis of several is 1 stands
in the graph without it (`rows_shape`), any other one as it is; both are the same values in the same order, so that a
reshape, which costs nothing, leads from one to the other.  8 bits without a sign stand in the graph as those with one,
their zero point less 128.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import (
    GRAPH_AXES_MAX,
    GRAPH_TENSOR_VALUES_MAX,
    TFLITE_AXES_MAX,
    TFLITE_FOLDED_VALUES_MAX,
    TFLITE_PARAMS_RATIO_MAX,
)
from edgeswarm.model.graph import Builder
from edgeswarm.model.nodes import SCALES, Attr, Tensor
from edgeswarm.model.tflite.file import FileOp, FileTensor, TfliteFile

QUANTISED = ("i8", "u8")
SCALE_TOLERANCE = 1e-6  # by which TFLite lets scales differ that must be equal


@dataclass(frozen=True, slots=True)
class Value:
    """A computed tensor: the tensor `at` of the graph.  shape: with all axes."""

    at: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Phases:
    """A tensor taken apart by SPACE_TO_BATCH_ND: `at` holds it whole, with the axes `plain`; block: phases an axis."""

    at: int
    plain: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """As the file has it: all phases in the first axis."""
        sides = (side // b for side, b in zip(self.plain[1:], self.block[1:], strict=True))
        return math.prod(self.block), *sides


@dataclass(slots=True)
class State:
    """A conversion under way.

    values: computed tensors by their index in the file.  phases: those in phases.  constants: those that are known,
    computed while importing among them.  left_bytes: of params and constants that may still be made.  notes: worth
    telling, each once.
    """

    file: TfliteFile
    builder: Builder
    values: dict[int, Value] = field(default_factory=dict)
    phases: dict[int, Phases] = field(default_factory=dict)
    constants: dict[int, NDArray[Any]] = field(default_factory=dict)
    left_bytes: int = 0
    notes: dict[str, None] = field(default_factory=dict)


def rows_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """How a tensor of `shape` stands in the graph."""
    if len(shape) > 1 and shape[0] == 1:
        return tuple(shape[1:])
    return tuple(shape) or (1,)


def params_budget(size_bytes: int) -> int:
    """Bytes of weights that a file of this size may become."""
    return TFLITE_PARAMS_RATIO_MAX * size_bytes


def described(index: int, tensor: FileTensor) -> str:
    """How messages name a tensor."""
    return f"tensor {index} ({tensor.name})" if tensor.name else f"tensor {index}"


def steps_of(tensor: FileTensor, what: str) -> tuple[float, int]:
    """Scale and zero point of a quantised tensor, as the graph has them.  Raises ModelError for none or several."""
    scales, points = tensor.scales, tensor.zero_points
    if len(scales) != 1 or len(points) > 1:
        raise ModelError(f"{what}: expected one scale and zero point, found {len(scales)} and {len(points)}")
    scale, point = float(scales[0]), int(points[0]) if len(points) else 0
    least = 0 if tensor.dtype == "u8" else -128
    if not SCALES[0] <= scale <= SCALES[1]:  # nor is NaN
        raise ModelError(f"{what}: expected a scale above 0, from 2^-126 to 2^126, found {scale}")
    if not least <= point <= least + 255:
        raise ModelError(f"{what}: expected a zero point from {least} to {least + 255}, found {point}")
    return scale, point - 128 - least


def tensor_of(tensor: FileTensor, shape: Sequence[int], what: str) -> Tensor:
    """A tensor of the graph for one of the file, f32 or 8 bits."""
    shape = rows_shape(shape)
    if not 1 <= len(shape) <= GRAPH_AXES_MAX or min(shape) < 1:
        raise ModelError(f"{what}: expected up to {GRAPH_AXES_MAX} axes besides the batch, found {list(tensor.shape)}")
    if tensor.dtype in QUANTISED:
        return Tensor(shape, "i8", *steps_of(tensor, what))
    if tensor.dtype != "f32":
        raise ModelError(f"{what}: expected f32 or i8, found {tensor.dtype}; convert it to float32 or full int8")
    return Tensor(shape)


class Site:
    """One operator.  Inputs and outputs are counted as the operator counts them."""

    def __init__(self, state: State, op: FileOp) -> None:
        self.state = state
        self.op = op

    # --- what it reads

    def has(self, i: int) -> bool:
        """Whether it has the input i."""
        return i < len(self.op.inputs) and self.op.inputs[i] >= 0

    def tensor(self, i: int) -> FileTensor:
        """The input i as the file says it."""
        if not self.has(i):
            raise ModelError(f"expected an input {i}, found {len(self.op.inputs)} inputs")
        tensor = self.state.file.tensors[self.op.inputs[i]]
        if tensor.odd:
            raise ModelError(f"{self.name(i)}: expected a plain tensor, found one that is {tensor.odd}")
        return tensor

    def name(self, i: int) -> str:
        """How messages name the input i."""
        at = self.op.inputs[i]
        return f"input {i}, {described(at, self.state.file.tensors[at])}"

    def dtype(self, i: int) -> str:
        return self.tensor(i).dtype

    def known(self, i: int) -> NDArray[Any] | None:
        """The values of the input i, where they do not depend on what the model is given."""
        return self.state.constants.get(self.op.inputs[i]) if self.has(i) else None

    def shape(self, i: int) -> tuple[int, ...]:
        """All axes of the input i."""
        self.tensor(i)
        known = self.known(i)
        return known.shape if known is not None else self._value(i).shape

    def phases(self, i: int) -> Phases | None:
        """The input i, where it stands in phases."""
        return self.state.phases.get(self.op.inputs[i]) if self.has(i) else None

    def _value(self, i: int) -> Value:
        at = self.op.inputs[i]
        if at in self.state.phases:
            raise ModelError(
                f"{self.name(i)}: expected a convolution between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND, found this"
            )
        if at not in self.state.values:
            raise ModelError(f"{self.name(i)}: expected a tensor that an earlier operator writes, found none")
        return self.state.values[at]

    def constant(self, i: int, what: str, *dtypes: str) -> NDArray[Any]:
        """The values of the input i, which must be known and of one of `dtypes`."""
        tensor, known = self.tensor(i), self.known(i)
        if known is None:
            raise ModelError(f"{self.name(i)}: expected constant {what}, found what another operator computes")
        if tensor.dtype not in dtypes:
            raise ModelError(f"{self.name(i)}: expected {what} of {' or '.join(dtypes)}, found {tensor.dtype}")
        return known

    def numbers(self, i: int, what: str) -> list[int]:
        """The whole numbers of a small constant, flat."""
        held = self.constant(i, what, "i32", "i64")
        if held.size > TFLITE_FOLDED_VALUES_MAX:
            raise LimitError(
                f"{self.name(i)}: at most {TFLITE_FOLDED_VALUES_MAX} {what} (TFLITE_FOLDED_VALUES_MAX), "
                f"found {held.size}"
            )
        return [int(n) for n in held.ravel()]

    def read(self, i: int, *dtypes: str) -> int:
        """The graph's tensor of the input i, which must be of one of `dtypes`; a constant becomes one."""
        tensor, known = self.tensor(i), self.known(i)
        if tensor.dtype not in dtypes:
            raise ModelError(f"{self.name(i)}: expected {' or '.join(dtypes)}, found {tensor.dtype}")
        if known is None:
            return self._value(i).at
        return self.make_constant(known, tensor_of(tensor, known.shape, self.name(i)), unsigned=tensor.dtype == "u8")

    def make_constant(self, values: NDArray[Any], like: Tensor, *, unsigned: bool = False) -> int:
        """A tensor of the graph that holds `values`."""
        held = (values.astype(np.int16) - 128).astype(np.int8) if unsigned else values
        held = held.reshape(like.shape).astype(np.int8 if like.dtype == "i8" else np.float32)
        return self.add("constant", [], {"value": held}, like=like, shape=like.shape, dtype=like.dtype)

    def option(self, key: str) -> Any:
        """An option.  Raises ModelError where the file has none of them."""
        if self.op.options is None:
            raise ModelError(f"expected its options ({key}), found none")
        return self.op.options[key]

    def axis(self, value: int, axes: int) -> int:
        """An axis, counted from the end where it is below 0."""
        if not -axes <= value < axes:
            raise ModelError(f"axis: expected {-axes} to {axes - 1}, found {value}")
        return value % axes

    # --- what it writes

    @property
    def out(self) -> FileTensor:
        return self.output(0)

    def output(self, k: int) -> FileTensor:
        """The output k as the file says it."""
        if k >= len(self.op.outputs) or self.op.outputs[k] < 0:
            raise ModelError(f"expected an output {k}, found {len(self.op.outputs)} outputs")
        tensor = self.state.file.tensors[self.op.outputs[k]]
        if tensor.odd:
            raise ModelError(f"{self.output_name(k)}: expected a plain tensor, found one that is {tensor.odd}")
        return tensor

    def output_name(self, k: int) -> str:
        at = self.op.outputs[k]
        return f"output {k}, {described(at, self.state.file.tensors[at])}"

    def steps(self, k: int = 0) -> tuple[float, int]:
        """Scale and zero point of the output k, which must be i8."""
        if self.output(k).dtype != "i8":
            raise ModelError(f"{self.output_name(k)}: expected i8 as its input, found {self.output(k).dtype}")
        return steps_of(self.output(k), self.output_name(k))

    def like(self, k: int = 0) -> Tensor:
        """A tensor with the output's scale and zero point; its shape is for the operator to say."""
        return Tensor((1,), "i8", *self.steps(k))

    def add(
        self,
        op: str,
        inputs: Sequence[int],
        params: Mapping[str, ArrayLike] | None = None,
        *,
        like: Tensor | None = None,
        **attrs: Attr,
    ) -> int:
        """A node of the graph: the tensor it writes.  Raises LimitError past what a file of this size may become."""
        arrays = {name: np.ascontiguousarray(value) for name, value in (params or {}).items()}
        self.take(sum(array.nbytes for array in arrays.values()))
        return self.state.builder.add(op, inputs, arrays, like=like, **attrs)

    def take(self, size_bytes: int) -> None:
        """Count bytes that are about to be made of the file's.  Raises LimitError."""
        self.state.left_bytes -= size_bytes
        if self.state.left_bytes < 0:
            most = params_budget(self.state.file.size_bytes)
            raise LimitError(
                f"weights: at most {TFLITE_PARAMS_RATIO_MAX} bytes for each of the file's "
                f"(TFLITE_PARAMS_RATIO_MAX), {most}, found more: operators share them"
            )

    def operand(self, i: int, shape: Sequence[int], *dtypes: str) -> int:
        """The input i as a tensor of the graph with the axes `shape`."""
        known = self.known(i)
        if known is None:
            return self.reshaped(self.read(i, *dtypes), shape)
        if self.dtype(i) not in dtypes:
            raise ModelError(f"{self.name(i)}: expected {' or '.join(dtypes)}, found {self.dtype(i)}")
        like = tensor_of(self.tensor(i), known.shape, self.name(i))
        return self.make_constant(known, replace(like, shape=tuple(shape)), unsigned=self.dtype(i) == "u8")

    def graph_tensor(self, at: int) -> Tensor:
        return self.state.builder.tensors[at]

    def reshaped(self, at: int, shape: Sequence[int]) -> int:
        """The tensor `at` with these axes, of the graph."""
        shape = tuple(shape)
        if self.graph_tensor(at).shape == shape:
            return at
        return self.add("reshape", [at], shape=shape)

    def write(self, at: int, shape: Sequence[int], k: int = 0, *, moved: bool = False) -> None:
        """The output k is the graph's tensor `at`, whose values are those of `shape`, with all axes.

        moved: the operator copies bits, whatever they stand for in the file's eyes.  Raises ModelError where the file
        says another shape, type, scale or zero point.
        """
        shape, said = tuple(shape), self.output(k)
        self._free(k)
        self._check_shape(shape, k)
        at = self.reshaped(at, rows_shape(shape))
        held = self.graph_tensor(at)
        if (said.dtype in QUANTISED) != (held.dtype == "i8") or said.dtype not in ("f32", *QUANTISED):
            raise ModelError(f"{self.output_name(k)}: expected {held.dtype}, found {said.dtype}")
        if held.dtype == "i8":
            scale, point = steps_of(said, self.output_name(k))
            if (scale, point) != (held.scale, held.zero_point):
                if not moved and (point != held.zero_point or abs(scale - held.scale) > SCALE_TOLERANCE):
                    raise ModelError(
                        f"{self.output_name(k)}: expected the scale and zero point of its input, "
                        f"{held.scale:.9g} and {held.zero_point}, found {scale:.9g} and {point}"
                    )
                same = np.arange(-128, 128).astype(np.int8)
                at = self.add("lookup_i8", [at], {"table": same}, like=Tensor(held.shape, "i8", scale, point))
        self.state.values[self.op.outputs[k]] = Value(at, shape)

    def write_phases(self, phases: Phases) -> None:
        """The output is a tensor in phases."""
        self._free(0)
        self._check_shape(phases.shape, 0)
        self.state.phases[self.op.outputs[0]] = phases

    def fold(self, values: NDArray[Any], k: int = 0) -> None:
        """The output k is known."""
        self.check_axes(values.shape)
        self._free(k)
        self._check_shape(values.shape, k)
        self.take(values.nbytes)
        self.state.constants[self.op.outputs[k]] = values

    def check_axes(self, shape: Sequence[int]) -> None:
        """Raises ModelError for more axes than a tensor may have; numpy itself knows 32, or 64."""
        if len(shape) > TFLITE_AXES_MAX:
            raise ModelError(f"shape: expected at most {TFLITE_AXES_MAX} axes, found {len(shape)}")

    def _free(self, k: int) -> None:
        self.output(k)
        at = self.op.outputs[k]
        if at in self.state.values or at in self.state.constants or at in self.state.phases:
            raise ModelError(f"{self.output_name(k)}: expected a tensor of its own, found one that is written already")

    def _check_shape(self, shape: tuple[int, ...], k: int) -> None:
        said = self.output(k)
        opened = said.open or (False,) * len(said.shape)
        same = len(said.shape) == len(shape) and all(
            a == b or free for a, b, free in zip(said.shape, shape, opened, strict=True)
        )
        if not same and said.shape:  # without axes: a scalar, or an older file that does not say
            raise ModelError(f"{self.output_name(k)}: expected the shape {list(shape)}, found {list(said.shape)}")
        if math.prod(shape) > GRAPH_TENSOR_VALUES_MAX and self.op.outputs[k] not in self.state.constants:
            raise LimitError(
                f"{self.output_name(k)}: at most {GRAPH_TENSOR_VALUES_MAX} values (GRAPH_TENSOR_VALUES_MAX), "
                f"found {list(shape)}"
            )

    def note(self, text: str) -> None:
        self.state.notes[text] = None
