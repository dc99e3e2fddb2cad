"""How an 8-bit convolution lies in a kernel's weights region, and how its sums become 8 bits (wasm_kernels/conv_i8/).

Part by part, each at a multiple of 64 bytes:
  record   what requantise.wat reads, and at FLAG whether its floats do not hold a sum exactly: then requantise_any.wat;
           of dense layers and 1 x 1 convolutions at FORM what their weights are (pack_dense_i8.py, pack_places_i8.py)
  factors  float64, for each 4 outputs (`Shape.factor_bytes`)
  bias     i32, with what the input's zero point adds: kernels multiply the numbers as they are held
  raw      the multipliers, then the shifts, i32
  weights  i16, two steps of the sum side by side: panels of 4 vectors of 4 outputs, or depthwise groups of 8 channels;
           (pack_winograd.py: where tiles are transformed; pack_dense_i8.py: dense layers; pack_places_i8.py: 1 x 1
           convolutions whose weights allow it; pack_depthwise_i8.py: rows in pairs, with factors and bias among them)
Outputs are padded to whole vectors (depthwise: pairs of vectors) with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.pack_dense_i8 import pack_dense, unpack_dense
from edgeswarm.compile.pack_depthwise_i8 import pack_records, unpack_records
from edgeswarm.compile.pack_places_i8 import has_bytes, holds_bytes, pack_bytes, unpack_bytes
from edgeswarm.compile.pack_short import short_factors
from edgeswarm.compile.pack_winograd import pack_tiles, unpack_tiles
from edgeswarm.compile.shape_conv_i8 import FORM, MAGIC, PANEL_VECTORS, Shape
from edgeswarm.model import fixed_point

Arrays = Mapping[str, NDArray[Any]]


def pack(shape: Shape, params: Arrays) -> bytes:
    """The packed node."""
    out = bytearray(shape.size)
    weights = _weights(shape, params["weights"]).astype(np.int64)
    bias = params["bias"].astype(np.int64) - shape.read_zero * weights.sum(axis=(0, 1, 2))
    ends = _ends(shape, weights, params["bias"].astype(np.int64))
    numbers = params["multiplier"], params["shift"]
    factors, exact = factors_of(*numbers, *ends, once=shape.once)
    packed_factors = _packed_factors(shape, factors)
    tops = 127 - shape.zero_out, shape.zero_out + 128 if shape.short_signed else 0
    m, s = (values.astype(np.int64) for values in numbers)
    short, short_exact = short_factors(m, s, *ends, tops, once=shape.once, fused=shape.paired)
    for number, name in enumerate(("multiplier", "shift")):
        _put(out, shape.raw_at + number * 16 * shape.vectors, params[name].astype("<i4").tobytes())
    if shape.paired:
        records, exact = pack_records(shape, bias, packed_factors, exact, short, short_exact, _whole(shape, weights))
        _put(out, shape.weights_at, records)
        _put(out, 0, _record(shape, bool(exact.all())))
        return bytes(out)
    _put(out, shape.factors_at, packed_factors)
    exact |= _put_short(out, shape, short, short_exact)
    _put(out, 0, _record(shape, bool(exact.all())))
    _put(out, shape.bias_at, bias.astype(np.int32).astype("<i4").tobytes())
    if shape.dense:
        pack_dense(out, shape, weights[0, 0], bias)
        return bytes(out)
    held = pack_bytes(shape, weights[0, 0], bias) if has_bytes(shape) else None
    if held:
        _put(out, FORM, held[0])
    _put(out, shape.weights_at, held[1] if held else _packing(shape)[0](shape, _whole(shape, weights)))
    return bytes(out)


def _ends(
    shape: Shape, weights: NDArray[np.int64], bias: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Between which an output's sums lie: each weight by the number that takes it furthest down, and up."""
    above, below = np.maximum(weights, 0).sum(axis=(0, 1, 2)), np.minimum(weights, 0).sum(axis=(0, 1, 2))
    low, high = -128 - shape.zero, 127 - shape.zero
    return bias + above * low + below * high, bias + above * high + below * low


def _whole(shape: Shape, weights: NDArray[np.int64]) -> NDArray[np.int16]:
    """Outputs padded to whole vectors."""
    padded = np.zeros((*weights.shape[:3], 4 * shape.vectors), np.int16)
    padded[..., : shape.outputs] = weights
    return padded


def unpack(shape: Shape, packed: bytes) -> dict[str, NDArray[Any]]:
    """What `pack` was given; weights as [kh, kw, inputs or 1, outputs]."""

    def read(at: int, kind: str, count: int) -> NDArray[Any]:
        return np.frombuffer(packed, kind, count, at)

    if shape.paired:
        held, weights = unpack_records(shape, read(shape.weights_at, "u1", shape.table_bytes))
    else:
        held = read(shape.bias_at, "<i4", shape.outputs)
        if shape.dense:
            weights = unpack_dense(shape, packed)
        elif holds_bytes(shape, packed):
            weights = unpack_bytes(shape, packed)
        else:
            values = read(shape.weights_at, "<i2", shape.weights_bytes // 2)
            weights = _packing(shape)[1](shape, values)
    weights = weights[..., : shape.outputs]
    bias = held[: shape.outputs] + shape.read_zero * weights.astype(np.int64).sum(axis=(0, 1, 2))
    multiplier, shift = (
        read(shape.raw_at + number * 16 * shape.vectors, "<i4", shape.outputs).astype(np.int32) for number in (0, 1)
    )
    return {
        "weights": weights.astype(np.int8),
        "bias": bias.astype(np.int32),
        "multiplier": multiplier,
        "shift": shift,
    }


def factors_of(
    multiplier: NDArray[Any], shift: NDArray[Any], least: NDArray[Any], greatest: NDArray[Any], *, once: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(factor, half of the grid, 2^-(s + 1)) of each output, and for which of them requantise.wat is exact.

    least, greatest: between which an output's sums lie.  A sum times its factor, with what is added, are whole
    multiples of half the grid, so float64 is exact below 2^53 of these.  Where s <= 12 what lies beyond them passes
    2^(21 - s) >= 512, which every clamp ends, for rounding keeps the order.  A shift to the left must not wrap.
    An output that is always the same (factor 0, the number itself) needs none of that.
    """
    left, s = np.maximum(shift, 0).astype(np.int64), np.maximum(-shift, 0).astype(np.int64)
    most = np.maximum(np.abs(least), np.abs(greatest)).astype(np.float64)
    within = most * np.ldexp(1.0, left) < 2.0**31
    scaled = fixed_point.scaled_once if once else fixed_point.scaled
    ends = [np.clip(scaled(end, multiplier.astype(np.int64), shift), -512, 512) for end in (least, greatest)]
    same = (multiplier == 0) | (within & (ends[0] == ends[1]))
    factor = np.ldexp(multiplier.astype(np.float64), left - 31 - s)
    half = np.ldexp(1.0, left - 32 - s)
    away = np.where((s > 0) & (not once), np.ldexp(1.0, -s - 1), 0.0)
    reached = most * factor
    small = reached < half * 2.0**52
    fits = reached < 2.0**30  # with a zero point, in 32 bits
    exact = same | (fits & np.where(left > 0, within & small, small | (s <= 12)))
    factors = np.where(same, np.stack([0 * factor, ends[0], 0 * away]), np.stack([factor, half, away]))
    return factors, exact


def _packed_factors(shape: Shape, factors: NDArray[np.float64]) -> bytes:
    padded = np.zeros((3, 4 * shape.vectors))
    padded[:, : shape.outputs] = factors
    kinds = padded if shape.signed else np.stack([padded[0], padded[1] + padded[2]])
    return kinds.reshape(len(kinds), shape.vectors, 4).transpose(1, 0, 2).astype("<f8").tobytes()


def _put_short(
    out: bytearray, shape: Shape, factors: NDArray[np.float32], exact: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Numbers in float32 over those in float64, for each 16 outputs that all have them, and a mark behind.

    Returns which outputs have them.
    """
    put = np.zeros(shape.outputs, bool)
    marks = shape.factors_at + shape.factor_bytes * -(-shape.outputs // 4)
    for group, first in enumerate(range(0, shape.outputs, 16)):
        if not exact[first : first + 16].all():
            continue
        put[first : first + 16] = True
        _put(out, marks + 4 * group, b"\1")
        for vector in range(first, min(first + 16, shape.outputs), 4):
            part = np.zeros((2, 4), "<f4")
            part[:, : len(exact) - vector] = factors[:, vector : vector + 4]
            _put(out, shape.factors_at + shape.factor_bytes // 4 * vector, part.tobytes())
    return put


def _record(shape: Shape, exact: bool) -> bytes:
    parts = [
        np.full(2, MAGIC + shape.zero_out, "<f8").tobytes(),
        np.full(8, shape.zero_out, "<i2").tobytes(),
        np.full(16, shape.low, np.int8).tobytes(),
        np.full(16, shape.high, np.int8).tobytes(),
        np.full(2, -0.0, "<f8").tobytes(),
        np.array([not exact], "<i4").tobytes(),
    ]
    return b"".join(parts)


def _weights(shape: Shape, weights: NDArray[Any]) -> NDArray[Any]:
    """Weights as [kh, kw, inputs (depthwise: 1), outputs]."""
    kh, kw = shape.window.kernel
    return weights.reshape(kh, kw, 1 if shape.depthwise else shape.inputs, shape.outputs)


def _pack_panels(shape: Shape, weights: NDArray[np.int16]) -> bytes:
    groups, segments, values = shape.segments
    rounds, unroll = shape.rounds
    padded = np.zeros((groups * segments, 2 * rounds * unroll, 4 * shape.vectors), np.int16)
    padded[:, :values] = weights.reshape(groups * segments, values, -1)
    steps = padded.reshape(shape.steps, 2, shape.vectors, 4).transpose(0, 2, 3, 1)  # step, vector, output, value
    panels = [steps[:, at : at + PANEL_VECTORS] for at in range(0, shape.vectors, PANEL_VECTORS)]
    return b"".join(panel.astype("<i2").tobytes() for panel in panels)


def _unpack_panels(shape: Shape, values: NDArray[Any]) -> NDArray[Any]:
    groups, segments, count = shape.segments
    panels, at = [], 0
    for first in range(0, shape.vectors, PANEL_VECTORS):
        width = min(PANEL_VECTORS, shape.vectors - first)
        size = shape.steps * width * 8
        panels.append(values[at : at + size].reshape(shape.steps, width, 4, 2))
        at += size
    steps = np.concatenate(panels, axis=1).transpose(0, 3, 1, 2)
    padded = steps.reshape(groups * segments, -1, 4 * shape.vectors)
    kh, kw = shape.window.kernel
    return padded[:, :count].reshape(kh, kw, shape.inputs, -1)


def _pack_taps(shape: Shape, weights: NDArray[np.int16]) -> bytes:
    """Part, group of 8 channels, pair of taps, channel, tap of the pair."""
    down, across, columns = shape.parts
    rows, groups = shape.part_rows, shape.vectors // 2
    padded = np.zeros((down * rows, across * columns, 8 * groups), np.int16)
    padded[:, : weights.shape[1]] = weights[:, :, 0]
    parts = padded.reshape(down, rows, across, columns, groups, 8).transpose(0, 2, 4, 1, 3, 5)
    taps = rows * columns
    even = np.zeros((down * across, groups, taps + taps % 2, 8), np.int16)
    even[:, :, :taps] = parts.reshape(down * across, groups, taps, 8)
    pairs = even.reshape(down * across, groups, -1, 2, 8).transpose(0, 1, 2, 4, 3)
    return pairs.astype("<i2").tobytes()


def _unpack_taps(shape: Shape, values: NDArray[Any]) -> NDArray[Any]:
    down, across, columns = shape.parts
    rows, groups = shape.part_rows, shape.vectors // 2
    pairs = values.reshape(down * across, groups, -1, 8, 2).transpose(0, 1, 2, 4, 3)
    taps = pairs.reshape(down, across, groups, -1, 8)[:, :, :, : rows * columns]
    whole = taps.reshape(down, across, groups, rows, columns, 8).transpose(0, 3, 1, 4, 2, 5)
    return whole.reshape(down * rows, across * columns, 1, 8 * groups)[:, : shape.window.kernel[1]]


_Packing = tuple[Callable[[Shape, NDArray[np.int16]], bytes], Callable[[Shape, NDArray[Any]], NDArray[Any]]]


def _packing(shape: Shape) -> _Packing:
    """How the weights are packed, and unpacked."""
    if shape.winograd:
        return pack_tiles, unpack_tiles
    return (_pack_taps, _unpack_taps) if shape.depthwise else (_pack_panels, _unpack_panels)


def _put(out: bytearray, at: int, part: bytes) -> None:
    out[at : at + len(part)] = part
