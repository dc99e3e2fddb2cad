"""The functions of an 8-bit dense layer: its sums in each of the forms that its weights can have (pack_dense_i8.py)."""

from __future__ import annotations

from edgeswarm.compile.lowering import Functions
from edgeswarm.compile.pack_dense_i8 import HELD_GROUPS
from edgeswarm.compile.shape_conv_i8 import FORM, Shape
from edgeswarm.compile.template import Value


def dense_values(functions: Functions, s: Shape) -> dict[str, Value]:
    """What `conv_i8/dense_layer.wat` is filled with, beside what all layers are."""
    bodies, steps = s.bodies
    values: dict[str, Value] = {
        "split": functions.function("conv_i8_split", {"values": s.inputs}),
        "sums": functions.function("conv_i8_dense", {"quads": s.vectors, "bodies": bodies, "steps": steps}),
        "copy": functions.function("conv_i8_copy_u8", {}),
        "inputs": s.inputs,
        "rest": functions.function("conv_i8_rest", {}),
        "form": FORM,
        "signed_bias_at": s.signed_bias_at,
        "rest_at": s.rest_at,
    }
    bodies, steps = s.held_bodies
    for group in HELD_GROUPS:
        shape: dict[str, Value] = {"quads": s.vectors, "bodies": bodies, "steps": steps, "group": group}
        values[f"held{group}"] = functions.function("conv_i8_dense_held", shape)
    return values
