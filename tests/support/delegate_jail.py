"""A program: LiteRT in a jail of policy `delegate`, as a worker for it would do it; prints what came of it as JSON.

argv: threads, "first" to let the library look at /proc/cpuinfo before the jail, as a zygote would, or "late".
The library is imported before the first step, the model is loaded between the two filters, and called 500 times after
the second.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgeswarm.assets import asset
from edgeswarm.drivers.jail_policy import load_policies
from edgeswarm.jail import enter, plan, self_test
from edgeswarm.jail.zygote import user_of

WIDTH, HIDDEN, CALLS = 64, 512, 500


def model() -> bytes:
    """Two dense layers of ones and halves: the answer is HIDDEN * WIDTH / 2 for an input of ones."""
    import flatbuffers

    made, graph = schema.ModelT(), schema.SubGraphT()
    made.version, made.buffers, made.subgraphs = 3, [schema.BufferT()], [graph]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = 9  # FULLY_CONNECTED
    made.operatorCodes, graph.tensors, graph.operators = [code], [], []

    def tensor(name: str, shape: list[int], content: Any = None) -> int:
        one = schema.TensorT()
        one.name, one.shape, one.type, one.buffer = name, shape, 0, 0
        if content is not None:
            kept = schema.BufferT()
            kept.data = np.frombuffer(content.astype(np.float32).tobytes(), np.uint8)
            made.buffers.append(kept)
            one.buffer = len(made.buffers) - 1
        graph.tensors.append(one)
        return len(graph.tensors) - 1

    at = tensor("in", [1, WIDTH])
    graph.inputs = [at]
    for layer, (rows, columns, value) in enumerate(((HIDDEN, WIDTH, 0.5), (1, HIDDEN, 1.0))):
        operator = schema.OperatorT()
        weights = tensor(f"w{layer}", [rows, columns], np.full((rows, columns), value))
        bias, out = tensor(f"b{layer}", [rows], np.zeros(rows)), tensor(f"o{layer}", [1, rows])
        operator.inputs, operator.outputs, operator.builtinOptionsType = [at, weights, bias], [out], 8
        operator.builtinOptions = schema.FullyConnectedOptionsT()
        graph.operators.append(operator)
        at = out
    graph.outputs = [at]
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def main() -> None:
    threads, looks_first = int(sys.argv[1]), sys.argv[2] == "first"
    content, row = model(), np.ones((1, WIDTH), np.float32)
    if looks_first:
        Interpreter(model_content=content, num_threads=1).allocate_tensors()
    report, told = os.pipe()
    steps = plan.make_plan(load_policies(asset("sandbox"))["delegate"], "A", run_as=user_of(1), memory_bytes=0)
    loaded: list[Any] = []

    def call(times: int) -> float:
        kernel = loaded[0]
        for _ in range(times):
            kernel.set_tensor(kernel.get_input_details()[0]["index"], row)
            kernel.invoke()
        return float(kernel.get_tensor(kernel.get_output_details()[0]["index"]).ravel()[0])

    def load() -> None:
        loaded.append(Interpreter(model_content=content, num_threads=threads))
        loaded[0].allocate_tensors()
        call(2)

    def forked(pid: int) -> NoReturn:
        os.close(told)
        os.waitpid(pid, 0)
        os._exit(0)

    child = os.fork()
    if child == 0:
        around = enter.Surroundings((told,), forked, load, list, self_test.run, lambda: None)
        try:
            entered = enter.perform(steps, around)
            os.write(told, json.dumps({"performed": entered.performed, "answer": call(CALLS)}).encode())
        except Exception as error:
            os.write(told, json.dumps({"failed": repr(error)}).encode())
        os._exit(0)
    os.close(told)
    text = b""
    while piece := os.read(report, 4096):
        text += piece
    os.waitpid(child, 0)
    sys.stdout.write((text or b'{"failed": "killed"}').decode())


if __name__ == "__main__":
    main()
