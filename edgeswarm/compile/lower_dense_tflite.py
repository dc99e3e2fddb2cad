"""A dense layer in 8 bits as TFLite computes it: a convolution of one place."""

from __future__ import annotations

from edgeswarm.compile.lower_conv_i8 import DENSE

__all__ = ["DENSE"]
