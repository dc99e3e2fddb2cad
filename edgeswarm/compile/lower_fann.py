"""The dense layer of a FANN net in libfann's own arithmetic (`edgeswarm.model.fann.exact` is its definition).

Packing: panels of 4 outputs; of each a vector of weights a connection, the bias where the file has it, then one of
steepness (the last panel is filled with weights of 0 and a steepness of 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.lower_f32 import LANES
from edgeswarm.compile.lowering import Functions, Lowering, Plan, Step
from edgeswarm.model.graph import Graph, Outline
from edgeswarm.model.ops import whole
from edgeswarm.model.reference import STEP_VALUES, STEPS


def _stepwise(column: int, low: float) -> str:
    """Straight lines between FANN's points, in double: choices inside each other, the first point's outermost."""
    points, values = STEPS[:, column].tolist(), STEP_VALUES[:, column].tolist()
    text = "(f32.const 1)"
    for index in range(5, -1, -1):
        below = f"(f32.const {low!r})"
        if index:
            p, v = points[index - 1], values[index - 1]
            rise = f"(f64.mul (f64.const {values[index] - v!r}) (f64.sub (local.get $d) (f64.const {p!r})))"
            below = f"(f32.demote_f64 (f64.add (f64.div {rise} (f64.const {points[index] - p!r})) (f64.const {v!r})))"
        test = f"(f64.lt (local.get $d) (f64.const {points[index]!r}))"
        text = f"(if (result f32) {test} (then {below}) (else {text}))"
    return text


_EXP: Final = "(call $@exp (f64.mul (f64.const -2) (local.get $d)))"
_SQUARED: Final = "(call $@exp (f64.promote_f32 (f32.mul (f32.neg (local.get $s)) (local.get $s))))"
_SIN: Final = "(call $@sin (local.get $d) (i32.const 0))"
_COS: Final = "(call $@sin (local.get $d) (i32.const 1))"
_RATIO: Final = "(f32.add (f32.const 1) (f32.abs (local.get $s)))"
_LOW: Final = "(f32.lt (local.get $s) (f32.const 0))"
VALUES: Final = {
    "linear": "(local.get $s)",
    "zero": "(f32.const 0)",
    "threshold": f"(select (f32.const 0) (f32.const 1) {_LOW})",
    "threshold_symmetric": f"(select (f32.const -1) (f32.const 1) {_LOW})",
    "sigmoid": f"(f32.demote_f64 (f64.div (f64.const 1) (f64.add (f64.const 1) {_EXP})))",
    "sigmoid_stepwise": _stepwise(0, 0.0),
    "sigmoid_stepwise_symmetric": _stepwise(1, -1.0),
    "tanh": f"(f32.demote_f64 (f64.sub (f64.div (f64.const 2) (f64.add (f64.const 1) {_EXP})) (f64.const 1)))",
    "gaussian": f"(f32.demote_f64 {_SQUARED})",
    "gaussian_symmetric": f"(f32.demote_f64 (f64.sub (f64.mul {_SQUARED} (f64.const 2)) (f64.const 1)))",
    "elliott": f"(f32.add (f32.div (f32.mul (local.get $s) (f32.const 0.5)) {_RATIO}) (f32.const 0.5))",
    "elliott_symmetric": f"(f32.div (local.get $s) {_RATIO})",
    "linear_piece": "(f32.min (f32.max (local.get $s) (f32.const 0)) (f32.const 1))",
    "linear_piece_symmetric": "(f32.min (f32.max (local.get $s) (f32.const -1)) (f32.const 1))",
    "sin_symmetric": f"(f32.demote_f64 {_SIN})",
    "cos_symmetric": f"(f32.demote_f64 {_COS})",
    "sin": f"(f32.demote_f64 (f64.add (f64.div {_SIN} (f64.const 2)) (f64.const 0.5)))",
    "cos": f"(f32.demote_f64 (f64.add (f64.div {_COS} (f64.const 2)) (f64.const 0.5)))",
}
"""By the names of ours: the text of each activation; $@exp and $@sin are functions of their own."""


def _polynomial(variable: str, coefficients: list[float]) -> str:
    """Steps of Horner's scheme on $p, the highest power first."""
    step = "(local.set $p (f64.add (f64.mul (local.get $p) (local.get ${})) (f64.const {!r})))"
    return "\n  ".join(step.format(variable, value) for value in coefficients)


def call_rows(functions: Functions, row: str, step: Step, rows: str | None) -> str:
    """The text that calls `row`, a function of one row of x and of y, on row 0 (rows None) or on a block's."""
    x, y = functions.pointer(step.x, rows), functions.pointer(step.y, rows)
    if rows is None:
        return f"(call ${row} {x} {y})"
    many = functions.function("fann_rows", {"row": row, "x_stride": step.x.stride, "y_stride": step.y.stride})
    return f"(call ${many} {x} (local.get {rows}) {y})"


@dataclass(frozen=True, slots=True)
class FannStep:
    """One layer.  bias: which connection is the 1.  weights: offset of the packed layer.  scratch: of a row of x."""

    x: Rows
    y: Rows
    units: int
    bias: int
    activation: str
    weights: int
    scratch: int

    def __str__(self) -> str:
        return f"{'dense_fann':<13} {self.x.width} -> {self.units} {self.activation} at {self.weights}"

    def call(self, functions: Functions, rows: str | None) -> str:
        count = self.x.width + 1
        row = functions.function(
            "fann_row",
            {
                "count": count,
                "odd": count % 4,
                "fours": count // 4,
                "bias": self.bias,
                "units": self.units,
                "panels": -(-self.units // LANES),
                "weights": self.weights,
                "scratch": self.scratch,
                "activation": activation_of(functions, self.activation),
            },
        )
        return call_rows(functions, row, self, rows)


def activation_of(functions: Functions, name: str) -> str:
    """The name of the function of one of FANN's activations: of a sum, held within its bound, f32 to f32."""
    value = VALUES[name]
    if "$@exp" in value:
        steps = _polynomial("x", [1 / factorial(k) for k in range(12, -1, -1)])
        value = value.replace("$@exp", f"${functions.function('fann_exp', {'steps': steps})}")
    if "$@sin" in value:
        sine = _polynomial("u", [(-1) ** (k // 2) / factorial(k) for k in range(15, 0, -2)])
        cosine = _polynomial("u", [(-1) ** (k // 2) / factorial(k) for k in range(16, -1, -2)])
        value = value.replace("$@sin", f"${functions.function('fann_sin', {'cosine': cosine, 'sine': sine})}")
    return functions.function("fann_activation", {"value": value})


def _shape(outline: Outline, index: int) -> tuple[int, int, int]:
    """Inputs, units, and which connection is the bias."""
    node = outline.nodes[index]
    inputs, units = (outline.tensors[tensor].size for tensor in (node.inputs[0], node.output))
    return inputs, units, whole(node.attrs, "bias", 0, inputs)


def _size(outline: Outline, index: int) -> int:
    inputs, units, _ = _shape(outline, index)
    return -(-units // LANES) * (inputs + 2) * 16


def _steps(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    inputs, units, bias = _shape(plan.outline, index)
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    scratch = plan.scratch(4 * (inputs + 1))
    return [FannStep(x, y, units, bias, str(node.attrs["activation"]), plan.weights(index), scratch)]


def _pack(graph: Graph, index: int) -> bytes:
    inputs, units, bias = _shape(graph, index)
    params, panels = graph.nodes[index].params, -(-units // LANES)
    full = np.zeros((inputs + 2, panels * LANES), "<f4")
    full[-1] = 1
    full[-1, :units] = params["steepness"]
    full[:-1, :units] = np.insert(params["weights"], bias, params["bias"], axis=0)
    return full.reshape(inputs + 2, panels, LANES).transpose(1, 0, 2).tobytes()


def _unpack(content: bytes, outline: Outline, index: int) -> dict[str, NDArray[Any]]:
    inputs, units, bias = _shape(outline, index)
    packed = np.frombuffer(content, "<f4").reshape(-1, inputs + 2, LANES).transpose(1, 0, 2)
    full = packed.reshape(inputs + 2, -1)[:, :units]
    return {"weights": np.delete(full[:-1], bias, axis=0), "bias": full[bias], "steepness": full[-1]}


DENSE = Lowering(_size, _steps, _pack, _unpack)
