"""Small ONNX files made in memory, and what ONNX Runtime answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

F32 = TensorProto.FLOAT


class Net:
    """A chain of nodes: each call adds one, which reads the last value unless told otherwise."""

    def __init__(self, shape: Sequence[int | str], opset: int = 17, *, seed: int = 0) -> None:
        """shape: of the input, with the batch."""
        self.shape, self.opset, self.rng = list(shape), opset, np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.numbers: list[Any] = []
        self.last = "input"
        self.domains: dict[str, int] = {}

    def number(self, value: Any, dtype: Any = np.float32) -> str:
        """An initializer; its name."""
        name = f"n{len(self.numbers)}"
        self.numbers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def random(self, *shape: int, scale: float = 1.0) -> str:
        """An initializer of normal numbers."""
        return self.number(self.rng.normal(0, scale, shape))

    def whole(self, *values: int) -> str:
        """An initializer of int64 numbers."""
        return self.number(values, np.int64)

    def add(
        self, op: str, *more: str, reads: str | None = None, outputs: int = 1, domain: str = "", **attrs: Any
    ) -> str:
        """A node that reads `reads` (default: the last value) and `more`; its first output."""
        names = [f"v{len(self.nodes)}" + (f"_{index}" if index else "") for index in range(outputs)]
        inputs = [self.last if reads is None else reads, *more] if reads != "" else list(more)
        self.nodes.append(
            helper.make_node(op, inputs, names, name=f"{op.lower()}_{len(self.nodes)}", domain=domain, **attrs)
        )
        if domain:
            self.domains[domain] = 3
        self.last = names[0]
        return self.last

    def bytes(self, *outputs: str, dtypes: Sequence[int] = ()) -> bytes:
        """The file; outputs: names (default: the last value)."""
        names = outputs or (self.last,)
        kinds = [*dtypes, *(F32,) * (len(names) - len(dtypes))]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("input", F32, self.shape)],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, kinds, strict=True)],
            self.numbers,
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in {"": self.opset, **self.domains}.items()]
        made = helper.make_model(graph, opset_imports=opsets, producer_name="tests", ir_version=8)
        return bytes(made.SerializeToString())


def rows_of(data: bytes, count: int, seed: int = 1) -> NDArray[np.float32]:
    """Rows of normal numbers for a file's input, flat."""
    shape = onnx.ModelProto.FromString(data).graph.input[0].type.tensor_type.shape
    size = int(np.prod([dim.dim_value for dim in shape.dim[1:]]))
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def answers(data: bytes, rows: NDArray[np.float32], output: str | None = None) -> NDArray[np.float64]:
    """ONNX Runtime's answers, row by row, without its fusions: what the operators mean."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    head = session.get_inputs()[0]
    shape = [1, *head.shape[1:]]
    made = [session.run(output and [output], {head.name: row.reshape(shape)})[0].reshape(-1) for row in rows]
    return np.stack(made).astype(np.float64)
