"""The dense layer in float32: packing, tiles, and the steps that compute it.

Packing and order of sums do not depend on tiles or architecture, so every bit is the same with all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.library import Library, Tile
from edgeswarm.compile.lowering import Functions, Lowering, Plan, Step
from edgeswarm.compile.template import Value
from edgeswarm.model.graph import Graph, Outline

LANES = 4  # float32 in a vector of 128 bits
FEW_VECTORS_MAX = 4  # a row of so few gets its activation without a loop: a tiny net is 2 to 13 % faster
PANEL_COLUMNS_MAX = 7  # columns whose sums the 16 vector registers of x86-64 hold (wasm_kernels/dense_f32/gemv.wat)


@dataclass(frozen=True, slots=True)
class Packed:
    """How a dense layer's weights are packed: panels of columns, a column being 4 outputs (the last padded with zeros).

    One panel: a row of bias, then a row of weights for each input; a row is one vector of 16 bytes for each column.
    There are as few panels as PANEL_COLUMNS_MAX allows, of equal width but for the last.
    """

    inputs: int
    outputs: int

    @property
    def columns(self) -> int:
        return -(-self.outputs // LANES)

    @property
    def width(self) -> int:
        """Columns of each panel but the last."""
        return -(-self.columns // -(-self.columns // PANEL_COLUMNS_MAX))

    @property
    def panels(self) -> int:
        """How many panels of `width` columns."""
        return self.columns // self.width

    @property
    def last(self) -> int:
        """Columns of one more, narrower panel; 0 if there is none."""
        return self.columns % self.width

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of outputs with its padding."""
        return 16 * self.columns

    @property
    def size(self) -> int:
        """Bytes of the whole layer."""
        return self.columns * (self.inputs + 1) * 16

    def panel_slices(self) -> list[slice]:
        """Which outputs, padding included, each panel holds."""
        width = self.width * LANES
        return [slice(start, start + width) for start in range(0, self.columns * LANES, width)]


@dataclass(frozen=True, slots=True)
class DenseStep:
    """The sums of a dense layer.  weights: offset of the packed layer.  height: rows of one tile of gemm."""

    x: Rows
    y: Rows
    layer: Packed
    weights: int
    height: int
    tile: Tile

    def __str__(self) -> str:
        layer = self.layer
        panels = f"{layer.panels} x {layer.width}" + (f" + {layer.last}" if layer.last else "")
        return (
            f"{'dense':<13} {layer.inputs} -> {layer.outputs}: {panels} columns at {self.weights}, "
            f"{self.height} rows a tile, x at {self.x.offset}, y at {self.y.offset}"
        )

    def call(self, functions: Functions, rows: str | None) -> str:
        x, y = functions.pointer(self.x, rows), functions.pointer(self.y, rows)
        weights = f"(i32.const {self.weights})"
        if rows is None:
            return f"(call ${self._row(functions)} {x} {weights} {y})"
        return f"(call ${self._rows(functions)} {x} (local.get {rows}) {weights} {y})"

    def _row(self, functions: Functions) -> str:
        """The function that computes the layer on one row."""
        gemv = self._sums(functions, "gemv", {"width": self.layer.width})
        gemv_last = self._sums(functions, "gemv", {"width": self.layer.last})
        return functions.function("row", self._panels() | {"gemv": gemv, "gemv_last": gemv_last})

    def _rows(self, functions: Functions) -> str:
        """The function that computes the layer on many rows."""
        layer, part, height = self.layer, self.tile.gemm_columns, self.height
        full = part if max(layer.width, layer.last) >= part else 0
        return functions.function(
            "rows",
            self._panels()
            | {
                "part": part,
                "height": height,
                "x_stride": self.x.stride,
                "y_stride": self.y.stride,
                "gemm_part": self._sums(functions, "gemm", {"height": height, "columns": full}),
                "gemm_width": self._sums(functions, "gemm", {"height": height, "columns": layer.width % part}),
                "gemm_last": self._sums(functions, "gemm", {"height": height, "columns": layer.last % part}),
                "row": self._row(functions),
            },
        )

    def _panels(self) -> dict[str, Value]:
        layer = self.layer
        return {"inputs": layer.inputs, "panels": layer.panels, "width": layer.width, "last": layer.last}

    def _sums(self, functions: Functions, template: str, shape: dict[str, Value]) -> str:
        """The function that computes tiles of this shape, whatever the layer; "" for a tile of nothing."""
        if 0 in shape.values():
            return ""
        return functions.function(template, shape | {"unroll": self.tile.unroll})


@dataclass(frozen=True, slots=True)
class PassStep:
    """An activation, in place.  template: its name in the library.  unroll: vectors in the body of its loop."""

    template: str
    y: Rows
    unroll: int

    @property
    def x(self) -> Rows:
        return self.y

    def __str__(self) -> str:
        return f"{self.template:<13} {self.y.width} values, row of {self.y.stride} bytes at {self.y.offset}"

    def call(self, functions: Functions, rows: str | None) -> str:
        y, vectors = functions.pointer(self.y, rows), -(-self.y.width // LANES)
        if functions.library.placements[self.template] == "row":
            name = functions.function(self.template, {"width": self.y.width, "vectors": vectors})
        elif rows is None and vectors <= FEW_VECTORS_MAX:
            few = functions.function("elementwise_few", {"activation": self.template, "vectors": vectors})
            return f"(call ${few} {y})"
        else:
            name = functions.function("elementwise", {"activation": self.template, "unroll": self.unroll})
        if rows is None:
            return f"(call ${name} {y} (i32.add {y} (i32.const {16 * vectors})))"
        if self.y.stride != 16 * vectors:  # a part of each row
            values: dict[str, Value] = {"each": name, "stride": self.y.stride, "size": 16 * vectors}
            return f"(call ${functions.function('each_row', values)} {y} (local.get {rows}))"
        return f"(call ${name} {y} (i32.add {y} (i32.mul (local.get {rows}) (i32.const {self.y.stride}))))"


def passes(library: Library, names: Iterable[str], y: Rows, unroll: int) -> list[Step]:
    """The passes over y that these activations take; linear takes none."""
    return [PassStep(name, y, unroll) for name in names if library.placements[name] != "none"]


def packed_of(outline: Outline, index: int) -> Packed:
    """How the dense node `index` is packed."""
    node = outline.nodes[index]
    return Packed(outline.tensors[node.inputs[0]].size, outline.tensors[node.output].size)


def tile_of(outline: Outline, tile: Tile) -> Tile:
    """The tile with an `unroll` that suits these layers: more steps than inputs would never run."""
    layers = [packed_of(outline, index) for index, node in enumerate(outline.nodes) if node.op == "dense"]
    widths = {width for layer in layers for width in (layer.width, layer.last) if width}
    unroll = tile.unroll_many if len(widths) > tile.widths_many else tile.unroll
    return replace(tile, unroll=min(unroll, max(layer.inputs for layer in layers)))


def _size(outline: Outline, index: int) -> int:
    return packed_of(outline, index).size


def _steps(plan: Plan, index: int) -> list[Step]:
    node, layer = plan.outline.nodes[index], packed_of(plan.outline, index)
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    tile = tile_of(plan.outline, plan.library.tile(plan.arch))
    height = max(1, tile.gemm_sums // min(layer.columns, tile.gemm_columns))
    height = min(height, tile.gemm_rows_max, plan.batch_max)
    dense = DenseStep(x, y, layer, plan.weights(index), height, tile)
    return [dense, *passes(plan.library, [str(node.attrs["activation"])], y, tile.pass_unroll)]


def _pack(graph: Graph, index: int) -> bytes:
    packed, params = packed_of(graph, index), graph.nodes[index].params
    full = np.zeros((packed.inputs + 1, packed.columns * LANES), dtype="<f4")
    full[0, : packed.outputs] = params["bias"]
    full[1:, : packed.outputs] = params["weights"]
    return b"".join(full[:, columns].tobytes() for columns in packed.panel_slices())


def _unpack(content: bytes, outline: Outline, index: int) -> dict[str, NDArray[Any]]:
    packed, start = packed_of(outline, index), 0
    values = np.frombuffer(content, "<f4")
    full = np.empty((packed.inputs + 1, packed.columns * LANES), np.float32)
    for columns in packed.panel_slices():
        panel = full[:, columns]
        panel[:] = values[start : start + panel.size].reshape(panel.shape)
        start += panel.size
    return {"weights": full[1:, : packed.outputs], "bias": full[0, : packed.outputs]}


DENSE = Lowering(_size, _steps, _pack, _unpack)
