"""concat and slice: nothing to do where tensors lie inside each other (`places.py`), else a copy of rows."""

from __future__ import annotations

from dataclasses import dataclass

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.lowering import Functions, Lowering, Plan, Step, no_pack, no_size, no_unpack
from edgeswarm.model.nodes import DTYPES
from edgeswarm.model.ops import whole


@dataclass(frozen=True, slots=True)
class CopyStep:
    """`size` bytes of each row of x, exactly, into y."""

    x: Rows
    y: Rows
    size: int

    def __str__(self) -> str:
        return f"{'copy':<13} {self.size} bytes a row from {self.x.offset} to {self.y.offset}"

    def call(self, functions: Functions, rows: str | None) -> str:
        values = {"size": self.size, "x_stride": self.x.stride, "y_stride": self.y.stride}
        x, y = functions.pointer(self.x, rows), functions.pointer(self.y, rows)
        count = f"(local.get {rows})" if rows else "(i32.const 1)"
        return f"(call ${functions.function('copy_rows', values)} {x} {count} {y})"


def _concat(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    out, at = plan.place(node.output), 0
    steps: list[Step] = []
    for number, tensor in enumerate(node.inputs):
        x = plan.place(tensor)
        size = x.width * DTYPES[plan.outline.tensors[tensor].dtype].itemsize
        if plan.copied(index, number):
            steps.append(CopyStep(x, Rows(out.offset + at, out.stride, x.width), size))
        at += size
    return steps


def _slice(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    if not plan.copied(index, 0):
        return []
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    bytes_each = DTYPES[plan.outline.tensors[node.output].dtype].itemsize
    start = whole(node.attrs, "start", 0, x.width) * bytes_each
    return [CopyStep(Rows(x.offset + start, x.stride, y.width), y, y.width * bytes_each)]


CONCAT = Lowering(no_size, _concat, no_pack, no_unpack)
SLICE = Lowering(no_size, _slice, no_pack, no_unpack)
