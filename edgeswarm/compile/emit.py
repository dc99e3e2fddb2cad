"""Schedule -> WebAssembly text.  Loops over sums are shared by all layers; a layer's numbers are constants in its call.

`run` does every step on row 0; `run_batch` takes blocks of rows through all steps, so that what lies between layers
stays in the cache.  What a step computes is written in the templates, not here.
"""

from __future__ import annotations

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.library import Library
from edgeswarm.compile.schedule import LANES, Packed, Schedule, Step
from edgeswarm.compile.template import Value
from edgeswarm.compile.wasm import PAGE_BYTES

_MULTIPLY_ADD = {
    "fast": {"fma": "f32x4.relaxed_madd", "into": ""},  # (relaxed_madd B S A) = B S + A
    "deterministic": {"fma": "f32x4.add (f32x4.mul", "into": ")"},  # (add (mul B S) A): rounded twice, on all machines
}


def emit(schedule: Schedule, library: Library) -> str:
    """The module's text.  Raises LocalError if a template does not expand."""
    functions = _Functions(schedule, library)
    one = [functions.call(step, rows=None) for step in schedule.steps]
    layout, block = schedule.layout, schedule.block_rows
    if layout.batch_max == 1:
        many = "(call $run)"
    else:
        calls = "\n".join(functions.call(step, rows="$rows") for step in schedule.steps)
        many = f"""
  (local.set $x (i32.const {layout.input.offset}))
  (local.set $y (i32.const {layout.output.offset}))
  (loop $block
    (local.set $rows (select (local.get $n) (i32.const {block}) (i32.lt_u (local.get $n) (i32.const {block}))))
    {calls}
    (local.set $x (i32.add (local.get $x) (i32.const {block * layout.input.stride})))
    (local.set $y (i32.add (local.get $y) (i32.const {block * layout.output.stride})))
    (br_if $block (local.tee $n (i32.sub (local.get $n) (local.get $rows)))))"""
    pages = layout.memory_bytes // PAGE_BYTES
    body = "\n".join(functions.texts.values())
    run = "\n".join(one)
    return f"""(module
(memory (export "memory") {pages} {pages})
{body}
(func $run (export "run")
{run})
(func (export "run_batch") (param $n i32) (local $x i32) (local $y i32) (local $rows i32)
  (if (i32.ge_u (i32.sub (local.get $n) (i32.const 1)) (i32.const {layout.batch_max})) (then (unreachable)))
  {many})
)
"""


class _Functions:
    """The functions that calls have asked for, each written once."""

    def __init__(self, schedule: Schedule, library: Library) -> None:
        self.schedule, self.library = schedule, library
        self.texts: dict[tuple[Value, ...], str] = {}

    def call(self, step: Step, rows: str | None) -> str:
        """The call that performs `step` on row 0 (rows None) or on the rows of a block (a local's name)."""
        x, y = self._pointer(step.x, rows), self._pointer(step.y, rows)
        if step.layer is None:
            count = f"(local.get {rows})" if rows else "(i32.const 1)"
            end = f"(i32.add {y} (i32.mul {count} (i32.const {step.y.stride})))"
            return f"(call ${self._activation(step)} {y} {end})"
        weights = f"(i32.const {step.weights})"
        if rows is None:
            return f"(call ${self._row(step.layer)} {x} {weights} {y})"
        return f"(call ${self._rows(step, step.layer)} {x} (local.get {rows}) {weights} {y})"

    def _pointer(self, place: Rows, rows: str | None) -> str:
        """Where a block starts: input and output move on from block to block, scratch does not."""
        layout = self.schedule.layout
        if rows and place.offset == layout.input.offset:
            return "(local.get $x)"
        if rows and place.offset == layout.output.offset:
            return "(local.get $y)"
        return f"(i32.const {place.offset})"

    def _row(self, layer: Packed) -> str:
        """The function that computes a dense layer on one row."""
        return self._function(
            "row",
            self._panels(layer)
            | {
                "gemv": self._sums("gemv", {"width": layer.width}),
                "gemv_last": self._sums("gemv", {"width": layer.last}),
            },
        )

    def _rows(self, step: Step, layer: Packed) -> str:
        """The function that computes a dense layer on many rows."""
        part, height = self.schedule.tile.gemm_columns, step.height
        full = part if max(layer.width, layer.last) >= part else 0
        return self._function(
            "rows",
            self._panels(layer)
            | {
                "part": part,
                "height": height,
                "x_stride": step.x.stride,
                "y_stride": step.y.stride,
                "gemm_part": self._sums("gemm", {"height": height, "columns": full}),
                "gemm_width": self._sums("gemm", {"height": height, "columns": layer.width % part}),
                "gemm_last": self._sums("gemm", {"height": height, "columns": layer.last % part}),
                "row": self._row(layer),
            },
        )

    def _panels(self, layer: Packed) -> dict[str, Value]:
        return {"inputs": layer.inputs, "panels": layer.panels, "width": layer.width, "last": layer.last}

    def _sums(self, template: str, shape: dict[str, Value]) -> str:
        """The function that computes tiles of this shape, whatever the layer; "" for a tile of nothing."""
        if 0 in shape.values():
            return ""
        return self._function(template, shape | {"unroll": self.schedule.tile.unroll})

    def _activation(self, step: Step) -> str:
        if self.library.placements[step.template] == "row":
            width = step.y.width
            return self._function(step.template, {"width": width, "vectors": -(-width // LANES)})
        return self._function("elementwise", {"activation": step.template, "unroll": self.schedule.tile.pass_unroll})

    def _function(self, template: str, values: dict[str, Value]) -> str:
        """The name of the function that `template` gives for `values`; written on first use."""
        key = (template, *values.values())
        name = f"f{list(self.texts).index(key) if key in self.texts else len(self.texts)}"
        if key not in self.texts:
            full = values | _MULTIPLY_ADD[self.schedule.mode] | {"name": name}
            self.texts[key] = self.library.find(template).render(full, self.library.find)
        return name
