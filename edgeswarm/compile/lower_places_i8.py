"""Pointwise 8-bit convolutions: places as 16-bit numbers, or as bytes where packing has found that weights allow it."""

from __future__ import annotations

from collections.abc import Mapping

from edgeswarm.compile.lowering import Functions
from edgeswarm.compile.pack_places_i8 import REST_LENGTH, has_bytes, rest_at, rounds_of, turned_at
from edgeswarm.compile.shape_conv_i8 import FORM, PANEL_VECTORS, Shape
from edgeswarm.compile.template import Value

_TILE = 2  # places that a pass over a panel does at once
_REST_TILE = 4  # places that an entry of the rest is added to in a body


def places_call(functions: Functions, s: Shape, values: Mapping[str, Value], weights: int, arguments: str) -> str:
    """The text that performs such a convolution.  values: of places.wat; weights: where the packed node lies."""
    values = dict(values) | {"places": s.window.height * s.window.width, "outputs": s.outputs}
    plain = f"(call ${functions.function('conv_i8_places', values)} {arguments})"
    if not has_bytes(s):
        return plain
    steps: dict[str, Value] = {"x_step": s.inputs, "y_step": 16 * s.vectors}
    rest = functions.function("conv_i8_rest_places", steps | {"tile": _REST_TILE})
    del values["widen"]
    values |= {
        "copy": functions.function("conv_i8_copy_u8", {}),
        "sums": _panels(functions, s, int(values["rows"]), steps),
        "rest": rest,
        "turned_at": turned_at(s),
        "rest_at": rest_at(s),
        "rest_length": REST_LENGTH,
    }
    held = f"(call ${functions.function('conv_i8_places_u8', values)} {arguments})"
    return f"(if (i32.load (i32.const {weights + FORM})) (then {held}) (else {plain}))"


def _panels(functions: Functions, s: Shape, rows: int, steps: Mapping[str, Value]) -> str:
    rounds, unroll = rounds_of(s)
    places = s.window.height * s.window.width
    tile = min(_TILE, places)
    alone = int(any(count % tile for count in (rows, places)))  # whether a place is left over
    shape = {"rounds": rounds, "unroll": unroll, "tile": tile, "alone": alone, **steps}
    widths = [PANEL_VECTORS if s.vectors >= PANEL_VECTORS else 0, s.vectors % PANEL_VECTORS]
    sums = [functions.function("conv_i8_gemm_u8", {"width": width} | shape) if width else "" for width in widths]
    values: dict[str, Value] = {
        "panels": s.vectors // PANEL_VECTORS,
        "width": PANEL_VECTORS,
        "last": widths[1],
        "panel_bytes": 32 * PANEL_VECTORS * rounds * unroll,
        "sums": sums[0],
        "sums_last": sums[1],
    }
    return functions.function("conv_i8_panels", values)
