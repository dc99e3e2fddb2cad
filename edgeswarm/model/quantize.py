"""Dense networks in 8-bit whole numbers: how they are rounded, and what they answer to the bit.

A tensor's value q stands for scale * (q - zero_point), one scale a tensor; a layer's weights are whole numbers within
+-127 with one scale an output.  The last layer answers in float32.  Three paths, the fastest first:
  i7x4   activations 0..127; weights small enough that 8 products in a row stay within i16, where they are summed
  i7     activations 0..127; pairs of products are summed in i16 (127 * 127 * 2 always fits), the rest in i32
  exact  activations -128..127; products and sums in i32, with no relaxed operation
Invariants: no sum leaves i32 (see BIAS_MAX); every step of `forward` is rounded as IEEE 754 says, so that kernels can
give these very bits; activations other than linear and relu are taken in float and rounded again.
Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeswarm.errors import InputError, LimitError, ModelError
from edgeswarm.limits import LAYER_WIDTH_MAX, LAYERS_MAX
from edgeswarm.model.mlp import F32, Chain, Mlp
from edgeswarm.model.reference import FUNCTIONS

I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
PATHS: Mapping[str, tuple[int, int]] = MappingProxyType({"i7x4": (0, 127), "i7": (0, 127), "exact": (-128, 127)})
"""Least and greatest whole number of an activation; the fastest path first."""
GROUPS: Mapping[str, int] = MappingProxyType({"i7x4": 4, "i7": 1, "exact": 1})
"""Steps of 4 inputs whose products a kernel sums in i16."""
GROUP_SUM_MAX = 258  # of weights of one sign in a group: 258 * 127 <= 32767
WEIGHT_MAX = 127  # not -128: two products with activations of 127 then stay within i16
BIAS_MAX = 1 << 24  # beside 65,536 products of at most 127 * 255 that is still below 2^31
IN_STEPS = frozenset(("linear", "relu"))  # activations that rounding within low..high already is
F32_MAX = float(np.finfo(np.float32).max)
_SMALL = 1e-30  # a range below this counts as none: its scale would leave float32


@dataclass(frozen=True, slots=True)
class Steps:
    """How a tensor is rounded: scale (a float32 above 0) and zero point (within the path's range)."""

    scale: float
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float, path: str) -> Steps:
        """Steps that hold low..high, and 0 exactly.  Raises ModelError unless both are finite float32."""
        if not (abs(low) <= F32_MAX and abs(high) <= F32_MAX):  # nor NaN
            raise ModelError(f"activations: expected finite numbers, found {low} to {high}; scale the inputs")
        least, greatest = PATHS[path]
        low, high = min(low, 0.0), max(high, 0.0)
        if high - low < _SMALL:
            return cls(1.0, least)
        scale = float(np.float32(high / (greatest - least) - low / (greatest - least)))
        return cls(scale, least + round(-low / scale))

    def record(self, path: str) -> F32:
        """What a kernel is given: factor, least and greatest of t, and 1.5 * 2^23 + zero point (quantize.wat)."""
        least, greatest = PATHS[path]
        zero = self.zero_point
        return np.array([1.0 / self.scale, least - zero, greatest - zero, 12_582_912 + zero], np.float32)

    def round(self, t: F32, path: str) -> NDArray[np.float64]:
        """round(t + zero point) within the path's range, halves to even; t: value / scale, NaN counts as the lowest."""
        _, low, high, _ = self.record(path)
        with np.errstate(invalid="ignore"):
            t = np.where(low < t, t, low)
            t = np.where(high < t, high, t)
        whole: NDArray[np.float64] = np.rint(t.astype(np.float64) + self.zero_point)
        return whole


@dataclass(frozen=True, slots=True, eq=False)
class DenseI8:
    """One layer: activation(scale of x * weight_scale * (q @ weights + bias)).

    weights: int8[inputs, outputs] within +-WEIGHT_MAX.  weight_scales: float32[outputs].  bias: int32[outputs], with
    the zero point of x settled in it.  x: how the layer's input is rounded.
    """

    weights: I8
    weight_scales: F32
    bias: I32
    activation: str
    x: Steps

    @property
    def inputs(self) -> int:
        return int(self.weights.shape[0])

    @property
    def outputs(self) -> int:
        return int(self.weights.shape[1])

    def factors(self, y: Steps | None) -> F32:
        """What turns sums into values (y None), or into values by the scale of y: float32[outputs], rounded once."""
        exact = self.weight_scales.astype(np.float64) * self.x.scale
        return (exact if y is None else exact / y.scale).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedMlp(Chain):
    """A chain of such layers on one path.  Raises ModelError where they do not fit, LimitError past the bounds."""

    path: str
    layers: tuple[DenseI8, ...]

    def __post_init__(self) -> None:
        if self.path not in PATHS:
            raise ModelError(f"path: expected one of {', '.join(PATHS)}, found {self.path!r}")
        if not 1 <= len(self.layers) <= LAYERS_MAX:
            raise LimitError(f"layers: expected 1 to {LAYERS_MAX} (LAYERS_MAX), found {len(self.layers)}")
        for index, layer in enumerate(self.layers):
            self._check(index, layer)
        for index, (before, layer) in enumerate(pairwise(self.layers), start=1):
            if layer.inputs != before.outputs:
                raise ModelError(f"layer {index}: expected {before.outputs} inputs, found {layer.inputs}")
            if before.activation == "relu" and layer.x.zero_point != PATHS[self.path][0]:
                raise ModelError(f"layer {index}: behind a relu the zero point is the least value, found another")

    def _check(self, index: int, layer: DenseI8) -> None:
        low, high = PATHS[self.path]
        if layer.activation not in FUNCTIONS:
            raise ModelError(f"layer {index}: unknown activation {layer.activation!r}")
        if layer.weights.dtype != np.int8 or layer.weights.ndim != 2 or 0 in layer.weights.shape:
            raise ModelError(f"layer {index}: weights: expected int8 (inputs, outputs), found {layer.weights.shape}")
        if max(layer.weights.shape) > LAYER_WIDTH_MAX:
            raise LimitError(f"width of a layer: at most {LAYER_WIDTH_MAX} (LAYER_WIDTH_MAX)")
        if int(layer.weights.min()) < -WEIGHT_MAX:
            raise ModelError(f"layer {index}: weights: expected -{WEIGHT_MAX} to {WEIGHT_MAX}, found -128")
        if layer.bias.shape != (layer.outputs,) or layer.weight_scales.shape != (layer.outputs,):
            raise ModelError(f"layer {index}: expected a bias and a scale for each of {layer.outputs} outputs")
        if GROUPS[self.path] > 1 and int(group_sums(layer.weights, GROUPS[self.path]).max()) > GROUP_SUM_MAX:
            raise ModelError(f"layer {index}: weights: 8 of one sign in a group pass {GROUP_SUM_MAX}")
        scales = layer.weight_scales
        if not (np.isfinite(scales).all() and (scales > 0).all() and np.isfinite(layer.x.scale) and layer.x.scale > 0):
            raise ModelError(f"layer {index}: scales: expected finite numbers above 0")
        if not low <= layer.x.zero_point <= high:
            raise ModelError(f"layer {index}: zero point: expected {low} to {high}, found {layer.x.zero_point}")
        least = layer.bias.astype(np.int64) + layer.x.zero_point * layer.weights.astype(np.int64).sum(axis=0)
        if np.abs(least).max() > BIAS_MAX:
            raise ModelError(f"layer {index}: bias: expected at most {BIAS_MAX} steps, found {np.abs(least).max()}")

    @property
    def steps(self) -> tuple[Steps, ...]:
        """How the input of each layer is rounded: what calibration found, and a swap of weights keeps."""
        return tuple(layer.x for layer in self.layers)


def quantize(model: Mlp, steps: Sequence[Steps], path: str) -> QuantizedMlp:
    """The model in whole numbers; steps: how the input of each layer is rounded."""
    if len(steps) != len(model.layers):
        raise ModelError(f"steps: expected one for each of {len(model.layers)} layers, found {len(steps)}")
    layers = []
    for layer, x in zip(model.layers, steps, strict=True):
        folded, folded_bias = layer.folded
        weights, bias = folded.astype(np.float64), folded_bias.astype(np.float64)
        least = np.maximum(np.abs(bias) / (BIAS_MAX - 1) / x.scale, _SMALL)
        largest = np.abs(weights).max(axis=0) / WEIGHT_MAX
        if GROUPS[path] > 1:  # 4 less: rounding adds at most a half to each of 8
            largest = np.maximum(largest, group_sums(weights, GROUPS[path]) / (GROUP_SUM_MAX - 4))
        with np.errstate(over="ignore"):
            scales = np.maximum(largest, least).astype(np.float32)
        if not np.isfinite(scales).all():
            raise ModelError("bias: too large beside the range of the layer's input for 8-bit weights")
        whole = np.clip(np.rint(weights / scales), -WEIGHT_MAX, WEIGHT_MAX)
        settled = np.rint(bias / (scales.astype(np.float64) * x.scale)) - x.zero_point * whole.sum(axis=0)
        layers.append(DenseI8(whole.astype(np.int8), scales, settled.astype(np.int32), layer.activation, x))
    return QuantizedMlp(path, tuple(layers))


def group_sums(weights: NDArray[Any], group: int) -> NDArray[Any]:
    """For each output the largest sum of weights of one sign that a kernel adds up in one lane of i16.

    weights: (inputs, outputs).  A lane holds 2 of each step's 4 inputs, over `group` steps.
    """
    inputs, outputs = weights.shape
    padded = np.zeros((-(-inputs // (4 * group)) * 4 * group, outputs), np.float64)
    padded[:inputs] = weights
    lanes = padded.reshape(-1, group, 2, 2, outputs)  # blocks, steps, lanes, the two inputs of a lane, outputs
    one_sign = [np.maximum(lanes * sign, 0).sum(axis=(1, 3)).max(axis=(0, 1)) for sign in (1, -1)]
    largest: NDArray[Any] = np.maximum(*one_sign)
    return largest


def forward(
    model: QuantizedMlp, rows: ArrayLike, functions: Mapping[str, Callable[..., NDArray[Any]]] = FUNCTIONS
) -> F32:
    """The answers to rows float32[n, inputs]: float32[n, outputs], to the bit where all activations are linear or relu.

    functions: what takes the other activations: the float64 reference (a kernel may then differ by one step where a
    value lies between two), or `compile.bits.FUNCTIONS` for the bits of the mode deterministic.
    """
    return trace(model, rows, functions)[-1]


def trace(
    model: QuantizedMlp, rows: ArrayLike, functions: Mapping[str, Callable[..., NDArray[Any]]] = FUNCTIONS
) -> list[F32]:
    """What is rounded, layer by layer (float32, before rounding, by the scale of the next tensor), then the answers."""
    x = np.asarray(rows, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] != model.sizes[0]:
        raise InputError(f"rows: expected the shape (n, {model.sizes[0]}), found {x.shape}")
    seen = []
    with np.errstate(all="ignore"):
        t = x * model.layers[0].x.record(model.path)[0]
        for index, layer in enumerate(model.layers):
            seen.append(t)
            q = layer.x.round(t, model.path)
            sums = (q @ layer.weights.astype(np.float64) + layer.bias).astype(np.float32)  # exact until the last step
            y = model.layers[index + 1].x if index + 1 < len(model.layers) else None
            if y is not None and layer.activation in IN_STEPS:
                t = sums * layer.factors(y)
                continue
            values = sums * layer.factors(None)
            if layer.activation != "linear":
                values = functions[layer.activation](
                    values if functions is not FUNCTIONS else values.astype(np.float64)
                ).astype(np.float32)
            t = values if y is None else values * y.record(model.path)[0]
    return [*seen, t]
