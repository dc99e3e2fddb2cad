"""The supervisor's end of a jail that compiles one module: wasm in, machine code out, and nothing else.

Has the same beginning and end as `jail_link.JailLink` (`jail_life.Link`); the jail says ready when the code lies in the
shared memory.  The code is not looked at here: it goes into the cache under a MAC, and is loaded inside jails.
"""

from __future__ import annotations

import os
from typing import Any

from edgeswarm.drivers.jail_ends import Ends
from edgeswarm.drivers.jail_life import JailStartError
from edgeswarm.errors import JailError, KernelError, LimitError
from edgeswarm.ids import JailId
from edgeswarm.jail import kernel
from edgeswarm.limits import CWASM_BYTES_MAX, KERNEL_WASM_BYTES_MAX


class CompileLink:
    """Everything that is shared with a jail that compiles."""

    def __init__(self, jail_id: JailId, wasm: bytes) -> None:
        if not 0 < len(wasm) <= KERNEL_WASM_BYTES_MAX:
            raise LimitError(
                f"kernel: 1 to {KERNEL_WASM_BYTES_MAX} bytes of wasm (KERNEL_WASM_BYTES_MAX), found {len(wasm)}"
            )
        self.id = jail_id
        self.memory_bytes_max = 0
        self.cpu_cores = 1.0
        self.job: dict[str, Any] = {"kind": "compile"}
        self._ends = Ends()
        self._memory: list[int] = []
        try:
            self._memory.append(kernel.memfd("jail-code", size_bytes=CWASM_BYTES_MAX))
            self._memory.append(kernel.memfd("jail-wasm", size_bytes=len(wasm), content=wasm))
        except OSError:
            self.close()
            raise
        self.control = self._ends.control

    @property
    def fds(self) -> tuple[int, ...]:
        """The jail's descriptors, in the order of `worker.FDS`."""
        control, wake, answer, epoch = self._ends.inside
        return (control, self._memory[0], wake, answer, epoch, self._memory[1])

    def hand_over(self) -> None:
        """The jail's descriptors are on their way; the memory for the code stays ours too."""
        self._ends.hand_over()

    def code(self, size_bytes: int) -> bytes:
        """What the jail has compiled.  Raises JailError when its size cannot be."""
        if not 0 < size_bytes <= CWASM_BYTES_MAX:
            raise JailError(f"compiled code: 1 to {CWASM_BYTES_MAX} bytes expected, found {size_bytes}")
        address = kernel.map_shared(self._memory[0], CWASM_BYTES_MAX, writable=False)
        view = kernel.view(address, CWASM_BYTES_MAX, writable=False)
        code = bytes(view[:size_bytes])
        view.release()
        kernel.unmap(address, CWASM_BYTES_MAX)
        return code

    def close(self) -> None:
        self._ends.close()
        while self._memory:
            os.close(self._memory.pop())


def compile_error(error: JailStartError, within_ms: int) -> Exception:
    """What a compilation that failed is to its caller."""
    if error.invalid:
        return KernelError(error.invalid)
    if error.ended.text.startswith("not ready within"):
        return LimitError(f"compiling a kernel took longer than {within_ms} ms")
    if error.ended.sigsys:  # the compiler's abort for want of memory raises a signal, which stage 2 forbids
        return JailError(f"compiling a kernel: {error}; it wanted more memory than policy build allows, or an escape")
    return JailError(f"compiling a kernel: {error}")
