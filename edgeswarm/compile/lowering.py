"""From operators to steps: what each operator becomes, and the registry in which `model.ops.Op.lowering` is looked up.

A lowering is four functions: bytes of packed weights, steps, packing, unpacking.  To add one: write them in a module
`lower_*.py`, and name it here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.library import Library, Tile
from edgeswarm.compile.template import Value
from edgeswarm.errors import LocalError
from edgeswarm.model.graph import Graph, Node, Outline
from edgeswarm.model.ops import OPS


class Functions(Protocol):
    """What a step may ask of the module that it becomes a part of."""

    mode: str
    library: Library

    def function(self, template: str, values: Mapping[str, Value]) -> str:
        """The name of the function that a template gives for `values`; written once, on first use."""

    def pointer(self, place: Rows, rows: str | None) -> str:
        """The address of the first row of `place`: of row 0 (rows None) or of the block at work."""


class Step(Protocol):
    """One kernel over one place in memory."""

    @property
    def x(self) -> Rows: ...

    @property
    def y(self) -> Rows: ...

    def call(self, functions: Functions, rows: str | None) -> str:
        """The text that performs the step on row 0 (rows None) or on the rows of a block (a local that counts them)."""


class Plan(Protocol):
    """What a lowering may ask of the schedule that is being made."""

    outline: Outline
    mode: str
    arch: str
    batch_max: int
    block_rows: int
    library: Library
    dense_tile: Tile

    def place(self, tensor: int) -> Rows:
        """Where a tensor lies: offset and stride in bytes, width in values."""

    def weights(self, node: int) -> int:
        """Where the packed weights of a node begin."""

    def copied(self, node: int, number: int) -> bool:
        """Whether input `number` of a concat or slice has to be copied into its place."""

    def scratch(self, size: int, index: int | None = None) -> int:
        """Where `size` bytes lie that no step keeps beyond its own call.

        With the node `index`: bytes of its own for each such call, live while that node's steps run, and no longer.
        """


@dataclass(frozen=True, slots=True)
class Lowering:
    """size, unpack: (bytes,) outline, node index -> bytes of its packed weights, its params.  steps: in order."""

    size: Callable[[Outline, int], int]
    steps: Callable[[Plan, int], list[Step]]
    pack: Callable[[Graph, int], bytes]
    unpack: Callable[[bytes, Outline, int], dict[str, NDArray[Any]]]


def no_size(outline: Outline, index: int) -> int:
    return 0


def no_pack(graph: Graph, index: int) -> bytes:
    return b""


def no_unpack(packed: bytes, outline: Outline, index: int) -> dict[str, NDArray[Any]]:
    return {}


_HOMES = {
    "dense_f32": "lower_f32.DENSE",
    "dense_fann": "lower_fann.DENSE",
    "sparse_fann": "lower_fann_sparse.SPARSE",
    "quantize": "lower_i8_nodes.QUANTIZE",
    "dense_i8": "lower_i8_nodes.DENSE",
    "dequantize": "lower_i8_nodes.DEQUANTIZE",
    "concat": "lower_places.CONCAT",
    "slice": "lower_places.SLICE",
    "conv2d": "lower_conv_f32.CONV",
    "depthwise": "lower_conv_f32.DEPTHWISE",
    "conv2d_i8": "lower_conv_i8.CONV",
    "depthwise_i8": "lower_conv_i8.DEPTHWISE",
    "dense_tflite": "lower_conv_i8.DENSE",
    "average_pool": "lower_pool.AVERAGE",
    "max_pool": "lower_pool.MAXIMUM",
    "average_pool_i8": "lower_pool.AVERAGE_I8",
    "max_pool_i8": "lower_pool.MAXIMUM_I8",
    "mean": "lower_mean.MEAN",
    "mean_i8": "lower_mean.MEAN_I8",
    "softmax": "lower_softmax.SOFTMAX",
    "softmax_i8": "lower_softmax.SOFTMAX_I8",
    "add": "lower_pairs.ADD",
    "mul": "lower_pairs.MUL",
    "add_i8": "lower_pairs.ADD_I8",
    "mul_i8": "lower_pairs.MUL_I8",
    "elementwise": "lower_pointwise.ELEMENTWISE",
    "leaky": "lower_pointwise.LEAKY",
    "lookup_i8": "lower_pointwise.LOOKUP",
    "affine_quantize": "lower_pointwise.QUANTIZE",
    "reshape": "lower_shapes.RESHAPE",
    "transpose": "lower_shapes.TRANSPOSE",
    "join": "lower_shapes.JOIN",
    "pad": "lower_shapes.PAD",
    "strided_slice": "lower_shapes.STRIDED_SLICE",
    "resize_nearest": "lower_shapes.RESIZE_NEAREST",
    "constant": "lower_shapes.CONSTANT",
}

ROWWISE = frozenset(
    ("dense", "dense_fann", "sparse_fann", "concat", "slice", "quantize", "dense_i8", "dequantize")
)  # operators whose steps take a block of rows at once; a graph with any other goes row by row


def lowering_of(node: Node) -> Lowering:
    """The lowering of a node's operator.  Raises LocalError if it has none yet."""
    home = OPS[node.op].lowering
    if home not in _HOMES:
        raise LocalError(f"operator {node.op}: expected a lowering of {', '.join(_HOMES)}, found {home!r}")
    module, _, name = _HOMES[home].partition(".")
    found: Lowering = getattr(importlib.import_module(f"edgeswarm.compile.{module}"), name)
    return found
