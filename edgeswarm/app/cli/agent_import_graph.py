"""What `agent import` makes of any graph: its kernel, golden rows, batch size, and what to tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeswarm.agentfile import Section
from edgeswarm.agentfile.header import GoldenSpec, NeuralConfig
from edgeswarm.app.cli.agent_build import GOLDEN_ROWS, GOLDEN_SEED
from edgeswarm.app.cli.agent_import import Found

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeswarm.compile import Kernel
    from edgeswarm.model.graph import Graph

GOLDEN_VALUES_MAX = 65_536  # inputs and outputs of all golden rows: 256 KiB of random numbers, which do not compress
GOLDEN_EVALUATED_MAX = 1 << 26  # values of all tensors of all golden rows, as float64: 512 MiB
GOLDEN_MACS_MAX = 100_000_000  # of all golden rows: a quarter of a second, and half of an import
ROWS_VALUES_MAX = 4_096  # inputs and outputs of one call where each row is computed alone: 16 KiB, and no more gained
ROWS_VALUES_MAX_FLAT = 131_072  # the same of dense layers, which are faster in batches
ABSOLUTE = 1e-5  # of the largest answer: sums that cancel have no digits left in float32


def found(
    graph: Graph,
    *,
    told: Mapping[str, Any],
    notes: tuple[str, ...] = (),
    sections: Mapping[str, Section | bytes] | None = None,
    golden: bool = True,
    stream: int | None = None,
) -> Found:
    """told, notes: of the file; what every graph has comes behind.  sections: besides its own.  golden: whether golden
    rows are wanted.  stream: frames of a call, where the window that the file reads becomes a stream of them."""
    if stream is not None:
        return _streamed(graph, stream, told=told, notes=notes, golden=golden)
    from edgeswarm.compile.kernel import BATCH_MAX_DEFAULT
    from edgeswarm.model.structure import structure_of

    def kernel(batch_max: int, mode: str) -> Kernel:
        from edgeswarm.compile import compile_graph

        return compile_graph(graph, batch_max=batch_max, mode=mode)

    source, target = graph.tensors[graph.input], graph.tensors[graph.output]
    macs = sum(graph.macs_of(index) for index in range(len(graph.nodes)))
    made = _golden(graph, macs) if golden else None
    if isinstance(made, str):
        notes, made = (*notes, f"no golden vectors: {made}"), None
    floats = all(p.dtype == "f32" for index in range(len(graph.nodes)) for p in graph.params_of(index).values())
    flat = all(len(tensor.shape) == 1 for tensor in graph.tensors)
    most = (ROWS_VALUES_MAX_FLAT if flat else ROWS_VALUES_MAX) // (source.size + target.size)
    return Found(
        NeuralConfig(input_size=source.size, output_size=target.size, network_type="graph"),
        kernel,
        made,
        {**(sections or {}), "model": structure_of(graph.outline)},
        {**told, "parameters": graph.parameters, "multiplications": macs},
        notes,
        batch_max=min(BATCH_MAX_DEFAULT, 1 << max(0, most.bit_length() - 1)),
        weights_dtype="f32" if floats else "u8",
    )


def _streamed(graph: Graph, frames: int, *, told: Mapping[str, Any], notes: tuple[str, ...], golden: bool) -> Found:
    """The same of the net of frames; the file's own form, which delegates would run, stays out."""
    from edgeswarm.model.streaming import streamed

    made = streamed(graph, frames)
    whole = sum(graph.macs_of(index) for index in range(len(graph.nodes)))
    if not made.windows:
        notes = (
            *notes,
            "the window is padded in front: answers are as over all frames so far, not over a window",
        )
    elif not made.padded:
        notes = (*notes, f"answers mean something from the {made.length // frames}th call on, when a window is full")
    streams = {
        "stream": f"{frames} of {made.length} frames a call, {made.memory} values of memory",
        "multiplications_of_a_window": whole,
    }
    done = found(made.graph, told={**told, **streams}, notes=notes, golden=golden)
    return replace(done, memory=made.memory, batch_max=1)


def _golden(graph: Graph, macs: int) -> tuple[Section, GoldenSpec] | str:
    """Random rows and the answers of the definition, or why there are none."""
    import numpy as np

    from edgeswarm.model.graph import forward

    size = graph.tensors[graph.input].size + graph.tensors[graph.output].size
    values = sum(tensor.size for tensor in graph.tensors)
    count = min(GOLDEN_ROWS, max(2, GOLDEN_VALUES_MAX // size), max(1, GOLDEN_MACS_MAX // max(1, macs)))
    count = min(count, GOLDEN_EVALUATED_MAX // values)
    if not count:
        return "one row takes too much memory to be computed in advance"
    rows = _rows(graph, count)
    with np.errstate(over="ignore", invalid="ignore"):
        answers = forward(graph, rows).astype(np.float32)
    if len(answers) != count:
        return "the answer is the same for every row"
    if not np.isfinite(answers).all():
        return "answers of random rows are not all numbers that float32 holds"
    golden = np.hstack([rows, answers])
    absolute = min(1.0, float(f"{max(GoldenSpec().absolute, ABSOLUTE * float(np.abs(answers).max())):.2g}"))
    return Section(golden.astype("<f4").tobytes(), "f32", golden.shape), GoldenSpec(absolute=absolute)


def _rows(graph: Graph, count: int) -> NDArray[np.float32]:
    """Rows uniform over [-1, 1), or over what the 8-bit tensor holds that the input becomes, on its steps."""
    import numpy as np

    from edgeswarm.model.seeded import random_rows

    rows = random_rows(count, graph.tensors[graph.input].size, GOLDEN_SEED)
    first = graph.nodes[0]
    if first.op != "affine_quantize" or first.inputs != (graph.input,):
        return rows
    tensor = graph.tensors[first.output]
    held = np.floor((rows.astype(np.float64) + 1.0) * 128.0) - 128.0
    return (tensor.scale * (held - tensor.zero_point)).astype(np.float32)


def shape_text(graph: Graph, index: int) -> str:
    """The axes of a tensor, `49x10x1`."""
    return "x".join(map(str, graph.tensors[index].shape))
