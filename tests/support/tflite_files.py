"""Tiny TFLite files made in memory, and what LiteRT's reference kernels answer to them.

    net = Net()
    x = net.tensor((1, 5, 5, 3))
    w = net.tensor((4, 3, 3, 3), data=weights)
    y = net.tensor((1, 5, 5, 4))
    net.op("CONV_2D", [x, w], [y], Padding=SAME, StrideH=1, StrideW=1)
    data = net.file([x], [y])
    litert(data, rows)

Nothing here checks: files that say something wrong are made as easily.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

SAME, VALID = 0, 1
NONE, RELU, RELU_N1_TO_1, RELU6, TANH, SIGN_BIT = range(6)

TYPES = {
    "f32": (0, "<f4"), "f16": (1, "<f2"), "i32": (2, "<i4"), "u8": (3, "u1"), "i64": (4, "<i8"), "string": (5, "u1"),
    "bool": (6, "?"), "i16": (7, "<i2"), "c64": (8, "<c8"), "i8": (9, "i1"), "f64": (10, "<f8"), "i4": (17, "i1"),
}  # fmt: skip
"""Name -> the file's number for it, and how numpy holds it."""

OPTIONS = {
    "ADD": "AddOptions", "AVERAGE_POOL_2D": "Pool2DOptions", "BATCH_TO_SPACE_ND": "BatchToSpaceNDOptions",
    "CAST": "CastOptions",
    "CONCATENATION": "ConcatenationOptions", "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "DEQUANTIZE": "DequantizeOptions", "DIV": "DivOptions", "EXPAND_DIMS": "ExpandDimsOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "GELU": "GeluOptions", "HARD_SWISH": "HardSwishOptions",
    "LEAKY_RELU": "LeakyReluOptions", "MAX_POOL_2D": "Pool2DOptions", "MEAN": "ReducerOptions",
    "MIRROR_PAD": "MirrorPadOptions", "MUL": "MulOptions", "PACK": "PackOptions", "PAD": "PadOptions",
    "PADV2": "PadV2Options", "QUANTIZE": "QuantizeOptions", "RESHAPE": "ReshapeOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions", "SHAPE": "ShapeOptions", "SLICE": "SliceOptions",
    "SOFTMAX": "SoftmaxOptions", "SPACE_TO_BATCH_ND": "SpaceToBatchNDOptions", "SPLIT": "SplitOptions",
    "SQUEEZE": "SqueezeOptions",
    "STRIDED_SLICE": "StridedSliceOptions", "SUB": "SubOptions", "REDUCE_MAX": "ReducerOptions",
    "TRANSPOSE": "TransposeOptions", "TRANSPOSE_CONV": "TransposeConvOptions", "UNPACK": "UnpackOptions",
}  # fmt: skip
"""Which table of options an operator has; LOGISTIC, TANH, RELU and RELU6 have none."""


@dataclass(slots=True)
class FileTensor:
    """A tensor as the file will say it; every field may be changed before `file`."""

    shape: tuple[int, ...]
    dtype: str = "f32"
    data: NDArray[Any] | None = None
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int = 0
    signature: tuple[int, ...] | None = None
    name: str = ""
    variable: bool = False
    sparse: bool = False  # says so, and says nothing of how
    buffer: int | None = None  # another buffer than its own


@dataclass(slots=True)
class FileOp:
    """An operator as the file will say it.  options: keys as the schema has them, in CamelCase."""

    code: str | int
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any] = field(default_factory=dict)
    table: str | None = None
    version: int = 1
    custom: str = ""


@dataclass(slots=True)
class Net:
    """One subgraph, tensor by tensor and operator by operator."""

    tensors: list[FileTensor] = field(default_factory=list)
    ops: list[FileOp] = field(default_factory=list)
    version: int = 3
    identifier: bytes = b"TFL3"
    subgraphs: int = 1

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "f32",
        *,
        data: ArrayLike | None = None,
        scale: float | Sequence[float] = (),
        zero_point: int | Sequence[int] = (),
        axis: int = 0,
        signature: Sequence[int] | None = None,
        name: str = "",
    ) -> int:
        """Its index.  scale and zero_point: one number, or one a channel along `axis`."""
        scales = tuple(float(s) for s in np.atleast_1d(np.asarray(scale, np.float64)))
        points = tuple(int(z) for z in np.atleast_1d(np.asarray(zero_point, np.int64)))
        if scales and not points:
            points = (0,) * len(scales)
        held = None if data is None else np.asarray(data)
        self.tensors.append(
            FileTensor(tuple(shape), dtype, held, scales, points, axis, None if signature is None else tuple(signature))
        )
        self.tensors[-1].name = name or f"t{len(self.tensors) - 1}"
        return len(self.tensors) - 1

    def constant(self, data: ArrayLike, dtype: str = "i32", **more: Any) -> int:
        """A tensor that holds `data`."""
        array = np.asarray(data)
        return self.tensor(array.shape, dtype, data=array, **more)

    def op(
        self,
        code: str | int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        table: str | None = None,
        version: int = 1,
        custom: str = "",
        **options: Any,
    ) -> FileOp:
        """Add an operator; -1 among the inputs is one that is left out."""
        self.ops.append(FileOp(code, list(inputs), list(outputs), options, table, version, custom))
        return self.ops[-1]

    def file(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file."""
        return _Writer(self, inputs, outputs).data


class _Writer:
    def __init__(self, net: Net, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        self.b = flatbuffers.Builder(1024)
        self.net = net
        buffers = [self._buffer(None)] + [self._buffer(t) for t in net.tensors]
        tensors = [self._tensor(t, index + 1) for index, t in enumerate(net.tensors)]
        codes = [self._code(op) for op in net.ops]
        ops = [self._op(op, index) for index, op in enumerate(net.ops)]
        graph = self._table(
            "SubGraph",
            Tensors=self._offsets(tensors),
            Inputs=self._ints(inputs),
            Outputs=self._ints(outputs),
            Operators=self._offsets(ops),
            Name=self.b.CreateString("main"),
        )
        model = self._table(
            "Model",
            Version=net.version,
            OperatorCodes=self._offsets(codes),
            Subgraphs=self._offsets([graph] * net.subgraphs),
            Description=self.b.CreateString("made by a test"),
            Buffers=self._offsets(buffers),
        )
        self.b.Finish(model, file_identifier=net.identifier)
        self.data = bytes(self.b.Output())

    def _table(self, name: str, **fields: Any) -> int:
        """A table of the schema: its offset.  Fields that are None stay away."""
        module = importlib.import_module(f"tflite.{name}")
        getattr(module, f"{name}Start")(self.b)
        for key, value in fields.items():
            if value is not None:
                getattr(module, f"{name}Add{key}")(self.b, value)
        return int(getattr(module, f"{name}End")(self.b))

    def _ints(self, values: Sequence[int], dtype: str = "<i4") -> int:
        return int(self.b.CreateNumpyVector(np.asarray(values, dtype)))

    def _offsets(self, offsets: Sequence[int]) -> int:
        self.b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.b.PrependUOffsetTRelative(offset)
        return int(self.b.EndVector())

    def _buffer(self, tensor: FileTensor | None) -> int:
        if tensor is None or tensor.data is None:
            return self._table("Buffer")
        raw = tensor.data.astype(TYPES[tensor.dtype][1]).tobytes()
        self.b.StartVector(1, len(raw), 16)  # LiteRT wants constants aligned
        self.b.head -= len(raw)
        self.b.Bytes[self.b.head : self.b.head + len(raw)] = raw
        return self._table("Buffer", Data=int(self.b.EndVector()))

    def _tensor(self, tensor: FileTensor, buffer: int) -> int:
        quantization = None
        if tensor.scale or tensor.zero_point:
            scale = self._ints(tensor.scale, "<f4") if tensor.scale else None
            points = self._ints(tensor.zero_point, "<i8") if tensor.zero_point else None
            quantization = self._table(
                "QuantizationParameters", Scale=scale, ZeroPoint=points, QuantizedDimension=tensor.axis
            )
        signature = None if tensor.signature is None else self._ints(tensor.signature)
        return self._table(
            "Tensor",
            Shape=self._ints(tensor.shape),
            Type=TYPES[tensor.dtype][0],
            Buffer=buffer if tensor.buffer is None else tensor.buffer,
            Name=self.b.CreateString(tensor.name),
            Quantization=quantization,
            IsVariable=tensor.variable,
            Sparsity=self._table("SparsityParameters") if tensor.sparse else None,
            ShapeSignature=signature,
        )

    def _code(self, op: FileOp) -> int:
        number = op.code if isinstance(op.code, int) else _enum("BuiltinOperator", op.code)
        custom = self.b.CreateString(op.custom) if op.custom else None
        return self._table(
            "OperatorCode",
            DeprecatedBuiltinCode=min(number, 127),
            BuiltinCode=number,
            Version=op.version,
            CustomCode=custom,
        )

    def _op(self, op: FileOp, index: int) -> int:
        name = op.table if op.table is not None else OPTIONS.get(str(op.code), "")
        made = None
        if name:
            fields = {key: self._ints(v) if isinstance(v, list | tuple) else v for key, v in op.options.items()}
            made = self._table(name, **fields)
        return self._table(
            "Operator",
            OpcodeIndex=index,
            Inputs=self._ints(op.inputs),
            Outputs=self._ints(op.outputs),
            BuiltinOptionsType=_enum("BuiltinOptions", name) if name else None,
            BuiltinOptions=made,
        )


def _enum(enum: str, name: str) -> int:
    return int(getattr(getattr(importlib.import_module(f"tflite.{enum}"), enum), name))


def _interpreter(data: bytes) -> Any:
    """An interpreter of the reference kernels that is ready.  A machine without LiteRT skips the test."""
    module = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed here")
    interpreter = module.Interpreter(
        model_content=data, num_threads=1, experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    return interpreter


def litert_ends(data: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What LiteRT says of the file's inputs and outputs."""
    interpreter = _interpreter(data)
    return interpreter.get_input_details(), interpreter.get_output_details()


def litert_all(data: bytes, inputs: Sequence[ArrayLike]) -> NDArray[Any]:
    """Answers to rows of several inputs: all outputs of a row, flat, as float64.  inputs: n arrays for each."""
    interpreter, answers = _interpreter(data), []
    sources, targets = interpreter.get_input_details(), interpreter.get_output_details()
    for row in zip(*(np.asarray(one) for one in inputs), strict=True):
        for source, values in zip(sources, row, strict=True):
            interpreter.set_tensor(source["index"], values.reshape(source["shape"]).astype(source["dtype"]))
        interpreter.invoke()
        answers.append(np.concatenate([interpreter.get_tensor(t["index"]).ravel() for t in targets]))
    return np.stack(answers).astype(np.float64)


def litert(data: bytes, rows: ArrayLike) -> NDArray[Any]:
    """What LiteRT answers: one array (n, *shape of the output), in the output's own type.

    rows: n arrays of the input's shape and type.
    """
    interpreter = _interpreter(data)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    answers = []
    for row in np.asarray(rows):
        interpreter.set_tensor(source["index"], row.reshape(source["shape"]).astype(source["dtype"]))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(target["index"]).copy())
    return np.stack(answers)
