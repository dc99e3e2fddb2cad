"""libwasmtime through its C interface, as far as a jail needs it: some thirty functions.

The wasmtime package's own wrappers are not used in here: they cost the zygote 10 MB, and every jail pages that it
would otherwise share.  The package brings the library; nothing of it is imported.
Opaque C structures are opaque here too: a buffer large enough, and addresses into it.  `trial` compiles and runs a
constant module, so that a library that behaves differently is found before the first jail.
Invariants: a function of an instance is called only while its store lives (`close` disarms the calls first); its type
was checked, because the unchecked call reads whatever lies on the stack; the views that `memory` gives out are
released by `close`.

Source: wasmtime's C API headers (wasm.h, wasmtime/*.h), unchanged in these functions since version 25.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, Final, NoReturn

from edgeswarm.errors import JailError
from edgeswarm.jail import kernel
from edgeswarm.jail.engine import SETTINGS

_OPT_LEVELS: Final = {"none": 0, "speed": 1, "speed_and_size": 2}
_EXTERN_BYTES: Final = 64  # wasmtime_extern_t is 32 bytes: a kind, and at offset 8 what it is
_EXTERN_OF: Final = 8
_INSTANCE_BYTES: Final = 64  # wasmtime_instance_t is 16 bytes
_KINDS: Final = {0: "function", 1: "global", 2: "table", 3: "memory"}
_VALUES: Final = {0: "i32", 1: "i64", 2: "f32", 3: "f64"}
TRAP_INTERRUPT: Final = 10
_TRAPS: Final = (
    "stack overflow",
    "memory access out of bounds",
    "misaligned atomic access",
    "table access out of bounds",
    "indirect call to null",
    "indirect call of another type",
    "integer overflow",
    "integer division by zero",
    "conversion of NaN or too large a number to integer",
    "unreachable",
    "interrupted",
)


class WasmError(JailError):
    """libwasmtime refused something; the text is its own."""


class _Vector(ctypes.Structure):
    """Any wasm_*_vec_t."""

    _fields_ = (("size", ctypes.c_size_t), ("data", ctypes.c_void_p))


_P, _N, _B, _L = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_bool, ctypes.c_int64
_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "wasm_config_new": (_P, ()),
    "wasm_engine_new_with_config": (_P, (_P,)),
    "wasmtime_engine_increment_epoch": (None, (_P,)),
    "wasmtime_module_new": (_P, (_P, ctypes.c_char_p, _N, _P)),
    "wasmtime_module_deserialize": (_P, (_P, _P, _N, _P)),
    "wasmtime_module_serialize": (_P, (_P, _P)),
    "wasmtime_module_delete": (None, (_P,)),
    "wasmtime_module_image_range": (None, (_P, _P, _P)),
    "wasmtime_module_imports": (None, (_P, _P)),
    "wasmtime_module_exports": (None, (_P, _P)),
    "wasm_importtype_vec_delete": (None, (_P,)),
    "wasm_exporttype_vec_delete": (None, (_P,)),
    "wasm_importtype_module": (_P, (_P,)),
    "wasm_importtype_name": (_P, (_P,)),
    "wasm_exporttype_name": (_P, (_P,)),
    "wasm_exporttype_type": (_P, (_P,)),
    "wasm_externtype_kind": (ctypes.c_uint8, (_P,)),
    "wasm_externtype_as_functype_const": (_P, (_P,)),
    "wasm_functype_params": (_P, (_P,)),
    "wasm_functype_results": (_P, (_P,)),
    "wasm_valtype_kind": (ctypes.c_uint8, (_P,)),
    "wasmtime_store_new": (_P, (_P, _P, _P)),
    "wasmtime_store_context": (_P, (_P,)),
    "wasmtime_store_limiter": (None, (_P, _L, _L, _L, _L, _L)),
    "wasmtime_store_delete": (None, (_P,)),
    "wasmtime_context_set_epoch_deadline": (None, (_P, ctypes.c_uint64)),
    "wasmtime_instance_new": (_P, (_P, _P, _P, _N, _P, _P)),
    "wasmtime_instance_export_get": (_B, (_P, _P, ctypes.c_char_p, _N, _P)),
    "wasmtime_table_grow": (_P, (_P, _P, ctypes.c_uint64, _P, _P)),
    "wasmtime_table_set": (_P, (_P, _P, ctypes.c_uint64, _P)),
    "wasmtime_memory_data": (_P, (_P, _P)),
    "wasmtime_memory_data_size": (_N, (_P, _P)),
    "wasmtime_trap_code": (_B, (_P, _P)),
    "wasm_trap_delete": (None, (_P,)),
    "wasmtime_error_message": (None, (_P, _P)),
    "wasmtime_error_delete": (None, (_P,)),
    "wasm_byte_vec_delete": (None, (_P,)),
}


class Library:
    """The functions of one libwasmtime, by the part of their name after the first underscore's prefix."""

    def __init__(self, path: str) -> None:
        """Raises WasmError when the file is no libwasmtime that we know."""
        try:
            # CDLL, not PyDLL: a call lets go of the interpreter's lock, so the epoch thread runs while a kernel does
            self._c = ctypes.CDLL(path)
            for name, (result, arguments) in _SIGNATURES.items():
                function = self._c[name]
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
            self.call = self._c["wasmtime_func_call_unchecked"]  # every argument comes as a ready C object
            self.call.restype = ctypes.c_void_p
        except (OSError, AttributeError) as error:
            raise WasmError(f"libwasmtime {path}: {error}") from None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def set(self, config: int, name: str, value: bool | int | str) -> None:
        """One setting of a configuration.  Raises WasmError for one that this library does not know."""
        try:
            function = self._c[f"wasmtime_config_{name}_set"]
        except AttributeError:
            raise WasmError(f"libwasmtime has no setting {name}") from None
        function.restype = None
        kind = ctypes.c_bool if isinstance(value, bool) else ctypes.c_size_t
        number = _OPT_LEVELS[value] if isinstance(value, str) else value
        function(ctypes.c_void_p(config), ctypes.c_uint8(number) if isinstance(value, str) else kind(number))

    def check(self, error: int | None) -> None:
        """Raise WasmError for an error that a function returned."""
        if error:
            text = _Vector()
            self.wasmtime_error_message(error, ctypes.addressof(text))
            message = ctypes.string_at(text.data, text.size).decode("utf-8", "replace")
            self.wasm_byte_vec_delete(ctypes.addressof(text))
            self.wasmtime_error_delete(error)
            raise WasmError(" ".join(message.split()))

    def take_trap(self, trap: int) -> int:
        """The code of a trap, which is freed; -1 for one without a code."""
        code = ctypes.c_uint8(0)
        known = self.wasmtime_trap_code(trap, ctypes.addressof(code))
        self.wasm_trap_delete(trap)
        return code.value if known else -1


def trap_text(code: int) -> str:
    return _TRAPS[code] if 0 <= code < len(_TRAPS) else f"trap {code}"


class Engine:
    """Made in the zygote before the first fork; starts no thread, compiles nothing."""

    def __init__(self, library: Library) -> None:
        self.library = library
        config = library.wasm_config_new()
        for name, value in SETTINGS.items():
            library.set(config, name, value)
        self.address: int = library.wasm_engine_new_with_config(config)
        self.trial = b""
        """Compiled code of the module that `trial.call` calls."""

    def increment_epoch(self) -> None:
        self.library.wasmtime_engine_increment_epoch(self.address)

    def compile(self, wasm: bytes) -> Module:
        """Raises WasmError for what is no module that this engine takes."""
        made = ctypes.c_void_p(0)
        error = self.library.wasmtime_module_new(self.address, wasm, len(wasm), ctypes.addressof(made))
        self.library.check(error)
        return Module(self, made.value or 0)

    def load(self, code: bytes) -> Module:
        """A module that was compiled before.  Only inside a jail: damaged code may do anything."""
        return self.load_at(ctypes.cast(ctypes.c_char_p(code), ctypes.c_void_p), len(code))

    def load_at(self, address: ctypes.c_void_p | int, size_bytes: int) -> Module:
        """The same of code that is in memory already; it is copied once, to where it will be executed."""
        made = ctypes.c_void_p(0)
        error = self.library.wasmtime_module_deserialize(self.address, address, size_bytes, ctypes.addressof(made))
        self.library.check(error)
        return Module(self, made.value or 0)


class Module:
    """Compiled code."""

    def __init__(self, engine: Engine, address: int) -> None:
        self.engine = engine
        self.address = address

    def serialize(self) -> bytes:
        library, code = self.engine.library, _Vector()
        library.check(library.wasmtime_module_serialize(self.address, ctypes.addressof(code)))
        try:
            return ctypes.string_at(code.data, code.size)
        finally:
            library.wasm_byte_vec_delete(ctypes.addressof(code))

    def image(self) -> tuple[int, int]:
        """Where the code lies in memory, with its constants: address and bytes."""
        first, last = ctypes.c_void_p(0), ctypes.c_void_p(0)
        library = self.engine.library
        library.wasmtime_module_image_range(self.address, ctypes.addressof(first), ctypes.addressof(last))
        return first.value or 0, (last.value or 0) - (first.value or 0)

    def imports(self) -> list[str]:
        """`module.name` of each."""
        library, found = self.engine.library, _Vector()
        library.wasmtime_module_imports(self.address, ctypes.addressof(found))
        try:
            return [
                f"{_name(library.wasm_importtype_module(item))}.{_name(library.wasm_importtype_name(item))}"
                for item in _items(found)
            ]
        finally:
            library.wasm_importtype_vec_delete(ctypes.addressof(found))

    def exports(self) -> dict[str, str]:
        """Name -> "memory", "table", "global", or a function's type as "[i32] -> []"."""
        library, found = self.engine.library, _Vector()
        library.wasmtime_module_exports(self.address, ctypes.addressof(found))
        try:
            return {
                _name(library.wasm_exporttype_name(item)): self._kind(library.wasm_exporttype_type(item))
                for item in _items(found)
            }
        finally:
            library.wasm_exporttype_vec_delete(ctypes.addressof(found))

    def _kind(self, extern_type: int) -> str:
        library = self.engine.library
        kind = _KINDS.get(library.wasm_externtype_kind(extern_type), "unknown")
        if kind != "function":
            return kind
        function = library.wasm_externtype_as_functype_const(extern_type)
        parts = (library.wasm_functype_params(function), library.wasm_functype_results(function))
        texts = (
            ", ".join(
                _VALUES.get(library.wasm_valtype_kind(value), "other") for value in _items(_Vector.from_address(at))
            )
            for at in parts
        )
        return " -> ".join(f"[{text}]" for text in texts)

    def close(self) -> None:
        self.engine.library.wasmtime_module_delete(self.address)


def _items(vector: _Vector) -> list[int]:
    """The pointers that a vector holds."""
    if not vector.size:
        return []
    return [pointer or 0 for pointer in (ctypes.c_void_p * vector.size).from_address(vector.data)]


def _name(vector_at: int) -> str:
    vector = _Vector.from_address(vector_at)
    return ctypes.string_at(vector.data, vector.size).decode("utf-8", "replace")


class Instance:
    """One instance of a kernel in a store of its own: its memory without copies, its calls without checks."""

    def __init__(self, module: Module, *, memory_bytes_max: int) -> None:
        """The module must have passed `check_abi`.  Raises WasmError when there is no memory for it."""
        library = self._library = module.engine.library
        self._store: int = library.wasmtime_store_new(module.engine.address, None, None)
        self._context: int = library.wasmtime_store_context(self._store)
        library.wasmtime_store_limiter(self._store, memory_bytes_max, 1024, 1, 1, 1)
        self.renew_deadline()
        self._instance = ctypes.create_string_buffer(_INSTANCE_BYTES)
        trap = ctypes.c_void_p(0)
        try:
            at = ctypes.addressof(self._instance)
            library.check(
                library.wasmtime_instance_new(self._context, module.address, None, 0, at, ctypes.addressof(trap))
            )
            if trap.value:
                raise WasmError(f"its start trapped: {trap_text(library.take_trap(trap.value))}")
            self.run = self._bind(b"run")
            self.run_batch = self._bind(b"run_batch")
            self.memory = self._memory()
            self.floats = self.memory.cast("f")
        except BaseException:
            library.wasmtime_store_delete(self._store)
            raise

    def renew_deadline(self) -> None:
        """The next tick of the engine's epoch interrupts a call, ticks that were do not."""
        self._library.wasmtime_context_set_epoch_deadline(self._context, 1)

    def close(self) -> None:
        """Free the store.  Calls and views are disarmed first: using them afterwards raises, it does not crash."""
        self.run = self.run_batch = _freed
        self.floats.release()
        self.memory.release()
        self._library.wasmtime_store_delete(self._store)

    def _export(self, name: bytes) -> Any:
        found = ctypes.create_string_buffer(_EXTERN_BYTES)
        here = ctypes.addressof(self._instance)
        if not self._library.wasmtime_instance_export_get(
            self._context, here, name, len(name), ctypes.addressof(found)
        ):
            raise WasmError(f"no export {name.decode()}")
        return found

    def _memory(self) -> memoryview:
        """The linear memory as it is now; it may grow behind the end, its base stays (`memory_may_move` is off)."""
        export = self._export(b"memory")
        at = ctypes.addressof(export) + _EXTERN_OF
        base = self._library.wasmtime_memory_data(self._context, at)
        size_bytes = self._library.wasmtime_memory_data_size(self._context, at)
        return kernel.view(base, size_bytes, writable=True)

    def _bind(self, name: bytes) -> Callable[[int], int]:
        """A call with nothing left to prepare: takes the row count, returns the address of a trap or 0.

        The arguments are made once, as the objects into which ctypes would otherwise turn them at each call, and the
        words are read through views: together that saves a third of what a call costs.
        """
        export = self._export(name)
        value, trap = (ctypes.c_uint64 * 2)(), (ctypes.c_uint64 * 1)()  # wasmtime_val_raw_t is 16 bytes
        rows_at, trap_at = memoryview(value).cast("B").cast("Q"), memoryview(trap).cast("B").cast("Q")
        words = (self._context, ctypes.addressof(export) + _EXTERN_OF, ctypes.addressof(value))
        arguments = (
            *(ctypes.c_void_p.from_param(word) for word in words),
            ctypes.c_size_t.from_param(1),
            ctypes.c_void_p.from_param(ctypes.addressof(trap)),
        )
        call, check = functools.partial(self._library.call, *arguments), self._library.check

        def run(_rows: int, _keep: object = export) -> int:  # an argument points into it; the views keep the rest
            error = call()
            if error:
                check(error)
            found = trap_at[0]
            if found:
                trap_at[0] = 0
            return found

        def run_batch(rows: int) -> int:
            rows_at[0] = rows
            return run(rows)

        return run if name == b"run" else run_batch


def _freed(_rows: int) -> NoReturn:
    raise JailError("kernel call on a freed store")


_ABI: Final = {"memory": "memory", "run": "[] -> []", "run_batch": "[i32] -> []"}


def check_abi(module: Module) -> None:
    """Raises WasmError when a module has imports, or not the exports of kernel ABI 1."""
    imports = module.imports()
    if imports:
        raise WasmError(f"expected no imports, found {', '.join(imports[:4])}")
    exports = module.exports()
    for name, kind in _ABI.items():
        if exports.get(name) != kind:
            found = exports.get(name, "none")
            raise WasmError(f"expected an export {name!r} of type {kind}, found {found}")
