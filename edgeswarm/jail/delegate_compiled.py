"""A model in LiteRT's CompiledModel, on a GPU (WebGPU, by Vulkan on Linux) or an NPU.  float32 in, float32 out.

Everything is made where files can be seen (`prepare`): the accelerator is loaded, the driver found, shaders compiled by
calling the model.  A model of which the accelerator takes a part only is refused: the rest would run on the CPU, which
the other delegates do as well.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Final

from edgeswarm.errors import JailError
from edgeswarm.jail.agent import AgentSpec
from edgeswarm.jail.delegate import Runner

_VARIABLES: Final = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
"""Of Vulkan's loader, its newer name and its older one."""


class Compiled:
    """Raises JailError when the accelerator does not take the model, or its widths are others."""

    def __init__(self, model: Any, np: Any, spec: AgentSpec) -> None:
        if not model.is_fully_accelerated():
            raise JailError("the accelerator does not take all of the model")
        self._model, self._np = model, np
        self._in, self._out = model.create_input_buffers(0), model.create_output_buffers(0)
        if len(self._in) != 1 or len(self._out) != 1:
            raise JailError(f"model: one input and one output expected, found {len(self._in)} and {len(self._out)}")
        signature = next(iter(model.get_signature_list()))
        for what, found, width in (
            ("input", model.get_input_tensor_details(signature), spec.input.width),
            ("output", model.get_output_tensor_details(signature), spec.output.width),
        ):
            details = next(iter(found.values()))
            kind = getattr(details["dtype"], "__name__", str(details["dtype"]))
            if kind != "float32" or int(np.prod(details["shape"])) != width:
                raise JailError(f"model {what}: {width} values of float32 expected, found {details['shape']} of {kind}")
        self._width = spec.output.width

    def run(self, payload: memoryview) -> bytes:
        np = self._np
        self._in[0].write(np.frombuffer(payload, np.float32))
        self._model.run_by_index(0, self._in, self._out)
        answer: bytes = self._out[0].read(self._width, np.float32).tobytes()
        return answer


def make(model: bytes, job: dict[str, Any], library: object | None, spec: AgentSpec) -> Runner:
    """Of the worker for accelerators.

    job["driver"]: the file that names a Vulkan driver, if not the system's; the folder of an NPU's dispatch library.
    """
    if job["kind"] == "npu":
        return _make_npu(model, str(job["driver"]), spec)
    if job.get("driver"):
        os.environ.update(dict.fromkeys(_VARIABLES, job["driver"]))
    os.environ.setdefault("XDG_RUNTIME_DIR", "/")  # the loader and Dawn ask for it; nothing is written there
    compiled = importlib.import_module("ai_edge_litert.compiled_model").CompiledModel
    accelerator = importlib.import_module("ai_edge_litert.hardware_accelerator").HardwareAccelerator
    np = importlib.import_module("ai_edge_litert.interpreter").np
    return Compiled(compiled.from_buffer(model, hardware_accel=accelerator.GPU), np, spec)


def _make_npu(model: bytes, folder: str, spec: AgentSpec) -> Runner:
    """By the vendor's dispatch library.  NOBODY HAS TRIED THIS on an NPU: none was at hand."""
    module = importlib.import_module("ai_edge_litert.environment")
    environment = module.Environment.create(dispatch_library_path=folder)
    compiled = importlib.import_module("ai_edge_litert.compiled_model").CompiledModel
    accelerator = importlib.import_module("ai_edge_litert.hardware_accelerator").HardwareAccelerator
    np = importlib.import_module("ai_edge_litert.interpreter").np
    return Compiled(compiled.from_buffer(model, hardware_accel=accelerator.NPU, environment=environment), np, spec)
