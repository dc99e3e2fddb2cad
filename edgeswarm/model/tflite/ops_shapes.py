"""Operators that move bits: RESHAPE and its kin, TRANSPOSE, PAD, CONCATENATION, slices; and what is known of shapes.

Models that were converted without a fixed batch compute shapes (SHAPE, STRIDED_SLICE, PACK); here every shape is known,
so that this is done while importing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import GRAPH_TENSOR_VALUES_MAX, TFLITE_FOLDED_VALUES_MAX, TFLITE_OP_TENSORS_MAX
from edgeswarm.model.tflite.fused import fused
from edgeswarm.model.tflite.phases import reshaped as in_phases
from edgeswarm.model.tflite.phases import with_axis, without_axes
from edgeswarm.model.tflite.site import QUANTISED, Site, rows_shape, steps_of

MOVED = ("f32", *QUANTISED)


def _moved(site: Site, shape: Sequence[int]) -> None:
    """The same values with other axes."""
    known = site.known(0)
    if known is not None:
        return site.fold(known.reshape(shape))
    return site.write(site.read(0, *MOVED), shape, moved=True)


def reshape(site: Site) -> None:
    if (phases := site.phases(0)) is not None:
        known = site.known(1)
        return in_phases(site, phases, site.out.shape if known is None else site.numbers(1, "axes"))
    held, size = site.shape(0), math.prod(site.shape(0))
    wanted: Sequence[int]
    if site.known(1) is not None:
        wanted = site.numbers(1, "axes")
    elif site.has(1) or not (site.op.options and site.option("NewShape")):
        wanted = site.out.shape
    else:
        wanted = site.option("NewShape")
    site.check_axes(wanted)
    rest = [axis for axis in wanted if axis != -1]
    whole = math.prod(rest)
    if (
        len(rest) < len(wanted) - 1
        or min(rest, default=1) < 0
        or (len(rest) < len(wanted) and (not whole or size % whole))
    ):
        raise ModelError(f"shape: expected one for the {size} values of {list(held)}, found {list(wanted)}")
    shape = tuple(size // whole if axis == -1 else axis for axis in wanted)
    if math.prod(shape) != size:
        raise ModelError(f"shape: expected one for the {size} values of {list(held)}, found {list(wanted)}")
    return _moved(site, shape)


def squeeze(site: Site) -> None:
    phases = site.phases(0)
    shape = site.shape(0) if phases is None else phases.shape
    dims = {site.axis(axis, len(shape)) for axis in site.option("SqueezeDims")} if site.op.options else set()
    if any(shape[axis] != 1 for axis in dims):
        raise ModelError(f"squeeze_dims: expected axes of 1, found {sorted(dims)} of {list(shape)}")
    gone = dims or {axis for axis, side in enumerate(shape) if side == 1}
    out = [side for axis, side in enumerate(shape) if axis not in gone]
    return _moved(site, out) if phases is None else without_axes(site, phases, gone)


def expand_dims(site: Site) -> None:
    phases = site.phases(0)
    shape = list(site.shape(0) if phases is None else phases.shape)
    axes = site.numbers(1, "axes")
    if len(axes) != 1:
        raise ModelError(f"{site.name(1)}: expected one axis, found {len(axes)}")
    axis = site.axis(axes[0], len(shape) + 1)
    shape.insert(axis, 1)
    return _moved(site, shape) if phases is None else with_axis(site, phases, axis)


def transpose(site: Site) -> None:
    shape, perm = site.shape(0), site.numbers(1, "axes")
    perm = [site.axis(axis, len(shape)) for axis in perm] if shape else perm
    if sorted(perm) != list(range(len(shape))):
        raise ModelError(f"{site.name(1)}: expected each of {len(shape)} axes once, found {perm}")
    out = tuple(shape[axis] for axis in perm)
    known = site.known(0)
    if known is not None:
        return site.fold(known.transpose(perm))
    wide = [axis for axis in perm if shape[axis] > 1]  # axes of 1 are nowhere in the order of values
    at = site.read(0, *MOVED)
    if wide != sorted(wide):
        order = sorted(wide)
        at = site.reshaped(at, [shape[axis] for axis in order])
        at = site.add("transpose", [at], perm=tuple(order.index(axis) for axis in wide))
    return site.write(at, out, moved=True)


def pad(site: Site) -> None:
    shape, pads = site.shape(0), site.constant(1, "padding", "i32", "i64")
    if pads.shape != (len(shape), 2) or (pads < 0).any():
        raise ModelError(
            f"{site.name(1)}: expected [{len(shape)}, 2] numbers of at least 0, found {pads.tolist()!s:.80}"
        )
    at = site.read(0, "f32", "i8")
    value = float(steps_of(site.tensor(0), site.name(0))[1]) if site.dtype(0) == "i8" else 0.0
    if site.has(2):
        held = site.constant(2, "the value", site.dtype(0))
        if held.size != 1:
            raise ModelError(f"{site.name(2)}: expected one value, found {held.size}")
        value = float(held.ravel()[0])
    around = [(int(before), int(after)) for before, after in pads]
    out = tuple(side + sum(pair) for side, pair in zip(shape, around, strict=True))
    if rows_shape(shape) != shape and around[0] != (0, 0):
        at = site.reshaped(at, shape)  # the batch is padded, too
    gone = len(shape) - len(site.graph_tensor(at).shape)
    if any(any(pair) for pair in around):
        at = site.add("pad", [at], pads=tuple(n for pair in around[gone:] for n in pair), value=value)
    site.write(at, out)


def concatenation(site: Site) -> None:
    count = len(site.op.inputs)
    shapes = [site.shape(i) for i in range(count)]
    if not shapes or len({len(shape) for shape in shapes}) != 1 or not shapes[0]:
        raise ModelError(f"inputs: expected tensors of as many axes, found {[list(shape) for shape in shapes]!s:.80}")
    axis = site.axis(int(site.option("Axis")), len(shapes[0]))
    known = [site.known(i) for i in range(count)]
    arrays = [values for values in known if values is not None]
    if len(arrays) == count and site.dtype(0) in ("i32", "i64"):
        return _fold(site, lambda: np.concatenate(arrays, axis=axis), arrays)
    if fused(site) != "NONE":
        raise ModelError(f"fused activation: expected none, as LiteRT does, found {fused(site)}")
    out = list(shapes[0])
    out[axis] = sum(shape[axis] for shape in shapes)
    gone = len(out) - len(rows_shape(out))
    at = _join(site, [tuple(shape)[gone:] for shape in shapes], axis - gone)
    return site.write(at, out)


def _join(site: Site, shapes: Sequence[Sequence[int]], axis: int) -> int:
    """All inputs side by side; shapes: their axes in the graph."""
    read = [site.operand(i, shape, *MOVED) for i, shape in enumerate(shapes)]
    return site.add("join", read, axis=axis) if len(read) > 1 else read[0]


def tile(site: Site) -> None:
    """The same tensor side by side, axis by axis."""
    shape, times = site.shape(0), site.numbers(1, "multiples")
    if len(times) != len(shape) or min(times, default=1) < 1:
        raise ModelError(f"{site.name(1)}: expected {len(shape)} numbers of at least 1, found {times}")
    known = site.known(0)
    if known is not None:
        raise ModelError(f"{site.name(0)}: expected a computed tensor, found a constant")
    at, out = site.read(0, *MOVED), tuple(side * many for side, many in zip(shape, times, strict=True))
    if math.prod(out) > GRAPH_TENSOR_VALUES_MAX or max(times, default=1) > TFLITE_OP_TENSORS_MAX:
        raise LimitError(
            f"{site.name(1)}: at most {TFLITE_OP_TENSORS_MAX} times (TFLITE_OP_TENSORS_MAX) and "
            f"{GRAPH_TENSOR_VALUES_MAX} values (GRAPH_TENSOR_VALUES_MAX), found {times} of {list(shape)}"
        )
    if len(rows_shape(shape)) != len(shape) and times[0] > 1:
        at = site.reshaped(at, shape)  # the batch is repeated, too
    gone = len(shape) - len(site.graph_tensor(at).shape)
    for axis in range(gone, len(shape)):
        if times[axis] > 1:
            at = site.add("join", [at] * times[axis], axis=axis - gone)
    site.write(at, out, moved=True)


def pack(site: Site) -> None:
    count = len(site.op.inputs)
    shapes = {site.shape(i) for i in range(count)}
    if len(shapes) != 1:
        raise ModelError(f"inputs: expected one shape, found {[list(shape) for shape in shapes]!s:.80}")
    (shape,) = shapes
    axis = site.axis(int(site.option("Axis")), len(shape) + 1)
    known = [site.known(i) for i in range(count)]
    arrays = [values for values in known if values is not None]
    if len(arrays) == count:
        return _fold(site, lambda: np.stack(arrays, axis=axis), arrays)
    out = (*shape[:axis], count, *shape[axis:])
    gone = len(out) - len(rows_shape(out))
    one = (*shape[:axis], 1, *shape[axis:])[gone:]
    return site.write(_join(site, [one] * count, axis - gone) if count > 1 else site.operand(0, one, *MOVED), out)


def _fold(site: Site, made: Callable[[], NDArray[Any]], read: Sequence[NDArray[Any]]) -> None:
    if sum(array.size for array in read) > TFLITE_FOLDED_VALUES_MAX:
        raise LimitError(
            f"at most {TFLITE_FOLDED_VALUES_MAX} values are computed in advance (TFLITE_FOLDED_VALUES_MAX)"
        )
    site.fold(made())


def shape_of(site: Site) -> None:
    site.fold(np.array(site.shape(0), np.int32))


def fill(site: Site) -> None:
    """One value everywhere, such as the state that an unrolled loop begins with."""
    shape, value = site.numbers(0, "sides"), site.constant(1, "a value", "f32", "i8", "i32", "i64")
    site.check_axes(shape)
    if value.size != 1 or min(shape, default=1) < 1:
        raise ModelError(f"expected sides of at least 1 and one value, found {shape} and {value.size}")
    site.take(value.itemsize * math.prod(shape))
    site.fold(np.full(shape, value.ravel()[0], value.dtype))


def cast(site: Site) -> None:
    """Of whole numbers that are known; values are not cast."""
    kinds = {"i32": np.int32, "i64": np.int64}
    if site.known(0) is None or site.out.dtype not in kinds or site.dtype(0) not in kinds:
        raise ModelError(f"expected whole numbers that are known, found a cast of {site.dtype(0)} to {site.out.dtype}")
    held = site.constant(0, "numbers", *kinds)
    _fold(site, lambda: held.astype(kinds[site.out.dtype]), [held])


def gather(site: Site) -> None:
    """Of known whole numbers, along their one axis."""
    held, at = site.constant(0, "numbers", "i32", "i64"), site.numbers(1, "indices")
    if held.ndim != 1 or any(not 0 <= index < held.size for index in at):
        raise ModelError(f"indices: expected 0 to {held.size - 1} of one axis, found {at[:8]}")
    _fold(site, lambda: held[np.array(at, np.int64).reshape(site.shape(1))], [held])


def reduce_prod(site: Site) -> None:
    held = site.constant(0, "numbers", "i32", "i64")
    axes = tuple({site.axis(axis, held.ndim) for axis in site.numbers(1, "axes")})
    keep = bool(site.option("KeepDims"))
    _fold(site, lambda: np.asarray(held.prod(axis=axes, keepdims=keep)).astype(held.dtype), [held])


OPERATORS: dict[str, Callable[[Site], None]] = {
    "CAST": cast,
    "CONCATENATION": concatenation,
    "EXPAND_DIMS": expand_dims,
    "FILL": fill,
    "GATHER": gather,
    "PACK": pack,
    "PAD": pad,
    "PADV2": pad,
    "REDUCE_PROD": reduce_prod,
    "RESHAPE": reshape,
    "SHAPE": shape_of,
    "SQUEEZE": squeeze,
    "TILE": tile,
    "TRANSPOSE": transpose,
}
