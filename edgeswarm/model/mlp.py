"""The model graph of a multi-layer perceptron: layers of weights, bias and activation, checked on the way in.

Invariants: 1 <= len(layers) <= LAYERS_MAX; each layer's inputs are the previous layer's outputs;
1 <= every width <= LAYER_WIDTH_MAX; every number is finite; the arrays are C-contiguous, float32 and read-only.
How it is computed is left to `reference.py` (the definition) and to `edgeswarm.compile` (the fast way).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import AF_SECTION_BYTES_MAX, LAYER_WIDTH_MAX, LAYERS_MAX
from edgeswarm.model.activations import ACTIVATIONS, STEEPNESS_MAX

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """One layer: activation(steepness * (x @ weights + bias)).

    weights: float32[inputs, outputs].  bias: float32[outputs].  activation: one of ACTIVATIONS.
    steepness: within +-STEEPNESS_MAX, kept as the nearest float32; kernels never see it (`folded`).
    Raises ModelError if they do not fit or are not finite, LimitError if a width is past LAYER_WIDTH_MAX.
    """

    weights: F32
    bias: F32
    activation: str
    steepness: float = 1.0

    def __post_init__(self) -> None:
        weights, bias = _array(self.weights, "weights"), _array(self.bias, "bias")
        if self.activation not in ACTIVATIONS:
            raise ModelError(f"activation: expected one of {', '.join(ACTIVATIONS)}, found {self.activation!r}")
        if weights.ndim != 2 or 0 in weights.shape:
            raise ModelError(f"weights: expected the shape (inputs, outputs), found {weights.shape}")
        if bias.shape != (weights.shape[1],):
            raise ModelError(f"bias: expected the shape ({weights.shape[1]},) of the outputs, found {bias.shape}")
        if max(weights.shape) > LAYER_WIDTH_MAX:
            raise LimitError(f"width of a layer: at most {LAYER_WIDTH_MAX} (LAYER_WIDTH_MAX), found {weights.shape}")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "bias", bias)
        object.__setattr__(self, "steepness", _steepness(self.steepness))
        if not all(np.isfinite(part).all() for part in self.folded):
            raise ModelError(f"steepness: {self.steepness} takes weights or bias past the range of float32")

    @property
    def folded(self) -> tuple[F32, F32]:
        """Weights and bias times the steepness, rounded once: what kernels compute with."""
        if self.steepness == 1.0:
            return self.weights, self.bias
        scale = np.float64(self.steepness)  # two float32 in float64: the product is exact until it is rounded
        with np.errstate(over="ignore"):
            return (self.weights * scale).astype(np.float32), (self.bias * scale).astype(np.float32)

    @property
    def inputs(self) -> int:
        return int(self.weights.shape[0])

    @property
    def outputs(self) -> int:
        return int(self.weights.shape[1])


class Chain:
    """What layers one behind the other have in common, in float32 and in 8 bits."""

    __slots__ = ()
    layers: tuple[Any, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths from the input to the output: len(layers) + 1 numbers."""
        return (self.layers[0].inputs, *(layer.outputs for layer in self.layers))

    @property
    def activations(self) -> tuple[str, ...]:
        return tuple(layer.activation for layer in self.layers)


@dataclass(frozen=True, slots=True, eq=False)
class Mlp(Chain):
    """A chain of dense layers.  Raises ModelError naming the layer that does not fit, LimitError past LAYERS_MAX."""

    layers: tuple[Dense, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not 1 <= len(self.layers) <= LAYERS_MAX:
            raise LimitError(f"layers: expected 1 to {LAYERS_MAX} (LAYERS_MAX), found {len(self.layers)}")
        for index, (before, layer) in enumerate(pairwise(self.layers), start=1):
            if layer.inputs != before.outputs:
                raise ModelError(
                    f"layer {index}: expected {before.outputs} inputs, the outputs of layer {index - 1}, "
                    f"found {layer.inputs}"
                )
        if 4 * self.parameters > AF_SECTION_BYTES_MAX:
            raise LimitError(
                f"weights: at most {AF_SECTION_BYTES_MAX} bytes (AF_SECTION_BYTES_MAX), found {4 * self.parameters}"
            )

    @property
    def steepness(self) -> tuple[float, ...]:
        return tuple(layer.steepness for layer in self.layers)

    @property
    def parameters(self) -> int:
        """How many weights and biases."""
        return sum(layer.weights.size + layer.bias.size for layer in self.layers)


def from_arrays(
    weights: Sequence[ArrayLike],
    biases: Sequence[ArrayLike],
    activation: str = "sigmoid",
    output_activation: str = "linear",
    steepness: Sequence[float] = (),
) -> Mlp:
    """An Mlp of one weights array (inputs, outputs) and one bias array a layer; hidden layers share `activation`.

    steepness: one a layer; none: 1 everywhere.
    """
    if len(weights) != len(biases):
        raise ModelError(f"arrays: expected one bias a layer, found {len(weights)} weights and {len(biases)} biases")
    names = [activation] * (len(weights) - 1) + [output_activation]
    return mlp_of(weights, biases, names, steepness)


def mlp_of(
    weights: Sequence[ArrayLike], biases: Sequence[ArrayLike], names: Sequence[str], steepness: Sequence[float] = ()
) -> Mlp:
    """An Mlp with an activation, and perhaps a steepness, of its own for each layer; faults name the layer."""
    if not 1 <= len(weights) <= LAYERS_MAX:
        raise LimitError(f"layers: expected 1 to {LAYERS_MAX} (LAYERS_MAX), found {len(weights)}")
    if len(steepness) not in (0, len(weights)):
        raise ModelError(f"steepness: expected one a layer ({len(weights)}), found {len(steepness)}")
    layers = []
    for index, parts in enumerate(zip(weights, biases, names, steepness or [1.0] * len(weights), strict=True)):
        try:
            layers.append(Dense(*parts))  # type: ignore[arg-type]  # Dense converts and checks
        except ModelError as error:
            raise ModelError(f"layer {index}: {error}") from None
    return Mlp(tuple(layers))


def check_sizes(sizes: Sequence[int]) -> None:
    """Raises LimitError unless there are 2 to LAYERS_MAX + 1 widths, each up to LAYER_WIDTH_MAX, within the bytes."""
    if not 2 <= len(sizes) <= LAYERS_MAX + 1:
        raise LimitError(f"sizes: expected 2 to {LAYERS_MAX + 1} widths (LAYERS_MAX), found {len(sizes)}")
    for index, width in enumerate(sizes):
        if not 1 <= width <= LAYER_WIDTH_MAX:
            raise LimitError(f"sizes[{index}]: expected 1 to {LAYER_WIDTH_MAX} (LAYER_WIDTH_MAX), found {width}")
    total = 4 * sum((before + 1) * after for before, after in pairwise(sizes))
    if total > AF_SECTION_BYTES_MAX:
        raise LimitError(f"weights: at most {AF_SECTION_BYTES_MAX} bytes (AF_SECTION_BYTES_MAX), found {total}")


def _steepness(value: float) -> float:
    """`value` as the nearest float32; ModelError unless it is a number within +-STEEPNESS_MAX."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ModelError(f"steepness: expected a number, found {value!r}")
    if not abs(value) <= STEEPNESS_MAX:  # NaN fails too
        raise ModelError(f"steepness: expected at most +-{STEEPNESS_MAX:g}, found {value}")
    return float(np.float32(value))


def _array(value: ArrayLike, what: str) -> F32:
    """`value` as a read-only, contiguous float32 array of its own; ModelError unless it holds finite numbers only."""
    try:
        raw = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{what}: expected an array of numbers, found {error}") from None
    if raw.dtype.kind not in "fiu":
        raise ModelError(f"{what}: expected numbers, found the dtype {raw.dtype}")
    with np.errstate(over="ignore"):
        array = np.array(raw, dtype=np.float32, order="C")
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ModelError(f"{what}: expected finite float32 numbers, found {raw[where]} at {list(where)}")
    array.setflags(write=False)
    return array
