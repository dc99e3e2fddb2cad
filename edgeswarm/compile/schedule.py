"""What a kernel will do, before a line of it is written: which template, which tile, which place in memory, in order.

A Schedule is data and can be printed.  It depends on the topology (outline, mode, batch, architecture), never on
weights, so equal topologies give equal code.
Invariants: offsets of regions are multiples of 64; the regions input, output, scratch and weights do not overlap; a
step reads what steps before it wrote, of each row no more than the tensor's own values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgeswarm.compile.abi import ABI, ALIGN_BYTES, Layout, Rows, Weights
from edgeswarm.compile.library import Library
from edgeswarm.compile.lower_f32 import LANES, Packed, passes, tile_of
from edgeswarm.compile.lowering import ROWWISE, Step, lowering_of
from edgeswarm.compile.places import Places
from edgeswarm.compile.row_plan import RowPlan
from edgeswarm.compile.wasm import PAGE_BYTES
from edgeswarm.errors import LimitError, LocalError
from edgeswarm.limits import KERNEL_BATCH_MAX, KERNEL_MEMORY_BYTES_MAX
from edgeswarm.model.graph import Outline
from edgeswarm.model.structure import structure_of

__all__ = ["LANES", "MODES", "Packed", "Schedule", "Step", "node_weights", "packed_layers", "plan", "topology_of"]

MODES = ("fast", "deterministic")
PACKING = 2  # raised when the packing of weights changes, so that no kernel takes what it would misread
PACKING_I8 = 3  # the same of graphs with 8-bit layers as TFLite computes them: they change by themselves
_LAYERS_I8 = {"conv2d_i8", "depthwise_i8", "dense_tflite", "rows_tflite"}
_RESERVED_BYTES = 1024  # nothing lies at offset 0: a zero address is a fault of the generator, not a region


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that shapes a kernel's code, and the Layout that its host will read.

    owners: the node that each step belongs to.  tensors: where each tensor lies while it lives.  activation_bytes: of
    memory for tensors and scratch, the input's and the output's rows included.
    """

    outline: Outline
    mode: str
    arch: str
    block_rows: int
    steps: tuple[Step, ...]
    layout: Layout
    owners: tuple[int, ...]
    tensors: tuple[Rows, ...]
    activation_bytes: int

    def __str__(self) -> str:
        sizes = chain_sizes(self.outline)
        what = f"mlp {'-'.join(map(str, sizes))}" if sizes else f"graph of {len(self.outline.nodes)} nodes"
        head = (
            f"{what}, {self.mode}, {self.arch}: batch {self.layout.batch_max} in blocks of {self.block_rows}, "
            f"{self.layout.weights.size} bytes of weights, {self.activation_bytes} of activations, "
            f"{self.layout.memory_bytes} of memory"
        )
        return "\n".join([head, *(f"{index:3} {step}" for index, step in enumerate(self.steps))])


class _Plan:
    """The schedule in the making (`lowering.Plan`)."""

    def __init__(self, outline: Outline, batch_max: int, mode: str, arch: str, library: Library) -> None:
        self.outline, self.batch_max, self.mode, self.arch, self.library = outline, batch_max, mode, arch, library
        self.block_rows = min(library.tile(arch).block_rows, batch_max)
        self.dense_tile = tile_of(outline, library.tile(arch))  # looks at every node: once, not once a node
        self._memory = _Memory()
        self._places = Places(outline)
        self._offsets = self._buffers()
        self._scratch: dict[int, int] = {}
        self.weights_offset = self._memory.at
        self.activation_bytes = self.weights_offset - _RESERVED_BYTES
        self._weights = [self._memory.take(lowering_of(node).size(outline, i)) for i, node in enumerate(outline.nodes)]
        self.weights_size = self._memory.at - self.weights_offset

    def _buffers(self) -> list[int]:
        """Where each buffer of `Places` begins: input, output, then slots that buffers use one after the other."""
        buffers, take = self._places.buffers, self._memory.take
        slots: list[tuple[int, list[int]]] = []  # free from this node on, buffers
        for index, buffer in sorted(enumerate(buffers[2:], start=2), key=lambda item: item[1].first):
            slot = next((slot for slot in slots if slot[0] < buffer.first), None)
            if slot is None:
                slots.append((buffer.last, [index]))
            else:
                slots[slots.index(slot)] = (buffer.last, [*slot[1], index])
        offsets = [take(self.batch_max * buffer.stride) for buffer in buffers[:2]] + [0] * (len(buffers) - 2)
        for _, members in slots:
            at = take(self.block_rows * max(buffers[index].stride for index in members))
            for index in members:
                offsets[index] = at
        return offsets

    def place(self, tensor: int) -> Rows:
        spot = self._places.spots[tensor]
        stride = self._places.buffers[spot.buffer].stride
        return Rows(self._offsets[spot.buffer] + spot.offset, stride, self.outline.tensors[tensor].size)

    def weights(self, node: int) -> int:
        return self._weights[node]

    def copied(self, node: int, number: int) -> bool:
        return (node, number) in self._places.copies

    def begin(self, node: int) -> None:
        """The steps of `node` are made from now on."""

    def scratch(self, size: int, index: int | None = None) -> int:
        if size not in self._scratch:
            self._scratch[size] = self._memory.take(size)
        return self._scratch[size]

    @property
    def memory_bytes(self) -> int:
        return -(-self._memory.at // PAGE_BYTES) * PAGE_BYTES


def plan(outline: Outline, *, batch_max: int, mode: str, arch: str, library: Library) -> Schedule:
    """The schedule of a graph.

    Raises LocalError for an unknown mode or architecture, LimitError past KERNEL_BATCH_MAX or KERNEL_MEMORY_BYTES_MAX.
    """
    if mode not in MODES:
        raise LocalError(f"mode: expected one of {', '.join(MODES)}, found {mode!r}")
    if not 1 <= batch_max <= KERNEL_BATCH_MAX:
        raise LimitError(f"batch_max: expected 1 to {KERNEL_BATCH_MAX} (KERNEL_BATCH_MAX), found {batch_max}")
    made: _Plan | RowPlan
    if all(node.op in ROWWISE for node in outline.nodes):
        made = _Plan(outline, batch_max, mode, arch, library)
    else:
        made = RowPlan(outline, batch_max, mode, arch, library, _RESERVED_BYTES)
        _steps(made)  # to learn what scratch they want
        made.settle()
    steps, owners = _steps(made)
    output = made.place(outline.output)
    if mode == "deterministic":
        own = passes(library, ["canonical_nan"], output, library.tile(arch).pass_unroll)
        steps += own
        owners += [len(outline.nodes) - 1] * len(own)
    if made.memory_bytes > KERNEL_MEMORY_BYTES_MAX:
        raise LimitError(
            f"kernel memory: at most {KERNEL_MEMORY_BYTES_MAX} bytes (KERNEL_MEMORY_BYTES_MAX), "
            f"found {made.memory_bytes} with batch_max {batch_max}; a smaller batch_max needs less"
        )
    layout = Layout(
        batch_max=batch_max,
        deterministic=mode == "deterministic",
        input=made.place(outline.input),
        output=output,
        weights=Weights(made.weights_offset, made.weights_size, (made.weights_size // 4,)),
        memory_bytes=made.memory_bytes,
        topology=topology_of(outline, batch_max=batch_max, mode=mode, arch=arch),
    )
    tensors = tuple(made.place(tensor) for tensor in range(len(outline.tensors)))
    return Schedule(
        outline, mode, arch, made.block_rows, tuple(steps), layout, tuple(owners), tensors, made.activation_bytes
    )


def _steps(made: _Plan | RowPlan) -> tuple[list[Step], list[int]]:
    """All steps in order, and the node that each belongs to."""
    steps, owners = [], []
    for index, node in enumerate(made.outline.nodes):
        made.begin(index)
        own = lowering_of(node).steps(made, index)
        steps += own
        owners += [index] * len(own)
    return steps, owners


def node_weights(outline: Outline) -> list[tuple[int, int]]:
    """Where in the weights region each node's packed weights lie: offset and size, one pair a node."""
    memory, pairs = _Memory(0), []
    for index, node in enumerate(outline.nodes):
        size = lowering_of(node).size(outline, index)
        pairs.append((memory.take(size), size))
    return pairs


def chain_sizes(outline: Outline) -> list[int]:
    """The widths of a chain of dense layers in float32; [] for any other graph."""
    at, sizes = outline.input, [outline.tensors[outline.input].size]
    for node in outline.nodes:
        if node.op != "dense" or node.inputs != (at,):
            return []
        at = node.output
        sizes.append(outline.tensors[at].size)
    return sizes if at == outline.output else []


def packed_layers(sizes: Sequence[int]) -> list[Packed]:
    """How the layers of a network of these widths are packed."""
    return [Packed(before, after) for before, after in pairwise(sizes)]


def topology_of(outline: Outline, *, batch_max: int, mode: str, arch: str) -> str:
    """SHA-256 (hex) of what a kernel is generated for; kernels of equal topology take the same packed weights.

    Tiles and templates are no part of it: a later version of them makes other code for the same weights.
    """
    sizes = chain_sizes(outline)
    facts = {"abi": ABI, "arch": arch, "batch_max": batch_max, "mode": mode, "packing": PACKING}
    if sizes:
        facts |= {"kind": "mlp-f32", "sizes": sizes}
        facts["activations"] = [node.attrs["activation"] for node in outline.nodes]
    else:
        facts |= {"kind": "graph", "structure": structure_of(outline).decode()}
        if any(node.op in _LAYERS_I8 for node in outline.nodes):
            facts["packing"] = PACKING_I8
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Memory:
    """Hands out regions one behind the other, each aligned."""

    def __init__(self, at: int = _RESERVED_BYTES) -> None:
        self.at = at

    def take(self, size: int) -> int:
        offset = self.at
        self.at = -(-(offset + size) // ALIGN_BYTES) * ALIGN_BYTES
        return offset
