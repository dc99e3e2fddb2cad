"""The worker of jails that compute with LiteRT on a GPU.

A zygote of its own, because it imports more; a jail's user may not be able to read where the packages lie.
"""

from __future__ import annotations

import importlib
from typing import Final

from edgeswarm.jail import delegate, delegate_compiled
from edgeswarm.jail.worker import FDS

__all__ = ["FDS", "start"]

delegate.prepare_import()
for _name in ("compiled_model", "hardware_accelerator", "interpreter", "environment"):
    importlib.import_module(f"ai_edge_litert.{_name}")

start: Final = delegate.start_with(delegate_compiled.make)
