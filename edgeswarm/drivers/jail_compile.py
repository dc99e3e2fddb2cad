"""The supervisor's end of a jail that compiles one module: wasm in, machine code out, and nothing else.

Has the same beginning and end as `jail_link.JailLink` (`jail_life.Link`); the jail says ready when the code lies in the
shared memory.  The code is not looked at here: it goes into the cache under a MAC, and is loaded inside jails.
"""

from __future__ import annotations

import mmap
import os
import socket
from typing import Any

from edgeswarm.errors import JailError, LimitError
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
        self._output_fd = kernel.memfd("jail-code", size_bytes=CWASM_BYTES_MAX)
        payload_fd = kernel.memfd("jail-wasm", size_bytes=len(wasm), content=wasm)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        wake, self._wake = os.pipe()
        self._answers, answer = os.pipe()
        epoch, self._epoch = os.pipe()
        self.control.setblocking(False)
        self.fds: tuple[int, ...] = (theirs.detach(), os.dup(self._output_fd), wake, answer, epoch, payload_fd)
        self.job: dict[str, Any] = {"kind": "compile"}

    def hand_over(self) -> None:
        """The jail's ends are on their way: close ours of them."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()

    def code(self, size_bytes: int) -> bytes:
        """What the jail has compiled.  Raises JailError when its size cannot be."""
        if not 0 < size_bytes <= CWASM_BYTES_MAX:
            raise JailError(f"compiled code: 1 to {CWASM_BYTES_MAX} bytes expected, found {size_bytes}")
        with mmap.mmap(self._output_fd, CWASM_BYTES_MAX, prot=mmap.PROT_READ) as memory:
            return memory[:size_bytes]

    def close(self) -> None:
        if self._wake < 0:
            return
        self.hand_over()
        self.control.close()
        for fd in (self._wake, self._answers, self._epoch, self._output_fd):
            os.close(fd)
        self._wake = self._answers = self._epoch = self._output_fd = -1
