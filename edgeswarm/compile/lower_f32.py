"""The dense layer in float32: packing, tiles, and the steps that compute it.

Packing and order of sums do not depend on tiles or architecture, so every bit is the same with all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile import lower_dot
from edgeswarm.compile.abi import Rows
from edgeswarm.compile.library import Library, Tile
from edgeswarm.compile.lowering import Functions, Lowering, Plan, Step
from edgeswarm.compile.template import Value
from edgeswarm.model.graph import Graph, Outline

LANES = 4  # float32 in a vector of 128 bits
PANEL = 4  # columns of a panel: a row of it is one line of the cache, and one tile of gemm
SMALL_VECTORS_MAX = 64  # of weights: a layer of so few is one stretch of code; past that loops are as fast, and shorter
DOT_INPUTS_MIN = 32  # below, four lanes of which three idle are as fast
STREAM_BYTES_MIN = 768 * 1024  # packed weights of a net past this come from beyond the second-level cache (1 MiB)
STREAM_UNROLL, STREAM_FOLD = 8, 4  # for those: short rounds, several in one body of gemv (gemv.wat)
FEW_VECTORS_MAX = 4  # a row of so few gets its activation without a loop: a tiny net is 2 to 13 % faster


@dataclass(frozen=True, slots=True)
class Packed:
    """How a dense layer's weights are packed: panels of 4 columns, a column 4 outputs (the last padded with zeros).

    One panel: a row of bias, then a row of weights for each input; a row is one vector of 16 bytes for each column.
    What columns are left over make one more, narrower panel.  A layer of one output that is long enough is packed as
    `lower_dot.py` says.
    """

    inputs: int
    outputs: int

    @property
    def columns(self) -> int:
        return -(-self.outputs // LANES)

    @property
    def panels(self) -> int:
        """How many panels of 4 columns."""
        return self.columns // PANEL

    @property
    def last(self) -> int:
        """Columns of one more, narrower panel; 0 if there is none."""
        return self.columns % PANEL

    @property
    def size(self) -> int:
        """Bytes of the whole layer."""
        return self.columns * (self.inputs + 1) * 16

    @property
    def dot(self) -> bool:
        """Whether it is computed, and packed, as one dot product (`lower_dot.py`)."""
        return self.outputs == 1 and self.inputs >= DOT_INPUTS_MIN

    @property
    def small(self) -> bool:
        """Whether one row of it is computed without a loop."""
        return self.columns <= PANEL and self.columns * self.inputs <= SMALL_VECTORS_MAX

    def panel_slices(self) -> list[slice]:
        """Which outputs, padding included, each panel holds."""
        width = PANEL * LANES
        return [slice(start, min(start + width, self.columns * LANES)) for start in range(0, self.outputs, width)]

    def passes(self, most: int) -> list[tuple[int, int]]:
        """Groups of at most `most` columns, as few as can be: (first column, how many).

        6 where that does no harm: sums of 6 start at few places of a panel, so layers share their code.
        """
        left, at, groups = self.columns, 0, []
        for more in range(-(-self.columns // most) - 1, -1, -1):
            even = 4 if left == 8 else min(most, 6, left)
            width = even if left - even <= most * more else min(most, left)
            groups.append((at, width))
            at, left = at + width, left - width
        return groups


@dataclass(frozen=True, slots=True)
class DenseStep:
    """The sums of a dense layer.  weights: offset of the packed layer.

    fused: an activation that one row's function computes too, where the layer is small; its PassStep then does nothing.
    """

    x: Rows
    y: Rows
    layer: Packed
    weights: int
    tile: Tile
    fused: str = ""

    def __str__(self) -> str:
        layer = self.layer
        panels = " + ".join([f"{layer.panels} x 4"] * (layer.panels > 0) + [str(layer.last)] * (layer.last > 0))
        return (
            f"{'dense':<13} {layer.inputs} -> {layer.outputs}: {panels} columns at {self.weights}, "
            f"x at {self.x.offset}, y at {self.y.offset}"
        )

    def call(self, functions: Functions, rows: str | None) -> str:
        x, y = functions.pointer(self.x, rows), functions.pointer(self.y, rows)
        weights = f"(i32.const {self.weights})"
        if rows is None:
            name = self._small(functions, self.fused) if self.layer.small else self._row(functions)
            return f"(call ${name} {x} {weights} {y})"
        return f"(call ${self._rows(functions)} {x} (local.get {rows}) {weights} {y})"

    def _small(self, functions: Functions, fused: str) -> str:
        """The function that computes a small layer on one row, with its activation."""
        shape = {"inputs": self.layer.inputs, "columns": self.layer.columns, "k_main": self._main()}
        return functions.function(
            "small", shape | self._loops(functions) | {"fused": int(fused != ""), "activation": fused}
        )

    def _row(self, functions: Functions) -> str:
        """The function that computes the layer on one row."""
        calls = []
        for start, width in self.layer.passes(self.tile.gemv_columns):
            first, end = start % PANEL, start + width
            panels = -(-(first + width) // PANEL)
            last = self.layer.last if end > PANEL * self.layer.panels else PANEL
            shape: dict[str, Value] = {"first": first, "width": width, "panels": panels, "last": last}
            name = functions.function("gemv", shape | self._loops(functions))
            panel_bytes = 16 * PANEL * (self.layer.inputs + 1)
            at = [panel_bytes * (start // PANEL + index) for index in range(panels)]
            pointers = "".join(f" (i32.add (local.get $w) (i32.const {offset}))" for offset in at)
            calls.append(
                f"(call ${name} (local.get $x) (i32.const {4 * self._main()}) "
                f"(i32.const {4 * self.layer.inputs}){pointers} (i32.add (local.get $y) (i32.const {16 * start})))"
            )
        return functions.function("row", {"calls": "\n  ".join(calls)})

    def _rows(self, functions: Functions) -> str:
        """The function that computes the layer on many rows."""
        layer = self.layer
        height, height_last = self._height(PANEL) if layer.panels else 0, self._height(layer.last)
        return functions.function(
            "rows",
            {
                "inputs": layer.inputs,
                "k_main": 4 * self._main(),
                "panels": layer.panels,
                "last": layer.last,
                "height": height,
                "height_last": height_last,
                "tallest": max(height, height_last),
                "x_stride": self.x.stride,
                "y_stride": self.y.stride,
                "gemm": self._tiles(functions, height, PANEL),
                "gemm_last": self._tiles(functions, height_last, layer.last),
                "row": self._small(functions, "") if self.layer.small else self._row(functions),
            },
        )

    def _height(self, columns: int) -> int:
        """Rows of a tile of so many columns; 0 for none."""
        return min(self.tile.gemm_sums // columns, self.tile.gemm_rows_max) if columns else 0

    def _tiles(self, functions: Functions, height: int, columns: int) -> str:
        """The function that computes tiles of this shape, whatever the layer; "" for tiles of nothing."""
        if not height:
            return ""
        return functions.function("gemm", {"height": height, "columns": columns} | self._loops(functions))

    def _main(self) -> int:
        """Values of a row of x that the main loop takes."""
        unroll = self.tile.unroll
        return self.layer.inputs // unroll * unroll if unroll else 0

    def _loops(self, functions: Functions) -> dict[str, Value]:
        """fresh: each round sums from 0 on; gemv and gemm have equal rounds, so equal bits."""
        fresh, streamed = functions.mode == "fast", self.tile.gemv_columns == PANEL
        fold = STREAM_FOLD if fresh and streamed and self.tile.unroll else 1
        return {"unroll": self.tile.unroll, "tail": self.tile.tail, "fresh": int(fresh), "fold": fold}


@dataclass(frozen=True, slots=True)
class PassStep:
    """An activation, in place.  template: its name in the library.  unroll: vectors in the body of its loop.

    fused: for one row the layer before has done it already.
    """

    template: str
    y: Rows
    unroll: int
    fused: bool = False

    @property
    def x(self) -> Rows:
        return self.y

    def __str__(self) -> str:
        return f"{self.template:<13} {self.y.width} values, row of {self.y.stride} bytes at {self.y.offset}"

    def call(self, functions: Functions, rows: str | None) -> str:
        if self.fused and rows is None:
            return ""
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


def passes(library: Library, names: Iterable[str], y: Rows, unroll: int, *, fused: bool = False) -> list[Step]:
    """The passes over y that these activations take; linear takes none."""
    return [PassStep(name, y, unroll, fused) for name in names if library.placements[name] != "none"]


def packed_of(outline: Outline, index: int) -> Packed:
    """How the dense node `index` is packed."""
    node = outline.nodes[index]
    return Packed(outline.tensors[node.inputs[0]].size, outline.tensors[node.output].size)


def tile_of(outline: Outline, tile: Tile) -> Tile:
    """The tile with loops that suit these layers: no main loop that no layer is long enough for.

    Weights that have to be streamed go panel by panel: one stream is 1.2 times as fast as the two of 7 columns.
    """
    layers = [packed_of(outline, index) for index, node in enumerate(outline.nodes) if node.op == "dense"]
    layers = [layer for layer in layers if not layer.dot]
    longest = max((layer.inputs for layer in layers), default=1)
    if sum(layer.size for layer in layers) >= STREAM_BYTES_MIN:
        tile = replace(tile, gemv_columns=PANEL, unroll=min(tile.unroll, STREAM_UNROLL))
    shapes = {(start % PANEL, width) for layer in layers for start, width in layer.passes(tile.gemv_columns)}
    unroll = tile.unroll_many if len(shapes) > tile.shapes_many else tile.unroll
    return replace(tile, unroll=unroll if longest >= unroll else 0, tail=min(tile.tail, longest))


def _size(outline: Outline, index: int) -> int:
    packed = packed_of(outline, index)
    return lower_dot.size(packed.inputs) if packed.dot else packed.size


def _steps(plan: Plan, index: int) -> list[Step]:
    node, layer = plan.outline.nodes[index], packed_of(plan.outline, index)
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    tile = plan.dense_tile
    name = str(node.attrs["activation"])
    if layer.dot:
        fused = plan.library.placements[name] == "pass"
        scratch = plan.scratch(lower_dot.SCRATCH_BYTES)
        dot = lower_dot.DotStep(x, y, layer.inputs, plan.weights(index), name if fused else "", scratch)
        return [dot, *passes(plan.library, [] if fused else [name], y, tile.pass_unroll)]
    fused = layer.small and plan.library.placements[name] == "pass"
    dense = DenseStep(x, y, layer, plan.weights(index), tile, name if fused else "")
    return [dense, *passes(plan.library, [name], y, tile.pass_unroll, fused=fused)]


def _pack(graph: Graph, index: int) -> bytes:
    packed, params = packed_of(graph, index), graph.nodes[index].params
    if packed.dot:
        return lower_dot.pack(params["weights"], params["bias"])
    full = np.zeros((packed.inputs + 1, packed.columns * LANES), dtype="<f4")
    full[0, : packed.outputs] = params["bias"]
    full[1:, : packed.outputs] = params["weights"]
    return b"".join(full[:, columns].tobytes() for columns in packed.panel_slices())


def _unpack(content: bytes, outline: Outline, index: int) -> dict[str, NDArray[Any]]:
    packed, start = packed_of(outline, index), 0
    if packed.dot:
        weights, bias = lower_dot.unpack(content, packed.inputs)
        return {"weights": weights, "bias": bias}
    values = np.frombuffer(content, "<f4")
    full = np.empty((packed.inputs + 1, packed.columns * LANES), np.float32)
    for columns in packed.panel_slices():
        panel = full[:, columns]
        panel[:] = values[start : start + panel.size].reshape(panel.shape)
        start += panel.size
    return {"weights": full[1:, : packed.outputs], "bias": full[0, : packed.outputs]}


DENSE = Lowering(_size, _steps, _pack, _unpack)
