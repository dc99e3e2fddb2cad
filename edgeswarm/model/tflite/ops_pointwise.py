"""Operators that look at each value alone, or at two: ADD, MUL, SUB, DIV, activations, QUANTIZE and DEQUANTIZE.

8-bit activations become tables (`tables.py`).  Shapes broadcast as numpy's: both operands get the axes of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.errors import ModelError
from edgeswarm.limits import TFLITE_FOLDED_VALUES_MAX
from edgeswarm.model.nodes import Tensor
from edgeswarm.model.tflite import tables
from edgeswarm.model.tflite.fused import FLOAT, activation, bounds, clamp
from edgeswarm.model.tflite.site import QUANTISED, Site, rows_shape, steps_of

SHARE, HALF_SHARE = 1 / 256, 1 / 128


def _paired(site: Site) -> tuple[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shape of the result, with all axes, and both operands' axes in the graph."""
    a, b = site.shape(0), site.shape(1)
    try:
        out = np.broadcast_shapes(a, b)
    except ValueError:
        raise ModelError(f"inputs: expected shapes that broadcast, found {list(a)} and {list(b)}") from None
    aligned = [(1,) * (len(out) - len(shape)) + tuple(shape) for shape in (a, b)]
    gone = len(out) - len(rows_shape(out)) if out else 0
    first, second = (shape[gone:] or (1,) for shape in aligned)
    return out, (first, second)


def _pair(op: str, whole: Callable[[Any, Any], Any]) -> Callable[[Site], None]:
    """ADD or MUL.  whole: of whole numbers, which are shapes and known while importing."""

    def convert(site: Site) -> None:
        if _folded(site, whole):
            return
        out, (first, second) = _paired(site)
        if site.dtype(0) == "i8":
            read = [site.operand(0, first, "i8"), site.operand(1, second, "i8")]
            site.write(site.add(f"{op}_i8", read, like=site.like(), **clamp(site)), out)
        else:
            read = [site.operand(0, first, "f32"), site.operand(1, second, "f32")]
            site.write(site.add(op, read, activation=activation(site)), out)

    return convert


def _folded(site: Site, whole: Callable[[Any, Any], Any]) -> bool:
    """Whether both operands are known whole numbers; then the result is, too."""
    a, b = site.known(0), site.known(1)
    if a is None or b is None or site.dtype(0) not in ("i32", "i64"):
        return False
    if max(a.size, b.size) > TFLITE_FOLDED_VALUES_MAX:
        raise ModelError(f"inputs: expected few whole numbers, found {a.size} and {b.size}")
    with np.errstate(all="ignore"):
        site.fold(np.asarray(whole(a, b)).astype(a.dtype))
    return True


def sub(site: Site) -> None:
    """a - b as a + (-b), which is the same float32, and the same 8 bits."""
    if _folded(site, np.subtract):
        return None
    out, (first, second) = _paired(site)
    if site.dtype(0) == "i8":
        scale, point = steps_of(site.tensor(1), site.name(1))
        like = Tensor((1,), "i8", scale, -1 - point)
        minus = site.add("lookup_i8", [site.operand(1, second, "i8")], {"table": tables.negated()}, like=like)
        read = [site.operand(0, first, "i8"), minus]
        return site.write(site.add("add_i8", read, like=site.like(), **clamp(site)), out)
    known = site.known(1)
    if known is not None and site.dtype(1) == "f32":
        negative = site.make_constant(-known, Tensor(second))
    else:
        minus = site.make_constant(np.array(-1.0), Tensor((1,) * len(second)))
        negative = site.add("mul", [site.operand(1, second, "f32"), minus], activation="linear")
    read = [site.operand(0, first, "f32"), negative]
    return site.write(site.add("add", read, activation=activation(site)), out)


def div(site: Site) -> None:
    """By a constant, as a product with its inverse: the last bit of float32 may differ."""
    out, (first, second) = _paired(site)
    known = site.constant(1, "a divisor", "f32")
    with np.errstate(all="ignore"):
        inverse = np.float32(1) / known
    if not np.isfinite(inverse).all():
        raise ModelError(f"{site.name(1)}: expected divisors whose inverses are numbers, found others")
    read = [site.operand(0, first, "f32"), site.make_constant(inverse, Tensor(second))]
    site.write(site.add("mul", read, activation=activation(site)), out)


def rectified(kind: str) -> Callable[[Site], None]:
    """RELU, RELU6, RELU_N1_TO_1 as operators of their own."""

    def convert(site: Site) -> None:
        if site.dtype(0) == "i8":
            read, written = steps_of(site.tensor(0), site.name(0)), site.steps()
            limits = bounds(kind, *written)
            _lookup(site, tables.clipped(read, written, limits["low"], limits["high"]))
        else:
            site.write(site.add("elementwise", [site.read(0, "f32")], activation=FLOAT[kind]), site.shape(0))

    return convert


def _curve(
    name: str, table: Callable[[tuple[float, int]], NDArray[np.int8]] | None, steps: tuple[float, int]
) -> Callable[[Site], None]:
    """An activation whose 8-bit form writes a fixed scale and zero point."""

    def convert(site: Site) -> None:
        if site.dtype(0) == "i8" and table is not None:
            if site.steps() != steps:
                raise ModelError(
                    f"{site.output_name(0)}: expected scale 1/{round(1 / steps[0])} and zero point {steps[1]}, "
                    f"found {site.steps()}"
                )
            _lookup(site, table(steps_of(site.tensor(0), site.name(0))))
        else:
            site.write(site.add("elementwise", [site.read(0, "f32")], activation=name), site.shape(0))

    return convert


def leaky_relu(site: Site) -> None:
    slope = float(site.option("Alpha"))
    if not math.isfinite(slope):
        raise ModelError(f"alpha: expected a number, found {slope}")
    if site.dtype(0) == "i8":
        _lookup(site, tables.leaky(steps_of(site.tensor(0), site.name(0)), site.steps(), slope))
    else:
        site.write(site.add("leaky", [site.read(0, "f32")], slope=slope), site.shape(0))


def prelu(site: Site) -> None:
    """x above 0, slope * x below: relu(x) - slope * relu(-x)."""
    out, (first, second) = _paired(site)
    if site.dtype(0) == "i8":
        return _prelu_i8(site, out, first, second)
    slopes = site.constant(1, "slopes", "f32")
    x = site.operand(0, first, "f32")
    above = site.add("elementwise", [x], activation="relu")
    minus = site.make_constant(np.array(-1.0), Tensor((1,) * len(first)))
    below = site.add("mul", [x, minus], activation="relu")
    below = site.add("mul", [below, site.make_constant(-slopes, Tensor(second))], activation="linear")
    return site.write(site.add("add", [above, below], activation="linear"), out)


def _prelu_i8(site: Site, out: Sequence[int], first: Sequence[int], second: Sequence[int]) -> None:
    """The same: one of both parts is 0, and a sum of equal scales is exact."""
    site.constant(1, "slopes", "i8")
    read, written = steps_of(site.tensor(0), site.name(0)), site.steps()
    free: dict[str, Any] = {"low": -128, "high": 127}
    x = site.operand(0, first, "i8")
    above = site.add("lookup_i8", [x], {"table": tables.clipped(read, written, written[1], 127)}, like=site.like())
    held = np.minimum(tables.ALL, read[1]).astype(np.int8)
    below = site.add("lookup_i8", [x], {"table": held}, like=Tensor((1,), "i8", *read))
    below = site.add("mul_i8", [below, site.operand(1, second, "i8")], like=site.like(), **free)
    site.write(site.add("add_i8", [above, below], like=site.like(), **free), out)


def extreme(sign: int) -> Callable[[Site], None]:
    """MAXIMUM (1) and MINIMUM (-1): b +- relu(+-(a - b)); of 8 bits with one constant, as a table."""

    def convert(site: Site) -> None:
        out, (first, second) = _paired(site)
        if site.dtype(0) == "i8":
            return _extreme_i8(site, sign)
        minus = site.make_constant(np.array(-1.0), Tensor((1,) * len(first)))
        a, b = site.operand(0, first, "f32"), site.operand(1, second, "f32")
        low, high = (b, a) if sign > 0 else (a, b)
        apart = site.add("mul", [low, minus], activation="linear")
        apart = site.add("add", [high, apart], activation="relu")
        if sign < 0:
            apart = site.add("mul", [apart, minus], activation="linear")
        return site.write(site.add("add", [b, apart], activation="linear"), out)

    return convert


def _extreme_i8(site: Site, sign: int) -> None:
    i = 0 if site.known(0) is None else 1
    bound = site.constant(1 - i, "a bound", "i8")
    steps = {steps_of(site.tensor(0), site.name(0)), steps_of(site.tensor(1), site.name(1)), site.steps()}
    if bound.size != 1 or len(steps) != 1:
        raise ModelError("expected one bound, and one scale and zero point for all beside 8 bits, found others")
    table = (np.maximum if sign > 0 else np.minimum)(tables.ALL, int(bound.ravel()[0])).astype(np.int8)
    at = site.add("lookup_i8", [site.read(i, "i8")], {"table": table}, like=site.like())
    site.write(at, site.shape(i))


def hard_swish(site: Site) -> None:
    """x * relu6(x + 3) / 6."""
    if site.dtype(0) == "i8":
        return _lookup(site, tables.hard_swish(steps_of(site.tensor(0), site.name(0)), site.steps()))
    x = site.read(0, "f32")
    one = (1,) * len(site.graph_tensor(x).shape)
    three, sixth = (site.make_constant(np.array(value), Tensor(one)) for value in (3.0, 1 / 6))
    gate = site.add("add", [x, three], activation="relu6")
    product = site.add("mul", [x, gate], activation="linear")
    return site.write(site.add("mul", [product, sixth], activation="linear"), site.shape(0))


def gelu(site: Site) -> None:
    approximate = site.op.options is not None and bool(site.option("Approximate"))
    if site.dtype(0) == "i8":
        read = steps_of(site.tensor(0), site.name(0))
        return _lookup(site, tables.gelu(read, site.steps(), approximate=approximate))
    if approximate:
        raise ModelError("approximate: expected the exact form, found the one with tanh; convert without it")
    return site.write(site.add("elementwise", [site.read(0, "f32")], activation="gelu"), site.shape(0))


def quantize(site: Site) -> None:
    said = site.out
    if said.dtype not in QUANTISED:
        raise ModelError(f"{site.output_name(0)}: expected i8, found {said.dtype}; convert it to float32 or full int8")
    written = steps_of(said, site.output_name(0))
    if site.dtype(0) == "f32":
        at = site.add("affine_quantize", [site.read(0, "f32")], like=Tensor((1,), "i8", *written))
        return site.write(at, site.shape(0))
    read = steps_of(site.tensor(0), site.name(0))
    if read == written:
        return site.write(site.read(0, *QUANTISED), site.shape(0))
    return _lookup(site, tables.requantized(read, written))


def dequantize(site: Site) -> None:
    """Constants of float16 or 8 bits become float32 here, and nothing is left of them."""
    known, tensor = site.known(0), site.tensor(0)
    if known is None:
        return site.write(site.add("dequantize", [site.read(0, *QUANTISED)]), site.shape(0))
    if tensor.dtype == "f16":
        site.take(4 * known.size)
        return site.fold(known.astype(np.float32))
    if tensor.dtype not in QUANTISED:
        raise ModelError(f"{site.name(0)}: expected f16 or 8 bits, found {tensor.dtype}")
    site.take(4 * known.size)
    scales, points = tensor.scales, tensor.zero_points
    if len(scales) == 1:
        scale, point = np.float32(scales[0]), int(points[0]) if len(points) else 0
        return site.fold(((known.astype(np.int32) - point) * scale).astype(np.float32))
    axis = site.axis(tensor.axis, known.ndim)
    if len(scales) != known.shape[axis] or points.any():
        raise ModelError(f"{site.name(0)}: expected one scale for each of {known.shape[axis]}, found {len(scales)}")
    return site.fold((known * scales.reshape([-1 if i == axis else 1 for i in range(known.ndim)])).astype(np.float32))


def _lookup(site: Site, table: NDArray[np.int8]) -> None:
    steps = steps_of(site.out, site.output_name(0))
    at = site.add("lookup_i8", [site.read(0, *QUANTISED)], {"table": table}, like=Tensor((1,), "i8", *steps))
    site.write(at, site.shape(0))


OPERATORS: dict[str, Callable[[Site], None]] = {
    "ADD": _pair("add", np.add),
    "DEQUANTIZE": dequantize,
    "DIV": div,
    "GELU": gelu,
    "HARD_SWISH": hard_swish,
    "LEAKY_RELU": leaky_relu,
    "LOGISTIC": _curve("sigmoid", tables.logistic, (SHARE, -128)),
    "MAXIMUM": extreme(1),
    "MINIMUM": extreme(-1),
    "MUL": _pair("mul", np.multiply),
    "PRELU": prelu,
    "QUANTIZE": quantize,
    "RELU": rectified("RELU"),
    "RELU6": rectified("RELU6"),
    "RELU_N1_TO_1": rectified("RELU_N1_TO_1"),
    "SUB": sub,
    "TANH": _curve("tanh", tables.tanh, (HALF_SHARE, 0)),
}
