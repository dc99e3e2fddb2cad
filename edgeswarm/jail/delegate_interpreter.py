"""A model in TFLite's interpreter, of `ai_edge_litert` or `tflite_runtime`: both have the same class.

Hosts know float32 only: where a model's input or output is int8 it is quantised on the way in, round(x / scale) half
away from zero as TFLite does, and dequantised on the way out.
"""

from __future__ import annotations

import math
import os
from typing import Any, Final

from edgeswarm.errors import JailError
from edgeswarm.jail.agent import AgentSpec
from edgeswarm.jail.delegate import MakeRunner, Runner

_FLOAT, _INT8 = "float32", "int8"
_KINDS: Final = (_FLOAT, _INT8)


class Interpreted:
    """An interpreter whose tensors were allocated.  Raises JailError when the model is none for these widths."""

    def __init__(self, interpreter: Any, np: Any, spec: AgentSpec) -> None:
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise JailError(f"model: one input and one output expected, found {len(inputs)} and {len(outputs)}")
        self._interpreter, self._np = interpreter, np
        self._in, self._out = (int(one["index"]) for one in (inputs[0], outputs[0]))
        self._in_kind = _checked("input", inputs[0], spec.input.width)
        self._out_kind = _checked("output", outputs[0], spec.output.width)
        if _INT8 in (self._in_kind, self._out_kind):
            self._in_scale, self._in_zero = (np.float32(one) for one in inputs[0]["quantization"])
            self._out_scale, self._out_zero = (np.float32(one) for one in outputs[0]["quantization"])
            self._values, self._halves = (np.empty(spec.input.width, np.float32) for _ in range(2))
            self._whole = np.empty(spec.input.width, np.int8)
            self._half, self._lowest, self._highest = (np.float32(one) for one in (0.5, -128, 127))

    def run(self, payload: memoryview) -> bytes:
        """No view of a tensor may live while the interpreter runs: it may move them."""
        interpreter = self._interpreter
        content = payload if self._in_kind == _FLOAT else self._quantised(payload)
        tensor = memoryview(interpreter.tensor(self._in)()).cast("B")
        tensor[:] = content
        tensor.release()
        interpreter.invoke()
        if self._out_kind == _FLOAT:
            return memoryview(interpreter.tensor(self._out)()).cast("B").tobytes()
        np = self._np
        found = np.subtract(interpreter.get_tensor(self._out), self._out_zero, dtype=np.float32)
        found *= self._out_scale
        answer: bytes = found.tobytes()
        return answer

    def _quantised(self, payload: memoryview) -> memoryview:
        """Into arrays that are there already: numpy takes longer to make one than to compute it."""
        np, values, halves = self._np, self._values, self._halves
        np.divide(np.frombuffer(payload, np.float32), self._in_scale, out=values)
        np.copysign(self._half, values, out=halves)
        np.add(values, halves, out=values)
        np.trunc(values, out=values)
        np.add(values, self._in_zero, out=values)
        np.fmax(values, self._lowest, out=values)  # NaN becomes the lowest
        np.minimum(values, self._highest, out=values)
        np.copyto(self._whole, values, casting="unsafe")
        return memoryview(self._whole).cast("B")


def _checked(what: str, details: Any, width: int) -> str:
    kind = getattr(details["dtype"], "__name__", str(details["dtype"]))
    shape = tuple(int(size) for size in details["shape"])
    if kind not in _KINDS or math.prod(shape) != width:
        raise JailError(f"model {what}: {width} values of float32 or int8 expected, found {shape} of {kind}")
    if kind == _INT8 and not details["quantization"][0] > 0:
        raise JailError(f"model {what}: int8 without a scale")
    return kind


def runner_of(module: Any) -> MakeRunner:
    """module: `ai_edge_litert.interpreter` or `tflite_runtime.interpreter`."""

    def make(model: bytes, job: dict[str, Any], library: object | None, spec: AgentSpec) -> Runner:
        delegates = [] if library is None else [library]
        interpreter = module.Interpreter(
            model_content=model, num_threads=int(job.get("threads", 1)), experimental_delegates=delegates
        )
        return Interpreted(interpreter, module.np, spec)

    return make


def look_around(module: Any, model: bytes) -> None:
    """Load something small: XNNPACK reads /proc/cpuinfo once in a process, and does without itself where it cannot.

    What the runtime says of it on descriptor 2 concerns nobody.
    """
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        module.Interpreter(model_content=model, num_threads=1).allocate_tensors()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
