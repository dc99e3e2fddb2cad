"""The compiler: model graph -> schedule -> templates of `wasm_kernels/` -> WebAssembly text -> wasm.

`abi` and `check` read kernels and need only the standard library; the rest runs where agents are built and needs numpy
and wasmtime.  Importing this package loads neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeswarm.compile.abi import Layout, Rows, Weights, attach_layout, read_layout
    from edgeswarm.compile.check import check_module
    from edgeswarm.compile.golden import faults, make_golden, split_golden
    from edgeswarm.compile.kernel import Kernel, compile_graph, pack_weights, schedule_graph, unpack_graph
    from edgeswarm.compile.mlp import compile_mlp, schedule_mlp, unpack_weights

__all__ = [
    "Kernel",
    "Layout",
    "Rows",
    "Weights",
    "attach_layout",
    "check_module",
    "compile_graph",
    "compile_mlp",
    "faults",
    "make_golden",
    "pack_weights",
    "read_layout",
    "schedule_graph",
    "schedule_mlp",
    "split_golden",
    "unpack_graph",
    "unpack_weights",
]

_HOMES = {
    "Kernel": "kernel",
    "Layout": "abi",
    "Rows": "abi",
    "Weights": "abi",
    "attach_layout": "abi",
    "check_module": "check",
    "compile_graph": "kernel",
    "compile_mlp": "mlp",
    "faults": "golden",
    "make_golden": "golden",
    "pack_weights": "kernel",
    "read_layout": "abi",
    "schedule_graph": "kernel",
    "schedule_mlp": "mlp",
    "split_golden": "golden",
    "unpack_graph": "kernel",
    "unpack_weights": "mlp",
}


def __getattr__(name: str) -> Any:
    """Load a name's module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeswarm.compile' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgeswarm.compile.{_HOMES[name]}"), name)
