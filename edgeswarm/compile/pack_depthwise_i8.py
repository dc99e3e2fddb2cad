"""What rows.wat reads of a depthwise convolution: a record for each 4 channels, in each table of `Shape.paired`.

bias     i32, as in pack_conv_i8.py
factors  float64, or float32 where that is exact for all 4 (pack_short.py); their last word is a mark
weights  i16: pair of rows, column, channel, row of the pair; table 1 begins a row later
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.shape_conv_i8 import Shape

MARK_SHORT, MARK_SUMS = -1, -2
"""In float32; not as floats at all.  No float64 that is a number ends so."""


def pack_records(
    shape: Shape,
    bias: NDArray[np.int64],
    factors: bytes,
    exact: NDArray[np.bool_],
    short: NDArray[np.float32],
    short_exact: NDArray[np.bool_],
    weights: NDArray[np.int16],
) -> tuple[bytes, NDArray[np.bool_]]:
    """(the tables, which outputs some floats hold exactly).

    factors, exact: in float64, packed; short, short_exact: (factor, addend) in float32; weights: of whole vectors.
    """
    vectors, behind = shape.vectors, 4 * shape.vectors - shape.outputs
    taken = np.pad(short_exact, (0, behind), constant_values=True).reshape(vectors, 4).all(axis=1)
    exact = exact | np.repeat(taken, 4)[: shape.outputs]
    numbers = np.frombuffer(factors, np.uint8).reshape(vectors, shape.factor_bytes).copy()
    floats = np.pad(short, ((0, 0), (0, behind))).reshape(2, vectors, 4).transpose(1, 0, 2).astype("<f4")
    numbers[taken, :32] = np.ascontiguousarray(floats).view(np.uint8).reshape(vectors, 32)[taken]
    marks = numbers[:, -4:].copy().view("<i4")[:, 0]
    marks[taken] = MARK_SHORT
    if not exact.all():
        marks[:] = MARK_SUMS
    numbers[:, -4:] = marks[:, None].view(np.uint8)
    records = np.zeros((shape.tables, vectors, shape.record_bytes), np.uint8)
    biases = np.pad(bias, (0, behind)) + _outside(shape, weights)
    places = biases.astype(np.int32).reshape(shape.biases, vectors, 4).transpose(1, 0, 2)
    records[:, :, : 16 * shape.biases] = _octets(places.astype("<i4"), vectors)
    records[:, :, 16 * shape.biases : shape.numbers_at] = numbers
    kh, kw = shape.window.kernel
    for table in range(shape.tables):
        rows = np.zeros((2 * shape.pairs, kw, 4 * vectors), "<i2")
        rows[table : table + kh] = weights[:, :, 0]
        pairs = rows.reshape(shape.pairs, 2, kw, vectors, 4).transpose(3, 0, 2, 4, 1)
        records[table, :, shape.numbers_at :] = _octets(pairs, vectors)
    return records.tobytes(), exact


def unpack_records(shape: Shape, table: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(bias, weights) of whole vectors, from table 0."""
    kh, kw = shape.window.kernel
    records = table.reshape(shape.vectors, shape.record_bytes)
    first = np.ascontiguousarray(records[:, :16]).view("<i4").reshape(-1)
    values = np.ascontiguousarray(records[:, shape.numbers_at :]).view("<i2")
    pairs = values.reshape(shape.vectors, shape.pairs, kw, 4, 2).transpose(1, 4, 2, 0, 3)
    weights: NDArray[Any] = pairs.reshape(2 * shape.pairs, kw, 1, 4 * shape.vectors)[:kh]
    return first - _outside(shape, weights)[0], weights


def _outside(shape: Shape, weights: NDArray[Any]) -> NDArray[np.int64]:
    """[bias, channel]: what taps left and right of the image add, which are not computed."""
    columns = weights[:, :, 0].astype(np.int64).sum(axis=0) * shape.zero
    added = np.zeros((shape.biases, columns.shape[1]), np.int64)
    if shape.biases > 1:
        for place in range(shape.biases):
            at = place * shape.window.stride[1] - shape.window.pad[2] + np.arange(len(columns))
            added[place] = columns[(at < 0) | (at >= shape.width)].sum(axis=0)
    return added


def _octets(values: NDArray[Any], vectors: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8).reshape(vectors, -1)
