"""3x3 convolutions of stride 1 in float32 by F(2x2, 3x3): 4 products an output instead of 9 (winograd.wat).

For the mode fast only: the deterministic one promises an order of sums.  Packed weights are those of any conv2d; the
kernel transforms them in each call, which costs as much as one tile's direct sums.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.conv_image import Image
from edgeswarm.compile.conv_panel import PANEL, pad_function, product
from edgeswarm.compile.lower_f32 import LANES
from edgeswarm.compile.lowering import Functions
from edgeswarm.compile.template import Value

PLACES = 16  # of a tile of 4 x 4 values
TILES_MIN = 8  # fewer do not repay the transform of the weights
VALUES_BYTES = 16 * 1024  # of transformed values at a time: they stay in a first-level cache
ROOM_BYTES = 96 * 1024  # of transformed weights, or values, at a time, or a quarter of what is read and written
TOGETHER_MIN = 2  # panels for which values are transformed again: with fewer that would be a fifth of the time
APART_BYTES = 64  # between places, so that a power of two does not put them all into the same lines of a cache
GROUP_BYTES = 40 * 1024  # of transformed weights at a time, where they are not
PANEL_OUTPUTS = PANEL * LANES


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a convolution goes by tiles of 2 x 2 outputs.

    across: tiles in a row.  rows: of tiles that go at once, `chunks` times.  groups: of `panels` panels of weights.
    """

    across: int
    rows: int
    chunks: int
    groups: int
    panels: int
    channels: int

    @property
    def tiles(self) -> int:
        """How many go at once."""
        return self.rows * self.across

    @property
    def v_bytes(self) -> int:
        """Transformed values of one place."""
        return 4 * self.channels * self.tiles + APART_BYTES

    @property
    def u_bytes(self) -> int:
        """Transformed weights of one place, a row of bias in each panel."""
        return 4 * PANEL_OUTPUTS * self.panels * (self.channels + 1)

    @property
    def m_bytes(self) -> int:
        """Products of one place."""
        return 4 * PANEL_OUTPUTS * self.panels * self.tiles + APART_BYTES


def tiles_of(image: Image) -> Tiles | None:
    """The tiles of a conv2d; None where it is better computed directly."""
    window = image.window
    if (window.kernel, window.stride, window.dilation) != ((3, 3), (1, 1), (1, 1)):
        return None
    down, across = window.height // 2, window.width // 2
    if window.height % 2 or window.width % 2 or down * across < TILES_MIN:
        return None
    if image.channels % 4 or image.channels < 8 or image.filters % PANEL_OUTPUTS:
        return None
    panels = image.filters // PANEL_OUTPUTS
    row_bytes = PLACES * 4 * image.channels * across
    panel_bytes = PLACES * 4 * PANEL_OUTPUTS * (image.channels + 1)
    image_bytes = 4 * (image.height * image.width * image.channels + window.height * window.width * image.filters)
    room = max(ROOM_BYTES, image_bytes // 4)
    if panels * panel_bytes > room and down * row_bytes <= ROOM_BYTES:  # all values at once, weights a few at a time
        together = _share(panels, GROUP_BYTES // panel_bytes)
        return Tiles(across, down, 1, panels // together, together, image.channels)
    together = _share(panels, room // panel_bytes)
    if row_bytes > room or together * panel_bytes > room or together < min(panels, TOGETHER_MIN):
        return None
    rows = _share(down, VALUES_BYTES // row_bytes)
    return Tiles(across, rows, down // rows, panels // together, together, image.channels)


def _share(count: int, most: int) -> int:
    """The largest number that divides `count` and is at most `most`, or 1."""
    return max(share for share in range(1, max(1, min(count, most)) + 1) if count % share == 0)


@dataclass(frozen=True, slots=True)
class WinogradStep:
    """A convolution with what of its activation is fused.  weights: the packed ones.

    Scratch: sums of a tile of products; rows with their padding; values, weights and products of all places.
    """

    x: Rows
    y: Rows
    image: Image
    tiles: Tiles
    fused: str
    weights: int
    sums: int
    padded: int
    v: int
    u: int
    m: int

    def __str__(self) -> str:
        image, tiles = self.image, self.tiles
        window = image.window
        return (
            f"{'conv2d':<13} {image.height}x{image.width}x{image.channels} -> "
            f"{window.height}x{window.width}x{image.filters}, kernel 3x3, stride 1x1, by Winograd's tiles, "
            f"{tiles.rows} rows of {tiles.across} and {tiles.panels} panels at a time, "
            f"x at {self.x.offset}, y at {self.y.offset}, weights at {self.weights}"
        )

    def call(self, functions: Functions, rows: str | None) -> str:
        image, tiles = self.image, self.tiles
        sizes: dict[str, Value] = {
            "rows": tiles.rows,
            "across": tiles.across,
            "panels": tiles.panels,
            "v": self.v,
            "u": self.u,
            "m": self.m,
            "v_bytes": tiles.v_bytes,
            "u_bytes": tiles.u_bytes,
            "m_bytes": tiles.m_bytes,
            "y_step": 4 * image.filters,
            "y_row": 4 * image.filters * image.window.width,
        }
        values = {"scratch": self.padded, "row_bytes": image.row_bytes, "x_gap": 4 * image.channels}
        shared = {"channels": image.channels, "u_bytes": tiles.u_bytes}
        whole: dict[str, Value] = {
            "weights": functions.function("winograd_weights", shared),
            "before": functions.function("winograd_in", sizes | values | {"channels": image.channels}),
            "after": functions.function("winograd_out", sizes | {"activation": self.fused}),
            "gemm": product(
                functions,
                pixels=tiles.tiles,
                values=image.channels,
                y_step=4 * PANEL_OUTPUTS * tiles.panels,
                sums=self.sums,
            ),
            "pad": pad_function(functions, image, self.padded),
            "top": image.window.pad[0],
            "chunks": tiles.chunks,
            "groups": tiles.groups,
            "tiles": tiles.tiles,
            "w_panel": 4 * PANEL_OUTPUTS * (9 * image.channels + 1),
        }
        name = functions.function("winograd", sizes | whole)
        x, y = functions.pointer(self.x, rows), functions.pointer(self.y, rows)
        return f"(call ${name} {x} (i32.const {self.weights}) {y})"
