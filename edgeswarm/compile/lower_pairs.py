"""add and mul of two tensors, in float32 and in 8 bits: an axis of 1 is repeated.

The sum of two 8-bit numbers has but 65,536 outcomes, so a short formula in whole numbers takes the place of TFLite's
three scalings wherever it gives the same for all of them, or for all but a few that are mended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
_NUDGES = (0, 1, -1, 2, -2, 4, -4, 8, -8)


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
    """(x cx + z cz + start) >> by, before the zero point is added; away: halves below 0 go down.

    off: (x, z, what is missing) of each pair for which that is not what TFLite computes.
    """

    cx: int
    cz: int
    start: int
    by: int
    away: bool
    off: tuple[tuple[int, int, int], ...]

    @property
    def values(self) -> dict[str, Value]:
        """The values of the template `pair_eight`."""
        half = 1 << (self.by - 1)
        values: dict[str, Value] = {
            "how": "sum",
            "by": self.by,
            "start": self.start + half * (not self.away),
            "half": half,
        }
        values |= {"xh": self.cx >> 8, "xl": self.cx & 255, "zh": self.cz >> 8, "zl": self.cz & 255}
        values |= {"away": int(self.away), "off": len(self.off)}
        for number, (x, z, by) in enumerate(self.off):
            values |= {f"px{number}": x, f"qx{number}": z, f"by{number}": by}
        return values


_ALL = np.arange(-128, 128, dtype=np.int64)


@lru_cache(maxsize=64)
def short_sum(x: Tensor, z: Tensor, y: Tensor, low: int, high: int) -> Sum | None:
    """A formula that gives what add_i8 does for every pair of 8-bit numbers; None where none was found."""
    each, last = add_multipliers((x, z), y)[:2], add_multipliers((x, z), y)[2]
    exact = [
        fixed_point.scaled((_ALL - tensor.zero_point) << ADD_SHIFT, *factor)
        for tensor, factor in zip((x, z), each, strict=True)
    ]
    true = fixed_point.scaled(exact[0][:, None] + exact[1][None, :], *last)
    wanted = np.clip(true + y.zero_point, low, high)
    factors = [2.0 ** (ADD_SHIFT + shift - 31 + last[1] - 31) * multiplier * last[0] for multiplier, shift in each]
    largest = max(factors[0] * 256 + factors[1] * 256, 4 * max(factors), 2.0**-8)
    by = min(30, int(np.floor(30 - np.log2(largest))))
    if by < 1 or max(factors) * 2.0**by >= 1 << 22:
        by -= 1
    if by < 1 or max(factors) * 2.0**by >= 1 << 22:
        return None
    cx, cz = (round(factor * 2.0**by) for factor in factors)
    best: Sum | None = None
    for nudge in _NUDGES:
        for away in (False, True):
            start = nudge - cx * x.zero_point - cz * z.zero_point
            found = Sum(cx, cz, start, by, away, ())
            off = _off(found, y.zero_point, low, high, wanted)
            if len(off) <= _OFF_MAX and (best is None or len(off) < len(best.off)):
                best = Sum(cx, cz, start, by, away, off)
            if best and not best.off:
                return best
    return best


def _off(formula: Sum, zero: int, low: int, high: int, wanted: I64) -> tuple[tuple[int, int, int], ...]:
    """Where a formula is off, at most one pair more than can be mended."""
    total = formula.cx * _ALL[:, None] + formula.cz * _ALL[None, :] + formula.start
    if formula.away:
        total = total + (total >> 31)
    found = np.clip(((total + (1 << (formula.by - 1))) >> formula.by) + zero, low, high)
    places = np.argwhere(found != wanted)[: _OFF_MAX + 1]
    return tuple((int(i) - 128, int(j) - 128, int(wanted[i, j] - found[i, j])) for i, j in places)


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
