"""What `agent import` makes of any graph: its kernel, golden rows, batch size, and what to tell."""

from __future__ import annotations

from collections.abc import Mapping
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
GOLDEN_MACS_MAX = 1_000_000_000  # of all golden rows: a second or so
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
) -> Found:
    """told, notes: of the file; what every graph has comes behind.  sections: besides its own.  golden: whether golden
    rows are wanted."""
    from edgeswarm.compile.kernel import BATCH_MAX_DEFAULT
    from edgeswarm.model.structure import structure_of

    def kernel(batch_max: int, mode: str) -> Kernel:
        from edgeswarm.compile import compile_graph

        return compile_graph(graph, batch_max=batch_max, mode=mode)

    source, target = graph.tensors[graph.input], graph.tensors[graph.output]
    macs = sum(graph.macs_of(index) for index in range(len(graph.nodes)))
    made = _golden(graph, macs) if golden else None
    if golden and made is None:
        notes = (*notes, "no golden vectors: one row takes too long, or too much memory, to be computed in advance")
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


def _golden(graph: Graph, macs: int) -> tuple[Section, GoldenSpec] | None:
    """Random rows and the answers of the definition.  None where they would take too much."""
    import numpy as np

    from edgeswarm.model.graph import forward

    size = graph.tensors[graph.input].size + graph.tensors[graph.output].size
    values = sum(tensor.size for tensor in graph.tensors)
    count = min(GOLDEN_ROWS, max(2, GOLDEN_VALUES_MAX // size), max(1, GOLDEN_MACS_MAX // max(1, macs)))
    count = min(count, GOLDEN_EVALUATED_MAX // values)
    if not count:
        return None
    rows = _rows(graph, count)
    answers = forward(graph, rows).astype(np.float32)
    if len(answers) != count or not np.isfinite(answers).all():
        return None
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
