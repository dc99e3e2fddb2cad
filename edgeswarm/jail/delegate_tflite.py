"""The worker of jails that compute with `tflite-runtime`; the zygote imports it with that package in sight."""

from __future__ import annotations

import importlib
from typing import Final

from edgeswarm.jail import delegate, delegate_interpreter, delegate_model
from edgeswarm.jail.worker import FDS

__all__ = ["FDS", "start"]

delegate.prepare_import()
_runtime: Final = importlib.import_module("tflite_runtime.interpreter")
delegate_interpreter.look_around(_runtime, delegate_model.model())

start: Final = delegate.start_with(delegate_interpreter.runner_of(_runtime))
