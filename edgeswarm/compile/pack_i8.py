"""How an 8-bit layer lies in a kernel's weights region: a record, its panels, its factors (wasm_kernels/dense_i8/).

Layer by layer, each part at a multiple of 64 bytes:
  record   float32: factor, least, greatest, 1.5 * 2^23 + zero point, four times each; scale, zero point, path; ones of
           i16 at ONES, the bits of 1.5 * 2^23 at MAGIC
  panels   columns of 4 outputs, up to PANEL_COLUMNS_MAX side by side: a row of bias (i32), a row of weights a step
  factors  float32, one an output, padded with zeros to whole groups of 16
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.abi import ALIGN_BYTES
from edgeswarm.compile.path_i8 import NUMBERS, check_path
from edgeswarm.errors import ModelError
from edgeswarm.model.quantize import GROUPS, PATHS, QuantizedMlp, Steps

PACKING = 1  # raised when the packing changes
PANEL_COLUMNS_MAX = {"i7x4": 4, "i7": 5, "exact": 7}  # sums that 16 vector registers hold beside the rest
GROUP = 16  # outputs that a pass over sums takes at a time
RECORD_BYTES = 128
ONES, MAGIC = 80, 96  # where in the record these vectors lie
_STEP_VALUES = {"i7x4": 4, "i7": 4, "exact": 2}


@dataclass(frozen=True, slots=True)
class PackedI8:
    """The shape of one packed layer."""

    inputs: int
    outputs: int
    path: str

    @property
    def step_values(self) -> int:
        """Values of x in a step: 4 bytes of them."""
        return _STEP_VALUES[self.path]

    @property
    def steps(self) -> int:
        group = GROUPS[self.path]
        return -(-self.inputs // (self.step_values * group)) * group

    @property
    def bytes(self) -> int:
        """Bytes of weights that a column has for a step."""
        return 4 * self.step_values

    @property
    def columns(self) -> int:
        return -(-self.outputs // 4)

    @property
    def width(self) -> int:
        """Columns of each panel but the last."""
        return -(-self.columns // -(-self.columns // PANEL_COLUMNS_MAX[self.path]))

    @property
    def panels(self) -> int:
        return self.columns // self.width

    @property
    def last(self) -> int:
        """Columns of one more, narrower panel; 0 if there is none."""
        return self.columns % self.width

    @property
    def padded(self) -> int:
        """Outputs in whole groups."""
        return -(-self.outputs // GROUP) * GROUP

    @property
    def x_stride(self) -> int:
        """Bytes of a row of rounded inputs: whole vectors, for the pass that writes them writes these."""
        return -(-self.inputs * 4 // self.step_values // 16) * 16

    @property
    def sums_size(self) -> int:
        """Bytes of bias and weights."""
        return self.columns * (16 + self.bytes * self.steps)

    @property
    def factors(self) -> int:
        """Where the factors start, from the layer's start."""
        return RECORD_BYTES + _aligned(self.sums_size)

    @property
    def size(self) -> int:
        """Bytes of the whole layer."""
        return self.factors + 4 * self.padded


def packed_layers(sizes: Sequence[int], path: str) -> list[PackedI8]:
    """How the layers of a network of these widths are packed."""
    return [PackedI8(before, after, path) for before, after in pairwise(sizes)]


def pack(model: QuantizedMlp) -> bytes:
    """The weights region of the model's kernel."""
    out = bytearray()
    for index, layer in enumerate(model.layers):
        packed = PackedI8(layer.inputs, layer.outputs, model.path)
        y = model.layers[index + 1].x if index + 1 < len(model.layers) else None
        between = y is not None and layer.activation in ("linear", "relu")
        part = bytearray(packed.size)
        factor, least, greatest, _ = (float(value) for value in layer.x.record(model.path))
        head = record(factor, least, greatest, layer.x.zero_point)
        part[: len(head)] = head
        part[64:76] = np.array([layer.x.scale, layer.x.zero_point, NUMBERS[model.path]], "<f4").tobytes()
        part[RECORD_BYTES : RECORD_BYTES + packed.sums_size] = panels(layer.weights, layer.bias, packed)
        factors = layer.factors(y if between else None).astype("<f4").tobytes()
        part[packed.factors : packed.factors + len(factors)] = factors
        out += part
    return bytes(out)


def steps_of(weights: bytes, sizes: Sequence[int], path: str) -> list[Steps]:
    """How each layer's input is rounded, as a weights region says.  Raises ModelError for what is no such region."""
    layers = packed_layers(sizes, path)
    if len(weights) != sum(layer.size for layer in layers):
        raise ModelError(f"weights: expected {sum(layer.size for layer in layers)} bytes, found {len(weights)}")
    check_path(weights, path)
    found, at = [], 0
    low, high = PATHS[path]
    for index, layer in enumerate(layers):
        scale, zero = (float(value) for value in np.frombuffer(weights, "<f4", 2, at + 64))
        if not (np.isfinite(scale) and scale > 0 and low <= zero <= high):
            raise ModelError(f"weights: layer {index}: expected a scale and a zero point, found {scale}, {zero}")
        found.append(Steps(scale, int(zero)))
        at += layer.size
    return found


def record(factor: float, least: float, greatest: float, zero_point: int) -> bytes:
    """A record without what `pack` adds: see wasm_kernels/dense_i8/quantize.wat."""
    out = bytearray(RECORD_BYTES)
    words = np.array([factor, least, greatest, 12_582_912 + zero_point], np.float64).astype("<f4")
    out[:64] = np.repeat(words, 4).tobytes()
    out[ONES : ONES + 16] = np.ones(8, "<i2").tobytes()
    out[MAGIC : MAGIC + 16] = np.full(4, 0x4B400000, "<u4").tobytes()
    return bytes(out)


def panels(weights: NDArray[Any], bias: NDArray[Any], packed: PackedI8) -> bytes:
    """Bias int32[outputs] and weights int8[inputs, outputs] as a layer's panels."""
    outputs = 4 * packed.columns
    full = np.zeros((packed.steps * packed.step_values, outputs), np.int8)
    full[: packed.inputs, : packed.outputs] = weights
    first = np.zeros(outputs, "<i4")
    first[: packed.outputs] = bias
    out = bytearray()
    for start in range(0, outputs, 4 * packed.width):
        columns = slice(start, start + 4 * packed.width)
        out += first[columns].tobytes()
        steps = full[:, columns].reshape(packed.steps, packed.step_values, -1)
        out += steps.transpose(0, 2, 1).tobytes()  # for each step, for each output, the weights of its values
    return bytes(out)


def read_panels(data: bytes, packed: PackedI8) -> tuple[NDArray[Any], NDArray[Any]]:
    """The inverse of `panels`: weights, bias."""
    outputs = 4 * packed.columns
    weights = np.empty((packed.steps * packed.step_values, outputs), np.int8)
    bias, at = np.empty(outputs, np.int32), 0
    for start in range(0, outputs, 4 * packed.width):
        columns = min(4 * packed.width, outputs - start)
        bias[start : start + columns] = np.frombuffer(data, "<i4", columns, at)
        at += 4 * columns
        steps = np.frombuffer(data, np.int8, weights.shape[0] * columns, at)
        steps = steps.reshape(packed.steps, columns, packed.step_values).transpose(0, 2, 1)
        weights[:, start : start + columns] = steps.reshape(-1, columns)
        at += steps.size
    return weights[: packed.inputs, : packed.outputs].copy(), bias[: packed.outputs].copy()


def _aligned(size: int) -> int:
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES
