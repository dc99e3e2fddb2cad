"""How the weights of a pointwise 8-bit convolution lie as bytes (wasm_kernels/conv_i8/places_u8.wat), where that pays.

The code holds both forms, and the region has the size of the 16-bit panels; which of the two is in it, the packed
node's record says at FORM (0 or STEPS), for it depends on the weights.  In place of the panels lie then:
  panels  i8, for 4 vectors of 4 outputs: step by step of 4 inputs, output by output (`held.kept`, over STEPS steps)
  turned  the bias where kept weights meet q + 128, i32
  rest    what the kept weights lack (`held.pack_rest`)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.held import REST_BYTES, REST_INDEX_MAX, kept, pack_rest, unpack_rest
from edgeswarm.compile.shape_conv_i8 import FORM, PANEL_VECTORS, Shape
from edgeswarm.errors import ModelError

REST_LENGTH = FORM + 4  # of the record: bytes of the rest
STEPS = 2  # of 4 inputs, whose products are summed in 16 bits
INPUTS_MIN = 64  # below, there is little to gain, and trained weights are larger
_UNROLL_MAX = 16  # pairs of steps in a body
_GAIN = 0.38 / 16  # cycles that a weight costs less as a byte, at each place
_REST_CYCLES = 2.2  # that an entry of the rest costs, at each place

I64 = NDArray[np.int64]


def has_bytes(shape: Shape) -> bool:
    """Whether the code of a convolution reads weights in bytes too."""
    named = max(shape.inputs, shape.outputs) <= REST_INDEX_MAX
    return shape.pointwise and not shape.dense and shape.inputs >= INPUTS_MIN and named


def rounds_of(shape: Shape) -> tuple[int, int]:
    """Bodies that a place's sums have, pairs of steps of a body."""
    pairs = -(-shape.inputs // (4 * STEPS))
    rounds = -(-pairs // _UNROLL_MAX)
    return rounds, -(-pairs // rounds)


def padded(shape: Shape) -> int:
    """Inputs with those that only fill the last body: their weights are 0."""
    rounds, unroll = rounds_of(shape)
    return rounds * unroll * 4 * STEPS


def turned_at(shape: Shape) -> int:
    return shape.weights_at + 4 * shape.vectors * padded(shape)


def rest_at(shape: Shape) -> int:
    return turned_at(shape) + 16 * shape.vectors


def pack_bytes(shape: Shape, weights: I64, bias: I64) -> tuple[bytes, bytes] | None:
    """Of [inputs, outputs] and the bias for x as it is: (two words of the record, what lies at the weights' place).

    None where it does not fit there, or does not pay.
    """
    whole = np.zeros((padded(shape), 4 * shape.vectors), np.int64)
    whole[: shape.inputs, : shape.outputs] = weights
    lanes = whole.reshape(-1, STEPS, 2, 2, 4 * shape.vectors).transpose(0, 2, 4, 1, 3)
    held = kept(lanes.reshape(*lanes.shape[:3], -1)).reshape(lanes.shape).transpose(0, 3, 1, 4, 2)
    steps = held.reshape(-1, 4, shape.vectors, 4).transpose(0, 2, 3, 1).astype(np.int8)
    rest = pack_rest(whole - held.reshape(whole.shape))
    room = shape.size - rest_at(shape)
    if len(rest) > room or len(rest) // REST_BYTES * _REST_CYCLES > weights.size * _GAIN:
        return None
    panels = b"".join(steps[:, at : at + PANEL_VECTORS].tobytes() for at in range(0, shape.vectors, PANEL_VECTORS))
    turned = np.zeros(4 * shape.vectors, "<i4")
    turned[: shape.outputs] = (bias - 128 * held.reshape(whole.shape).sum(axis=0)[: shape.outputs]).astype(np.int32)
    return np.array([STEPS, len(rest)], "<i4").tobytes(), panels + turned.tobytes() + rest


def unpack_bytes(shape: Shape, packed: bytes) -> NDArray[np.int64]:
    """The weights, [1, 1, inputs, outputs], where `holds_bytes`.  Raises ModelError for a rest that none packed."""
    length = int(np.frombuffer(packed, "<i4", 1, REST_LENGTH)[0])
    start, inputs, outputs = rest_at(shape), padded(shape), 4 * shape.vectors
    if not 0 <= length <= shape.size - start:
        raise ModelError(f"weights: expected at most {shape.size - start} bytes of a rest, found {length}")
    values = np.frombuffer(packed, np.int8, inputs * outputs, shape.weights_at)
    panels, at = [], 0
    for first in range(0, shape.vectors, PANEL_VECTORS):
        width = min(PANEL_VECTORS, shape.vectors - first)
        panels.append(values[at : at + inputs * 4 * width].reshape(-1, width, 4, 4))
        at += inputs * 4 * width
    held = np.concatenate(panels, axis=1).transpose(0, 3, 1, 2).reshape(inputs, outputs).astype(np.int64)
    whole = held + unpack_rest(packed[start : start + length], inputs, outputs)
    return whole[None, None, : shape.inputs]


def holds_bytes(shape: Shape, packed: bytes) -> bool:
    """Whether a packed node's weights lie as bytes."""
    return has_bytes(shape) and bool(np.frombuffer(packed, "<i4", 1, FORM)[0])
