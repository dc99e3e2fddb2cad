"""A look at an ONNX file's wire format before the parser gets it: how many fields it has, which is its memory.

protobuf makes an object of some hundred bytes of every two bytes of an empty message; this counts first, without
making anything.  Only what ONNX nests is walked; names and numbers stay what they are.
Source: Protocol Buffers, Encoding; the field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import ONNX_DEPTH_MAX, ONNX_FIELDS_MAX, ONNX_PACKED_BYTES_MAX

_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 8: "plain", 14: "plain", 20: "training", 25: "function", 26: "plain"},
    "training": {1: "graph", 2: "graph", 3: "plain", 4: "plain"},
    "function": {7: "node", 9: "plain", 11: "attribute", 12: "value", 14: "plain"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 14: "annotation", 15: "sparse"}
    | {16: "plain"},
    "node": {5: "attribute", 9: "plain", 10: "devices"},
    "devices": {2: "sharding"},
    "sharding": {3: "plain", 4: "sharded"},
    "sharded": {2: "plain"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 14: "type", 15: "type", 22: "sparse"}
    | {23: "sparse"},
    "tensor": {3: "plain", 13: "plain", 16: "plain"},
    "sparse": {1: "tensor", 2: "tensor"},
    "annotation": {2: "plain"},
    "value": {2: "type", 4: "plain"},
    "type": {1: "elements", 4: "list", 5: "map", 7: "plain", 8: "elements", 9: "list"},
    "elements": {2: "shape"},
    "shape": {1: "plain"},
    "list": {1: "type"},
    "map": {2: "type"},
    "plain": {},
}
"""Message -> field -> the message in it; "plain": one that has none."""


_PACKED: Mapping[str, tuple[int, ...]] = {"tensor": (1, 5, 7, 11), "attribute": (8,), "sparse": (3,), "sharding": (2,)}
"""Fields of whole numbers one behind the other: a byte each in the file, eight once parsed."""


def walk(data: bytes) -> int:
    """How many fields the file has.

    Raises ModelError for bytes that are no protobuf message, LimitError past ONNX_FIELDS_MAX, ONNX_DEPTH_MAX or
    ONNX_PACKED_BYTES_MAX.
    """
    count, packed, stack = 0, 0, [(0, len(data), "model", 0)]
    while stack:
        at, end, kind, depth = stack.pop()
        if depth > ONNX_DEPTH_MAX:
            raise LimitError(f"at most {ONNX_DEPTH_MAX} messages inside each other (ONNX_DEPTH_MAX)")
        inside = _MESSAGES[kind]
        while at < end:
            count += 1
            if count > ONNX_FIELDS_MAX:
                raise LimitError(f"at most {ONNX_FIELDS_MAX} fields (ONNX_FIELDS_MAX), found more")
            tag, at = _varint(data, at, end)
            wire = tag & 7
            if wire == 2:
                size, at = _varint(data, at, end)
                if size > end - at:
                    raise ModelError(f"byte {at}: expected {size} more, found {end - at}")
                if (message := inside.get(tag >> 3)) is not None:
                    stack.append((at, at + size, message, depth + 1))
                elif tag >> 3 in _PACKED.get(kind, ()):
                    packed += size
                    if packed > ONNX_PACKED_BYTES_MAX:
                        raise LimitError(
                            f"whole numbers: at most {ONNX_PACKED_BYTES_MAX} bytes (ONNX_PACKED_BYTES_MAX)"
                        )
                at += size
            elif wire == 0:
                _, at = _varint(data, at, end)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise ModelError(f"byte {at}: expected a field of protobuf, found the wire type {wire}")
        if at != end:
            raise ModelError(f"byte {end}: expected a message to end, found a field across it")
    return count


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ModelError(f"byte {at}: expected a number, found none that ends")
