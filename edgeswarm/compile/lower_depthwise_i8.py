"""Depthwise convolutions in 8 bits: by pairs of rows (rows.wat), or any other by its taps (taps.wat)."""

from __future__ import annotations

from edgeswarm.compile.lowering import Functions
from edgeswarm.compile.pack_depthwise_i8 import MARK_SHORT, MARK_SUMS
from edgeswarm.compile.shape_conv_i8 import MAGIC, Shape, aligned
from edgeswarm.compile.template import Value

BETWEEN = 3  # columns of which the sums are done before the next are loaded


def paired(functions: Functions, s: Shape) -> dict[str, Value]:
    row, stride = s.width * s.inputs, s.window.stride
    left, total = (0, row) if s.biases > 1 else (s.window.pad[2], row_values_of(s))
    spoiled = row % 16 > 0  # margins, by rows
    copy: dict[str, Value] = {
        "height": s.height,
        "left": left * s.inputs,
        "row": row,
        "total": total,
        "zero": s.zero,
        "margins": int(total > row and spoiled),
        "unroll": next(count for count in (4, 3, 2, 1) if -(-row // 16) % count == 0),
    }
    plain = (s.low, s.high, s.zero_out) == (-128, 127, -128)
    sums: dict[str, Value] = {
        "pairs": s.pairs,
        "kw": s.window.kernel[1],
        "tile": s.places,
        "width": s.window.width,
        "stride": stride[1],
        "col_step": 4 * s.inputs,
        "x_step": 4 * s.inputs * stride[1],
        "y_step": s.outputs,
        "s_step": 16 * s.vectors,
        "vectors": s.vectors,
        "record_bytes": s.record_bytes,
        "biases": s.biases,
        "skip": s.window.pad[2] if s.biases > 1 else 0,
        "columns": s.width if s.biases > 1 else s.window.pad[2] + s.width + s.window.pad[3],
        "weights_at": s.numbers_at,
        "between": BETWEEN,
        "signed": int(s.signed),
        "low": s.low,
        "high": s.high,
        "zero_out": s.zero_out,
        "plain": int(plain),
        "magic": (MAGIC + (0 if plain else s.zero_out)).hex(),
        "mark_short": MARK_SHORT,
        "mark_sums": MARK_SUMS,
    }
    return {
        "pairs": s.pairs,
        "both": s.tables - 1,
        "advance": max(1, stride[0] // 2),
        "top": s.window.pad[0],
        "height": s.window.height,
        "width": s.window.width,
        "row": row,
        "zero": s.zero,
        "keeps": int(total > row and not spoiled),
        "out_row": s.outputs * s.window.width,
        "pair_bytes": pair_bytes(s),
        "outside_at": s.pairs * pair_bytes(s),
        "table_bytes": s.table_bytes,
        "interleave": functions.function("conv_i8_interleave", copy),
        "sums": functions.function("conv_i8_rows", sums),
    }


def row_values_of(shape: Shape) -> int:
    """Values of a widened row with both margins."""
    _, _, left, right = shape.window.pad
    return (left + shape.width + right) * shape.channels


def pair_bytes(shape: Shape) -> int:
    """Bytes of a pair of rows with their margins, and of what is written and read behind them."""
    values = shape.width * shape.inputs if shape.biases > 1 else row_values_of(shape)
    return aligned(4 * values + 128)


def taps(functions: Functions, s: Shape) -> str:
    down, across, columns = s.parts
    column, row = 2 * s.channels * s.window.dilation[1], s.window.dilation[0] * 2 * row_values_of(s)
    shape: dict[str, Value] = {
        "kh": s.part_rows,
        "kw": columns,
        "row_step": row,
        "col_step": column,
        "x_step": 2 * s.channels * s.window.stride[1],
        "y_step": 16 * s.vectors,
        "groups": s.vectors // 2,
    }
    fresh = functions.function("conv_i8_taps", {"fresh": 1} | shape)
    if down * across == 1:
        values: dict[str, Value] = {
            "panels": 1, "last": 0, "width": 0, "panel_bytes": 0, "sums": fresh, "sums_last": ""
        }  # fmt: skip
        return functions.function("conv_i8_panels", values)
    values = {
        "kh": down,
        "parts": across,
        "row_step": row,
        "part_step": columns * column,
        "part_bytes": s.part_bytes,
        "sums": fresh,
        "sums_last": functions.function("conv_i8_taps", {"fresh": 0} | shape),
    }
    return functions.function("conv_i8_parts", values)
