"""Weights of a 3 x 3 convolution as transforms of 6 x 6 places, in whole numbers: U = G g G' without its fractions.

Winograd's F(4 x 4, 3 x 3) with the points 0, 1, -1, 2, -2 (Lavin and Gray 2016, arXiv:1509.09308) divides the rows of G
by 4, 6, 6, 24, 24 and 1.  Here they stay whole, |U| <= 49 * 128, and wasm_kernels/conv_i8/tiles_out.wat divides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.shape_conv_i8 import PANEL_VECTORS, Shape

_G = np.array([[6, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 6]])


def pack_tiles(shape: Shape, weights: NDArray[np.int16]) -> bytes:
    """Panel, place of the transform, step, vector, output, value.  weights: [3, 3, inputs, 4 * vectors]."""
    u = np.einsum("ai,bj,ijcf->abcf", _G, _G, weights.astype(np.int64)).astype("<i2")
    steps = u.reshape(36, shape.inputs // 2, 2, shape.vectors, 4).transpose(0, 1, 3, 4, 2)
    return b"".join(
        np.ascontiguousarray(steps[:, :, at : at + PANEL_VECTORS]).tobytes()
        for at in range(0, shape.vectors, PANEL_VECTORS)
    )


def unpack_tiles(shape: Shape, values: NDArray[Any]) -> NDArray[Any]:
    """The weights: [3, 3, inputs, 4 * vectors]."""
    panels, at = [], 0
    for first in range(0, shape.vectors, PANEL_VECTORS):
        width = min(PANEL_VECTORS, shape.vectors - first)
        size = 36 * shape.inputs * width * 4
        panels.append(values[at : at + size].reshape(36, shape.inputs // 2, width, 4, 2))
        at += size
    steps = np.concatenate(panels, axis=2).transpose(0, 1, 4, 2, 3).astype(np.int64)
    return _lines(_lines(steps.reshape(6, 6, shape.inputs, 4 * shape.vectors)).swapaxes(0, 1)).swapaxes(0, 1)


def _lines(u: NDArray[np.int64]) -> NDArray[np.int64]:
    """g of G g, along the first axis: its first, its last, and the sum of all three are in it."""
    first, last = u[0] // 6, u[5] // 6
    return np.stack([first, u[1] - first - last, last])
