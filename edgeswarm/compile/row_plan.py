"""The memory of a graph that goes row by row: every tensor and every scratch gets its bytes only while it is in use.

Pieces (`sharing.py`) and scratch are placed one by one, each at the lowest offset that is free through its life.  A
kernel of one row may use the bytes of its input, once it is read, and those of its output, until it is written; with
more rows both lie apart from all else, for the host fills and reads all rows at once.
Invariants: pieces in use at the same time are apart, and 16 bytes at least lie behind each that nothing else uses then.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.abi import ALIGN_BYTES, Rows
from edgeswarm.compile.library import Library
from edgeswarm.compile.lower_f32 import tile_of
from edgeswarm.compile.lowering import lowering_of
from edgeswarm.compile.places import VECTOR_BYTES
from edgeswarm.compile.sharing import CONSTANT, INPUT, OUTPUT, Life, Sharing, Use
from edgeswarm.compile.wasm import PAGE_BYTES
from edgeswarm.model.graph import Outline
from edgeswarm.model.nodes import DTYPES

_CLIMBS = 16  # those that help much do within a dozen
_ORDERS_LIVES_MAX = 512  # of more, one order is enough: a graph of 4,096 nodes is planned within seconds


class RowPlan:
    """The schedule in the making (`lowering.Plan`).  Offsets hold once `settle` is called, with all scratch known."""

    block_rows = 1

    def __init__(self, outline: Outline, batch_max: int, mode: str, arch: str, library: Library, start: int) -> None:
        """start: where the memory that is planned begins."""
        self.outline, self.batch_max, self.mode, self.arch, self.library = outline, batch_max, mode, arch, library
        self.dense_tile = tile_of(outline, library.tile(arch))
        self._start = start
        self._sharing = Sharing(outline, keep_input=batch_max > 1)
        self._wanted: dict[int, list[int]] = {}  # node -> sizes of its scratch, in order
        self._scratch: dict[int, list[int]] | None = None  # node -> offsets not yet asked for
        self._node = 0  # whose steps are made: what a scratch without a node is for
        self._sizes = [lowering_of(node).size(outline, index) for index, node in enumerate(outline.nodes)]
        self._weights = [0] * len(outline.nodes)
        self._offsets = [start] * len(self._sharing.pieces)
        self.weights_offset = self.weights_size = self.activation_bytes = self.end = start

    def settle(self) -> None:
        """Decide where everything lies, from the scratch that was asked for so far."""
        lives = list(self._sharing.pieces)
        owners = [(node, size) for node, sizes in sorted(self._wanted.items()) for size in sizes]
        lives += [Life((Use(0, size, node, node),)) for node, size in owners]
        self._offsets, at = self._regions(lives)
        self._scratch = {node: [] for node in self._wanted}
        for (node, _), offset in zip(owners, self._offsets[len(self._sharing.pieces) :], strict=True):
            self._scratch[node].append(offset)
        self.activation_bytes = at - self._start
        self.weights_offset = at
        for index, size in enumerate(self._sizes):
            self._weights[index], at = at, _aligned(at + size)
        self.weights_size = at - self.weights_offset
        self.end = at + ALIGN_BYTES  # what is read, and not used, behind the last weights
        for node, tensor in ((i, one.output) for i, one in enumerate(self.outline.nodes) if one.op == "constant"):
            spot = self._sharing.spots[tensor]
            if self._sharing.pieces[spot.buffer].pin == CONSTANT:
                self._offsets[spot.buffer] = self._weights[node] - spot.offset

    def _regions(self, lives: list[Life]) -> tuple[list[int], int]:
        """The offset of each piece, and where the memory of all ends."""
        elsewhere = (CONSTANT,) if self.batch_max == 1 else (CONSTANT, INPUT, OUTPUT)
        offsets, at = arrange([Life(()) if life.pin in elsewhere else life for life in lives], self._start)
        if self.batch_max > 1:
            for tensor in (self.outline.input, self.outline.output):
                offsets[self._sharing.spots[tensor].buffer] = at
                at = _aligned(at + self.batch_max * self.place(tensor).stride + VECTOR_BYTES)
        return offsets, at

    def place(self, tensor: int) -> Rows:
        spot, written = self._sharing.spots[tensor], self.outline.tensors[tensor]
        size = written.size * DTYPES[written.dtype].itemsize
        stride = size if tensor == self.outline.input else -(-size // VECTOR_BYTES) * VECTOR_BYTES
        return Rows(self._offsets[spot.buffer] + spot.offset, stride, written.size)

    def weights(self, node: int) -> int:
        return self._weights[node]

    def copied(self, node: int, number: int) -> bool:
        return (node, number) in self._sharing.copies

    def scratch(self, size: int, index: int | None = None) -> int:
        node = self._node if index is None else index
        if self._scratch is None:
            self._wanted.setdefault(node, []).append(size)
            return self._start
        return self._scratch[node].pop(0)

    def begin(self, node: int) -> None:
        """The steps of `node` are made from now on."""
        self._node = node

    @property
    def memory_bytes(self) -> int:
        return -(-self.end // PAGE_BYTES) * PAGE_BYTES


def arrange(lives: Sequence[Life], start: int) -> tuple[list[int], int]:
    """An offset for each life, so that uses that overlap in time do not in memory, and where the last one ends.

    What has no bytes takes no place.  Largest first (Pisarchyk and Lee 2020, arXiv:2001.03288, section 4.2), and in the
    order of time: whichever takes less.  Then what ended highest comes first, again and again: often less still.
    """
    sizes = [life.size for life in lives]
    orders = [
        sorted(range(len(lives)), key=lambda index: (-sizes[index], lives[index].first, index)),
        sorted(range(len(lives)), key=lambda index: (-sizes[index], not lives[index].pin, lives[index].first, index)),
        sorted(range(len(lives)), key=lambda index: (lives[index].first, -sizes[index], index)),
    ]
    if not lives or len(lives) > _ORDERS_LIVES_MAX:
        return _arranged(lives, orders[0], start)
    best, order = min((_arranged(lives, order, start) for order in orders), key=lambda found: found[1]), orders[0]
    for _ in range(_CLIMBS):
        found = _arranged(lives, order, start)
        best = found if found[1] < best[1] else best
        highest = max(order, key=lambda index: found[0][index] + sizes[index])
        if highest == order[0]:
            break
        order = [highest, *(index for index in order if index != highest)]
    return best


def _arranged(lives: Sequence[Life], order: Sequence[int], start: int) -> tuple[list[int], int]:
    """The lives one after the other, each at the lowest offset that is free."""
    offsets, end, count = [start] * len(lives), start, 0
    placed = np.zeros((5, sum(len(life.uses) for life in lives)), np.int64)  # first and last node, low, high, host
    for index in order:
        taken = []  # from after the one to before the other the offset cannot be
        for use in lives[index].uses:
            first, last, low, high, host = placed[:, :count]
            busy = (first <= use.last) & (last >= use.first) | (host == 1) & use.host
            taken.append(np.stack([low[busy] - use.high - VECTOR_BYTES, high[busy] - use.low]))
        at = _free(np.hstack(taken), start) if taken else start
        offsets[index] = at
        for use in lives[index].uses:
            placed[:, count] = use.first, use.last, at + use.low, at + use.high + VECTOR_BYTES, use.host
            count, end = count + 1, max(end, at + use.high + VECTOR_BYTES)
    return offsets, _aligned(end)


def _free(spans: NDArray[np.int64], start: int) -> int:
    """The lowest aligned offset from `start` on that is in none of the spans (from after the first to before the
    second)."""
    before, behind = spans[:, np.argsort(spans[0], kind="stable")]
    reached = np.maximum.accumulate(np.append(start, behind))
    reached = -(-reached // ALIGN_BYTES) * ALIGN_BYTES
    fits = np.append(before >= reached[:-1], True)
    return int(reached[int(fits.argmax())])


def _aligned(at: int) -> int:
    return -(-at // ALIGN_BYTES) * ALIGN_BYTES
