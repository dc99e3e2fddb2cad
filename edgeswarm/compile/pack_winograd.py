"""Weights of a 3 x 3 convolution as transforms of its tiles, in whole numbers: U = G g G' without its fractions.

Stride 1: Winograd's F(4 x 4, 3 x 3), points 0, 1, -1, 2, -2 (Lavin and Gray 2016, arXiv:1509.09308), divides the
rows of G by 4, 6, 6, 24, 24 and 1.  Here they stay whole, |U| <= 49 * 128, and conv_i8/tiles_out.wat divides.

Stride 2: along a line the even places meet the outer taps, by F(4, 2) with the points 0, 1, -1, infinity and 2, and the
odd places the middle one; these are put so that they add to the products of the first four points
(tiles_in_strided.wat).  All is 6 times too large along a line, |U| <= 36 * 128.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.shape_conv_i8 import PANEL_VECTORS, Shape

_G = np.array([[6, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 6]])
_EVEN = np.array([[3, 0, 0], [3, 0, 3], [1, 0, -1], [0, 0, 6], [1, 0, 2]])
_ODD = np.array([[0, 6, 0], [0, 3, 0], [0, 3, 0], [0, 6, 0], [0, 0, 0]])
_FOUR, _FIFTH = slice(0, 4), slice(4, 5)
_STRIDED = ((_FOUR, _FOUR), (_FIFTH, _FOUR), (_FOUR, _FIFTH), (_FIFTH, _FIFTH))


def pack_tiles(shape: Shape, weights: NDArray[np.int16]) -> bytes:
    """Panel, place of the transform, step, vector, output, value.  weights: [3, 3, inputs, 4 * vectors]."""
    g = np.zeros((3, 3, shape.tile_inputs[0], weights.shape[-1]), np.int64)
    g[:, :, : shape.inputs] = weights
    if shape.strided:
        parts = [part.reshape(-1, 2, shape.vectors, 4) for part in _strided(shape, g)]
        steps = np.concatenate(parts)
    else:
        steps = np.einsum("ai,bj,ijcf->abcf", _G, _G, g).reshape(-1, 2, shape.vectors, 4)
    steps = steps.astype("<i2").transpose(0, 2, 3, 1)
    return b"".join(steps[:, at : at + PANEL_VECTORS].tobytes() for at in range(0, shape.vectors, PANEL_VECTORS))


def _strided(shape: Shape, g: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """For each kind of places: [rows, columns of points, values that are summed up, 4 * vectors].

    Values are channels of even, of odd columns of even rows, then of odd rows, where the points have odd ones.
    """
    kinds = [[np.einsum("ai,bj,ijcf->abcf", down, across, g) for across in (_EVEN, _ODD)] for down in (_EVEN, _ODD)]
    parts = []
    for rows, columns in _STRIDED:
        met = [of[rows, columns] for row in kinds[: 2 - (rows == _FIFTH)] for of in row[: 2 - (columns == _FIFTH)]]
        parts.append(np.concatenate(met, axis=2))
    return parts


def unpack_tiles(shape: Shape, values: NDArray[Any]) -> NDArray[Any]:
    """The weights: [3, 3, inputs, 4 * vectors]."""
    panels = values.reshape(shape.vectors // PANEL_VECTORS, -1, PANEL_VECTORS, 4, 2)
    steps = panels.transpose(1, 4, 0, 2, 3).astype(np.int64)
    if not shape.strided:
        u = steps.reshape(6, 6, shape.tile_inputs[0], 4 * shape.vectors)[:, :, : shape.inputs]
        return _lines(_lines(u).swapaxes(0, 1)).swapaxes(0, 1)
    first = steps.reshape(-1, 4 * shape.vectors)[: 64 * shape.inputs]  # the first four points know all
    kinds = first.reshape(4, 4, 2, 2, shape.inputs, 4 * shape.vectors)
    g = np.zeros((3, 3, shape.inputs, 4 * shape.vectors), np.int64)
    taps = ((0, 0, 0, 3), (1, 1, 0, 6), (2, 0, 3, 6))  # tap: its parity, and the point that has it alone, so many times
    for i, down, row, by in taps:
        for j, across, column, times in taps:
            g[i, j] = kinds[row, column, down, across] // (by * times)
    return g


def _lines(u: NDArray[np.int64]) -> NDArray[np.int64]:
    """g of G g, along the first axis: its first, its last, and the sum of all three are in it."""
    first, last = u[0] // 6, u[5] // 6
    return np.stack([first, u[1] - first - last, last])
