"""STRIDED_SLICE, SLICE, SPLIT, UNPACK, RESIZE_NEAREST_NEIGHBOR: a part of a tensor, or its values repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeswarm.errors import ModelError
from edgeswarm.model.tflite.ops_shapes import MOVED
from edgeswarm.model.tflite.site import Site


def _cut(site: Site, i: int, cuts: Sequence[slice], out: Sequence[int], k: int = 0) -> None:
    """The output k: the values of input i within `cuts`, one for each of its axes, as `out`."""
    shape, known = site.shape(i), site.known(i)
    for cut, side in zip(cuts, shape, strict=True):
        if not 0 <= cut.start < cut.stop <= side or cut.step < 1:
            raise ModelError(f"expected a part of {list(shape)} that has values, found {list(map(_shown, cuts))}")
    if known is not None:
        return site.fold(known[tuple(cuts)].reshape(out), k)
    at = site.read(i, *MOVED)
    gone = len(shape) - len(site.graph_tensor(at).shape)
    inner, sides = cuts[gone:], shape[gone:]
    if any((cut.start, cut.stop, cut.step) != (0, side, 1) for cut, side in zip(inner, sides, strict=True)):
        start, stop, step = zip(*((cut.start, cut.stop, cut.step) for cut in inner), strict=True)
        at = site.add("strided_slice", [at], start=start, stop=stop, step=step)
    return site.write(at, out, k, moved=True)


def _shown(cut: slice) -> str:
    return f"{cut.start}:{cut.stop}:{cut.step}"


def strided_slice(site: Site) -> None:
    shape = site.shape(0)
    if any(site.option(key) for key in ("EllipsisMask", "NewAxisMask", "Offset")):
        raise ModelError("masks: expected begin, end and shrink_axis alone, found others")
    begin, end, step = (site.numbers(i, "places") for i in (1, 2, 3))
    if not len(begin) == len(end) == len(step) <= len(shape):
        raise ModelError(f"expected up to {len(shape)} places, found {len(begin)}, {len(end)}, {len(step)}")
    if min(step, default=1) < 1:
        raise ModelError(f"{site.name(3)}: expected steps of at least 1, found {step}")
    cuts, out = [], []
    for axis, side in enumerate(shape):
        bit, given = 1 << axis, axis < len(begin)
        start = begin[axis] if given and not site.option("BeginMask") & bit else 0
        stop = end[axis] if given and not site.option("EndMask") & bit else side
        start, stop = (place + side if place < 0 else place for place in (start, stop))
        if given and site.option("ShrinkAxisMask") & bit:
            cuts.append(slice(start, start + 1, 1))
            continue
        cuts.append(slice(max(start, 0), min(stop, side), step[axis] if given else 1))
        out.append(len(range(cuts[-1].start, cuts[-1].stop, cuts[-1].step)))
    _cut(site, 0, cuts, out)


def slice_(site: Site) -> None:
    shape, begin, size = site.shape(0), site.numbers(1, "places"), site.numbers(2, "sizes")
    if not len(begin) == len(size) == len(shape):
        raise ModelError(f"expected {len(shape)} places and sizes, found {len(begin)} and {len(size)}")
    ends = [side if n == -1 else at + n for at, n, side in zip(begin, size, shape, strict=True)]
    cuts = [slice(at, end, 1) for at, end in zip(begin, ends, strict=True)]
    _cut(site, 0, cuts, [cut.stop - cut.start for cut in cuts])


def split(site: Site) -> None:
    axes, shape, count = site.numbers(0, "axes"), site.shape(1), len(site.op.outputs)
    if len(axes) != 1:
        raise ModelError(f"{site.name(0)}: expected one axis, found {len(axes)}")
    axis = site.axis(axes[0], len(shape))
    if site.option("NumSplits") != count or not count or shape[axis] % count:
        raise ModelError(f"expected equal parts of {shape[axis]}, one for each of {count} outputs")
    wide = shape[axis] // count
    for k in range(count):
        cuts = [slice(0, side, 1) for side in shape]
        cuts[axis] = slice(k * wide, (k + 1) * wide, 1)
        _cut(site, 1, cuts, [wide if i == axis else side for i, side in enumerate(shape)], k)


def unpack(site: Site) -> None:
    shape = site.shape(0)
    axis = site.axis(int(site.option("Axis")), len(shape))
    if shape[axis] != len(site.op.outputs):
        raise ModelError(f"expected an output for each of {shape[axis]}, found {len(site.op.outputs)}")
    for k in range(shape[axis]):
        cuts = [slice(0, side, 1) for side in shape]
        cuts[axis] = slice(k, k + 1, 1)
        _cut(site, 0, cuts, [side for i, side in enumerate(shape) if i != axis], k)


def resize_nearest(site: Site) -> None:
    shape, size = site.shape(0), site.numbers(1, "sides")
    if len(shape) != 4 or shape[0] != 1 or len(size) != 2:
        raise ModelError(f"expected [1, height, width, channels] and two sides, found {list(shape)} and {size}")
    align, half = int(bool(site.option("AlignCorners"))), int(bool(site.option("HalfPixelCenters")))
    at = site.add("resize_nearest", [site.read(0, "f32", "i8")], size=(size[0], size[1]), align=align, half=half)
    site.write(at, (1, *size, shape[3]))


OPERATORS: dict[str, Callable[[Site], None]] = {
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
    "SLICE": slice_,
    "SPLIT": split,
    "STRIDED_SLICE": strided_slice,
    "UNPACK": unpack,
}
