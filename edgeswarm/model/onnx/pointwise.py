"""Operators of ONNX that take values one by one, or pairs of them: activations, Clip, Softmax, Add, Sub, Mul, Div.

Where the operator in front has no activation yet and nobody else reads it, it takes this one.  Source: the ONNX
operator specification.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edgeswarm.errors import ModelError
from edgeswarm.model.nodes import Attr
from edgeswarm.model.onnx.dense import affine
from edgeswarm.model.onnx.draft import Draft, Held, Numbers, plain, row_axis, rows_only
from edgeswarm.model.onnx.file import Step
from edgeswarm.model.onnx.reading import float_attr, scalar_input, text_attr, whole_attr

FUSED = ("conv2d", "depthwise", "dense", "add", "mul", "average_pool", "max_pool")
"""Operators with an activation of their own."""

_NAMES = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}


def _each(draft: Draft, value: Held, op: str, **attrs: Attr) -> Held:
    """An operator on each value, in whatever order they lie."""
    return replace(value, tensor=draft.add(op, [value.tensor], **attrs), sole=True)


def activated(draft: Draft, value: Held, name: str) -> Held:
    """The activation `name` of a value: a part of the node that makes it where that can be."""
    maker = draft.maker(value, FUSED, keep_last=False)
    if maker is not None:
        draft.rewrite(maker, activation=name)
        return value
    return _each(draft, value, "elementwise", activation=name)


def activation(draft: Draft, step: Step) -> None:
    """Relu, Sigmoid, Tanh."""
    draft.put(step, activated(draft, draft.held(step, 0), _NAMES[step.op]))


def leaky_relu(draft: Draft, step: Step) -> None:
    """LeakyRelu: below 0, alpha * x."""
    draft.put(step, _each(draft, draft.held(step, 0), "leaky", slope=float_attr(step, "alpha", 0.01)))


def gelu(draft: Draft, step: Step) -> None:
    """Gelu in its exact form."""
    if (kind := text_attr(step, "approximate", "none")) != "none":
        raise ModelError(f"approximate: expected none, found {kind[:40]!r}")
    draft.put(step, activated(draft, draft.held(step, 0), "gelu"))


def prelu(draft: Draft, step: Step) -> None:
    """PRelu: below 0, slope * x, a slope for all or for each channel: relu(x) - slope * relu(-x)."""
    value, slope = draft.held(step, 0), _met(draft.held(step, 0), draft.numbers(step, 1, "slope"))
    if slope.size == 1:
        draft.put(step, _each(draft, value, "leaky", slope=float(slope.reshape(()))))
        return
    value = replace(value, sole=False)  # it is read twice
    below = activated(draft, affine(draft, value, _scalar(value, -1.0), None), "relu")
    draft.put(step, _pair(draft, "add", activated(draft, value, "relu"), affine(draft, below, -slope, None)))


def clip(draft: Draft, step: Step) -> None:
    """Clip: bounds as attributes or as numbers of the file."""
    bounds = []
    for index, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        found = scalar_input(draft, step, index, name)
        if found is None:
            found = float_attr(step, name, 0.0) if name in step.attrs else default
        bounds.append(found)
    draft.put(step, clipped(draft, draft.held(step, 0), *bounds))


def clipped(draft: Draft, value: Held, low: float, high: float) -> Held:
    """The value within low and high."""
    if not low < high:
        raise ModelError(f"expected a lower bound below the upper, found {low} and {high}")
    if low >= -3.4e38 and high <= 3.4e38:
        if (low, high) in _BOUNDED:
            return activated(draft, value, _BOUNDED[low, high])
        by = (high - low) / 6  # any two bounds, with a rounding of float32 each way
        moved = affine(draft, value, _scalar(value, 1 / by), _scalar(value, -low / by))
        return affine(draft, activated(draft, moved, "relu6"), _scalar(value, by), _scalar(value, low))
    if high > 3.4e38 and low >= -3.4e38:
        moved = affine(draft, value, None, _scalar(value, -low)) if low else value
        made = activated(draft, moved, "relu")
        return affine(draft, made, None, _scalar(value, low)) if low else made
    if low < -3.4e38 and high <= 3.4e38:  # min(x, high) = high - relu(high - x)
        moved = affine(draft, value, _scalar(value, -1.0), _scalar(value, high))
        return affine(draft, activated(draft, moved, "relu"), _scalar(value, -1.0), _scalar(value, high))
    return value


_BOUNDED = {(0.0, 6.0): "relu6", (0.0, 1.0): "linear_piece", (-1.0, 1.0): "linear_piece_symmetric"}


def _scalar(value: Held, number: float) -> Numbers:
    return np.full((1,) * value.rank, number, np.float32)


def hard_sigmoid(draft: Draft, step: Step) -> None:
    """HardSigmoid: alpha * x + beta within 0 and 1."""
    value = draft.held(step, 0)
    alpha, beta = float_attr(step, "alpha", 0.2), float_attr(step, "beta", 0.5)
    draft.put(step, clipped(draft, affine(draft, value, _scalar(value, alpha), _scalar(value, beta)), 0.0, 1.0))


def hard_swish(draft: Draft, step: Step) -> None:
    """HardSwish: x * hard_sigmoid(x) with 1/6 and 1/2."""
    value = replace(draft.held(step, 0), sole=False)  # it is read twice
    gate = clipped(draft, affine(draft, value, _scalar(value, 1 / 6), _scalar(value, 0.5)), 0.0, 1.0)
    draft.put(step, _pair(draft, "mul", value, gate))


def softmax(draft: Draft, step: Step) -> None:
    """Softmax over one axis; before opset 13 over all axes from `axis` on."""
    value, old = draft.held(step, 0), draft.file.opset < 13
    axis = row_axis(whole_attr(step, "axis", 1 if old else -1), value.rank)
    if old and axis < value.rank - 1:
        if axis:
            raise ModelError(f"axis: expected the last or, over a whole row, 1 before opset 13, found {axis + 1}")
        flat = draft.reshaped(draft.in_order(value, plain(value.rank)), (math.prod(value.shape),))
        made = draft.reshaped(draft.add("softmax", [flat], beta=1.0), value.shape)
        draft.put(step, draft.fresh(made, plain(value.rank)))
        return
    if value.rank == 1:
        draft.put(step, softmaxed(draft, value))
        return
    order = value.order
    if value.base != value.shape or order[-1] != axis:
        order = (*(other for other in range(value.rank) if other != axis), axis)
    draft.put(step, draft.fresh(draft.add("softmax", [draft.in_order(value, order)], beta=1.0), order))


def softmaxed(draft: Draft, value: Held) -> Held:
    """Softmax of a value of one axis; a dense layer has it as its activation, for many rows at once."""
    maker = draft.maker(value, ("dense",), keep_last=True) if value.base == value.shape else None
    if maker is not None and draft.shape_of(maker) == value.shape:
        draft.rewrite(maker, activation="softmax")
        return value
    return draft.fresh(draft.add("softmax", [draft.in_order(value, (0,))], beta=1.0), (0,))


# --- pairs


def pair(draft: Draft, step: Step) -> None:
    """Add, Sub, Mul, Div: of two values that rows decide, or of one and numbers of the file."""
    first, second = draft.value(step, 0), draft.value(step, 1)
    if isinstance(first, Held) and isinstance(second, Held):
        draft.put(step, _two(draft, step.op, first, second))
    elif isinstance(first, Held) and not isinstance(second, Held):
        draft.put(step, _with(draft, step.op, first, second))
        _on_grid(draft, step, 1)
    elif isinstance(second, Held) and not isinstance(first, Held):
        draft.put(step, _after(draft, step.op, first, second))
        _on_grid(draft, step, 0)
    else:
        raise ModelError(f"expected two inputs, found {len(step.inputs)}")


def _on_grid(draft: Draft, step: Step, index: int) -> None:
    """Remember that the numbers, input `index` of an Add or Mul, were of 8 bits."""
    folded, made = draft.folded.get(step.inputs[index]), draft.values[step.outputs[0]]
    if folded is None or folded[1].size != 1 or step.op not in ("Add", "Mul") or not isinstance(made, Held):
        return
    node = draft.node_of(made.tensor)
    if node is not None and node.op == step.op.lower() and len(node.inputs) == 2:
        draft.on_grid[node.inputs[1]] = (float(np.float32(folded[1][0])), int(folded[2][0]))


def _two(draft: Draft, op: str, first: Held, second: Held) -> Held:
    if op == "Div":
        raise ModelError("expected a divisor that is numbers of the file, found values that rows decide")
    if op == "Sub":
        second = affine(draft, second, _scalar(second, -1.0), None)
    return _pair(draft, "add" if op in ("Add", "Sub") else "mul", first, second)


def _pair(draft: Draft, op: str, first: Held, second: Held) -> Held:
    """Both in the order of the one that has the file's shape as it lies, else in the file's own."""
    rank = max(first.rank, second.rank, 1)
    whole = [value for value in (first, second) if value.base == value.shape and value.rank == rank]
    order = whole[0].order if whole else plain(rank)
    tensors = []
    for value in (first, second):
        if value.rank == rank:
            tensors.append(draft.in_order(value, order))
        else:  # axes of 1 in front
            tensor = draft.in_order(value, plain(value.rank))
            wide = draft.reshaped(tensor, (1,) * (rank - value.rank) + value.shape)
            tensors.append(draft.in_order(draft.fresh(wide, plain(rank)), order))
    made = draft.add(op, tensors, activation="linear")
    return draft.fresh(made, order)


def _with(draft: Draft, op: str, value: Held, found: Numbers) -> Held:
    """value op numbers."""
    numbers = _met(value, found)
    if op == "Div":
        if not numbers.all():
            raise ModelError("expected a divisor without 0, found one")
        numbers = (1 / numbers.astype(np.float64)).astype(np.float32)
    if op in ("Add", "Sub"):
        return affine(draft, value, None, numbers if op == "Add" else -numbers)
    return affine(draft, value, numbers, None)


def _after(draft: Draft, op: str, found: Numbers, value: Held) -> Held:
    """numbers op value."""
    if op == "Div":
        raise ModelError("expected a divisor that is numbers of the file, found values that rows decide")
    if op != "Sub":
        return _with(draft, op, value, found)
    numbers = _met(value, found)
    return affine(draft, value, _scalar(value, -1.0), numbers)


def _met(value: Held, found: Numbers) -> Numbers:
    """The numbers with as many axes as the value that they meet."""
    numbers = rows_only(found, value.rank, "numbers")
    if not np.isfinite(numbers).all():
        raise ModelError("numbers: expected finite ones, found NaN or infinity")
    return numbers


def several(draft: Draft, step: Step) -> None:
    """Sum, Max, Min of any number of values: two by two.  max(a, b) = b + relu(a - b)."""
    made = draft.value(step, 0)
    for index in range(1, len(step.inputs)):
        other = draft.value(step, index)
        if not isinstance(made, Held):
            made, other = other, made
        if not isinstance(made, Held):
            raise ModelError("expected values that rows decide first, found numbers of the file twice")
        made = _plus(draft, made, other) if step.op == "Sum" else _extreme(draft, step.op, made, other)
    draft.put(step, made)


def _plus(draft: Draft, value: Held, other: Held | Numbers) -> Held:
    if isinstance(other, Held):
        return _pair(draft, "add", value, other)
    return affine(draft, value, None, _met(value, other))


def _extreme(draft: Draft, op: str, value: Held, other: Held | Numbers) -> Held:
    """b + relu(a - b), or with all signs turned."""
    sign = 1.0 if op == "Max" else -1.0
    if not isinstance(other, Held):
        numbers = _met(value, other)
        moved = affine(draft, value, _scalar(value, sign), -sign * numbers)
        return affine(draft, activated(draft, moved, "relu"), _scalar(value, sign), numbers)
    first, second = replace(value, sole=False), replace(other, sole=False)  # the second is read twice
    minus = affine(draft, second, _scalar(second, -1.0), None)
    apart = _pair(draft, "add", first, minus)
    apart = affine(draft, apart, _scalar(apart, sign), None)
    apart = affine(draft, activated(draft, apart, "relu"), _scalar(apart, sign), None)
    return _pair(draft, "add", second, apart)


def negate(draft: Draft, step: Step) -> None:
    """Neg."""
    value = draft.held(step, 0)
    draft.put(step, affine(draft, value, _scalar(value, -1.0), None))
