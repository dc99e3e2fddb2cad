"""TFLite files of one operator, or a few: shapes, strides, paddings, scales and zero points by chance.

Each form makes a file's tensors and operators, and says which tensor is read and which is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tflite_files import NONE, RELU, RELU6, RELU_N1_TO_1, SAME, VALID, Net, litert

ROWS = 4


class Case:
    """One file in the making, and the dice."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.net = Net()

    def whole(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def sides(self, count: int, high: int = 7) -> tuple[int, ...]:
        return tuple(self.whole(1, high) for _ in range(count))

    def shape(self) -> tuple[int, ...]:
        return (1, *self.sides(self.whole(1, 3)))

    def scale(self, low: float = -3, high: float = 0) -> float:
        return float(np.float32(10 ** self.random.uniform(low, high)))

    def fused(self) -> int:
        return int(self.random.choice([NONE, RELU, RELU6, RELU_N1_TO_1]))

    def tensor(self, shape: Sequence[int], i8: bool, *, scale: float | None = None, point: int | None = None) -> int:
        if not i8:
            return self.net.tensor(shape)
        steps = {
            "scale": self.scale() if scale is None else scale,
            "zero_point": self.whole(-128, 127) if point is None else point,
        }
        return self.net.tensor(shape, "i8", **steps)

    def like(self, shape: Sequence[int], other: int) -> int:
        """A tensor with the scale and zero point of another."""
        t = self.net.tensors[other]
        return self.net.tensor(shape, t.dtype, scale=t.scale, zero_point=t.zero_point)

    def constant(self, shape: Sequence[int], i8: bool) -> int:
        if i8:
            values = self.random.integers(-128, 128, shape)
            return self.net.constant(values, "i8", scale=self.scale(), zero_point=self.whole(-128, 127))
        return self.net.constant(self.random.normal(size=shape), "f32")

    def weights(self, shape: Sequence[int], i8: bool, *, read: int, axis: int, channels: int, single: bool = False):
        """Weights and bias."""
        if not i8:
            kernel = self.net.constant(self.random.normal(size=shape), "f32")
            bias = self.net.constant(self.random.normal(size=channels), "f32")
            return [kernel, bias]
        scales = np.array([self.scale() for _ in range(1 if single else channels)], np.float32).astype(np.float64)
        held = self.random.integers(-127, 128, shape)
        kernel = self.net.constant(held, "i8", scale=scales, axis=axis)
        products = scales * self.net.tensors[read].scale[0]
        bias = self.net.constant(self.random.integers(-20000, 20000, channels), "i32", scale=products)
        return [kernel, bias]


def rows_of(net: Net, source: int, seed: int = 0, count: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Random rows as the file takes them, and as a host gives them; of 8 bits the whole range."""
    dice, tensor = np.random.default_rng(seed), net.tensors[source]
    if tensor.dtype in ("i8", "u8"):
        low = -128 if tensor.dtype == "i8" else 0
        held = dice.integers(low, low + 256, (count, *tensor.shape))
        return held, (np.float32(tensor.scale[0]) * (held - tensor.zero_point[0]).astype(np.float32)).reshape(count, -1)
    held = dice.normal(0, 2, (count, *tensor.shape)).astype(np.float32)
    return held, held.reshape(count, -1)


def expected(data: bytes, net: Net, target: int, held: np.ndarray) -> np.ndarray:
    """What LiteRT answers, as whole numbers where the file's output has 8 bits."""
    return litert(data, held).reshape(len(held), -1).astype(np.float64)


def as_held(net: Net, target: int, answers: np.ndarray) -> np.ndarray:
    """A host's answers as the file has them."""
    tensor = net.tensors[target]
    if tensor.dtype not in ("i8", "u8"):
        return answers
    return np.rint(answers / float(np.float32(tensor.scale[0]))) + tensor.zero_point[0]


def window(case: Case, dilated: bool) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, int], tuple[int, ...]]:
    """height, width; kernel; options; what a side becomes."""
    sides, kernel, stride = case.sides(2, 9), case.sides(2, 4), case.sides(2, 3)
    dilation = case.sides(2, 3) if dilated and case.whole(0, 1) else (1, 1)
    if dilation != (1, 1) and max(stride) > 1:
        stride = (1, 1)  # LiteRT has both, converters write one
    spread = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    same = any(s > side for s, side in zip(spread, sides, strict=True)) or bool(case.whole(0, 1))
    options = {"Padding": SAME if same else VALID, "StrideH": stride[0], "StrideW": stride[1]}
    options["FusedActivationFunction"] = case.fused()
    if dilated:
        options |= {"DilationHFactor": dilation[0], "DilationWFactor": dilation[1]}
    out = tuple(
        -(-side // step) if same else (side - wide) // step + 1
        for side, wide, step in zip(sides, spread, stride, strict=True)
    )
    return sides, kernel, options, out


def conv_2d(case: Case, i8: bool) -> tuple[int, int]:
    sides, kernel, options, out = window(case, True)
    cin, filters = case.sides(2)
    x = case.tensor((1, *sides, cin), i8)
    read = case.weights((filters, *kernel, cin), i8, read=x, axis=0, channels=filters, single=not case.whole(0, 2))
    y = case.tensor((1, *out, filters), i8)
    case.net.op("CONV_2D", [x, *read], [y], version=3 if i8 else 1, **options)
    return x, y


def depthwise_conv_2d(case: Case, i8: bool) -> tuple[int, int]:
    sides, kernel, options, out = window(case, True)
    cin, many = case.whole(1, 6), case.whole(1, 3)
    x = case.tensor((1, *sides, cin), i8)
    read = case.weights((1, *kernel, cin * many), i8, read=x, axis=3, channels=cin * many)
    y = case.tensor((1, *out, cin * many), i8)
    case.net.op("DEPTHWISE_CONV_2D", [x, *read], [y], version=3 if i8 else 1, DepthMultiplier=many, **options)
    return x, y


def fully_connected(case: Case, i8: bool) -> tuple[int, int]:
    width, units = case.sides(2, 40)
    rows, keep = case.whole(1, 3), bool(case.whole(0, 1))
    shape = (1, rows, width) if keep else ((1, width) if rows == 1 else (rows, width))
    x = case.tensor(shape, i8)
    read = case.weights((units, width), i8, read=x, axis=0, channels=units, single=True)
    read = read if case.whole(0, 2) else read[:1] if case.whole(0, 1) else [read[0], -1]
    y = case.tensor((*shape[:-1], units), i8, scale=case.scale(-1, 2))
    options = {"FusedActivationFunction": case.fused(), "KeepNumDims": keep}
    case.net.op("FULLY_CONNECTED", [x, *read], [y], version=5 if keep else 4 if i8 else 1, **options)
    return x, y


def pool_2d(case: Case, i8: bool) -> tuple[int, int]:
    sides, kernel, options, out = window(case, False)
    channels = case.whole(1, 6)
    x = case.tensor((1, *sides, channels), i8)
    y = case.like((1, *out, channels), x)
    name = str(case.random.choice(["AVERAGE_POOL_2D", "MAX_POOL_2D"]))
    case.net.op(name, [x], [y], version=2, FilterHeight=kernel[0], FilterWidth=kernel[1], **options)
    return x, y


def pair(case: Case, i8: bool) -> tuple[int, int]:
    """With a constant of fewer axes, or one value, or with itself."""
    shape = case.shape()
    x = case.tensor(shape, i8)
    kind = case.whole(0, 3)
    other = x if kind == 0 else case.constant(shape if kind == 1 else shape[1:] if kind == 2 else (1,), i8)
    y = case.tensor(shape, i8, scale=case.scale(-2, 0))
    name = str(case.random.choice(["ADD", "MUL", "SUB"]))
    read = [x, other] if case.whole(0, 1) else [other, x]
    case.net.op(name, read, [y], version=2 if i8 else 1, FusedActivationFunction=case.fused())
    return x, y


def mean(case: Case, i8: bool) -> tuple[int, int]:
    shape = (1, *case.sides(3))
    axes = sorted({int(a) for a in case.random.integers(0, 4, 2)})
    keep = bool(case.whole(0, 1))
    out = [1 if i in axes else n for i, n in enumerate(shape)]
    out = out if keep else [n for i, n in enumerate(shape) if i not in axes]
    x, y = case.tensor(shape, i8), case.tensor(out, i8)
    written = [a - 4 if case.whole(0, 1) else a for a in axes]
    case.net.op("MEAN", [x, case.net.constant(written)], [y], version=2, KeepDims=keep)
    return x, y


def softmax(case: Case, i8: bool) -> tuple[int, int]:
    shape = case.shape()
    x, y = case.tensor(shape, i8, scale=case.scale(-2, 0)), case.tensor(shape, i8, scale=1 / 256, point=-128)
    case.net.op("SOFTMAX", [x], [y], version=2, Beta=float(case.random.choice([1.0, 0.5])))
    return x, y


def activation(case: Case, i8: bool) -> tuple[int, int]:
    shape = case.shape()
    name = str(case.random.choice(["LOGISTIC", "TANH", "RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "HARD_SWISH"]))
    if i8 and name == "RELU_N1_TO_1":
        name = "RELU6"
    steps = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}.get(name, (None, None))
    x = case.tensor(shape, i8)
    if i8 and name == "HARD_SWISH":  # as converters choose it
        steps = (case.net.tensors[x].scale[0] * case.random.uniform(0.5, 2), None)
    y = case.tensor(shape, i8, scale=steps[0], point=steps[1])
    options = {"Alpha": float(np.float32(case.random.uniform(0, 0.5)))} if name == "LEAKY_RELU" else {}
    case.net.op(name, [x], [y], version=1 if name in ("RELU_N1_TO_1", "HARD_SWISH") else 2, **options)
    return x, y


def reshape(case: Case, i8: bool) -> tuple[int, int]:
    shape = (1, *case.sides(3))
    size = math.prod(shape)
    out = [(1, size), (size,), (shape[1], size // shape[1]), (1, shape[1], size // shape[1]), (1, 1, 1, size)]
    wanted = out[case.whole(0, 4)]
    x = case.tensor(shape, i8)
    y = case.like(wanted, x)
    if case.whole(0, 1):
        case.net.op("RESHAPE", [x], [y], NewShape=[-1, *wanted[1:]])
    else:
        case.net.op("RESHAPE", [x, case.net.constant([*wanted[:-1], -1])], [y])
    return x, y


def squeeze(case: Case, i8: bool) -> tuple[int, int]:
    """And back again, elsewhere."""
    a, b = case.sides(2)
    x = case.tensor((1, a, 1, b), i8)
    dims = [[2], [0, 2], []][case.whole(0, 2)]
    out = (1, a, b) if dims == [2] else tuple(n for n in (a, b) if dims or n != 1)
    middle = case.like(out, x)
    case.net.op("SQUEEZE", [x], [middle], SqueezeDims=dims)
    y = case.like((*out, 1), x)
    case.net.op("EXPAND_DIMS", [middle, case.net.constant([-1] if case.whole(0, 1) else [len(out)])], [y])
    return x, y


def transpose(case: Case, i8: bool) -> tuple[int, int]:
    shape = (1, *case.sides(3, 4))
    perm = [int(i) for i in case.random.permutation(4)]
    x = case.tensor(shape, i8)
    y = case.like([shape[i] for i in perm], x)
    case.net.op("TRANSPOSE", [x, case.net.constant(perm)], [y])
    return x, y


def pad(case: Case, i8: bool) -> tuple[int, int]:
    shape = (1, *case.sides(3))
    pads = np.concatenate([[[0, 0]], case.random.integers(0, 3, (3, 2))])
    x = case.tensor(shape, i8)
    y = case.like([n + int(sum(p)) for n, p in zip(shape, pads, strict=True)], x)
    read = [x, case.net.constant(pads)]
    if case.whole(0, 1):
        t = case.net.tensors[x]
        value = case.net.tensor((1,), t.dtype, data=[case.whole(-9, 9)], scale=t.scale, zero_point=t.zero_point)
        read.append(value)
    case.net.op("PADV2" if len(read) == 3 else "PAD", read, [y], version=2)
    return x, y


def concatenation(case: Case, i8: bool) -> tuple[int, int]:
    shape = (1, *case.sides(3, 4))
    axis = case.whole(0, 3)
    x = case.tensor(shape, i8)
    count = case.whole(2, 4)
    y = case.like([n * count if i == axis else n for i, n in enumerate(shape)], x)
    case.net.op("CONCATENATION", [x] * count, [y], version=2, Axis=axis - 4 if case.whole(0, 1) else axis)
    return x, y


def strided_slice(case: Case, i8: bool) -> tuple[int, int]:
    shape = (1, *case.sides(3, 6))
    begin, end, step, out, masks = [0], [1], [1], [1], [0, 0, 0]
    for axis, side in enumerate(shape[1:], 1):
        start = case.whole(0, side - 1)
        stop, by = case.whole(start + 1, side), case.whole(1, 2)
        kind = case.whole(0, 4)
        if kind < 3:
            masks[kind] |= 1 << axis
        start, stop = (0 if kind == 0 else start), (side if kind == 1 else start + 1 if kind == 2 else stop)
        begin.append(start - side if case.whole(0, 1) else start)
        end.append(stop if stop == side or case.whole(0, 1) else stop - side)
        step.append(1 if kind == 2 else by)
        if kind != 2:
            out.append(len(range(start, stop, step[-1])))
    x = case.tensor(shape, i8)
    y = case.like(out, x)
    read = [x, *(case.net.constant(places) for places in (begin, end, step))]
    case.net.op("STRIDED_SLICE", read, [y], version=2, BeginMask=masks[0], EndMask=masks[1], ShrinkAxisMask=masks[2])
    return x, y


def part(case: Case, i8: bool) -> tuple[int, int]:
    """SLICE, then one half of a SPLIT."""
    a, b, c = case.sides(3, 5)
    x = case.tensor((1, a + 2, b, 2 * c), i8)
    middle, first, second = case.like((1, a, b, 2 * c), x), case.like((1, a, b, c), x), case.like((1, a, b, c), x)
    case.net.op("SLICE", [x, case.net.constant([0, 1, 0, 0]), case.net.constant([1, a, -1, -1])], [middle], version=2)
    case.net.op("SPLIT", [case.net.constant([3]), middle], [first, second], version=2, NumSplits=2)
    return x, second


def packed(case: Case, i8: bool) -> tuple[int, int]:
    """UNPACK along an axis, PACK in another order and place."""
    a, b = case.sides(2)
    x = case.tensor((1, a, 2, b), i8)
    parts = [case.like((1, a, b), x) for _ in range(2)]
    case.net.op("UNPACK", [x], parts, version=2, Num=2, Axis=2)
    axis = case.whole(0, 3)
    y = case.like((*(1, a, b)[:axis], 2, *(1, a, b)[axis:]), x)
    case.net.op("PACK", parts[::-1], [y], version=2, ValuesCount=2, Axis=axis)
    return x, y


def resize(case: Case, i8: bool) -> tuple[int, int]:
    h, w, c = case.sides(3)
    size = case.sides(2, 12)
    x = case.tensor((1, h, w, c), i8)
    y = case.like((1, *size, c), x)
    case.net.op("RESIZE_NEAREST_NEIGHBOR", [x, case.net.constant(size)], [y], version=2)
    return x, y


def requantize(case: Case, i8: bool) -> tuple[int, int]:
    """From 8 bits to others, or to floats and back."""
    shape = case.shape()
    x = case.tensor(shape, i8)
    middle = case.tensor(shape, True, scale=case.scale(-2, -1))
    case.net.op("QUANTIZE", [x], [middle], version=2)
    y = case.net.tensor(shape)
    case.net.op("DEQUANTIZE", [middle], [y], version=2)
    return x, y


def unsigned(case: Case, i8: bool) -> tuple[int, int]:
    """Edges of 8 bits without a sign, as converters write them around an int8 model."""
    shape, scale, point = case.shape(), case.scale(), case.whole(0, 255)
    x = case.net.tensor(shape, "u8", scale=scale, zero_point=point)
    inner = case.net.tensor(shape, "i8", scale=scale, zero_point=point - 128)
    case.net.op("QUANTIZE", [x], [inner], version=2)
    made = case.net.tensor(shape, "i8", scale=1 / 256, zero_point=-128)
    case.net.op("LOGISTIC", [inner], [made], version=2)
    y = case.net.tensor(shape, "u8", scale=1 / 256, zero_point=0)
    case.net.op("QUANTIZE", [made], [y], version=2)
    return x, y


def smooth(case: Case, i8: bool) -> tuple[int, int]:
    """HARD_SWISH, PRELU, DIV and GELU, in float."""
    shape = (1, *case.sides(3))
    x, a, b, c, y = (case.net.tensor(shape) for _ in range(5))
    case.net.op("HARD_SWISH", [x], [a])
    case.net.op("PRELU", [a, case.net.constant(case.random.normal(size=(1, 1, shape[3])), "f32")], [b])
    case.net.op("DIV", [b, case.net.constant(np.float32(case.random.uniform(0.5, 3)), "f32")], [c])
    case.net.op("GELU", [c], [y], Approximate=False)
    return x, y


def joined(case: Case, i8: bool) -> tuple[int, int]:
    """A part, the whole and a constant side by side, as wide as they are."""
    shape = (1, *case.sides(3, 5))
    axis = case.whole(1, 3)
    x = case.tensor(shape, i8)
    part = case.like([1 if i == axis else n for i, n in enumerate(shape)], x)
    ends = [0] * 4, [1 if i == axis else n for i, n in enumerate(shape)]
    case.net.op("SLICE", [x, *(case.net.constant(end) for end in ends)], [part], version=2)
    held = case.constant([2 if i == axis else n for i, n in enumerate(shape)], i8)
    case.net.tensors[held].scale = case.net.tensors[x].scale
    case.net.tensors[held].zero_point = case.net.tensors[x].zero_point
    read = [part, x, held]
    case.random.shuffle(read)
    y = case.like([n + 3 if i == axis else n for i, n in enumerate(shape)], x)
    case.net.op("CONCATENATION", read, [y], version=2, Axis=axis)
    return x, y


def gated(case: Case, i8: bool) -> tuple[int, int]:
    """Squeeze and excite: each channel times a number that comes from the means of all; the image is added."""
    h, w, c = case.sides(3)
    x = case.tensor((1, h, w, c), i8)
    mean = case.tensor((1, 1, 1, c), i8)
    case.net.op("MEAN", [x, case.net.constant([1, 2])], [mean], version=2, KeepDims=True)
    read = case.weights((c, 1, 1, c), i8, read=mean, axis=0, channels=c)
    sums, gate = case.tensor((1, 1, 1, c), i8), case.tensor((1, 1, 1, c), i8, scale=1 / 256, point=-128)
    case.net.op("CONV_2D", [mean, *read], [sums], version=3 if i8 else 1, Padding=VALID, StrideH=1, StrideW=1)
    case.net.op("LOGISTIC", [sums], [gate], version=2 if i8 else 1)
    product, y = case.tensor((1, h, w, c), i8), case.tensor((1, h, w, c), i8)
    case.net.op("MUL", [x, gate] if case.whole(0, 1) else [gate, x], [product], version=2 if i8 else 1)
    case.net.op("ADD", [product, x], [y], version=2 if i8 else 1, FusedActivationFunction=case.fused())
    return x, y


def crossed(case: Case, i8: bool) -> tuple[int, int]:
    """A row and a column, both computed, added to a table."""
    h, w, c = case.sides(3)
    x = case.tensor((1, h, w, c), i8)
    down, across, y = case.tensor((1, h, 1, c), i8), case.tensor((1, 1, w, c), i8), case.tensor((1, h, w, c), i8)
    case.net.op("MEAN", [x, case.net.constant([2])], [down], version=2, KeepDims=True)
    case.net.op("MEAN", [x, case.net.constant([1])], [across], version=2, KeepDims=True)
    name = str(case.random.choice(["ADD", "MUL"]))
    case.net.op(name, [down, across], [y], version=2 if i8 else 1, FusedActivationFunction=case.fused())
    return x, y


def dilated(case: Case, i8: bool) -> tuple[int, int]:
    """A convolution between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND, as converters write dilated ones: of an image, or
    of a sequence whose axis of 1 comes and goes in between."""
    flat, deep = bool(case.whole(0, 1)), bool(case.whole(0, 1))
    (h, w), c = (1, case.whole(3, 9)) if flat else case.sides(2, 9), case.whole(1, 4)
    block = (1, case.whole(1, 3)) if flat else case.sides(2, 3)
    kernel = (1, case.whole(1, 3)) if flat else case.sides(2, 3)
    pads, crops = [], []
    for side, b, k in zip((h, w), block, kernel, strict=True):
        before = case.whole(0, 2) if b > 1 else 0
        after = -(before + side) % b
        while (side + before + after) // b < k:
            after += b
        pads.append([before, after])
        crops.append([case.whole(0, 1) if (side + before + after) // b - k > 0 and b > 1 else 0, 0])
    inner = [(side + sum(pair)) // b for side, pair, b in zip((h, w), pads, block, strict=True)]
    out = [side - k + 1 for side, k in zip(inner, kernel, strict=True)]
    plain = [side * b - sum(pair) for side, b, pair in zip(out, block, crops, strict=True)]
    filters, count = c * (1 + deep), block[0] * block[1]
    cut = 1 if flat else 0  # a sequence has no height
    x = case.tensor((1, *(h, w)[cut:], c), i8)
    taken = case.like((count, *inner[cut:], c), x)
    read = [x, case.net.constant(block[cut:]), case.net.constant(pads[cut:])]
    case.net.op("SPACE_TO_BATCH_ND", read, [taken])
    if flat:
        image = case.like((count, 1, inner[1], c), x)
        case.net.op("EXPAND_DIMS", [taken, case.net.constant([1])], [image])
        taken = image
    made = case.tensor((count, *out, filters), i8)
    shape = (1, *kernel, filters) if deep else (filters, *kernel, c)
    read = case.weights(shape, i8, read=x, axis=3 if deep else 0, channels=filters)
    options = {"Padding": VALID, "StrideH": 1, "StrideW": 1, "FusedActivationFunction": case.fused()}
    options |= {"DepthMultiplier": 2} if deep else {}
    name = "DEPTHWISE_CONV_2D" if deep else "CONV_2D"
    case.net.op(name, [taken, *read], [made], version=3 if i8 else 1, **options)
    if flat:
        image = case.like((count, out[1], filters), made)
        case.net.op("SQUEEZE", [made], [image], SqueezeDims=[1])
        made = image
    y = case.like((1, *plain[cut:], filters), made)
    case.net.op("BATCH_TO_SPACE_ND", [made, case.net.constant(block[cut:]), case.net.constant(crops[cut:])], [y])
    return x, y


def padded(case: Case, i8: bool) -> tuple[int, int]:
    """PAD, an axis of 1, and a convolution without padding of its own: Keras' causal Conv1D."""
    length, c, k, filters = case.whole(1, 9), case.whole(1, 4), case.whole(1, 4), case.whole(1, 4)
    before, after = case.whole(0, 4), case.whole(0, 2)
    while length + before + after < k:
        before += 1
    x = case.tensor((1, length, c), i8)
    wide = length + before + after
    middle, image = case.like((1, wide, c), x), case.like((1, 1, wide, c), x)
    case.net.op("PAD", [x, case.net.constant([[0, 0], [before, after], [0, 0]])], [middle], version=2)
    case.net.op("EXPAND_DIMS", [middle, case.net.constant([-3])], [image])
    read = case.weights((filters, 1, k, c), i8, read=x, axis=0, channels=filters)
    y = case.tensor((1, 1, wide - k + 1, filters), i8)
    options = {"Padding": VALID, "StrideH": 1, "StrideW": 1, "FusedActivationFunction": case.fused()}
    case.net.op("CONV_2D", [image, *read], [y], version=3 if i8 else 1, **options)
    return x, y


def largest(case: Case, i8: bool) -> tuple[int, int]:
    """REDUCE_MAX over one axis, or two side by side."""
    shape = (1, *case.sides(3))
    first = case.whole(0, 3)
    axes = [first] if case.whole(0, 1) else [first, min(first + 1, 3)]
    keep = bool(case.whole(0, 1))
    x = case.tensor(shape, i8)
    y = case.like([1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes], x)
    case.net.op("REDUCE_MAX", [x, case.net.constant(axes)], [y], version=2, KeepDims=keep)
    return x, y


def tiled(case: Case, i8: bool) -> tuple[int, int]:
    shape, times = (1, *case.sides(3, 4)), (1, *case.sides(3, 3))
    x = case.tensor(shape, i8)
    y = case.like([a * b for a, b in zip(shape, times, strict=True)], x)
    case.net.op("TILE", [x, case.net.constant(times)], [y], version=2)
    return x, y


def curved(case: Case, i8: bool) -> tuple[int, int]:
    """PRELU with a slope a channel, then GELU, exact or (in 8 bits) approximate; a bound on both sides."""
    h, w, c = case.sides(3)
    x = case.tensor((1, h, w, c), i8)
    scale = case.net.tensors[x].scale[0] if i8 else None
    a, b, y = (case.tensor((1, h, w, c), i8, scale=scale) for _ in range(3))
    case.net.op("PRELU", [x, case.constant((1, 1, c), i8)], [a])
    case.net.op("GELU", [a], [b], version=2 if i8 else 1, Approximate=i8 and bool(case.whole(0, 1)))
    bound = case.constant((1,) if case.whole(0, 1) else (), i8)
    if i8:
        for one in (bound, y):
            case.net.tensors[one].scale = case.net.tensors[b].scale
            case.net.tensors[one].zero_point = case.net.tensors[b].zero_point
    case.net.op(str(case.random.choice(["MAXIMUM", "MINIMUM"])), [b, bound], [y], version=2 if i8 else 1)
    return x, y


def grouped(case: Case, i8: bool) -> tuple[int, int]:
    sides, kernel, options, out = window(case, True)
    groups, deep, many = case.whole(2, 3), case.whole(1, 3), case.whole(1, 3)
    x = case.tensor((1, *sides, groups * deep), i8)
    filters = groups * many
    read = case.weights((filters, *kernel, deep), i8, read=x, axis=0, channels=filters)
    y = case.tensor((1, *out, filters), i8)
    case.net.op("CONV_2D", [x, *read], [y], version=6, **options)
    return x, y


def transpose_conv(case: Case, i8: bool) -> tuple[int, int]:
    sides, kernel, stride = case.sides(2, 5), case.sides(2, 4), case.sides(2, 3)
    cin, filters, same = case.whole(1, 4), case.whole(1, 4), bool(case.whole(0, 1))
    out = tuple(n * s + (0 if same else max(k - s, 0)) for n, s, k in zip(sides, stride, kernel, strict=True))
    x = case.tensor((1, *sides, cin), i8)
    kernel, bias = case.weights((filters, *kernel, cin), i8, read=x, axis=0, channels=filters)
    y = case.tensor((1, *out, filters), i8)
    read = [case.net.constant((1, *out, filters)), kernel, x, bias]
    options = {"Padding": SAME if same else VALID, "StrideH": stride[0], "StrideW": stride[1]}
    case.net.op("TRANSPOSE_CONV", read, [y], version=3, **options)
    return x, y


BOTH = [
    conv_2d, depthwise_conv_2d, fully_connected, pool_2d, pair, mean, softmax, activation, reshape, squeeze, transpose,
    pad, concatenation, strided_slice, part, packed, resize, requantize, joined, gated, crossed,
    dilated, padded, largest, tiled, curved, grouped, transpose_conv,
]  # fmt: skip
FORMS = [(form, i8) for form in BOTH for i8 in (False, True)] + [(unsigned, True), (smooth, False)]
