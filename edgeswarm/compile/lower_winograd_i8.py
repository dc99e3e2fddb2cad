"""3x3 convolutions in 8 bits by transforms of tiles of 4x4 outputs, exact (conv_i8/winograd.wat).

Of stride 1 by F(4x4, 3x3): a quarter of the products.  Of stride 2: 9 of 16 (pack_winograd.py tells how).
"""

from __future__ import annotations

from edgeswarm.compile.lowering import Functions
from edgeswarm.compile.shape_conv_i8 import FLAT_STEPS_MAX, PANEL_VECTORS, UNROLL_MAX, Shape, aligned
from edgeswarm.compile.template import Value

TILE = 2  # places that a pass over a panel does at once: 8 sums and their factors fill 16 registers
WRITTEN_MAX = 64  # steps of all tiles of a group, up to which they are written out without a loop
_KINDS = ((16, 4), (8, 2), (1, 1))  # strided: (places, how many channels of the input each sums up) as they lie


def tiles(functions: Functions, s: Shape) -> dict[str, Value]:
    """The values of the template `conv_i8_winograd`."""
    down, across, tiles = s.tiles
    multiplied, lying = s.tile_inputs
    step = 2 * lying
    into: dict[str, Value] = {
        "row_step": tile_row_bytes(s),
        "in_step": s.inputs,
        "col_step": step,
        "tiles": tiles,
        "groups": lying // 8,
    }
    back: dict[str, Value] = {"width": PANEL_VECTORS, "tiles": tiles, "y_step": 16 * s.vectors}
    values: dict[str, Value] = {
        "height": s.window.height,
        "width": s.window.width,
        "inputs": s.inputs,
        "outputs": s.outputs,
        "stride": 2 if s.strided else 1,
        "deep": _deep(s),
        "margins": _margins(functions, s),
        "top": s.window.pad[0],
        "tiles": tiles,
        "down": down,
        "across": across,
        "vectors": s.vectors,
        "panels": s.vectors // PANEL_VECTORS,
        "panel_bytes": s.tile_products * 32 * PANEL_VECTORS * multiplied // 4,
        "v_at": tile_places(s)[0],
        "m_at": tile_places(s)[1],
        "temporary_at": tile_places(s)[2],
    }
    if s.strided:
        ends: dict[str, Value] = {"half_at": 64 * tiles * step, "one_at": 80 * tiles * step}
        sums = [_sums(functions, s, places, (channels * multiplied, channels * lying)) for places, channels in _KINDS]
        values |= ends | dict(zip(("sums", "sums_half", "sums_one"), sums, strict=True))
        values["transform"] = functions.function("conv_i8_tiles_in_strided", into | ends)
        values["out"] = functions.function("conv_i8_tiles_out_strided", back)
    else:
        values["sums"] = _sums(functions, s, 36, s.tile_inputs)
        values["transform"] = functions.function("conv_i8_tiles_in", into)
        values["out"] = functions.function("conv_i8_tiles_out", back)
    return values


def _margins(functions: Functions, s: Shape) -> str:
    vectors = -(-s.width * s.inputs // 16)
    values: dict[str, Value] = {
        "height": s.height,
        "left": s.window.pad[2] * s.inputs,
        "row": s.width * s.inputs,
        "total": tile_row_bytes(s),
        "zero": s.zero,
        "vectors": vectors,
        "unroll": next(unroll for unroll in (4, 3, 2, 1) if vectors % unroll == 0),
    }
    return functions.function("conv_i8_margins", values)


def _sums(functions: Functions, s: Shape, places: int, values: tuple[int, int]) -> str:
    """The sums of so many places of the transforms.  values: of a place, multiplied and lying side by side."""
    steps = values[0] // 2
    rounds = 1 if steps <= FLAT_STEPS_MAX else -(-steps // UNROLL_MAX)
    assert steps % rounds == 0
    line: dict[str, Value] = {"groups": 1, "group_step": 0, "segments": 1, "seg_step": 0, "splat": 0, "biased": 0}
    line |= {"rounds": rounds, "unroll": steps // rounds, "flat": int(rounds == 1)}
    line |= {"x_step": 2 * values[1], "y_step": 16 * PANEL_VECTORS, "repeat": places}
    short = steps * s.tiles[2] <= WRITTEN_MAX and s.tiles[2] % TILE == 0
    line["at_once"] = s.tiles[2] // TILE if short else 0
    return functions.function("conv_i8_gemm", line | {"tile": TILE, "rest": s.tiles[2] % TILE, "width": PANEL_VECTORS})


def _deep(shape: Shape) -> int:
    """Rows of the input under a tile."""
    return 9 if shape.strided else 6


def tile_places(shape: Shape) -> tuple[int, int, int, int]:
    """Offsets in scratch of transforms, of their products, of a place for lines between, and of the sums."""
    tiles = shape.tiles[2]
    v = aligned(_deep(shape) * tile_row_bytes(shape) + 64)
    m = aligned(v + shape.tile_products * tiles * 2 * shape.tile_inputs[1] + 64)
    between = aligned(m + (25 if shape.strided else 36) * tiles * 16 * PANEL_VECTORS)
    # one panel: the transforms are done with by then
    over = shape.vectors == PANEL_VECTORS and _sums_bytes(shape) <= m - v
    sums = v if over else between + _between_bytes(shape)
    return v, m, between, sums


def _sums_bytes(shape: Shape) -> int:
    """Of a group of tiles."""
    return 16 * shape.vectors * 16 * shape.tiles[2]


def _between_bytes(shape: Shape) -> int:
    return aligned(16 * _deep(shape) ** 2)


def tile_row_bytes(shape: Shape) -> int:
    """Bytes of a row with its margins: whole groups of tiles."""
    places = 4 * shape.tiles[1] * shape.tiles[2]
    return (2 * places + 1 if shape.strided else places + 2) * shape.inputs


def tile_scratch_bytes(shape: Shape) -> int:
    _, _, between, sums = tile_places(shape)
    return max(between + _between_bytes(shape), sums + _sums_bytes(shape)) + 64
