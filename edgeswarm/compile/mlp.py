"""Kernels of multi-layer perceptrons: `kernel.py` for those who have an Mlp, or only its widths and activations."""

from __future__ import annotations

from collections.abc import Sequence

from edgeswarm.compile.kernel import (
    ARCH_DEFAULT,
    BATCH_MAX_DEFAULT,
    Kernel,
    compile_graph,
    pack_weights,
    schedule_graph,
    unpack_graph,
)
from edgeswarm.compile.schedule import Schedule
from edgeswarm.errors import ModelError
from edgeswarm.model.graph import Node, Outline, Tensor, graph_of
from edgeswarm.model.mlp import Dense, Mlp, check_sizes

__all__ = [
    "ARCH_DEFAULT",
    "BATCH_MAX_DEFAULT",
    "Kernel",
    "compile_mlp",
    "pack_weights",
    "schedule_mlp",
    "unpack_weights",
]


def schedule_mlp(
    model: Mlp, *, batch_max: int = BATCH_MAX_DEFAULT, mode: str = "fast", arch: str = ARCH_DEFAULT
) -> Schedule:
    """What `compile_mlp` would do; `str()` of it is a table."""
    return schedule_graph(graph_of(model), batch_max=batch_max, mode=mode, arch=arch)


def compile_mlp(
    model: Mlp, *, batch_max: int = BATCH_MAX_DEFAULT, mode: str = "fast", arch: str = ARCH_DEFAULT
) -> Kernel:
    """`compile_graph` of the chain of layers."""
    return compile_graph(graph_of(model), batch_max=batch_max, mode=mode, arch=arch)


def unpack_weights(weights: bytes, sizes: Sequence[int], activations: Sequence[str]) -> Mlp:
    """The inverse of `pack_weights`, for a model of these widths and activations (one a layer).

    Every steepness comes back as 1: it is in the weights.
    Raises ModelError if the length does not fit or a number is not finite, LimitError for sizes past the bounds.
    """
    check_sizes(sizes)
    if len(activations) != len(sizes) - 1:
        raise ModelError(f"activations: expected {len(sizes) - 1}, found {len(activations)}")
    nodes = [
        Node("dense", (index,), index + 1, {"units": units, "activation": activation})
        for index, (units, activation) in enumerate(zip(sizes[1:], activations, strict=True))
    ]
    tensors = tuple(Tensor((width,)) for width in sizes)
    graph = unpack_graph(weights, Outline(tensors, tuple(nodes), 0, len(nodes)))
    names = [str(node.attrs["activation"]) for node in graph.nodes]
    params = [(node.params["weights"], node.params["bias"]) for node in graph.nodes]
    return Mlp(tuple(Dense(weights, bias, name) for (weights, bias), name in zip(params, names, strict=True)))
