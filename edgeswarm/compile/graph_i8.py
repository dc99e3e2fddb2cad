"""The graph of a network in 8-bit whole numbers (`model.quantize`), from the weights region of its kernel.

For those who look into a model: that kernel takes a row through all layers in one piece, and a graph has nodes.
Each multiplier is read back from float32, so an answer of a node may differ from the kernel's by one step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeswarm.compile.pack_i8 import RECORD_BYTES, packed_layers, read_panels, steps_of
from edgeswarm.model.graph import Builder, Graph
from edgeswarm.model.nodes import Tensor
from edgeswarm.model.quantize import PATHS


def graph_i8(weights: bytes, sizes: Sequence[int], activations: Sequence[str], path: str) -> Graph:
    """quantize, then dense_i8 for each layer, the last of which answers in float32.

    Raises ModelError for a region of another length or path, InputError for one of no path.
    """
    steps, layers = steps_of(weights, sizes, path), packed_layers(sizes, path)
    dtype = "u7" if PATHS[path] == (0, 127) else "i8"
    kinds = [Tensor((1,), dtype, one.scale, one.zero_point) for one in steps]
    builder, at = Builder(Tensor((sizes[0],))), 0
    x = builder.add("quantize", [0], like=kinds[0])
    for index, (layer, name) in enumerate(zip(layers, activations, strict=True)):
        whole, bias = read_panels(weights[at + RECORD_BYTES : at + layer.factors], layer)
        factors = np.frombuffer(weights, "<f4", layer.outputs, at + layer.factors).astype(np.float64)
        like = kinds[index + 1] if index + 1 < len(kinds) else None
        if like is not None and name in ("linear", "relu"):
            factors = factors * like.scale  # the kernel's are in steps of what it writes
        params = {"weights": whole, "bias": bias, "multiplier": factors.astype(np.float32)}
        x = builder.add("dense_i8", [x], params, like=like, units=layer.outputs, activation=name)
        at += layer.size
    return builder.graph(x)
