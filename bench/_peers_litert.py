"""LiteRT (XNNPACK, one thread) as a contestant.  The model is written with the schema that its package carries.

int8: what its converter makes of such a net: weights per channel, activations by the smallest and largest value that
the case's rows give, sigmoid with the output scale that the format prescribes; float32 goes in and comes out, through
its quantize and dequantize operators.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import flatbuffers
import numpy as np
from _peers_child import Backend, Case
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter


class Writer:
    """Collects tensors and operators of one graph."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]  # buffer 0 is empty: of tensors that are computed
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.model.operatorCodes = [], [], []
        self.model.subgraphs = [self.graph]

    def tensor(
        self, name: str, shape: tuple[int, ...], kind: int, *, data: np.ndarray | None = None, steps: Any = None
    ) -> int:
        """`steps`: (scales, zero points) of a quantised tensor, one for the whole or one a row."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if steps is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = steps
            tensor.quantization.quantizedDimension = 0
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, code: int, inputs: list[int], output: int, options: Any = None, kind: int = 0) -> None:
        operator_code = schema.OperatorCodeT()
        operator_code.builtinCode, operator_code.deprecatedBuiltinCode, operator_code.version = code, min(code, 127), 1
        if code == schema.BuiltinOperator.FULLY_CONNECTED:
            operator_code.version = 4  # int8 came with it
        self.model.operatorCodes.append(operator_code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptions, operator.builtinOptionsType = options, kind
        self.graph.operators.append(operator)

    def dense(self, inputs: list[int], output: int, *, relu: bool) -> None:
        options = schema.FullyConnectedOptionsT()
        functions = schema.ActivationFunctionType
        options.fusedActivationFunction = functions.RELU if relu else functions.NONE
        kind = schema.BuiltinOptions.FullyConnectedOptions
        self.operator(schema.BuiltinOperator.FULLY_CONNECTED, inputs, output, options, kind)

    def finish(self, first: int, last: int) -> bytes:
        self.graph.inputs, self.graph.outputs = [first], [last]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def float_model(case: Case) -> bytes:
    out, kind = Writer(), schema.TensorType.FLOAT32
    first = at = out.tensor("x", (case.batch, case.rows.shape[1]), kind)
    for index, (weights, bias, name) in enumerate(zip(case.weights, case.biases, case.activations, strict=True)):
        outputs = weights.shape[1]
        w = out.tensor(f"w{index}", weights.T.shape, kind, data=weights.T)
        b = out.tensor(f"b{index}", (outputs,), kind, data=bias)
        to = out.tensor(f"s{index}", (case.batch, outputs), kind)
        out.dense([at, w, b], to, relu=name == "relu")
        at = to
        if name == "sigmoid":
            at = out.tensor(f"a{index}", (case.batch, outputs), kind)
            out.operator(schema.BuiltinOperator.LOGISTIC, [to], at)
    return out.finish(first, at)


def steps_of(values: np.ndarray) -> tuple[list[float], list[int]]:
    """Scale and zero point of signed 8-bit numbers that hold the values' range and zero."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    scale = (high - low) / 255 or 1.0
    return [scale], [round(-128 - low / scale)]


def int8_model(case: Case) -> bytes:
    out, kinds, codes = Writer(), schema.TensorType, schema.BuiltinOperator
    x = case.rows.astype(np.float64)
    first = out.tensor("x", (case.batch, x.shape[1]), kinds.FLOAT32)
    steps = steps_of(x)
    at = out.tensor("q", (case.batch, x.shape[1]), kinds.INT8, steps=steps)
    out.operator(codes.QUANTIZE, [first], at)
    for index, (weights, bias, name) in enumerate(zip(case.weights, case.biases, case.activations, strict=True)):
        outputs = weights.shape[1]
        x = x @ weights + bias
        x = np.maximum(x, 0) if name == "relu" else x
        scales = np.abs(weights).max(axis=0) / 127
        whole = np.rint(weights / scales).astype(np.int8).T
        w = out.tensor(f"w{index}", whole.shape, kinds.INT8, data=whole, steps=(scales.tolist(), [0] * outputs))
        bias_scales = scales * steps[0][0]
        whole_bias = np.rint(bias / bias_scales).astype(np.int32)
        bias_steps = (bias_scales.tolist(), [0] * outputs)
        b = out.tensor(f"b{index}", (outputs,), kinds.INT32, data=whole_bias, steps=bias_steps)
        steps = steps_of(x)
        to = out.tensor(f"s{index}", (case.batch, outputs), kinds.INT8, steps=steps)
        out.dense([at, w, b], to, relu=name == "relu")
        at = to
        if name == "sigmoid":
            x, steps = 1 / (1 + np.exp(-x)), ([1 / 256], [-128])
            at = out.tensor(f"a{index}", (case.batch, outputs), kinds.INT8, steps=steps)
            out.operator(codes.LOGISTIC, [to], at)
    last = out.tensor("y", (case.batch, case.outputs), kinds.FLOAT32)
    out.operator(codes.DEQUANTIZE, [at], last)
    return out.finish(first, last)


class LiteRt(Backend):
    def __init__(self, case: Case, *, int8: bool) -> None:
        code = int8_model(case) if int8 else float_model(case)
        self.interpreter = Interpreter(model_content=code, num_threads=1)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.output = self.interpreter.get_output_details()[0]["index"]
        self.says = f"LiteRT {version('ai-edge-litert')}, XNNPACK, from Python" + (", int8" if int8 else "")

    def loop(self, count: int) -> None:
        invoke = self.interpreter.invoke
        for _ in range(count):
            invoke()

    def answer(self, rows: np.ndarray) -> np.ndarray:
        self.interpreter.set_tensor(self.input, rows)
        self.interpreter.invoke()
        return np.array(self.interpreter.get_tensor(self.output))
