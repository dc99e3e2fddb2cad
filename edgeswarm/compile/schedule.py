"""What a kernel will do, before a line of it is written: which template, which tile, which place in memory, in order.

A Schedule is data and can be printed.  It depends on the topology (widths, activations, mode, batch, architecture),
never on weights, so equal topologies give equal code.
Invariants: offsets are multiples of 64; the regions input, output, scratch and weights do not overlap; a step reads
what the step before it wrote; rows are padded to whole vectors, and a step reads only a row's true width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from edgeswarm.compile.abi import ABI, ALIGN_BYTES, Layout, Rows, Weights
from edgeswarm.compile.library import Library, Tile
from edgeswarm.compile.wasm import PAGE_BYTES
from edgeswarm.errors import LimitError, LocalError, ModelError
from edgeswarm.limits import KERNEL_BATCH_MAX, KERNEL_MEMORY_BYTES_MAX
from edgeswarm.model.activations import ACTIVATIONS

MODES = ("fast", "deterministic")
LANES = 4  # float32 in a vector of 128 bits
PANEL_COLUMNS_MAX = 7  # columns whose sums the 16 vector registers of x86-64 hold (wasm_kernels/dense_f32/gemv.wat)
PACKING = 1  # raised when the packing of weights changes, so that no kernel takes what it would misread
_RESERVED_BYTES = 1024  # nothing lies at offset 0: a zero address is a fault of the generator, not a region


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


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel over one place in memory.

    template: of the kernel library; `dense` stands for row (one) and rows (many).  x, y: rows read and written (the
    same for an activation).  weights: offset of the packed layer.  height: rows of one tile of gemm.
    """

    template: str
    x: Rows
    y: Rows
    layer: Packed | None = None
    weights: int = 0
    height: int = 1

    def __str__(self) -> str:
        if self.layer is None:
            return f"{self.template:<13} {self.y.width} values, row of {self.y.stride} bytes at {self.y.offset}"
        layer = self.layer
        panels = f"{layer.panels} x {layer.width}" + (f" + {layer.last}" if layer.last else "")
        return (
            f"{self.template:<13} {layer.inputs} -> {layer.outputs}: {panels} columns at {self.weights}, "
            f"{self.height} rows a tile, x at {self.x.offset}, y at {self.y.offset}"
        )


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that shapes a kernel's code, and the Layout that its host will read."""

    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    mode: str
    arch: str
    tile: Tile
    block_rows: int
    steps: tuple[Step, ...]
    layout: Layout

    def __str__(self) -> str:
        sizes = "-".join(map(str, self.sizes))
        head = (
            f"mlp {sizes}, {self.mode}, {self.arch}: batch {self.layout.batch_max} in blocks of {self.block_rows}, "
            f"{self.layout.weights.size} bytes of weights, {self.layout.memory_bytes} of memory"
        )
        return "\n".join([head, *(f"{index:3} {step}" for index, step in enumerate(self.steps))])


def plan(
    sizes: Sequence[int], activations: Sequence[str], *, batch_max: int, mode: str, arch: str, library: Library
) -> Schedule:
    """The schedule of a chain of dense layers; activations: one a layer.

    Raises LocalError for an unknown mode or architecture, ModelError for activations that do not fit, LimitError past
    KERNEL_BATCH_MAX or KERNEL_MEMORY_BYTES_MAX.
    """
    if mode not in MODES:
        raise LocalError(f"mode: expected one of {', '.join(MODES)}, found {mode!r}")
    if not 1 <= batch_max <= KERNEL_BATCH_MAX:
        raise LimitError(f"batch_max: expected 1 to {KERNEL_BATCH_MAX} (KERNEL_BATCH_MAX), found {batch_max}")
    if len(activations) != len(sizes) - 1 or not set(activations) <= set(ACTIVATIONS):
        raise ModelError(f"activations: expected {len(sizes) - 1} of {', '.join(ACTIVATIONS)}, found {activations}")
    layers = packed_layers(sizes)
    tile = _tile_for(library.tile(arch), layers)
    block_rows = min(tile.block_rows, batch_max)
    memory = _Memory()
    x = Rows(memory.take(batch_max * 4 * sizes[0]), 4 * sizes[0], sizes[0])
    last = Rows(memory.take(batch_max * layers[-1].row_bytes), layers[-1].row_bytes, sizes[-1])
    hidden_bytes = max((layer.row_bytes for layer in layers[:-1]), default=0)
    scratch = [memory.take(block_rows * hidden_bytes) for _ in range(min(2, len(layers) - 1))]
    weights_offset = memory.at
    first = x
    steps: list[Step] = []
    for index, (layer, activation) in enumerate(zip(layers, activations, strict=True)):
        y = last if index == len(layers) - 1 else Rows(scratch[index % 2], layer.row_bytes, layer.outputs)
        height = max(1, tile.gemm_sums // min(layer.columns, tile.gemm_columns))
        height = min(height, tile.gemm_rows_max, batch_max)
        steps.append(Step("dense", x, y, layer, memory.take(layer.size), height))
        if library.placements[activation] != "none":
            steps.append(Step(activation, y, y))
        x = y
    if mode == "deterministic":
        steps.append(Step("canonical_nan", last, last))
    size = memory.at - weights_offset
    memory_bytes = -(-memory.at // PAGE_BYTES) * PAGE_BYTES
    if memory_bytes > KERNEL_MEMORY_BYTES_MAX:
        raise LimitError(
            f"kernel memory: at most {KERNEL_MEMORY_BYTES_MAX} bytes (KERNEL_MEMORY_BYTES_MAX), found {memory_bytes} "
            f"with batch_max {batch_max}; a smaller batch_max needs less"
        )
    layout = Layout(
        batch_max=batch_max,
        deterministic=mode == "deterministic",
        input=first,
        output=last,
        weights=Weights(weights_offset, size, (size // 4,)),
        memory_bytes=memory_bytes,
        topology=topology_of(sizes, activations, batch_max=batch_max, mode=mode, arch=arch),
    )
    return Schedule(tuple(sizes), tuple(activations), mode, arch, tile, block_rows, tuple(steps), layout)


def _tile_for(tile: Tile, layers: Sequence[Packed]) -> Tile:
    """The tile with an `unroll` that suits these layers: more steps than inputs would never run."""
    widths = {width for layer in layers for width in (layer.width, layer.last) if width}
    unroll = tile.unroll_many if len(widths) > tile.widths_many else tile.unroll
    return replace(tile, unroll=min(unroll, max(layer.inputs for layer in layers)))


def packed_layers(sizes: Sequence[int]) -> list[Packed]:
    """How the layers of a network of these widths are packed."""
    return [Packed(before, after) for before, after in pairwise(sizes)]


def topology_of(sizes: Sequence[int], activations: Sequence[str], *, batch_max: int, mode: str, arch: str) -> str:
    """SHA-256 (hex) of what a kernel is generated for; kernels of equal topology take the same packed weights.

    Tiles and templates are no part of it: a later version of them makes other code for the same weights.
    """
    facts = {
        "abi": ABI,
        "activations": list(activations),
        "arch": arch,
        "batch_max": batch_max,
        "kind": "mlp-f32",
        "mode": mode,
        "packing": PACKING,
        "sizes": list(sizes),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Memory:
    """Hands out regions one behind the other, each aligned."""

    def __init__(self) -> None:
        self.at = _RESERVED_BYTES

    def take(self, size: int) -> int:
        offset = self.at
        self.at = -(-(offset + size) // ALIGN_BYTES) * ALIGN_BYTES
        return offset
