"""What a graph's nodes cost, counted from the structure alone: multiplications, parameters, bytes; and a node in words.

A MAC is one multiplication whose product is added to a sum.  Only products with weights count, as in the papers and in
TFLite's own analyser: pooling, additions and activations cost time, and have 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeswarm.model.graph import Outline
from edgeswarm.model.nodes import DTYPES, Attr, Node, Tensor

_SHORT = {"kernel": "", "stride": "/", "dilation": "dilated "}
_PLAIN = {"activation": "linear", "beta": 1.0, "multiplier": 1, "low": -128, "high": 127}
_SAID = {"filters", "units", "shape", "dtype"}  # the shape that is written says them


@dataclass(frozen=True, slots=True)
class Cost:
    """macs: of one row.  parameters: numbers that a swap of weights replaces, and param_bytes as the model has them.

    output_bytes: what the node writes for one row.
    """

    macs: int
    parameters: int
    param_bytes: int
    output_bytes: int


def cost(outline: Outline, index: int) -> Cost:
    """The cost of node `index`."""
    params, out = outline.params_of(index), outline.tensors[outline.nodes[index].output]
    return Cost(
        macs=outline.macs_of(index),
        parameters=sum(math.prod(param.shape) for param in params.values()),
        param_bytes=sum(param.size for param in params.values()),
        output_bytes=tensor_bytes(out),
    )


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of one row."""
    return tensor.size * DTYPES[tensor.dtype].itemsize


def described(node: Node) -> str:
    """A node in a few words: its operator and what the shapes do not say, such as `conv2d 3x3 /2x2 relu6`."""
    return " ".join([node.op, *(text for name, value in node.attrs.items() if (text := _attr(name, value)))])


def shape_text(tensor: Tensor) -> str:
    """`f32 49x10x8`."""
    return f"{tensor.dtype} {'x'.join(map(str, tensor.shape))}"


def _attr(name: str, value: Attr) -> str:
    if name in _SAID or value == _PLAIN.get(name) or (isinstance(value, tuple) and not value):
        return ""
    if name in ("stride", "dilation") and value == (1, 1):
        return ""
    if name in ("pad", "pads") and isinstance(value, tuple):
        return f"{name} {','.join(map(str, value))}" if any(value) else ""
    if name in _SHORT and isinstance(value, tuple):
        return f"{_SHORT[name]}{'x'.join(map(str, value))}"
    if name == "activation":
        return str(value)
    return f"{name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
