"""The dense layer of one output: weights behind each other, one dot product a row, its activation beside it.

In the mode fast the sum runs in 16 lanes (`dot.wat`), in the mode deterministic in the order of all layers
(`chain.wat`); a row's bits are the same in `run` and in `run_batch` in either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.lowering import Functions
from edgeswarm.compile.template import Value
from edgeswarm.model.mlp import F32

SCRATCH_BYTES = 64  # sums that wait while the epoch is checked
_STEPS = 8  # vectors of x in the body of the loop


def size(inputs: int) -> int:
    """Bytes of the packed layer: a vector for the bias, then the weights in whole vectors."""
    return 16 * (1 + -(-inputs // 4))


def pack(weights: F32, bias: F32) -> bytes:
    """weights: float32[inputs, 1].  bias: float32[1]."""
    full = np.zeros(size(len(weights)) // 4, "<f4")
    full[0] = bias[0]
    full[4 : 4 + len(weights)] = weights[:, 0]
    return full.tobytes()


def unpack(content: bytes, inputs: int) -> tuple[F32, F32]:
    """The inverse: weights, bias."""
    full = np.frombuffer(content, "<f4")
    return full[4 : 4 + inputs].reshape(inputs, 1), full[:1]


@dataclass(frozen=True, slots=True)
class DotStep:
    """One output of `inputs` values.  fused: the activation computed with it; "" for none.  scratch: 64 bytes."""

    x: Rows
    y: Rows
    inputs: int
    weights: int
    fused: str
    scratch: int

    def __str__(self) -> str:
        name = f", {self.fused}" if self.fused else ""
        return f"{'dot':<13} {self.inputs} -> 1 at {self.weights}{name}, x at {self.x.offset}, y at {self.y.offset}"

    def call(self, functions: Functions, rows: str | None) -> str:
        x, y = functions.pointer(self.x, rows), functions.pointer(self.y, rows)
        whole, rest = divmod(self.inputs, 4)
        sizes: dict[str, Value] = {"k_main": 16 * (whole // _STEPS * _STEPS), "k_whole": 16 * whole, "rest": rest}
        shape: dict[str, Value] = {"fused": int(self.fused != ""), "activation": self.fused, "steps": _STEPS}
        template = "dot" if functions.mode == "fast" else "chain"
        name = functions.function(template, shape | {"scratch": self.scratch})
        if rows is None:
            numbers = " ".join(f"(i32.const {value})" for value in sizes.values())
            return f"(call ${name} {x} {numbers} (i32.const {self.weights}) {y})"
        strides: dict[str, Value] = {"dot": name, "x_stride": self.x.stride, "y_stride": self.y.stride}
        many = functions.function("dot_rows", sizes | strides)
        return f"(call ${many} {x} (local.get {rows}) (i32.const {self.weights}) {y})"
