"""What an ONNX file says, as plain data: steps in order, numbers by name, what goes in and what comes out.

The parser is the `onnx` package's own (the extra `onnx`); nothing of its types leaves this module.
Invariants: at most GRAPH_NODES_MAX steps; no number lies outside the file; nothing is allocated that the file does not
hold.  Source: the ONNX specification, IR and onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import GRAPH_NODES_MAX, ONNX_AXES_MAX, ONNX_FIELDS_MAX, ONNX_FILE_BYTES_MAX
from edgeswarm.model.onnx.walk import walk

Attr = int | float | str | tuple[int, ...] | tuple[str, ...] | NDArray[Any]

_KINDS: Mapping[int, tuple[str, str]] = {  # data_type -> how raw_data holds it, and which field holds it otherwise
    1: ("<f4", "float_data"),
    2: ("u1", "int32_data"),
    3: ("i1", "int32_data"),
    4: ("<u2", "int32_data"),
    5: ("<i2", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("?", "int32_data"),
    10: ("<f2", "int32_data"),
    11: ("<f8", "double_data"),
    12: ("<u4", "uint64_data"),
    13: ("<u8", "uint64_data"),
}
NAMES: Mapping[int, str] = {
    **{number: np.dtype(kind).name for number, (kind, _) in _KINDS.items()},
    0: "nothing",
    8: "string",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    21: "uint4",
    22: "int4",
}
"""Element types by their number."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node: operator `op` of `domain` reads the values `inputs` ("" for one left out) and writes `outputs`."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Attr]


@dataclass(frozen=True, slots=True)
class Value:
    """A declared input or output: its element type by name, its axes (None: left open); shape None: not said."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class File:
    """The whole file."""

    ir_version: int
    opset: int
    producer: str
    steps: tuple[Step, ...]
    numbers: Mapping[str, NDArray[Any]]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def parse(data: bytes) -> File:
    """Raises ModelError for no ONNX file and for what has no place here, LimitError, LocalError without `onnx`."""
    if len(data) > ONNX_FILE_BYTES_MAX:
        raise LimitError(f"at most {ONNX_FILE_BYTES_MAX} bytes (ONNX_FILE_BYTES_MAX), found {len(data)}")
    walk(data)
    proto = _proto(data)
    if proto.functions:
        raise ModelError(
            f"expected operators of ONNX itself, found {len(proto.functions)} functions of the file's own; "
            "onnx.inliner.inline_local_functions puts them into the graph"
        )
    graph = proto.graph
    if not 1 <= len(graph.node) <= GRAPH_NODES_MAX:
        raise LimitError(f"nodes: expected 1 to {GRAPH_NODES_MAX} (GRAPH_NODES_MAX), found {len(graph.node)}")
    if graph.sparse_initializer:
        raise ModelError("expected plain numbers, found sparse ones")
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    own = any(node.domain in ("", "ai.onnx") for node in graph.node)
    opset = opsets.get("", opsets.get("ai.onnx", 1 if own else 17))  # a file of ai.onnx.ml alone need not say
    numbers = {tensor.name: numbers_of(tensor, f"initializer {tensor.name[:60]!r}") for tensor in graph.initializer}
    return File(
        ir_version=proto.ir_version,
        opset=opset,
        producer=f"{proto.producer_name} {proto.producer_version}".strip()[:80],
        steps=tuple(_step(node, index) for index, node in enumerate(graph.node)),
        numbers=numbers,
        inputs=tuple(_value(value) for value in graph.input if value.name not in numbers),
        outputs=tuple(_value(value) for value in graph.output),
    )


def _proto(data: bytes) -> Any:
    from edgeswarm.errors import LocalError

    try:
        from google.protobuf.message import DecodeError
        from onnx import onnx_ml_pb2
    except ImportError as error:
        raise LocalError(f"ONNX files: expected the extra onnx (pip install 'edgeswarm[onnx]'): {error}") from None
    try:
        return onnx_ml_pb2.ModelProto.FromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise ModelError(f"expected an ONNX file, found {str(error)[:200]}") from None


def _step(node: Any, index: int) -> Step:
    attrs: dict[str, Attr] = {}
    where = f"node {index} ({node.op_type[:40]} {node.name[:60]!r})"
    for attribute in node.attribute:
        attrs[attribute.name] = _attr(attribute, f"{where}.{attribute.name[:40]}")
    domain = "" if node.domain == "ai.onnx" else node.domain
    return Step(node.op_type, domain, node.name, tuple(node.input), tuple(node.output), attrs)


def _attr(attribute: Any, where: str) -> Attr:
    """Types by AttributeProto.AttributeType; a part of a graph is named, for the operator is refused anyway."""
    kind = attribute.type
    if kind == 1:
        return float(attribute.f)
    if kind == 2:
        return int(attribute.i)
    if kind == 3:
        return bytes(attribute.s).decode(errors="replace")
    if kind == 4:
        return numbers_of(attribute.t, where)
    if kind == 6:
        return np.array(attribute.floats, np.float32)
    if kind == 7:
        if len(attribute.ints) > ONNX_FIELDS_MAX:
            raise LimitError(f"{where}: at most {ONNX_FIELDS_MAX} numbers (ONNX_FIELDS_MAX)")
        return tuple(map(int, attribute.ints))
    if kind == 8:
        return tuple(bytes(text).decode(errors="replace") for text in attribute.strings)
    return f"attribute of the type {kind}"


def numbers_of(tensor: Any, where: str) -> NDArray[Any]:
    """A TensorProto as an array.  Raises ModelError for types without a place here and for numbers outside the file."""
    if tensor.data_location == 1 or tensor.external_data:
        raise ModelError(
            f"{where}: expected its numbers in the file, found them in another; "
            "onnx.save(onnx.load(path), path, save_as_external_data=False) brings them in"
        )
    shape = tuple(tensor.dims[: ONNX_AXES_MAX + 1])
    if len(shape) > ONNX_AXES_MAX or min(shape, default=1) < 0:
        raise ModelError(f"{where}: expected at most {ONNX_AXES_MAX} axes of 0 and more, found {list(shape[:9])}")
    if tensor.data_type not in _KINDS:
        found = NAMES.get(tensor.data_type, str(tensor.data_type))
        raise ModelError(f"{where}: expected numbers of {', '.join(NAMES[kind] for kind in _KINDS)}, found {found}")
    kind, field = _KINDS[tensor.data_type]
    dtype, count = np.dtype(kind), math.prod(shape)
    if tensor.raw_data:
        if len(tensor.raw_data) != count * dtype.itemsize:
            raise ModelError(f"{where}: expected {count * dtype.itemsize} bytes, found {len(tensor.raw_data)}")
        return np.frombuffer(tensor.raw_data, dtype).reshape(shape)
    held = getattr(tensor, field)
    if len(held) != count:
        raise ModelError(f"{where}: expected {count} numbers, found {len(held)}")
    if dtype == np.float16:  # the bits, in whole numbers
        return np.array(held, np.int64).astype("<u2").view("<f2").reshape(shape)
    wide = np.array(held, np.uint64 if field == "uint64_data" else np.float64 if "f" in kind else np.int64)
    return wide.astype(dtype).reshape(shape)


def _value(value: Any) -> Value:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Value(value.name, str(kind or "nothing").removesuffix("_type"), None)
    held = value.type.tensor_type
    dtype = NAMES.get(held.elem_type, str(held.elem_type))
    if not held.HasField("shape"):
        return Value(value.name, dtype, None)
    if len(held.shape.dim) > ONNX_AXES_MAX:
        raise ModelError(f"{value.name[:60]!r}: expected at most {ONNX_AXES_MAX} axes, found {len(held.shape.dim)}")
    axes = [dim.dim_value if dim.WhichOneof("value") == "dim_value" else None for dim in held.shape.dim]
    return Value(value.name, dtype, tuple(axes))
