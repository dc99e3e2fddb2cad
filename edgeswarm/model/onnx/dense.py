"""Dense layers of ONNX (Gemm, MatMul), and scales and shifts that join them.

Weights that meet a flattened image are put into the order in which the image lies, so that nothing is transposed.
Source: the ONNX operator specification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgeswarm.errors import ModelError
from edgeswarm.model.onnx.draft import Draft, Held, Numbers, plain, rows_only, size_of
from edgeswarm.model.onnx.file import Step
from edgeswarm.model.onnx.reading import float_attr, floats_input, single, whole_attr

LINEAR = ("conv2d", "depthwise", "dense")
"""Operators that a scale and a shift of their channels can be folded into."""


def gemm(draft: Draft, step: Step) -> None:
    """Gemm: alpha * x @ weights + beta * bias."""
    value = draft.held(step, 0)
    if whole_attr(step, "transA", 0):
        raise ModelError("transA: expected 0, for rows do not mix, found 1")
    weights = floats_input(draft, step, 1, "weights", 2) * float_attr(step, "alpha", 1.0)
    transposed = bool(whole_attr(step, "transB", 0))
    weights = weights.T if transposed else weights
    bias = np.zeros(weights.shape[1])
    if draft.given(step, 2):
        found = rows_only(draft.numbers(step, 2, "bias"), 1, "bias")
        if found.size not in (1, weights.shape[1]):
            raise ModelError(f"bias: expected {weights.shape[1]} numbers, found {found.size}")
        bias = bias + found.astype(np.float64) * float_attr(step, "beta", 1.0)
    if value.rank != 1:
        raise ModelError(f"expected one axis besides the batch, found {list(value.shape)}; Flatten makes one")
    made = layer(draft, value, weights, bias, whole=step.inputs[1] in draft.folded)
    if float_attr(step, "alpha", 1.0) == 1.0:
        keep_whole(draft, step, made.tensor, lambda whole: in_place(value, whole.T if transposed else whole))
    draft.put(step, made)


def matmul(draft: Draft, step: Step) -> None:
    """MatMul of rows with numbers of the file; over all places alike where a row has further axes."""
    first, second = draft.value(step, 0), draft.value(step, 1)
    if isinstance(first, Held) and isinstance(second, Held):
        raise ModelError("expected weights that are numbers of the file, found two that rows decide (attention?)")
    if not isinstance(first, Held):
        raise ModelError("expected the rows first and the weights second, found the reverse")
    weights = floats_input(draft, step, 1, "weights")
    if weights.ndim < 2 or size_of(weights.shape[:-2]) != 1:
        raise ModelError(f"weights: expected two axes, found {list(weights.shape)}")
    weights = weights.reshape(weights.shape[-2], weights.shape[-1])
    bias = np.zeros(weights.shape[1])
    if first.rank == 1:
        made = layer(draft, first, weights, bias, whole=step.inputs[1] in draft.folded)
        keep_whole(draft, step, made.tensor, lambda whole: in_place(first, whole.reshape(weights.shape)))
    else:
        made = _pointwise(draft, first, weights, bias)
    draft.put(step, made)


def layer(draft: Draft, value: Held, weights: Numbers, bias: Numbers, *, whole: bool = False) -> Held:
    """value @ weights + bias for a value of one axis; weights, bias: float64.

    whole: whether the weights were made of whole numbers that are still wanted, and so must stay what they are.
    """
    if value.rank != 1 or weights.shape[0] != value.shape[0] or not weights.shape[1]:
        raise ModelError(f"weights: expected {list(value.shape)} rows of at least one, found {list(weights.shape)}")
    if not whole:
        value, weights, bias = _behind(draft, value, weights, bias)
    flat = draft.reshaped(value.tensor, value.shape)
    params = {"weights": in_place(value, single(weights, "weights")), "bias": single(bias, "bias")}
    made = draft.add("dense", [flat], params, units=weights.shape[1], activation="linear")
    return draft.fresh(made, (0,))


def _behind(draft: Draft, value: Held, weights: Numbers, bias: Numbers) -> tuple[Held, Numbers, Numbers]:
    """Numbers that a row is multiplied with, or that are added to it, go into the layer behind."""
    while value.base == value.shape and value.sole and (node := draft.node_of(value.tensor)) is not None:
        read = [draft.node_of(at) for at in node.inputs]
        if node.op not in ("mul", "add") or node.attrs["activation"] != "linear":
            break
        if read[1] is None or read[1].op != "constant" or draft.shape_of(node.inputs[0]) != value.shape:
            break
        numbers = np.broadcast_to(read[1].params["value"].astype(np.float64), value.shape)
        if node.op == "mul":
            weights = weights * numbers[:, None]
        else:
            bias = bias + numbers @ weights
        value = replace(value, tensor=node.inputs[0])
    return value, weights, bias


def in_place(value: Held, weights: Numbers) -> Numbers:
    """Weights [inputs, units] in the order in which the value lies: a reshaped image is not transposed back."""
    if value.base == value.shape:
        return np.ascontiguousarray(weights)
    apart = weights.reshape(*value.base, weights.shape[1])
    return np.ascontiguousarray(apart.transpose(*value.order, len(value.base)).reshape(weights.shape))


def _pointwise(draft: Draft, value: Held, weights: Numbers, bias: Numbers) -> Held:
    """A dense layer at each place: a convolution with a kernel of 1."""
    if value.rank not in (2, 3) or weights.shape[0] != value.shape[-1]:
        raise ModelError(f"weights: expected {value.shape[-1:]} rows for {list(value.shape)}, found {weights.shape[0]}")
    tensor = draft.in_order(value, plain(value.rank))
    shape = draft.shape_of(tensor)
    tensor = draft.reshaped(tensor, (1,) * (3 - len(shape)) + shape)
    params = {"weights": single(weights, "weights")[None, None], "bias": single(bias, "bias")}
    once = {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "pad": (0, 0, 0, 0)}
    made = draft.add("conv2d", [tensor], params, filters=weights.shape[1], activation="linear", **once)
    made = draft.reshaped(made, (*shape[:-1], weights.shape[1]))
    return draft.fresh(made, plain(value.rank))


def keep_whole(draft: Draft, step: Step, tensor: int, layout: Callable[[Numbers], Numbers]) -> None:
    """Remember the int8 numbers that weights were made of, so that a QuantizeLinear behind can use them.

    layout: of the weights as the file has them to those of the node that makes `tensor`.
    """
    if (folded := draft.folded.get(step.inputs[1])) is not None and not folded[2].any():
        whole, scales, _ = folded
        draft.quantised[tensor] = (layout(whole), scales)


# --- scales and shifts


def affine(draft: Draft, value: Held, scale: Numbers | None, shift: Numbers | None) -> Held:
    """value * scale + shift; both float32 with value.rank axes (of 1 where they are repeated), None: 1 or 0.

    Folded into the layer that makes the value where that has no activation, nobody else reads it, and the numbers
    differ by channel alone.
    """
    folded = _folded(draft, value, scale, shift)
    if folded:
        return value
    value, scale, shift = _peeled(draft, value, scale, shift)
    for op, numbers in (("mul", scale), ("add", shift)):
        if numbers is None or (numbers == (1 if op == "mul" else 0)).all():
            continue
        value = _with_constant(draft, value, op, numbers)
    return value


def _peeled(
    draft: Draft, value: Held, scale: Numbers | None, shift: Numbers | None
) -> tuple[Held, Numbers | None, Numbers | None]:
    """What a value was before it was scaled and shifted, and all scales and shifts as one."""
    for numbers in (scale, shift):
        sides = () if numbers is None else zip(numbers.shape, value.shape, strict=False)
        if numbers is not None and any(a != b and 1 not in (a, b) for a, b in sides):
            raise ModelError(
                f"expected shapes that are equal but for axes of 1, found {list(value.shape)} and {list(numbers.shape)}"
            )
    at = value
    while at.sole and at.base == at.shape and (node := draft.node_of(at.tensor)) is not None:
        if node.op not in ("mul", "add") or node.attrs["activation"] != "linear":
            break
        constant = draft.node_of(node.inputs[1])
        if constant is None or constant.op != "constant" or draft.shape_of(node.inputs[0]) != draft.shape_of(at.tensor):
            break
        held = constant.params["value"].astype(np.float64).transpose(np.argsort(at.order))
        if node.op == "add":
            more = held if scale is None else held * scale
            shift = single(more if shift is None else more + shift, "shift")
        else:
            scale = single(held if scale is None else held * scale, "scale")
        at = replace(at, tensor=node.inputs[0])
    return (replace(at, sole=False) if at is not value else value), scale, shift  # others may read what was below


def _with_constant(draft: Draft, value: Held, op: str, numbers: Numbers) -> Held:
    if value.shape == ():
        made = draft.add(op, [draft.in_order(value, ()), draft.constant(numbers.reshape(1), (0,))], activation="linear")
        return Held((), made, (), (), True)
    if value.base != value.shape:
        tensor, order = draft.in_order(value, plain(value.rank)), plain(value.rank)
    else:
        tensor, order = value.tensor, value.order
    made = draft.add(op, [tensor, draft.constant(numbers, order)], activation="linear")
    return draft.fresh(made, order)


def _folded(draft: Draft, value: Held, scale: Numbers | None, shift: Numbers | None) -> bool:
    if value.base != value.shape or not value.rank:
        return False
    maker = draft.maker(value, LINEAR, keep_last=True)
    if maker is None:
        return False
    channel, found = value.order[-1], []
    for numbers, default in ((scale, 1.0), (shift, 0.0)):
        numbers = np.full((1,) * value.rank, default) if numbers is None else numbers
        if numbers.size != numbers.shape[channel] or numbers.size not in (1, value.shape[channel]):
            return False  # not by channel alone, or it makes the value larger
        found.append(np.broadcast_to(numbers.reshape(-1).astype(np.float64), value.shape[channel]))
    node = draft.node_of(maker)
    assert node is not None
    weights, bias = (node.params[name].astype(np.float64) for name in ("weights", "bias"))
    held = {
        "weights": single(weights * found[0], "weights times scale"),
        "bias": single(bias * found[0] + found[1], "bias"),
    }
    draft.rewrite(maker, params=held)
    if scale is not None and (found[0] != 1).any():
        draft.quantised.pop(maker, None)
    return True


def batch_normalization(draft: Draft, step: Step) -> None:
    """BatchNormalization as it is once trained: (x - mean) / sqrt(variance + epsilon) * scale + shift, by channel."""
    value = draft.held(step, 0)
    if whole_attr(step, "training_mode", 0) or any(name and draft.uses[name] for name in step.outputs[1:]):
        raise ModelError("training_mode: expected 0, a model that is trained, found 1; export it in eval mode")
    if value.rank < 1:
        raise ModelError("expected channels besides the batch, found none")
    scale, shift, mean, variance = (
        floats_input(draft, step, index, name, 1)
        for index, name in enumerate(("scale", "bias", "mean", "variance"), start=1)
    )
    if {len(scale), len(shift), len(mean), len(variance)} != {value.shape[0]}:
        raise ModelError(f"expected {value.shape[0]} numbers of each, one a channel, found others")
    spread = variance + float_attr(step, "epsilon", 1e-5)
    if not (spread > 0).all():
        raise ModelError("variance: expected numbers above -epsilon, found others")
    scale = scale / np.sqrt(spread)
    shape = (value.shape[0], *(1,) * (value.rank - 1))
    held = single(scale, "scale").reshape(shape), single(shift - mean * scale, "shift").reshape(shape)
    draft.put(step, affine(draft, value, *held))
