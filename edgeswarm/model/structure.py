"""The structure of a graph as text: canonical JSON, without the numbers that a swap of weights replaces.

    {"format":1,"input":0,"nodes":[["dense",[0],1,{"activation":"relu","units":8}]],"output":1,
     "tensors":[["f32",[4]],["f32",[8]]]}

A tensor is [dtype, shape], a quantised one [dtype, shape, scale, zero point].  One structure has one text.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import GRAPH_STRUCTURE_BYTES_MAX
from edgeswarm.model.graph import Node, Outline, Tensor

FORMAT = 1


def structure_of(outline: Outline) -> bytes:
    """The text: sorted keys, no spaces, tensors and nodes in order."""
    tree = {
        "format": FORMAT,
        "input": outline.input,
        "output": outline.output,
        "tensors": [
            [t.dtype, list(t.shape), *([] if t.dtype == "f32" else [t.scale, t.zero_point])] for t in outline.tensors
        ],
        "nodes": [[node.op, list(node.inputs), node.output, dict(node.attrs)] for node in outline.nodes],
    }
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def outline_of(structure: bytes) -> Outline:
    """The inverse.  Raises ModelError for what is not such a text to the byte, LimitError past a bound."""
    if len(structure) > GRAPH_STRUCTURE_BYTES_MAX:
        raise LimitError(
            f"structure: at most {GRAPH_STRUCTURE_BYTES_MAX} bytes (GRAPH_STRUCTURE_BYTES_MAX), found {len(structure)}"
        )
    try:
        tree = json.loads(structure.decode(), parse_constant=_refuse)
        if tree["format"] != FORMAT:
            raise ModelError(f"structure: expected the format {FORMAT}, found {str(tree['format'])[:40]}")
        tensors = tuple(_tensor(*entry) for entry in tree["tensors"])
        nodes = tuple(_node(*entry) for entry in tree["nodes"])
        outline = Outline(tensors, nodes, _whole(tree["input"]), _whole(tree["output"]))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelError(f"structure: expected the JSON of a graph, found {type(error).__name__}: {error}") from None
    if structure_of(outline) != structure:
        raise ModelError("structure: expected sorted keys, no spaces, no further keys")
    return outline


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"expected a whole number, found {type(value).__name__}")
    return value


def _tensor(dtype: Any, shape: Any, scale: Any = 1.0, zero_point: Any = 0) -> Tensor:
    if not isinstance(dtype, str) or not isinstance(scale, float):
        raise TypeError("expected a tensor's dtype as text, its scale as a number with a point")
    return Tensor(tuple(_whole(axis) for axis in shape), dtype, scale, _whole(zero_point))


def _node(op: Any, inputs: Any, output: Any, attrs: Any) -> Node:
    if not isinstance(op, str) or not isinstance(attrs, dict):
        raise TypeError("expected a node's operator as text, its attrs as an object")
    kept = {name: tuple(value) if isinstance(value, list) else value for name, value in attrs.items()}
    return Node(op, tuple(_whole(index) for index in inputs), _whole(output), kept)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text}, which is no number")
