"""What float convolutions of any kind ask of panel.wat and pad.wat: panels of weights, stretches of code, padding."""

from __future__ import annotations

from edgeswarm.compile.conv_image import Image
from edgeswarm.compile.lower_f32 import LANES
from edgeswarm.compile.lowering import Functions
from edgeswarm.compile.template import Value

STRETCH = 128  # steps in one stretch of code: 20 KB of it
PANEL = 2  # columns of a panel, and of a tile
HEIGHT = 4  # pixels of a tile
SUMS_BYTES = 16 * HEIGHT * PANEL  # of a tile, in memory between two stretches


def stretches(kernel: tuple[int, int], values: int, gaps: tuple[int, int]) -> dict[str, Value]:
    """How the values under a kernel are taken: segments that lie side by side, in stretches, in loops (panel.wat).

    values: side by side at each place of the kernel.  gaps: bytes from a place to that below it, and that beside it.
    """
    (high, wide), (y_gap, x_gap) = kernel, gaps
    if x_gap == 4 * values:
        values, wide = values * wide, 1
    if wide == 1 and y_gap == 4 * values:
        values, high = values * high, 1
    out = {"y_gap": y_gap, "x_gap": x_gap, "values": values, "y_rounds": high, "x_rounds": wide, "rounds": 1, "rest": 0}
    out |= {"y_body": 1, "x_body": 1, "steps": values}
    if high * wide * values <= STRETCH:
        out |= {"y_body": high, "x_body": wide, "y_rounds": 1, "x_rounds": 1}
    elif wide * values <= STRETCH:
        out |= {"x_body": wide, "x_rounds": 1}
    elif values > STRETCH:
        steps = max(range(STRETCH // 2, STRETCH + 1), key=lambda steps: (values % steps == 0, steps))
        out |= {"steps": steps, "rounds": values // steps, "rest": values % steps}
    looped = out["y_rounds"] * out["x_rounds"] * out["rounds"] > 1 or out["rest"] > 0
    return {**out, "looped": int(looped)}


def product(functions: Functions, *, pixels: int, values: int, y_step: int, sums: int) -> str:
    """The function that multiplies `pixels` rows of `values`, end to end, by whole panels: no activation."""
    height, loops = min(HEIGHT, pixels), stretches((1, 1), values, (0, 0))
    shape: dict[str, Value] = {
        "columns": PANEL,
        "lanes": 0,
        "activation": "linear",
        "sums": sums if loops["looped"] else 0,
        "x_wrap": 0,
        "width": 1 << 30,
        "x_step": 4 * values,
        "y_step": y_step,
        "inputs": values,
        "height": height,
        "wrap": 0,
        "back": -pixels % height,
        "alone": 0,
    }
    return functions.function("conv_panel", shape | loops)


def pad_function(functions: Functions, image: Image, scratch: int) -> str:
    """The function that copies rows of the image, with its padding, to `scratch`."""
    pixel = 4 * image.channels
    values: dict[str, Value] = {
        "scratch": scratch,
        "height": image.height,
        "row_bytes": image.width * pixel // image.repeat,
        "left": image.window.pad[2] * pixel,
        "right": image.window.pad[3] * pixel,
        "repeat": image.repeat,
    }
    return functions.function("conv_pad", values)


def columns_of(image: Image) -> int:
    """Columns of 4 outputs, the last one perhaps not full."""
    return -(-image.filters // LANES)
