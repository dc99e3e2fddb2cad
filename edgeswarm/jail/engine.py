"""How wasmtime is set up in a jail.  The engine is made in the zygote, before the first fork (`wasm.Engine`).

Invariants: no thread is ever started here (`parallel_compilation` off: once rayon's pool runs, a compile in a forked
child hangs), nothing is compiled in the zygote, no file or memfd is written (`memory_init_cow` off: RLIMIT_FSIZE is 0).
Proposals that our kernels do not use are off: what cannot be decoded cannot be attacked.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

STACK_BYTES: Final = 512 * 1024
"""Of wasm code; generated kernels use less than 1 KiB."""

SETTINGS: Final[dict[str, bool | int | str]] = {
    "parallel_compilation": False,
    "memory_init_cow": False,
    "epoch_interruption": True,
    "cranelift_opt_level": "speed",
    "max_wasm_stack": STACK_BYTES,
    "memory_may_move": False,  # zero-copy views of a memory stay valid when it grows
    "native_unwind_info": False,
    "gc_support": False,
    "shared_memory": False,
    "wasm_simd": True,
    "wasm_relaxed_simd": True,
    "wasm_bulk_memory": True,
    "wasm_multi_value": True,
    "wasm_reference_types": True,  # the engine refuses to start without
    "wasm_threads": False,
    "wasm_tail_call": False,
    "wasm_gc": False,
    "wasm_function_references": False,
    "wasm_multi_memory": False,
    "wasm_memory64": False,
    "wasm_exceptions": False,
    "wasm_component_model": False,
    "wasm_wide_arithmetic": False,
    "wasm_custom_page_sizes": False,
    "wasm_stack_switching": False,
}


def settings_digest() -> str:
    """SHA-256 of the settings: compiled code is bound to them."""
    return hashlib.sha256(json.dumps(SETTINGS, sort_keys=True).encode("ascii")).hexdigest()
