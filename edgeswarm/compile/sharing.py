"""Which tensors of a graph that goes row by row share memory, and from when to when each piece of memory is in use.

Four ways to share: a reshape, or a cut that is one stretch, is another view of the same bytes; what a join puts side by
side is computed in its place where that can be; an operator that goes value by value writes over an input that dies
there; and a constant is read where its weights lie.
Kernels write whole vectors, so up to 15 bytes behind a tensor are overwritten: what lies behind a tensor inside the
same piece is written later than it, or copied there, or dead.  Behind each piece there is room for one more vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from edgeswarm.compile.places import Spot
from edgeswarm.model.graph import Outline
from edgeswarm.model.nodes import DTYPES, Node

INPUT, OUTPUT, CONSTANT = "input", "output", "constant"
IN_PLACE = frozenset(
    ("elementwise", "leaky", "softmax", "add", "mul", "add_i8", "mul_i8", "lookup_i8", "softmax_i8", "affine_quantize")
)
"""Operators whose steps read each value of an input of as many values before they write it, or less, in its place."""


@dataclass(slots=True, eq=False)
class _Piece:
    """Memory that its members share.

    low, high: bytes, in a frame of its own, in which the members' offsets count.  first, written, read: the nodes that
    first write, last write and last read it (-1: the host).  pin: what gives it its place, "" for nothing.
    """

    members: list[int]
    low: int
    high: int
    first: int
    written: int
    read: int
    pin: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes low to high of a piece, in use from the node `first` to the node `last`.

    host: whether hosts know the place, so that no other such lies there at any time.
    """

    low: int
    high: int
    first: int
    last: int
    host: bool = False


@dataclass(frozen=True, slots=True)
class Life:
    """The uses of one piece; pin: "input", "output", "constant" or ""."""

    uses: tuple[Use, ...]
    pin: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return max((use.high for use in self.uses), default=0)

    @property
    def first(self) -> int:
        return min((use.first for use in self.uses), default=0)


class Sharing:
    """spots: where each tensor lies, index of its piece and bytes from there.  pieces: their lives.

    copies: (node, input number) of what a reshape, slice, concat or join has to copy into its place.
    """

    def __init__(self, outline: Outline, *, keep_input: bool) -> None:
        """keep_input: whether nothing may be written over the graph's input."""
        self._outline = outline
        self._free = ("",) if keep_input else ("", INPUT)
        self._offsets = [0] * len(outline.tensors)
        self.copies: set[tuple[int, int]] = set()
        sizes = [tensor.size * DTYPES[tensor.dtype].itemsize for tensor in outline.tensors]
        writers = {node.output: index for index, node in enumerate(outline.nodes)} | {outline.input: -1}
        self._pieces = [_Piece([t], 0, size, writers[t], writers[t], writers[t]) for t, size in enumerate(sizes)]
        for index, node in enumerate(outline.nodes):
            for tensor in node.inputs:
                self._pieces[tensor].read = index
            if node.op == "constant":
                self._pieces[node.output].pin = CONSTANT
        self._pieces[outline.output].read = len(outline.nodes)
        self._pieces[outline.input].pin, self._pieces[outline.output].pin = INPUT, OUTPUT
        self._sizes = sizes
        lives = [(piece.first, max(piece.written, piece.read)) for piece in self._pieces]  # of each tensor alone
        for share in (self._view, self._join, self._in_place):
            self._each(share)
        self._settle(lives)

    def _settle(self, lives: list[tuple[int, int]]) -> None:
        """Number the pieces; each tensor uses its own bytes of one only while it lives itself."""
        numbers: dict[int, int] = {}
        uses: list[list[Use]] = []
        pins: list[str] = []
        self.spots: list[Spot] = []
        hosts = (self._outline.input, self._outline.output)
        for tensor, piece in enumerate(self._pieces):
            if id(piece) not in numbers:
                numbers[id(piece)] = len(uses)
                uses.append([])
                pins.append(piece.pin)
            at = self._offsets[tensor] - piece.low
            uses[numbers[id(piece)]].append(Use(at, at + self._sizes[tensor], *lives[tensor], host=tensor in hosts))
            self.spots.append(Spot(numbers[id(piece)], at))
        self.pieces = [Life(tuple(each), pin) for each, pin in zip(uses, pins, strict=True)]

    def _each(self, share: Callable[[int, Node], None]) -> None:
        for index, node in enumerate(self._outline.nodes):
            share(index, node)

    def _view(self, index: int, node: Node) -> None:
        """Let a reshape, or a cut that skips nothing between its values, be the bytes that it reads."""
        start = skipped(self._outline, node)
        if start is None:
            return
        source, made = self._pieces[node.inputs[0]], self._pieces[node.output]
        pinned = {piece.pin for piece in (source, made)} - {""}
        whole = self._alone(node.inputs[0]) and self._sizes[node.inputs[0]] == self._sizes[node.output]
        if len(pinned) > 1 or (made.pin and not whole):  # the output begins where its region does, and is as long
            self.copies.add((index, 0))
        else:
            made.first, made.written = source.first, source.written  # a view writes nothing
            self._merge(source, made, self._offsets[node.inputs[0]] + start - self._offsets[node.output])

    def _join(self, index: int, node: Node) -> None:
        """Give what a join puts end to end its place inside the whole, where that can be."""
        if not end_to_end(self._outline, node):
            return
        at, newest = 0, -2
        for number, tensor in enumerate(node.inputs):
            part, whole = self._pieces[tensor], self._pieces[node.output]
            if self._alone(tensor) and part is not whole and not part.pin and part.first > newest:
                newest = part.written
                self._merge(whole, part, self._offsets[node.output] + at - self._offsets[tensor])
            else:
                self.copies.add((index, number))
            at += self._sizes[tensor]

    def _in_place(self, index: int, node: Node) -> None:
        """Let an operator write over an input that nothing reads behind it."""
        if node.op not in IN_PLACE:
            return
        out, made = node.output, self._pieces[node.output]
        if not self._alone(out) or made.first != index:
            return
        for tensor in dict.fromkeys(node.inputs):
            piece, values = self._pieces[tensor], self._outline.tensors[tensor].size
            others = [self._pieces[other] for other in node.inputs if other != tensor]
            fits = values == self._outline.tensors[out].size and self._sizes[out] <= self._sizes[tensor]
            if made.pin == OUTPUT:  # begins where its region does, and is as long
                fits = fits and not piece.pin and piece.high - piece.low == self._sizes[out]
            if fits and piece.read == index and piece.pin in self._free and piece not in others:
                self._merge(piece, made, self._offsets[tensor] - self._offsets[out])
                return

    def _alone(self, tensor: int) -> bool:
        """Whether it is the whole of its piece."""
        piece = self._pieces[tensor]
        return self._offsets[tensor] == piece.low and self._sizes[tensor] == piece.high - piece.low

    def _merge(self, one: _Piece, other: _Piece, shift: int) -> None:
        """One piece of two: a byte of `other` lies at the offset of the byte of `one` that is its own plus `shift`."""
        if len(one.members) < len(other.members):
            one, other, shift = other, one, -shift
        for tensor in other.members:
            self._offsets[tensor] += shift
            self._pieces[tensor] = one
        one.members += other.members
        one.low, one.high = min(one.low, other.low + shift), max(one.high, other.high + shift)
        one.first, one.written = min(one.first, other.first), max(one.written, other.written)
        one.read, one.pin = max(one.read, other.read), one.pin or other.pin


def end_to_end(outline: Outline, node: Node) -> bool:
    """Whether a node writes its inputs one behind the other."""
    if node.op == "join":
        return math.prod(outline.tensors[node.output].shape[: _number(node, "axis")]) == 1
    return node.op == "concat"


def skipped(outline: Outline, node: Node) -> int | None:
    """Bytes before what a node cuts out of its input, if that is one stretch of it; None for other nodes."""
    if node.op == "reshape":
        return 0
    if node.op == "transpose":
        long = [axis for axis in _numbers(node, "perm") if outline.tensors[node.inputs[0]].shape[axis] > 1]
        return 0 if long == sorted(long) else None
    if node.op not in ("slice", "strided_slice"):
        return None
    source = outline.tensors[node.inputs[0]]
    item = DTYPES[source.dtype].itemsize
    if node.op == "slice":
        return _number(node, "start") * item
    starts, steps = _numbers(node, "start"), _numbers(node, "step")
    at, whole = 0, True  # whole: all axes so far, from the last one on, are taken whole
    for axis in range(len(source.shape) - 1, -1, -1):
        length, stride = outline.tensors[node.output].shape[axis], math.prod(source.shape[axis + 1 :])
        if length > 1 and (steps[axis] != 1 or not whole):
            return None
        whole = whole and length == source.shape[axis]
        at += starts[axis] * stride
    return at * item


def _number(node: Node, name: str) -> int:
    value = node.attrs[name]
    assert isinstance(value, int)
    return value


def _numbers(node: Node, name: str) -> tuple[int, ...]:
    value = node.attrs[name]
    assert isinstance(value, tuple)
    return value
