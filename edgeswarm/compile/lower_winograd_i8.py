"""3x3 convolutions of stride 1 in 8 bits by F(4x4, 3x3): a quarter of the products, exact (conv_i8/winograd.wat)."""

from __future__ import annotations

from edgeswarm.compile.lowering import Functions
from edgeswarm.compile.shape_conv_i8 import FLAT_STEPS_MAX, PANEL_VECTORS, UNROLL_MAX, Shape, aligned
from edgeswarm.compile.template import Value

TILE = 2  # places that a pass over a panel does at once: 8 sums and their factors fill 16 registers


def tiles(functions: Functions, s: Shape, widen: str) -> dict[str, Value]:
    """The values of the template `conv_i8_winograd`."""
    down, across, tiles = s.tiles
    step = 2 * s.inputs
    into: dict[str, Value] = {
        "row_step": tile_row_bytes(s),
        "col_step": step,
        "tiles": tiles,
        "groups": s.inputs // 8,
    }
    width: dict[str, Value] = {"width": PANEL_VECTORS}
    gemm = _steps_of(s) | {"x_step": step, "y_step": 16 * PANEL_VECTORS, "repeat": 36, "tile": TILE} | width
    back = width | {"tiles": tiles, "y_step": 16 * s.vectors}
    image: dict[str, Value] = {"height": s.window.height, "width": s.window.width}
    image |= {"outputs": s.outputs, "inputs": s.inputs}
    values: dict[str, Value] = {
        "widen": widen,
        "transform": functions.function("conv_i8_tiles_in", into),
        "top": s.window.pad[0],
        "tiles": tiles,
        "down": down,
        "across": across,
        "vectors": s.vectors,
        "panels": s.vectors // PANEL_VECTORS,
        "sums": functions.function("conv_i8_gemm", gemm),
        "out": functions.function("conv_i8_tiles_out", back),
        "panel_bytes": 36 * 32 * PANEL_VECTORS * s.inputs // 4,
        "v_at": tile_places(s)[0],
        "m_at": tile_places(s)[1],
        "temporary_at": tile_places(s)[2],
    }
    return values | image


def tile_places(shape: Shape) -> tuple[int, int, int, int]:
    """Offsets in scratch of transforms, of their products, of a place for lines between, and of the sums."""
    tiles = shape.tiles[2]
    v = aligned(6 * tile_row_bytes(shape) + 64)
    m = aligned(v + 36 * tiles * 2 * shape.inputs + 64)
    between = aligned(m + 36 * tiles * 16 * PANEL_VECTORS)
    sums = v if shape.vectors == PANEL_VECTORS else between + 576  # one panel: the transforms are done with by then
    return v, m, between, sums


def tile_row_bytes(shape: Shape) -> int:
    """Bytes of a widened row: whole groups of tiles."""
    return 2 * (4 * shape.tiles[1] * shape.tiles[2] + 2) * shape.channels


def tile_scratch_bytes(shape: Shape) -> int:
    _, _, between, sums = tile_places(shape)
    return max(between + 576, sums + 16 * shape.vectors * 16 * shape.tiles[2]) + 64


def _steps_of(s: Shape) -> dict[str, Value]:
    """How gemm.wat goes over the inputs of a place of transforms: all of them lie side by side."""
    steps = s.inputs // 2
    rounds = 1 if steps <= FLAT_STEPS_MAX else -(-steps // UNROLL_MAX)
    assert steps % rounds == 0
    line: dict[str, Value] = {"groups": 1, "group_step": 0, "segments": 1, "seg_step": 0}
    return line | {"splat": 0, "rounds": rounds, "unroll": steps // rounds, "flat": int(rounds == 1)}
