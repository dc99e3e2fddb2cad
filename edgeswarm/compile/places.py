"""Where the tensors of a graph lie: which of them share a buffer, so that concat and slice cost nothing.

A buffer holds rows of equal stride; a tensor is a range of each row.  What concat joins is computed where it will be
read, one value behind the other; only what cannot lie there is copied.
Kernels write whole vectors, so up to 15 bytes behind a tensor are overwritten: what lies behind a tensor is written
later than it (`Places` sees to that, or copies), and a row ends with room for one more vector.
The input and the output of the graph lie in buffers of their own: hosts write the one and read the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeswarm.model.graph import Outline
from edgeswarm.model.nodes import DTYPES
from edgeswarm.model.ops import whole

VECTOR_BYTES = 16


@dataclass(slots=True)
class Buffer:
    """Rows of `stride` bytes; alive from the first node that writes them to the last that reads them."""

    stride: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Spot:
    """A tensor's place: index of its buffer, and bytes from a row's start."""

    buffer: int
    offset: int


class Places:
    """spots: one a tensor.  buffers: the graph's input lies in buffers[0], its output in buffers[1].

    copies: (node, input number) of each input of a concat, or slice (number 0), that has to be copied into its place.
    """

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self._written = {node.output: index for index, node in enumerate(outline.nodes)}
        self._written[outline.input] = -1
        self._spots: dict[int, Spot] = {}
        self.buffers: list[Buffer] = [Buffer(0, -1, -1), Buffer(0, len(outline.nodes), len(outline.nodes))]
        self.copies: set[tuple[int, int]] = set()
        self._times: dict[int, tuple[int, int]] = {outline.input: (-1, -1)}  # when a tensor is first and last written
        for index, node in enumerate(outline.nodes):
            parts = [self._times[part][0] for part in node.inputs] if node.op == "concat" else [index]
            self._times[node.output] = min(parts), index
        self._assign()
        self.spots = [self._spots[tensor] for tensor in range(len(outline.tensors))]
        self._measure()

    def _assign(self) -> None:
        outline = self.outline
        self._spots[outline.output] = Spot(1, 0)
        for index in range(len(outline.nodes) - 1, -1, -1):
            node = outline.nodes[index]
            if node.op == "concat":
                self._join(index)
            elif node.output not in self._spots and node.op != "slice":
                self._fresh(node.output)
        self._spots.setdefault(outline.input, Spot(0, 0))
        for index, node in enumerate(outline.nodes):  # forwards, for what is sliced has its place by now
            if node.op != "slice":
                continue
            if node.output in self._spots:
                self.copies.add((index, 0))
            else:
                source, width = self._spots[node.inputs[0]], outline.tensors[node.inputs[0]].size
                skipped = whole(node.attrs, "start", 0, width) * _item_bytes(outline, node.output)
                self._spots[node.output] = Spot(source.buffer, source.offset + skipped)

    def _join(self, index: int) -> None:
        """Give the inputs of a concat their place inside its output, where that can be."""
        node, outline = self.outline.nodes[index], self.outline
        if node.output not in self._spots and not self._continue_input(index):
            self._fresh(node.output)
        spot = self._spots[node.output]
        at, newest = spot.offset, -2
        for number, tensor in enumerate(node.inputs):
            here = Spot(spot.buffer, at)
            free = tensor not in self._spots and not self._is_slice(tensor) and tensor != outline.input
            first, last = self._times[tensor]
            if self._spots.get(tensor) == here or (free and first > newest):
                self._spots[tensor] = here
                newest = last
            else:
                self.copies.add((index, number))
            at += outline.tensors[tensor].size * _item_bytes(outline, tensor)

    def _continue_input(self, index: int) -> bool:
        """Let a concat lie where the graph's input does, if its leftmost part, through concats, is that input."""
        outline = self.outline
        tensor, chain = outline.nodes[index].output, []
        while tensor != outline.input:
            writer = self._written[tensor]
            if tensor in self._spots or outline.nodes[writer].op != "concat":
                return False
            chain.append(tensor)
            tensor = outline.nodes[writer].inputs[0]
        if tensor in self._spots:
            return False
        self._spots.update(dict.fromkeys([*chain, tensor], Spot(0, 0)))
        return True

    def _is_slice(self, tensor: int) -> bool:
        index = self._written[tensor]
        return index >= 0 and self.outline.nodes[index].op == "slice"

    def _fresh(self, tensor: int) -> Spot:
        self.buffers.append(Buffer(0, len(self.outline.nodes), -1))
        self._spots[tensor] = Spot(len(self.buffers) - 1, 0)
        return self._spots[tensor]

    def _measure(self) -> None:
        """Strides and lives of the buffers."""
        outline = self.outline
        for tensor, spot in enumerate(self.spots):
            buffer, index = self.buffers[spot.buffer], self._written[tensor]
            size = outline.tensors[tensor].size * _item_bytes(outline, tensor)
            whole = index < 0 or outline.nodes[index].op in ("concat", "slice")
            end = spot.offset + (size if whole else -(-size // VECTOR_BYTES) * VECTOR_BYTES)
            buffer.stride = max(buffer.stride, end)
            buffer.first = min(buffer.first, index)
        for index, node in enumerate(outline.nodes):
            for tensor in (*node.inputs, node.output):
                buffer = self.buffers[self.spots[tensor].buffer]
                buffer.last = max(buffer.last, index)
        for number, buffer in enumerate(self.buffers):
            alone = number == 0 and [spot.buffer for spot in self.spots].count(0) == 1
            if not alone:  # the input on its own has no gaps, so that hosts copy it in one piece
                buffer.stride = -(-buffer.stride // VECTOR_BYTES) * VECTOR_BYTES


def _item_bytes(outline: Outline, tensor: int) -> int:
    return DTYPES[outline.tensors[tensor].dtype].itemsize
