"""How a convolution goes over an image in memory, whatever its dtype: padding in scratch, pixels, the values under one.

An image without padding is read where it lies.  One with padding goes a few output rows at a time through a scratch in
which zeros lie around it, so that the memory that takes is a small part of the image's.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeswarm.model.graph import Outline
from edgeswarm.model.op import whole
from edgeswarm.model.ops_spatial import Window, window_of

SCRATCH_BYTES = 24 * 1024  # of padded rows: they stay in a first-level cache of 32 KiB beside a tile's weights


@dataclass(frozen=True, slots=True)
class Image:
    """The geometry of one convolution; lengths in values, gaps and steps in bytes of float32.

    channels: of the padded rows, which for a depthwise convolution are those that it writes.  repeat: how often each
    value is written into them.
    """

    window: Window
    height: int
    width: int
    channels: int
    filters: int
    repeat: int

    @property
    def padded(self) -> bool:
        """Whether it is read from scratch."""
        return any(self.window.pad) or self.repeat > 1

    @property
    def row_bytes(self) -> int:
        """From a row of what is read to the next."""
        return 4 * self.channels * (self.width + self.window.pad[2] + self.window.pad[3])

    @property
    def rows(self) -> int:
        """Output rows that go through the scratch at once: as many as fit, at least 1, in shares as equal as can be."""
        window = self.window
        fit = SCRATCH_BYTES // self.row_bytes - window.spread[0]
        most = min(window.height, max(1, fit // window.stride[0] + 1))
        return -(-window.height // -(-window.height // most))

    @property
    def scratch_bytes(self) -> int:
        window = self.window
        return self.row_bytes * ((self.rows - 1) * window.stride[0] + window.spread[0]) if self.padded else 0

    @property
    def x_step(self) -> int:
        """From a pixel's first value to that of the pixel beside it."""
        return 4 * self.channels * self.window.stride[1]

    @property
    def x_wrap(self) -> int:
        """What a pixel at the start of a row lies further than x_step from the last of the row before."""
        return self.row_bytes * self.window.stride[0] - self.x_step * self.window.width

    @property
    def gaps(self) -> tuple[int, int]:
        """From a place of the kernel to that below it and to that beside it."""
        down, right = self.window.dilation
        return self.row_bytes * down, 4 * self.channels * right


def image_of(outline: Outline, index: int) -> Image:
    """The geometry of the convolution `index`, depthwise or not."""
    node = outline.nodes[index]
    tensor, written = outline.tensors[node.inputs[0]], outline.tensors[node.output]
    height, width, channels = tensor.shape
    repeat = whole(node.attrs, "multiplier", 1, written.size) if "multiplier" in node.attrs else 1
    return Image(window_of(tensor, node.attrs), height, width, channels * repeat, written.shape[2], repeat)
