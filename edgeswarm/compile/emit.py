"""Schedule -> WebAssembly text.  Loops over sums are shared by all layers; a layer's numbers are constants in its call.

`run` does every step on row 0; `run_batch` takes blocks of rows through all steps, so that what lies between layers
stays in the cache.  What a step computes is written in the templates, not here.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.library import Library
from edgeswarm.compile.schedule import Schedule
from edgeswarm.compile.template import Value
from edgeswarm.compile.wasm import PAGE_BYTES

_OPERATIONS = {  # (relaxed_madd B S A) = B S + A; (add (mul B S) A): rounded twice, on all machines
    "fast": {"fma": "f32x4.relaxed_madd", "into": "", "trunc": "i32x4.relaxed_trunc_f32x4_s"},
    "deterministic": {"fma": "f32x4.add (f32x4.mul", "into": ")", "trunc": "i32x4.trunc_sat_f32x4_s"},
}  # trunc: of what is no NaN and within the range of i32, so that both give the same


def emit(schedule: Schedule, library: Library, *, each_step: bool = False) -> str:
    """The module's text.  Raises LocalError if a template does not expand.

    each_step: also export `step_0`, `step_1`, ..., one step each on row 0, for those who look into a kernel, and
    `nothing`, which tells what a call costs.  No device takes such a module.
    """
    functions = _Functions(schedule, library)
    one = [step.call(functions, None) for step in schedule.steps]
    layout, block = schedule.layout, schedule.block_rows
    if layout.batch_max == 1:
        many = "(call $run)"
    else:
        functions.moving = True
        rows = "$rows" if block > 1 else None  # steps of one row need not know which
        calls = "\n".join(step.call(functions, rows) for step in schedule.steps)
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
    if each_step:
        single = [f'(func (export "step_{index}") {text})' for index, text in enumerate(one)]
        single.append('(func (export "nothing"))')
    body = "\n".join([*functions.texts.values(), *(single if each_step else [])])
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
    """The functions that steps have asked for, each written once (`lowering.Functions`)."""

    def __init__(self, schedule: Schedule, library: Library) -> None:
        self.layout, self.mode, self.library = schedule.layout, schedule.mode, library
        self.moving = False  # whether the code in the making goes from block to block
        self.texts: dict[tuple[Value, ...], str] = {}
        self.names: dict[tuple[Value, ...], str] = {}

    def pointer(self, place: Rows, rows: str | None) -> str:
        """Where a block starts: input and output move on from block to block, scratch does not."""
        if self.moving:
            for local, region in (("$x", self.layout.input), ("$y", self.layout.output)):
                ahead = place.offset - region.offset
                if ahead == 0:
                    return f"(local.get {local})"
                if 0 < ahead < region.stride:
                    return f"(i32.add (local.get {local}) (i32.const {ahead}))"
        return f"(i32.const {place.offset})"

    def function(self, template: str, values: Mapping[str, Value]) -> str:
        """The name of the function that `template` gives for `values`; written on first use."""
        key = (template, *values.values())
        if key not in self.texts:
            self.names[key] = f"f{len(self.texts)}"
            full = {**values, **_OPERATIONS[self.mode], "name": self.names[key]}
            self.texts[key] = self.library.find(template).render(full, self.library.find)
        return self.names[key]
