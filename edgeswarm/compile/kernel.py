"""A model -> a kernel: wasm, its layout, and the packed weights that go beside it.

The wasm depends on the topology alone; weights are never inside it, so an update swaps them without a compile.
Equal inputs give equal bytes.  Runs where agents are built, not on devices: wasmtime and numpy are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeswarm.compile.abi import ALIGN_BYTES, Layout, attach_layout
from edgeswarm.compile.emit import emit
from edgeswarm.compile.library import library
from edgeswarm.compile.lowering import lowering_of
from edgeswarm.compile.schedule import Schedule, chain_sizes, node_weights, plan, topology_of
from edgeswarm.compile.wasm import without_custom
from edgeswarm.errors import ModelError
from edgeswarm.model.graph import Graph, Outline, graph_of
from edgeswarm.model.mlp import Mlp
from edgeswarm.model.shortcut import Shortcut

BATCH_MAX_DEFAULT = 256
ARCH_DEFAULT = "x86-64"  # its tiles run everywhere; those of aarch64 want 32 vector registers

Model = Mlp | Shortcut | Graph


@dataclass(frozen=True, slots=True)
class Kernel:
    """wasm: keeps kernel ABI 1.  layout: the same as in the wasm.  weights: the bytes of its weights region."""

    wasm: bytes
    layout: Layout
    weights: bytes


def schedule_graph(
    outline: Outline, *, batch_max: int = BATCH_MAX_DEFAULT, mode: str = "fast", arch: str = ARCH_DEFAULT
) -> Schedule:
    """What `compile_graph` would do; `str()` of it is a table."""
    return plan(outline, batch_max=batch_max, mode=mode, arch=arch, library=library())


def compile_graph(
    graph: Graph, *, batch_max: int = BATCH_MAX_DEFAULT, mode: str = "fast", arch: str = ARCH_DEFAULT
) -> Kernel:
    """Compile a graph.

    batch_max: most rows of one `run_batch`; memory grows with it.  mode: `fast` (relaxed SIMD) or `deterministic` (the
    same bits on every machine).  arch: whose tile sizes to use, `x86-64` or `aarch64`; the code runs on both.
    Raises LimitError if the memory would pass KERNEL_MEMORY_BYTES_MAX, LocalError for an unknown mode or arch.
    """
    import wasmtime  # on the operator's machine only, and not before it is needed

    schedule = schedule_graph(graph, batch_max=batch_max, mode=mode, arch=arch)
    wasm = without_custom(bytes(wasmtime.wat2wasm(emit(schedule, library()))), "name")
    return Kernel(attach_layout(wasm, schedule.layout), schedule.layout, pack_weights(graph, schedule.layout))


def pack_weights(model: Model, layout: Layout) -> bytes:
    """The model's weights as the kernel of `layout` wants them.  Raises ModelError if it has not that kernel's shape.

    Node by node, each padded to 64 bytes.  The steepness of layers is folded in: weights and bias times steepness,
    each rounded once to float32.
    """
    graph = model if isinstance(model, Graph) else graph_of(model)
    mode = "deterministic" if layout.deterministic else "fast"
    if layout.topology not in {
        topology_of(graph, batch_max=layout.batch_max, mode=mode, arch=arch) for arch in library().tiles
    }:
        raise ModelError(
            f"model {_described(graph)}: expected the widths and activations that the kernel of topology "
            f"{layout.topology[:16]}... was made for"
        )
    out = bytearray()
    for index, node in enumerate(graph.nodes):
        out += lowering_of(node).pack(graph, index)
        out += bytes(-len(out) % ALIGN_BYTES)
    assert len(out) == layout.weights.size
    return bytes(out)


def unpack_graph(weights: bytes, outline: Outline) -> Graph:
    """The inverse of `pack_weights`, for a graph of this structure; every steepness is in the weights.

    Raises ModelError if the length does not fit or a number is not finite.
    """
    places = node_weights(outline)
    expected = -(-(places[-1][0] + places[-1][1]) // ALIGN_BYTES) * ALIGN_BYTES
    if len(weights) != expected:
        raise ModelError(f"weights: expected {expected} bytes for a model {_described(outline)}, found {len(weights)}")
    nodes = [
        replace(node, params=lowering_of(node).unpack(weights[at : at + size], outline, index))
        for index, (node, (at, size)) in enumerate(zip(outline.nodes, places, strict=True))
    ]
    return Graph(outline.tensors, tuple(nodes), outline.input, outline.output)


def _described(outline: Outline) -> str:
    sizes = chain_sizes(outline)
    if not sizes:
        return f"of {len(outline.nodes)} nodes"
    return f"{'-'.join(map(str, sizes))} ({', '.join(str(node.attrs['activation']) for node in outline.nodes)})"
