"""Which options the operators that are known have: the name of the table, and the keys that are read of it.

Names as in TFLite's schema (schema.fbs), in the package `tflite`'s spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_FUSED = ("FusedActivationFunction",)
_CONV = (*_FUSED, "Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor")
_POOL = ("Pool2DOptions", (*_FUSED, "Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth"))
_REDUCE = ("ReducerOptions", ("KeepDims",))

OPTIONS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "ADD": ("AddOptions", _FUSED),
    "AVERAGE_POOL_2D": _POOL,
    "CONCATENATION": ("ConcatenationOptions", (*_FUSED, "Axis")),
    "CONV_2D": ("Conv2DOptions", _CONV),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*_CONV, "DepthMultiplier")),
    "DIV": ("DivOptions", _FUSED),
    "FULLY_CONNECTED": (
        "FullyConnectedOptions",
        (*_FUSED, "WeightsFormat", "KeepNumDims", "AsymmetricQuantizeInputs"),
    ),
    "GATHER": ("GatherOptions", ("Axis", "BatchDims")),
    "GELU": ("GeluOptions", ("Approximate",)),
    "LEAKY_RELU": ("LeakyReluOptions", ("Alpha",)),
    "MAX_POOL_2D": _POOL,
    "MEAN": _REDUCE,
    "MUL": ("MulOptions", _FUSED),
    "PACK": ("PackOptions", ("Axis", "ValuesCount")),
    "REDUCE_MAX": _REDUCE,
    "REDUCE_PROD": _REDUCE,
    "RESHAPE": ("ReshapeOptions", ("NewShape",)),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", ("AlignCorners", "HalfPixelCenters")),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
    "SPLIT": ("SplitOptions", ("NumSplits",)),
    "SQUEEZE": ("SqueezeOptions", ("SqueezeDims",)),
    "STRIDED_SLICE": (
        "StridedSliceOptions",
        ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask", "Offset"),
    ),
    "SUB": ("SubOptions", _FUSED),
    "TRANSPOSE_CONV": ("TransposeConvOptions", (*_FUSED, "Padding", "StrideH", "StrideW")),
    "UNPACK": ("UnpackOptions", ("Num", "Axis")),
}

ACTIVATIONS: Final[Mapping[int, str]] = {
    0: "NONE",
    1: "RELU",
    2: "RELU_N1_TO_1",
    3: "RELU6",
    4: "TANH",
    5: "SIGN_BIT",
}
"""Fused activations, by number."""
