"""Small ONNX files made in memory, and what ONNX Runtime answers to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
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


class Quantised(Net):
    """Adds what stands around operators."""

    def round(self, scale: float, zero: int, kind: type = np.int8) -> None:
        """The last value to 8 bits and back."""
        parts = self.number(scale), self.number(zero, kind)
        self.add("QuantizeLinear", *parts)
        self.add("DequantizeLinear", *parts)

    def weights(self, *shape: int, axis: int | None = None) -> str:
        """Weights of 8 bits as floats again; axis: a scale for each of its places."""
        whole = self.rng.integers(-127, 128, shape)
        scales = self.rng.uniform(0.002, 0.02, () if axis is None else shape[axis])
        more = {} if axis is None else {"axis": axis}
        zeros = self.number(np.zeros(scales.shape), np.int8)
        return self.add("DequantizeLinear", self.number(whole, np.int8), self.number(scales), zeros, reads="", **more)

    def layer(self, op: str, weights: str, *more: str, **attrs: object) -> None:
        """An operator on the value before the weights were made."""
        self.add(op, weights, *more, **attrs)


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


EACH: dict[str, Callable[[Net], object]] = {
    "relu": lambda net: net.add("Relu"),
    "sigmoid": lambda net: net.add("Sigmoid"),
    "tanh": lambda net: net.add("Tanh"),
    "leaky": lambda net: net.add("LeakyRelu", alpha=0.2),
    "prelu": lambda net: net.add("PRelu", net.random(4, 1, 1)),
    "prelu one": lambda net: net.add("PRelu", net.number([0.3])),
    "gelu": lambda net: (setattr(net, "opset", 20), net.add("Gelu")),
    "clip 0 6": lambda net: net.add("Clip", net.number(0.0), net.number(6.0)),
    "clip -1 1": lambda net: net.add("Clip", net.number(-1.0), net.number(1.0)),
    "clip 0 1": lambda net: net.add("Clip", net.number(0.0), net.number(1.0)),
    "clip -0.3 0.7": lambda net: net.add("Clip", net.number(-0.3), net.number(0.7)),
    "clip low": lambda net: net.add("Clip", net.number(-0.3)),
    "clip high": lambda net: net.add("Clip", "", net.number(0.4)),
    "clip nothing": lambda net: (net.add("Clip"), net.add("Relu")),
    "hard sigmoid": lambda net: net.add("HardSigmoid", alpha=0.25, beta=0.4),
    "hard swish": lambda net: net.add("HardSwish"),
    "resize": lambda net: net.add(
        "Resize", "", net.number([1, 1, 2, 3]), coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    ),
    "resize to": lambda net: net.add(
        "Resize", "", "", net.whole(1, 4, 3, 10), coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    ),
    "max": lambda net: net.add("Max", net.random(4, 1, 1)),
    "min": lambda net: net.add("Min", net.number(0.2)),
    "max of two": lambda net: net.add("Max", net.add("Tanh"), reads="input"),
    "min of two": lambda net: net.add("Min", net.add("Neg"), reads="input"),
    "sum": lambda net: net.add("Sum", net.add("Tanh"), net.number(0.5), reads="input"),
    "neg": lambda net: net.add("Neg"),
    "dropout": lambda net: (net.add("Dropout"), net.add("Relu")),
    "identity": lambda net: (net.add("Identity"), net.add("Relu")),
    "add scalar": lambda net: net.add("Add", net.number(0.25)),
    "add channels": lambda net: net.add("Add", net.random(4, 1, 1)),
    "add row": lambda net: net.add("Add", net.random(1, 4, 3, 5)),
    "add last axis": lambda net: net.add("Add", net.random(5)),
    "mul channels": lambda net: net.add("Mul", net.random(1, 4, 1, 1)),
    "sub": lambda net: net.add("Sub", net.random(4, 1, 1)),
    "sub from": lambda net: net.add("Sub", net.last, reads=net.random(4, 3, 5)),
    "div": lambda net: net.add("Div", net.number(3.0)),
    "batch normalization": lambda net: net.add(
        "BatchNormalization", net.random(4), net.random(4), net.random(4), net.number([0.5, 1, 2, 3])
    ),
    "softmax last": lambda net: net.add("Softmax"),
    "softmax channels": lambda net: net.add("Softmax", axis=1),
    "softmax rows": lambda net: net.add("Softmax", axis=2),
    "pad": lambda net: net.add("Pad", net.whole(0, 1, 0, 2, 0, 0, 3, 0), net.number(1.5)),
    "pad some": lambda net: (
        setattr(net, "opset", 18),
        net.add("Pad", net.whole(1, 2), net.number(0.0), net.whole(-1)),
    ),
    "crop": lambda net: net.add("Pad", net.whole(0, 0, -1, 0, 0, 0, 1, -2)),
    "flatten": lambda net: net.add("Flatten"),
    "reshape": lambda net: net.add("Reshape", net.whole(0, -1, 6)),
    "reshape all": lambda net: net.add("Reshape", net.whole(1, 60)),
    "transpose": lambda net: net.add("Transpose", perm=[0, 2, 3, 1]),
    "transpose twice": lambda net: (net.add("Transpose", perm=[0, 3, 1, 2]), net.add("Transpose", perm=[0, 2, 1, 3])),
    "unsqueeze": lambda net: net.add("Unsqueeze", net.whole(2)),
    "slice": lambda net: net.add("Slice", net.whole(1, -3), net.whole(3, 2**62), net.whole(1, 3), net.whole(1, 2)),
    "gather": lambda net: net.add("Gather", net.number(-1, np.int64), axis=3),
    "gather one": lambda net: net.add("Gather", net.whole(1), axis=1),
    "mean": lambda net: net.add("ReduceMean", axes=[2, 3]),
    "mean gone": lambda net: net.add("ReduceMean", axes=[1, 3], keepdims=0),
    "mean of all": lambda net: net.add("ReduceMean", axes=[1, 2, 3], keepdims=0),
    "matmul": lambda net: net.add("MatMul", net.random(5, 6)),
}


KEEP = [
    "relu", "sigmoid", "tanh", "leaky", "prelu", "max", "clip 0 6", "clip -0.3 0.7", "clip low", "hard swish",
    "neg", "min",
    "dropout", "identity", "add scalar", "add channels", "add row", "add last axis", "mul channels", "sub",
    "sub from", "div", "batch normalization", "softmax channels", "softmax rows",
]  # fmt: skip
"""Of EACH, those that write the shape that they read."""


def grown(seed: int) -> Net:
    """A net of 3 to 9 random operators on [4, 3, 5], with branches, turns and reshapes that cancel out."""
    rng = random.Random(seed)
    net, seen = Net([1, 4, 3, 5], seed=seed), ["input"]
    for _ in range(rng.randint(3, 9)):
        how = rng.randrange(9)
        if how < 4:
            EACH[rng.choice(KEEP)](net)
        elif how == 4:
            group = rng.choice([1, 2, 4])
            net.add("Conv", net.random(4, 4 // group, 3, 3, scale=0.3), net.random(4), group=group, pads=[1, 1, 1, 1])
        elif how == 5:
            net.add(rng.choice(["Add", "Mul", "Sub"]), rng.choice(seen))
        elif how == 6:
            perm = rng.sample([1, 2, 3], 3)
            net.add("Transpose", perm=[0, *perm])
            net.add(rng.choice(["Relu", "Tanh", "Identity", "Neg"]))
            net.add("Transpose", perm=[0, *(perm.index(axis) + 1 for axis in (1, 2, 3))])
        elif how == 7:
            net.add("Reshape", net.whole(*rng.choice([(1, 60), (1, 12, 5), (1, 4, 15), (1, 2, 2, 15)])))
            net.add(rng.choice(["Relu", "Sigmoid", "Identity"]))
            net.add("Reshape", net.whole(1, 4, 3, 5))
        else:
            axis = rng.choice([1, 2, 3])
            side = (4, 3, 5)[axis - 1]
            net.add("Concat", rng.choice(seen), axis=axis)
            net.add("Slice", net.whole(0), net.whole(2 * side), net.whole(axis), net.whole(2))
        seen.append(net.last)
        net.last = rng.choice(seen[-3:]) if rng.random() < 0.3 else net.last
    net.last = seen[-1] if seen[-1] != "input" else net.add("Relu")
    if rng.random() < 0.5:
        net.add("Flatten")
        net.add("Gemm", net.random(60, 3), net.random(3))
    return net
