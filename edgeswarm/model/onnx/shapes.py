"""Operators of ONNX that move values, from Reshape to Gather, and those that change nothing.

Rows never mix: the first axis stays the batch.  A transpose or reshape is remembered, not computed, until an operator
needs its order (`draft.Held`).  Source: the ONNX operator specification.
"""

from __future__ import annotations

import math
from dataclasses import replace

from edgeswarm.errors import LimitError, ModelError
from edgeswarm.limits import GRAPH_TENSOR_VALUES_MAX
from edgeswarm.model.onnx.draft import Draft, Held, last, plain, row_axis
from edgeswarm.model.onnx.file import Step
from edgeswarm.model.onnx.reading import (
    scalar_input,
    text_attr,
    whole_attr,
    wholes_attr,
    wholes_either,
    wholes_input,
)


def identity(draft: Draft, step: Step) -> None:
    """Identity, and Dropout of a trained model: the same value."""
    if step.op == "Dropout" and any(name and draft.uses[name] for name in step.outputs[1:]):
        raise ModelError("expected its first output to be read alone, found its mask read too")
    draft.put(step, draft.value(step, 0))


def cast(draft: Draft, step: Step) -> None:
    """Cast of floats to float32, which they are."""
    if whole_attr(step, "to", 0) not in (1, 11):
        raise ModelError("to: expected float, for values between operators are float32, found another type")
    draft.put(step, draft.held(step, 0))


def reshaped(value: Held, shape: tuple[int, ...]) -> Held:
    """The value in another shape, without the batch: known, not computed."""
    if math.prod(shape) != math.prod(value.shape):
        raise ModelError(f"shape: expected {math.prod(value.shape)} values a row, found {list(shape)}")
    return replace(value, shape=shape)


def reshape(draft: Draft, step: Step) -> None:
    """Reshape; the first axis must stay the batch."""
    value = draft.held(step, 0)
    if "shape" in step.attrs:
        target = wholes_attr(step, "shape", None)
    else:
        target = wholes_input(draft, step, 1, "shape", None, -1, GRAPH_TENSOR_VALUES_MAX)
    whole, zero_copies = (1, *value.shape), not whole_attr(step, "allowzero", 0)
    if not target:
        raise ModelError("shape: expected the batch first, found no axis")
    made = [whole[i] if size == 0 and zero_copies and i < len(whole) else size for i, size in enumerate(target)]
    if made.count(-1) > 1 or min(made) < -1 or 0 in made:
        raise ModelError(f"shape: expected sizes and at most one -1, found {list(target)}")
    if -1 in made:
        rest = -math.prod(made)
        if math.prod(whole) % rest:
            raise ModelError(f"shape: expected one for {math.prod(whole)} values, found {list(target)}")
        made[made.index(-1)] = math.prod(whole) // rest
    if made[0] != 1:
        raise ModelError(
            f"shape: expected the batch to stay the first axis, found {list(target)}: rows would mix; "
            "reshape with -1 for the batch and sizes for all else"
        )
    draft.put(step, reshaped(value, tuple(made[1:])))


def flatten(draft: Draft, step: Step) -> None:
    """Flatten at axis 1: a row of one axis."""
    value = draft.held(step, 0)
    axis = whole_attr(step, "axis", 1)
    axis += value.rank + 1 if axis < 0 else 0
    if axis != 1:
        raise ModelError(f"axis: expected 1, for rows do not mix, found {axis}")
    draft.put(step, reshaped(value, (math.prod(value.shape),)))


def squeeze(draft: Draft, step: Step) -> None:
    """Squeeze: axes of 1 are left out."""
    value = draft.held(step, 0)
    axes = wholes_either(draft, step, 1, "axes")
    if axes is None:
        gone = {axis for axis, size in enumerate(value.shape) if size == 1}
    else:
        gone = {row_axis(axis, value.rank) for axis in axes}
    if any(value.shape[axis] != 1 for axis in gone):
        raise ModelError(f"axes: expected axes of 1 in {list(value.shape)}, found others")
    draft.put(step, reshaped(value, tuple(size for axis, size in enumerate(value.shape) if axis not in gone)))


def unsqueeze(draft: Draft, step: Step) -> None:
    """Unsqueeze: axes of 1 come in."""
    value = draft.held(step, 0)
    axes = wholes_either(draft, step, 1, "axes", ()) or ()
    rank = value.rank + len(axes)
    new = {row_axis(axis, rank) for axis in axes}
    if len(new) != len(axes):
        raise ModelError(f"axes: expected each once, found {list(axes)}")
    rest = iter(value.shape)
    draft.put(step, reshaped(value, tuple(1 if axis in new else next(rest) for axis in range(rank))))


def transpose(draft: Draft, step: Step) -> None:
    """Transpose: another order of the same values."""
    value = draft.held(step, 0)
    perm = wholes_attr(step, "perm", tuple(reversed(range(value.rank + 1))), value.rank + 1, 0, value.rank)
    if sorted(perm) != list(range(value.rank + 1)) or perm[0] != 0:
        raise ModelError(f"perm: expected each axis once, the batch first, found {list(perm)}")
    rows = tuple(axis - 1 for axis in perm[1:])
    if value.base != value.shape:
        tensor = draft.in_order(value, plain(value.rank))
        value = replace(draft.fresh(tensor, plain(value.rank)), sole=value.sole) if value.rank else value
    shape = tuple(value.shape[axis] for axis in rows)
    draft.put(step, replace(value, shape=shape, base=shape, order=tuple(rows.index(axis) for axis in value.order)))


def concat(draft: Draft, step: Step) -> None:
    """Concat of values that rows decide."""
    values = [draft.value(step, index) for index in range(len(step.inputs))]
    first = next(value for value in values if isinstance(value, Held))
    axis = row_axis(whole_attr(step, "axis", 1), first.rank)
    order = first.order if first.base == first.shape else plain(first.rank)
    tensors = []
    for index, value in enumerate(values):
        if not isinstance(value, Held):
            if value.ndim != first.rank + 1 or value.shape[0] != 1 or value.dtype.kind != "f":
                raise ModelError(f"input {index}: expected float numbers for one row, found {list(value.shape)}")
            tensors.append(draft.constant(value[0], order))
        elif value.rank != first.rank:
            raise ModelError(f"input {index}: expected {first.rank} axes besides the batch, found {value.rank}")
        else:
            tensors.append(draft.in_order(value, order))
    if len(tensors) == 1:
        draft.put(step, first)
    else:
        draft.put(step, draft.fresh(_join(draft, tensors, order.index(axis)), order))


def _join(draft: Draft, tensors: list[int], axis: int) -> int:
    """Whole numbers are joined as they are, where all stand for the same."""
    nodes = [draft.node_of(tensor) for tensor in tensors]
    sources = [node.inputs[0] for node in nodes if node is not None and node.op == "dequantize"]
    held = {(tensor.scale, tensor.zero_point) for tensor in (draft.builder.tensors[at] for at in sources)}
    if len(sources) == len(tensors) and len(held) == 1:
        return draft.add("dequantize", [draft.add("join", sources, axis=axis)])
    return draft.add("join", tensors, axis=axis)


def pad(draft: Draft, step: Step) -> None:
    """Pad with one number; pads less than 0 cut."""
    value = draft.held(step, 0)
    if (mode := text_attr(step, "mode", "constant")) != "constant":
        raise ModelError(f"mode: expected constant, found {mode[:40]!r}")
    pads = wholes_either(draft, step, 1, "pads") or ()
    if draft.given(step, 3):
        chosen = wholes_input(draft, step, 3, "axes")
        axes = [row_axis(axis, value.rank) for axis in chosen]
    else:
        axes = list(range(-1, value.rank))
    if len(pads) != 2 * len(axes) or max(map(abs, pads), default=0) > GRAPH_TENSOR_VALUES_MAX:
        raise ModelError(f"pads: expected {2 * len(axes)} numbers, found {list(pads)[:10]}")
    around = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    if any(around.pop(-1, (0, 0))):
        raise ModelError(f"pads: expected none of the batch, found {list(pads)}")
    number = scalar_input(draft, step, 2, "value")
    if number is None:
        found = step.attrs.get("value", 0.0)
        number = found if isinstance(found, float) else 0.0
    if value.base != value.shape or value.order == plain(value.rank):  # the order that a convolution behind wants
        order = last(value.rank) if value.rank in (2, 3) else plain(value.rank)
    else:
        order = value.order
    tensor = draft.in_order(value, order)
    cut = [(max(0, -before), max(0, -after)) for before, after in (around.get(axis, (0, 0)) for axis in order)]
    if any(map(any, cut)):
        sides = draft.shape_of(tensor)
        stop = tuple(side - after for side, (_, after) in zip(sides, cut, strict=True))
        start = tuple(before for before, _ in cut)
        tensor = draft.add("strided_slice", [tensor], start=start, stop=stop, step=(1,) * len(sides))
    wide = tuple(max(0, count) for axis in order for count in around.get(axis, (0, 0)))
    if any(wide):
        tensor = _pad(draft, tensor, wide, float(number))
        draft.put(step, draft.fresh(tensor, order))
    else:  # nothing new: what joins to it must not touch what others read
        draft.put(step, replace(draft.fresh(tensor, order), sole=value.sole))


def _pad(draft: Draft, tensor: int, pads: tuple[int, ...], number: float) -> int:
    """Whole numbers are padded as they are, where one of them stands for `number`."""
    node = draft.node_of(tensor)
    if node is not None and node.op == "dequantize":
        source = draft.builder.tensors[node.inputs[0]]
        whole = number / source.scale + source.zero_point
        if whole.is_integer() and -128 <= whole <= 127:
            return draft.add("dequantize", [draft.add("pad", [node.inputs[0]], pads=pads, value=whole)])
    return draft.add("pad", [tensor], pads=pads, value=number)


def slice_(draft: Draft, step: Step) -> None:
    """Slice with numbers of the file; steps above 0."""
    value = draft.held(step, 0)
    starts, ends = (wholes_either(draft, step, i, name) or () for i, name in ((1, "starts"), (2, "ends")))
    axes = wholes_either(draft, step, 3, "axes", range(len(starts))) or ()
    steps = wholes_input(draft, step, 4, "steps") if draft.given(step, 4) else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ModelError("starts: expected as many as ends, axes and steps, found others")
    parts = {}
    for start, end, axis, by in zip(starts, ends, axes, steps, strict=True):
        if axis in (0, -value.rank - 1) and start == 0 and end >= 1 and by == 1:
            continue
        at = row_axis(axis, value.rank)
        side = value.shape[at]
        start, end = (min(max(x + side if x < 0 else x, 0), side) for x in (start, end))
        if by < 1 or start >= end:
            raise ModelError(f"axis {axis}: expected a part that is not empty, forwards, found {start}:{end}:{by}")
        parts[at] = (start, end, by)
    draft.put(step, _part(draft, value, parts))


def _part(draft: Draft, value: Held, parts: dict[int, tuple[int, int, int]]) -> Held:
    order = value.order if value.base == value.shape else plain(value.rank)
    tensor = draft.in_order(value, order)
    each = [parts.get(axis, (0, value.shape[axis], 1)) for axis in order]
    start, stop, step = (tuple(part[i] for part in each) for i in range(3))
    made = draft.from_i8(tensor, lambda at: draft.add("strided_slice", [at], start=start, stop=stop, step=step))
    return draft.fresh(made, order)


def split(draft: Draft, step: Step) -> None:
    """Split: parts one behind the other."""
    value = draft.held(step, 0)
    axis, count = row_axis(whole_attr(step, "axis", 0), value.rank), len(step.outputs)
    side = value.shape[axis]
    each = -(-side // count)
    sizes = wholes_either(draft, step, 1, "split") or (*(each,) * (count - 1), side - each * (count - 1))
    if len(sizes) != count or min(sizes) < 1 or sum(sizes) != side:
        raise ModelError(f"split: expected {count} parts of together {side}, found {list(sizes)}")
    at = 0
    for index, size in enumerate(sizes):
        if step.outputs[index]:
            draft.put(step, _part(draft, value, {axis: (at, at + size, 1)}), index)
        at += size


def gather(draft: Draft, step: Step) -> None:
    """Gather of one place along an axis, which then is gone: x[:, :, -1]."""
    value = draft.held(step, 0)
    axis = row_axis(whole_attr(step, "axis", 0), value.rank)
    found = draft.numbers(step, 1, "indices")
    if found.size != 1 or found.dtype.kind not in "iu":
        raise ModelError(f"indices: expected one place, found {list(found.shape)}; Slice takes several")
    at, side = int(found.reshape(())), value.shape[axis]
    at += side if at < 0 else 0
    if not 0 <= at < side:
        raise ModelError(f"indices: expected {-side} to {side - 1}, found {at}")
    part = _part(draft, value, {axis: (at, at + 1, 1)})
    if found.ndim > 1:
        raise LimitError(f"indices: at most one axis, found {list(found.shape)}")
    draft.put(step, part if found.ndim else reshaped(part, value.shape[:axis] + value.shape[axis + 1 :]))


def reduce_mean(draft: Draft, step: Step) -> None:
    """ReduceMean over axes of a row."""
    value = draft.held(step, 0)
    found = wholes_either(draft, step, 1, "axes")
    if not found:
        if whole_attr(step, "noop_with_empty_axes", 0):
            draft.put(step, value)
            return
        raise ModelError("axes: expected them named, for rows do not mix, found none")
    axes = {row_axis(axis, value.rank) for axis in found}
    order = value.order if value.base == value.shape else plain(value.rank)
    stored = tuple(sorted(order.index(axis) for axis in axes))
    made = draft.fresh(draft.add("mean", [draft.in_order(value, order)], axes=stored, keep=1), order)
    if not whole_attr(step, "keepdims", 1):
        made = reshaped(made, tuple(size for axis, size in enumerate(value.shape) if axis not in axes))
    draft.put(step, made)
