"""Pooling and means, in float32 and in 8 bits: sums or maxima over windows, with the channels in the lanes.

A window of few places is written out; any other, and one that hangs over the edge, goes through sums in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeswarm.compile.lower_pointwise import elementwise_of
from edgeswarm.compile.lowering import Lowering, Plan, Step, no_pack, no_size, no_unpack
from edgeswarm.compile.nest import NestStep, Part
from edgeswarm.compile.template import Value
from edgeswarm.model.ops_i8 import bounds
from edgeswarm.model.ops_spatial import window_of

_WRITTEN_OUT_MAX = 16  # places of a window without a loop: so many values of 8 bits have a sum of 16
_BLOCK_VECTORS = 4  # of channels whose sums are under way together
_EXACT_COUNT_MAX = 1 << 16  # the division by a larger count is not exact in float32 (finish.wat)


@dataclass(frozen=True, slots=True)
class Kind:
    """of: f32 or i8.  maximum: 1, or 0 for the mean.  after: what finishes a value: the activation, or low and high."""

    of: str
    maximum: int
    after: dict[str, Value]

    @property
    def values(self) -> dict[str, Value]:
        return {"of": self.of, "maximum": self.maximum, **self.after}

    def vectors(self, channels: int) -> int:
        return -(-channels // (4 if self.of == "f32" else 16))

    def sums_bytes(self, channels: int) -> int:
        """Bytes of sums that are not where the answer is."""
        return 64 * self.vectors(channels) if self.of == "i8" and not self.maximum else 0


def over_any(kind: Kind, channels: int, row: int, pixel: int, sums: int, finish: Part) -> Part:
    """The function of a window whose rows and columns are told: row, pixel bytes apart."""
    vectors = kind.vectors(channels)
    width = min(_BLOCK_VECTORS, vectors) if kind.of == "f32" else 1
    blocks, last = divmod(vectors, width)
    join = "f32x4.max" if kind.maximum else "f32x4.add"
    shape: dict[str, Value] = {"row": row, "pixel": pixel, "of": kind.of, "maximum": kind.maximum, "join": join}
    step = 64 if sums else 16 * width
    return Part(
        "pool_any",
        {"blocks": blocks, "last": last, "width": width, "sums": sums, "step": step},
        {
            "block": Part("pool_block", {"width": width, **shape}),
            "block_last": Part("pool_block", {"width": last or width, **shape}),
            "then": finish,
        },
    )


def finish(kind: Kind, channels: int, sums: int, count_max: int) -> Part:
    """What makes answers of sums or maxima."""
    wide = int(count_max > _EXACT_COUNT_MAX)
    return Part("pool_finish", {"vectors": kind.vectors(channels), "sums": sums, "wide": wide, **kind.values})


def once(rows: int, cols: int, any_window: Part) -> Part:
    """One window of known rows and columns."""
    return Part("pool_once", {"rows": rows, "cols": cols}, {"any": any_window})


def _pool(plan: Plan, index: int, kind: Kind) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    height, width, channels = plan.outline.tensors[node.inputs[0]].shape
    window = window_of(plan.outline.tensors[node.inputs[0]], node.attrs)
    (kh, kw), pad = window.kernel, window.pad
    pixel = channels * (4 if kind.of == "f32" else 1)
    row, size = width * pixel, kind.sums_bytes(channels)
    sums = plan.scratch(size, index) if size else 0
    end = finish(kind, channels, sums, min(kh, height) * min(kw, width))
    what = "max_pool" if kind.maximum else "average_pool"
    if window.height == window.width == 1:
        rows, cols = min(height, kh - pad[0]), min(width, kw - pad[2])
        if cols == width:
            rows, cols = 1, rows * cols
        return [NestStep(what, once(rows, cols, over_any(kind, channels, row, pixel, sums, end)), (x,), y)]
    inner = {"any": over_any(kind, channels, row, pixel, sums, end)}
    shape: dict[str, Value] = {"kernel_h": kh, "kernel_w": kw, "pixel": pixel}
    if kh * kw <= _WRITTEN_OUT_MAX:
        inner["whole"] = Part("pool_whole", {"vectors": kind.vectors(channels), "row": row, **shape, **kind.values})
    values: dict[str, Value] = shape | {
        "height": height,
        "width": width,
        "rows": window.height,
        "columns": window.width,
        "pad_top": pad[0],
        "pad_left": pad[2],
        "stride_h": window.stride[0],
        "stride_w": window.stride[1],
        "whole": "",
    }
    return [NestStep(what, Part("pool_plane", values, inner), (x,), y)]


def _floats(maximum: int) -> Lowering:
    def steps(plan: Plan, index: int) -> list[Step]:
        return _pool(plan, index, Kind("f32", maximum, {"activation": elementwise_of(plan, index)}))

    return Lowering(no_size, steps, no_pack, no_unpack)


def _eight_bits(maximum: int) -> Lowering:
    def steps(plan: Plan, index: int) -> list[Step]:
        low, high = bounds(plan.outline.nodes[index].attrs)
        return _pool(plan, index, Kind("i8", maximum, {"low": low, "high": high}))

    return Lowering(no_size, steps, no_pack, no_unpack)


AVERAGE, MAXIMUM = _floats(0), _floats(1)
AVERAGE_I8, MAXIMUM_I8 = _eight_bits(0), _eight_bits(1)
