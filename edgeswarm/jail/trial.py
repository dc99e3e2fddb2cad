"""A module of our own: it shows that libwasmtime does what we rely on, and is the first that a jail calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edgeswarm.jail import wasm

# (module (memory (export "memory") 1) (func (export "run") i32.const 0 i32.const 42 i32.store)
#         (func (export "run_batch") (param i32) i32.const 0 local.get 0 i32.store))
_TRIAL: Final = bytes.fromhex(
    "0061736d0100000001080260000060017f000303020001050301000107"
    "1c03066d656d6f727902000372756e00000972756e5f6261746368"
    "00010a15020900410041"
    "2a3602000b0900410020003602000b"
)


def try_library(engine: wasm.Engine, *, keep: Callable[[bytes], object] = lambda _: None) -> str:
    """Compile, load, and run a constant module.  Raises WasmError when the library does not do what we rely on.

    keep: called with the compiled code, which `call` takes.
    """
    code = engine.compile(_TRIAL).serialize()
    keep(code)
    module = engine.load(code)
    wasm.check_abi(module)
    instance = wasm.Instance(module, memory_bytes_max=65_536)
    if instance.run(1) or instance.memory[0] != 42 or len(instance.memory) != 65_536:
        raise wasm.WasmError("libwasmtime: `run` of the trial module did not store 42")
    if instance.run_batch(7) or instance.memory[0] != 7:
        raise wasm.WasmError("libwasmtime: `run_batch` of the trial module did not store its argument")
    engine.increment_epoch()
    trap = instance.run(1)
    if not trap or engine.library.take_trap(trap) != wasm.TRAP_INTERRUPT:
        raise wasm.WasmError("libwasmtime: a call past its deadline was not interrupted")
    instance.close()
    return "compiles, runs and interrupts"


def call(engine: wasm.Engine) -> None:
    """Call the constant module, and leave nothing of it.  Raises WasmError.

    The first call of a thread sets up a signal stack, which stage 2 forbids: so it is made before, by no agent.
    """
    module = engine.load(engine.trial)
    instance = wasm.Instance(module, memory_bytes_max=65_536)
    instance.run(1)
    instance.close()
    module.close()
