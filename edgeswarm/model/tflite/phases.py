"""SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND around a convolution: converters write a dilated one like that.

A tensor in phases is a plain one, taken apart: phase (i, j) of a block (b, c) has the values at rows i, i + b, ... and
columns j, j + c, ...  A convolution of each phase is a dilated convolution of the plain tensor; so nothing is taken
apart here, and what stands between the two operators must be such a convolution, and axes of 1 that come and go.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeswarm.errors import ModelError
from edgeswarm.model.tflite.site import Phases, Site, rows_shape, steps_of


def space_to_batch(site: Site) -> None:
    shape, blocks, pads = site.shape(0), site.numbers(1, "sides"), site.numbers(2, "padding")
    count = len(blocks)
    if shape[:1] != (1,) or not 1 <= count < len(shape) or len(pads) != 2 * count or min(*blocks, *pads, 1) < 0:
        raise ModelError(f"expected a block of up to {len(shape) - 1} sides and their padding, found {blocks}, {pads}")
    block = (1, *blocks, *(1,) * (len(shape) - count - 1))
    around = [(0, 0), *zip(pads[::2], pads[1::2], strict=True), *[(0, 0)] * (len(shape) - count - 1)]
    plain = tuple(side + sum(pair) for side, pair in zip(shape, around, strict=True))
    if min(block) < 1 or any(side % b for side, b in zip(plain, block, strict=True)):
        raise ModelError(f"expected padding to multiples of the block {blocks}, found {list(plain)}")
    at = site.read(0, "f32", "i8")
    if any(map(any, around)):
        value = float(steps_of(site.tensor(0), site.name(0))[1]) if site.dtype(0) == "i8" else 0.0
        at = site.add("pad", [at], pads=tuple(n for pair in around[1:] for n in pair), value=value)
    site.write_phases(Phases(at, plain, block))


def batch_to_space(site: Site) -> None:
    phases, blocks, crops = site.phases(0), site.numbers(1, "sides"), site.numbers(2, "crops")
    if phases is None:
        raise ModelError(f"{site.name(0)}: expected what SPACE_TO_BATCH_ND took apart, found a plain tensor")
    count, axes = len(blocks), len(phases.plain)
    if phases.block != (1, *blocks, *(1,) * (axes - count - 1)) or len(crops) != 2 * count or min(crops, default=0) < 0:
        raise ModelError(f"expected the block {list(phases.block)} of before, and crops, found {blocks}, {crops}")
    around = [*zip(crops[::2], crops[1::2], strict=True), *[(0, 0)] * (axes - count - 1)]
    stop = [side - after for side, (_, after) in zip(phases.plain[1:], around, strict=True)]
    start = [before for before, _ in around]
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        raise ModelError(f"crops: expected fewer than {list(phases.plain[1:])}, found {crops}")
    at = phases.at
    if any(crops):
        at = site.reshaped(at, phases.plain[1:])
        at = site.add("strided_slice", [at], start=tuple(start), stop=tuple(stop), step=(1,) * len(start))
    out = (1, *(b - a for a, b in zip(start, stop, strict=True)))
    site.write(site.reshaped(at, rows_shape(out)), out, moved=True)


def with_axis(site: Site, phases: Phases, axis: int) -> None:
    """EXPAND_DIMS of a tensor in phases."""
    if not axis:
        raise ModelError("axis: expected one behind the phases, found 0")
    plain, block = list(phases.plain), list(phases.block)
    plain.insert(axis, 1)
    block.insert(axis, 1)
    site.write_phases(Phases(phases.at, tuple(plain), tuple(block)))


def without_axes(site: Site, phases: Phases, gone: set[int]) -> None:
    """SQUEEZE of a tensor in phases."""
    if any(not axis or phases.plain[axis] > 1 for axis in gone):
        raise ModelError(f"axes: expected some of 1 behind the phases, found {sorted(gone)} of {list(phases.plain)}")
    kept = [axis for axis in range(len(phases.plain)) if axis not in gone]
    plain, block = (tuple(sides[axis] for axis in kept) for sides in (phases.plain, phases.block))
    site.write_phases(Phases(phases.at, plain, block))


def reshaped(site: Site, phases: Phases, wanted: Sequence[int]) -> None:
    """RESHAPE of a tensor in phases: axes of 1 come and go."""
    size, known = math.prod(phases.shape), math.prod(axis for axis in wanted if axis != -1)
    shape = [size // known if axis == -1 and known else axis for axis in wanted]
    inner = [(side, b) for side, b in zip(phases.plain[1:], phases.block[1:], strict=True) if (side, b) != (1, 1)]
    plain, block = [1], [1]
    for axis in shape[1:]:
        side, b = (1, 1) if axis == 1 else inner.pop(0) if inner else (0, 1)
        plain.append(side)
        block.append(b)
    made = Phases(phases.at, tuple(plain), tuple(block))
    if inner or min(plain) < 1 or made.shape != tuple(shape):
        raise ModelError(
            f"expected axes of 1 that come or go between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND, "
            f"found {list(phases.shape)} as {list(wanted)}"
        )
    site.write_phases(made)


OPERATORS = {"BATCH_TO_SPACE_ND": batch_to_space, "SPACE_TO_BATCH_ND": space_to_batch}
