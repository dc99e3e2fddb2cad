"""A net with shortcut connections: each layer reads the input and every layer before it, as Cascade training builds it.

Invariants: 1 <= len(layers) <= SHORTCUT_LAYERS_MAX; layer i has as many inputs as the net plus the outputs of layers
0 to i - 1, in that order; an absent connection is a weight of 0; the answer is the last `outputs` values.
How it is computed fast is left to `edgeswarm.compile`, which reads it as a graph of dense and concat nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from edgeswarm.errors import InputError, LimitError, ModelError
from edgeswarm.limits import AF_SECTION_BYTES_MAX, LAYER_WIDTH_MAX, SHORTCUT_LAYERS_MAX
from edgeswarm.model.mlp import Dense
from edgeswarm.model.reference import F64, FUNCTIONS


@dataclass(frozen=True, slots=True, eq=False)
class Shortcut:
    """inputs: values of a row.  layers: in the order in which they are computed.  outputs: values of an answer.

    Raises ModelError naming the layer that does not fit, LimitError past the bounds.
    """

    inputs: int
    layers: tuple[Dense, ...]
    outputs: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not 1 <= len(self.layers) <= SHORTCUT_LAYERS_MAX:
            raise LimitError(
                f"layers: expected 1 to {SHORTCUT_LAYERS_MAX} (SHORTCUT_LAYERS_MAX), found {len(self.layers)}"
            )
        if not 1 <= self.inputs <= LAYER_WIDTH_MAX:
            raise LimitError(f"inputs: expected 1 to {LAYER_WIDTH_MAX} (LAYER_WIDTH_MAX), found {self.inputs}")
        width = self.inputs
        for index, layer in enumerate(self.layers):
            if layer.inputs != width:
                raise ModelError(
                    f"layer {index}: expected {width} inputs, the net's and the outputs of all layers before, "
                    f"found {layer.inputs}"
                )
            width += layer.outputs
        if not 1 <= self.outputs <= width - self.inputs:
            raise ModelError(f"outputs: expected 1 to {width - self.inputs} computed values, found {self.outputs}")
        if 4 * self.parameters > AF_SECTION_BYTES_MAX:
            raise LimitError(
                f"weights: at most {AF_SECTION_BYTES_MAX} bytes (AF_SECTION_BYTES_MAX), found {4 * self.parameters}"
            )

    @property
    def activations(self) -> tuple[str, ...]:
        return tuple(layer.activation for layer in self.layers)

    @property
    def parameters(self) -> int:
        """How many weights, absent connections among them, and biases."""
        return sum(layer.weights.size + layer.bias.size for layer in self.layers)


def forward_shortcut(model: Shortcut, rows: ArrayLike) -> F64:
    """The net's answers, in float64 throughout: the definition that kernels are measured against.

    rows: n rows of model.inputs numbers.  Returns float64[n, model.outputs].  Raises InputError on a wrong shape.
    """
    x = np.asarray(rows, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != model.inputs:
        raise InputError(f"rows: expected the shape (n, {model.inputs}), found {x.shape}")
    with np.errstate(all="ignore"):
        for layer in model.layers:
            total = x @ layer.weights.astype(np.float64) + layer.bias
            steepness = getattr(layer, "steepness", 1.0)
            x = np.hstack([x, FUNCTIONS[layer.activation](steepness * total)])
    return x[:, x.shape[1] - model.outputs :]
