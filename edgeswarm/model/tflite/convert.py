"""A TFLite file to a graph: its operators in their order, those that the answer needs.

What a host gives and gets is float32; where the file's own inputs and outputs have 8 bits, they are quantised behind
the graph's input and back before its output, which is exact for values that 8 bits can hold.  Several inputs are one
row, one behind the other, and so are several outputs.  Raises ModelError (with `who`) or LimitError, nothing else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.model.graph import Builder, Graph
from edgeswarm.model.nodes import Tensor
from edgeswarm.model.tflite import ops_conv, ops_pointwise, ops_pool, ops_shapes, ops_slices, phases
from edgeswarm.model.tflite.file import FileTensor, TfliteFile, read
from edgeswarm.model.tflite.hints import hint
from edgeswarm.model.tflite.site import QUANTISED, Site, State, Value, described, params_budget, rows_shape, tensor_of
from edgeswarm.model.tflite.tidy import tidied

OPERATORS: Mapping[str, Callable[[Site], None]] = {
    name: convert
    for module in (ops_conv, ops_pointwise, ops_pool, ops_shapes, ops_slices, phases)
    for name, convert in module.OPERATORS.items()
}


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """graph: what the file computes.  operators: of the file, name -> how many.

    computed: the types of what is computed, `f32`, `i8`, or both; of 8 bits alone the answers are those of LiteRT's
    reference kernels, to the bit.
    """

    graph: Graph
    operators: Mapping[str, int]
    computed: frozenset[str]
    notes: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether the answers are LiteRT's reference kernels' to the bit."""
        return self.computed == {"i8"}


def load(data: bytes, *, who: str = "") -> Converted:
    """The graph of a file's bytes."""
    return convert(read(data, who=who), who=who)


def convert(file: TfliteFile, *, who: str = "") -> Converted:
    """The graph of a file."""
    try:
        with np.errstate(all="ignore"):  # what is no number is looked for where it matters
            return _convert(file)
    except ModelError as error:
        raise ModelError(str(error), who=who) from None
    except LimitError as error:
        raise LimitError(f"{who}: {error}" if who else str(error)) from None


def _convert(file: TfliteFile) -> Converted:
    sources = [_source(file, index) for index in file.inputs]
    if not sources or not file.outputs or len(set(file.inputs)) != len(file.inputs):
        raise ModelError("expected inputs and outputs, each once, found others")
    row = Tensor(rows_shape(sources[0].shape)) if len(sources) == 1 else _joined(sources)
    state = State(file, Builder(row), left_bytes=params_budget(file.size_bytes))
    state.constants.update({i: t.data for i, t in enumerate(file.tensors) if t.data is not None})
    if file.subgraphs > 1:
        state.notes[f"of the file's {file.subgraphs} subgraphs the first is taken"] = None
    _read_inputs(state, sources)
    needed = _needed(file)
    for index, op in enumerate(file.ops):
        if index not in needed:
            continue
        if op.name not in OPERATORS:
            raise ModelError(f"{op.where}: not an operator that can be imported; {hint(op.name)}")
        try:
            OPERATORS[op.name](Site(state, op))
        except ModelError as error:
            raise ModelError(f"{op.where}: {error}") from None
        except LimitError as error:
            raise LimitError(f"{op.where}: {error}") from None
    output = _write_outputs(state)
    graph = tidied(state.builder.tensors, state.builder.nodes, output)
    names = Counter(file.ops[index].name for index in sorted(needed))
    return Converted(graph, dict(names), _computed(graph), tuple(state.notes))


def _source(file: TfliteFile, index: int) -> FileTensor:
    tensor = file.tensors[index]
    what = f"input, {described(index, tensor)}"
    if tensor.odd or tensor.data is not None:
        raise ModelError(f"{what}: expected a tensor that the host gives, found one that is {tensor.odd or 'constant'}")
    if any(tensor.open[1:]) or not tensor.shape:
        shown = ", ".join("?" if free else str(side) for side, free in zip(tensor.shape, tensor.open, strict=False))
        raise ModelError(
            f"{what}: expected a fixed shape but for the batch, found [{shown}]; give the converter the input's shape"
        )
    if tensor.open and tensor.open[0] and tensor.shape[0] != 1:
        raise ModelError(f"{what}: expected a batch of 1 where the file leaves it open, found {tensor.shape[0]}")
    tensor_of(tensor, tensor.shape, what)
    return tensor


def _joined(sources: list[FileTensor]) -> Tensor:
    return Tensor((sum(math.prod(tensor.shape) for tensor in sources),))


def _read_inputs(state: State, sources: list[FileTensor]) -> None:
    builder, start = state.builder, 0
    for index, tensor in zip(state.file.inputs, sources, strict=True):
        at, size = 0, math.prod(tensor.shape)
        if len(sources) > 1:
            at = builder.add("slice", [0], start=start, stop=start + size)
            at = builder.add("reshape", [at], shape=rows_shape(tensor.shape))
            start += size
        if tensor.dtype in QUANTISED:
            like = tensor_of(tensor, tensor.shape, described(index, tensor))
            at = builder.add("affine_quantize", [at], like=like)
        state.values[index] = Value(at, tensor.shape)


def _needed(file: TfliteFile) -> set[int]:
    """The operators that an output needs.  The others are not even looked at."""
    wanted, needed = set(file.outputs), set()
    for index in range(len(file.ops) - 1, -1, -1):
        op = file.ops[index]
        if wanted & set(op.outputs):
            needed.add(index)
            wanted |= set(op.inputs)
    return needed


def _write_outputs(state: State) -> int:
    builder, file, ends = state.builder, state.file, []
    for index in file.outputs:
        tensor = file.tensors[index]
        if index not in state.values:
            found = "a constant" if index in state.constants else "none"
            raise ModelError(f"output, {described(index, tensor)}: expected one that is computed, found {found}")
        at = state.values[index].at
        if builder.tensors[at].dtype == "i8":
            at = builder.add("dequantize", [at])
        ends.append(at)
    if len(ends) > 1:
        flat = [builder.add("reshape", [at], shape=(builder.tensors[at].size,)) for at in ends]
        return builder.add("join", flat, axis=0)
    if ends[0] == 0:  # what is given is the answer
        return builder.add("reshape", [0], shape=builder.tensors[0].shape)
    return ends[0]


def _computed(graph: Graph) -> frozenset[str]:
    """Types of what nodes write, apart from what moves bits and the edges of 8 bits."""
    edges = {"dequantize", "slice", "reshape", "join", "transpose", "strided_slice", "constant"}
    return frozenset(graph.tensors[node.output].dtype for node in graph.nodes if node.op not in edges)
