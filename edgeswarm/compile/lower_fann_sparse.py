"""A sparse layer of a FANN net in libfann's own arithmetic.

Packing: of each output how many connections (i32) and its steepness, then of each connection the offset of its value in
a row (i32; that of the 1 is behind the row) and its weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeswarm.compile.abi import Rows
from edgeswarm.compile.lower_fann import activation_of, call_rows
from edgeswarm.compile.lowering import Functions, Lowering, Plan, Step
from edgeswarm.errors import ModelError
from edgeswarm.model.graph import Graph, Outline
from edgeswarm.model.ops import CONNECTIONS_MAX, whole


@dataclass(frozen=True, slots=True)
class SparseStep:
    """One layer.  weights: offset of the packed layer.  scratch: of a row of x and a 1."""

    x: Rows
    y: Rows
    units: int
    activation: str
    weights: int
    scratch: int

    def __str__(self) -> str:
        return f"{'sparse_fann':<13} {self.x.width} -> {self.units} {self.activation} at {self.weights}"

    def call(self, functions: Functions, rows: str | None) -> str:
        row = functions.function(
            "fann_sparse",
            {
                "inputs": self.x.width,
                "units": self.units,
                "weights": self.weights,
                "scratch": self.scratch,
                "activation": activation_of(functions, self.activation),
            },
        )
        return call_rows(functions, row, self, rows)


def _counts(outline: Outline, index: int) -> tuple[int, int]:
    """Units and connections."""
    node = outline.nodes[index]
    return outline.tensors[node.output].size, whole(node.attrs, "connections", 1, CONNECTIONS_MAX)


def _size(outline: Outline, index: int) -> int:
    return -(-8 * sum(_counts(outline, index)) // 16) * 16


def _steps(plan: Plan, index: int) -> list[Step]:
    node = plan.outline.nodes[index]
    x, y = plan.place(node.inputs[0]), plan.place(node.output)
    scratch = plan.scratch(4 * (x.width + 1))
    units = plan.outline.tensors[node.output].size
    return [SparseStep(x, y, units, str(node.attrs["activation"]), plan.weights(index), scratch)]


def _pack(graph: Graph, index: int) -> bytes:
    params = graph.nodes[index].params
    out, at = bytearray(), 0
    for count, steepness in zip(params["counts"].tolist(), params["steepness"], strict=True):
        pairs = np.empty((count + 1, 2), "<i4")
        pairs[0, 0] = count
        pairs[0, 1] = np.array(steepness, "<f4").view("<i4")
        pairs[1:, 0] = 4 * params["sources"][at : at + count]
        pairs[1:, 1] = params["weights"][at : at + count].astype("<f4").view("<i4")
        out += pairs.tobytes()
        at += count
    return bytes(out) + bytes(_size(graph, index) - len(out))


def _unpack(content: bytes, outline: Outline, index: int) -> dict[str, NDArray[Any]]:
    units, connections = _counts(outline, index)
    pairs = np.frombuffer(content, "<i4").reshape(-1, 2)
    heads, at = [], 0
    for unit in range(units):
        heads.append(at)
        at += 1 + int(pairs[at, 0])
        if pairs[heads[-1], 0] < 0 or at > connections + unit + 1:
            raise ModelError(f"weights: node {index}: expected {connections} connections in all, found others")
    if at != units + connections:
        raise ModelError(f"weights: node {index}: expected {connections} connections in all, found {at - units}")
    rows = np.delete(pairs[:at], heads, axis=0)
    if (rows[:, 0] % 4 != 0).any():  # that they lie within a row is for Graph to see
        raise ModelError(f"weights: node {index}: expected offsets of whole values, found others")
    floats = pairs.view("<f4")
    return {
        "counts": pairs[heads, 0],
        "steepness": floats[heads, 1],
        "sources": rows[:, 0] // 4,
        "weights": np.ascontiguousarray(rows[:, 1]).view("<f4"),
    }


SPARSE = Lowering(_size, _steps, _pack, _unpack)
