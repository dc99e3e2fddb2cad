"""ONNX Runtime as a contestant: input and output bound once, one thread, every graph optimisation on.

int8: its own static quantisation (QDQ, per channel, signed weights, unsigned activations) calibrated with the case's
rows; input and output stay float32, as a user has them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from _peers_child import Backend, Case
from onnx import TensorProto, helper, numpy_helper

OPS = {"sigmoid": "Sigmoid", "relu": "Relu", "tanh": "Tanh"}


def model_of(case: Case) -> Any:
    nodes, initializers, name = [], [], "x"
    for index, activation in enumerate(case.activations):
        initializers += [
            numpy_helper.from_array(case.weights[index], f"w{index}"),
            numpy_helper.from_array(case.biases[index], f"b{index}"),
        ]
        nodes.append(helper.make_node("Gemm", [name, f"w{index}", f"b{index}"], [f"s{index}"]))
        name = f"s{index}"
        if activation != "linear":
            nodes.append(helper.make_node(OPS[activation], [name], [f"a{index}"]))
            name = f"a{index}"
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [case.batch, case.rows.shape[1]])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [case.batch, case.outputs])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


def quantised(model: Any, case: Case) -> bytes:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Rows(CalibrationDataReader):  # type: ignore[misc]  # the peer's class is untyped
        def __init__(self) -> None:
            self.parts = iter(range(0, len(case.rows), case.batch))

        def get_next(self) -> dict[str, np.ndarray] | None:
            first = next(self.parts, None)
            return None if first is None else {"x": case.rows[first : first + case.batch]}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.onnx"
        onnx.save(model, path)
        quantize_static(
            path,
            Path(folder) / "int8.onnx",
            Rows(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return (Path(folder) / "int8.onnx").read_bytes()


class OnnxRuntime(Backend):
    def __init__(self, case: Case, *, int8: bool) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        model = model_of(case)
        code = quantised(model, case) if int8 else model.SerializeToString()
        self.session = onnxruntime.InferenceSession(code, options, providers=["CPUExecutionProvider"])
        self.input = case.rows[: case.batch].copy()
        self.output = np.zeros((case.batch, case.outputs), np.float32)
        self.binding = self.session.io_binding()
        for bind, name, array in (
            (self.binding.bind_input, self.session.get_inputs()[0].name, self.input),
            (self.binding.bind_output, self.session.get_outputs()[0].name, self.output),
        ):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self.says = f"ONNX Runtime {onnxruntime.__version__}, IO binding, from Python" + (", QDQ int8" if int8 else "")

    def loop(self, count: int) -> None:
        run, binding = self.session.run_with_iobinding, self.binding
        for _ in range(count):
            run(binding)

    def answer(self, rows: np.ndarray) -> np.ndarray:
        self.input[:] = rows
        self.loop(1)
        return self.output
