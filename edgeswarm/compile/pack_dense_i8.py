"""How the weights of an 8-bit dense layer lie in its packed node, and in which of its forms (conv_i8/dense_layer.wat).

The weights are i8, 16 inputs of an output side by side, a vector for each of 4 outputs in turn.  FORM says what they
are:
  0     all of the weights
  1, 2  what `held.kept` leaves of them for sums of that many vectors; behind them, at `rest_at`, what those lack
        (its bytes: FORM + 4), and in `signed_bias_at` the bias for a machine that reads bit 7 as a sign
The form is chosen by the weights: that which takes least time, as measured on x86-64 with 128-bit vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.held import REST_INDEX_MAX, kept, pack_rest, unpack_rest
from edgeswarm.compile.shape_conv_i8 import FORM, Shape
from edgeswarm.errors import ModelError

HELD_GROUPS = (1, 2)
_CYCLES = {0: 1.5, 1: 1.08, 2: 0.95}  # of 16 products, by form; sums of 4 vectors were no faster than of 2
_ENTRY_CYCLES = 3.4  # of one of the rest

I64 = NDArray[np.int64]


def pack_dense(out: bytearray, shape: Shape, weights: I64, bias: I64) -> None:
    """Put `weights` [inputs, outputs] into a packed node whose `bias` is for inputs that count from 0 on."""
    bodies, steps = shape.bodies
    padded = np.zeros((bodies * steps * 16, shape.outputs), np.int64)
    padded[: shape.inputs] = weights
    form, held = _best(shape, padded)
    rest = pack_rest((padded - held)[: shape.inputs]) if form else b""
    out[FORM : FORM + 8] = np.array([form, len(rest)], "<i4").tobytes()
    signed = np.zeros(4 * shape.vectors, "<i4")
    signed[: shape.outputs] = (bias + 128 * weights.sum(axis=0)).astype(np.int32)
    out[shape.signed_bias_at : shape.weights_at] = signed.tobytes().ljust(
        shape.weights_at - shape.signed_bias_at, b"\0"
    )
    full = np.zeros((len(padded), 4 * shape.vectors), np.int8)
    full[:, : shape.outputs] = held
    vectors = full.reshape(-1, 16, shape.vectors, 4).transpose(2, 0, 3, 1)
    out[shape.weights_at : shape.rest_at] = vectors.tobytes()
    out[shape.rest_at : shape.rest_at + len(rest)] = rest


def unpack_dense(shape: Shape, packed: bytes) -> NDArray[Any]:
    """The weights as [1, 1, inputs, outputs].  Raises ModelError for a rest that none packed."""
    values = np.frombuffer(packed, np.int8, shape.weights_bytes, shape.weights_at)
    vectors = values.reshape(shape.vectors, -1, 4, 16).transpose(1, 3, 0, 2)
    weights = vectors.reshape(-1, 4 * shape.vectors)[: shape.inputs, : shape.outputs].astype(np.int64)
    form, size = np.frombuffer(packed, "<i4", 2, FORM)
    if not 0 <= size <= shape.size - shape.rest_at:
        raise ModelError(f"weights: expected at most {shape.size - shape.rest_at} bytes of a rest, found {size}")
    if form:
        weights += unpack_rest(packed[shape.rest_at : shape.rest_at + size], shape.inputs, shape.outputs)
    return weights[None, None]


def _best(shape: Shape, weights: I64) -> tuple[int, I64]:
    """The form that takes least time, and what its vectors hold."""
    found = (weights.size / 16 * _CYCLES[0], 0, weights)
    if max(weights.shape) > REST_INDEX_MAX:
        return found[1:]
    for group in HELD_GROUPS:
        held = _held(shape, weights, group)
        entries = np.count_nonzero(held != weights)
        cycles = weights.size / 16 * _CYCLES[group] + _ENTRY_CYCLES * entries
        if group <= shape.held_bodies[1] and entries <= shape.rest_most and cycles < found[0]:
            found = (cycles, group, held)
    return found[1:]


def _held(shape: Shape, weights: I64, group: int) -> I64:
    """What is kept of [inputs in whole vectors, outputs] where `group` vectors are summed, a body's last ones alone."""
    bodies, steps = shape.held_bodies
    whole = steps // group * group
    parts = weights.reshape(bodies, steps, 8, 2, -1)
    held = parts.copy()
    for some, of in ((slice(0, whole), group), (slice(whole, steps), 1)):
        lanes = parts[:, some].reshape(bodies, -1, of, 8, 2, weights.shape[1]).transpose(0, 1, 3, 5, 2, 4)
        back = kept(lanes.reshape(*lanes.shape[:4], 2 * of)).reshape(lanes.shape).transpose(0, 1, 4, 2, 5, 3)
        held[:, some] = back.reshape(bodies, -1, 8, 2, weights.shape[1])
    return held.reshape(weights.shape)
