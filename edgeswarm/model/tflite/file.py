"""A TFLite flatbuffer as plain, bounded data: tensors, operators and their options, nothing computed.

The package `tflite` reads where the bytes say, and believes every offset and length; so all of it happens here, behind
one guard: what it raises becomes a ModelError, nothing is copied for a declared length (arrays are views of the file),
and all vectors together are no longer than the file, so that tables which share bytes cannot make much of little.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import (
    GRAPH_NODES_MAX,
    MODEL_FILE_BYTES_MAX,
    TFLITE_AXES_MAX,
    TFLITE_NAME_CHARS_MAX,
    TFLITE_OP_TENSORS_MAX,
    TFLITE_TENSORS_MAX,
)
from edgeswarm.model.tflite import IDENTIFIER, is_tflite
from edgeswarm.model.tflite.schema import OPTIONS

DTYPES: Mapping[int, tuple[str, str]] = {
    0: ("f32", "<f4"), 1: ("f16", "<f2"), 2: ("i32", "<i4"), 3: ("u8", "u1"), 4: ("i64", "<i8"), 5: ("string", ""),
    6: ("bool", "?"), 7: ("i16", "<i2"), 8: ("complex64", ""), 9: ("i8", "i1"), 10: ("f64", "<f8"),
    11: ("complex128", ""), 12: ("u64", "<u8"), 13: ("resource", ""), 14: ("variant", ""), 15: ("u32", "<u4"),
    16: ("u16", "<u2"), 17: ("i4", ""), 18: ("bf16", ""),
}  # fmt: skip
"""The file's number for a type -> its name here, and how numpy holds it ("": it does not)."""

_CUSTOM = 32  # BuiltinOperator.CUSTOM: then the code has a name


@dataclass(frozen=True, slots=True, eq=False)
class FileTensor:
    """A tensor as the file says it; only its form is checked.

    shape: with the batch axis.  open: which axes the file leaves open.  data: of a constant, a read-only view of the
    file.  scales, zero_points: none, one, or one for each index along `axis`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    open: tuple[bool, ...] = ()
    data: NDArray[Any] | None = field(default=None, repr=False)
    scales: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32), repr=False)
    zero_points: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    axis: int = 0
    odd: str = ""  # why it is refused where it is used: "variable", "sparse"


@dataclass(frozen=True, slots=True, eq=False)
class FileOp:
    """An operator.  inputs: -1 for one that is left out.  options: None where the file has no table of them."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] | None

    @property
    def where(self) -> str:
        return f"operator {self.index} ({self.name})"


@dataclass(frozen=True, slots=True, eq=False)
class TfliteFile:
    """The first subgraph.  Every tensor index of an operator, of `inputs` and `outputs` exists."""

    tensors: tuple[FileTensor, ...]
    ops: tuple[FileOp, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    size_bytes: int
    description: str
    subgraphs: int


def read(data: bytes, *, who: str = "") -> TfliteFile:
    """The file in `data`.  Raises ModelError, LimitError."""
    if len(data) > MODEL_FILE_BYTES_MAX:
        raise LimitError(f"{who}: at most {MODEL_FILE_BYTES_MAX} bytes (MODEL_FILE_BYTES_MAX), found {len(data)}")
    if not is_tflite(data):
        raise ModelError(f"expected a TFLite file ({IDENTIFIER.decode()} at byte 4), found {data[4:8]!r}", who=who)
    try:
        import tflite  # noqa: F401
    except ImportError:
        raise ModelError("expected the package tflite, which reads it: pip install edgeswarm[build]", who=who) from None
    try:
        with np.errstate(all="ignore"):
            return _Reader(data).file()
    except ModelError as error:
        raise ModelError(str(error), who=who) from None
    except LimitError as error:
        raise LimitError(f"{who}: {error}" if who else str(error)) from None
    except (struct.error, ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"expected a whole TFLite file, found {type(error).__name__}: {error}", who=who) from None


_SPARSE = "sparse; convert it without sparsity"


class _Reader:
    """left: how many bytes of vectors may still be looked at."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.left = len(data)

    def file(self) -> TfliteFile:
        from tflite.Model import Model

        model = Model.GetRootAs(self.data, 0)
        if model.Version() != 3:
            raise ModelError(f"version: expected 3, found {model.Version()}")
        subgraphs = model.SubgraphsLength()
        if subgraphs < 1:
            raise ModelError("subgraphs: expected one, found none")
        graph = model.Subgraphs(0)
        counts = (
            ("tensors", graph.TensorsLength(), TFLITE_TENSORS_MAX, "TFLITE_TENSORS_MAX"),
            ("buffers", model.BuffersLength(), TFLITE_TENSORS_MAX, "TFLITE_TENSORS_MAX"),
            ("operators", graph.OperatorsLength(), GRAPH_NODES_MAX, "GRAPH_NODES_MAX"),
            ("operator codes", model.OperatorCodesLength(), GRAPH_NODES_MAX, "GRAPH_NODES_MAX"),
        )
        for what, count, most, bound in counts:
            self._take(4 * count, what)
            if count > most:
                raise LimitError(f"{what}: at most {most} ({bound}), found {count}")
        buffers = [self._buffer(model.Buffers(index), index) for index in range(model.BuffersLength())]
        tensors = tuple(self._tensor(graph.Tensors(i), f"tensor {i}", buffers) for i in range(graph.TensorsLength()))
        codes = [self._op_name(model.OperatorCodes(index)) for index in range(model.OperatorCodesLength())]
        ops = tuple(self._op(graph.Operators(i), i, codes, len(tensors)) for i in range(graph.OperatorsLength()))
        inputs = self._indices(graph.InputsLength, graph.InputsAsNumpy, "inputs", len(tensors))
        outputs = self._indices(graph.OutputsLength, graph.OutputsAsNumpy, "outputs", len(tensors))
        if min((*inputs, *outputs), default=0) < 0:
            raise ModelError("inputs and outputs: expected tensors, found one that is left out")
        text = self._text(model, 10)
        return TfliteFile(tensors, ops, inputs, outputs, len(self.data), text, subgraphs)

    def _take(self, count_bytes: int, what: str) -> None:
        self.left -= count_bytes
        if self.left < 0:
            raise ModelError(f"{what}: expected vectors within the file's {len(self.data)} bytes, found more")

    def _vector(self, length: Callable[[], int], values: Callable[[], Any], item_bytes: int, what: str) -> Any:
        """A vector as an array that is a view of the file; empty where it is absent."""
        count = length()
        self._take(item_bytes * count, what)
        return values() if count else np.empty(0)

    def _indices(
        self, length: Callable[[], int], values: Callable[[], Any], what: str, tensors: int
    ) -> tuple[int, ...]:
        if length() > TFLITE_OP_TENSORS_MAX:
            raise LimitError(f"{what}: at most {TFLITE_OP_TENSORS_MAX} (TFLITE_OP_TENSORS_MAX), found {length()}")
        found = tuple(int(index) for index in self._vector(length, values, 4, what))
        if any(not -1 <= index < tensors for index in found):
            raise ModelError(f"{what}: expected some of {tensors} tensors, found {list(found)[:8]}")
        return found

    def _buffer(self, buffer: Any, index: int) -> NDArray[np.uint8] | None:
        """None for one without bytes."""
        if buffer.Offset() > 1 or buffer.Size() > 1:
            raise ModelError(f"buffer {index}: expected its bytes inside the flatbuffer, found them behind it")
        held: NDArray[np.uint8] = self._vector(buffer.DataLength, buffer.DataAsNumpy, 1, f"buffer {index}")
        return held if len(held) else None

    def _tensor(self, tensor: Any, where: str, buffers: list[NDArray[np.uint8] | None]) -> FileTensor:
        number = tensor.Type()
        dtype, numpy_dtype = DTYPES.get(number, (f"type {number}", ""))
        shape = tuple(int(n) for n in self._axes(tensor.ShapeLength, tensor.ShapeAsNumpy, where))
        signature = self._axes(tensor.ShapeSignatureLength, tensor.ShapeSignatureAsNumpy, where)
        name, at = self._text(tensor, 10), tensor.Buffer()
        if at >= len(buffers):
            raise ModelError(f"{where} ({name}): expected one of {len(buffers)} buffers, found {at}")
        if (signature.size and signature.size != len(shape)) or min(shape, default=0) < 0:
            raise ModelError(f"{where} ({name}): expected a shape, found {list(shape)}, or {signature.tolist()}")
        found = buffers[at]
        odd = "a variable" if tensor.IsVariable() else _SPARSE if tensor.Sparsity() is not None else ""
        values = None
        if found is not None and tensor.Sparsity() is None:  # a sparse one holds fewer values than its shape has
            values = self._values(found, numpy_dtype, shape, f"{where} ({name})") if numpy_dtype else None
            odd = odd or ("" if numpy_dtype else f"of type {dtype}")
        quantization = tensor.Quantization()
        steps: dict[str, Any] = {}
        if quantization is not None:
            q, what = quantization, f"{where} ({name}), quantization"
            if q.DetailsType():
                odd = odd or "quantised in a way of its own"
            steps = {
                "scales": self._vector(q.ScaleLength, q.ScaleAsNumpy, 4, what).astype(np.float32),
                "zero_points": self._vector(q.ZeroPointLength, q.ZeroPointAsNumpy, 8, what).astype(np.int64),
                "axis": q.QuantizedDimension(),
            }
        opened = tuple(bool(n < 0) for n in signature.tolist()) or (False,) * len(shape)
        return FileTensor(name, dtype, shape, opened, values, odd=odd, **steps)

    def _axes(self, length: Callable[[], int], values: Callable[[], Any], where: str) -> NDArray[np.int32]:
        if length() > TFLITE_AXES_MAX:
            raise ModelError(f"{where}: expected at most {TFLITE_AXES_MAX} axes, found {length()}")
        axes: NDArray[np.int32] = self._vector(length, values, 4, where)
        return axes

    def _values(self, held: NDArray[np.uint8], dtype: str, shape: tuple[int, ...], where: str) -> NDArray[Any]:
        count, item = 1, np.dtype(dtype).itemsize
        for axis in shape:
            count *= axis
        if count * item != len(held):
            raise ModelError(f"{where}: expected {count * item} bytes for {list(shape)} of {dtype}, found {len(held)}")
        return held.view(dtype).reshape(shape)

    def _op(self, op: Any, index: int, codes: list[str], tensors: int) -> FileOp:
        if not op.OpcodeIndex() < len(codes):
            raise ModelError(f"operator {index}: expected one of {len(codes)} codes, found {op.OpcodeIndex()}")
        name = codes[op.OpcodeIndex()]
        where = f"operator {index} ({name})"
        inputs = self._indices(op.InputsLength, op.InputsAsNumpy, f"{where}, inputs", tensors)
        outputs = self._indices(op.OutputsLength, op.OutputsAsNumpy, f"{where}, outputs", tensors)
        return FileOp(index, name, inputs, outputs, self._options(op, name, where))

    def _options(self, op: Any, name: str, where: str) -> dict[str, Any] | None:
        table = op.BuiltinOptions()
        if name not in OPTIONS or table is None:
            return None
        import tflite

        kind, keys = OPTIONS[name]
        if op.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, kind):
            raise ModelError(f"{where}: expected {kind}, found options of kind {op.BuiltinOptionsType()}")
        options = getattr(tflite, kind)()
        options.Init(table.Bytes, table.Pos)
        found: dict[str, Any] = {}
        for key in keys:
            if hasattr(options, f"{key}Length"):
                values = self._axes(getattr(options, f"{key}Length"), getattr(options, f"{key}AsNumpy"), where)
                found[key] = tuple(int(n) for n in values)
            else:
                found[key] = getattr(options, key)()
        return found

    def _text(self, table: Any, slot: int) -> str:
        """At most TFLITE_NAME_CHARS_MAX characters of a text, fit to be shown."""
        tab = table._tab
        at = tab.Offset(slot)
        if not at:
            return ""
        start = tab.Indirect(at + tab.Pos)
        length = min(int.from_bytes(self.data[start : start + 4], "little"), TFLITE_NAME_CHARS_MAX)
        text = self.data[start + 4 : start + 4 + length].decode("utf-8", "replace")
        return "".join(c if c.isprintable() else "?" for c in text)

    def _op_name(self, code: Any) -> str:
        """As the schema has it: the larger of two fields, since there were more than 127 operators."""
        from tflite.utils import BUILTIN_OPCODE2NAME

        number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        if number == _CUSTOM:
            return f"custom {self._text(code, 6)!r}"
        return str(BUILTIN_OPCODE2NAME.get(number, f"number {number}"))
