"""Convolutions in float32: conv2d as a product of matrices over an image's pixels, depthwise channel by channel.

Packing and order of sums do not depend on tiles or architecture: the bias, then the values under the kernel in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.conv_image import Image, image_of
from edgeswarm.compile.conv_panel import HEIGHT, PANEL, SUMS_BYTES, columns_of, pad_function, stretches
from edgeswarm.compile.lower_f32 import LANES, passes
from edgeswarm.compile.lower_winograd import WinogradStep, tiles_of
from edgeswarm.compile.lowering import Functions, Lowering, Plan, Step
from edgeswarm.compile.template import Value
from edgeswarm.model.graph import Graph, Outline

FUSED = (
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
)  # beside the sums; the rest need the registers, and a pass of their own
PLACES = 32  # of a depthwise kernel in one stretch of code
ROWS_KERNEL_MAX = 5  # sides of a depthwise kernel that goes row by row without a copy
TILE_PIXELS_MAX = 6  # of such a row
GROUP = 2  # columns of a depthwise convolution side by side


def row_tiles(image: Image) -> dict[str, int]:
    """The tiles of a depthwise convolution's rows (depthwise_rows.wat); {} where it has to go another way.

    Only the first tile may reach beyond the image's left side, and only the last beyond its right one.
    """
    window = image.window
    (high, wide), stride, width = window.kernel, window.stride[1], window.width
    if image.repeat > 1 or window.dilation[1] > 1 or max(high, wide) > ROWS_KERNEL_MAX:
        return {}
    most = min(width, TILE_PIXELS_MAX)
    pixels = min(range(min(3, most), most + 1), key=lambda pixels: (-(-width // pixels) * pixels, -pixels))
    tiles, left, span = -(-width // pixels), window.pad[2], (pixels - 1) * stride + wide
    right = max(0, (width - 1) * stride + wide - left - image.width)
    reach = (max(1, tiles - 1) * pixels - 1) * stride + wide - left  # of the last tile but one
    inside = min(pixels, width - pixels) * stride >= left and reach <= image.width
    if (tiles == 1 and left + right >= span) or (tiles > 1 and not inside):
        return {}
    fence = max(2, 14 - pixels - wide)
    return {
        "pixels": pixels,
        "tiles": tiles,
        "skip": width - pixels,
        "left": left,
        "right": right,
        "span": span,
        "fence": fence,
    }


@dataclass(frozen=True, slots=True)
class ConvStep:
    """A convolution with what of its activation is fused.  weights, scratch, sums: where they lie."""

    x: Rows
    y: Rows
    image: Image
    depthwise: bool
    fused: str
    weights: int
    scratch: int
    sums: int

    def __str__(self) -> str:
        image, name = self.image, "depthwise" if self.depthwise else "conv2d"
        window = image.window
        (kh, kw), (sh, sw) = window.kernel, window.stride
        place = f"x at {self.x.offset}, y at {self.y.offset}, weights at {self.weights}"
        chunked = image.padded and not (self.depthwise and row_tiles(image))
        chunk = f", {image.rows} rows at a time in {image.scratch_bytes} bytes" if chunked else ""
        return (
            f"{name:<13} {image.height}x{image.width}x{image.channels // image.repeat} -> "
            f"{window.height}x{window.width}x{image.filters}, kernel {kh}x{kw}, stride {sh}x{sw}{chunk}, {place}"
        )

    def call(self, functions: Functions, rows: str | None) -> str:
        image, window = self.image, self.image.window
        x, y = functions.pointer(self.x, rows), functions.pointer(self.y, rows)
        if self.depthwise and (tiles := row_tiles(image)):
            name = functions.function("conv_depthwise_rows", self._rows(tiles))
            return f"(call ${name} {x} (i32.const {self.weights}) {y})"
        calls = self._depthwise(functions) if self.depthwise else self._panels(functions)
        values: dict[str, Value] = {
            "padded": int(image.padded),
            "rows": image.rows,
            "height": window.height,
            "width": window.width,
            "stride": window.stride[0],
            "spread": window.spread[0],
            "top": window.pad[0],
            "y_row": 4 * image.filters * window.width,
            "pad": pad_function(functions, image, self.scratch) if image.padded else "",
            "calls": "\n  ".join(calls),
        }
        name = functions.function("conv_image", values)
        return f"(call ${name} {x} (i32.const {self.weights}) {y})"

    def _shared(self, columns: int, lanes: int) -> dict[str, Value]:
        image = self.image
        wrap: dict[str, Value] = {"x_wrap": image.x_wrap, "width": image.window.width if image.x_wrap else 1 << 30}
        shape: dict[str, Value] = {"columns": columns, "lanes": lanes, "activation": self.fused, "sums": self.sums}
        return {**shape, **wrap, "x_step": image.x_step, "y_step": 4 * image.filters}

    def _call(self, name: str, parts: int, weights: int, y: int, *, x: int = 0, pixels: str = "") -> str:
        """The call of a function for `parts` panels or groups.  weights, y, x: how many bytes from where all begin."""
        start = f"(i32.const {self.scratch + x})" if self.image.padded else f"(i32.add (local.get $x) (i32.const {x}))"
        return (
            f"(call ${name} {start} {pixels or '(local.get $pixels)'} (i32.add (local.get $w) (i32.const {weights})) "
            f"(i32.const {parts}) (i32.add (local.get $y) (i32.const {y})))"
        )

    def _panels(self, functions: Functions) -> list[str]:
        image, calls, at = self.image, [], 0
        inputs, loops = inputs_of(image), stretches(image.window.kernel, image.channels, image.gaps)
        pixels = image.window.height * image.window.width
        run = image.x_wrap == 0 and not image.padded  # pixels that lie equally far apart, all of them
        contiguous = loops["values"] == inputs and not loops["rest"]
        alone = int(run and contiguous and pixels > 1 and pixels % HEIGHT == 1 and functions.mode == "fast")
        tiles = pixels - alone
        for count, columns, lanes in panels_of(image):
            height = min(HEIGHT, tiles) if run else HEIGHT
            wrap = 0 if run else 1 if image.window.width % height else 2
            values = self._shared(columns, lanes) | loops
            values |= {"inputs": inputs, "height": height, "wrap": wrap, "back": -tiles % height, "alone": alone}
            if not loops["looped"]:
                values["sums"] = 0  # not used: layers of equal shape share their code, wherever their scratch lies
            name = functions.function("conv_panel", values)
            many = f"(i32.const {tiles})" if run else ""
            calls.append(self._call(name, count, 16 * at * (inputs + 1), 16 * at, pixels=many))
            at += count * columns
        return calls

    def _rows(self, tiles: dict[str, int]) -> dict[str, Value]:
        image, window = self.image, self.image.window
        shape: dict[str, Value] = {
            "columns": image.filters // LANES,
            "last": image.filters % LANES,
            "activation": self.fused,
            "zeros": self.scratch if any(window.pad[:2]) else 0,
            "high": window.kernel[0],
            "wide": window.kernel[1],
            "stride": window.stride[1],
            "y_stride": window.stride[0],
            "gap": window.dilation[0],
            "top": window.pad[0],
            "height": image.height,
            "rows": window.height,
            "width": window.width,
            "row_bytes": 4 * image.channels * image.width,
            "x_gap": 4 * image.channels,
            "y_step": 4 * image.filters,
        }
        return shape | tiles

    def _depthwise(self, functions: Functions) -> list[str]:
        image, calls = self.image, []
        (high, wide), (y_gap, x_gap) = image.window.kernel, image.gaps
        full, lanes = divmod(image.filters, LANES)
        groups, left = divmod(full, GROUP)
        parts = [(0, groups, GROUP, 0), (groups * GROUP, left, 1, 0), (full, int(lanes > 0), 1, lanes)]
        y_body, x_body = (high, wide) if high * wide <= PLACES else (1, wide) if wide <= PLACES else (1, 1)
        loops: dict[str, Value] = {
            "places": high * wide,
            "y_gap": y_gap,
            "x_gap": x_gap,
            "y_body": y_body,
            "x_body": x_body,
            "y_rounds": high // y_body,
            "x_rounds": wide // x_body,
            "looped": int((y_body, x_body) != (high, wide)),
        }
        for first, count, columns, lane in parts:
            if count:
                name = functions.function("conv_depthwise", self._shared(columns, lane) | loops)
                calls.append(self._call(name, count, 16 * first * (high * wide + 1), 16 * first, x=16 * first))
        return calls


def panels_of(image: Image) -> list[tuple[int, int, int]]:
    """The panels of a conv2d: how many, columns of each, outputs of its last column (0: all of it)."""
    columns, lanes = columns_of(image), image.filters % LANES
    widths = [PANEL] * (columns // PANEL) + [1] * (columns % PANEL)
    whole = widths[:-1] if lanes else widths
    groups = [(whole.count(width), width, 0) for width in (PANEL, 1) if width in whole]
    return groups + ([(1, widths[-1], lanes)] if lanes else [])


def inputs_of(image: Image) -> int:
    """How many values a pixel of a conv2d reads."""
    high, wide = image.window.kernel
    return high * wide * image.channels


def _steps(plan: Plan, index: int) -> list[Step]:
    node, image = plan.outline.nodes[index], image_of(plan.outline, index)
    name = str(node.attrs["activation"])
    fused = name if name in FUSED else "linear"
    y, depthwise = plan.place(node.output), node.op == "depthwise"
    scratch = 4 * image.channels * image.width if depthwise and row_tiles(image) else image.scratch_bytes
    x, weights = plan.place(node.inputs[0]), plan.weights(index)
    sums = plan.scratch(SUMS_BYTES, index)
    step: Step
    if not depthwise and plan.mode == "fast" and (tiles := tiles_of(image)):
        sizes = [image.row_bytes * (2 * tiles.rows + 2), 16 * tiles.v_bytes, 16 * tiles.u_bytes, 16 * tiles.m_bytes]
        padded, v, u, m = (plan.scratch(size + 16, index) for size in sizes)
        step = WinogradStep(x, y, image, tiles, fused, weights, sums, padded, v, u, m)
    else:
        at = plan.scratch(scratch + 16, index) if image.padded else 0
        step = ConvStep(x, y, image, depthwise, fused, weights, at, sums)
    return [step, *passes(plan.library, [] if fused == name else [name], y, plan.library.tile(plan.arch).pass_unroll)]


def _conv_size(outline: Outline, index: int) -> int:
    image = image_of(outline, index)
    return 16 * columns_of(image) * (inputs_of(image) + 1)


def _panel_slices(image: Image) -> list[slice]:
    """Which outputs each panel holds, with those that fill its last column."""
    slices, start = [], 0
    for count, columns, _ in panels_of(image):
        for _ in range(count):
            slices.append(slice(start, start + columns * LANES))
            start += columns * LANES
    return slices


def _conv_pack(graph: Graph, index: int) -> bytes:
    image, params = image_of(graph, index), graph.nodes[index].params
    full = np.zeros((inputs_of(image) + 1, columns_of(image) * LANES), dtype="<f4")
    full[0, : image.filters] = params["bias"]
    full[1:, : image.filters] = params["weights"].reshape(-1, image.filters)
    return b"".join(full[:, outputs].tobytes() for outputs in _panel_slices(image))


def _conv_unpack(content: bytes, outline: Outline, index: int) -> dict[str, NDArray[Any]]:
    image, start = image_of(outline, index), 0
    values = np.frombuffer(content, "<f4")
    full = np.empty((inputs_of(image) + 1, columns_of(image) * LANES), np.float32)
    for outputs in _panel_slices(image):
        panel = full[:, outputs]
        panel[:] = values[start : start + panel.size].reshape(panel.shape)
        start += panel.size
    shape = outline.params_of(index)["weights"].shape
    return {"weights": full[1:, : image.filters].reshape(shape), "bias": full[0, : image.filters]}


def _depthwise_shape(outline: Outline, index: int) -> tuple[int, int]:
    """Columns, and vectors of each."""
    image = image_of(outline, index)
    high, wide = image.window.kernel
    return columns_of(image), high * wide + 1


def _depthwise_size(outline: Outline, index: int) -> int:
    columns, vectors = _depthwise_shape(outline, index)
    return 16 * columns * vectors


def _depthwise_pack(graph: Graph, index: int) -> bytes:
    columns, vectors = _depthwise_shape(graph, index)
    params = graph.nodes[index].params
    full = np.zeros((vectors, columns * LANES), dtype="<f4")
    channels = len(params["bias"])
    full[0, :channels] = params["bias"]
    full[1:, :channels] = params["weights"].reshape(-1, channels)
    return full.reshape(vectors, columns, LANES).swapaxes(0, 1).tobytes()


def _depthwise_unpack(content: bytes, outline: Outline, index: int) -> dict[str, NDArray[Any]]:
    columns, vectors = _depthwise_shape(outline, index)
    full = np.frombuffer(content, "<f4").reshape(columns, vectors, LANES).swapaxes(0, 1).reshape(vectors, -1)
    shape = outline.params_of(index)["weights"].shape
    return {"weights": full[1:, : shape[2]].reshape(shape), "bias": full[0, : shape[2]]}


CONV = Lowering(_conv_size, _steps, _conv_pack, _conv_unpack)
DEPTHWISE = Lowering(_depthwise_size, _steps, _depthwise_pack, _depthwise_unpack)
