"""Models and rows from a seed: the same bits with every version of numpy and on every machine.

numpy does not promise that its generators keep their streams; SplitMix64 (Steele, Lea, Flood 2014) is ten lines of
integers.  Only exact operations of IEEE 754 follow it, so that golden bits can name a model by its seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from edgeswarm.model.mlp import F32, Dense, Mlp, check_sizes

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def uniform(seed: int, count: int, *, stream: int = 0) -> F32:
    """`count` numbers of float32, evenly spread over [-1, 1) in steps of 2^-23; `stream` picks a sequence."""
    start = (seed * 0xD1342543DE82EF95 + stream * 0xDA942042E4DD58B5) & _WORD
    with np.errstate(over="ignore"):
        z = np.uint64(start) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0).astype(np.float32)


def random_mlp(
    sizes: Sequence[int], activation: str = "sigmoid", output_activation: str = "linear", seed: int = 0
) -> Mlp:
    """An Mlp of widths `sizes`: weights uniform within +-sqrt(6 / (inputs + outputs)), biases within +-0.1.

    Source: Glorot and Bengio 2010, equation 16.
    """
    check_sizes(sizes)
    layers = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        scale = np.float32(math.sqrt(6.0 / (inputs + outputs)))
        weights = uniform(seed, inputs * outputs, stream=2 * index).reshape(inputs, outputs) * scale
        bias = uniform(seed, outputs, stream=2 * index + 1) * np.float32(0.1)
        last = index == len(sizes) - 2
        layers.append(Dense(weights, bias, output_activation if last else activation))
    return Mlp(tuple(layers))


def random_rows(count: int, width: int, seed: int = 0) -> F32:
    """Rows of input: float32[count, width], uniform over [-1, 1)."""
    return uniform(seed, count * width, stream=-1).reshape(count, width)
