"""What a kernel will do, before a line of it is written: which template, which tile, which place in memory, in order.

A Schedule is data and can be printed.  It depends on the topology (widths, activations, mode, batch, architecture),
never on weights, so equal topologies give equal code.
Invariants: offsets are multiples of 64; the regions input, output, scratch and weights do not overlap; a step reads
what the step before it wrote; rows are padded to whole panels, and a step reads only a row's true width.
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
VECTOR = 4  # float32 in a vector of 128 bits
PACKING = 1  # raised when the packing of weights changes, so that no kernel takes what it would misread
_RESERVED_BYTES = 1024  # nothing lies at offset 0: a zero address is a fault of the generator, not a region


@dataclass(frozen=True, slots=True)
class Panels:
    """How a dense layer's weights are packed: `count` panels of `vectors` x 4 outputs.

    One panel: a row of bias, then one row of weights for each input, each `vectors` x 16 bytes.
    """

    inputs: int
    outputs: int
    count: int
    vectors: int

    @property
    def lanes(self) -> int:
        """Outputs with their padding."""
        return self.count * self.vectors * VECTOR

    @property
    def panel_bytes(self) -> int:
        return (self.inputs + 1) * self.vectors * 16

    @property
    def size(self) -> int:
        """Bytes of the whole layer."""
        return self.count * self.panel_bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel over one place in memory.

    template: of the kernel library; `dense` stands for gemv (one row) and gemm (many).  x, y: rows read and written
    (the same for a pass).  fused: activation inside a dense step.  weights: offset of the packed layer.
    """

    template: str
    x: Rows
    y: Rows
    fused: str = "linear"
    weights: int = 0
    panels: Panels | None = None
    gemv_panels: int = 1
    gemm_rows: int = 1
    unroll: int = 1

    def __str__(self) -> str:
        if self.panels is None:
            return f"{self.template:<13} {self.y.width} values, row of {self.y.stride} bytes at {self.y.offset}"
        act = "" if self.fused == "linear" else f" + {self.fused}"
        return (
            f"{'dense' + act:<13} {self.panels.inputs} -> {self.panels.outputs}: panels {self.panels.count} x "
            f"{self.panels.vectors} vectors at {self.weights}; tile {self.gemv_panels} panels, {self.gemm_rows} rows, "
            f"unroll {self.unroll}, x at {self.x.offset}, y at {self.y.offset}"
        )


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that shapes a kernel's code, and the Layout that its host will read."""

    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    mode: str
    arch: str
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


def plan_panels(inputs: int, outputs: int, vectors_max: int) -> Panels:
    """Panels of equal width that hold `outputs` with the least work: padding counts, and so do narrow panels."""
    vectors = -(-outputs // VECTOR)
    if vectors <= vectors_max:
        return Panels(inputs, outputs, 1, vectors)
    best, best_cost = Panels(inputs, outputs, vectors, 1), float("inf")
    for width in range(vectors_max, 1, -1):
        count = -(-vectors // width)
        cost = count * (width + 1)  # each step of k loads one vector of x beside `width` vectors of weights
        if cost < best_cost:
            best, best_cost = Panels(inputs, outputs, count, width), cost
    return best


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
    layers = [plan_panels(before, after, library.panel_vectors_max) for before, after in pairwise(sizes)]
    tile = _tile_for(library.tile(arch), layers)
    block_rows = min(tile.block_rows, batch_max)
    memory = _Memory()
    x = Rows(memory.take(batch_max * 4 * sizes[0]), 4 * sizes[0], sizes[0])
    last = Rows(memory.take(batch_max * 4 * layers[-1].lanes), 4 * layers[-1].lanes, sizes[-1])
    hidden_bytes = max((4 * layer.lanes for layer in layers[:-1]), default=0)
    scratch = [memory.take(block_rows * hidden_bytes) for _ in range(min(2, len(layers) - 1))]
    weights_offset = memory.at
    first = x
    steps: list[Step] = []
    for index, (layer, activation) in enumerate(zip(layers, activations, strict=True)):
        y = last if index == len(layers) - 1 else Rows(scratch[index % 2], 4 * layer.lanes, layer.outputs)
        fused = library.placements[activation] == "fused"
        name = activation if fused else "linear"
        steps.append(_dense(layer, name, x, y, weights=memory.take(layer.size), tile=tile, batch_max=batch_max))
        if not fused:
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
    return Schedule(tuple(sizes), tuple(activations), mode, arch, block_rows, tuple(steps), layout)


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


def _tile_for(tile: Tile, layers: Sequence[Panels]) -> Tile:
    """The tile with `gemv_sums` and `unroll` as they suit a model of these layers."""
    large = sum(layer.size for layer in layers) > tile.large_bytes
    many = len(set(layers)) > tile.layers_many
    return replace(
        tile,
        gemv_sums=tile.gemv_sums_large if large else tile.gemv_sums,
        unroll=tile.unroll_many if many else tile.unroll,
    )


def _dense(layer: Panels, fused: str, x: Rows, y: Rows, *, weights: int, tile: Tile, batch_max: int) -> Step:
    return Step(
        "dense",
        x,
        y,
        fused=fused,
        weights=weights,
        panels=layer,
        gemv_panels=min(layer.count, max(1, tile.gemv_sums // layer.vectors)),
        gemm_rows=min(batch_max, tile.gemm_rows_max, max(1, tile.gemm_sums // layer.vectors)),
        unroll=min(tile.unroll, layer.inputs),
    )


class _Memory:
    """Hands out regions one behind the other, each aligned."""

    def __init__(self) -> None:
        self.at = _RESERVED_BYTES

    def take(self, size: int) -> int:
        offset = self.at
        self.at = -(-(offset + size) // ALIGN_BYTES) * ALIGN_BYTES
        return offset
