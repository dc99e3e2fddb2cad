"""add and mul of two tensors, in float32 and in 8 bits: an axis of 1 is repeated.

The sum of two 8-bit numbers has but 65,536 outcomes, so a short formula in whole numbers takes the place of TFLite's
three scalings wherever it gives the same for all of them, or for all but a few that are mended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np

from edgeswarm.compile.lower_pointwise import elementwise_of
from edgeswarm.compile.lowering import Lowering, Plan, Step, no_pack, no_size, no_unpack
from edgeswarm.compile.nest import Axis, NestStep, Part, merged, strides
from edgeswarm.compile.template import Value
from edgeswarm.model import fixed_point
from edgeswarm.model.nodes import DTYPES, Tensor
from edgeswarm.model.op import I64
from edgeswarm.model.ops_i8 import ADD_SHIFT, add_multipliers, bounds, mul_multiplier

_OFF_MAX = 4  # pairs that the template mends
_EDGES = 16  # values of half that are looked at from either end of what is possible


def _steps(tensor: Tensor, shape: Sequence[int]) -> list[int]:
    """Bytes from one place of each axis of `shape` to the next in `tensor`: 0 along those that are repeated."""
    found = strides(tensor.shape, DTYPES[tensor.dtype].itemsize)
    return [step if side == wide else 0 for step, side, wide in zip(found, tensor.shape, shape, strict=True)]


def _pair(plan: Plan, index: int, template: str, values: dict[str, Value]) -> list[Step]:
    node, tensors = plan.outline.nodes[index], plan.outline.tensors
    x, z, y = (plan.place(tensor) for tensor in (*node.inputs, node.output))
    made = tensors[node.output]
    each = [_steps(tensors[tensor], made.shape) for tensor in (*node.inputs, node.output)]
    axes = merged([Axis(side, steps) for side, steps in zip(made.shape, zip(*each, strict=True), strict=True)])
    last = axes.pop() if axes else Axis(1, (1, 1, 1))
    lanes = 16 // DTYPES[made.dtype].itemsize
    vectors, rest = divmod(last.count, lanes) if axes else (-(-last.count // lanes), 0)
    shape: dict[str, Value] = {"vectors": vectors, "rest": rest, "unroll": plan.library.tile(plan.arch).pass_unroll}
    shape |= {"x_one": int(last.steps[0] == 0), "z_one": int(last.steps[1] == 0)}
    return [NestStep(node.op, Part(template, values | shape), (x, z), y, tuple(axes))]


def _floats(op: str) -> Lowering:
    def steps(plan: Plan, index: int) -> list[Step]:
        return _pair(plan, index, "pair_floats", {"op": op, "activation": elementwise_of(plan, index)})

    return Lowering(no_size, steps, no_pack, no_unpack)


def scale_values(multiplier: int, shift: int, prefix: str = "") -> dict[str, Value]:
    """The values of the template `fixed_scale`."""
    half = 1 << (-shift - 1) if shift < 0 else 0
    return {f"{prefix}multiplier": multiplier, f"{prefix}shift": shift, f"{prefix}half": half}


def _mul_i8(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, z, y = (plan.outline.tensors[tensor] for tensor in (*node.inputs, node.output))
    low, high = bounds(node.attrs)
    values: dict[str, Value] = {"how": "mul", "x_zero": x.zero_point, "z_zero": z.zero_point, "zero": y.zero_point}
    values |= {"low": low, "high": high, "off": 0} | scale_values(*mul_multiplier((x, z), y))
    return _pair(plan, index, "pair_eight", values)


@dataclass(frozen=True, slots=True)
class Sum:
    """(x cx + z cz + start + half) >> by, before the zero point is added; away: less one where the sum is below 0.

    off: (x, z, what is missing) of each pair for which that is not what TFLite computes.
    """

    cx: int
    cz: int
    start: int
    half: int
    by: int
    away: bool
    off: tuple[tuple[int, int, int], ...]

    @property
    def values(self) -> dict[str, Value]:
        """The values of the template `pair_eight`."""
        start = self.start if self.away else self.start + self.half
        values: dict[str, Value] = {"how": "sum", "by": self.by, "start": start, "half": self.half}
        values |= {"xh": self.cx >> 8, "xl": self.cx & 255, "zh": self.cz >> 8, "zl": self.cz & 255}
        values |= {"away": int(self.away), "off": len(self.off)}
        for number, (x, z, by) in enumerate(self.off):
            values |= {f"px{number}": x, f"qx{number}": z, f"by{number}": by}
        return values


_ALL = np.arange(-128, 128, dtype=np.int64)


@lru_cache(maxsize=64)
def short_sum(x: Tensor, z: Tensor, y: Tensor, low: int, high: int) -> Sum | None:
    """A formula that gives what add_i8 does for every pair of 8-bit numbers; None where none was found."""
    *each, last = add_multipliers((x, z), y)
    exact = [
        fixed_point.scaled((_ALL - tensor.zero_point) << ADD_SHIFT, *factor)
        for tensor, factor in zip((x, z), each, strict=True)
    ]
    true = fixed_point.scaled(exact[0][:, None] + exact[1][None, :], *last) + y.zero_point
    wanted = np.clip(true, low, high)
    factors = [2.0 ** (ADD_SHIFT + shift + last[1] - 62) * multiplier * last[0] for multiplier, shift in each]
    by = min(30, math.floor(30 - math.log2(max(256 * sum(factors), 2.0**-8))))  # no sum may pass 31 bits
    if by < 1 or max(factors) * 2.0**by >= 1 << 22:  # nor a factor its two parts
        by -= 1
    if by < 1:
        return None
    best: Sum | None = None
    for nudges in sorted(product((0, 1, -1), repeat=2), key=lambda pair: abs(pair[0]) + abs(pair[1])):
        cx, cz = (round(factor * 2.0**by) + nudge for factor, nudge in zip(factors, nudges, strict=True))
        for away in (False, True):
            found = _fitted(Sum(cx, cz, -cx * x.zero_point - cz * z.zero_point, 0, by, away, ()), y, wanted, low, high)
            if found and (best is None or len(found.off) < len(best.off)):
                best = found
            if best and not best.off:
                return best
    return best


def _fitted(formula: Sum, y: Tensor, wanted: I64, low: int, high: int) -> Sum | None:
    """The formula with the half for which it is off least often; None if that is more often than can be mended."""
    total = formula.cx * _ALL[:, None] + formula.cz * _ALL[None, :] + formula.start
    if formula.away:
        total = total + (total >> 63)
    least = ((wanted - y.zero_point) << formula.by) - total  # half must be that, and less than 2^by more
    lowest, highest = _smallest(-least[wanted > low]) * -1, _smallest(least[wanted < high]) + (1 << formula.by) - 1
    halves = np.concatenate([lowest, highest, [1 << (formula.by - 1)]])
    off = (lowest > halves[:, None]).sum(axis=1) + (highest < halves[:, None]).sum(axis=1)
    if off.min() > _OFF_MAX:
        return None
    half = int(halves[off == off.min()][np.abs(halves[off == off.min()] - (1 << (formula.by - 1))).argmin()])
    found = np.clip(((total + half) >> formula.by) + y.zero_point, low, high)
    places = np.argwhere(found != wanted)
    missing = tuple((int(i) - 128, int(j) - 128, int(wanted[i, j] - found[i, j])) for i, j in places[: _OFF_MAX + 1])
    fits = len(missing) <= _OFF_MAX and abs(total).max() + abs(half) < 1 << 31
    return replace(formula, half=half, off=missing) if fits else None


def _smallest(values: I64) -> I64:
    """The _EDGES smallest values, in any order."""
    return np.partition(values, _EDGES)[:_EDGES] if len(values) > _EDGES else values


def _add_i8(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, z, y = (plan.outline.tensors[tensor] for tensor in (*node.inputs, node.output))
    low, high = bounds(node.attrs)
    values: dict[str, Value] = {"zero": y.zero_point, "low": low, "high": high}
    if (short := short_sum(x, z, y, low, high)) is not None:
        return _pair(plan, index, "pair_eight", values | short.values)
    first, second, last = add_multipliers((x, z), y)
    values |= {"how": "add", "off": 0, "x_zero": x.zero_point, "z_zero": z.zero_point}
    values |= scale_values(*first, "x_") | scale_values(*second, "z_") | scale_values(*last)
    return _pair(plan, index, "pair_eight", values)


ADD, MUL = _floats("f32x4.add"), _floats("f32x4.mul")
ADD_I8 = Lowering(no_size, _add_i8, no_pack, no_unpack)
MUL_I8 = Lowering(no_size, _mul_i8, no_pack, no_unpack)
